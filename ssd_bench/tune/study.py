"""A study: trials of a method's settings on validation requests, against models trained without what is forgotten."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from ssd_bench.core.about import describe, describe_sets
from ssd_bench.core.console import clock
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.core.seeds import derive_seed, generator
from ssd_bench.core.task import compares
from ssd_bench.run import pipeline
from ssd_bench.run.estimate import passes
from ssd_bench.run.plan import GROUPS, Plan
from ssd_bench.scenarios.classes import find_class
from ssd_bench.scenarios.confusion import USUAL, Confusion
from ssd_bench.scenarios.corrective import Corrective
from ssd_bench.scenarios.hard import Hard
from ssd_bench.scenarios.listed import Listed
from ssd_bench.scenarios.sequence import Sequence
from ssd_bench.scenarios.sub_class import SubClass
from ssd_bench.store.address import address, digest
from ssd_bench.store.locks import take
from ssd_bench.store.rows import read_row
from ssd_bench.tune.space import Parameter

log = logging.getLogger(__name__)

REPORTED_SEEDS = 100  # training seeds below this are for tables; studies take others
WORST = 1000.0  # the score of a model that diverged, and the highest of all
POLL_S = 0.5
INSTEAD = {  # scenarios whose requests no seed changes, and what to tune in their place
    Sequence: "scenario=sub_class, full_class or random, whose settings a sequence takes",
    Hard: "scenario=random, whose settings hard images take",
    Listed: "scenario=random, whose settings listed images take",
}
TERMS = ("forget_train_acc", "retain_train_acc", "unseen_acc", "population_auc")
CORRECTED = ("forget_train_acc", "retain_train_acc", "corrected_acc", "kept_acc")  # attacks say nothing there
OVER = (TrialState.COMPLETE, TrialState.PRUNED)


def check_scenario(plan: Plan) -> None:
    """Raise ConfigError for a scenario of which there is but what tables report."""
    for kind, instead in INSTEAD.items():
        if isinstance(plan.scenario, kind):
            raise ConfigError(f"scenario={plan.names['scenario']} would tune on what tables report: tune {instead}")


@dataclass(frozen=True)
class Budget:
    """When a study is over: after this many trials, or as many hours of all its processes together."""

    trials: int = 20
    hours: float | None = None

    def __post_init__(self) -> None:
        if self.trials < 1 or (self.hours is not None and not self.hours > 0):
            raise ValueError(f"trials must be at least 1 and hours positive, got {self.trials} and {self.hours}")


@dataclass(frozen=True)
class Validation:
    """On what settings are tried: `requests` targets that are not reported, drawn by the study's seed, each with every
    training seed; `holdout` of each class's training images stand in for the test images, which nobody looks at."""

    targets: list[str] | None = None
    requests: int = 2
    seeds: list[int] = field(default_factory=lambda: [100, 101])
    holdout: float = 0.2

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ValueError(f"requests must be at least 1, got {self.requests}")
        if len(set(self.seeds)) < 2 or min(self.seeds) < REPORTED_SEEDS:
            raise ValueError(f"seeds must be at least two, from {REPORTED_SEEDS} on, got {list(self.seeds)}")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout must be between 0 and 1, got {self.holdout}")


@dataclass(frozen=True)
class Objective:
    """The mean over `terms` of |difference to the reference| / floor, where the floor of a term is its mean
    difference between references of two training seeds, and at least `least` (points, or 1 / 100 of a fraction).

    unseen_acc is the accuracy on D'_r in the class scenarios and on D' in the random one. Cost is the second objective:
    of the trials that are at most `slack` floors behind the best one, the one with the fewest image passes is taken.
    """

    terms: list[str] | None = None  # None: TERMS, or those of CORRECTED in a scenario that corrects
    least: float = 0.5
    slack: float = 0.1

    def __post_init__(self) -> None:
        if self.terms == [] or not self.least > 0 or not self.slack >= 0:
            raise ValueError(
                f"terms, a least above 0 and a slack from 0 on are needed, got {self.terms}, {self.least}, {self.slack}"
            )

    def values(self, metrics: dict[str, Any], scenario: str) -> dict[str, float]:
        """The terms of one row, in points. Raises ConfigError for one that it does not have."""
        metrics = {**metrics, "unseen_acc": metrics["test_acc" if scenario == "random" else "retain_acc"]}
        for term in self.terms:
            check_choice("objective.terms", term, [name for name, value in metrics.items() if value is not None])
        return {term: metrics[term] * (100 if term.endswith("_auc") else 1) for term in self.terms}


