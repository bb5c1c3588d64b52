"""Membership inference: does the model give away that a sample was in its training data?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd_bench.core.task import Outputs
from ssd_bench.metrics import About

STEP = 2**20  # scores that the bootstrap draws at once


@dataclass(frozen=True)
class EntropyAttack:
    """`mia`: the paper's attack, see `entropy_attack`; `mia_auc`: how well it tells what it was made to tell.

    seed: of the halves that `mia_auc` is learnt and judged on.
    """

    seed: int = 0
    version: ClassVar[int] = 1
    about: ClassVar[dict[str, About]] = {
        "mia": About(
            "percent",
            "retrained",
            "where mia_auc is above 0.5; far below the ideal is a Streisand effect",
            ("forget_train",),
            20,
            "MIA %",
            2,
            "main",
        ),
        "mia_auc": About(
            "fraction",
            "retrained",
            "at 0.5 the attack is no better than chance, and mia is uninformative",
            ("retain_train", "test"),
            50,
            "MIA's AUC",
        ),
    }

    def __call__(self, seen: Outputs) -> dict[str, float]:
        sets = ("retain_train", "test", "forget_train")
        if not seen.has(*sets):
            return {}
        retain, test, forget = map(seen.probs, sets)
        return {"mia": entropy_attack(retain, test, forget), "mia_auc": entropy_attack_auc(retain, test, self.seed)}


@dataclass(frozen=True)
class PopulationAttack:
    """The loss of each sample as its score: D_f against unseen samples of the same classes (Yeom et al. 2018).

    Non-members are D'_f in the class scenarios, and in the random one the test images, weighted to D_f's classes by
    drawing as many of each class as D_f has, where there are as many. Where random images are forgotten with a class,
    D'_f and images of D'_r, as large a share, drawn in proportion to those images' classes. `*_low` and `*_high` hold
    the middle 95 % of `n_bootstrap` resamples of both sets, drawn from `seed`. AUC is a fraction, TPR a percentage.
    """

    n_bootstrap: int = 1000
    seed: int = 0
    version: ClassVar[int] = 2
    about: ClassVar[dict[str, About]] = {
        "population_auc": About(
            "fraction", "retrained", "about 0.5 for a retrained model", ("forget", "forget_train"), 20, "loss AUC"
        ),
        "population_tpr1": About(
            "percent",
            "retrained",
            "at 1 % false positives among the others; for a retrained model about 2 with 100 others, 1.2 with 500",
            ("forget",),
            100,
            "TPR at 1 % FPR %",
            1,
        ),
    }

    def __post_init__(self) -> None:
        if self.n_bootstrap < 1:
            raise ValueError(f"n_bootstrap must be at least 1, got {self.n_bootstrap}")

    def __call__(self, seen: Outputs) -> dict[str, float | None]:
        if not seen.has("forget_train", "forget", "test"):
            return {}
        members, others = scores(seen, "forget_train"), scores(seen, "forget")
        if seen.forget_is_train:
            others = scores(seen, "test")[self._matched(seen.labels["forget_train"], seen.labels["test"])]
        elif len(beside := self._beside(seen)):
            others = np.concatenate([others, scores(seen, "retain")[beside]])
        if not len(others):  # no test image is of such a class
            return {}
        values = population_attack(members, others, self.n_bootstrap, self.seed)
        if len(others) < self.about["population_tpr1"].least:  # too few for a rate of 1 %
            values = values._replace(tpr1=None, tpr1_low=None, tpr1_high=None)
        return {f"population_{name}": value for name, value in values._asdict().items()}

    def _beside(self, seen: Outputs) -> Tensor:
        """Rows of D'_r for the images of D_f that were drawn from other classes than that of D'_f; mostly none."""
        forgotten = seen.labels["forget_train"]
        of_class = torch.isin(forgotten, seen.labels["forget"])
        drawn = forgotten[~of_class]
        if not len(drawn) or not of_class.any() or not seen.has("retain"):
            return drawn[:0]
        labels = seen.labels["retain"]
        n_classes = int(max(drawn.max(), labels.max())) + 1
        have, want = (torch.bincount(each, minlength=n_classes) for each in (labels, drawn))
        weights = (want / have.clamp(min=1))[labels]
        n = round(len(drawn) * len(seen.labels["forget"]) / int(of_class.sum()))
        n = min(n, int((weights > 0).sum()))
        return weights.multinomial(n, generator=torch.Generator().manual_seed(self.seed)) if n else drawn[:0]

    def _matched(self, wanted: Tensor, labels: Tensor) -> Tensor:
        """Rows of `labels` that hold the classes in the proportions of `wanted`, as many as there are."""
        draws = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(labels), generator=draws)
        order = order[labels[order].argsort(stable=True)]
        n_classes = int(max(wanted.max(), labels.max())) + 1
        have, want = (torch.bincount(each, minlength=n_classes) for each in (labels, wanted))
        times = max(1, int((have[want > 0] // want[want > 0]).min()))
        place = torch.arange(len(order)) - (have.cumsum(0) - have)[labels[order]]
        return order[place < (times * want)[labels[order]]]


def entropy(probs: Tensor) -> Tensor:
    """-sum_k p_k ln p_k of each row, in nats; 0 ln 0 is 0."""
    return -torch.xlogy(probs, probs).sum(dim=1)


def entropy_attack(retain_probs: Tensor, test_probs: Tensor, forget_probs: Tensor) -> float:
    """Percent of D_f that the paper's attack calls a member of the training data.

    A class-balanced logistic regression on the entropy of the prediction (one feature) learns D_r (member) against all
    of D' (non-member) and then judges D_f. Arguments: n x classes probabilities. Source: the released code's
    get_membership_attack_prob, after Chundawat et al. 2023 (arXiv 2205.08096). Raises ValueError for an empty set or
    probabilities that are not finite.
    """
    features, labels = _features(retain_probs, test_probs)
    return 100 * float(_attack().fit(features, labels).predict(_feature(forget_probs)).mean())


def entropy_attack_auc(retain_probs: Tensor, test_probs: Tensor, seed: int = 0) -> float | None:
    """The area under the curve of the same attack, learnt on one half of D_r and D' and judged on the other; None where
    one of them is a single row."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split

    features, labels = _features(retain_probs, test_probs)
    if min(len(retain_probs), len(test_probs)) < 2:
        return None
    halves = train_test_split(features, labels, test_size=0.5, stratify=labels, random_state=seed)
    learnt_on, judged_on, learnt_labels, judged_labels = halves
    return float(roc_auc_score(judged_labels, _attack().fit(learnt_on, learnt_labels).decision_function(judged_on)))


