"""The content-addressed store: what is expensive is made once and found again by a hash of all that determines it.

An artefact is two files: tensors (`.safetensors`) and, written last, what is known about them (`.json`: the key in
full, the checksum of the tensors, the seconds they cost). It exists when the second file does. Locks are per artefact,
so processes that share a folder wait for each other only when they want the same thing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd_bench.config import writable

log = logging.getLogger(__name__)

_recent: OrderedDict[Path, Artefact] = OrderedDict()  # the jobs of a sweep share what was just used
_RECENT = 6


@dataclass(frozen=True)
class Artefact:
    """Tensors on the CPU (not to be changed in place) and what is known about them."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]
    cost_s: float  # seconds that making it took
    found: bool  # it was there already


def digest(key: Any) -> str:
    """sha256 of a JSON-able key, the same whatever the order of its dictionaries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write` fills a temporary file beside `path`, which then takes its place whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would shut out the others in a shared folder
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Human-readable JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text))


def hold(path: Path, what: str) -> AcquireReturnProxy:
    """The lock at `path`, held by the `with` that it is used in. It is let go of when its process ends, however."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that is making the same %s", what)
        return lock.acquire()


class Store:
    """Artefacts under one folder. An optional store is a convenience: where it cannot be written, nothing is kept."""

    def __init__(self, root: Path, optional: bool = False) -> None:
        self.root = Path(root)
        self.optional = optional

    def path(self, kind: str, key: Any) -> Path:
        """Where the tensors of this artefact lie (or would)."""
        return self.root / "artefacts" / kind / f"{digest([kind, key])[:20]}.safetensors"

    def get(self, kind: str, key: Any) -> Artefact | None:
        """The artefact if it is there and whole; a damaged one is set aside and counts as missing."""
        path = self.path(kind, key)
        sheet = path.with_suffix(".json")
        if not sheet.exists():
            return None
        if path in _recent:
            _recent.move_to_end(path)
            return _recent[path]
        try:
            known = json.loads(sheet.read_text())
            with path.open("rb") as file:
                if file_digest(file, "sha256").hexdigest() != known["sha256"]:
                    raise ValueError("its checksum differs")
            artefact = Artefact(path, load_file(path), known["about"], known["cost_s"], found=True)
        except (OSError, ValueError, KeyError) as e:
            log.warning("%s is damaged (%s); set aside and made again", path, e)
            for part in (sheet, path):
                if part.exists():
                    os.replace(part, part.with_name(part.name + ".damaged"))
            return None
        return _remember(artefact)

    def put(self, kind: str, key: Any, tensors: dict[str, Tensor], about: dict[str, Any], cost_s: float) -> Artefact:
        """Keep tensors under this key."""
        path = self.path(kind, key)
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        write_atomically(path, lambda part: save_file(tensors, part))
        with path.open("rb") as file:
            checksum = file_digest(file, "sha256").hexdigest()
        sheet = {"kind": kind, "key": key, "sha256": checksum, "bytes": path.stat().st_size}
        write_json(path.with_suffix(".json"), sheet | {"cost_s": cost_s, "about": about})
        return _remember(Artefact(path, tensors, about, cost_s, found=True))

    def get_or_make(
        self,
        kind: str,
        key: Any,
        make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
        anew: bool = False,
    ) -> Artefact:
        """The artefact, made by `make() -> (tensors, about)` if it is not there; one process makes, others wait.

        anew: make it although it is there.
        """
        if not anew and (artefact := self.get(kind, key)):
            return artefact
        if self.optional and not writable(self.root):
            tensors, about = make()
            return Artefact(self.path(kind, key), tensors, about, 0.0, found=False)
        with hold(self.path(kind, key).with_suffix(".lock"), kind):
            if not anew and (artefact := self.get(kind, key)):
                return artefact
            start = time.monotonic()
            tensors, about = make()
            return replace(self.put(kind, key, tensors, about, time.monotonic() - start), found=False)


def _remember(artefact: Artefact) -> Artefact:
    _recent[artefact.path] = artefact
    while len(_recent) > _RECENT:
        _recent.popitem(last=False)
    return artefact
