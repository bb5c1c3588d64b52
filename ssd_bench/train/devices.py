"""The device of a run: choosing it, making it deterministic, and measuring time and memory on it."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from ssd_bench.core.errors import ConfigError
from ssd_bench.train.passes import pass_clock

log = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, as malloc.h numbers them


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises ConfigError for a device that is not there."""
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name == "auto":
        return torch.device(there[1] if len(there) > 1 else "cpu")
    if name not in there:
        raise ConfigError(f"device={name} is not there; allowed on this machine: auto, {', '.join(there)}")
    return torch.device(name)


def use_threads(threads: str, parallel: bool) -> int:
    """Set the number of CPU threads; returns it."""
    if threads != "auto":
        torch.set_num_threads(int(threads))
    elif parallel:
        torch.set_num_threads(1)
    else:
        torch.set_num_threads(_default_threads)
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Let glibc's allocator hand out again what was freed, instead of giving it back to the system.

    Every step needs the buffers of the one before, and from the system they come page by page, which a training on a
    CPU feels. A process keeps the memory of its largest step. Numbers stay as they are; with another C library nothing
    happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, size in (MMAP_THRESHOLD, 2**30), (TRIM_THRESHOLD, 2**31 - 1):
            mallopt(option, size)


@contextmanager
def threads_kept() -> Iterator[None]:
    """The number of CPU threads, whatever is set inside, is afterwards what it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


_default_threads = torch.get_num_threads()  # torch's own choice: the physical cores, or OMP_NUM_THREADS


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ConfigError for TF32 without CUDA; warns, once, of bfloat16 on a CPU that is faster in float32."""
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError(f"precision=tf32 needs a CUDA device, not {device.type}; allowed there: float32, bfloat16")
    if precision == "bfloat16" and device.type == "cpu" and (longer := bfloat16_takes()):
        _warn_of_bfloat16(longer)


def bfloat16_takes() -> str:
    """How many times as long as float32 bfloat16 takes on this CPU, in words: nothing where it has units for it, or
    where PyTorch cannot tell.

    oneDNN's convolutions compute it with float32's units where x86-64 has AVX512 without BF16; without AVX512 it has
    none, and PyTorch takes its own, which are slow.
    """
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if ask is not None and not ask():
        return "over ten times"
    wide, units = (getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512", "avx512_bf16"))
    return "about twice" if wide and not units else ""


@cache
def _warn_of_bfloat16(longer: str) -> None:
    log.warning(
        "precision=bfloat16: this CPU has no units for it, so that convolutions take %s as long as in float32; "
        "precision=float32 makes a table of its own",
        longer,
    )


@contextmanager
def arithmetic(device: torch.device, precision: str, compile: bool = False) -> Iterator[list[str]]:
    """This precision and deterministic kernels while it lasts; yields what turned out not to be deterministic.

    float32 is float32 proper: PyTorch's own default lets a GPU round the inputs of convolutions to TF32. Of the
    attention kernels on CUDA, the one whose backward pass is not deterministic is switched off. compile: models are, or
    will be, compiled; PyTorch's compiler, which takes seconds to import, is told only then.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA needs for deterministic matrix products
    cuda, cudnn, fill = torch.backends.cuda, torch.backends.cudnn, torch.utils.deterministic
    flags = [
        (cuda.matmul, "allow_tf32"),
        (cudnn, "allow_tf32"),
        (cudnn, "benchmark"),
        (fill, "fill_uninitialized_memory"),
    ]
    before = [getattr(owner, name) for owner, name in flags]
    was = torch.get_deterministic_debug_mode()
    compiles = compile or "torch._inductor.config" in sys.modules
    efficient = cuda.mem_efficient_sdp_enabled()
    for (owner, name), value in zip(flags, (precision == "tf32", precision == "tf32", False, False), strict=True):
        setattr(owner, name, value)  # the last would write every new tensor twice
    _deterministic(1, compiles)
    cuda.enable_mem_efficient_sdp(False)
    try:
        with pass_clock.using(device, precision), _nondeterministic() as seen:
            yield seen
    finally:
        for (owner, name), value in zip(flags, before, strict=True):
            setattr(owner, name, value)
        _deterministic(was, compiles)
        cuda.enable_mem_efficient_sdp(efficient)


def _deterministic(mode: int, compiles: bool) -> None:
    """Deterministic kernels: 0: as they come, 1: a warning where there is none, 2: an error."""
    if compiles:
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)
    else:
        torch.set_deterministic_debug_mode(mode)


@contextmanager
def _nondeterministic() -> Iterator[list[str]]:
    """Collects PyTorch's warnings of kernels that are not deterministic; others are shown as ever."""
    seen: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_NO_DETERMINISTIC)
        show = warnings.showwarning

        def note(message: Warning | str, *rest: Any, **more: Any) -> None:
            if not re.match(_NO_DETERMINISTIC, str(message)):
                show(message, *rest, **more)
            elif (line := str(message).split(", but you set")[0]) not in seen:
                seen.append(line)
                log.warning("%s: the same command may not give the same bytes", line)

        warnings.showwarning = note
        yield seen


_NO_DETERMINISTIC = r"(?s).*does not have a deterministic implementation"


def free_bytes(device: torch.device) -> int:
    """Memory that the device has left; of what shares the host's, the host's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass
class Measured:
    """Wall time in seconds and peak memory in bytes of what ran inside `measured`."""

    seconds: float = 0.0
    peak_bytes: int = 0
    what: str = ""


@contextmanager
def measured(device: torch.device, clock: Callable[[], float] = time.monotonic) -> Iterator[Measured]:
    """Measure what runs inside by this clock, the device synchronised at both ends."""
    result = Measured()
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        resettable = _reset_peak()
        before = psutil.Process().memory_info().rss
    start = clock()
    yield result
    synchronise(device)
    result.seconds = clock() - start
    if device.type == "cuda":
        result.peak_bytes, result.what = torch.cuda.max_memory_allocated(device), "allocated on the GPU, peak"
    elif resettable:
        result.peak_bytes, result.what = max(0, _peak() - before), "growth of resident memory, peak"
    else:
        after = psutil.Process().memory_info().rss
        result.peak_bytes, result.what = max(0, after - before), "growth of resident memory, at the end"


def _reset_peak() -> bool:
    """Linux alone can forget the highest resident size so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
