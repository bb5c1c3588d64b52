"""What requests one after the other do that one does not: knowledge that wears off, and what was forgotten coming back
(the ideas of SAFER, arXiv 2604.19108)."""

from __future__ import annotations

from collections.abc import Sequence

from ssd_bench.metrics import About

ABOUT = {
    "erosion": About("points", "retrained", "in a sequence", ("kept",), 20, "erosion", 2, "second"),
    "reversal": About("points", "retrained", "in a sequence", ("forget",), 20, "reversal", 2, "second"),
}


def erosion(original: float, last: float) -> float:
    """Points of accuracy that all requests together took from the test images that none of them shows."""
    return original - last


def reversal(accuracies: Sequence[Sequence[float]]) -> float:
    """Points by which what was forgotten came back: the mean over requests of how far its accuracy rose at most.

    accuracies[k][j]: percent on what request j asked to be forgotten, after request k. Nothing comes after the last.
    """
    count = len(accuracies)
    rises = [max(accuracies[k][j] - accuracies[j][j] for k in range(j + 1, count)) for j in range(count - 1)]
    return sum(max(0.0, rise) for rise in rises) / len(rises)