def _attack() -> object:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", solver="lbfgs")


def _features(retain_probs: Tensor, test_probs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    member, other = _feature(retain_probs), _feature(test_probs)
    return np.concatenate([member, other]), np.repeat([1, 0], [len(member), len(other)])


def _feature(probs: Tensor) -> np.ndarray:
    feature = entropy(probs.detach()).reshape(-1, 1).cpu().numpy()
    if not len(feature) or not np.isfinite(feature).all():
        raise ValueError("the attack needs at least one row in each set, all of finite probabilities")
    return feature


def scores(seen: Outputs, name: str) -> np.ndarray:
    """Minus the cross-entropy of each sample of a set: high for what the model knows."""
    return -torch.nn.functional.cross_entropy(seen.logits[name].double(), seen.labels[name], reduction="none").numpy()


class Attacked(NamedTuple):
    """AUC (a fraction) and TPR at 1 % FPR (percent; None where there are too few others), each with its interval."""

    auc: float
    auc_low: float
    auc_high: float
    tpr1: float | None
    tpr1_low: float | None
    tpr1_high: float | None


def population_attack(members: np.ndarray, others: np.ndarray, n_bootstrap: int, seed: int) -> Attacked:
    """How well scores (m of members, n of others) tell who is a member, and the middle 95 % of its bootstrap.

    AUC: the chance that a member's score is above another's, ties counting half. TPR: the share of members above the
    lowest threshold that at most 1 % of the others are above. Takes time in (m + n) log n and n_bootstrap (m + n), and
    memory for a few resamples. Raises ValueError for an empty set and for scores that are not a number.
    """
    if not len(members) or not len(others) or np.isnan(members).any() or np.isnan(others).any():
        raise ValueError("the attack needs at least one score in each set, and every score a number")
    order = others.argsort()
    ranked = others[order]
    places = [np.searchsorted(ranked, members, side) for side in ("left", "right")]  # others below; below or equal
    lowest = len(others) - 1 - len(others) // 100  # place of the highest score that too many others are above

    def measure(picked: np.ndarray, times: np.ndarray) -> np.ndarray:
        up_to = np.pad(times[:, order].cumsum(1), ((0, 0), (1, 0)))  # others drawn among the lowest 0, 1, 2, ...
        beaten = sum(np.take_along_axis(up_to, place[picked], 1).sum(1) for place in places) / 2
        thresholds = ranked[(up_to[:, 1:] > lowest).argmax(1)]
        rates = (members[picked] > thresholds[:, None]).mean(1)
        return np.stack([beaten / (len(members) * len(others)), 100 * rates])

    whole = measure(np.arange(len(members))[None], np.ones((1, len(others)), dtype=int))[:, 0]
    resampled = [measure(*drawn) for drawn in _resamples(len(members), len(others), n_bootstrap, seed)]
    low, high = np.quantile(np.concatenate(resampled, axis=1), [0.025, 0.975], axis=1)
    return Attacked(*(float(value) for each in zip(whole, low, high, strict=True) for value in each))


def _resamples(m: int, n: int, n_bootstrap: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Resamples of m members and n others, some at a time: the members (r x m), and how often each other is drawn
    (r x n). All draws of members come before all draws of others."""
    step = max(1, STEP // (m + n))
    sizes = [min(step, n_bootstrap - start) for start in range(0, n_bootstrap, step)]
    of_members, of_others = np.random.default_rng(seed), np.random.default_rng(seed)
    for size in sizes:
        of_others.integers(m, size=(size, m))
    for size in sizes:
        drawn = of_others.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield of_members.integers(m, size=(size, m)), times
