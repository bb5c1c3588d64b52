"""Forget the images that models remember most, least, or in between, by the scores of a pool of models."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError, check_choice, check_range
from ssd_bench.core.task import Request
from ssd_bench.scenarios.random import of_images

GROUPS = ("most", "middle", "least")
SCORES = ("margin_gain", "memorisation")  # how the names of columns that rank begin
MAKE = "ssd-bench-pool with the same data settings makes one, and names its folder"


@dataclass(frozen=True)
class Hard:
    """D_f is `n_forget` single samples of the pool in the folder `pool`: those with the highest score, the lowest, or
    the middle ones; D'_f is D_f itself and D'_r all of D', as in the random scenario.

    by: the column of the pool's samples.csv that ranks them: margin_gain (the mean margin where it is trained on minus
    that where it is not), margin_gain_0 or _1 (by every other pair of models alone), memorisation_margin (in spreads),
    memorisation_correct (of answers; Feldman and Zhang 2020, arXiv 2008.03703).
    The model that is to forget is none of the pool's, so that all pairs may choose. Of the least and the middle, those
    that most models get wrong although they hold them are left out, for they were never learnt.
    """

    pool: str | None = None
    group: str = "most"
    n_forget: int = 100
    by: str = "margin_gain"
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_choice("group", self.group, GROUPS)
        check_range("n_forget", self.n_forget, 1)

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        """Raises ConfigError without a pool, for one of other data, and for more images than it has."""
        samples = self._samples(dataset)
        if self.n_forget > len(samples):
            raise ConfigError(f"scenario.n_forget={self.n_forget}: the pool scores {len(samples)} images, no more")
        ranked = sorted(samples, key=lambda row: (-samples[row], row))
        start = {"most": 0, "middle": (len(ranked) - self.n_forget) // 2, "least": len(ranked) - self.n_forget}
        first = start[self.group]
        forget = torch.tensor(ranked[first : first + self.n_forget])
        everything = torch.arange(len(dataset.train.fine))
        retain = everything[~torch.isin(everything, forget)]
        target = f"{self.n_forget} {self.group} memorised"
        return of_images("hard", dataset, everything, retain, forget, target=target)

    def _samples(self, dataset: Dataset) -> dict[int, float]:
        """Row of each single sample that can be asked for -> its score."""
        lines, known = read_pool(self.pool, dataset)
        check_choice("scenario.by", self.by, (name for name in known if name.startswith(SCORES)))
        scores = {int(line["row"]): float(line[self.by]) for line in lines if line["part"] == "single"}
        learnt = {int(line["row"]) for line in lines if float(line["correct_in"]) >= 0.5}
        kept = scores if self.group == "most" else scores.keys() & learnt
        return {row: scores[row] for row in kept if math.isfinite(scores[row])}


def read_pool(folder: str | None, dataset: Dataset) -> tuple[list[dict[str, str]], list[str]]:
    """The lines of a pool's samples.csv and the names of its columns. Raises ConfigError unless it is of this data."""
    if folder is None:
        raise ConfigError(f"scenario=hard needs scenario.pool=FOLDER, the results of a pool of models; {MAKE}")
    if dataset.validation is not None:
        raise ConfigError("scenario=hard goes by a pool of models, which takes no data.validation; leave it out")
    about, samples = Path(folder) / "pool.json", Path(folder) / "samples.csv"
    try:
        pool: Mapping[str, Any] = json.loads(about.read_text())
        with samples.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError) as e:
        raise ConfigError(f"scenario.pool={folder} holds no pool.json and samples.csv of a pool; {MAKE}") from e
    if pool.get("data_sha256") != dataset.fingerprint:
        raise ConfigError(f"scenario.pool={folder} is a pool of other images ({pool.get('data')}); {MAKE}")
    return lines, list(lines[0]) if lines else []
