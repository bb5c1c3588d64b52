"""A pool of models: originals of one recipe on the rows of a seeded design, and what each says of the audit samples."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.console import clock, size
from ssd_bench.core.dataset import Dataset
from ssd_bench.core.design import Design, Parts, divide
from ssd_bench.core.errors import ConfigError, Diverged, check_choice
from ssd_bench.core.seeds import derive_seed
from ssd_bench.core.task import hash_rows, judges
from ssd_bench.data.source import vouched
from ssd_bench.metrics.margin import margins
from ssd_bench.run import pipeline
from ssd_bench.run.bench import Bench
from ssd_bench.run.estimate import throughput
from ssd_bench.run.evaluate import infer, outputs_key
from ssd_bench.run.identity import Trained
from ssd_bench.run.plan import Plan
from ssd_bench.run.trained import KIND, train_or_find
from ssd_bench.store.address import digest
from ssd_bench.store.artefacts import Artefact
from ssd_bench.store.files import to_json, writable, write_atomically
from ssd_bench.store.locks import hold, take
from ssd_bench.store.prune import NEEDS
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe, SameSteps

log = logging.getLogger(__name__)

MARGINS = "margins"  # kind of artefact: what one model says of the audit samples and the test images
KEPT_BYTES = 16  # of each of those
VERSION = 1  # of what is kept of them: raised when that changes
POLL_S = 1.0  # while all that is left is being made by others
LARGEST = 4096


@dataclass(frozen=True)
class PoolSettings(Parts):
    """A pool beside what its models are: how many, and what is drawn, kept and measured."""

    size: int = 16
    seed: int = 0  # of the design, and of every model
    same_steps: bool = True  # all models take as many steps, however many images each is trained on
    logits: bool = False  # keep whole logits, too
    hard: float = 0.05  # this share of the single samples, the most memorised, is judged by itself
    draws: int = 1000  # resamples behind an interval
    targets: list[str] = field(default_factory=lambda: ["random", "hard"])  # what methods are asked to forget
    k: int | None = (
        None  # images of a target that a model holds, on average; null: 100, at most an eighth of the singles
    )
    placebo: list[str] = field(default_factory=list)  # methods that run on their twins' requests, too
    class_models: int = 16  # that a target which is a class is forgotten by, and each trained again without it
    gate: bool = True  # judge no method where the originals do not leak
    power: bool = False  # say how small a difference between the first two methods so many models can show

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 4 <= self.size <= LARGEST or self.size & (self.size - 1):
            raise ValueError(f"size must be a power of two from 4 to {LARGEST}, got {self.size}")
        if self.seed < 0 or self.draws < 100 or not 0 < self.hard < 1:
            raise ValueError(
                "seed must be at least 0, draws at least 100 and hard between 0 and 1, got "
                f"{self.seed}, {self.draws} and {self.hard}"
            )
        if self.class_models < 4 or self.class_models % 4:
            raise ValueError(f"class_models must be a multiple of 4, two halves of pairs, got {self.class_models}")
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be null or at least 1, got {self.k}")


@dataclass(frozen=True)
class Pool:
    """The models of a pool, found by their addresses or trained now."""

    bench: Bench
    dataset: Dataset
    asked: PoolSettings
    design: Design
    metrics: Mapping[str, Any] = field(default_factory=dict)  # that are brought along, to judge methods by

    @cached_property
    def base(self) -> Trained:
        """What all models have in common; the rows and the seed are not."""
        return self.bench.identity.retrained

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that determines the models, whatever their number."""
        common = {name: value for name, value in self.base.key.items() if name not in ("rows", "labels", "seed")}
        parts = {f.name: getattr(self.asked, f.name) for f in fields(Parts)} | {"sub_classes": list(self.design.blocks)}
        return {**common, "labels": hash_rows(self.base.labels), "parts": parts, "seed": self.asked.seed}

    @property
    def name(self) -> str:
        """Of its folder: the data, the model, and the beginning of a digest of all that decides on it."""
        names = self.bench.plan.names
        what = re.sub(r"[^\w.+-]", "_", f"{names['data']}-{names['model']}", flags=re.ASCII)[:100]
        return f"{what}-seed{self.asked.seed}-{digest(self.key)[:12]}"

    @property
    def folder(self) -> Path:
        """Where what is found out about it lies; its models lie in the store."""
        return Path(self.bench.plan.settings.out) / "pools" / self.name

    @property
    def results(self) -> Path:
        """The part of it that speaks of a pool of this size."""
        return self.folder / f"n{self.asked.size}"

    @cached_property
    def members(self) -> list[Trained]:
        """The models, in order."""
        seeds = (derive_seed(self.asked.seed, "pool", m) for m in range(self.asked.size))
        return [replace(self.base, rows=self.design.rows(m), seed=seed) for m, seed in enumerate(seeds)]

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """What every model is asked about."""
        return {"train": self.design.audit, "test": torch.arange(len(self.bench.images["test"]))}

    def kept(self, m: int) -> tuple[Path, Path, Path]:
        """Where the weights of model m, its margins and its logits lie, or would."""
        place, key = self.bench.store.path, self._key(m)
        return place(KIND, self.members[m].key), place(MARGINS, {**key, "version": VERSION}), place("outputs", key)

    def _key(self, m: int) -> dict[str, Any]:
        return outputs_key(self.members[m].key, self.rows, self.bench.plan)

    def missing(self) -> list[int]:
        """The models of which something is not there."""
        return [m for m in range(self.asked.size) if not self._there(m)]

    def _there(self, m: int) -> bool:
        _, margins_, logits = self.kept(m)
        wanted = (margins_, logits) if self.asked.logits else (margins_,)
        return all(path.with_suffix(".json").exists() for path in wanted)

    def train(self, told: Callable[[int, int], None] = lambda m, missing: None) -> None:
        """Make what is missing, each model by one process; others that are at work on the pool make the others.

        told: called with each model made here, and how many are still missing. Raises Diverged, CannotWrite.
        """
        self.needs(path for m in range(self.asked.size) for path in self.kept(m))

        def make(m: int) -> None:
            if not self._there(m):
                self.margins(m)
                told(m, len(self.missing()))

        self.share(self.missing, make)

    def needs(self, paths: Iterable[Path]) -> None:
        """Note that these artefacts belong to the pool of this size."""
        noted = self.results / NEEDS
        with hold(self.folder / "locks" / f"{self.results.name}-{noted.stem}.lock", "note"):
            known = json.loads(noted.read_text()) if noted.exists() else []
            text = to_json(sorted({*known, *("/".join(path.parts[-2:]) for path in paths)}))
            write_atomically(noted, lambda part: part.write_text(text))

    def share(self, missing: Callable[[], list[int]], make: Callable[[int], None]) -> None:
        """Do what is missing model by model, as long as something is; each model's part by one process at a time."""
        while left := missing():
            if not any(self._alone(m, make) for m in left):
                time.sleep(POLL_S)

    def _alone(self, m: int, make: Callable[[int], None]) -> bool:
        """Whether nobody else is at model m, and its part is done now."""
        if not (lock := take(self.folder / "locks" / f"{m}.lock")):
            return False
        try:
            make(m)
        finally:
            lock.release()
        return True

    def margins(self, m: int) -> Artefact:
        """What model m says of the audit samples and the test images: n each of `PART.margin`, `PART.argmax`,
        `PART.entropy` (nats) and `PART.top` (the highest probability); PART: train, test."""

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            return self.said(self._logits(m)), {"model": m}

        if not self._there(m):
            self._trained_or_found(m)  # beforehand: what an artefact cost is its own making
        if self.asked.logits:
            self._logits(m)
        return self.bench.store.get_or_make(MARGINS, {**self._key(m), "version": VERSION}, make)

    def _logits(self, m: int) -> dict[str, Tensor]:
        """Of each part; kept if pool.logits=true."""
        if self.asked.logits:
            return infer(lambda: self.bench.compiled(self.model(m)), self.members[m].key, self.rows, self.bench).tensors
        return self.logits_of(self.bench.compiled(self.model(m)), f"model {m}")

    def logits_of(self, model: nn.Module, what: str) -> dict[str, Tensor]:
        """Of each part. Raises Diverged, naming `what`, where they are not finite."""
        batch_size = self.bench.plan.evaluate.batch_size
        logits = {part: predict(model, self.bench.images[part], rows, batch_size) for part, rows in self.rows.items()}
        if not all(of_part.isfinite().all() for of_part in logits.values()):
            raise Diverged(f"the outputs of {what} are not finite")
        return logits

    def _trained_or_found(self, m: int) -> Artefact:
        return train_or_find(self.bench, self.members[m], f"model {m} of {self.asked.size}")

    def model(self, m: int) -> nn.Module:
        """Model m, not compiled."""
        model = self.bench.new_model(0, pretrained=False)
        model.load_state_dict(self._trained_or_found(m).tensors)
        return model

    def labels(self, part: str) -> Tensor:
        """Of the rows that models are asked about."""
        request = self.bench.request
        return {"train": request.train_labels, "test": request.test_labels}[part][self.rows[part]]

    def said(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is kept of these logits of each part, as `margins` names it."""
        said = {}
        for part, of_part in logits.items():
            log_p = of_part.double().log_softmax(dim=1)
            said[f"{part}.margin"] = torch.from_numpy(margins(of_part.numpy(), self.labels(part).numpy())).float()
            said[f"{part}.argmax"] = of_part.argmax(dim=1).int()
            said[f"{part}.entropy"] = -(log_p.exp() * log_p).sum(dim=1).float()
            said[f"{part}.top"] = log_p.amax(dim=1).exp().float()
        return said

    def costs(self, workers: int = 1) -> list[str]:
        """Lines for people: what is to be trained, how long that takes so many workers, and what it leaves on disk."""
        missing, sizes = self.missing(), [len(member.rows) for member in self.members]
        untrained = [m for m in missing if not self.kept(m)[0].with_suffix(".json").exists()]
        state = self.bench.new_model(0, pretrained=False).state_dict()
        weights = sum(t.numel() * t.element_size() for t in state.values())
        asked = sum(map(len, self.rows.values()))
        each = KEPT_BYTES + 4 * len(self.bench.request.classes) * self.asked.logits
        forward, backward = throughput(self.bench)
        same, epochs = self.design.images if self.asked.same_steps else 0, self.base.recipe.epochs
        images = epochs * sum(same or sizes[m] for m in untrained)
        seconds = images / backward + len(missing) * asked / forward
        disk = size(len(untrained) * weights + len(missing) * asked * each)
        threads, of_epoch = torch.get_num_threads(), f" of {same} images" if same else ""
        lines = [
            f"{self.folder}: {len(sizes) - len(missing)} of {len(sizes)} models are there",
            f"{len(untrained)} trainings, on {min(sizes)} to {max(sizes)} images, {epochs} epochs each{of_epoch}",
            f"about {clock(seconds)} in one process of {threads} thread{'s' * (threads > 1)}; {disk} on disk",
            f"measured just now: {forward:,.0f} images/s forward, {backward:,.0f} forward and backward",
        ]
        if workers > 1 and missing:
            rounds = math.ceil(len(missing) / workers)
            lines.insert(3, f"about {clock(seconds / len(missing) * rounds)} with {workers} workers")
        return lines


def prepare(plan: Plan, asked: PoolSettings, to_count: bool = False) -> Pool:
    """The pool that these settings describe. Nothing is trained or written. Raises ConfigError.

    to_count: only to say what is missing; nothing is put on the device.
    """
    dataset = vouched(plan.data.load(), plan.data)
    if dataset.validation is not None:
        raise ConfigError(
            "data.validation: models of a pool leave images out anyway (pool.core, pool.single); leave it out"
        )
    design = divide(dataset.train.fine, asked, _sub_classes(plan, dataset, asked), asked.seed)
    if asked.same_steps:
        plan = replace(plan, train=_same_steps(plan.train, design))
    metrics = {name: metric for name, metric in plan.metrics.items() if judges(metric)}
    bench = pipeline.prepare(replace(plan, metrics={}), parallel=True, to_count=to_count)
    pool = Pool(bench, dataset, asked, design, metrics)
    if plan.model.checkpoint:
        raise ConfigError("model.checkpoint gives one model, and a pool trains its own; leave it out")
    if not writable(Path(plan.settings.out)):
        raise ConfigError(f"out={plan.settings.out} cannot be written; choose a folder that can")
    return pool


def _same_steps(recipe: Recipe, design: Design) -> SameSteps:
    """The recipe for as many steps as a model of average size takes."""
    if type(recipe) is not Recipe:
        what = f"train is a {type(recipe).__name__}, which says itself how many steps there are"
        raise ConfigError(f"pool.same_steps=true: {what}; take pool.same_steps=false")
    return SameSteps.of(recipe, images=design.images)


def _sub_classes(plan: Plan, dataset: Dataset, asked: PoolSettings) -> dict[str, int]:
    """By name the fine classes that are blocks: as asked for, else the first two that are usually forgotten."""
    if dataset.labels == "fine":
        if asked.sub_classes:
            learned = f"models of data={plan.names['data']} learn the finest classes"
            raise ConfigError(f"pool.sub_classes={asked.sub_classes}: {learned}; leave it out")
        return {}
    wanted = asked.sub_classes if asked.sub_classes is not None else plan.data.targets.get("sub_class", [])[:2]
    known = {name: i for i, name in enumerate(dataset.fine_names)}
    for name in wanted:
        check_choice("pool.sub_classes", dataset.aliases.get(name, name), known)
    return {name: known[name] for name in (dataset.aliases.get(name, name) for name in wanted)}


def described(pool: Pool) -> dict[str, Any]:
    """The pool in words and numbers."""
    design, n = pool.design, pool.asked.size
    sizes = [len(member.rows) for member in pool.members]
    return {
        "data": pool.bench.plan.names["data"],
        "data_sha256": pool.dataset.fingerprint,
        "model": pool.bench.plan.names["model"],
        "models": n,
        "settings": asdict(pool.asked),
        "key": pool.key,
        "config": pool.bench.plan.config,
        "parts": {
            "core": len(design.core),
            "single": len(design.single),
            "blocks": {name: len(rows) for name, rows in design.blocks.items()},
            "reserve": len(design.reserve),
        },
        "blocks_apart": list(design.blocks)[: design.apart(n)],
        "trained_on": [min(sizes), max(sizes)],
        "members": [
            {"seed": member.seed, "images": len(member.rows), "trained": pool.kept(m)[0].stem}
            for m, member in enumerate(pool.members)
        ],
    }
