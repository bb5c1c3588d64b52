"""Residual shares: how much of what sets the original apart from the retrained model is left in an unlearned one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, variance
from typing import Any

from ssd_bench.metrics import About
from ssd_bench.metrics.relearn import PREFIX

RESIDUAL = "residual"
OF = ("probe_recall", "prototype_recall")  # what `residual` is the mean of
UNITS = {"probe_recall": 100, "prototype_recall": 100, "probe_auc": 1}  # shares of images once divided by this
ALIKE = ("cka_forget_last", "cka_retain_last")
LENGTH = "relearn"  # the mean of ln(1 + steps)
STANDARD_ERRORS = 2

Readings = dict[str, float]

ABOUT = {
    RESIDUAL: About("share", "0", "requests for a class", ("forget",), 20, "residual", 2, "main"),
    "relearn_log_ratio": About("ln of steps", "0", "requests for a class", heading="relearning, ln ratio", decimals=2),
}


def readings(metrics: Mapping[str, Any]) -> Readings:
    """What of a model's values residual shares are formed of: those that are there."""
    found = {name: metrics[name] / unit for name, unit in UNITS.items() if metrics.get(name) is not None}
    found |= {name: metrics[name] for name in ALIKE if metrics.get(name) is not None}
    steps = [value for name, value in metrics.items() if name.startswith(PREFIX) and value is not None]
    return found | ({LENGTH: mean(map(math.log1p, steps))} if steps else {})


def telling(pairs: Sequence[tuple[Readings, Readings]], images: int) -> set[str]:
    """The readings that tell originals from retrained models: they differ by more than two standard errors.

    pairs: the original's and the retrained model's, of each training seed. images: in D'_f. The error is that of shares
    of so many images (for an AUC, an upper bound: van Dantzig 1951), and that of the mean over seeds where there are
    several; what is no share of images takes several. A residual share has no meaning elsewhere.
    """
    found = set()
    for name in set().union(*(set(ours) & set(theirs) for ours, theirs in pairs)):
        both = [(ours[name], theirs[name]) for ours, theirs in pairs if name in ours and name in theirs]
        if name not in UNITS and len(both) < 2:
            continue  # nothing to judge the difference by
        far = [ours - theirs for ours, theirs in both]
        drawn = mean(p * (1 - p) + q * (1 - q) for p, q in both) / max(images, 1) if name in UNITS else 0.0
        seeds = variance(far) / len(far) if len(far) > 1 else 0.0
        if abs(mean(far)) > STANDARD_ERRORS * math.sqrt(drawn + seeds):
            found.add(name)
    return found


def residual_shares(
    ours: Mapping[str, Any], retrained: Mapping[str, Any], original: Mapping[str, Any], names: set[str]
) -> dict[str, float]:
    """(ours - retrained) / (original - retrained) of each of these readings, as `residual.NAME`: 0 as retrained, 1 as
    before. `residual` is the mean of those of `OF`, missing where there is none. `relearn_log_ratio`: how much longer
    than the retrained model relearning takes, as the mean logarithm; below 0 it is faster.

    ours, retrained, original: metrics by name, of one training seed. names: see `telling`.
    """
    u, r, o = (readings(each) for each in (ours, retrained, original))
    known = [name for name in sorted(names) if name in u and name in r and name in o and o[name] != r[name]]
    shares = {f"{RESIDUAL}.{name}": (u[name] - r[name]) / (o[name] - r[name]) for name in known}
    if formed := [shares[f"{RESIDUAL}.{name}"] for name in OF if name in known]:
        shares[RESIDUAL] = mean(formed)
    if LENGTH in u and LENGTH in r:
        shares["relearn_log_ratio"] = u[LENGTH] - r[LENGTH]
    return shares
