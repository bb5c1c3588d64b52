"""Pictures of one's own: a folder of image files for each class, and one for each sub-class where there are some."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from torch import Tensor

from ssd_bench.core import console
from ssd_bench.core.dataset import Dataset, Part
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.core.seeds import generator
from ssd_bench.data.listing import Class, Found, find_parts, printable, some
from ssd_bench.data.mapped import Pile, about_parts, kept, parts_of
from ssd_bench.data.pictures import MOST_PIXELS, Pictures, Result, TooLarge, decoded, hashed
from ssd_bench.data.source import DataSettings, drawn_from_each, remembered
from ssd_bench.store.address import digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder(DataSettings):
    """`root` holds train/CLASS/* and test/CLASS/*, or CLASS/*, of which a share becomes the test images.

    Where every class holds folders (CLASS/SUB_CLASS/*), these are the finer classes of the sub_class scenario. Classes
    are numbered in the order of their names.
    """

    root: str | None = None
    side: int = 64
    fit: str = "crop"
    channels: int = 3
    test_share: float = 0.2
    split_seed: int = 0
    exclude: list[str] = field(default_factory=list)
    skip_unreadable: bool = False
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.root:
            raise ValueError("root must name the folder with the images: data.root=FOLDER")
        check_choice("fit", self.fit, ("crop", "stretch"))
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 3 (colour) or 1 (grey), got {self.channels}")
        if not 1 <= self.side <= 1024:
            raise ValueError(f"side must be from 1 to 1024 pixels, got {self.side}")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must be between 0 and 1, got {self.test_share}")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(f"max_pixels must be from 1 to {MOST_PIXELS}, got {self.max_pixels}")

    def load_all(self) -> Dataset:
        root = Path(os.path.expanduser(self.root)).absolute()
        pictures = Pictures(self.side, self.channels, self.fit, self.max_pixels)
        try:
            dataset, unreadable = _load(root, pictures, tuple(self.exclude), self.test_share, self.split_seed)
        except OSError as e:
            raise ConfigError(f"data.root={root} cannot be used: {e}") from e
        counted = f"{len(unreadable)} image{'s' * (len(unreadable) > 1)} cannot be read: {some(unreadable)}"
        if unreadable and not self.skip_unreadable:
            raise ConfigError(
                f"data.root={root}: {counted}; replace or remove them, or leave them out with data.skip_unreadable=true"
            )
        _check_classes(root, dataset)
        _tell(root, [f"{counted}; left out", *_no_test(dataset.fine_names, dataset.test.fine)] if unreadable else [])
        return dataset


def _tell(root: Path, remarks: list[str]) -> None:
    """In one line, so that an error that follows stands out."""
    if remarks:
        log.warning("data.root=%s: %s", root, "; ".join(remarks))


@remembered(2)
def _load(
    root: Path, pictures: Pictures, exclude: tuple[str, ...], share: float, seed: int
) -> tuple[Dataset, list[str]]:
    """The data set, and the names of files that are no images, with what Pillow said."""
    found = find_parts(root, list(exclude))
    classes = _classes(root, found)
    files = (
        _split(found["train"], classes, share, seed)
        if "test" not in found
        else {part: _labelled(found[part], classes) for part in ("train", "test")}
    )
    hashes, both = _hash_files(root, files)
    remarks = [*_left_aside(found), *_no_test(_names(classes), files["test"][1])]
    remarks += [f"{both} test images are training images, too (the same files)"] * bool(both)
    key = {"files": hashes, "pictures": pictures.key(), "classes": [list(c) for c in classes]}
    known = kept(key, partial(_decode, root, pictures, files, remarks))
    _tell(root, remarks)
    unreadable = known.about["unreadable"]
    parts = zip(parts_of(known), (files[part][0] for part in ("train", "test")), strict=True)
    bad = set(known.about.get("left_out", ()))  # of a cache from before there was this, nobody knows which they are
    named = len(bad) == len(unreadable)
    train, test = (
        replace(part, files=tuple(name for name in names if name not in bad) if named else ()) for part, names in parts
    )
    return _dataset(classes, train, test, known.about), unreadable


Files = dict[str, tuple[list[str], Tensor]]  # per part: paths relative to the root, and the class of each


def _classes(root: Path, found: dict[str, Found]) -> list[Class]:
    """The finest classes in the order of their names. Raises ConfigError for one that has test images alone."""
    classes = sorted(found["train"].classes)
    if alone := sorted(set().union(*(part.classes for part in found.values())) - set(classes)):
        names = some(["/".join(c) for c in alone])
        raise ConfigError(f"data.root={root}: no training images of {names}; every class needs some in train/")
    return classes


def _labelled(found: Found, classes: list[Class]) -> tuple[list[str], Tensor]:
    files = [found.files.get(c, []) for c in classes]
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(of_class) for of_class in files]))
    return [name for of_class in files for name in of_class], labels


def _split(found: Found, classes: list[Class], share: float, seed: int) -> Files:
    """A share of each class for tests, of two images or more at least one; drawn by `seed`."""
    names, fine = _labelled(found, classes)
    counts = torch.bincount(fine, minlength=len(classes))
    wanted = (counts * share).round().clamp(min=1).minimum(counts - 1)
    is_test = drawn_from_each(fine, wanted, generator(seed, "folder", "split"))
    rows = {"train": (~is_test).nonzero().flatten(), "test": is_test.nonzero().flatten()}
    return {part: ([names[i] for i in of_part.tolist()], fine[of_part]) for part, of_part in rows.items()}


def _left_aside(found: dict[str, Found]) -> list[str]:
    ignored: Counter[str] = sum((part.ignored for part in found.values()), Counter())
    remarks = []
    if ignored:
        kinds = some([f"{n} {suffix}" for suffix, n in ignored.most_common()])
        remarks.append(f"ignored, as they are no images: {kinds}")
    for part in found.values():
        if part.loose:
            remarks.append(f"ignored: {part.loose} images beside the folders of the classes")
        if part.excluded:
            remarks.append(f"left out by data.exclude: {some(part.excluded)}")
    empty = [
        "/".join(filter(None, (name if len(found) > 1 else "", *c)))
        for name, part in found.items()
        for c in sorted(part.files.keys() - part.classes)
        if not any(inner[: len(c)] == c for inner in part.classes)
    ]
    return remarks + ([f"left out, as they hold no images: {some(empty)}"] if empty else [])


def _hash_files(root: Path, files: Files) -> tuple[dict[str, str], int]:
    """sha256 over the names, classes and contents of each part, and how many test images are training images, too.

    A copy, or a date that changes, changes nothing.
    """
    hashes, seen = {}, {}
    with console.counting("reading the images", sum(len(names) for names, _ in files.values())) as more:
        for part, (names, fine) in files.items():
            contents = []
            for block in hashed([root / name for name in names]):
                contents += block
                more(len(block))
            seen[part] = set(contents)
            hashes[part] = digest([list(triple) for triple in zip(names, fine.tolist(), contents, strict=True)])
    return hashes, len(seen["train"] & seen["test"] - {""})


def _decode(
    root: Path, pictures: Pictures, files: Files, remarks: list[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Pixels and classes of what can be read, in the order of `files`, and the names of what cannot.

    remarks: are told, and then gone.
    """
    _tell(root, ["decoding the images (once; kept in the cache)", *remarks])
    remarks.clear()
    parts, unreadable, left_out = {}, [], []
    with console.counting("decoding the images", sum(len(names) for names, _ in files.values())) as more:
        for part, (names, fine) in files.items():
            pile, good = Pile((pictures.channels, pictures.side, pictures.side)), []
            for block in _blocks(root, decoded(pictures, [root / name for name in names])):
                good += [isinstance(result, np.ndarray) for result in block]
                if readable := [result for result in block if isinstance(result, np.ndarray)]:
                    pile.add(np.stack(readable))
                more(len(block))
                of_block = names[len(good) - len(block) :]
                unreadable += _unreadable(of_block, block)
                left_out += [name for name, result in zip(of_block, block, strict=False) if isinstance(result, str)]
            parts[part] = Part(pile.tensor(), fine[torch.tensor(good, dtype=torch.bool)])
    if not len(parts["train"].fine):
        raise ConfigError(f"data.root={root}: no training image can be read: {some(unreadable)}")
    tensors, about = about_parts(**parts)
    return tensors, about | {"unreadable": unreadable, "left_out": left_out}


def _blocks(root: Path, blocks: Iterable[list[Result]]) -> Iterable[list[Result]]:
    try:
        yield from blocks
    except TooLarge as e:
        raise ConfigError(f"data.root={root}: {e}; allowed: data.max_pixels, which can be raised") from e


def _unreadable(names: list[str], block: list[Result]) -> list[str]:
    pairs = zip(names, block, strict=False)
    return [f"{printable(name)} ({result})" for name, result in pairs if isinstance(result, str)]


def _check_classes(root: Path, dataset: Dataset) -> None:
    """Raise ConfigError for a class without training images, and where no class has test images."""
    names = dataset.fine_names
    for part, images in (("training", dataset.train), ("test", dataset.test)):
        without = _without(names, images.fine)
        if without and (part == "training" or len(without) == len(names)):
            raise ConfigError(f"data.root={root}: no {part} image that can be read of {some(without)}")


def _no_test(names: Sequence[str], of_test: Tensor) -> list[str]:
    """A remark on classes without test images."""
    without = _without(names, of_test)
    return [f"no test images of {some(without)}, which cannot be a target"] if without else []


def _without(names: Sequence[str], fine: Tensor) -> list[str]:
    return [name for name, n in zip(names, torch.bincount(fine, minlength=len(names)).tolist(), strict=True) if not n]


def _names(classes: list[Class]) -> tuple[str, ...]:
    often = Counter(c[-1] for c in classes)
    return tuple(c[-1] if often[c[-1]] == 1 else "/".join(c) for c in classes)


def _dataset(classes: list[Class], train: Part, test: Part, about: dict[str, Any]) -> Dataset:
    deep = len(classes[0]) == 2
    coarse = sorted({c[0] for c in classes}) if deep else []
    names = _names(classes)
    return Dataset(
        name="folder",
        train=train,
        test=test,
        fine_names=names,
        coarse_names=tuple(coarse),
        coarse_of=tuple(coarse.index(c[0]) for c in classes) if deep else (),
        labels="coarse" if deep else "fine",
        aliases={normalize("NFD", name): name for name in coarse or names if normalize("NFD", name) != name},
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        fingerprint=about["fingerprint"],
    )
