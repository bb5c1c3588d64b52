"""A job of a parallel sweep: a ticket to make what the sweep needs most just now, and one run of it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from ssd_bench.core.errors import ConfigError
from ssd_bench.run import cards, pipeline
from ssd_bench.run import plan as planning
from ssd_bench.run.agenda import Agenda
from ssd_bench.run.plan import Plan
from ssd_bench.run.schedule import Unit

log = logging.getLogger(__name__)

POLL_S = 0.1, 0.5  # while all that is left waits for what others are making: at first, and at most


def serve(folder: Path, run: Callable[[Agenda, Unit, str], None]) -> None:
    """Make what can be made now, again and again, until this ticket has done one run, or nothing is left.

    folder: of the agenda. run: does a run on this device.
    """
    agenda, pause, waited = Agenda(folder), POLL_S[0], 0.0
    sys.path += [path for path in agenda.content["modules"] if path not in sys.path]
    named = {job.get("device", "auto") for job in agenda.content["jobs"]}
    wanted = named.pop() if len(named) == 1 else "auto"
    while not agenda.over:
        with cards.leased(wanted) as device, agenda.claim() as unit:
            if unit:
                agenda.note(begin=unit.name, waited_s=waited)
                pause, waited = POLL_S[0], 0.0
                try:
                    _make(agenda, unit, device) if unit.alone else run(agenda, unit, device)
                except Exception:
                    agenda.finish(unit, parts=False)
                    raise
                finally:
                    agenda.note(end=unit.name)
                agenda.finish(unit)
                if not unit.alone:
                    return
                continue
        time.sleep(pause)
        waited += pause
        pause = min(1.3 * pause, POLL_S[1])


def plan_of(agenda: Agenda, unit: Unit, device: str) -> Plan:
    """The plan of a unit's run; device: of the card that is leased, for a run that says `auto`. Raises ConfigError."""
    job = agenda.content["jobs"][unit.run]
    if "error" in job:
        raise ConfigError(job["error"])
    return planning.plan(OmegaConf.create(job["config"]), job["names"]).on(device)


def _make(agenda: Agenda, unit: Unit, device: str) -> None:
    """What cannot be made is left to the runs that need it, which say why in their rows or in one line each."""
    try:
        plan = plan_of(agenda, unit, device)
        if not plan.settings.dry_run:
            pipeline.ahead(plan, unit.alone)
    except Exception as e:
        log.info("%s: %s: %s; left to the runs that need it", unit.label, type(e).__name__, " ".join(str(e).split()))
