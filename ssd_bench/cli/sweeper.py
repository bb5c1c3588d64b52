"""Sweeps: Hydra's grid as ever; under a parallel launcher its jobs share the work by an agenda."""

from __future__ import annotations

import logging
import pickle
import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from ssd_bench.cli.progress import Watch
from ssd_bench.core.errors import ConfigError
from ssd_bench.run import plan as planning

AGENDA = "SSD_BENCH_AGENDA"  # names a job's agenda, in its hydra.job.env_set: that reaches it under every launcher
log = logging.getLogger(__name__)

DIVERGED = 3  # exit code, told beside the row
REPORTED = "ssd_bench_reported"  # mark of an exception whose job has said all about it; it survives pickling
Batch = Sequence[Sequence[str]]  # the overrides of some jobs

runs = 0  # of the sweep in this process
told: list[dict[str, Any]] = []  # what other processes said about the runs that they ended


class WithAgenda:
    """What `hydra_plugins.ssd_bench` adds to Hydra's own sweeper."""

    def setup(self, *, hydra_context: HydraContext, config: DictConfig, **more: Any) -> None:
        self.parallel = is_parallel(config.hydra)
        if not self.parallel:
            hydra_context = replace(hydra_context, config_loader=Once(hydra_context.config_loader))
        super().setup(hydra_context=hydra_context, config=config, **more)
        self.launcher = Jobs(self, self.launcher)

    def validate_batch_is_legal(self, batch: Batch) -> None:
        """As Hydra does, every job is composed; in a parallel sweep what each has to make is looked up with it."""
        global runs
        runs, self.planned = sum(map(len, self.overrides)), []
        compose = self.hydra_context.config_loader.load_sweep_config
        for overrides, label in zip(batch, labels(batch, [*chain(*self.overrides)]), strict=True):
            cfg = compose(self.config, list(overrides))
            if self.parallel:
                self.planned.append(planned(cfg, label))


class Once:
    """Hydra's config loader, which composes a job once, to check it, and not again to start it."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader, self.composed = loader, {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A config of its own for each call: starting a job writes into it. Pickled it takes an eighth of the room."""
        key = tuple(sweep_overrides)
        if key not in self.composed:
            self.composed[key] = pickle.dumps(self.loader.load_sweep_config(master_config, sweep_overrides))
        return pickle.loads(self.composed[key])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class Jobs(Launcher):
    """Starts jobs by another launcher: under a parallel one tickets for an agenda, and shows how far they are."""

    def __init__(self, sweeper: WithAgenda, launcher: Launcher) -> None:
        self.sweeper, self.launcher = sweeper, launcher

    def setup(self, **_: Any) -> None:
        """The other launcher is set up already."""

    def launch(self, job_overrides: Batch, initial_job_idx: int) -> Sequence[Any]:
        """Raises what the other launcher raises; a job that failed and said so does not keep the next batch from it."""
        how = self._by_agenda if self.sweeper.parallel else self.launcher.launch
        returned = how(job_overrides, initial_job_idx)
        for job in returned:
            if job.status == JobStatus.FAILED and hasattr(job._return_value, REPORTED):
                job.status = JobStatus.COMPLETED
        return returned

    def _by_agenda(self, job_overrides: Batch, initial_job_idx: int) -> Sequence[Any]:
        """The agenda stays where the launcher was cut short, for tickets that are still at work."""
        from ssd_bench.run import cards
        from ssd_bench.run.agenda import Agenda

        cards.jobs_per_card()  # wrong for all jobs: said once, before any begins
        where = Path(self.sweeper.config.hydra.sweep.dir).absolute() / f"jobs-{uuid.uuid4().hex[:8]}"
        jobs, wanted = zip(*self.sweeper.planned, strict=True)
        agenda = Agenda.write(where, list(jobs), list(wanted), sys.path)
        of_all_jobs = self.sweeper.config.hydra.overrides.hydra
        with read_write(of_all_jobs):
            of_all_jobs.append(f"++hydra.job.env_set.{AGENDA}='" + str(where).replace("'", "\\'") + "'")
        try:
            with Watch(agenda, initial_job_idx, runs):
                returned = self.launcher.launch(job_overrides, initial_job_idx)
        finally:
            ended = [event for journal in agenda.journals().values() for event in journal if "row" in event]
            told.extend(ended)
        shutil.rmtree(where, ignore_errors=True)
        told_of = sum(bool(event["row"]) or event["code"] != DIVERGED for event in ended)
        if told_of < len(jobs):
            log.error("%d of %d runs could not tell how they ended: is there room?", len(jobs) - told_of, len(jobs))
            told.append({"row": None, "code": 1})
        return returned


def is_parallel(hydra_config: DictConfig) -> bool:
    """Whether the launcher runs jobs beside each other."""
    return not hydra_config.launcher._target_.endswith("BasicLauncher")


def labels(batch: Batch, sweep: Batch) -> list[str]:
    """What tells these jobs apart from the others of the sweep: the overrides that not all have."""
    common = set.intersection(*map(set, sweep))
    return [" ".join(o for o in overrides if o not in common) or "this job" for overrides in batch]


def planned(cfg: DictConfig, label: str) -> tuple[dict[str, Any], Any]:
    """A job for the agenda, and what it has to make; where that cannot be told here, the job will say why."""
    from ssd_bench.run.agenda import Wanted, wanted

    job = {"names": {group: str(cfg.hydra.runtime.choices[group]) for group in planning.GROUPS}, "label": label}
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    try:
        plan = planning.plan(cfg, job["names"])
    except ConfigError as e:
        return job | {"error": str(e), "config": {}}, Wanted(None, label, [])
    job |= {"config": plan.config, "device": plan.settings.device}
    try:
        return job, wanted(plan, label)
    except Exception:
        return job, Wanted(None, label, [])
