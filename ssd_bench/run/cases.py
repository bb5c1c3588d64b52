"""Settings for a case, as one method on one data set: conf/tuned/METHOD.yaml, from the general to the particular.

A case says `when` it holds and what it sets under `method`. One that a study found carries the `study`, the `published`
settings (those without it) and, where they differ, the `official` ones (fidelity=official): what it sets holds under
protocol=tuned, on the data and recipe that `when` names key by key. A case that says but `like: METHOD` stands for all
cases of that method: a control takes the settings of what it is a control for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ssd_bench.core.build import class_of
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.store.rows import TRIED_HERE

CHOICES = ("method", "data", "model", "scenario")  # in the name under which Hydra asks for them
ALLOWED = ("when", "method", "why", "study", "published", "official")
SEPARATOR = "+"
SEQUENCE = "sequence"
KINDS = ("full_class", "sub_class", "random")  # what its requests are
ALIKE = {"hard": "random", "listed": "random"}  # scenarios for which the settings of another one hold


def cases(folders: Collection[Path], method: str, above: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What tuned/METHOD.yaml says in each of these folders, one after the other. Raises ConfigError.

    above: the methods whose cases are `like` this one's.
    """
    found = []
    for path in (folder / "tuned" / f"{method}.yaml" for folder in folders):
        if not path.is_file():
            continue
        listed = read(path) or []
        for case in listed if isinstance(listed, list) else [listed]:
            if isinstance(case, dict) and list(case) == ["like"]:
                if case["like"] in (method, *above):
                    raise ConfigError(f"{path}: like: {case['like']} leads back to itself")
                found += cases(folders, case["like"], (method, *above))
                continue
            if not isinstance(case, dict) or not all(isinstance(case.get(key), dict) for key in ("when", "method")):
                raise ConfigError(f"{path}: each case is a mapping with when: {{...}} and method: {{...}}, got {case}")
            for key in case:
                check_choice("", key, ALLOWED, where=f"{path}: ")
            found.append(case)
    return found


def read(path: Path) -> Any:
    """What a YAML file says, read once for the many jobs of a sweep: not to be changed."""
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


@cache
def _read(path: Path, changed: int, size: int) -> Any:
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def as_list(value: Any) -> list[Any]:
    """What a condition allows: one value or several."""
    return value if isinstance(value, list) else [value]


def setting(folders: Collection[Path], name: str) -> dict[str, Any]:
    """What a config gets for this combination, such as `ssd+digits+resnet18_slim+full_class`.

    Hard images take what holds for random ones, and a sequence what holds for one request of its kind (`scenario.of`).
    """
    chosen = dict(zip(CHOICES, name.split(SEPARATOR), strict=True))
    known, scenario = cases(folders, chosen["method"]), chosen["scenario"]
    if scenario != SEQUENCE:
        method, studies = _fitting(known, chosen, {scenario, ALIKE.get(scenario, scenario)})
        return {"method": method, "tuned": studies}
    of_kind, tuned = {}, []
    for kind in KINDS:
        of_kind[kind], studies = _fitting(known, chosen, {scenario, kind})
        tuned += [study | {"when": {**study["when"], "scenario.of": kind}} for study in studies]
    plain: dict[str, Any] = {}
    for path in (folder / "method" / f"{chosen['method']}.yaml" for folder in folders):
        plain |= read(path) if path.is_file() else {}
    method, kinds = {}, {}
    for key in sorted({key for of in of_kind.values() for key in of}):
        if key not in plain and not all(key in of for of in of_kind.values()):
            where = f"tuned/{chosen['method']}.yaml sets {key} for some kinds of requests"
            raise ConfigError(f"{where}; method/{chosen['method']}.yaml has to say what it is for the others")
        values = {kind: of[key] if key in of else plain[key] for kind, of in of_kind.items()}
        same = len({repr(value) for value in values.values()}) == 1
        method[key] = values[KINDS[0]] if same else f"${{by_kind:${{scenario.of}},${{kinds.{key}}}}}"
        kinds |= {} if same else {key: values}
    return {"method": method, "tuned": tuned, "kinds": kinds}


