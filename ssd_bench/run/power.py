"""How small a difference between two methods so many models can show: measured on pairs of a pool's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ssd_bench.core.seeds import generator
from ssd_bench.metrics.bootstrap import resampled, roc_of
from ssd_bench.metrics.roc import auc, tpr_at
from ssd_bench.run.judged import Judge, Line, scores_of
from ssd_bench.run.originals import NEGATIVES, RATES

DETECTABLE = 2.8  # standard errors: at the level of 5 % such a difference is seen in 80 % of cases
LEAST_PAIRS = 4  # of each set, for the attack
REPEATS = 8  # draws of pairs, where there are fewer than all
DRAWS = 200  # resamples behind a standard error
NAMES = ("auc", *RATES)


@dataclass(frozen=True)
class Power:
    """Two lines of a target, and the original's, of all pairs of the pool."""

    judge: Judge
    original: Line
    one: Line
    other: Line

    @property
    def _sets(self) -> int:
        return len(self.judge.places)

    def rows(self) -> list[dict[str, Any]]:
        """For 8, 16, ... models, as many as there are: means over draws of so many models. Rates in percent, None
        where there are too few cases; `detectable`: differences between the two methods."""
        most, size, rows = 2 * len(self.one.inside), 2 * LEAST_PAIRS * self._sets, []
        while size <= most:
            found = [self._drawn(pairs) for pairs in self._pairs(size // 2)]
            cases = size // 2 * self.judge.samples
            row = {"models": size, "draws": len(found)}
            for name, of in self._summary(found).items():
                rate = next((RATES[kind] for kind in RATES if name.endswith(kind)), None)
                row[name] = of if rate is None else 100 * of if cases * rate >= NEGATIVES else None
            row |= self._one_target(found)
            rows.append(row)
            size *= 2
        return rows

    def _pairs(self, n: int) -> Iterator[np.ndarray]:
        """Draws of n pairs without replacement, as many for each set, in the order that the sets alternate in."""
        all_pairs, seed = len(self.one.inside), self.judge.originals.pool.asked.seed
        for i in range(REPEATS if n < all_pairs else 1):
            draws = generator(seed, "pool", "power", n, i)
            of_sets = [torch.randperm(all_pairs // self._sets, generator=draws) for _ in range(self._sets)]
            drawn = [of[: n // self._sets].sort().values * self._sets + s for s, of in enumerate(of_sets)]
            yield torch.stack(drawn, dim=1).flatten().numpy()

    def _drawn(self, pairs: np.ndarray) -> dict[str, Any]:
        """What these pairs say: the attack on the original, and of both methods the resamples and each model's."""
        asked, places = self.judge.originals.pool.asked, self.judge.places
        cells, draws = self.judge.cells(places, len(pairs)), min(asked.draws, DRAWS)
        found: dict[str, Any] = {"pairs": pairs}
        for label in ("original", "one", "other"):
            line = getattr(self, label)
            line = replace(line, **{name: getattr(line, name)[pairs] for name in ("inside", "outside", "never")})
            shown, score = self.judge.asked(line)[""]
            scores = scores_of(shown, places, score)
            statistic = roc_of(*scores, tuple(RATES.values()))
            found[label] = {"value": statistic(np.ones((1, len(cells.pair))))[0], "scores": scores}
            if label != "original":
                found[label]["drawn"] = resampled(statistic, cells.pair, cells.sample, draws, asked.seed)
        return found

    def _summary(self, found: list[dict[str, Any]]) -> dict[str, float]:
        """Of all draws of as many pairs: the original, the standard errors, and what can be seen."""
        originals = np.mean([of["original"]["value"] for of in found], axis=0)
        errors = [np.mean([of[label]["drawn"][:, 0].std(ddof=1) for of in found]) for label in ("one", "other")]
        between = [(of["one"]["drawn"] - of["other"]["drawn"]).std(axis=0, ddof=1) for of in found]
        summary = {f"original_{name}": float(of) for name, of in zip(NAMES, originals, strict=True)}
        summary |= {"sd_auc_one": float(errors[0]), "sd_auc_other": float(errors[1])}
        seen = DETECTABLE * np.mean(between, axis=0)
        return summary | {f"detectable_{name}": float(of) for name, of in zip(NAMES, seen, strict=True)}

    def _one_target(self, found: list[dict[str, Any]]) -> dict[str, float | None]:
        """The same with one model as the target, from how much the difference varies between models; None where no
        model holds a part of what is asked for."""
        apart = [np.subtract(*(self._by_model(of[label]["scores"], of["pairs"]) for label in ("one", "other")))
                 for of in found]  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of draws in which each model holds all of them or none
            spread = np.sqrt(np.nanmean([np.nanvar(of, axis=0, ddof=1) for of in apart], axis=0))
        enough = self.judge.samples / 2 * RATES["tpr_1"] >= NEGATIVES
        of_auc, of_rate = (DETECTABLE * spread).tolist()
        return {
            "detectable_auc_one_target": of_auc if np.isfinite(of_auc) else None,
            "detectable_tpr_1_one_target": 100 * of_rate if enough and np.isfinite(of_rate) else None,
        }

    def _by_model(self, scores: tuple[np.ndarray, np.ndarray], pairs: np.ndarray) -> np.ndarray:
        """AUC and true positives at 1 % of each model alone: models x 2; NaN where it holds all of them or none."""
        cells = self.judge.cells(self.judge.places, len(pairs))
        held = self.judge.originals.member[0::2][pairs[cells.pair], cells.sample]
        values = []
        for pair in range(len(pairs)):
            for second in (False, True):
                inside, of_pair = held != second, cells.pair == pair
                both = scores[0][of_pair & inside], scores[1][of_pair & ~inside]
                there = all(map(len, both))
                values.append((auc(*both), tpr_at(*both, RATES["tpr_1"])) if there else (np.nan, np.nan))
        return np.array(values)


def power(judge: Judge, lines: dict[str, Line]) -> dict[str, Any] | None:
    """What so many models can show of the first two methods among the lines, or of one and doing nothing; None where
    there is no method."""
    methods = [label for label, line in lines.items() if label not in ("original", "retrained") and not line.placebo]
    if not methods:
        return None
    one, other = methods[:2] if len(methods) > 1 else (methods[0], "original")
    rows = Power(judge, lines["original"], lines[one], lines[other]).rows()
    return {"one": one, "other": other, "samples": judge.samples, "rows": rows}
