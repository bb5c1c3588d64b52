"""An error that is nobody's input: the lines that matter of its traceback, and in what of the user's it was."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path

import hydra
import omegaconf

from ssd_bench.run.plan import PACKAGE

_MACHINERY = tuple(str(Path(m.__file__).parent) for m in (hydra, omegaconf)) + tuple(
    str(PACKAGE / room) for room in ("cli", "run", "store")
)


def explain(error: BaseException) -> str:
    """The traceback without what leads up to it (Hydra, and the stages of a run), and where a method, metric or other
    part that a user brought failed, a last line that names it."""
    frames = traceback.extract_tb(error.__traceback__)
    start = next((i for i, f in enumerate(frames) if not _is_machinery(f.filename)), None)
    if start is None or str(PACKAGE) in frames[start].filename:  # ours: whoever mends it wants all of it
        start = next((i for i, f in enumerate(frames) if str(PACKAGE) in f.filename), 0)
        return _text(error, frames[start:])
    where = next((note.removeprefix("in ") for note in getattr(error, "__notes__", ()) if note.startswith("in ")), "")
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{_text(error, frames[start:])}\nssd-bench: {where or frames[start].filename} failed ({what})"


def _is_machinery(filename: str) -> bool:
    return filename.startswith((*_MACHINERY, "<frozen", contextlib.__file__))


def _text(error: BaseException, frames: list[traceback.FrameSummary]) -> str:
    last = traceback.TracebackException.from_exception(error).format_exception_only()
    return "".join(["Traceback (most recent call last):\n", *traceback.format_list(frames), *last]).rstrip("\n")
