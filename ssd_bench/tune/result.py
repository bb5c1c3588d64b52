"""What a study leaves: a case for conf/tuned/, what is known of it, its trials, and pictures."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optuna
import yaml
from filelock import FileLock
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances, plot_slice

from ssd_bench.run.cases import code_hash
from ssd_bench.run.environment import commit
from ssd_bench.store.files import write_atomically
from ssd_bench.tune.study import OVER, Study

ENOUGH = 4  # trials, below which nothing is said about which setting matters


def choose(trials: list[FrozenTrial], slack: float) -> tuple[FrozenTrial, FrozenTrial | None]:
    """The trial whose settings are taken, nearest to the reference or cheaper and as near (`Objective`), and the
    best of the others."""
    done = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: (t.value, t.number))
    near = [t for t in done if t.value <= done[0].value + slack]
    best = min(near, key=lambda t: (t.user_attrs["passes"] or 0, t.value, t.number))
    return best, next((t for t in done if t.params != best.params), None)


def describe(study: Study, ended: optuna.Study, command: str) -> dict[str, Any]:
    """What is known of a study: how it was made, what it found, and what it cost in seconds."""
    over = [t for t in ended.get_trials(deepcopy=False) if t.state in OVER][: study.budget.trials]
    best, second = choose(over, study.objective.slack)
    first = next((t for t in over if t.params == study.first()[0]), None)  # None: they do not lie in the space
    hours = study.budget.hours
    return {
        "name": study.name,
        "command": command,
        "commit": commit(),
        "code": code_hash(study.plan.config["method"]["_target_"]),
        "budget": ", ".join([f"{len(over)} trials", *([f"{hours:g} h"] if hours is not None else []), *study.unlike]),
        "pruned": sum(t.state == TrialState.PRUNED for t in over),
        "seed": study.seed,
        "tasks": study.tasks,
        "floors": ended.user_attrs["floors"],
        "objective": best.value,
        "untuned": first and first.value,
        "settings": best.params,
        **{name: best.user_attrs[name] for name in ("passes", "cost_s")},
        "runner_up": second and {"objective": second.value, "settings": second.params},
        "trials_s": sum(t.user_attrs["seconds"] for t in over),
        "references_s": ended.user_attrs["references_s"],
    }


def case(about: Mapping[str, Any], when: dict[str, Any], published: Any, official: Any) -> dict[str, Any]:
    """The result in the form of conf/tuned/. published, official: the method without the study, by fidelity."""
    untuned, released = (
        {name: getattr(method, name) for name in about["settings"]} for method in (published, official)
    )
    known = {"method": about["settings"], "published": untuned} | (
        {"official": released} if released != untuned else {}
    )
    told = ("name", "budget", "objective", "untuned", "command", "commit", "runner_up")
    tried = [dict(override.split("=", 1) for override in task) for task in about["tasks"]]
    tried_on = [{key: yaml.safe_load(value) for key, value in task.items()} for task in tried]
    code = {"code": about["code"]} if about["code"] else {}
    return {"when": when, **known, "study": {**{name: about[name] for name in told}, **code, "tried_on": tried_on}}


def write(study: Study, ended: optuna.Study, about: Mapping[str, Any], found: dict[str, Any]) -> list[Path]:
    """The case beside those of other studies, where `--config-dir` finds it; what is known of it; the trials as csv."""
    cases = study.folder.parent / "conf" / "tuned" / f"{study.method}.yaml"
    cases.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cases}.lock"):
        others = yaml.safe_load(cases.read_text()) if cases.exists() else []
        kept = [each for each in others if each["study"]["name"] != study.name]
        text = yaml.safe_dump([*kept, found], sort_keys=False, width=110, allow_unicode=True)
        write_atomically(cases, lambda path: path.write_text(text))
    paths = [study.folder / name for name in ("result.json", "trials.csv")]
    trials = ended.trials_dataframe(attrs=("number", "state", "value", "params", "user_attrs"))
    write_atomically(paths[0], lambda path: path.write_text(json.dumps(about, indent=1) + "\n"))
    write_atomically(paths[1], lambda path: trials.to_csv(path, index=False))
    return [cases, *paths]


def pictures(ended: optuna.Study) -> dict[str, Figure]:
    """By title: the objective over trials, over each setting, and which setting matters."""
    done = ended.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    what = {"target_name": "floors from the model to come near"}
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.use("agg")
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        drawn = {
            "Distance over trials": plot_optimization_history(ended, **what),
            "Distance over each setting": plot_slice(ended, **what),
        }
        if len(done) >= ENOUGH and len({t.value for t in done}) > 1:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            drawn["Which setting matters"] = plot_param_importances(ended, evaluator=evaluator)
    figures = {title: np.ravel(axes)[0].figure for title, axes in drawn.items()}
    for figure in figures.values():
        plt.close(figure)
    return figures
