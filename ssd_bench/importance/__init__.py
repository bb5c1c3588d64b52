"""How much each parameter matters to a set of samples: what several methods share."""

from ssd_bench.importance.fisher import ESTIMATORS, LOSSES, VERSION, diagonal_fisher, sensitivity

__all__ = ["ESTIMATORS", "LOSSES", "VERSION", "diagonal_fisher", "sensitivity"]
