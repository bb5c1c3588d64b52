"""Whether a model is as sure as it is right: forgetting can leave wrong answers that are told with confidence."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Outputs
from ssd_bench.metrics import About

SETS = {"forget": "D'_f", "retain": "D'_r", "test": "D'"}
LEAST = 300  # samples from which on fifteen bins say something


def _about(heading: str, name: str, unit: str, least: int = 20) -> About:
    return About(unit, "retrained", "everywhere", (name,), least, f"{heading} {SETS[name]}", 3)


@dataclass(frozen=True)
class Calibration:
    """Of each set: the mean confidence (the probability, 0 to 1, of what is said), the Brier score and the expected
    calibration error in `bins` bins of equal mass. What the retrained model has is the ideal, not 0: nobody is sure of
    a class that was never seen. The mean cross-entropy beside them is `accuracy`'s `forget_loss`."""

    bins: int = 15
    version: ClassVar[int] = 1
    about: ClassVar[dict[str, About]] = {
        **{f"confidence_{name}": _about("confidence", name, "0 to 1") for name in SETS},
        **{f"brier_{name}": _about("Brier", name, "0 to 2") for name in SETS},
        **{f"ece_{name}": _about("ECE", name, "0 to 1", LEAST) for name in SETS},
    }

    def __post_init__(self) -> None:
        check_range("bins", self.bins, 1)

    def __call__(self, seen: Outputs) -> dict[str, float | None]:
        values: dict[str, float | None] = dict.fromkeys(self.about)
        for name in filter(seen.has, SETS):
            probs, labels = seen.probs(name), seen.labels[name]
            confidence, said = probs.max(dim=1)
            values[f"confidence_{name}"] = confidence.mean().item()
            values[f"brier_{name}"] = brier(probs, labels)
            values[f"ece_{name}"] = calibration_error(confidence, said == labels, self.bins)
        return values


def brier(probs: Tensor, labels: Tensor) -> float:
    """Mean squared distance of n x classes probabilities to the one-hot labels (n, int64): 0 to 2 (Brier 1950)."""
    return (probs - one_hot(labels, probs.shape[1])).square().sum(dim=1).mean().item()


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Mean |share of right answers - mean confidence| over bins, each counted by its samples: 0 to 1.

    confidence: n, 0 to 1; right: n, bool. The bins hold as many samples each (Nixon et al. 2019, arXiv 1904.01685), but
    for equal confidences, which share one.
    """
    confidence = confidence.double()
    edges = torch.quantile(confidence, torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1], interpolation="lower")
    place = torch.bucketize(confidence, edges.unique())
    apart = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, right.double() - confidence)
    return apart.abs().sum().item() / len(confidence)
