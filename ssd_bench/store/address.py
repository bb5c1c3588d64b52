"""Addresses: hashes of all that determines a result."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from typing import Any

from torch import Tensor


def digest(key: Any) -> str:
    """sha256 of a JSON-able key, the same whatever the order of its dictionaries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_rows(rows: Tensor) -> str:
    """sha256 of int64 numbers in their order."""
    return hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest()


def _code(cls: type) -> str:
    """Hash of the module that a method is written in, comments and layout left out: an edited method is another one."""
    return digest(ast.dump(ast.parse(inspect.getsource(inspect.getmodule(cls)))))
