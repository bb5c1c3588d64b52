"""The house: which room may import which. Imports inside functions count."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssd_bench.run.plan import PACKAGE

MAY = {  # room -> the rooms that it may use
    "core": set(),
    "train": {"core"},
    "models": {"core"},
    "metrics": {"core", "train"},  # train: inference passes over what a metric looks into
    "store": {"core"},
    "importance": {"core", "train"},
    "methods": {"core", "train", "importance"},
    "scenarios": {"core"},
    "data": {"core", "train", "store"},  # train: how images are augmented; store: decoded images are kept
    "report": {"core", "store", "metrics"},
    "run": {"core", "train", "importance", "models", "data", "scenarios", "methods", "metrics", "store"},
    "tune": {"core", "scenarios", "store", "run"},
    "cli": {"core", "train", "data", "store", "run", "report", "tune"},
}
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def imported(path: Path) -> Iterator[str]:
    """The rooms that a module imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for parts in (name.split(".") for name in names):
            if parts[0] == "ssd_bench" and len(parts) > 1 and parts[1] in ROOMS:
                yield parts[1]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    assert room in MAY, f"{room} is new: say what it may use"
    used = {r: path.name for path in (PACKAGE / room).rglob("*.py") for r in imported(path)}
    assert not {r: used[r] for r in used.keys() - MAY[room] - {room}}


def test_every_room_is_known_and_no_arrow_runs_in_a_circle():
    assert set(MAY) == set(ROOMS)
    left = dict(MAY)
    while left:
        floor = {room for room, below in left.items() if not below & left.keys()}
        assert floor, f"a circle among {sorted(left)}"
        left = {room: below for room, below in left.items() if room not in floor}


def test_modules_lie_in_rooms():
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py", "api.py"}
