"""What a pool says of its models before any of them forgets: do they leak, what do they memorise, how good are they."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import binomtest, spearmanr

from ssd_bench.metrics import rmia
from ssd_bench.metrics.bootstrap import FEW_HITS, Statistic, crossed_interval, mean_of, roc_of
from ssd_bench.metrics.lira import pair_left_out
from ssd_bench.metrics.memorisation import by_margin, memorisation, standard_error
from ssd_bench.run.pool import Pool, PoolSettings

LEAST = {  # models, for each kind of number
    "accuracy": 8, "attack": 16, "margin": 32, "correct": 128, "per_sample": 32, "gaussian_kl": 64, "klom": 128,
    "quality": 128,
}  # fmt: skip
WHAT = {
    "accuracy": "accuracy",
    "attack": "an attack",
    "margin": "memorisation by margin",
    "correct": "memorisation by answers",
    "per_sample": "a verdict on each sample",
    "gaussian_kl": "Gaussian KL",
    "klom": "KLoM",
    "quality": "forgetting quality",
}
CHOSEN_ON_ALL = 64  # models: with fewer, what is most memorised is chosen on half of the pairs and judged on the rest
RATES = {"tpr_1": 0.01, "tpr_01": 0.001}
NEGATIVES = 5  # that a rate has to let through: fewer say nothing about it
GATE = {"auc": 0.60, "tpr_1": 5.0, "hard_auc": 0.80}

Number = dict[str, Any]  # value, low, high (of the 95 % interval) and models; or value None and the reason


@dataclass(frozen=True)
class Cells:
    """What one model of each of some pairs says of one sample, and the other model of it. All arrays: cells."""

    pair: np.ndarray
    sample: np.ndarray

    @classmethod
    def where(cls, mask: np.ndarray) -> Cells:
        """Those that are true in pairs x samples."""
        return cls(*np.nonzero(mask))

    def of(self, values: np.ndarray) -> np.ndarray:
        """The cells' values, of pairs x samples."""
        return values[self.pair, self.sample]


