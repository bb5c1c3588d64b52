"""Where and when a row was made."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ssd_bench import __version__
from ssd_bench.run.plan import PACKAGE


def environment(device: torch.device, started: datetime, finished: datetime) -> dict[str, Any]:
    """Where and when a row was made."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    commit, dirty = _git()
    return {
        "ssd_bench": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "cuda": _cuda() if device.type == "cuda" else None,
        "git": commit,
        "git_dirty": dirty,
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def _cuda() -> dict[str, Any]:
    """Versions of what computes on a GPU."""
    driver = Path("/proc/driver/nvidia/version")
    known = re.search(r"\d+\.[\d.]+", driver.read_text()) if driver.exists() else None
    versions = {"runtime": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return versions | {"driver": known and known[0]}


@lru_cache(maxsize=1)
def processor() -> str:
    """Name of the CPU, and the instructions that PyTorch uses of it: both decide how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor() or platform.machine())}, {torch.backends.cpu.get_cpu_capability()}"


def commit() -> str | None:
    """Of the source tree that this runs from, with a + if it was changed; None for an installed wheel."""
    known, dirty = _git()
    return known and known[:7] + "+" * bool(dirty)


@lru_cache(maxsize=1)
def _git() -> tuple[str | None, bool | None]:
    """Commit of the source tree this runs from and whether it was changed; None for an installed wheel."""
    if not (PACKAGE.parent / ".git").exists():
        return None, None
    try:
        ask = [["rev-parse", "HEAD"], ["status", "--porcelain"]]
        commit, status = (
            subprocess.run(["git", "-C", PACKAGE.parent, *a], capture_output=True, text=True, check=True).stdout.strip()
            for a in ask
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(status)
