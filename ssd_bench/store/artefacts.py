"""The content-addressed store: what is expensive is made once and found again by a hash of all that determines it.

An artefact is two files: tensors (`.safetensors`) and, written last, what is known about them (`.json`: the key in
full, the checksum of the tensors, the seconds they cost). It exists when the second file does. Locks are per artefact,
so processes that share a folder wait for each other only when they want the same thing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd_bench.core.errors import CannotWrite
from ssd_bench.store.address import digest
from ssd_bench.store.files import Damaged, clear_parts, set_aside, to_json, write_atomically
from ssd_bench.store.locks import hold

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


def save_tensors(
    path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None, durable: bool = True
) -> None:
    """One safetensors file, atomically. tensors: contiguous, on the CPU; about: kept in the file's header."""
    write_atomically(path, lambda part: save_file(_apart(tensors), part, about), durable)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, none of them in the memory of another, as tied weights are: safetensors keeps no two names for one."""
    seen: set[int] = set()
    result = {}
    for name, t in tensors.items():
        result[name] = t.clone() if t.data_ptr() in seen else t
        seen.add(t.data_ptr())
    return result


def checksum(tensors: dict[str, Tensor], about: str = "") -> str:
    """sha256 of tensors (contiguous, on the CPU) with their names, types and shapes, and of a text about them."""
    total = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        t = tensors[name]
        total.update(f"{name} {t.dtype} {list(t.shape)}".encode())
        total.update(t.view(-1).view(torch.uint8).numpy() if t.numel() else b"")
    return total.hexdigest()


class Store:
    """Artefacts under one folder. An optional store is a convenience: where it cannot be written, nothing is kept."""

    def __init__(self, root: Path, optional: bool = False) -> None:
        self.root = Path(root)
        self.optional = optional

    def path(self, kind: str, key: Any) -> Path:
        """Where the tensors of this artefact lie (or would)."""
        return self.root / "artefacts" / kind / f"{digest([kind, key])[:20]}.safetensors"

    def moved(self, path: str) -> str:
        """Where an artefact of this store lies now that lay at `path` when it was made."""
        return str(self.root.joinpath("artefacts", *Path(path).parts[-2:]))

    def get(self, kind: str, key: Any, locked: bool = False) -> Artefact | None:
        """The artefact if it is there and whole; a damaged one counts as missing.

        locked: the caller holds the lock under which it is made; a damaged one is set aside. Raises CannotWrite.
        """
        path = self.path(kind, key)
        sheet = path.with_suffix(".json")
        if not sheet.exists():
            return None
        if path in _recent:
            _recent.move_to_end(path)
            return _recent[path]
        try:
            return _remember(read_artefact(path))
        except Damaged as e:
            if locked:
                set_aside(sheet, e)
                set_aside(path, e)
            return None

    def put(self, kind: str, key: Any, tensors: dict[str, Tensor], about: dict[str, Any], cost_s: float) -> Artefact:
        """Keep tensors under this key."""
        path = self.path(kind, key)
        clear_parts(path)
        apart = {"device": "cpu", "copy": True, "memory_format": torch.contiguous_format}  # who handed them in goes on
        tensors = {name: t.detach().to(**apart) for name, t in tensors.items()}
        save_tensors(path, tensors)
        with path.open("rb") as file:
            sheet = {"kind": kind, "key": key, "sha256": file_digest(file, "sha256").hexdigest()}
        sheet |= {"bytes": path.stat().st_size, "cost_s": cost_s, "about": about}
        sheet = json.loads(to_json(sheet))  # as it will be read: its keys are texts
        text = to_json(sheet | {"sheet_sha256": digest(sheet)})
        write_atomically(path.with_suffix(".json"), lambda part: part.write_text(text))
        return _remember(Artefact(path, tensors, about, cost_s, found=True))

    def get_or_make(
        self,
        kind: str,
        key: Any,
        make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
        anew: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> Artefact:
        """The artefact, made by `make() -> (tensors, about)` if it is not there; one process makes, others wait.

        anew: make it although it is there. clock: what tells how long that took.
        """
        if not anew and (artefact := self.get(kind, key)):
            return artefact
        if self.optional:
            return self._make_even_if_not_kept(kind, key, make, clock)
        return self._make(kind, key, make, anew, clock)

    def _make_even_if_not_kept(
        self, kind: str, key: Any, make: Callable[[], Any], clock: Callable[[], float]
    ) -> Artefact:
        made = []
        try:
            return self._make(kind, key, lambda: made.append(make()) or made[0], False, clock)
        except CannotWrite as e:
            log.warning("%s; going on without keeping it", e)
            tensors, about = made[0] if made else make()
            return Artefact(self.path(kind, key), tensors, about, 0.0, found=False)

    def _make(self, kind: str, key: Any, make: Callable[[], Any], anew: bool, clock: Callable[[], float]) -> Artefact:
        with hold(self.path(kind, key).with_suffix(".lock"), kind):
            if not anew and (artefact := self.get(kind, key, locked=True)):
                return artefact
            start = clock()
            tensors, about = make()
            return replace(self.put(kind, key, tensors, about, clock() - start), found=False)


class NoStore:
    """A store that keeps nothing."""

    def get_or_make(
        self, kind: str, key: Any, make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]], **how: Any
    ) -> Artefact:
        """What `make() -> (tensors, about)` makes; how: as `Store.get_or_make` takes it."""
        clock = how.get("clock", time.monotonic)
        start = clock()
        tensors, about = make()
        return Artefact(Path(kind, digest([kind, key])[:20]), tensors, about, clock() - start, found=False)


def read_artefact(path: Path) -> Artefact:
    """The artefact whose tensors lie at `path`. Raises Damaged unless both its files are there, as they were made."""
    try:
        known = json.loads(path.with_suffix(".json").read_text())
        if known.pop("sheet_sha256") != digest(known):
            raise ValueError("the checksum of its .json differs")
        with path.open("rb") as file:
            if file_digest(file, "sha256").hexdigest() != known["sha256"]:
                raise ValueError("its checksum differs")
        return Artefact(path, load_file(path), known["about"], known["cost_s"], found=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as e:
        raise Damaged(f"{type(e).__name__}: {e}" if isinstance(e, KeyError) else str(e)) from e


def forget_recent() -> None:
    """Read artefacts from disk again: what is in memory may have been changed."""
    _recent.clear()


def _remember(artefact: Artefact) -> Artefact:
    _recent[artefact.path] = artefact
    while len(_recent) > _RECENT:
        _recent.popitem(last=False)
    return artefact
