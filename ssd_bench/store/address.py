"""Addresses: what determines a result, in full, so that no result is mistaken for another.

Settings count, and so does code. What the package ships declares a `version`, which is raised when what it computes
changes; what a user brings counts by its source, and so do the modules of theirs that it imports. A method, metric or
model that was put into the package, and has no version of its own yet, counts by its source as well. Comments and
layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import json
import logging
import sys
import sysconfig
import tokenize
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

OURS = __name__.partition(".")[0]
LANDING = ("methods", "metrics", "models")  # rooms of the package in which others put what they make
WRITTEN = (torch.dtype, torch.device, np.generic, bytes, range, complex, slice)  # that count as they are written
AS_NUMPY = frozenset(  # types of tensors
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128}
)
_seen: dict[str, tuple[Any, str]] = {}  # by module: its spec, and its source when this process first asked
_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def digest(key: Any) -> str:
    """sha256 of a JSON-able key, the same whatever the order of its dictionaries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def address(thing: Any, without: tuple[str, ...] = (), within: frozenset[int] = frozenset()) -> Any:
    """All that determines `thing`, as a JSON-able value: the path of its class, that class's code, its settings.

    Plain values stand for themselves, tensors for their bytes, functions for their code and what they carry with them
    (defaults, and variables of the function around them). without: fields that do not count, such as a file's
    path where its content does; nor do those that came later (`metadata={"later": True}`), at their default. within:
    the ids of what this is part of; of an installed library's, a part counts by the library's version. Raises TypeError
    for what has neither fields nor a value.
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, WRITTEN):
        return [type(thing).__name__, repr(thing)]
    if id(thing) in within:
        return "itself"
    of_part = partial(address, within=within | {id(thing)})
    if isinstance(thing, Mapping):
        return {str(key): of_part(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [of_part(value) for value in thing]
    if isinstance(thing, Set):
        return {"set": sorted((of_part(value) for value in thing), key=repr)}
    if isinstance(thing, Enum):
        return [_path(type(thing)), thing.name]
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, Tensor | np.ndarray):
        if isinstance(thing, Tensor) and (thing.is_meta or thing.dtype not in AS_NUMPY):
            return _of_tensor(thing)
        values = np.ascontiguousarray(thing.detach().cpu().numpy() if isinstance(thing, Tensor) else thing)
        if values.dtype.hasobject:  # whose bytes are places in memory
            return [str(values.dtype), list(values.shape), of_part(values.tolist())]
        return [str(values.dtype), list(values.shape), hashlib.sha256(values.tobytes()).hexdigest()]
    if isinstance(thing, ModuleType):
        return thing.__name__
    if isinstance(thing, logging.Logger):
        return thing.name
    if isinstance(thing, partial):
        return {"partial": [of_part(part) for part in (thing.func, thing.args, thing.keywords)]}
    if isinstance(thing, MethodType):
        return {"method": thing.__name__, "of": of_part(thing.__self__)}
    if isinstance(thing, type | FunctionType):
        # of lambdas a module may have several
        alone = {"lambda": _bytecode(thing)} if thing.__name__ == "<lambda>" else {}
        return {"class": _path(thing), **_code_of_part(thing, within), **of_part(_carried(thing)), **alone}
    if isinstance(thing, BuiltinFunctionType):
        of = thing.__self__
        return {"class": _path(thing)} | (
            {} if of is None or isinstance(of, ModuleType | type) else {"of": of_part(of)}
        )
    if not (is_dataclass(thing) or hasattr(thing, "__dict__")):
        raise TypeError(f"{type(thing).__name__} has no address: it has no fields and is no plain value")
    if is_dataclass(thing):
        count = (f for f in fields(thing) if not (f.metadata.get("later") and getattr(thing, f.name) == f.default))
        names = [f.name for f in count]
    else:
        names = sorted(vars(thing))
    settings = {name: of_part(getattr(thing, name)) for name in names if name not in without}
    return {"class": _path(type(thing)), **_code_of_part(type(thing), within), "settings": settings}


def _of_tensor(t: Tensor) -> list[Any]:
    """Of a tensor that NumPy has no type for, or that holds no numbers."""
    about = [str(t.dtype), list(t.shape)]
    if t.is_meta:
        return about
    flat = t.detach().cpu().contiguous().reshape(-1)
    return [*about, hashlib.sha256(flat.view(torch.uint8).numpy().tobytes() if t.numel() else b"").hexdigest()]


def _code_of_part(thing: type | FunctionType, within: frozenset[int]) -> dict[str, Any]:
    known = within and _top(thing.__module__) != OURS and _library(thing)
    return {"library": known} if known else code_of(thing)


def code_of(thing: type | FunctionType) -> dict[str, Any]:
    """What a class or function is made of: versions of the package's classes that it builds on, the user's source.

    libraries: of a class that names some (`libraries = ("timm",)`), the versions that are installed.
    """
    parts: dict[str, Any] = {}
    for each in inspect.getmro(thing) if isinstance(thing, type) else (thing,):
        module = each.__module__
        if _top(module) == OURS:
            if "version" in vars(each):
                parts.setdefault("versions", {})[_path(each)] = each.version
            elif each is thing and is_dataclass(each) and module.split(".")[1] in LANDING:  # it may inherit another's
                parts.setdefault("code", {})[module] = _hash_of(_source(module) or "")
        elif _is_users(module, thing.__module__):
            parts.setdefault("code", {})[module] = _source_with_imports(module) or _bytecode(each)
        for library in vars(each).get("libraries", ()):
            parts.setdefault("libraries", {})[library] = version(library)
    return parts


def _carried(thing: type | FunctionType) -> dict[str, Any]:
    """What a function has beside its code, where there is any: defaults, and variables of the function around it."""
    if isinstance(thing, type):
        return {}
    cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
    around = {name: cell.cell_contents for name, cell in cells if cell != CellType()}
    carried = {"defaults": thing.__defaults__, "keywords": thing.__kwdefaults__, "around": around}
    return {name: value for name, value in carried.items() if value}


def values_of(thing: Any) -> Any:
    """The address of plain values and tensors, also in lists, dictionaries, dataclasses, namespaces and what `partial`
    binds; of all else but what kind it is.

    Never raises: what has a value but no address (a sparse tensor) counts by its kind."""
    if isinstance(thing, Mapping):
        return {str(key): values_of(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [values_of(value) for value in thing]
    if isinstance(thing, Set):
        return {"set": sorted((values_of(value) for value in thing), key=repr)}
    plain = thing is None or isinstance(thing, (bool, int, float, str, Tensor, np.ndarray, *WRITTEN))
    settings = is_dataclass(thing) and not isinstance(thing, type)
    if plain or settings or isinstance(thing, (partial, SimpleNamespace, Namespace)):
        with suppress(TypeError, RuntimeError, AttributeError):
            return address(thing)
    return _path(thing if hasattr(thing, "__qualname__") else type(thing))


def _library(thing: type | FunctionType) -> str | None:
    """The version of the installed library that it belongs to; None where it belongs to none, or that tells none."""
    top = _top(thing.__module__)
    place = _place_of(top)
    return getattr(sys.modules.get(top), "__version__", None) if place is not None and _is_installed(place) else None


def classes_of(things: Iterable[Any]) -> dict[str, Any]:
    """What the classes of these objects are made of, by path: their code, of an installed library's its version."""
    found = {}
    for cls in {type(thing) for thing in things}:
        place = _place_of(_top(cls.__module__))
        found[_path(cls)] = _library(cls) if place is not None and _is_installed(place) else code_of(cls)
    return found