@dataclass(frozen=True)
class Sampling:
    """A study's name, the seed of its targets and of its sampler, and the trials at random before that one learns."""

    name: str | None = None
    seed: int = 0
    startup: int = 8

    def __post_init__(self) -> None:
        if self.seed < 0 or self.startup < 0:
            raise ValueError(f"seed and startup must be whole numbers from 0 on, got {self.seed} and {self.startup}")


@dataclass
class Study:
    """One method on one kind of request."""

    name: str
    method: str
    folder: Path  # of the study; runs of all studies lie beside it
    space: dict[str, Parameter]
    plan_of: Callable[[list[str]], Plan]  # overrides beside those of the command line -> a plan
    budget: Budget
    validation: Validation
    objective: Objective
    seed: int = 0
    startup: int = 8  # trials at random before the sampler learns from them
    own_space: bool = False  # instead of the package's, of a method that has one there

    def __post_init__(self) -> None:
        self.base = [f"out={self.folder.parent / 'runs'}", f"data.holdout={self.validation.holdout}"]
        self.base.append("protocol=published")
        self.tasks = list(self._tasks())
        usual = Objective([*(TERMS if self.reference == "retrain" else CORRECTED)])
        if self.objective.terms is None:
            self.objective = replace(self.objective, terms=usual.terms)
        self._check_terms()
        told = (
            f"objective.{key}={value}" for key, value in asdict(self.objective).items() if value != asdict(usual)[key]
        )
        # What it does otherwise than studies do, so that nobody takes it for one tuned alike.
        self.unlike = [*told, *(["another search space"] if self.own_space else [])]

    @property
    def reference(self) -> str:
        """The method whose model is to be come near to, as in the tables of the scenario."""
        return "clean" if isinstance(self.plan.scenario, Corrective) else "retrain"

    @cached_property
    def plan(self) -> Plan:
        """What all runs of the study have in common."""
        return self.plan_of(self.base)

    def _tasks(self) -> Iterator[list[str]]:
        """The overrides of each validation task: every target with every training seed."""
        plan = self.plan
        pairs = isinstance(plan.scenario, Confusion)
        if not (pairs or hasattr(plan.scenario, "target")):
            for request in range(self.validation.requests):
                for seed in self.validation.seeds:
                    yield [f"seed={seed}", f"seed_forget={REPORTED_SEEDS + request}"]
            return
        same = [] if self.reference == "retrain" else [f"seed_forget={REPORTED_SEEDS}"]  # whatever the training seed
        targets = self._targets(plan, 2 if pairs else 1)
        asked = zip(targets[::2], targets[1::2], strict=True) if pairs else targets
        key = "classes" if pairs else "target"
        for each in asked:
            for seed in self.validation.seeds:
                yield [f"seed={seed}", *same, f"scenario.{key}={json.dumps(each, ensure_ascii=False)}"]

    def _targets(self, plan: Plan, of_each: int) -> list[str]:
        """Those asked for, or drawn: so many for a request, and never one of the reported ones. Raises ConfigError."""
        dataset = plan.data.load()
        names = dataset.names("fine" if isinstance(plan.scenario, SubClass) else dataset.labels)

        def named(target: Any, setting: str = "scenario.target") -> str:
            return names[find_class(str(target), names, dataset.aliases, [], setting)]

        scenario = plan.scenario
        known = plan.data.targets.get(plan.names["scenario"], [])
        if of_each == 2:
            usual = [name for name in USUAL if name in names or int(name) < len(names)]
            asked = [*(scenario.classes or ()), *([] if known else usual)]
        else:
            asked = getattr(scenario, "targets", (scenario.target,))
        reported = {named(target) for target in (*known, *asked) if target is not None}
        wanted = [named(target, "validation.targets") for target in self.validation.targets or ()]
        for target in wanted:
            if target in reported:
                raise ConfigError(f"validation.targets={target} is a reported request; take others")
        if len(wanted) % of_each:
            raise ConfigError(f"validation.targets names {len(wanted)} classes; a request takes {of_each} here")
        free = [name for name in names if name not in reported]
        if len(free) < of_each * self.validation.requests:
            each = f", and a request takes {of_each}" if of_each > 1 else ""
            asked = self.validation.requests
            raise ConfigError(f"validation.requests={asked}: only {len(free)} targets are not reported{each}")
        drawn = torch.randperm(len(free), generator=generator(self.seed, "tune", "targets")).tolist()
        return wanted or [free[i] for i in drawn[: of_each * self.validation.requests]]

    @property
    def key(self) -> str:
        """Of all that decides on what trials mean."""
        plan = self.plan
        what = [{name: asdict(p) for name, p in self.space.items()}, asdict(self.validation), asdict(self.objective)]
        what += [getattr(plan, group) for group in GROUPS if group != "data"]
        what += [plan.evaluate, plan.metrics, plan.settings.precision]
        data = address(plan.data, without=("root", "file", "download")), plan.data.load().fingerprint
        return digest([*address([*what, self.seed, self.startup, self.tasks]), *data])

    def open(self) -> optuna.Study:
        """The study as it stands. Raises ConfigError for one of another space or version under this name."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "journal.log"
        lock = JournalFileOpenLock(str(path))
        _mend(path, lock)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        worst_quarter = 75.0  # of what was scored on the whole first request
        pruner = optuna.pruners.PercentilePruner(worst_quarter, n_warmup_steps=len(self.validation.seeds) - 1)
        study = optuna.create_study(storage=storage, study_name=self.name, pruner=pruner, load_if_exists=True)
        if study.user_attrs.setdefault("key", self.key) != self.key:
            raise ConfigError(f"{self.folder} holds a study of another space, protocol or version; give study.name=...")
        with FileLock(self.folder / "begin.lock"):
            if "key" not in study.user_attrs or not study.get_trials(deepcopy=False):
                study.set_user_attr("key", self.key)
                for params in self.first():
                    study.enqueue_trial(params, skip_if_exists=True)
        return study

    def first(self) -> list[dict[str, Any]]:
        """What is tried first, as far as it lies in the space: the published settings, those without any study."""
        settings = asdict(self.plan.method)
        return [{name: settings[name] for name, p in self.space.items() if p.holds(settings[name])}]

    def _check_terms(self) -> None:
        """Raise ConfigError for a term of the objective that none of the metrics finds, as far as they say so."""
        metrics = {name: metric for name, metric in self.plan.metrics.items() if not compares(metric)}
        if not all(getattr(metric, "about", None) for metric in metrics.values()):
            return
        known = {"unseen_acc", *describe(metrics), *describe_sets(self.plan.scenario)}
        usual = TERMS if self.reference == "retrain" else CORRECTED
        for term in self.objective.terms:
            if term in usual and term not in known:
                raise ConfigError(
                    f"metric=[{','.join(metrics)}] finds no {term}, which studies go by: add the metric that does, or "
                    "give objective.terms=[...]"
                )
            check_choice("objective.terms", term, known)

    def references(self) -> tuple[list[dict[str, float]], dict[str, float], float]:
        """The terms of the reference of each task, the floor of each term, and what all that is shared took in seconds
        when it was made: originals and references."""
        rows = [self._row(task, [f"method={self.reference}"]) for task in self.tasks]
        values = [self._terms(row) for row in rows]
        originals = {row["artefacts"]["original"]: row["times"]["train_original_s"] or 0.0 for row in rows}
        seconds = sum(originals.values()) + sum(row["times"]["method_s"] for row in rows)
        apart: dict[str, list[float]] = {term: [] for term in self.objective.terms}
        n = len(self.validation.seeds)
        for start in range(0, len(values), n):
            for one, other in combinations(values[start : start + n], 2):
                for term in apart:
                    apart[term].append(abs(one[term] - other[term]))
        return values, {term: max(self.objective.least, sum(d) / len(d)) for term, d in apart.items()}, seconds

    def run(self, told: Callable[[optuna.Study, optuna.trial.FrozenTrial], None]) -> optuna.Study:
        """Trials until the budget is spent; told: called after each."""
        if reason := pipeline.prepare(self.plan_of([*self.base, *self.tasks[0], f"method={self.method}"])).skipped:
            raise ConfigError(f"method={self.method} cannot be tuned here: {reason}")
        study = self.open()
        references, floors, seconds = self.references()
        study.set_user_attr("floors", floors)
        study.set_user_attr("references_s", seconds)
        while not self.over(study):
            if not (begun := self._begin(study)):  # others are at work on the last ones
                time.sleep(POLL_S)
                continue
            trial, lock = begun
            try:
                told(study, self._one(study, trial, references, floors))
            finally:
                lock.release()
        return study

    def _begin(self, study: optuna.Study) -> tuple[optuna.Trial, FileLock] | None:
        """The next trial, and the lock that shows that somebody is at work on it. One process at a time begins one.

        None where as many as the budget has are over or being tried.
        """
        with FileLock(self.folder / "begin.lock"):
            self._take_up(study)
            begun = study.get_trials(deepcopy=False)
            if sum(t.state in (*OVER, TrialState.RUNNING) for t in begun) >= self.budget.trials:
                return None
            seed = derive_seed(self.seed, "tune", len(begun)) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup)
            trial = study.ask()
            return trial, FileLock(self._lock(trial.number)).acquire().lock

    def over(self, study: optuna.Study) -> bool:
        """Whether the budget is spent."""
        done = [t for t in study.get_trials(deepcopy=False) if t.state in OVER]
        spent = sum(t.user_attrs.get("seconds", 0.0) for t in done)
        hours = self.budget.hours
        return len(done) >= self.budget.trials or (hours is not None and spent >= 3600 * hours)

    def _one(
        self, study: optuna.Study, trial: optuna.Trial, references: list[dict[str, float]], floors: dict[str, float]
    ) -> optuna.trial.FrozenTrial:
        """Score the settings of this trial on one task after the other, until they are hopeless."""
        start, settings, scores, cost = time.monotonic(), self._settings(trial), [], []
        state = TrialState.COMPLETE
        for i, (task, reference) in enumerate(zip(self.tasks, references, strict=True)):
            plan = self.plan_of([*self.base, *task, f"method={self.method}", "save_model=false", *settings])
            row = read_row(pipeline.run(plan))
            scores.append(self._score(row, reference, floors))
            cost.append((row["times"]["online_s"] or 0.0) + sum((row["times"]["shared_s"] or {}).values()))
            trial.report(sum(scores) / len(scores), i)
            if i + 1 < len(self.tasks) and trial.should_prune():
                state = TrialState.PRUNED
                break
        told = {"seconds": time.monotonic() - start, "scores": scores, "cost_s": sum(cost) / len(cost)}
        told["passes"] = passes(pipeline.prepare(plan))
        for name, value in told.items():
            trial.set_user_attr(name, value)
        return study.tell(trial, sum(scores) / len(scores) if state == TrialState.COMPLETE else None, state)

    def _settings(self, trial: optuna.Trial) -> list[str]:
        drawn = {name: parameter.suggest(trial, name) for name, parameter in self.space.items()}
        return [f"++method.{name}={json.dumps(value)}" for name, value in drawn.items()]

    def _row(self, task: list[str], overrides: list[str]) -> dict[str, Any]:
        return read_row(pipeline.run(self.plan_of([*self.base, *task, *overrides])))

    def _terms(self, row: dict[str, Any]) -> dict[str, float]:
        if row["status"] != "done":
            raise ConfigError(f"method={row['method']} is {row['status']} ({row['reason']}); it cannot be tuned here")
        return self.objective.values(row["metrics"], row["task"]["scenario"])

    def _score(self, row: dict[str, Any], reference: dict[str, float], floors: dict[str, float]) -> float:
        if row["status"] == "diverged":
            return WORST
        values = self._terms(row)
        score = sum(abs(values[t] - reference[t]) / floors[t] for t in floors) / len(floors)
        return min(score, WORST) if math.isfinite(score) else WORST

    def _lock(self, number: int) -> Path:
        return self.folder / f"trial-{number}.lock"

    def _take_up(self, study: optuna.Study) -> None:
        """Trials that nobody is at work on are told so, and their settings tried again. For the one who begins."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if lock := take(self._lock(trial.number)):
                lock.release()
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                study.enqueue_trial(trial.params, skip_if_exists=False)
                log.info("trial %d of a process that is gone is taken up again", trial.number)


def _mend(journal: Path, lock: JournalFileOpenLock) -> None:
    """Cut off a last line that a full disk or a kill left unfinished: the next one would be written behind it."""
    if journal.exists():
        lock.acquire()
        try:
            os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
        finally:
            lock.release()


def progress(study: optuna.Study, budget: Budget, trial: optuna.trial.FrozenTrial) -> str:
    """How far the study is, the best so far, and the time left."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state in OVER]
    value = "pruned" if trial.state == TrialState.PRUNED else f"{trial.value:.3g}"
    best = study.best_trial if any(t.state == TrialState.COMPLETE for t in trials) else None
    so_far = f"; best {best.value:.3g} in trial {best.number}: {shown(best.params)}" if best else ""
    mean = sum(t.user_attrs.get("seconds", 0.0) for t in trials) / len(trials)
    left = clock(mean * max(0, budget.trials - len(trials)))
    return f"trial {trial.number}: {value} ({len(trials)} of {budget.trials}){so_far}; about {left} left"


def shown(params: dict[str, Any]) -> str:
    """Settings in a line for people."""
    said = ((name, f"{value:.3g}" if isinstance(value, float) else str(value)) for name, value in params.items())
    return ", ".join("=".join(pair) for pair in said)
