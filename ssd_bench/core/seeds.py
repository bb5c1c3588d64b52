"""Seeds: every purpose draws from a stream of its own."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: object) -> int:
    """A seed of its own for each purpose: streams of different names are independent of each other."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for one purpose. Draws are made on the CPU, so they are the same on every device."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
