"""Metrics: pure functions of what models say. Each file holds one family and its `(Outputs) -> {name: value}`."""

from ssd_bench.core.about import About

__all__ = ["About"]
