"""How much each parameter matters to a set of samples: what several methods share."""

from ssd_bench.importance.fisher import ESTIMATORS, LOSSES, VERSION, diagonal_fisher, sensitivity
from ssd_bench.importance.gradient import loss_gradient

__all__ = ["ESTIMATORS", "LOSSES", "VERSION", "diagonal_fisher", "loss_gradient", "sensitivity"]