def _fitting(
    known: list[dict[str, Any]], chosen: Mapping[str, str], scenarios: set[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings of the cases that hold for these options and any of these scenarios, and the studies among them."""
    method, studies = {}, []
    for case in known:
        asked = {key: value for key, value in case["when"].items() if key in chosen}
        fits = {key: scenarios if key == "scenario" else {chosen[key]} for key in asked}
        if not all(fits[key] & set(as_list(value)) for key, value in asked.items()):
            continue
        if "study" in case:
            method |= {key: f"${{by_study:{key}}}" for key in case["method"]}
            below = {key: case["when"][key] for key in case["when"].keys() - asked.keys()}
            studies.append({**{key: case[key] for key in case.keys() - {"when", "why"}}, "when": below})
        else:
            method |= case["method"]
    return method, studies


def holding(config: Any) -> Mapping[str, Any] | None:
    """The study whose settings a config takes, under protocol=tuned: of those whose conditions hold the one that has
    most, the last of several."""
    if config["fidelity"] == "official" or config["protocol"] != "tuned":
        return None
    hold = [s for s in config.get("tuned") or () if all(_at(config, key) == v for key, v in s["when"].items())]
    return max(reversed(hold), key=lambda study: len(study["when"]), default=None)


def _at(config: Any, key: str) -> Any:
    """What stands under a dotted key, such as `train.epochs`; None where nothing does, or what a study is to say."""
    for part in key.split("."):
        raw = config._get_node(part, validate_access=False) if isinstance(config, DictConfig) else None
        if raw is not None and raw._is_interpolation() and "by_study:" in raw._value():
            return None
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def tuned_by(config: Mapping[str, Any], target: str | None) -> dict[str, Any] | None:
    """For a row: the study that found the settings of this resolved config, unless one was set to something else.

    target: the name of what the row's request forgets (`Request.target`), however the config names it. The budget says
    so where that, or a part of it, or the training seed, is one that the study tried settings on. None, too, for a
    method of one's own whose code is another now: no study has seen that.
    """
    study = holding(config)
    if study is None or any(config["method"][key] != value for key, value in study["method"].items()):
        return None
    if (code := study["study"].get("code")) and code != code_hash(config["method"]["_target_"]):
        return None
    tried = [item for task in study["study"].get("tried_on") or () for item in task.items()]
    parts = {target, *re.split(r"\+|>", target or "")}

    def here(key: str, value: Any) -> bool:
        if key == "scenario.target":
            return str(value) in parts
        if key == "scenario.classes":
            return set(map(str, as_list(value))) == set((target or "").split(", "))
        return str(_at(config, key)) == str(value)

    among = f", {TRIED_HERE}" if any(here(*item) for item in tried) else ""
    return {"study": study["study"]["name"], "budget": f"{study['study']['budget']}{among}"}


def code_hash(target: str) -> str | None:
    """Of the code of the method that `_target_` names, where it counts by that; None where by its version."""
    from ssd_bench.store.address import code_of, digest  # here, so that a hint does not wait for torch

    code = code_of(class_of(target, "method")).get("code")
    return digest(code) if code else None


def _by_study(name: str, *, _root_: DictConfig) -> Any:
    if _root_.fidelity == "official":
        official = [case.official[name] for case in _root_.tuned if name in (case.get("official") or {})]
        if official:
            return official[-1]
    study = holding(_root_)
    if study and name in study["method"]:
        return study["method"][name]
    of = _at(_root_, "scenario.of")  # of a sequence: what its requests are
    known = [case for case in _root_.tuned if name in case.published]
    kind = [case for case in known if case["when"].get("scenario.of") in (None, of)]
    return (kind or known)[-1].published[name]


OmegaConf.register_new_resolver("by_study", _by_study, replace=True)


def _by_kind(kind: str | None, values: Mapping[str, Any]) -> Any:
    """The value for this kind of request; for what is no kind, which the scenario refuses, any."""
    return values[kind if kind in values else next(iter(values))]


OmegaConf.register_new_resolver("by_kind", _by_kind, replace=True)
