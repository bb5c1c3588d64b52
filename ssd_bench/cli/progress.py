"""How far a sweep is: k of n, what is running, and the time left."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ssd_bench.core.console import LINE_EVERY_S, clock, stderr

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
NAMED = 4  # of what is running, at most

_last = float("-inf")  # when the last line was written


def between_jobs(ended: int, runs: int, begun: float) -> None:
    """A line now and then, from the process that does one run after the other. begun: when (monotonic seconds)."""
    global _last
    now = time.monotonic()
    if ended < runs and now - max(_last, begun) >= LINE_EVERY_S:
        _last = now
        log.info("%d of %d runs, about %s left", ended, runs, clock((now - begun) / ended * (runs - ended)))


class Watch:
    """Watches an agenda while it lasts, from the process that started the sweep: a bar, or a line now and then."""

    def __init__(self, agenda: Any, before: int, runs: int) -> None:
        self.agenda, self.before, self.runs = agenda, before, runs
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        if not stderr.is_terminal:
            while not self.over.wait(LINE_EVERY_S):
                ended, text = self._look()
                log.info("%d of %d runs; %s", ended, self.runs, text)
            return
        columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
        with Progress(*columns, console=stderr, transient=True) as bars:
            bar = bars.add_task("", total=self.runs)
            while not self.over.wait(LOOK_EVERY_S):
                ended, text = self._look()
                bars.update(bar, completed=ended, description=text)

    def _look(self) -> tuple[int, str]:
        """How many runs have ended, and what is running and how long that and the rest will take."""
        units, done = self.agenda.schedule.units, self.agenda.done()
        ended = self.before + sum(name in done for name, unit in units.items() if not unit.alone)
        running, spent = _at_work(self.agenda.journals().values())
        made = self.agenda.schedule.cost() - self.agenda.schedule.cost(done)
        named = [units[name].label for name in dict.fromkeys(running) if name not in done]  # those of killed ones, too
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        text = f"running: {', '.join(named[:NAMED])}{more}" if named else "nothing runs"
        if made and spent and named:
            left = self.agenda.schedule.ideal(len(named), done) * spent / made  # tickets come close to that
            text += f"; about {clock(left)} left"
        return ended, text


def _at_work(journals: Any) -> tuple[list[str], float]:
    """What is being made, and how many seconds have been spent on what was made, all processes together."""
    running, spent = [], 0.0
    for events in journals:
        begun = {}
        for event in events:
            if "begin" in event:
                begun[event["begin"]] = event["at"]
            elif "end" in event:
                spent += event["at"] - begun.pop(event["end"], event["at"])  # a full disk loses lines
        running += begun
    return running, spent
