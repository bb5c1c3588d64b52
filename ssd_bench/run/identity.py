"""What determines what: the addresses of one run's models, outputs and row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.seeds import derive_seed
from ssd_bench.core.task import Images, Request, hash_rows, of_data, seeds_of
from ssd_bench.methods.original import Original
from ssd_bench.models.checkpoint import checkpoint_sha256
from ssd_bench.run.call import seeds_used
from ssd_bench.run.cases import tuned_by
from ssd_bench.run.plan import Plan
from ssd_bench.store.address import address, code_of, digest


@dataclass(frozen=True)
class Trained:
    """A model trained from a random start: everything that decides on its weights, and so the address of them.

    The original is trained on D, a retrained model on D_r, a member of a pool on rows of its own: they differ in `rows`
    alone, and whoever asks for the same rows under the same seed gets the same model.
    """

    rows: Tensor  # of the training images, int64, ascending
    seed: int
    recipe: Any
    augment: Any
    model: Any  # its settings
    labels: Tensor  # of all training images
    place: Mapping[str, Any]  # the data, how it is seen, and the machine's arithmetic

    @cached_property
    def key(self) -> dict[str, Any]:
        """Labels count on the rows trained on, the model's checkpoint not at all."""
        return {
            "rows": hash_rows(self.rows),
            "labels": hash_rows(self.labels[self.rows]),
            "seed": self.seed,
            "recipe": self.training,
            "model": address(self.model, without=("checkpoint",)),
            **self.place,
        }

    @property
    def training(self) -> dict[str, Any]:
        """How it is trained, whatever on."""
        return {"train": address(self.recipe), "augment": address(self.augment) if self.recipe.augment else None}


@dataclass(frozen=True)
class Identity:
    """The keys of one run's artefacts, and the task that its row names."""

    original: dict[str, Any]  # all that determines the original model
    trained: Trained | None  # the original, unless a checkpoint gives it
    retrained: Trained  # what would be trained on D_r
    unlearned: dict[str, Any]  # all that determines the unlearned model
    shared: dict[str, Any]  # all that determines what the method keeps for later requests, beside its own key
    untrained: dict[str, Any]  # all that determines what a random model says, beside its seed
    row: dict[str, Any]  # all that determines the row
    task: dict[str, Any]

    def kept(self, key: Any) -> dict[str, Any]:
        """The address of what the method keeps for later requests under a key of its own."""
        return {**self.shared, "key": key}


def arithmetic(device: torch.device, threads: int, precision: str = "float32", compile: bool = False) -> dict[str, Any]:
    """What rounding depends on. The number of threads decides on a CPU alone, the GPU's model on CUDA alone."""
    machine = {"device": device.type, "torch": torch.__version__}
    if device.type == "cpu":
        machine["threads"] = threads
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine | {"precision": precision, "compile": compile}


