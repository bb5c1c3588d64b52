"""From YAML to typed objects: every setting is checked before any data loads. Imports no torch by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd_bench.core.about import check_names
from ssd_bench.core.build import build, explain
from ssd_bench.core.errors import ConfigError, check_choice

PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = next((p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()), PACKAGE / "conf")
GROUPS = ("data", "model", "scenario", "method", "train")
APART = ("metric", "evaluate", "experiment", "tuned", "kinds")  # further keys that are no settings of a run as a whole
SETS = ("retain", "forget", "test", "retain_train", "forget_train")
FIDELITIES = ("corrected", "official")
PROTOCOLS = ("tuned", "published")


def _by_fidelity(corrected: Any, official: Any, *, _root_: DictConfig) -> Any:
    return official if _root_.fidelity == "official" else corrected


OmegaConf.register_new_resolver("by_fidelity", _by_fidelity, replace=True)


def _kind_of_requests(requests: Any, targets: Any) -> str:
    """Of a number of requests random; else full_class where the data have no finer classes, or where all that are named
    are among their targets for it alone."""
    if str(requests).isdecimal():
        return "random"
    whole, parts = ({str(name) for name in (targets or {}).get(of) or ()} for of in ("full_class", "sub_class"))
    several = requests if isinstance(requests, ListConfig | list) else ()  # what else it is, the scenario refuses
    named = {str(name) for each in several for name in (each if isinstance(each, ListConfig | list) else [each])}
    return "full_class" if (whole and not parts) or (named and named <= whole - parts) else "sub_class"


OmegaConf.register_new_resolver("kind_of_requests", _kind_of_requests, replace=True)


def _unless_given(name: str, default: Any, *, _parent_: DictConfig) -> Any:
    """The default, or null where the setting beside it that stands for the same has a value of its own."""
    beside = _parent_._get_node(name)
    return default if beside._is_none() or "unless_given" in str(beside._value()) else None


OmegaConf.register_new_resolver("unless_given", _unless_given, replace=True)


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
        if not self.sets:
            raise ValueError(f"sets must name at least one of {', '.join(SETS)}")
        check_choice("average", self.average, ("sample", "batch"))
        for name in ("average_batch", "batch_size", "retain_train_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


MODEL = ("build", "input_side", "checkpoint")  # what every run asks a model's settings for
NEEDS = ("outputs", "model", "random_logits", "reference", "pool")  # what a metric may ask for
PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """The keys that belong to no group."""

    fidelity: str = "corrected"
    protocol: str = "tuned"
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
    json: bool = False

    def __post_init__(self) -> None:
        check_choice("fidelity", self.fidelity, FIDELITIES)
        check_choice("protocol", self.protocol, PROTOCOLS)
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
        """Of the method's own draws; unless set, that of training."""
        return self.settings.seed if self.settings.seed_unlearn is None else self.settings.seed_unlearn

    @property
    def seed_forget(self) -> int:
        """Of what is drawn to be forgotten; unless set, that of training."""
        return self.settings.seed if self.settings.seed_forget is None else self.settings.seed_forget

    def on(self, device: str) -> Plan:
        """The same; on this device where it leaves the choice."""
        auto = self.settings.device == "auto"
        return replace(self, settings=replace(self.settings, device=device)) if auto else self


def plan(cfg: DictConfig, names: dict[str, str]) -> Plan:
    """Every object that a run needs. Raises ConfigError for the first setting that is wrong."""
    try:
        config = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as e:
        raise ConfigError(explain(e, "")) from e
    loose = {key: value for key, value in config.items() if key not in (*GROUPS, *APART)}
    settings = build({k: str(v) if k == "threads" else v for k, v in loose.items()}, "", Settings)
    for group in GROUPS:
        if not isinstance(config[group], dict):
            raise ConfigError(f"{group}={config[group]} is no option of the group")
    objects = {group: build(config[group], group) for group in GROUPS}
    if missing := [name for name in MODEL if name not in dir(objects["model"])]:
        raise ConfigError(f"model={names['model']}: its class has no {', '.join(missing)} (docs/extending.md)")
    evaluate = build(config["evaluate"], "evaluate", Evaluate)
    for name in evaluate.sets:
        check_choice("evaluate.sets", name, (*SETS, *getattr(objects["scenario"], "sets", ())))
    metrics = {name: build(node, f"metric.{name}") for name, node in (config.get("metric") or {}).items() if node}
    _check_metrics(metrics)
    return Plan(settings=settings, evaluate=evaluate, metrics=metrics, names=names, config=config, **objects)


def _check_metrics(metrics: dict[str, Any]) -> None:
    """Raise ConfigError for what two of them return, or one beside tables, and for needs that do not exist."""
    from ssd_bench.metrics.against import ABOUT  # here, for it imports torch

    owner = dict.fromkeys(ABOUT, "against")
    for name, metric in metrics.items():
        about, needs = getattr(metric, "about", ()), getattr(metric, "needs", ())
        check_names(name, about, owner)
        for need in needs:
            check_choice(f"metric {name}: needs", need, NEEDS)
        alone = [need for need in ("model", "reference", "pool") if need in needs]
        if len(alone) > 1:
            raise ConfigError(f"metric {name} needs {' and '.join(alone)}; allowed: one of them")
        if alone not in ([], ["model"]) and not about:
            raise ConfigError(f"metric {name} needs {alone[0]}, so its class has to describe its values in about")
