"""What refers to the retrained model: derived from the stored outputs and weights of two rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from ssd_bench.core.about import check_names, describe
from ssd_bench.core.build import build
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Outputs, compares, judges, looks_inside, outputs
from ssd_bench.metrics.against import ABOUT as AGAINST
from ssd_bench.metrics.against import (
    average_gap,
    gap_after,
    kept_against,
    kept_up,
    metrics_against,
    outputs_against,
    weights_against,
)
from ssd_bench.metrics.compute import compare, compute_all
from ssd_bench.metrics.perturbed import seen_from_there
from ssd_bench.metrics.residual import RESIDUAL, readings, residual_shares, telling
from ssd_bench.report.columns import compared, of_metrics
from ssd_bench.report.rows import across_seeds, references
from ssd_bench.store.artefacts import read_artefact
from ssd_bench.store.files import Damaged
from ssd_bench.store.rows import Row

log = logging.getLogger(__name__)

Values = dict[str, float | None]
Distance = Callable[[Row, Row], Values]  # (row, retrained model's row)


def derived(rows: list[Row], folder: Path | str) -> dict[str, Values]:
    """By path of the row: distances to the retrained model of its own task, and the floor under them.

    `delta.*` are signed differences of metrics, `residual.*` shares of what is left in the features. `floor.*` are the
    same distances between that retrained model and those of other training seeds (their mean): nothing below them can
    be told from chance. Empty without a retrained model; no floor with one seed; no distances where the artefacts are
    gone.
    """
    folder = Path(folder)
    return _derived(rows, lambda *both: gaps(*both) | _distances(*both, folder), Brought(rows, folder))


def derived_metrics(rows: list[Row]) -> dict[str, Values]:
    """The part of `derived` that follows from the rows alone: gaps and their floor. No artefact is read."""
    return _derived(rows, gaps)


def _nothing(row: Row, retrained: Row) -> Values:
    return {}


def _derived(rows: list[Row], distance: Distance, brought: Distance = _nothing) -> dict[str, Values]:
    """distance: the same from both sides, but for names that are exchanged; brought: one side's alone."""
    values: dict[str, Values] = {}
    for of_table in across_seeds(rows):
        pairs = references(of_table)
        names = told_apart(pairs)
        floors = _floors({row["path"]: row for row in pairs.values()}, distance, brought, names)
        for row in (row for row in of_table if row["path"] in pairs):
            retrained = pairs[row["path"]]
            left = residuals(row, retrained, names)
            own = distance(row, retrained) | brought(row, retrained)
            values[row["path"]] = own | left | floors[retrained["path"]]
            values[row["path"]] |= _kept_up(row, values[row["path"]])
    return values


def _kept_up(row: Row, values: Values) -> Values:
    names = [gap_after(k) for k in range(1, len(row.get("metrics_by_request", ())) + 1)]
    ours, floors = ([values.get(f"{prefix}{name}") for name in names] for prefix in ("", "floor."))
    return {"kept_up": kept_up(ours, floors)} if names else {}


def gaps(row: Row, retrained: Row) -> Values:
    """`average_gap`, `tow` and `delta.*` of a row; of a sequence also `gap_after_k` for each of its requests.

    None of the latter where the row has no metrics of them, as one that diverged or was skipped.
    """
    requests = [each.get("metrics_by_request", ()) for each in (row, retrained)]
    pairs = zip(*requests, strict=True) if all(requests) else ()
    scenario, corrective = row["task"]["scenario"], "n_manipulated" in row["task"]
    after = {gap_after(k): average_gap(a["metrics"], b["metrics"], scenario) for k, (a, b) in enumerate(pairs, 1)}
    return metrics_against(row["metrics"], retrained["metrics"], scenario, compared(row), corrective) | after


def told_apart(pairs: dict[str, Row]) -> set[str]:
    """What tells a table's originals from its retrained models (`metrics.residual.telling`). pairs: `references`."""
    rows = {row["path"]: row for row in pairs.values()}.values()
    both = [(readings(row["original_metrics"] or {}), readings(row["metrics"])) for row in rows]
    return telling(both, min((row["samples"].get("forget", 0) for row in rows), default=0))


def residuals(row: Row, retrained: Row, names: set[str]) -> Values:
    """`residual`, `residual.*` and `relearn_log_ratio` of a row. names: see `told_apart`."""
    return residual_shares(row["metrics"], retrained["metrics"], retrained["original_metrics"] or {}, names)


