"""How well methods have forgotten, on the models of a pool: every number with its models, an interval and its ideal."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from ssd_bench.core.errors import ConfigError
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Pooled
from ssd_bench.metrics.bootstrap import mean_of
from ssd_bench.metrics.lira import Score, likelihood_ratio, pair_left_out
from ssd_bench.metrics.per_sample_privacy import aucs, leaking, p_values, worse, worst, worst_interval
from ssd_bench.metrics.ruli import log_ratio
from ssd_bench.run.distances import Pairs, distances
from ssd_bench.run.forgetting import Forgetting, Said
from ssd_bench.run.originals import CHOSEN_ON_ALL, LEAST, Cells, Number, Originals, attack, number, too_few
from ssd_bench.run.pool import Pool
from ssd_bench.run.pool_metrics import EIGHTHS, half_width, numbers_of
from ssd_bench.run.requests import Target, scenario_of

GROUPS = 10  # of images that are about as much memorised, in a picture
TESTED = 500  # test images, and single samples, that distances are measured on


@dataclass(frozen=True)
class Line:
    """What is compared, pairs x single samples (or x samples of blocks) each."""

    inside: np.ndarray  # margins of the model that has forgotten the sample
    outside: np.ndarray  # of its twin, which never held it
    never: np.ndarray  # of that twin's original
    before: Pairs  # of both originals
    accuracies: dict[str, np.ndarray]  # right or not, of test images pairs x images
    apart: dict[str, Pairs] = field(default_factory=dict)  # of blocks: what distances are measured between
    placebo: bool = False  # nobody held any of it
    seconds: float | None = None  # of a call of the method


@dataclass(frozen=True)
class Judge:
    """The numbers of one target, or of several blocks, for one line of the table after the other."""

    originals: Originals
    targets: list[Target]  # one of single samples, or blocks

    @property
    def block(self) -> bool:
        return self.targets[0].block

    @cached_property
    def places(self) -> list[np.ndarray]:
        """Where the target's sets lie among the audit samples; of blocks, that of all of them one after the other."""
        audit = self.originals.pool.design.audit
        where = torch.full((int(audit.max()) + 1,), -1)
        where[audit] = torch.arange(len(audit))
        sets = [where[rows].numpy() for target in self.targets for rows in target.rows]
        return [np.concatenate(sets)] if self.block else sets

    @property
    def samples(self) -> int:
        return len(self.places[0])

    def lines(self, forgetting: Forgetting) -> tuple[dict[str, Line], list[str]]:
        """The controls and the methods, by the label of their column; and why some are missing."""
        found, missing = {"original": self.original(), "retrained": self.retrained()}, []
        for method in forgetting.methods_on(self.targets[0]):
            skipped = [reason for target in self.targets if (reason := forgetting.skipped.get((method, target.name)))]
            said = [] if skipped else [forgetting.said(method, target) for target in self.targets]
            if reasons := skipped or [of for of in said if isinstance(of, str)]:
                missing.append(reasons[0])
                continue
            found[method] = self.method(said)
            if forgetting.has_placebo(method, self.targets[0]):
                asked = forgetting.said(method, self.targets[0], placebo=True)
                label = f"{method}, placebo"
                if isinstance(asked, str):
                    missing.append(f"{label}: {asked}")
                else:
                    found[label] = self.placebo(asked, said[0])
        return found, missing

    def original(self) -> Line:
        """Before anything is forgotten."""
        return self._line([self._before] * len(self.targets), self._before)

    def method(self, said: list[Said]) -> Line:
        """Of a method; said: for each of the targets."""
        return replace(self._line(said, said[0]), seconds=statistics.median(of.seconds for of in said))

    def placebo(self, asked: Said, said: Said) -> Line:
        """asked: what models say that were asked to forget what they never held; said: as they were asked to forget."""
        never = self._split(self._before.margin)[1]
        (_, inside), (_, outside) = self._split(asked.margin), self._split(said.margin)
        return Line(inside, outside, never, (never, never), {"test": _twins(asked.test_correct)}, placebo=True)

    def retrained(self) -> Line:
        """Models that never held the sample against others of them: half of the pairs each."""
        never = self._split(self._before.margin)[1]
        half = len(never) // 2
        inside, outside = never[:half], never[half:]
        right = self._split(self._before.correct)[1]
        accuracies = {"forgotten": right}
        if not self.block:
            accuracies["test"] = _twins(self._before.test_correct)
        apart = self._apart(never, [self._before] * len(self.targets)) if self.block else {}
        apart = {name: (retrained, retrained) for name, (_, retrained) in apart.items()}
        return Line(inside, outside, outside, (inside, outside), accuracies, apart)

    @property
    def _before(self) -> Said:
        found = self.originals
        return Said(found.margin, found.correct, found.test_margin, found.test_correct, 0.0)

    def _split(self, values: np.ndarray) -> Pairs:
        """models x audit samples -> of that model of each pair which holds the sample, and of the other one."""
        first, second, held = values[0::2], values[1::2], self.originals.member[0::2]
        return np.where(held, first, second), np.where(held, second, first)

    def _line(self, said: list[Said], of_test: Said) -> Line:
        before = self._split(self._before.margin)
        if self.block:
            margin, correct = self._of_blocks(said)
            return Line(margin, before[1], before[1], before, {"forgotten": correct}, self._apart(margin, said))
        inside, outside = self._split(said[0].margin)
        right, right_never = self._split(said[0].correct)
        accuracies = {"forgotten": right, "never": right_never, "test": _twins(of_test.test_correct)}
        return Line(inside, outside, before[1], before, accuracies)

    def _of_blocks(self, said: list[Said]) -> Pairs:
        """Margins and right or not, pairs x audit samples: each block as those say that have forgotten it."""
        margin, correct = (np.array(self._split(of)[0]) for of in (self._before.margin, self._before.correct))
        for target, of_target in zip(self.targets, said, strict=True):
            (places,) = Judge(self.originals, [target]).places
            margin[:, places] = self._split(of_target.margin)[0][:, places]
            correct[:, places] = self._split(of_target.correct)[0][:, places]
        return margin, correct

    def _apart(self, margin: np.ndarray, said: list[Said]) -> dict[str, Pairs]:
        """Margins of the blocks, and block after block of some test images and single samples, of those that have
        forgotten it and those that never held it."""
        (places,), never, before = self.places, self._split(self._before.margin)[1], self._before
        tested, others = self._some("test", before.test_margin.shape[1]), self._some("others", self.originals.singles)
        test, rest = [], []
        for target, of_target in zip(self.targets, said, strict=True):
            first = Judge(self.originals, [target]).places[0][0]
            held = self.originals.member[0::2, first][:, None]
            test.append(_forgot(held, of_target.test_margin[:, tested], before.test_margin[:, tested]))
            rest.append(_forgot(held, of_target.margin[:, others], before.margin[:, others]))
        found = {"": (margin[:, places], never[:, places])}
        for where, of_blocks in (("_test", test), ("_others", rest)):
            ours, theirs = zip(*of_blocks, strict=True)
            found[where] = np.concatenate(ours, axis=1), np.concatenate(theirs, axis=1)
        return found

    def _some(self, what: str, n: int) -> np.ndarray:
        """A draw of these that distances are measured on."""
        draws = generator(self.originals.pool.asked.seed, "pool", what)
        return torch.randperm(n, generator=draws)[:TESTED].numpy()

    def numbers(self, line: Line) -> dict[str, Number]:
        """All that can be said of a line."""
        found = self.attacks(line)
        if self.block:
            found |= distances(line.apart, self.originals)
        else:
            found |= self.privacy(line, self.places, "") | ({} if line.placebo else self.others(line))
        found |= {f"accuracy_{name}": self.accuracy(name, values) for name, values in line.accuracies.items()}
        brought = numbers_of(self.originals.pool.metrics, self.pooled(line), len(self.places))
        if taken := [name for name in brought if name in found]:
            raise ConfigError(f"a metric returns {taken[0]}, a number that every pool has; rename it")
        return found | brought

    def pooled(self, line: Line) -> Pooled:
        """What a metric that is brought along sees of a line."""
        step, pairs = len(self.places), np.arange(len(line.inside))
        own = np.stack([self.places[p % step] for p in pairs])  # sets are of one size
        return Pooled(*(of[pairs[:, None], own] for of in (line.inside, line.outside, *line.before)))

    def attacks(self, line: Line) -> dict[str, Number]:
        """U-LiRA and RULI: who has forgotten a sample, and who never held it?"""
        found: dict[str, Number] = {}
        for prefix, (pairs, score) in self.asked(line).items():
            found |= self.attacked(pairs, self.places, score, prefix)
        return found

    def asked(self, line: Line) -> dict[str, tuple[Pairs, Score]]:
        """What each attack is shown and how it scores it, by the prefix of its numbers. Of a block, those that never
        held it are the originals: they have nothing to forget."""
        privacy, efficacy = (line.inside, line.outside), (line.inside, line.never)
        if self.block:
            return {"": (efficacy, likelihood_ratio), "ruli_efficacy_": (efficacy, log_ratio)}
        found = {"": (privacy, likelihood_ratio), "ruli_privacy_": (privacy, log_ratio)}
        return found | {"ruli_efficacy_": (efficacy, log_ratio)}

    def others(self, line: Line) -> dict[str, Number]:
        """The same of the single samples that were not to be forgotten."""
        rest = [np.setdiff1d(np.arange(self.originals.singles), places) for places in self.places]
        pairs = line.inside, line.outside
        return self.attacked(pairs, rest, prefix="others_") | self.privacy(line, rest, "others_")

    def attacked(
        self, pairs: Pairs, places: list[np.ndarray], score: Score = likelihood_ratio, prefix: str = ""
    ) -> dict[str, Number]:
        """Every model attacked by all others of its set but its twin."""
        cells, asked = self.cells(places, len(pairs[0])), self.originals.pool.asked
        return attack(lambda: scores_of(pairs, places, score), cells, 2 * len(pairs[0]), asked, prefix)

    def pictured(self, lines: dict[str, Line]) -> tuple[dict[str, Pairs], dict[str, Pairs], int]:
        """U-LiRA's scores of each line that has enough models; the margins of one image, of which models tell most
        before it is forgotten; and its row."""
        step, (places, *_) = len(self.places), self.places
        inside, outside = (of[::step, places] for of in lines["original"].before)
        image = places[np.argmax((inside - outside).mean(axis=0))]
        many = {label: line for label, line in lines.items() if not too_few("attack", 2 * len(line.inside))}
        scores = {label: scores_of((line.inside, line.outside), self.places) for label, line in many.items()}
        margins = {label: (line.inside[::step, image], line.outside[::step, image]) for label, line in lines.items()}
        return scores, margins, int(self.originals.pool.design.audit[image])

    def by_memorisation(self, lines: dict[str, Line]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Of groups of images, from the least memorised to the most (at most ten): the margin that they owe to having
        been trained on, and of each line the mean AUC of their margins. Of a target of one set.

        Half of the pairs sort the images, the other half say the rest, and the other way round: by the same models,
        those would seem to leak that are least memorised, too low margins as well as too high ones.
        """
        (places,) = self.places
        whole = {label: line for label, line in lines.items() if len(line.inside) == len(lines["original"].inside)}
        inside, outside = (of[:, places] for of in lines["original"].before)
        gains, found = [], {label: [] for label in whole}
        for half in (0, 1):
            order = np.argsort((inside - outside)[1 - half :: 2].mean(axis=0), kind="stable")
            groups = np.array_split(order, min(GROUPS, len(places)))
            gain = (inside - outside)[half::2].mean(axis=0)
            gains.append([gain[group].mean() for group in groups])
            for label, line in whole.items():
                auc = aucs(line.inside[half::2, places], line.outside[half::2, places])
                found[label].append([auc[group].mean() for group in groups])
        return np.mean(gains, axis=0), {label: np.mean(of, axis=0) for label, of in found.items()}

    def cells(self, places: list[np.ndarray], pairs: int) -> Cells:
        """Set by set, and in each of them pair by pair."""
        grids = [np.meshgrid(np.arange(i, pairs, len(places)), p, indexing="ij") for i, p in enumerate(places)]
        return Cells(*(np.concatenate([grid[axis].ravel() for grid in grids]) for axis in (0, 1)))

    def privacy(self, line: Line, places: list[np.ndarray], prefix: str) -> dict[str, Number]:
        """Sample by sample: the share that leaks, the share that leaks more than before, and the worst."""
        names = [f"{prefix}{name}" for name in ("leaking", "worse", "worst_auc")]
        if len(places) > 1:
            reason = f"a verdict on each sample needs {CHOSEN_ON_ALL} models, where half of them choose the samples"
            return {name: {"value": None, "reason": reason} for name in names}
        inside, outside = line.inside[:, places[0]], line.outside[:, places[0]]
        if reason := too_few("per_sample", 2 * len(inside)):
            return dict.fromkeys(names, reason)
        before = tuple(of[:, places[0]] for of in line.before)

        def leaks(pairs: np.ndarray) -> np.ndarray:
            return leaking(p_values(inside[pairs], outside[pairs]))

        def more(pairs: np.ndarray) -> np.ndarray:
            return worse(aucs(*(of[pairs] for of in before)), aucs(inside[pairs], outside[pairs]), leaks(pairs))

        asked, pairs = self.originals.pool.asked, len(inside)
        low, high = worst_interval(inside, outside, draws=asked.draws, seed=asked.seed)
        worst_auc = {"value": worst(inside, outside), "low": low, "high": high, "models": 2 * pairs}
        return dict(zip(names, (_share(leaks, pairs), _share(more, pairs), worst_auc), strict=True))

    def accuracy(self, name: str, values: np.ndarray) -> Number:
        """In percent, of answers (pairs x samples, 0 to 1): of the target, each pair on its own set, or of all of them
        where they are test images."""
        everywhere = Cells.where(np.ones(values.shape, dtype=bool))
        cells = everywhere if name == "test" else self.cells(self.places, len(values))
        right = 100 * cells.of(values.astype(float))
        return number("accuracy", lambda: mean_of(right), cells, 2 * len(values), self.originals.pool.asked)[0]

    def table(self, line: Line) -> dict[str, Any]:
        """Columns, sample by sample: mean margins, and where there are enough models AUC and p of each."""
        step, design, dataset = len(self.places), self.originals.pool.design, self.originals.pool.dataset
        parts = []
        for i, places in enumerate(self.places):
            which = places if self.block else np.arange(self.originals.singles)
            ours, theirs, *before = (of[i::step, which] for of in (line.inside, line.outside, *line.before))
            columns = {"place": which, "set": np.full(len(which), i), "forgotten": np.isin(which, places)}
            columns |= {"margin": ours.mean(axis=0), "margin_never": theirs.mean(axis=0)}
            columns |= {"margin_before": before[0].mean(axis=0), "pairs": np.full(len(which), len(ours))}
            if 2 * len(ours) >= LEAST["per_sample"]:
                columns |= {"auc_before": aucs(*before), "auc": aucs(ours, theirs), "p": p_values(ours, theirs)}
            parts.append(columns)
        table = {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]}
        rows = design.audit[torch.from_numpy(table.pop("place"))]
        return {"row": rows.tolist(), "class": [dataset.fine_names[c] for c in dataset.train.fine[rows]], **table}


def groups(pool: Pool, targets: list[Target]) -> dict[str, list[Target]]:
    """What is judged together: blocks of random images, and those that are sub-classes. Classes are none of it."""
    found: dict[str, list[Target]] = {}
    for target in (target for target in targets if target.label is None):
        name = {"random": "blocks", "sub_class": "sub_classes"}[scenario_of(pool, target)]
        found.setdefault(name if target.block else target.name, []).append(target)
    return found


def scores_of(pairs: Pairs, places: list[np.ndarray], score: Score = likelihood_ratio) -> Pairs:
    """Of every model, attacked by all others of its set but its twin: set by set, and in each of them pair by pair."""
    step = len(places)
    of_sets = [pair_left_out(*(of[i::step, columns] for of in pairs), score) for i, columns in enumerate(places)]
    return tuple(np.concatenate([scores[side].ravel() for scores in of_sets]) for side in (0, 1))


def _forgot(held: np.ndarray, after: np.ndarray, before: np.ndarray) -> Pairs:
    """Of each pair the model that holds the block as it is after forgetting it, and the other one as it is before.
    held: pairs x 1, whether the former is the first; after, before: models x n."""
    return np.where(held, after[0::2], after[1::2]), np.where(held, before[1::2], before[0::2])


def _twins(correct: np.ndarray) -> np.ndarray:
    """models x images -> the mean of each pair."""
    return (correct[0::2] + correct[1::2].astype(float)) / 2


def _share(of: Callable[[np.ndarray], np.ndarray], pairs: int) -> Number:
    """In percent of the samples. of: which pairs count -> which samples do.

    Its interval is Student's, of the samples and of what leaving out an eighth of the pairs after the other changes,
    and at least that of Clopper and Pearson, which knows nothing of what all samples of a model share.
    """
    which, group = of(np.ones(pairs, dtype=bool)), np.arange(pairs) % EIGHTHS
    value, n = which.mean(), len(which)
    without = [of(group != left_out).mean() for left_out in range(EIGHTHS)]
    half = half_width(without, value * (1 - value) / n)
    exact = binomtest(int(which.sum()), n).proportion_ci(method="exact")
    low, high = max(0.0, min(value - half, exact.low)), min(1.0, max(value + half, exact.high))
    return {"value": 100 * float(value), "low": 100 * float(low), "high": 100 * float(high), "models": 2 * pairs}
