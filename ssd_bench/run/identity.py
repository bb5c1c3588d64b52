"""What determines what: the keys under which models, outputs and rows are found again, and where a row was made."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.task import Images, Task
from ssd_bench.models.checkpoint import checkpoint_sha256
from ssd_bench.run.plan import Plan
from ssd_bench.store.address import _code, digest, hash_rows
from ssd_bench.train.loop import RECIPE_VERSION


@dataclass(frozen=True)
class Identity:
    """The keys of one run's artefacts, and the task that its row names."""

    original: dict[str, Any]  # all that determines the original model
    unlearned: dict[str, Any]  # all that determines the unlearned model
    row: dict[str, Any]  # all that determines the row
    task: dict[str, Any]


def identify(plan: Plan, dataset: Dataset, task: Task, train: Images, device: torch.device, threads: int) -> Identity:
    """The identity of the run that `plan` describes on this data and device."""
    machine = {"device": device.type, "threads": threads, "torch": torch.__version__}
    machine |= {"precision": plan.settings.precision, "compile": plan.settings.compile}
    model = {key: value for key, value in asdict(plan.model).items() if key != "checkpoint"}
    view = {"mean": train.mean.tolist(), "std": train.std.tolist(), "side": train.side}
    data = {
        "data": dataset.fingerprint,
        "labels": hash_rows(task.train_labels),
        "rows": hash_rows(task.train),
    }
    if plan.model.checkpoint:
        source = {"checkpoint": checkpoint_sha256(Path(plan.model.checkpoint))}
    else:
        recipe = {
            "train": asdict(plan.train),
            "augment": asdict(plan.data.augment),
            "version": RECIPE_VERSION,
        }
        source = {"recipe": digest(recipe), "seed": plan.settings.seed}
    original = {"model": model, "view": view, **data, **source, **machine}
    request = {"scenario": task.scenario, "retain": hash_rows(task.retain), "forget": hash_rows(task.forget)}
    seeds = {"seed": plan.settings.seed, "seed_unlearn": plan.seed_unlearn, "seed_forget": plan.seed_forget}
    method = {
        "class": f"{type(plan.method).__module__}.{type(plan.method).__qualname__}",
        "code": _code(type(plan.method)),
        **asdict(plan.method),
    }
    unlearned = {
        "original": digest(original), "train": asdict(plan.train), "method": method, **request, **seeds, **machine,
        "version": RECIPE_VERSION,
    }  # fmt: skip
    metrics = {name: asdict(metric) for name, metric in plan.metrics.items()}
    evaluation = {"evaluate": asdict(plan.evaluate), "metrics": metrics}
    described = {
        "data": plan.names["data"],
        "model": plan.names["model"],
        "recipe": source.get("recipe", source.get("checkpoint", ""))[:16],
        "original": digest(original)[:16],
        "reference": digest({**original, "rows": hash_rows(task.retain)})[:16],
        "scenario": task.scenario,
        "target": task.target,
        "target_index": task.target_index,
        "placebo": task.placebo,
        "n_train": len(task.train),
        "n_forget": len(task.forget),
        "n_test": len(task.test_labels),
        **seeds,
        "fidelity": plan.settings.fidelity,
        "forget_sha256": task.forget_sha256,
        "data_sha256": dataset.fingerprint,
        "evaluation": digest(evaluation)[:16],
    }
    row = {"task": described, "unlearned": unlearned, **evaluation}
    return Identity(original, unlearned, row, described)


def row_path(out: Path, plan: Plan, identity: Identity) -> Path:
    """Where the row of this run lies: readable folders, and a hash of everything that determines it."""
    task = identity.task
    what = task["target"] if task["target"] is not None else task["n_forget"]
    seed = f"seed{task['seed']}"

    def safe(*parts: object) -> str:  # names come from data and YAML of others
        return re.sub(r"[^\w.+-]", "_", "-".join(map(str, parts)), flags=re.ASCII)[:100]

    return out.joinpath(
        safe(task["data"], task["model"]),
        safe(task["scenario"], what, *(["placebo"] if task["placebo"] else [])),
        f"{safe(plan.names['method'], seed)}-{digest(identity.row)[:12]}",
        "metrics.json",
    )
