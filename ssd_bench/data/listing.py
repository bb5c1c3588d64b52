"""Image files in folders named after their classes: found, counted, and refused where they are not what they seem."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from ssd_bench.core.errors import ConfigError

SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm".split())
JUNK = frozenset("__MACOSX .git .ipynb_checkpoints .thumbnails .Trashes .Spotlight-V100 .fseventsd @eaDir".split())
HELD_OUT = ("test", "val")  # beside train/, as data sets are handed around; the first that is there
SHOWN = 5  # names in one message

log = logging.getLogger(__name__)

Class = tuple[str, ...]  # (class,) or (class, sub-class)


@dataclass
class Found:
    """What lies under one folder of classes. Paths are relative to the root of the data."""

    files: dict[Class, list[str]] = field(default_factory=dict)  # by class, also for classes without images
    loose: int = 0  # images beside the folders of the classes
    excluded: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)  # no images, by suffix
    refused: list[str] = field(default_factory=list)  # with the reason

    @property
    def classes(self) -> set[Class]:
        """Those that hold images."""
        return {name for name, files in self.files.items() if files}


def some(names: list[str]) -> str:
    """The first of them, and how many more."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def printable(name: str) -> str:
    """A name as it can be shown in a line: control characters and what is no text are escaped."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: ascii(match[0])[1:-1], text)


def find_parts(root: Path, exclude: list[str]) -> dict[str, Found]:
    """What lies under `root`: parts "train" and "test" (val/ stands in for it), or "train" alone without either.

    exclude: names of class folders that are left out. Raises ConfigError where it is no folder of classes.
    """
    if not root.is_dir():
        raise ConfigError(f"data.root={root} is no folder; give one that holds a folder of images for each class")
    folders = {"train": "train"} if _is_part(root / "train") else {"train": ""}
    there = [name for name in HELD_OUT if _holds_folders(root / name)] or ["test"] * (root / "test").is_dir()
    if folders["train"] and there:
        folders["test"] = there[0]
        if there[1:]:
            log.info("data.root=%s: test images are those of %s/; %s/ is left alone", root, *there)
    elif not folders["train"] and (alone := [name for name in there if _is_part(root / name)]):
        raise ConfigError(
            f"data.root={root} has {alone[0]}/ and no train/; allowed: both, train/ alone, or the classes"
        )
    parts = {}
    for part, top in folders.items():
        parts[part] = Found()
        if not (root / top).resolve().is_relative_to(root.resolve()):
            raise ConfigError(f"data.root={root}: refused: {top} (a link that leads out of the folder); remove it")
        _scan(parts[part], root, root.resolve(), top, (), frozenset(exclude))
    if refused := [name for found in parts.values() for name in found.refused]:
        raise ConfigError(f"data.root={root}: refused: {some(refused)}; remove or rename them")
    _check_layout(root, folders["train"], [name for found in parts.values() for name in sorted(found.classes)])
    return parts


def _is_part(folder: Path) -> bool:
    """Whether a folder called train or test holds classes. One that holds images is a class of that name."""
    if not folder.is_dir():
        return False
    return not any(_is_image(entry) and not entry.is_dir() for entry in os.scandir(folder))


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() and entry.name not in JUNK for entry in os.scandir(folder))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in SUFFIXES and not entry.name.startswith("._")  # which a Mac leaves behind


def _scan(found: Found, root: Path, real: Path, inside: str, of: Class, exclude: frozenset[str]) -> None:
    """Note what lies in the folder `inside` of the root, which holds class `of`. real: the root without links."""
    if of:
        found.files.setdefault(of, [])
    for entry in sorted(os.scandir(root / inside), key=lambda entry: entry.name):
        name, is_folder = os.path.join(inside, entry.name), entry.is_dir()
        if entry.name in JUNK or not (is_folder or _is_image(entry)):
            found.ignored[Path(printable(entry.name)).suffix.lower() or printable(entry.name)] += 1
        elif is_folder and not of and entry.name in exclude:
            found.excluded.append(name)
        elif not of and not is_folder:
            found.loose += 1
        elif reason := _objection(entry, real, is_folder and len(of) == 2):
            found.refused.append(f"{printable(name)} ({reason})")
        elif is_folder:
            _scan(found, root, real, name, (*of, normalize("NFC", entry.name)), exclude)
        else:
            found.files[of].append(name)


def _objection(entry: os.DirEntry[str], real: Path, too_deep: bool) -> str | None:
    """Why a file or a folder cannot be taken; None where it can."""
    if printable(entry.name) != entry.name:
        return "its name is no printable text"
    if entry.is_symlink():
        try:
            leads_to = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):
            return "a link that leads nowhere"
        if not leads_to.is_relative_to(real):
            return "a link that leads out of the folder"
    if too_deep:
        return "deeper than CLASS/SUB_CLASS"
    return None if entry.is_dir() or entry.is_file() else "no regular file"


def _check_layout(root: Path, top: str, classes: list[Class]) -> None:
    """All classes hold images, or all hold folders of them, and there are at least two."""
    where = root / top
    if not classes:
        raise ConfigError(
            f"data.root={root} holds no folder with images; allowed: CLASS/*{{{','.join(sorted(SUFFIXES))}}}"
        )
    flat = next((c for c in classes if len(c) == 1), None)
    deep = next((c for c in classes if len(c) == 2), None)
    if flat and deep:
        raise ConfigError(
            f"data.root={root}: class {flat[0]} holds images and class {deep[0]} a folder of them, {deep[1]}; allowed: "
            "images in every class (CLASS/*), or folders in every class (CLASS/SUB_CLASS/*)"
        )
    if len({c[0] for c in classes}) == 1:
        only = classes[0][0]
        hint = f"; if its folders are the classes, give data.root={where / only}" if deep else ""
        raise ConfigError(f"data.root={where} holds one class, {only}; at least two are needed{hint}")
