"""How much each parameter matters to a set of samples: what several methods share."""

from ssd_bench.importance.fisher import ESTIMATORS, LOSSES, VERSION, diagonal_fisher, sensitivity
from ssd_bench.importance.gradient import (
    fisher_product,
    gradient_products,
    loss_gradient,
    slopes,
    weighted_gradient,
)

__all__ = [
    "ESTIMATORS",
    "LOSSES",
    "VERSION",
    "diagonal_fisher",
    "fisher_product",
    "gradient_products",
    "loss_gradient",
    "sensitivity",
    "slopes",
    "weighted_gradient",
]
