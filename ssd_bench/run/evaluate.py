"""What a model says about the sets of a request, found by one inference pass and kept; and the metrics made of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.about import check_names
from ssd_bench.core.errors import Diverged
from ssd_bench.core.seeds import derive_seed, generator
from ssd_bench.core.task import SETS, Probed, compares, hash_rows, looks_inside, outputs, read_by
from ssd_bench.data.source import forget_loaded
from ssd_bench.metrics.compute import Values, compute
from ssd_bench.run.bench import Bench
from ssd_bench.run.plan import Plan
from ssd_bench.store.address import address, digest
from ssd_bench.store.artefacts import Artefact, forget_recent
from ssd_bench.store.rows import METRICS
from ssd_bench.train.features import Recording, recording
from ssd_bench.train.passes import predict

Model = Callable[[], nn.Module]  # asked for only where an inference pass is needed
VALUES = "values"  # the kind of artefact that a metric's values are
LAST_LAYER = "last_layer"  # and what the original's last layer sees
MOST_BYTES = 2**28  # of that; where the evaluated images have more, a metric asks the model about its own images alone


class Passed:
    """What the last layer of a model sees of the evaluated rows, all of them in the passes that make its outputs.

    It is told while the model is asked for its outputs. Where those are there already, the same passes are made again,
    so that numbers do not depend on what was there. Kept for the original, which every request is compared with.
    """

    def __init__(self, bench: Bench, model: nn.Module, key: Any, rows: dict[str, Tensor], anew: bool) -> None:
        self.bench, self.model, self.key, self.rows, self.anew = bench, model, key, rows, anew
        self._told: dict[str, Recording] = {}
        self._found: dict[str, Tensor] | None = None

    @contextmanager
    def told(self, model: nn.Module, part: str) -> Iterator[None]:
        """Listen while the model is asked about the rows of this part."""
        with recording(model, self.bench.plan.model.head) as self._told[part]:
            yield

    def __call__(self, part: str) -> tuple[Tensor, Tensor] | None:
        """Of a part: its rows, and n x d numbers, float32, on the CPU. Raises ValueError as `Recording.found`."""
        if self._found is None:
            self._found = self._kept() if is_original(self.bench, self.key) else self._make()[0]
        return (self.rows[part], self._found[part]) if part in self.rows else None

    def _kept(self) -> dict[str, Tensor]:
        key = outputs_key(self.key, self.rows, self.bench.plan)
        return self.bench.store.get_or_make(LAST_LAYER, key, self._make, self.anew).tensors

    def _make(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        asked, found = self.bench.plan.evaluate, {}
        for part, rows in self.rows.items():
            if part not in self._told:
                with self.told(self.model, part):
                    predict(self.model, self.bench.images[part], rows, asked.batch_size)
            [found[part]] = self._told.pop(part).found(len(rows)).values()
        return found, {}


def is_original(bench: Bench, key: Any) -> bool:
    """Whether this is the key of the model that the run, or its sequence, begins with."""
    return key == bench.steps[0].identity.original


def passed_bytes(plan: Plan, rows: dict[str, Tensor], width: int) -> int:
    """What `Passed` would hold of a model whose last layer sees `width` numbers; 0: a metric asks by itself."""
    found = 4 * width * sum(map(len, rows.values()))
    return found if found <= MOST_BYTES and not plan.settings.compile else 0  # compiled, a model does not call hooks


def head_width(model: nn.Module, head: str) -> int:
    """How many numbers the last layer sees; 0 where it is no Linear."""
    layer = dict(model.named_modules()).get(head)
    return layer.in_features if isinstance(layer, nn.Linear) else 0


def infer(
    model: Model, key: Any, rows: dict[str, Tensor], bench: Bench, anew: bool = False, passed: Passed | None = None
) -> Artefact:
    """The logits of these rows of the "train" and "test" images, kept under `key`; with `anew`, made again.

    passed: is told what the last layer sees on the way.
    """

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        ready = model()
        logits = {}
        for part, of_part in rows.items():
            with passed.told(ready, part) if passed else nullcontext():
                logits[part] = predict(ready, bench.images[part], of_part, bench.plan.evaluate.batch_size)
        if not all(of_part.isfinite().all() for of_part in logits.values()):
            raise Diverged("the model's outputs are not finite")
        return logits, {}

    return bench.store.get_or_make("outputs", outputs_key(key, rows, bench.plan), make, anew)


def outputs_key(model: Any, rows: dict[str, Tensor], plan: Plan) -> dict[str, Any]:
    """The key of a model's outputs for these rows of each part."""
    row_hashes = {part: hash_rows(r) for part, r in rows.items()}
    return {"model": model, "rows": row_hashes, "batch_size": plan.evaluate.batch_size}


