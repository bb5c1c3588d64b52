"""Pixels that are written to disk as they come and then mapped, so that they never have to fit into memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from ssd_bench.core.console import size
from ssd_bench.core.dataset import Part, fingerprint
from ssd_bench.core.errors import ConfigError
from ssd_bench.store.artefacts import Artefact, Store, forget_recent

CHUNK = 1024  # images that are looked at together
MANY_BYTES = 1 << 28  # CIFAR's images are fewer


class Pile:
    """Images of one shape in a file without a name, which vanishes with the last tensor that maps it."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.count = shape, 0
        self.folder = _folder()
        self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115

    def add(self, pixels: np.ndarray) -> None:
        """n x channels x side x side, uint8. Raises ConfigError where there is no room."""
        try:
            self.file.write(np.ascontiguousarray(pixels))
        except OSError as e:
            written = size(self.count * math.prod(self.shape))
            raise ConfigError(
                f"the decoded images ({written} so far) do not fit into {self.folder} ({e.strerror}); make room, or "
                "set XDG_CACHE_HOME to a folder that has some"
            ) from e
        self.count += len(pixels)

    def tensor(self) -> Tensor:
        """All of them, mapped: memory is taken by what is looked at, and given back when others need it."""
        if not self.count:
            return torch.empty((0, *self.shape), dtype=torch.uint8)
        self.file.flush()
        return torch.from_numpy(np.memmap(self.file, np.uint8, "c", shape=(self.count, *self.shape)))


def _folder() -> Path:
    """The per-user cache, which has to hold the images anyway, or where it cannot be written, the system's own."""
    cache = user_cache_path("ssd-bench")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError:
        return Path(tempfile.gettempdir())


def rows(part: Part, keep: Tensor) -> Part:
    """Those rows of a part (indices or a mask), in memory where they are few and mapped where they are many."""
    keep = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
    shape = part.pixels.shape[1:]
    if len(keep) * math.prod(shape) < MANY_BYTES:
        return part.rows(keep)
    pile = Pile(tuple(shape))
    for chunk in keep.split(CHUNK):
        pile.add(part.pixels[chunk].numpy())
    return Part(pile.tensor(), part.fine[keep], part.files_of(keep))


def joined(parts: Sequence[Part]) -> Tensor:
    """The pixels of these parts, one after the other; mapped where they are many, as of `rows`."""
    if sum(part.pixels.numel() for part in parts) < MANY_BYTES:
        return torch.cat([part.pixels for part in parts])
    pile = Pile(tuple(parts[0].pixels.shape[1:]))
    for part in parts:
        for chunk in part.pixels.split(CHUNK):
            pile.add(chunk.numpy())
    return pile.tensor()


def kept(key: Any, make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]) -> Artefact:
    """What `make` decodes, from the per-user cache or made now, mapped from there: what it was written to first can go.

    Where the cache cannot be written, it is made each time.
    """
    cache = Store(user_cache_path("ssd-bench"), optional=True)
    artefact = cache.get_or_make("decoded", key, make)
    if artefact.found or not artefact.path.exists():
        return artefact
    forget_recent()
    return cache.get("decoded", key) or artefact


def about_parts(train: Part, test: Part) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is kept of two parts: tensors, and their statistics and fingerprint."""
    parts = {"train": train, "test": test}
    tensors = {f"{name}.{key}": getattr(part, key) for name, part in parts.items() for key in ("pixels", "fine")}
    return tensors, {"fingerprint": fingerprint(train, test), **statistics(train)}


def parts_of(artefact: Artefact) -> tuple[Part, Part]:
    """The training and the test images that `about_parts` gave away."""
    tensors = artefact.tensors
    train, test = (Part(tensors[f"{name}.pixels"], tensors[f"{name}.fine"]) for name in ("train", "test"))
    return train, test


def statistics(part: Part) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, of pixels / 255, from exact counts of the 256 values."""
    channels = part.pixels.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in part.pixels.split(CHUNK):
        for channel in range(channels):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    shares, values = counts.double() / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).clamp(min=0).sqrt()
    return {"mean": [round(m, 6) for m in mean.tolist()], "std": [round(s, 6) or 1.0 for s in std.tolist()]}