def _path(thing: Any) -> str:
    return f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_users(module: str, of: str) -> bool:
    """Whether a module that `of` builds on is the user's own: part of the same package, or not installed at all."""
    top = _top(module)
    if top == OURS:
        return False
    path = _place_of(top)
    mine = path is not None and not _is_installed(path)  # a module of the user's may be called as one of Python's own
    return mine or (top == _top(of) and (top == "__main__" or top not in sys.stdlib_module_names))


def _is_installed(path: Path) -> bool:
    """Whether a module lies where installers put them, this environment's place or another's."""
    return not _INSTALLED.isdisjoint(path.parents) or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _place_of(top: str) -> Path | None:
    """Where a top-level module or package lies, also one without an __init__.py; None for what is built in."""
    module = sys.modules.get(top)
    if module is not None:
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    else:
        try:
            spec = find_spec(top)
        except (ImportError, AttributeError, ValueError):
            return None
        places = [spec.has_location and spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return next((Path(place).resolve() for place in places if place), None)


def _file_of(module: str) -> Path | None:
    """Where the source of a module lies; None where it has none. Imports nothing but the packages around it."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        path = getattr(loaded, "__file__", None)
    else:
        try:
            spec = find_spec(module)
        except (ImportError, AttributeError, ValueError):
            return None
        path = spec.origin if spec and spec.has_location else None
    return Path(path).resolve() if path and path.endswith(".py") else None


def _source(module: str) -> str | None:
    """The source of a module as it was when this process first asked: what was edited later is not what runs here."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if module in _seen and module in sys.modules and _seen[module][0] is spec:  # another one after importlib.reload
        return _seen[module][1]
    path = _file_of(module)
    if path is None or not path.exists():
        return None
    source = path.read_text()
    if module in sys.modules:
        _seen[module] = spec, source
    return source


def _hash_of(source: str) -> str:
    return hashlib.sha256(_tokens(source).encode()).hexdigest()


def _source_with_imports(module: str) -> dict[str, str] | None:
    """Hash of a user's module and of each module of theirs that it imports, directly or not; None without source."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or not _is_users(name, module) or (source := _source(name)) is None:
            continue
        found[name] = _hash_of(source)
        is_package = hasattr(sys.modules.get(name), "__path__") or _file_of(name).name == "__init__.py"
        waiting += _imported(source, name if is_package else name.rpartition(".")[0])
    return dict(sorted(found.items())) or None


def _imported(source: str, package: str) -> Iterator[str]:
    """Names of the modules that a source may import, wherever in it; `from a import b` may mean a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_MARKS = {tokenize.INDENT: "\x01", tokenize.DEDENT: "\x02", tokenize.NEWLINE: "\n"}
_OPENS, _CLOSES = (  # Python 3.12 takes f-strings apart: put together again, every version sees the same
    {getattr(tokenize, f"{kind}STRING_{end}", None) for kind in "FT"} - {None} for end in ("START", "END")
)


def _tokens(source: str) -> str:
    """The source without comments and layout, the same in every version of Python."""
    lines, out, depth, begun = source.splitlines(keepends=True), [], 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _OPENS:
            depth, begun = depth + 1, begun if depth else token.start
        elif token.type in _CLOSES:
            depth -= 1
            if depth == 0:
                out.append(_between(lines, begun, token.end))
        elif depth == 0 and token.type not in _LAYOUT:
            out.append(_MARKS.get(token.type, token.string))
    return "\x00".join(out)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    return "".join([lines[start[0] - 1][start[1] :], *lines[start[0] : end[0] - 1], lines[end[0] - 1][: end[1]]])


def _bytecode(thing: type | FunctionType, seen: set[int] | None = None) -> str:
    """Hash of compiled code, for what was typed into an interpreter: functions, and those that they call by name."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return ""
    seen.add(id(thing))
    if isinstance(thing, FunctionType):
        around = {name: thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__}
        carried = _carried(thing)
        kinds = (each for each in (around | carried.get("around", {})).values())
        called = [m for m in kinds if isinstance(m, type | FunctionType) and m.__module__ == thing.__module__]
        parts = [_code(thing.__code__), values_of([around, carried]), *(_bytecode(each, seen) for each in called)]
    else:
        mine = {name: m for name, m in vars(thing).items() if name != "__firstlineno__"}
        functions = [inspect.unwrap(f) for m in mine.values() for f in _functions(m)]
        parts = [values_of(mine), *(_bytecode(f, seen) for f in functions if isinstance(f, FunctionType))]
    return digest(parts)


def _functions(member: Any) -> list[Any]:
    """The functions that a member of a class is made of."""
    if isinstance(member, property):
        return [f for f in (member.fget, member.fset, member.fdel) if f]
    return [getattr(member, "__func__", getattr(member, "func", member))]


def _code(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), [_constant(c) for c in code.co_consts]]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)
