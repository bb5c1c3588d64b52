"""The terminal: one console for tables, one for log lines and progress, which never disturb each other."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

log = logging.getLogger(__name__)

Part = TypeVar("Part", bound=Sized)

stderr = Console(stderr=True)
bars_allowed = True  # the command line switches them off where parallel jobs share the terminal

LINE_EVERY_S = 30.0  # plain progress lines, where there is no terminal
BAR_EVERY_S = 0.5  # and how often a bar moves; what is done sooner shows none
LONG_S = 3600.0  # an estimate above this is worth a word


def log_handler() -> logging.Handler:
    """The handler of Hydra's logging config: rich on a terminal, plain lines otherwise (rich would wrap them)."""
    if stderr.is_terminal:
        return RichHandler(console=stderr, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    return handler


@contextmanager
def quiet(name: str, level: int) -> Iterator[None]:
    """Nothing below this level from this logger and those under it, for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def stdout() -> Console:
    """For tables. A file or a pipe has no width, so nothing is wrapped there."""
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=1000)


def size(n_bytes: float) -> str:
    """Bytes in the unit that suits them."""
    power = min(3, max(0, len(str(int(n_bytes))) - 1) // 3)
    return f"{n_bytes / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB')[power]}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def _bars() -> Bars | None:
    """A bar that vanishes when it is done; None where there is no terminal of its own."""
    if not (stderr.is_terminal and bars_allowed):
        return None
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    return Bars(*columns, console=stderr, transient=True)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with how many more are done: a bar on a terminal, a line now and then elsewhere, each with
    what is left."""
    bars, bar, done = _bars(), None, 0
    start = last = time.monotonic()

    def more(n: int) -> None:
        nonlocal bar, done, last
        done, now = done + n, time.monotonic()
        if not done or now - last < (BAR_EVERY_S if bars else LINE_EVERY_S):
            return
        last = now
        if not bars:
            log.info("%s: %d of %d, %s left", what, done, total, clock((now - start) / done * (total - done)))
        elif bar is None:
            shown.enter_context(bars)
            bar = bars.add_task(what, total=total, completed=done)
        else:
            bars.update(bar, completed=done)

    with ExitStack() as shown:
        yield more


@contextmanager
def counted(what: str, parts: Sequence[Part]) -> Iterator[Iterator[Part]]:
    """The parts one after the other, and how many of all that they hold are done, as `counting` shows it."""

    def each() -> Iterator[Part]:
        for part in parts:
            yield part
            more(len(part))

    with counting(what, sum(map(len, parts))) as more:
        yield each()


class Progress:
    """Loss, accuracy and remaining time of a training: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, steps: int, epochs: int) -> None:
        self.what, self.steps, self.epochs = what, steps, epochs
        self.before, self.done, self.warned = 0, 0, False
        self.bars = _bars()

    def __enter__(self) -> Progress:
        self.start = self.last = time.monotonic()
        if self.bars:
            self.bars.start()
            self.bar = self.bars.add_task(self.what, total=self.steps)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def begin(self, done: int) -> None:
        """These many steps were done before this process."""
        self.before = done
        if self.bars:
            self.bars.update(self.bar, completed=done)

    def step(self, epoch: int, images: int, seen: Any) -> None:
        """One step is done; `seen` holds summed loss and correct answers of this epoch and is read only when shown."""
        self.done += 1
        now = time.monotonic()
        left = (now - self.start) / self.done * (self.steps - self.before - self.done)
        if not self.warned and self.done >= 20 and now - self.start > 5:
            self.warned = True
            if left > LONG_S:
                log.info(
                    "%s will take about %s more. Cheaper: fewer train.epochs, model=resnet18_slim, "
                    "data.train_per_class, or a GPU",
                    self.what,
                    clock(left),
                )
        if now - self.last < (BAR_EVERY_S if self.bars else LINE_EVERY_S):
            return
        self.last = now
        loss, correct = seen.tolist()
        where = f"{self.what}: epoch {epoch}/{self.epochs}"
        text = f"{where}, loss {loss / images:.3f}, accuracy {100 * correct / images:.1f} %"
        if self.bars:
            self.bars.update(self.bar, completed=self.before + self.done, description=text)
        else:
            log.info("%s, %s left", text, clock(left))
