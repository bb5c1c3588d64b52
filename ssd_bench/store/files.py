"""Files that exist whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ssd_bench.core.errors import CannotWrite

log = logging.getLogger(__name__)


class Damaged(Exception):
    """An artefact is not what was written."""


YOUNG_S = 3600.0  # no single file takes that long to write
PART = ".part-"  # what temporary files begin with: a process that is killed leaves its own behind


def find(folder: Path, *patterns: str, links: bool = True) -> list[Path]:
    """The files under a folder whose paths end as one of these patterns (as of `Path.match`) says, sorted.

    links: search folders that are links as well, such as those that were moved to another disk; no folder twice.
    """
    seen, found = set(), []
    for place, folders, names in os.walk(folder, followlinks=links):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link back, or to what is there anyway
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below = Path(place).relative_to(folder)
        found += [Path(place, name) for name in names if any((below / name).match(pattern) for pattern in patterns)]
    return sorted(found)


def write_atomically(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
    """`write` fills a temporary file beside `path`, which then takes its place whole or not at all.

    durable: also when the machine loses power. Raises CannotWrite.
    """
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{PART}{path.name}-", dir=path.parent)
        os.close(handle)
        write(Path(name))
        if durable:
            with open(name, "rb+") as file:
                os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would shut out the others in a shared folder
        os.replace(name, path)
    except BaseException as e:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(e, SafetensorError | OSError):  # safetensors wraps what the system said
            raise CannotWrite.at(path, e) from e
        raise


def clear_parts(path: Path) -> None:
    """Remove what killed writers of `path`, and of files whose names begin like its, left behind.

    For the one who holds its lock. Young ones stay: not every file system knows locks.
    """
    for part in path.parent.glob(f"{PART}{path.stem}*"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > YOUNG_S:
                part.unlink()


def set_aside(path: Path, why: Exception) -> None:
    """Rename a damaged file, so that nobody takes it for a whole one and somebody can look at it. Raises CannotWrite.

    For the one who holds its lock: without, it may be whole again by now.
    """
    log.warning("%s is damaged (%s); set aside as *.damaged and made again", path, why)
    try:
        os.replace(path, path.with_name(path.name + ".damaged"))
    except FileNotFoundError:
        pass
    except OSError as e:
        raise CannotWrite.at(path, e) from e


def to_json(value: Any) -> str:
    """Human-readable JSON. Raises ValueError for NaN and infinity."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or in the folder that would have to hold it. Leaves nothing behind."""
    while not (folder.exists() or folder.is_symlink()) and folder != folder.parent:  # a link may lead nowhere
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
