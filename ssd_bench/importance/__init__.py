"""How much each parameter matters to a set of samples: what several methods share."""

from ssd_bench.importance.fisher import ESTIMATORS, VERSION, diagonal_fisher

__all__ = ["ESTIMATORS", "VERSION", "diagonal_fisher"]
