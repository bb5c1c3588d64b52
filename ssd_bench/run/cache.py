"""What a method keeps for later requests: made once, its cost told apart from the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_bench.core.errors import check_choice
from ssd_bench.core.seeds import seeded
from ssd_bench.store.address import digest
from ssd_bench.store.artefacts import Artefact, NoStore, Store, read_artefact
from ssd_bench.train import devices

COUNTS = ("shared", "request", "before")


@dataclass
class Cache:
    """`Context.cached`: what is worth keeping is made once, and its cost is told apart from the rest.

    clock: the call's, which counts what killed processes put into a training and leaves checkpoints out. keeps: whether
    what is made for one request is kept, too.
    """

    store: Store | NoStore
    address_of: Callable[[Any], Any]  # the method's own key -> all that determines what is kept under it
    device: torch.device
    parallel: bool = False  # whether other jobs share the machine
    aside_s: float = 0.0  # spent in here: making, but also waiting for another process, reading and writing
    cost_s: dict[str, dict[str, float]] = field(default_factory=dict)  # per kind and address: when it was made
    found: dict[str, bool] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    beside: bool = False  # whether any of it was made while other jobs shared the machine
    stale: Mapping[str, str] = field(default_factory=dict)  # kind -> path: handed out whatever the key, at no cost
    clock: Callable[[], float] = time.monotonic
    keeps: bool = True
    given: list[tuple[str, Tensor, int]] = field(default_factory=list)  # kind, tensor and its version when handed out
    _depth: int = 0
    _found_s: float = 0.0  # cost of what was found inside something that is being made

    def cached(
        self, kind: str, key: Any, make: Callable[[], dict[str, Tensor]], counts: str = "shared"
    ) -> dict[str, Tensor]:
        """The tensors (on the CPU, not to be changed) kept under this kind and key, made by `make()` if need be.

        counts: where its cost is told: shared, beside the call's; request, as the call's own, also where it is found;
        before, not at all, as it was with an earlier one.
        What `make` draws from global random numbers is seeded by the key, so that it is the same whoever makes it.
        """
        check_choice("counts", counts, COUNTS)
        if kind in self.stale:
            start = self.clock()
            self._note(kind, artefact := read_artefact(Path(self.stale[kind])), self.store)
            self.aside_s += self.clock() - start
            return artefact.tensors
        purpose, key = digest(key), self.address_of(key)

        def timed() -> tuple[dict[str, Tensor], dict[str, Any]]:
            with seeded(0, kind, purpose):
                tensors = make()
            devices.synchronise(self.device)
            return tensors, {"parallel": self.parallel or self.beside}

        devices.synchronise(self.device)
        start, self._depth = self.clock(), self._depth + 1
        store = self.store if self.keeps or counts != "request" else NoStore()
        try:
            artefact = store.get_or_make(kind, key, timed, clock=lambda: self.clock() + self._found_s)
        finally:
            self._depth -= 1
        if self._depth:  # made for something that is kept itself: its cost is part of that one's
            self._found_s += artefact.cost_s if artefact.found else 0.0
        else:
            self.aside_s += self.clock() - start - artefact.cost_s * (counts == "request")
            if counts == "shared":
                self.cost_s.setdefault(kind, {})[str(artefact.path)] = artefact.cost_s
        self._note(kind, artefact, store)
        return artefact.tensors

    def _note(self, kind: str, artefact: Artefact, store: Store | NoStore) -> None:
        self.beside |= bool(artefact.about.get("parallel"))
        self.found[kind] = artefact.found and self.found.get(kind, True)
        path = str(artefact.path)
        if path not in self.paths.values() and not isinstance(store, NoStore):
            several = sum(name.partition(".")[0] == kind for name in self.paths)
            self.paths[f"{kind}.{several}" if several else kind] = path
        self.given += [(kind, t, t._version) for t in artefact.tensors.values()]

    @property
    def shared_s(self) -> dict[str, float]:
        """Seconds that making it took, by kind."""
        return {kind: sum(each.values()) for kind, each in self.cost_s.items()}
