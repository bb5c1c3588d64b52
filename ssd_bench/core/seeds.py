"""Seeds: every purpose draws from a stream of its own, and the global streams are seeded around what others wrote."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *names: object) -> int:
    """A seed of its own for each purpose: streams of different names are independent of each other."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def initial_seed(seed: int) -> int:
    """Of the weights that a training with this seed starts from."""
    return derive_seed(seed, "trained", "init")


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for one purpose. Draws are made on the CPU, so they are the same on every device."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's global random numbers (every device's) seeded for one purpose, and put back.

    Dropout, `torch.randn_like` and what a user's code draws then depend on the seeds of the run alone.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.cuda.get_rng_state_all()
    derived = derive_seed(seed, "global", *names)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        torch.cuda.set_rng_state_all(before[3])


def global_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the global streams that a training on this device may draw from, as tensors on the CPU."""
    version, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([0.0 if gauss is None else gauss, float(gauss is not None)], dtype=torch.float64),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_rest": torch.tensor(rest, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_global_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put the streams back into a state that `global_state` told of."""
    version, *words = state["python"].tolist()
    gauss, known = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss if known else None))
    place, has_gauss, cached = state["numpy_rest"].tolist()
    np.random.set_state(("MT19937", state["numpy"].numpy().astype(np.uint32), int(place), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
