"""Differences between methods that were judged on the same models and samples, from the same resamples of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ssd_bench.metrics.bootstrap import FEW_HITS, ends, resampled, roc_of
from ssd_bench.metrics.per_sample_privacy import leaking_resampled
from ssd_bench.run.judged import Judge, Line, scores_of
from ssd_bench.run.originals import RATES, Number

Row = dict[str, Any]  # number, method, less (what it is compared with), value, low, high, excludes_0, models
Resamples = dict[str, np.ndarray]  # by the name of a number, its value in each resample
CONTROLS = ("original", "retrained")


@dataclass(frozen=True)
class Compared:
    """The lines of a table, each with its numbers, of which differences are taken."""

    judge: Judge
    lines: dict[str, Line]
    numbers: dict[str, dict[str, Number]]

    def rows(self) -> list[Row]:
        """All pairs of lines, the later less the earlier one; placebos count as earlier than methods."""
        order = sorted(self.lines, key=lambda label: label not in CONTROLS and not self.lines[label].placebo)
        sizes = {label: len(self.lines[label].inside) for label in order if self._there(label)}
        drawn = {
            (label, groups): self.resamples(label, groups)
            for groups in sorted(set(sizes.values()))
            for label, pairs in sizes.items()
            if pairs >= groups
        }
        rows: list[Row] = []
        for less, label in combinations(sizes, 2):
            groups = min(sizes[less], sizes[label])
            rows += self._between(label, less, drawn[label, groups], drawn[less, groups])
        return rows

    def _there(self, label: str) -> set[str]:
        """The numbers that are compared, of this line."""
        attacks = (f"{prefix}{name}" for prefix in self.judge.asked(self.lines[label]) for name in ("auc", *RATES))
        numbers = self.numbers[label]
        return {name for name in (*attacks, "leaking") if numbers.get(name, {}).get("value") is not None}

    def resamples(self, label: str, groups: int) -> Resamples:
        """Of the numbers of a line. groups: pairs p, p + groups, ... are drawn together, as are those two whose models
        that never held the samples are held against each other."""
        line, there, found = self.lines[label], self._there(label), {}
        asked, places = self.judge.originals.pool.asked, self.judge.places
        cells = self.judge.cells(places, len(line.inside))
        for prefix, (pairs, score) in self.judge.asked(line).items():
            if f"{prefix}auc" in there:
                statistic = roc_of(*scores_of(pairs, places, score), tuple(RATES.values()))
                values = resampled(statistic, cells.pair % groups, cells.sample, asked.draws, asked.seed)
                found[f"{prefix}auc"] = values[:, 0]
                found |= {f"{prefix}{name}": 100 * values[:, i] for i, name in enumerate(RATES, 1)}
        if "leaking" in there:
            both = (of[:, places[0]] for of in (line.inside, line.outside))
            found["leaking"] = 100 * leaking_resampled(*both, groups, asked.draws, asked.seed)
        return {name: found[name] for name in found if name in there}

    def _between(self, label: str, less: str, ours: Resamples, theirs: Resamples) -> Iterator[Row]:
        """The rows of two lines. Where both have few hits, resamples know too few of them."""
        for name in (name for name in ours if name in theirs):
            one, other = (self.numbers[of][name] for of in (label, less))
            if all(of.get("hits", FEW_HITS) < FEW_HITS for of in (one, other)):
                continue
            value, drawn = one["value"] - other["value"], ours[name] - theirs[name]
            if name == "leaking":
                drawn = drawn + value - drawn.mean()  # models that were drawn twice move it
            low, high = np.nanquantile(drawn, ends()).tolist()
            row = {"number": name, "method": label, "less": less, "value": value, "low": low, "high": high}
            yield row | {"excludes_0": not low <= 0 <= high, "models": min(one["models"], other["models"])}