def chosen_sets(bench: Bench) -> dict[str, tuple[str, Tensor]]:
    """What is evaluated: of each set the part that it lies in and its rows; of D_r a sample, where one is asked for.

    Sets of the request's own are always evaluated. The sample is the same for every request but for the images that
    are to be forgotten.
    """
    asked = bench.plan.evaluate
    own = [name for name in bench.request.sets if name not in SETS]
    wanted = {name: bench.request.sets[name] for name in dict.fromkeys((*asked.sets, *own))}
    if asked.retain_train_samples is not None and "retain_train" in wanted:
        part, rows = wanted["retain_train"]
        order = torch.randperm(len(bench.images["train"]), generator=generator(asked.sample_seed, "retain_train"))
        drawn = order[torch.isin(order, rows)][: asked.retain_train_samples]
        wanted["retain_train"] = part, drawn.sort().values
    return wanted


def needed_rows(bench: Bench) -> dict[str, Tensor]:
    """Per part of the data, the rows that a model has to be asked about, ascending."""
    wanted = chosen_sets(bench).values()
    parts = sorted({part for part, _ in wanted})
    return {p: torch.cat([rows for part, rows in wanted if part == p]).unique() for p in parts}


def sets_key(bench: Bench) -> dict[str, Any]:
    """The key of `find_sets`."""
    wanted, own = chosen_sets(bench), _own_labels(bench)
    return {
        "sets": {name: [part, hash_rows(rows)] for name, (part, rows) in wanted.items()},
        "labels": {part: hash_rows(of_part) for part, of_part in _true_labels(bench).items()},
        **({"judged_by": {name: hash_rows(each) for name, each in own.items()}} if own else {}),
    }


def _true_labels(bench: Bench) -> dict[str, Tensor]:
    """Of all images of each part."""
    request = bench.request
    return {"train": request.train_labels, "test": request.test_labels, **request.true_labels}


def _own_labels(bench: Bench) -> dict[str, Tensor]:
    """Of the sets that are judged by other labels than the true ones."""
    wanted = chosen_sets(bench)
    return {name: each for name, each in bench.request.judged_by.items() if name in wanted}


def made_of(bench: Bench, model: Any) -> dict[str, Any]:
    """The artefacts that a model's values are made of. model: the key of the model."""
    said = outputs_key(model, needed_rows(bench), bench.plan)
    at_random = outputs_key(*_at_random(bench), bench.plan) if "forget" in chosen_sets(bench) else None
    keys = {"outputs": ("outputs", said), "sets": ("sets", sets_key(bench)), "random": ("outputs", at_random)}
    return {name: key and bench.store.path(kind, key).stem for name, (kind, key) in keys.items()}


def values_key(bench: Bench, made: dict[str, Any], metric: Any) -> dict[str, Any]:
    """The key of a metric's values. made: see `made_of`."""
    return {**made, "metric": address(metric), **(_looked_into(bench) if looks_inside(metric) else {})}


def find_sets(bench: Bench) -> Artefact:
    """Which rows of the outputs each set is made of, and their labels; kept, so that tables can be derived later.

    All sets of a class scenario need every row, whatever the class: the original's outputs are shared by all requests.
    """
    wanted, labels, own = chosen_sets(bench), _true_labels(bench), _own_labels(bench)

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        needed = needed_rows(bench)
        tensors = {f"rows.{part}": rows for part, rows in needed.items()}
        for name, (part, rows) in wanted.items():
            tensors[f"place.{name}"] = torch.searchsorted(needed[part], rows)
            tensors[f"labels.{name}"] = own[name] if name in own else labels[part][rows]
        return tensors, {name: part for name, (part, _) in wanted.items()}

    return bench.store.get_or_make("sets", sets_key(bench), make)


