"""A data set as it lies on the CPU: its parts, the names of their classes, a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """The images of a data set for training, for tests or for validation, on the CPU."""

    pixels: Tensor  # N x channels x side x side, uint8
    fine: Tensor  # N, int64: the finest class
    files: tuple[str, ...] = ()  # of each image, where it has one of its own, below the root of the data

    def rows(self, keep: Tensor) -> Part:
        return Part(self.pixels[keep], self.fine[keep], self.files_of(keep))

    def files_of(self, keep: Tensor) -> tuple[str, ...]:
        """Those of some rows: indices, or a mask."""
        indices = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        return tuple(self.files[i] for i in indices.tolist()) if self.files else ()


@dataclass(frozen=True)
class Dataset:
    """A data set on the CPU: its parts, the names of their classes, and the statistics to normalise with."""

    name: str
    train: Part
    test: Part
    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...]  # empty where there are no coarser classes
    coarse_of: tuple[int, ...]  # coarse class of each fine one
    labels: str  # "fine" or "coarse": what a model is trained on, but for sub_class, where it is always coarse
    aliases: dict[str, str]  # other names of classes
    mean: tuple[float, ...]  # per channel, of pixels / 255
    std: tuple[float, ...]
    fingerprint: str  # sha256 over pixels, labels and their order
    validation: Part | None = None  # what data.validation took out of the training images: no model is trained on it

    @property
    def parts(self) -> tuple[Part, ...]:
        """All images: for training, for tests and, where there are some, for validation."""
        return self.train, self.test, *([] if self.validation is None else [self.validation])

    def labelled(self, part: Part, level: str) -> Tensor:
        """The classes of a part's images at one level ("fine" or "coarse")."""
        return part.fine if level == "fine" else torch.tensor(self.coarse_of)[part.fine]

    def names(self, level: str) -> tuple[str, ...]:
        """The classes' names at this level, "fine" or "coarse"."""
        return self.fine_names if level == "fine" else self.coarse_names


def fingerprint(*parts: Part) -> str:
    """sha256 over shapes, pixels and labels of the parts, in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(tuple(part.pixels.shape)).encode())
        digest.update(np.ascontiguousarray(part.pixels.numpy()))
        digest.update(part.fine.numpy().astype("<i8"))
    return digest.hexdigest()
