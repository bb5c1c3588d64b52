"""Metrics: pure functions of what models say. Each file holds one family and its `(Outputs) -> {name: value}`."""