def evaluate(
    bench: Bench, model: nn.Module, key: Any, original: nn.Module, anew: bool = False
) -> tuple[Values, dict[str, str]]:
    """All metrics of one model, and the paths of what they are made of.

    One inference pass serves them all; it is found under `key`, or made (always if `anew`). A metric's values are kept
    under the outputs that they are made of and the metric's own address, so that a metric that is new or mended costs
    nothing but itself; those of a metric that looks into the model also under the request and the original. Raises
    ConfigError for a metric that returns what another does, or no finite number.
    """
    plan, sets = bench.plan, find_sets(bench)
    rows = {name.removeprefix("rows."): t for name, t in sets.tensors.items() if name.startswith("rows.")}
    made = made_of(bench, key)
    metrics = {name: metric for name, metric in plan.metrics.items() if not compares(metric)}  # tables compare
    places = {name: values_key(bench, made, metric) for name, metric in metrics.items()}
    reading = [name for name, metric in metrics.items() if read_by(metric, bench.request)]
    lacking = any(anew or bench.store.get(VALUES, places[name]) is None for name in reading)
    listens = lacking and passed_bytes(plan, rows, head_width(model, plan.model.head)) > 0
    passed = Passed(bench, model, key, rows, anew) if listens else None
    seen = infer(lambda: model, key, rows, bench, anew, passed)
    at_random = _random_outputs(bench) if "forget" in sets.about else None
    paths = {"outputs": str(seen.path), "sets": str(sets.path)}
    random_logits = None
    if at_random:
        random_logits, paths["random_outputs"] = next(iter(at_random.tensors.values())), str(at_random.path)
    logits = outputs(sets.tensors, sets.about, seen.tensors, random_logits)
    values: Values = dict.fromkeys(METRICS)
    owner: dict[str, str] = {}
    for name, metric in metrics.items():

        def make(name: str = name, metric: Any = metric) -> tuple[dict[str, Tensor], dict[str, Any]]:
            try:
                found, kept = compute(name, metric, logits, lambda: _probed(bench, model, original, passed))
            except Exception:
                forget_loaded(), forget_recent()  # it may have changed what this process has in memory
                raise
            return kept, found

        found = bench.store.get_or_make(VALUES, places[name], make, anew)
        check_names(name, found.about, owner)
        values |= found.about
        paths |= {f"{kind}.{name}": str(found.path) for kind in (VALUES, *(["kept"] if found.tensors else []))}
    kept = bench.store.path(LAST_LAYER, outputs_key(key, rows, plan))
    if reading and is_original(bench, key) and kept.exists():
        paths[LAST_LAYER] = str(kept)
    return values, paths


def _random_outputs(bench: Bench) -> Artefact:
    """What a randomly initialised model says about D'_f: needed for ZRF."""
    key, rows = _at_random(bench)
    return infer(lambda: bench.compiled(bench.new_model(key["seed"], pretrained=False)), key, rows, bench)


def _at_random(bench: Bench) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The key of that model, and the rows that it is asked about."""
    part, forget = bench.request.sets["forget"]
    seed = derive_seed(bench.plan.evaluate.zrf_seed, "zrf")
    return {"seed": seed, **bench.identity.untrained}, {part: forget}


def _probed(bench: Bench, model: nn.Module, original: nn.Module, passed: Passed | None) -> Probed:
    copies = (copy.deepcopy(each).eval() for each in (model, original))
    return Probed(
        *copies, bench.plan.model.head, bench.images, bench.request.clone(), bench.plan.evaluate.batch_size, passed
    )


def _looked_into(bench: Bench) -> dict[str, Any]:
    """What decides on the values of a metric that looks into the model, beside that model's outputs."""
    request = bench.request
    rows = (request.train, request.retain, request.forget, request.group, *(r for _, r in request.sets.values()))
    return {"request": [hash_rows(r) for r in rows], "original": digest(bench.identity.original)}