def reevaluate(rows: list[Row], folder: Path, metrics: dict[str, Any]) -> list[Row]:
    """The rows with these metrics (name -> YAML node) found anew from the stored outputs: nothing is inferred again.

    So are the original's, which every row holds: where its outputs are gone these metrics have no value. A row whose
    own outputs are gone keeps what it has, and the log says so. References such as ${evaluate.attack_seed}
    mean the row's own configuration. What compares with a random model (ZRF) needs more than a row's outputs and keeps
    its values. Raises ConfigError for a metric that cannot be built, or that looks into the model.
    """
    known: dict[str, Values] = {}  # of originals: rows of a task share one
    return [_reevaluated(row, folder, metrics, known) if row["status"] == "done" else row for row in rows]


def _reevaluated(row: Row, folder: Path, metrics: dict[str, Any], known: dict[str, Values]) -> Row:
    answers = outputs_of(row, folder)
    if answers is None:
        log.warning("%s: its outputs are gone, its metrics stay as they are", row["path"])
        return row
    config = OmegaConf.to_container(OmegaConf.create(row["config"] | {"metric": metrics}), resolve=True)
    built = {name: build(node, f"metric.{name}") for name, node in config["metric"].items()}
    owner = dict.fromkeys(AGAINST, "against")
    for name, metric in built.items():
        check_names(name, getattr(metric, "about", ()), owner)
        if looks_inside(metric):
            raise ConfigError(f"metric {name} needs the model, not its outputs alone; run ssd-bench with it in metric=")
        if judges(metric):
            raise ConfigError(f"metric {name} needs a pool of models; take ssd-bench-pool metric=[{name}]")
    comparing = [name for name, metric in built.items() if compares(metric)]
    row = row | {
        "config": row["config"] | {"metric": (row["config"].get("metric") or {}) | config["metric"]},
        "comparing": list(dict.fromkeys([*row.get("comparing", ()), *comparing])),
    }
    alone = {name: metric for name, metric in built.items() if name not in comparing}
    values, _ = compute_all(alone, answers, None)
    about = {name: asdict(each) for name, each in of_metrics(row).items()} | describe(built)
    found = row | {"metrics": row["metrics"] | values, "about": about}
    if row["original_metrics"] is None:
        return found
    of = {kind: path for kind, path in row["artefacts"].items() if kind.startswith("original_")}
    key = json.dumps([of, config["metric"]], sort_keys=True)
    if key not in known:
        before = outputs_of(row, folder, "original_")
        known[key] = compute_all(alone, before, None)[0] if before else dict.fromkeys(values)
    return found | {"original_metrics": row["original_metrics"] | known[key]}


def _floors(retrained: dict[str, Row], distance: Distance, brought: Distance, names: set[str]) -> dict[str, Values]:
    """By path: how far each retrained model is, on average, from those of other training seeds."""
    apart: dict[str, list[Values]] = {path: [] for path in retrained}
    for one, other in _other_seeds(retrained):
        far = distance(retrained[one], retrained[other])
        shares = [residuals(retrained[a], retrained[b], names).get(RESIDUAL) for a, b in ((one, other), (other, one))]
        if None not in shares:
            far[RESIDUAL] = sum(map(abs, shares)) / 2
        apart[one].append(far | brought(retrained[one], retrained[other]))
        apart[other].append(seen_from_there(far) | brought(retrained[other], retrained[one]))
    return {path: {f"floor.{name}": value for name, value in _means(each).items()} for path, each in apart.items()}


def _other_seeds(retrained: dict[str, Row]) -> list[tuple[str, str]]:
    """Pairs of paths that differ in the training seed: if there are any, those that forget the same images."""
    task = {path: row["task"] for path, row in retrained.items()}
    pairs = [(a, b) for a, b in combinations(retrained, 2) if task[a]["seed"] != task[b]["seed"]]
    return [(a, b) for a, b in pairs if task[a]["forget_sha256"] == task[b]["forget_sha256"]] or pairs


def _means(values: list[Values]) -> Values:
    """Of the distances that all of these have; the signed ones have no mean that means anything."""
    names = [name for name in (values[0] if values else ()) if not name.startswith("delta.")]
    known = [name for name in names if all(each.get(name) is not None for each in values)]
    return {name: sum(each[name] for each in values) / len(values) for name in known}


