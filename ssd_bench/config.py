"""From YAML to typed objects: every setting is checked before any data loads. Imports no torch by itself."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd_bench.errors import ConfigError, check_choice

PACKAGE = Path(__file__).resolve().parent
CONF_DIR = next((p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()), PACKAGE / "conf")
GROUPS = ("data", "model", "scenario", "method", "train")
SETS = ("retain", "forget", "test", "retain_train", "forget_train")
FIDELITIES = ("corrected", "official")


def _by_fidelity(corrected: Any, official: Any, *, _root_: DictConfig) -> Any:
    return official if _root_.fidelity == "official" else corrected


OmegaConf.register_new_resolver("by_fidelity", _by_fidelity, replace=True)
OmegaConf.register_new_resolver("when_null", lambda value, other: other if value is None else None, replace=True)


@dataclass(frozen=True)
class Evaluate:
    """Which sets are evaluated, and how averaged."""

    sets: list[str]
    retain_train_samples: int | None = None
    sample_seed: int = 0
    average: str = "sample"
    average_batch: int = 64
    batch_size: int = 128
    zrf_seed: int = 0
    attack_seed: int = 0

    def __post_init__(self) -> None:
        for name in self.sets:
            check_choice("sets", name, SETS)
        if not self.sets:
            raise ValueError(f"sets must name at least one of {', '.join(SETS)}")
        check_choice("average", self.average, ("sample", "batch"))
        for name in ("average_batch", "batch_size", "retain_train_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """The keys that belong to no group."""

    fidelity: str = "corrected"
    seed: int = 0
    seed_unlearn: int | None = None
    seed_forget: int | None = None
    device: str = "auto"
    threads: str = "auto"
    precision: str = "float32"
    compile: bool = False
    out: str = "runs"
    force: bool = False
    save_model: bool = True
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_choice("fidelity", self.fidelity, FIDELITIES)
        for name in ("seed", "seed_unlearn", "seed_forget"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be a whole number from 0 on, got {value}")
        check_choice("precision", self.precision, PRECISIONS)
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            check_choice("device", self.device, ("auto", "cpu", "cuda", "cuda:1", "mps"))
        if self.threads != "auto" and not (self.threads.isdecimal() and 1 <= int(self.threads) <= 1024):
            raise ValueError(f"threads must be auto or a number from 1 to 1024, got {self.threads}")
        if not self.out:
            raise ValueError("out must name a folder")


@dataclass(frozen=True)
class Plan:
    """One run, typed and checked."""

    settings: Settings
    data: Any
    model: Any
    scenario: Any
    method: Any
    train: Any
    evaluate: Evaluate
    metrics: dict[str, Any]
    names: dict[str, str]  # the chosen option of each group
    config: dict[str, Any]  # the whole, resolved

    @property
    def seed_unlearn(self) -> int:
        return self.settings.seed if self.settings.seed_unlearn is None else self.settings.seed_unlearn

    @property
    def seed_forget(self) -> int:
        return self.settings.seed if self.settings.seed_forget is None else self.settings.seed_forget


def writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or in the folder that would have to hold it. Leaves nothing behind."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def build(values: dict[str, Any], group: str, cls: type | None = None) -> Any:
    """An object of the class that `_target_` names (or `cls`), its fields the values. Raises ConfigError."""
    values = dict(values)
    if target := values.pop("_target_", None):
        try:
            cls = resolve_name(str(target))
        except (ImportError, ValueError, AttributeError) as e:
            raise ConfigError(f"{group}._target_={target} cannot be imported: {' '.join(str(e).split())}") from e
    if cls is None or not is_dataclass(cls):
        raise ConfigError(f"{group}: _target_ must name a dataclass, got {target}")
    for key in values:
        check_choice("", f"{group}.{key}".lstrip("."), (f"{group}.{f.name}".lstrip(".") for f in fields(cls)))
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{group}.{key}={value} is not allowed; allowed: a finite number")
    schema = OmegaConf.structured(cls)
    for node in (schema, *(schema._get_node(key) for key in schema)):
        if isinstance(node, DictConfig):
            OmegaConf.set_readonly(node, False)  # OmegaConf takes frozen for read-only, and would refuse the values
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as e:
        raise ConfigError(_explain(e, group)) from e
    except ConfigError as e:  # raised by a field's own check: say which group it is in
        raise ConfigError(f"{group}.{e}" if group else str(e)) from e
    except ValueError as e:
        raise ConfigError(f"{group}: {e}" if group else str(e)) from e


_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}


def _explain(e: OmegaConfBaseException, group: str) -> str:
    """OmegaConf's message in one line of plain words."""
    message = str(e.msg or e).splitlines()[0]
    key = ".".join(filter(None, (group, str(e.full_key or ""))))
    patterns = (
        r"Value '(?P<value>.*)' of type '\w+' could not be converted to (?P<kind>\w+)",
        r"Value '(?P<value>.*)' is not a valid (?P<kind>\w+)",
        r"Incompatible value '(?P<value>None)' for field of type '(?P<kind>\w+)'",
    )
    for match in filter(None, (re.match(pattern, message) for pattern in patterns)):
        kind = {"integer": "int", "boolean": "bool", "string": "str"}.get(match["kind"].lower(), match["kind"].lower())
        value = "null" if match["value"] == "None" else match["value"]
        return f"{key}={value} is not allowed; allowed: {_KINDS.get(kind, kind)}"
    return f"{key}: {message}"


def plan(cfg: DictConfig, names: dict[str, str]) -> Plan:
    """Every object that a run needs. Raises ConfigError for the first setting that is wrong."""
    try:
        config = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as e:
        raise ConfigError(_explain(e, "")) from e
    loose = {key: value for key, value in config.items() if key not in (*GROUPS, "metric", "evaluate", "experiment")}
    settings = build({k: str(v) if k == "threads" else v for k, v in loose.items()}, "", Settings)
    for group in GROUPS:
        if not isinstance(config[group], dict):
            raise ConfigError(f"{group}={config[group]} is no option of the group")
    objects = {group: build(config[group], group) for group in GROUPS}
    evaluate = build(config["evaluate"], "evaluate", Evaluate)
    metrics = {name: build(node, f"metric.{name}") for name, node in config["metric"].items()}
    return Plan(settings=settings, evaluate=evaluate, metrics=metrics, names=names, config=config, **objects)