@dataclass(frozen=True)
class Originals:
    """A pool's margins and answers. Models 2i and 2i + 1 are a pair, one of which was trained on each audit sample; the
    first `singles` of these are the single samples."""

    pool: Pool
    margin: np.ndarray  # models x audit samples, float64
    correct: np.ndarray  # models x audit samples, bool
    member: np.ndarray  # models x audit samples, bool
    test_correct: np.ndarray  # models x test images, bool
    test_margin: np.ndarray  # models x test images, float64

    @classmethod
    def read(cls, pool: Pool) -> Originals:
        """Of a pool whose models are all there."""
        said = [pool.margins(m).tensors for m in range(pool.asked.size)]
        correct, margin = {}, {}
        for part in ("train", "test"):
            labels = pool.labels(part)
            correct[part] = np.stack([(tensors[f"{part}.argmax"] == labels).numpy() for tensors in said])
            margin[part] = np.stack([tensors[f"{part}.margin"].double().numpy() for tensors in said])
        member = pool.design.member(pool.asked.size).numpy()
        return cls(pool, margin["train"], correct["train"], member, correct["test"], margin["test"])

    @property
    def singles(self) -> int:
        return len(self.pool.design.single)

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """models x n -> inside and outside of the single samples, pairs x singles."""
        first, second = values[0::2, : self.singles], values[1::2, : self.singles]
        held = self.member[0::2, : self.singles]
        return np.where(held, first, second), np.where(held, second, first)

    @cached_property
    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """LiRA's, in and out: pairs x singles."""
        return pair_left_out(*self.split(self.margin))

    @cached_property
    def population_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """RMIA's, in and out, against the test images: pairs x singles."""
        held = self.member[0::2, : self.singles]
        return rmia.pair_left_out(*self.split(self.margin), held, self.test_margin)

    def chosen(self, n: int, easy: bool = False) -> list[np.ndarray]:
        """The n most memorised single samples (by margin), or the least of those that most models are right about.

        One choice of all pairs, or where models are few two: the first is made on pairs 1, 3, ... and to be judged on
        pairs 0, 2, ..., the second the other way round. A sample that is chosen and judged on the same models seems to
        leak where nothing does. Places among the single samples, ascending.
        """
        difference = np.subtract(*self.split(self.margin))
        right = np.add(*(of.astype(float) for of in self.split(self.correct))) / 2
        choices = []
        for on in [slice(None)] if len(self.margin) >= CHOSEN_ON_ALL else [slice(1, None, 2), slice(0, None, 2)]:
            rank = -difference[on].mean(axis=0)
            if easy:
                rank = np.where(right[on].mean(axis=0) >= 0.5, -rank, np.inf)
            choices.append(np.sort(np.argsort(rank, kind="stable")[:n]))
        return choices

    @cached_property
    def hard(self) -> np.ndarray:
        """Where the most memorised samples are judged: pairs x singles, bool."""
        choices = self.chosen(max(1, round(self.pool.asked.hard * self.singles)))
        where = np.zeros((len(self.margin) // 2, self.singles), dtype=bool)
        for i, places in enumerate(choices):
            where[i :: len(choices), places] = True
        return where

    def number(self, kind: str, statistic: Callable[[], Statistic], cells: Cells) -> list[Number]:
        """Each value of a statistic with its interval; or why there is none."""
        return number(kind, statistic, cells, len(self.margin), self.pool.asked)

    def attack(self, where: np.ndarray) -> dict[str, Number]:
        """Of LiRA and RMIA the AUC, and in percent the true positives at few false ones, on these cells (pairs x
        singles, bool)."""
        cells, models, asked = Cells.where(where), len(self.margin), self.pool.asked
        found = attack(lambda: [cells.of(of) for of in self.scores], cells, models, asked)
        return found | attack(lambda: [cells.of(of) for of in self.population_scores], cells, models, asked, "rmia_")

    def memorised(self, where: np.ndarray) -> dict[str, Number]:
        """Mean memorisation on these cells: of margins in pooled spreads of each sample, of answers in points."""
        cells = Cells.where(where)
        inside, outside = self.split(self.margin)
        spread = np.sqrt((inside.var(axis=0, ddof=1) + outside.var(axis=0, ddof=1)) / 2)
        margin = (inside - outside) / np.maximum(spread, 1e-3)
        correct = 100 * np.subtract(*(of.astype(float) for of in self.split(self.correct)))
        return {
            f"memorisation_{kind}": self.number(kind, lambda v=values: mean_of(cells.of(v)), cells)[0]
            for kind, values in (("margin", margin), ("correct", correct))
        }

    def accuracy(self, values: np.ndarray) -> Number:
        """In percent, of answers (pairs x samples, 0 to 1)."""
        cells = Cells.where(np.ones(values.shape, dtype=bool))
        return self.number("accuracy", lambda: mean_of(100 * cells.of(values.astype(float))), cells)[0]

    def report(self) -> dict[str, Any]:
        """All numbers: of the single samples, of the most memorised of them, of the test images; and the gate."""
        everywhere = np.ones(self.hard.shape, dtype=bool)
        inside, outside = self.split(self.correct)
        single = self.attack(everywhere) | self.memorised(everywhere)
        single |= {"accuracy_in": self.accuracy(inside), "accuracy_out": self.accuracy(outside)}
        hard = self.attack(self.hard) | self.memorised(self.hard)
        test = {"accuracy_out": self.accuracy((self.test_correct[0::2] + self.test_correct[1::2].astype(float)) / 2)}
        samples = {"single": self.singles, "hard": int(self.hard[0].sum()), "test": self.test_correct.shape[1]}
        numbers = {"single": single, "hard": hard, "test": test}
        halves = spearmanr(*(of[: self.singles] for of in self.gain_by_halves())).statistic
        return {
            "samples": samples,
            "numbers": numbers,
            "rank_correlation_of_halves": float(halves) if np.isfinite(halves) else None,
            "gate": gate(single, hard, self.pool),
        }

    def gain_by_halves(self) -> list[np.ndarray]:
        """Mean margin of the models that hold a sample minus that of the others, by pairs 0, 2, ... alone and by pairs
        1, 3, ...: of all audit samples. NaN where a half has none of either (blocks of few models)."""
        half, gains = np.arange(len(self.margin)) // 2 % 2, []
        for i in range(2):
            margin, member = self.margin[half == i], self.member[half == i]
            with np.errstate(invalid="ignore"):
                of_group = ((margin * of).sum(axis=0) / of.sum(axis=0) for of in (member, ~member))
                gains.append(np.subtract(*of_group))
        return gains

    def samples(self) -> dict[str, Iterable[Any]]:
        """Columns of a table of the audit samples."""
        design, dataset = self.pool.design, self.pool.dataset
        parts = ["single"] * self.singles + [name for name, rows in design.blocks.items() for _ in rows]
        n_in = self.member.sum(axis=0)
        means = {
            f"{what}_{where}": (values * of).sum(axis=0) / of.sum(axis=0)
            for what, values in (("margin", self.margin), ("correct", self.correct))
            for where, of in (("in", self.member), ("out", ~self.member))
        }
        return {
            "row": design.audit.tolist(),
            "class": [dataset.fine_names[i] for i in dataset.train.fine[design.audit].tolist()],
            "label": self.pool.labels("train").tolist(),
            "part": parts,
            "models_in": n_in,
            "models_out": len(self.member) - n_in,
            **means,
            "margin_gain": means["margin_in"] - means["margin_out"],
            **{f"margin_gain_{half}": of_half for half, of_half in enumerate(self.gain_by_halves())},
            "memorisation_margin": by_margin(self.margin, self.member),
            "memorisation_correct": memorisation(self.correct, self.member),
            "memorisation_correct_se": standard_error(self.correct, self.member),
        }


def number(
    kind: str, statistic: Callable[[], Statistic], cells: Cells, models: int, asked: PoolSettings
) -> list[Number]:
    """Each value of a statistic of the cells of so many models with its interval; or why there is none."""
    if reason := too_few(kind, models):
        return [reason]
    of_cells = statistic()
    value = of_cells(np.ones((1, len(cells.pair))))[0]
    low, high = crossed_interval(of_cells, cells.pair, cells.sample, asked.draws, asked.seed)
    return [
        {"value": float(v), "low": float(a), "high": float(b), "models": models}
        for v, a, b in zip(value, low, high, strict=True)
    ]


def too_few(kind: str, models: int) -> Number | None:
    """Why there is no such number of so many models."""
    least = LEAST[kind]
    return (
        {"value": None, "reason": f"{WHAT[kind]} needs {least} models, there are {models}"} if models < least else None
    )


def attack(
    scores: Callable[[], Sequence[np.ndarray]], cells: Cells, models: int, asked: PoolSettings, prefix: str = ""
) -> dict[str, Number]:
    """AUC, and in percent the true positives at few false ones, of these scores of members and others, cell by cell."""
    found = number("attack", lambda: roc_of(*scores(), tuple(RATES.values())), cells, models, asked)
    if len(found) == 1:
        return dict.fromkeys((f"{prefix}{name}" for name in ("auc", *RATES)), found[0])
    numbers = dict(zip(("auc", *RATES), found, strict=True))
    numbers |= {name: _rate(numbers[name], RATES[name], len(cells.pair)) for name in RATES}
    return {f"{prefix}{name}": value for name, value in numbers.items()}


def _rate(number: Number, rate: float, negatives: int) -> Number:
    """A true positive rate in percent; with few hits or few misses, the exact interval of Clopper and Pearson."""
    if negatives * rate < NEGATIVES:
        needed = f"needs {NEGATIVES / rate:,.0f} cases of a sample that a model was not trained on"
        return {"value": None, "reason": f"a rate of {100 * rate:g} % {needed}, there are {negatives:,}"}
    hits = round(number["value"] * negatives)  # as many members as others
    low, high = number["low"], number["high"]
    if min(hits, negatives - hits) < FEW_HITS:
        low, high = binomtest(hits, negatives).proportion_ci(method="exact")
    value = 100 * number["value"]
    return number | {"value": value, "low": 100 * float(low), "high": 100 * float(high), "hits": hits}


def gate(single: dict[str, Number], hard: dict[str, Number], pool: Pool) -> dict[str, Any]:
    """Whether the originals leak enough for methods to be judged on them, and what to change where they do not."""
    auc, rate, hard_auc = single["auc"]["value"], single["tpr_1"]["value"], hard["auc"]["value"]
    said = {"values": {"auc": auc, "tpr_1": rate, "hard_auc": hard_auc}, "wanted": GATE, "change": advice(pool)}
    if auc is None:
        return {"passed": None, "lacking": [single["auc"]["reason"]], **said}
    lacking = []
    if auc < GATE["auc"] and (rate or 0.0) < GATE["tpr_1"]:
        lacking.append(f"AUC {auc:.3f}, wanted {GATE['auc']} or {GATE['tpr_1']:g} % found at 1 % false ones")
    if hard_auc < GATE["hard_auc"]:
        lacking.append(f"AUC {hard_auc:.3f} of the most memorised, wanted {GATE['hard_auc']}")
    return {"passed": not lacking, "lacking": lacking, **said}


def advice(pool: Pool) -> list[str]:
    """What makes these models memorise more, the cheapest first."""
    recipe, width = pool.base.recipe, getattr(pool.base.model, "width", None)
    return [
        *(["train.augment=false"] if recipe.augment else []),
        f"train.epochs={2 * recipe.epochs}",
        *([f"train.weight_decay={recipe.weight_decay / 10:g}"] if recipe.weight_decay > 1e-3 else []),
        *([f"model.width={2 * width}"] if width else []),
    ]
