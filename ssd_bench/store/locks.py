"""Locks, one a file: processes wait for each other only when they want the same thing."""

from __future__ import annotations

import logging
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from ssd_bench.core.errors import CannotWrite

log = logging.getLogger(__name__)


def hold(path: Path, what: str) -> AcquireReturnProxy:
    """The lock at `path`, held by the `with` that it is used in. It is let go of when its process ends, however.

    Raises CannotWrite.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a process killed on another node
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that is making the same %s", what)
            return lock.acquire()
    except OSError as e:
        raise CannotWrite.at(path, e) from e


def take(path: Path) -> FileLock | None:
    """The lock at `path`, to be released by whoever got it; None if another process has it. Raises CannotWrite."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock
    except OSError as e:
        raise CannotWrite.at(path, e) from e
