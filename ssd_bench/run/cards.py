"""GPUs are leased: of the parallel jobs of one user on one machine, each that says `device=auto` has a card to itself,
or shares it with as many as SSD_BENCH_JOBS_PER_GPU allows.

A lease is a lock on a file named after the card and the place on it, in a folder of this user's on this machine; the
system lets go of it when its process ends, however it ends.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import torch

from ssd_bench.core.errors import ConfigError
from ssd_bench.store.locks import take

log = logging.getLogger(__name__)

POLL_S = 0.5
SHARED = "SSD_BENCH_JOBS_PER_GPU"
_last = 0  # the card that this process had: its kernels are loaded and its memory is cached there


def visible() -> list[str]:
    """What each visible card is called on every process of this machine, by its index in this one.

    CUDA_VISIBLE_DEVICES gives a card another index, but not another UUID.
    """
    if not torch.cuda.is_available():
        return []
    about = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [str(getattr(card, "uuid", None) or _on_bus(card, i)) for i, card in enumerate(about)]


def _on_bus(card: object, index: int) -> str:
    bus, device = getattr(card, "pci_bus_id", None), getattr(card, "pci_device_id", 0)
    return f"index-{index}" if bus is None else f"pci-{getattr(card, 'pci_domain_id', 0)}-{bus}-{device}"


def folder() -> Path:
    """Where the leases lie. Raises ConfigError where somebody else has made that folder."""
    path = Path(tempfile.gettempdir()) / f"ssd-bench-cards-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise ConfigError(f"{path}, where GPUs are leased, belongs to somebody else; set TMPDIR to a folder of yours")
    return path


def jobs_per_card() -> int:
    """How many parallel jobs may share a card. Raises ConfigError."""
    value = os.environ.get(SHARED, "1")
    if not (value.isdecimal() and int(value)):
        raise ConfigError(f"{SHARED} must be a whole number from 1 on, got {value}")
    return int(value)


@contextmanager
def leased(wanted: str = "auto") -> Iterator[str]:
    """The device of a parallel job: on `auto` the first place on a card that nobody has leased: all first places
    before any second one.

    wanted: the device that the job names; one that is not `auto` is not leased. Where there are no cards, nothing is.
    """
    global _last
    places = jobs_per_card()
    cards = visible() if wanted == "auto" else []
    if not cards:
        yield wanted
        return
    where, told = folder(), False
    while True:
        for place, index in product(range(places), sorted(range(len(cards)), key=lambda i: i != _last)):
            if lock := take(where / (f"{cards[index]}.lock" if place == 0 else f"{cards[index]}-{place}.lock")):
                _last = index
                try:
                    yield f"cuda:{index}"
                finally:
                    lock.release()
                return
        if not told:
            log.info("all %d GPUs are leased to other jobs; waiting for one (%s=4: four share it)", len(cards), SHARED)
        told = True
        time.sleep(POLL_S)
