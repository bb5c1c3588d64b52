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

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ssd_bench.core.console import clock
from ssd_bench.core.errors import Diverged
from ssd_bench.store.artefacts import Store, checksum, save_tensors
from ssd_bench.store.files import Damaged, clear_parts, set_aside
from ssd_bench.store.locks import hold
from ssd_bench.train import devices
from ssd_bench.train.loop import Position

log = logging.getLogger(__name__)

EVERY_S = 120.0


@dataclass
class Checkpoint:
    """The checkpoint of one call of `training.fit`."""

    path: Path
    start: float = field(default_factory=lambda: time.monotonic())
    earlier_s: float = 0.0  # what processes that were killed had put into this training
    aside_s: float = 0.0  # spent on reading and writing checkpoints

    def __post_init__(self) -> None:
        self.last = self.start

    def due(self) -> bool:
        """Whether it is time for one in the middle of an epoch."""
        return time.monotonic() - self.last > EVERY_S

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        draws: Tensor,
        at: Position,
        kept: dict[str, Tensor],
    ) -> None:
        """Replace what is there. draws: the generator's state at the start of epoch `at.epoch`."""
        devices.synchronise(next(model.parameters()).device)  # what it still has to do is training
        begun = time.monotonic()
        tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(t) for name, t in state.items() if t is not None}
        tensors |= {f"kept.{name}": t for name, t in kept.items()} | {"draws": draws, "seen": at.seen}
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        spent = self.earlier_s + begun - self.start - self.aside_s
        state = json.dumps({"epoch": at.epoch, "batches": at.batches, "seconds": spent})
        save_tensors(self.path, tensors, {"state": state, "sha256": checksum(tensors, state)}, durable=False)
        self.last = time.monotonic()
        self.aside_s += self.last - begun

    def restore(
        self,
        what: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        draws_from: torch.Generator,
        kept: dict[str, Tensor],
    ) -> Position:
        """Put everything into the state that was saved; the start, where nothing was."""
        begun = time.monotonic()
        try:
            tensors, state = self.read()
        except FileNotFoundError:
            return Position()
        except Damaged as e:
            set_aside(self.path, e)
            return Position()
        model.load_state_dict(_under("model.", tensors))
        of_optimizer: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            i, key = name.split(".", 1)
            of_optimizer.setdefault(int(i), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": of_optimizer, "param_groups": groups})  # each to the device it belongs on
        for p, of_p in optimizer.state.items():  # and in the order of the parameter's memory, which is faster
            of_p.update({key: torch.empty_like(p).copy_(t) for key, t in of_p.items() if t.shape == p.shape})
        optimizer.zero_grad()
        draws_from.set_state(tensors["draws"])
        kept.update(_under("kept.", tensors))
        self.earlier_s = state["seconds"]
        self.aside_s += time.monotonic() - begun
        log.info("%s: goes on from epoch %d (%s of work are kept)", what, state["epoch"], clock(self.earlier_s))
        return Position(state["epoch"], state["batches"], tensors["seen"])

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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


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