def _distances(row: Row, retrained: Row, folder: Path) -> Values:
    if row["status"] != "done":
        return {}
    answers = _answers(row, retrained, folder)
    values = outputs_against(*answers) if all(answers) else {}
    values |= kept_against(*(kept_of(each, folder) for each in (row, retrained)))
    weights = [tensors_of(each, "unlearned", folder) for each in (row, retrained)]
    return values | (weights_against(*weights) if all(weights) else {})


def _answers(row: Row, retrained: Row, folder: Path) -> list[Outputs | None]:
    """What both models say about the sets that are the same."""
    answers = [outputs_of(each, folder) for each in (row, retrained)]
    if all(answers) and row["task"]["forget_sha256"] != retrained["task"]["forget_sha256"]:
        answers = [each.only("retain", "test") for each in answers]  # other images were drawn for D_f
    return answers


class Brought:
    """The metrics of these rows that compare with the retrained model, as the newest row of a table has them.

    What cannot be built here, or fails, is left out, and the log says so: the other numbers stand without it.
    """

    def __init__(self, rows: list[Row], folder: Path) -> None:
        self._folder = folder
        self._of: dict[str, dict[str, Any]] = {}  # by path of the row: name -> YAML node
        self._built: dict[str, Any] = {}  # by name and node
        self._told: set[str] = set()
        for of_table in across_seeds(rows):
            ordered = sorted(of_table, key=lambda row: row["env"]["finished"])
            nodes = {name: row["config"]["metric"][name] for row in ordered for name in row.get("comparing", ())}
            self._of |= {row["path"]: nodes for row in of_table}

    def __call__(self, row: Row, retrained: Row) -> Values:
        nodes = self._of.get(row["path"], {}) if row["status"] == "done" else {}
        answers = _answers(row, retrained, self._folder) if nodes else []
        values: Values = {}
        for name, node in nodes.items() if answers and all(answers) else ():
            try:
                values |= compare({name: self._metric(name, node)}, *answers)
            except Exception as e:
                self._tell(f"metric {name}: {' '.join(f'{type(e).__name__}: {e}'.split())}; its values are left out")
        return values

    def _metric(self, name: str, node: Any) -> Any:
        key = json.dumps([name, node], sort_keys=True)
        if key not in self._built:
            self._built[key] = build(node, f"metric.{name}")
        return self._built[key]

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            log.warning("%s", line)


def outputs_of(row: Row, folder: Path, of: str = "") -> Outputs | None:
    """What the row's model says about its sets, read from the artefacts; None where they are gone.

    of: "original_" for what the original says about them.
    """
    sets, logits = (_sound(row, f"{of}{kind}", folder) for kind in ("sets", "outputs"))
    if not sets or not logits:
        return None
    return outputs(_load(sets), json.loads(sets.with_suffix(".json").read_text())["about"], _load(logits))


def kept_of(row: Row, folder: Path) -> dict[str, Tensor]:
    """What the row's metrics kept of its model for comparisons, by name."""
    kinds = [kind for kind in row["artefacts"] if kind.startswith("kept.")]
    return {name: t for kind in kinds for name, t in (tensors_of(row, kind, folder) or {}).items()}


def tensors_of(row: Row, kind: str, folder: Path) -> dict[str, Tensor] | None:
    """The tensors of an artefact that a row names; None where there is none."""
    place = _sound(row, kind, folder)
    return _load(place) if place else None


@lru_cache(maxsize=12)  # what is read of two rows
def _load(path: Path) -> dict[str, Tensor] | None:
    try:
        return read_artefact(path).tensors
    except Damaged as e:
        log.warning("%s is damaged (%s) and is left out; ssd-bench makes it again", path, e)
        return None


def _sound(row: Row, kind: str, folder: Path) -> Path | None:
    """Where an artefact that a row names lies whole: as the row says, or in a folder above the row's own, which was
    moved or came from another machine."""
    path = Path(row["artefacts"].get(kind) or "")
    below = Path(*path.parts[-3:])  # artefacts/kind/name
    places = [path, *(parent / below for parent in Path(folder, row["path"]).absolute().parents)]
    there = (place for place in places if place.suffix == ".safetensors" and place.is_file())
    return next((place for place in there if _load(place) is not None), None)
