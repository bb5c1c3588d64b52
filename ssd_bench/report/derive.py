"""What refers to the retrained model: derived from the stored outputs and weights of two rows."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from ssd_bench.core.build import build
from ssd_bench.core.task import Outputs, outputs
from ssd_bench.metrics.against import layer_distance, metrics_against, outputs_against
from ssd_bench.report.rows import across_seeds, by_task, reference
from ssd_bench.store.artefacts import read_artefact
from ssd_bench.store.files import Damaged
from ssd_bench.store.rows import Row

log = logging.getLogger(__name__)


def derived(rows: list[Row], folder: Path | str) -> dict[str, dict[str, float | None]]:
    """By path of the row: distances to the retrained model of its own task, and the floor under them.

    `delta.*` are signed differences of metrics. `floor.*` are the same distances between that retrained model and those
    of other training seeds (their mean): nothing below them can be told from chance. Empty without a retrained model;
    no floor with one seed; no distances where the artefacts are gone.
    """
    folder, values = Path(folder), derived_metrics(rows)
    for alike in across_seeds(rows):
        tasks = [(of_task, reference(of_task)) for of_task in by_task(alike)]
        known = [retrained for _, retrained in tasks if retrained]
        for of_task, retrained in tasks:
            if retrained is None:
                continue
            floor = _floor(retrained, known, folder)
            for row in of_task:
                values[row["path"]] |= _distances(row, retrained, folder) | floor
    return values


def derived_metrics(rows: list[Row]) -> dict[str, dict[str, float | None]]:
    """The part of `derived` that the rows alone tell: gaps, without a look at any artefact."""
    return {
        row["path"]: metrics_against(row["metrics"], retrained["metrics"], row["task"]["scenario"])
        for of_task in by_task(rows)
        if (retrained := reference(of_task))
        for row in of_task
    }


def reevaluate(rows: list[Row], folder: Path, metrics: dict[str, Any]) -> list[Row]:
    """The rows with these metrics (name -> YAML node) found anew from the stored outputs: nothing is inferred again.

    A row whose outputs are gone keeps what it has, and the log says so. References such as ${evaluate.attack_seed}
    mean the row's own configuration. What compares with a random model (ZRF) needs more than a row's outputs and keeps
    its values. Raises ConfigError for a metric that cannot be built.
    """
    again = []
    for row in rows:
        seen = said(row, folder) if row["status"] == "done" else None
        if seen is None:
            if row["status"] == "done":
                log.warning("%s: its outputs are gone, its metrics stay as they are", row["path"])
            again.append(row)
            continue
        values = {}
        for name, node in metrics.items():
            config = OmegaConf.to_container(OmegaConf.create(row["config"] | {"metric": {name: node}}), resolve=True)
            values |= build(config["metric"][name], f"metric.{name}")(seen)
        again.append(row | {"metrics": row["metrics"] | values})
    return again


def _floor(retrained: Row, known: list[Row], folder: Path) -> dict[str, float]:
    others = [row for row in known if row["task"]["seed"] != retrained["task"]["seed"]]
    others = [row for row in others if row["settings"] == retrained["settings"]]
    apart = [distances for row in others if (distances := _distances(row, retrained, folder))]
    names = [name for name in (apart[0] if apart else ()) if all(name in each for each in apart)]
    return {f"floor.{name}": sum(each[name] for each in apart) / len(apart) for name in names}


def _distances(row: Row, retrained: Row, folder: Path) -> dict[str, float]:
    if row["status"] != "done":
        return {}
    found = [said(each, folder) for each in (row, retrained)]
    values = outputs_against(*found) if all(found) else {}
    if row["task"]["forget_sha256"] != retrained["task"]["forget_sha256"]:  # other images were drawn for D_f
        values = {name: value for name, value in values.items() if not name.endswith("_forget")}
    weights = [tensors(each["artefacts"].get("unlearned"), folder) for each in (row, retrained)]
    if all(weights):
        values["layer_distance"] = layer_distance(*weights)
    return values


def said(row: Row, folder: Path) -> Outputs | None:
    """What the row's model says about its sets, read from the artefacts; None where they are gone."""
    sets, logits = (row["artefacts"].get(name) for name in ("sets", "outputs"))
    found = tensors(sets, folder), tensors(logits, folder)
    if not all(found):
        return None
    return outputs(found[0], json.loads(_find(sets, folder).with_suffix(".json").read_text())["about"], found[1])


def tensors(path: str | None, folder: Path) -> dict[str, Tensor] | None:
    """The tensors of an artefact that a row names."""
    found = _find(path, folder) if path else None
    return _load(found) if found else None


@lru_cache(maxsize=8)
def _load(path: Path) -> dict[str, Tensor] | None:
    try:
        return read_artefact(path).tensors
    except Damaged as e:
        log.warning("%s is damaged (%s) and is left out; ssd-bench makes it again", path, e)
        return None


def _find(path: str, folder: Path) -> Path | None:
    """Where an artefact lies: as the row says, or beside the rows where the folder was moved."""
    below = Path(*Path(path).parts[-3:])  # artefacts/kind/name
    places = [Path(path), *(parent / below for parent in (folder.absolute(), *folder.absolute().parents))]
    return next((place for place in places if place.suffix == ".safetensors" and place.is_file()), None)
