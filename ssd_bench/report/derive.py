"""What refers to the retrained model: derived from the stored outputs and weights of two rows."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ssd_bench.evaluation import outputs
from ssd_bench.metrics.against import average_gap, layer_distance, outputs_against, tow
from ssd_bench.results import Row, by_task, reference
from ssd_bench.task import Outputs

SIGNED = ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc", "mia", "zrf")
OF_SEEDS = ("original", "seed", "seed_forget", "seed_unlearn")  # what differs between the training seeds of one task


def derived(rows: list[Row], folder: Path) -> dict[str, dict[str, float | None]]:
    """By path of the row: distances to the retrained model of its own task, and the floor under them.

    `delta.*` are signed differences of metrics. `floor.*` are the same distances between that retrained model and those
    of other training seeds (their mean): nothing below them can be told from chance. Empty without a retrained model;
    no floor with one seed; no distances where the artefacts are gone.
    """
    tasks = by_task(rows)
    values = {}
    for of_task in tasks:
        retrained = reference(of_task)
        if retrained is None:
            continue
        floor = _floor(retrained, tasks, folder)
        for row in of_task:
            mine, theirs = row["metrics"], retrained["metrics"]
            told = {"average_gap": average_gap(mine, theirs, row["task"]["scenario"]), "tow": tow(mine, theirs)}
            known = [name for name in SIGNED if mine.get(name) is not None and theirs.get(name) is not None]
            told |= {f"delta.{name}": mine[name] - theirs[name] for name in known}
            values[row["path"]] = told | _distances(row, retrained, folder) | floor
    return values


def _floor(retrained: Row, tasks: list[list[Row]], folder: Path) -> dict[str, float]:
    def alike(other: Row) -> bool:
        names = [name for name in retrained["task"] if name not in OF_SEEDS]
        return other["settings"] == retrained["settings"] and all(
            other["task"].get(name) == retrained["task"][name] for name in names
        )

    others = [other for other in map(reference, tasks) if other and other is not retrained and alike(other)]
    apart = [distances for other in others if (distances := _distances(other, retrained, folder))]
    names = apart[0] if apart else ()
    return {f"floor.{name}": sum(each[name] for each in apart) / len(apart) for name in names}


def _distances(row: Row, retrained: Row, folder: Path) -> dict[str, float]:
    if row["status"] != "done":
        return {}
    found = [_said(each, folder) for each in (row, retrained)]
    values = outputs_against(*found) if all(found) else {}
    weights = [_tensors(each["artefacts"].get("unlearned"), folder) for each in (row, retrained)]
    if all(weights):
        values["layer_distance"] = layer_distance(*weights)
    return values


def _said(row: Row, folder: Path) -> Outputs | None:
    sets, logits = (row["artefacts"].get(name) for name in ("sets", "outputs"))
    tensors = _tensors(sets, folder), _tensors(logits, folder)
    if not all(tensors):
        return None
    return outputs(tensors[0], json.loads(_find(sets, folder).with_suffix(".json").read_text())["about"], tensors[1])


def _tensors(path: str | None, folder: Path) -> dict[str, Tensor] | None:
    found = _find(path, folder) if path else None
    return _load(found) if found else None


@lru_cache(maxsize=8)
def _load(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def _find(path: str, folder: Path) -> Path | None:
    """Where an artefact lies: as the row says, or beside the rows where the folder was moved."""
    below = Path(*Path(path).parts[-3:])  # artefacts/kind/name
    places = [Path(path), *(parent / below for parent in (folder.absolute(), *folder.absolute().parents))]
    return next((place for place in places if place.suffix == ".safetensors" and place.is_file()), None)
