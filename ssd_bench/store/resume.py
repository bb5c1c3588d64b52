"""Trainings that are killed go on: a checkpoint after every epoch, and every `EVERY_S` seconds inside a long one.

It holds all that the rest of a training depends on, so that a training that went on ends with the same bytes as one
that was never interrupted. One file, replaced as a whole; a damaged one is noticed and set aside, and training starts
anew.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssd_bench.core.console import clock
from ssd_bench.core.errors import Diverged
from ssd_bench.store.artefacts import Store, checksum, save_tensors
from ssd_bench.store.files import Damaged, clear_parts, set_aside
from ssd_bench.store.locks import hold

log = logging.getLogger(__name__)

EVERY_S = 120.0


@dataclass
class Checkpoint:
    """The checkpoint of one call of `train.loop.fit`."""

    path: Path
    start: float = field(default_factory=lambda: time.monotonic())
    earlier_s: float = 0.0  # what processes that were killed had put into this training
    aside_s: float = 0.0  # spent on reading and writing checkpoints

    def __post_init__(self) -> None:
        self.last = self.start

    def due(self) -> bool:
        """Whether it is time for one in the middle of an epoch."""
        return time.monotonic() - self.last > EVERY_S

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace what is there."""
        begun = time.monotonic()
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        text = json.dumps(state | {"seconds": self.earlier_s + begun - self.start - self.aside_s})
        save_tensors(self.path, tensors, {"state": text, "sha256": checksum(tensors, text)}, durable=False)
        self.last = time.monotonic()
        self.aside_s += self.last - begun

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved; None where nothing was, or where it is damaged (it is set aside then)."""
        begun = time.monotonic()
        try:
            tensors, state = self.read()
        except FileNotFoundError:
            return None
        except Damaged as e:
            set_aside(self.path, e)
            return None
        self.earlier_s = state["seconds"]
        self.aside_s += time.monotonic() - begun
        log.info("%s of work are kept", clock(self.earlier_s))
        return tensors, state

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What was saved. Raises FileNotFoundError, or Damaged."""
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if checksum(tensors, about.get("state", "")) != about.get("sha256"):
                raise ValueError("its checksum differs")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, SafetensorError) as e:
            raise Damaged(str(e)) from e
        return tensors, json.loads(about["state"])


@dataclass
class Checkpoints:
    """The checkpoints of one artefact: one for each call of `fit` on the way to it."""

    path: Path
    made: list[Checkpoint] = field(default_factory=list)

    def __call__(self, name: str) -> Checkpoint:
        """A new one. name: the same when the process is started again, another for each call of `fit`."""
        path = self.path.with_name(f"{self.path.stem}-{name.replace(' ', '-')}.safetensors")
        if any(path == other.path for other in self.made):
            raise ValueError(f"two checkpoints cannot both be called {name}")
        self.made.append(Checkpoint(path))
        return self.made[-1]

    def clock(self) -> float:
        """Seconds as they go by, those of killed processes included and those for checkpoints not."""
        return time.monotonic() + sum(c.earlier_s - c.aside_s for c in self.made)


@contextmanager
def checkpoints(store: Store, kind: str, key: Any, keep: bool = False) -> Iterator[Checkpoints]:
    """Checkpoints on the way to this artefact, which only this process may make meanwhile; gone when it is there.

    keep: it is not going to be; whoever asked for it calls `discard` when the checkpoints have served.
    """
    path = store.path("training", [kind, key])
    with hold(path.with_suffix(".lock"), kind):
        made = Checkpoints(path)
        clear_parts(path)
        try:
            yield made
        except Diverged:
            discard(store, kind, key)
            raise
        if not keep:
            discard(store, kind, key)


def discard(store: Store, kind: str, key: Any) -> None:
    """Remove the checkpoints on the way to this artefact, also those of a process that was killed before it did so."""
    path = store.path("training", [kind, key])
    for checkpoint in path.parent.glob(f"{path.stem}-*.safetensors"):
        checkpoint.unlink(missing_ok=True)
