"""Images of one's own in a NumPy archive: x_train, y_train, x_test, y_test."""

from __future__ import annotations

import logging
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ssd_bench.core import console
from ssd_bench.core.dataset import Dataset, Part
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.data.listing import printable
from ssd_bench.data.mapped import Pile, about_parts, kept, parts_of
from ssd_bench.data.source import DataSettings, remembered

log = logging.getLogger(__name__)

NEEDED = ("x_train", "y_train", "x_test", "y_test")
NAMES = ("class_names", "coarse_of", "coarse_names")  # what an archive may hold beside them
BLOCK_BYTES = 1 << 24  # of images that are in memory at a time
FEW_BYTES = 1 << 28  # labels and names are read at once


@dataclass(frozen=True)
class Arrays(DataSettings):
    """`file` is an .npz with images as uint8, N x H x W x C or N x H x W, and whole numbers from 0 on as labels.

    Images that are not square are padded with black to squares, alike on both sides. C may be any number of channels.
    channels: last, or first (N x C x H x W); auto: last, but refused where the shape looks like the other.

    class_names (texts) names the classes. coarse_of (the coarser class of each class) makes them the finer classes of
    the sub_class scenario, and coarse_names names the coarser ones. Nothing is unpickled.
    """

    file: str | None = None
    channels: str = field(default="auto", metadata={"later": True})
    max_bytes: int = 20_000_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.file:
            raise ValueError("file must name an .npz with x_train, y_train, x_test, y_test: data.file=FILE.npz")
        check_choice("channels", self.channels, ("auto", "last", "first"))
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}")

    def load_all(self) -> Dataset:
        try:
            return _load(Path(os.path.expanduser(self.file)).absolute(), self.max_bytes, self.channels)
        except ValueError as e:
            raise ConfigError(f"data.file={self.file}: {e}") from e
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as e:
            said = " ".join(str(e).split()) or type(e).__name__
            raise ConfigError(f"data.file={self.file} is no .npz that can be read ({said})") from e


@remembered(2)
def _load(path: Path, max_bytes: int, channels: str) -> Dataset:
    with path.open("rb") as file:
        content = file_digest(file, "sha256").hexdigest()
    told = []
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        if missing := [name for name in NEEDED if name not in members]:
            raise ValueError(f"{missing[0]} is missing; needed: {', '.join(NEEDED)}; it holds {', '.join(members)}")
        if others := members.keys() - {*NEEDED, *NAMES}:
            told.append(f"ignored: {', '.join(sorted(others))}; allowed beside what is needed: {', '.join(NAMES)}")
        members = {name: member for name, member in members.items() if name not in others}
        headers = {name: Header.of(archive, member) for name, member in members.items()}
        _check(headers, max_bytes, channels)
        n_channels, height, width = _shape(headers["x_train"], channels)
        if height != width:
            of = f"{height} x {width} pixels and {n_channels} channel{'s' * (n_channels > 1)}"
            told.append(f"images of {of} are padded with black to squares")
        if told:
            log.warning("data.file=%s: %s", path, "; ".join(told))
        few = {name: _whole(archive, members[name], headers[name]) for name in members if not name.startswith("x_")}
        labels = {part: _labels(few[f"y_{part}"], headers, part) for part in ("train", "test")}
        names = _names(few, labels)
        known = kept(
            {"archive": content, "version": 1} | ({"channels": channels} if channels == "first" else {}),
            partial(_decode, path, archive, members, headers, labels, channels),
        )
    train, test = parts_of(known)
    return Dataset(
        name="arrays",
        train=train,
        test=test,
        **names,
        labels="coarse" if names["coarse_of"] else "fine",
        aliases={},
        mean=tuple(known.about["mean"]),
        std=tuple(known.about["std"]),
        fingerprint=known.about["fingerprint"],
    )