def identify(
    plan: Plan, dataset: Dataset, request: Request, train: Images, device: torch.device, threads: int
) -> Identity:
    """The identity of the run that `plan` describes on this data and device.

    What a later request of a sequence is forgotten from is what forgot those before it; all else is as for one alone.
    """
    first = request.earlier[0] if request.earlier else request
    view = {"mean": train.mean.tolist(), "std": train.std.tolist(), "side": train.side}
    place = {"data": dataset.fingerprint, "classes": len(request.classes), "view": view}
    if request.trigger:
        place["trigger"] = address(request.trigger)
    place["machine"] = arithmetic(device, threads, plan.settings.precision, plan.settings.compile)
    trained, retrained, ideal = (
        Trained(
            rows.sort().values, plan.settings.seed, recipe, plan.data.augment, plan.model, request.train_labels, place
        )
        for rows, recipe in (
            (first.train, plan.train),
            (request.retain, plan.train.without_selection()),
            (request.ideal, plan.train.without_selection()),
        )
    )
    original = beginning = trained.key
    if plan.model.checkpoint:
        given = {"checkpoint": checkpoint_sha256(Path(plan.model.checkpoint))}
        original = beginning = {name: original[name] for name in ("rows", "labels", "model", *place)} | given
    for each in request.earlier:
        original = original if isinstance(plan.method, Original) else _unlearned(plan, original, each)
    unlearned = _unlearned(plan, original, request)
    shared = {"original": trained.key if getattr(plan.method, "anew", False) else original}
    if version := getattr(plan.method, "version", None):
        shared |= {"version": version}
    if code := code_of(type(plan.method)).get("code"):  # of the package's methods, the keys themselves say the rest
        shared |= {"code": code, "seeds": unlearned["seeds"]}
    task = _described(plan, dataset, request)
    task |= {"recipe": digest(beginning.get("checkpoint", trained.training))[:16]}
    task |= {"original": digest(beginning)[:16], "reference": digest(ideal.key)[:16]}
    if "code" in code_of(type(plan.scenario)):  # its sets may be others for the same D_f
        task |= {"asked": digest(address(plan.scenario))[:16]}
    if request.clean is not None:
        task |= {"n_manipulated": len(request.train) - len(request.clean), "retrained": digest(retrained.key)[:16]}
    evaluate = address(plan.evaluate)
    metrics = {name: address(metric) for name, metric in plan.metrics.items()}
    task["evaluation"] = digest(evaluate)[:16]
    study = tuned_by(plan.config, task["target"])
    tuned = {"tuned": study} if study else {}  # the same settings, known to be a study's, make a row that says so
    return Identity(
        original=original,
        trained=None if plan.model.checkpoint else trained,
        retrained=retrained,
        unlearned=unlearned,
        shared=shared,
        untrained={"model": beginning["model"], **place},
        row={"task": task, "unlearned": unlearned, "evaluate": evaluate, "metrics": metrics, **tuned},
        task=task,
    )


def _unlearned(plan: Plan, original: dict[str, Any], request: Request) -> dict[str, Any]:
    """The key of what forgets this request, from the model under the key `original`."""
    return {"original": digest(original), "method": address(plan.method), **_asked(plan, request)}


def seed_unlearn(plan: Plan, request: Request) -> int:
    """Of the method's own draws: the first request of a sequence has those that it would have alone."""
    step = len(request.earlier) + 1
    return plan.seed_unlearn if step == 1 else derive_seed(plan.seed_unlearn, "step", step)


def _asked(plan: Plan, request: Request) -> dict[str, Any]:
    """What a method sees of the request, beside the original."""
    several = {"forget_labels": request.forget_labels} if request.forget_labels and request.forget_label is None else {}
    anew = getattr(plan.scenario, "refresh", True) or not request.earlier or not of_data(plan.method)
    stale = {} if anew else {"refresh": False}
    return {
        **several,
        **stale,
        "rows": hash_rows(request.train),
        "retain": hash_rows(request.retain),
        "forget": hash_rows(request.forget),
        "group": hash_rows(request.group),
        "labels": hash_rows(request.train_labels),
        "scenario": request.scenario,
        "forget_label": request.forget_label,
        "train": address(plan.train),
        "augment": address(plan.data.augment),
        "seeds": seeds_used(plan.method, plan.settings.seed, seed_unlearn(plan, request)),
    }


def _described(plan: Plan, dataset: Dataset, request: Request) -> dict[str, Any]:
    """The task in words and numbers. A seed that decides on nothing is null."""
    return {
        "data": plan.names["data"],
        "model": plan.names["model"],
        "scenario": "sequence" if request.earlier else request.scenario,
        "target": request.target and ">".join(each.target for each in (*request.earlier, request)),
        "target_index": None if request.earlier else request.target_index,
        "placebo": request.placebo,
        "n_train": len(request.train) + sum(len(each.forget) for each in request.earlier),
        "n_forget": sum(len(each.forget) for each in (*request.earlier, request)),
        **({"requests": len(request.earlier) + 1} if request.earlier else {}),
        "n_test": len(request.test_labels),
        "seed": plan.settings.seed,
        "seed_unlearn": plan.seed_unlearn if "seed_unlearn" in seeds_of(plan.method) else None,
        "seed_forget": plan.seed_forget if request.drawn else None,
        "fidelity": plan.settings.fidelity,
        "forget_sha256": request.forget_sha256,
        "data_sha256": dataset.fingerprint,
    }


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
