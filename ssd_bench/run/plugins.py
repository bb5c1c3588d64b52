"""Installed plug-ins: distributions that bring a conf/ of their own, found without running any code of theirs."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssd_bench.core.errors import ConfigError
from ssd_bench.run.cases import as_list, cases, read
from ssd_bench.run.plan import CONF_DIR

GROUP = "ssd_bench.plugins"


def config_folders() -> dict[str, Path]:
    """Per installed plug-in, the folder that holds its method/, metric/, model/, ...

    A plug-in is an entry point of the group `ssd_bench.plugins`; its value names a package that has a conf/. Raises
    ConfigError, naming the plug-in, where there is no such package or folder, and where it brings a name that is taken.
    """
    folders: dict[str, Path] = {}
    points = _points(tuple((place, _changed(place)) for place in sys.path))
    taken = dict.fromkeys(_options(CONF_DIR), "ssd-bench") if points else {}
    for point in points:
        about = f"the plug-in {point.name} (distribution {point.dist.name} {point.dist.version})"
        places = _folders_of(point.value)
        if not places:
            raise ConfigError(f"{about}: its package {point.value} cannot be imported; install it again, or remove it")
        folder = next((place / "conf" for place in places if (place / "conf").is_dir()), None)
        if folder is None:
            raise ConfigError(f"{about}: its package has no {places[0] / 'conf'}; it has to hold method/, metric/, ...")
        _check_names(about, folder, taken)
        taken |= dict.fromkeys(_options(folder), f"the plug-in {point.name}")
        folders[point.name] = folder
    return folders


@cache
def _points(places: tuple[tuple[str, int], ...]) -> list[EntryPoint]:
    """The entry points of plug-ins that are found there, each place as it was when it was changed last."""
    return sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))


def _changed(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


def nodes(group: str, *own: Path) -> dict[str, dict[str, Any]]:
    """What every YAML file of a group says, by name: the package's, those of installed plug-ins and of `own`."""
    folders = [CONF_DIR, *config_folders().values(), *own]
    return {path.stem: copy.deepcopy(read(path)) for f in folders for path in sorted((f / group).glob("*.yaml"))}


def _options(folder: Path) -> set[tuple[str, str]]:
    """Group and name of every YAML file below `folder`."""
    return {(path.parent.relative_to(folder).as_posix(), path.stem) for path in folder.rglob("*.yaml")}


def _check_names(about: str, folder: Path, taken: Mapping[tuple[str, str], str]) -> None:
    """Raise ConfigError for a name that somebody has, and for a tuned default of what is not the plug-in's own."""
    brought = _options(folder)
    own = {name for group, name in brought if group != "tuned"}
    for group, name in sorted(brought):
        if group == "tuned":
            for case in cases([folder], name):
                named = [name, *(each for value in case["when"].values() for each in as_list(value))]
                if not own & set(named):
                    raise ConfigError(
                        f"{about} brings tuned={name} for {case['when']}: it may tune only what it brings"
                    )
        elif (group, name) in taken:
            raise ConfigError(f"{about} brings {group}={name}, which {taken[group, name]} has already; rename it there")


def _folders_of(package: str) -> list[Path]:
    """Where the package of this dotted name lies; empty where there is none.

    `find_spec` alone would run the code of the packages above it.
    """
    top, *below = package.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # an empty name, or a module that was made by hand
        return []
    for name in below:
        spec = spec and PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations)
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
