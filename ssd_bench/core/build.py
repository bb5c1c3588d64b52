"""From YAML to typed objects: an object of the class that `_target_` names, its fields checked."""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd_bench.core.errors import ConfigError, check_choice


def build(values: dict[str, Any], group: str, cls: type | None = None) -> Any:
    """An object of the class that `_target_` names (or `cls`), its fields the values. Raises ConfigError."""
    values = dict(values)
    if target := values.pop("_target_", None):
        cls = class_of(target, group)
    if cls is None or not is_dataclass(cls):
        raise ConfigError(f"{group}: _target_ must name a dataclass, got {target}")
    for key in values:
        check_choice("", f"{group}.{key}".lstrip("."), (f"{group}.{f.name}".lstrip(".") for f in fields(cls)))
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{f'{group}.{key}'.lstrip('.')}={value} is not allowed; allowed: a finite number")
    schema = OmegaConf.structured(cls)
    for node in (schema, *(schema._get_node(key) for key in schema)):
        if isinstance(node, DictConfig):
            OmegaConf.set_readonly(node, False)  # OmegaConf takes frozen for read-only, and would refuse the values
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as e:
        raise ConfigError(explain(e, group)) from e
    except ConfigError as e:  # raised by a field's own check: say which group it is in
        raise ConfigError(f"{group}.{e}" if group else str(e)) from e
    except ValueError as e:
        raise ConfigError(f"{group}: {e}" if group else str(e)) from e


def class_of(target: Any, group: str) -> Any:
    """What `_target_` names, imported. Raises ConfigError."""
    module, _, name = str(target).rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as e:  # whatever a module of the user's may raise
        said = " ".join(f"{type(e).__name__}: {e}".split())
        raise ConfigError(f"{group}._target_={target} cannot be imported ({said})") from e


_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}


def explain(e: OmegaConfBaseException, group: str) -> str:
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
    if re.match(r"Invalid value assigned: \w+ is not a ListConfig", message):
        return f"{key} must be a list, such as {key}=[...]"
    if re.match(r"Cannot convert '(List|Dict)Config' to string", message):
        return f"{key} must be one value, no list"
    return f"{key}: {message}"
