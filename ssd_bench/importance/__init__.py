"""How much each parameter matters to a set of samples: what several methods share."""

from ssd_bench.importance.fisher import ESTIMATORS, diagonal_fisher

__all__ = ["ESTIMATORS", "diagonal_fisher"]