@dataclass(frozen=True)
class Header:
    """What an array says of itself before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_column: bool  # Fortran order

    @classmethod
    def of(cls, archive: zipfile.ZipFile, member: str) -> Header:
        """Raises ValueError for what is no plain array."""
        with archive.open(member) as file:
            return cls.read(file, member)

    @classmethod
    def read(cls, file: IO[bytes], member: str) -> Header:
        """From the beginning of an array's file, which is then at its first number."""
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{member} holds Python objects, which are never read; save it as numbers or texts")
        return cls(shape, dtype, by_column)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _check(headers: dict[str, Header], max_bytes: int, channels: str) -> None:
    """Sizes, types and shapes, from the headers alone; images count as they are kept."""
    images = [header for name, header in headers.items() if name.startswith("x_") and len(header.shape) in (3, 4)]
    total = sum(header.bytes for header in headers.values())
    total += sum(header.shape[0] * math.prod(_row(header, channels)) - header.bytes for header in images)
    few = sum(header.bytes for name, header in headers.items() if not name.startswith("x_"))
    if total > max_bytes or few > FEW_BYTES:
        limit = f"data.max_bytes={max_bytes}" if total > max_bytes else f"{FEW_BYTES} of labels and names"
        raise ValueError(f"its arrays would unpack to {max(total, few)} bytes; allowed: {limit}")
    for name in ("x_train", "x_test"):
        shape, dtype = headers[name].shape, headers[name].dtype
        if dtype != np.uint8:
            raise ValueError(f"{name} is {dtype}; allowed: uint8, from 0 to 255")
        if len(shape) not in (3, 4) or (channels == "auto" and _channels_first(shape)):
            hint = "; which are the channels? data.channels=first, or last, says so" if len(shape) == 4 else ""
            raise ValueError(f"{name} has the shape {shape}; allowed: N x H x W x C or N x H x W{hint}")
        if min(shape) < 1:
            raise ValueError(f"{name} has the shape {shape}, which holds no image")
        if headers[name].by_column:
            raise ValueError(f"{name} is in Fortran order; save np.ascontiguousarray({name})")
    if _shape(headers["x_train"], channels) != _shape(headers["x_test"], channels):
        shapes = [headers[name].shape[1:] for name in ("x_train", "x_test")]
        raise ValueError(f"images of x_train and x_test differ: {shapes[0]} and {shapes[1]}; allowed: one shape")


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Whether a shape of four numbers looks like N x C x H x W."""
    if len(shape) != 4 or shape[3] in (1, 3):
        return False
    return shape[1] in (1, 3) or shape[1] < shape[2] == shape[3]


def _shape(header: Header, channels: str) -> tuple[int, int, int]:
    """Of an image: channels x height x width."""
    if len(header.shape) == 4 and channels == "first":
        return header.shape[1:]
    return header.shape[3] if len(header.shape) == 4 else 1, *header.shape[1:3]


def _row(header: Header, channels: str) -> tuple[int, int, int]:
    """Of an image as it is kept: channels x side x side."""
    n_channels, *sides = _shape(header, channels)
    return n_channels, max(sides), max(sides)


def _whole(archive: zipfile.ZipFile, member: str, header: Header) -> np.ndarray:
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _labels(values: np.ndarray, headers: dict[str, Header], part: str) -> Tensor:
    """int64 labels, one for each image."""
    n = headers[f"x_{part}"].shape[0]
    if values.shape not in ((n,), (n, 1)):
        raise ValueError(f"y_{part} has the shape {values.shape}; allowed: ({n},), one label for each image")
    if values.dtype.kind not in "iu":
        raise ValueError(f"y_{part} is {values.dtype}; allowed: whole numbers from 0 on")
    return torch.from_numpy(values.reshape(-1).astype(np.int64))


def _names(few: dict[str, np.ndarray], labels: dict[str, Tensor]) -> dict[str, Any]:
    """Names of the classes and what they belong to. Raises ValueError where they and the labels do not fit."""
    train = labels["train"]
    if "class_names" in few and few["class_names"].ndim != 1:
        raise ValueError(f"class_names has the shape {few['class_names'].shape}; allowed: one name for each class")
    n = len(few["class_names"]) if "class_names" in few else int(train.max()) + 1
    for part, of_part in labels.items():
        if of_part.min() < 0 or of_part.max() >= n:
            raise ValueError(f"y_{part} goes from {of_part.min()} to {of_part.max()}; allowed: 0 to {n - 1}")
    if n < 2:
        raise ValueError("it has one class; at least two are needed")
    if len(absent := sorted(set(range(n)) - set(train.tolist()))):
        raise ValueError(f"class {absent[0]} has no training images; every class from 0 to {n - 1} needs some")
    coarse_of = few.get("coarse_of", np.zeros(0, np.int64))
    if "coarse_names" in few and "coarse_of" not in few:
        raise ValueError("coarse_names needs coarse_of: the coarser class of each class")
    n_coarse = int(coarse_of.max()) + 1 if coarse_of.size and coarse_of.dtype.kind in "iu" else 0
    if "coarse_of" in few and (
        coarse_of.shape != (n,) or n_coarse < 2 or set(coarse_of.tolist()) != set(range(n_coarse))
    ):
        raise ValueError(f"coarse_of must hold, for each of the {n} classes, its coarser class, numbered from 0 on")
    return {
        "fine_names": _texts("class_names", few, n),
        "coarse_names": _texts("coarse_names", few, n_coarse),
        "coarse_of": tuple(coarse_of.tolist()),
    }


def _texts(name: str, few: dict[str, np.ndarray], n: int) -> tuple[str, ...]:
    values = few.get(name, np.arange(n).astype(str))
    if values.dtype.kind != "U" or values.shape != (n,) or len(set(values.tolist())) < n:
        raise ValueError(f"{name} must be {n} different texts (an array of type str)")
    if wrong := [printable(text) for text in values.tolist() if not text or printable(text) != text]:
        raise ValueError(f"{name}: '{wrong[0]}' is no printable text")
    return tuple(values.tolist())


def _decode(
    path: Path, archive: zipfile.ZipFile, members: dict[str, str], headers: dict[str, Header],
    labels: dict[str, Tensor], channels: str,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    log.info("unpacking %s (once; kept in the cache)", path)
    parts = {}
    with console.counting("unpacking the images", sum(map(len, labels.values()))) as more:
        for part, fine in labels.items():
            pile = Pile(_row(headers[f"x_{part}"], channels))
            for pixels in _blocks(archive, members[f"x_{part}"], channels):
                pile.add(pixels)
                more(len(pixels))
            parts[part] = Part(pile.tensor(), fine)
    return about_parts(**parts)


def _both_sides(length: int, side: int) -> tuple[int, int]:
    """What is added before and after."""
    return (side - length) // 2, (side - length + 1) // 2


def _blocks(archive: zipfile.ZipFile, member: str, channels: str) -> Iterator[np.ndarray]:
    """The images in their order, a block at a time, padded to squares: n x channels x side x side."""
    with archive.open(member) as file:
        header = Header.read(file, member)
        row, (_, height, width), kept_as = math.prod(header.shape[1:]), _shape(header, channels), _row(header, channels)
        n, side = max(1, BLOCK_BYTES // math.prod(kept_as)), kept_as[-1]
        for start in range(0, header.shape[0], n):
            count = min(n, header.shape[0] - start)
            data = file.read(count * row)
            if len(data) < count * row:
                raise EOFError(f"{member} ends too early")
            pixels = np.frombuffer(data, np.uint8).reshape(count, *header.shape[1:])
            if pixels.ndim == 3:
                pixels = pixels[:, None]
            elif channels != "first":
                pixels = pixels.transpose(0, 3, 1, 2)
            yield np.pad(pixels, [(0, 0), (0, 0), *map(_both_sides, (height, width), (side, side))])
