"""How well methods have forgotten a whole class, model by model beside the twin that was trained without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import t

from ssd_bench.metrics.bootstrap import Statistic
from ssd_bench.run.forgetting import Forgetting, Said, said_of
from ssd_bench.run.originals import Number, Originals, too_few
from ssd_bench.run.requests import Target

TWIN = "retrain"
NO_IMAGES = {"value": None, "reason": "a model holds no such image that is audited, or there is none to test on"}
SETS = ("forget_train", "retain_train", "forget", "retain", "test")  # D_f, D_r (audited), D'_f, D'_r, D'
TOW = ("forget_train", "retain_train", "test")


@dataclass(frozen=True)
class Seen:
    """What the models of the arm say. accuracy: of each of SETS, models, in percent; argmax: models x test images."""

    accuracy: dict[str, np.ndarray]
    argmax: np.ndarray
    seconds: float | None = None  # of a call of the method

    def of(self, models: np.ndarray) -> Seen:
        """These models, by their places."""
        return Seen({name: values[models] for name, values in self.accuracy.items()}, self.argmax[models])


@dataclass(frozen=True)
class ClassArm:
    """The numbers of one class, for one column of the table after the other."""

    originals: Originals
    forgetting: Forgetting
    target: Target
    missing: list[str] = field(default_factory=list)  # why columns are not there; filled by `columns`

    @cached_property
    def models(self) -> list[int]:
        return self.forgetting.holders[self.target.name]

    def columns(self) -> dict[str, Seen]:
        """Retrained models, originals, and what each method made; empty where the twins are not there."""
        pool = self.originals.pool
        retrained = self._seen(TWIN)
        if retrained is None:
            return {}
        before = said_of(pool, {m: pool.margins(m).tensors for m in self.models})
        found = {"retrained": retrained, "original": self.seen(before)}
        methods = (method for method in self.forgetting.methods_on(self.target) if method != TWIN)
        found |= {method: seen for method in methods if (seen := self._seen(method)) is not None}
        return found

    def _seen(self, method: str) -> Seen | None:
        """What a method made; None, and why, where it is not there."""
        skipped = self.forgetting.skipped.get((method, self.target.name))
        said = skipped or self.forgetting.said(method, self.target)
        if isinstance(said, str):
            self.missing.append(said)
            return None
        return self.seen(said, said.seconds)

    def seen(self, said: Said, seconds: float | None = None) -> Seen:
        """Of each model, on the audited samples that it holds and on the test images."""
        labels = (self.originals.pool.labels(part).numpy() for part in ("train", "test"))
        of_class, of_test = (of_part == self.target.label for of_part in labels)
        held, right = self.originals.member[self.models], said.correct[self.models]
        test = said.test_correct[self.models]
        accuracy = {"forget_train": _share(right, held & of_class), "retain_train": _share(right, held & ~of_class)}
        every = np.ones(test.shape, dtype=bool)
        accuracy |= {"forget": _share(test, every & of_test), "retain": _share(test, every & ~of_test)}
        return Seen(accuracy | {"test": _share(test, every)}, said.test_argmax[self.models], seconds)

    def accuracies(self, seen: Seen) -> dict[str, Number]:
        """On each of SETS."""
        return {f"accuracy_{name}": self._mean(seen.accuracy[name]) for name in SETS}

    def beside(self, seen: Seen, retrained: Seen) -> dict[str, Number]:
        """Beside the twins: signed gaps in accuracy, ToW, agreement on D'_f and D'_r."""
        gaps = {name: seen.accuracy[name] - retrained.accuracy[name] for name in SETS}
        found = {f"gap_{name}": self._mean(gaps[name]) for name in SETS}
        apart = np.stack([gaps[name] for name in TOW], axis=1)
        found["tow"] = self._jackknifed(tow_of_means(apart), len(apart), bool(np.isfinite(apart).all()))
        found["tow_mean"] = self._mean((1 - np.abs(apart) / 100).prod(axis=1))
        for name, where in self._parts().items():
            agree, floor = self._agreement(seen.argmax, retrained.argmax, where), among(retrained.argmax[:, where])
            found[f"agreement_{name}"] = self._mean(100 * agree)
            found[f"beyond_floor_{name}"] = self._jackknifed(beyond_floor(agree, floor), len(agree), where.any())
        return found

    def _parts(self) -> dict[str, np.ndarray]:
        of_class = self.originals.pool.labels("test").numpy() == self.target.label
        return {"forget": of_class, "retain": ~of_class}

    @staticmethod
    def _agreement(ours: np.ndarray, theirs: np.ndarray, where: np.ndarray) -> np.ndarray:
        return (ours[:, where] == theirs[:, where]).mean(axis=1) if where.any() else np.full(len(ours), np.nan)

    def _mean(self, values: np.ndarray) -> Number:
        """Over the models, with Student's interval over pairs of them."""
        if reason := too_few("accuracy", len(values)):
            return reason
        if not np.isfinite(values).all():
            return NO_IMAGES
        pairs = values.reshape(-1, 2).mean(axis=1)
        return _students(float(pairs.mean()), float(pairs.std(ddof=1)) / len(pairs) ** 0.5, len(pairs))

    def _jackknifed(self, of_models: Statistic, n: int, defined: bool) -> Number:
        """Of n models, with Student's interval of what leaving out one pair of them after the other changes, since a
        bootstrap of a few pairs is too narrow; None where it is not defined.

        defined: whether the models have numbers at all that it is made of.
        """
        if reason := too_few("accuracy", n):
            return reason
        value = float(of_models(np.ones((1, n)))[0, 0])
        if not np.isfinite(value):
            reason = "retrained models agree with each other in everything: no floor to be beyond"
            return {"value": None, "reason": reason} if defined else NO_IMAGES
        pairs = n // 2
        without = of_models(1 - np.eye(pairs).repeat(2, axis=1))[:, 0]
        found = _students(value, float(((pairs - 1) * without.var()) ** 0.5), pairs)
        return found | {"high": min(1.0, found["high"])}  # which neither number can pass

    def report(self) -> dict[str, Any]:
        """All numbers by column, why columns are missing, the seconds of a request."""
        columns = self.columns()
        seconds = {label: seen.seconds for label, seen in columns.items() if seen.seconds is not None}
        numbers = {label: self.accuracies(seen) for label, seen in columns.items()}
        if retrained := columns.pop("retrained", None):
            for label, seen in columns.items():
                numbers[label] |= self.beside(seen, retrained)
            halves = np.split(np.arange(len(self.models)), 2)  # those of a pair would differ by 0 on the mean
            numbers["another retrained"] = self.beside(*map(retrained.of, halves))
        return {"models": len(self.models), "numbers": numbers, "missing": self.missing, "seconds": seconds}


def _students(value: float, error: float, pairs: int) -> Number:
    """With Student's 95 % interval over pairs of models. error: the standard error over them."""
    half = float(t.ppf(0.975, pairs - 1)) * error
    return {"value": value, "low": value - half, "high": value + half, "models": 2 * pairs}


def tow_of_means(apart: np.ndarray) -> Statistic:
    """Product over the sets of 1 - |mean gap| / 100, of models x sets gaps in points: 1 is ideal.

    Of gaps of single models it would be below 1 for exact retraining, too, by the noise of seeds.
    """

    def tow(weights: np.ndarray) -> np.ndarray:
        means = weights @ apart / weights.sum(axis=1, keepdims=True)
        return (1 - np.abs(means) / 100).prod(axis=1)[:, None]

    return tow


def among(argmax: np.ndarray) -> np.ndarray:
    """Of each model the share of images on which it says what another one says, on average over the others: models.

    argmax: models x images. NaN where there are no images.
    """
    n = len(argmax)
    alike = sum((argmax == np.roll(argmax, shift, axis=0)).sum(axis=1) for shift in range(1, n))
    with np.errstate(invalid="ignore"):
        return np.divide(alike, (n - 1) * argmax.shape[1])


def beyond_floor(agreement: np.ndarray, floor: np.ndarray) -> Statistic:
    """(a - floor) / (1 - floor) of the models' mean agreements (shares): 0 as another retrained model, 1 as the twin.

    agreement, floor: models.
    """

    def beyond(weights: np.ndarray) -> np.ndarray:
        a, f = (weights @ of / weights.sum(axis=1) for of in (agreement, floor))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(f < 1, (a - f) / (1 - f), np.nan)[:, None]

    return beyond


def _share(right: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Of each model, in percent of the images that count for it; both models x images."""
    with np.errstate(invalid="ignore"):
        return 100 * (right & where).sum(axis=1) / where.sum(axis=1)
