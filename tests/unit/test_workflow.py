"""The workflow on the forge's machines: it runs what the README says, with the versions that pyproject.toml allows."""

import os
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
JOB = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["commands"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_it_runs_the_two_commands_and_the_linter():
    commands = [step.get("run", "") for step in JOB["steps"]]
    assert [c for c in commands if c.startswith("./")] == ["./scripts/bench", "./scripts/test"]
    assert all(os.access(ROOT / c, os.X_OK) for c in commands if c.startswith("./"))
    assert commands[-1] == ".venv/bin/ruff check . && .venv/bin/ruff format --check ."


def test_both_systems_run_the_lowest_and_the_newest_versions():
    matrix = JOB["strategy"]["matrix"]
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert matrix["python"] == [lowest, "3.x"]
    assert matrix["versions"] == ["newest"]
    assert matrix["include"] == [{"os": os, "python": lowest, "versions": "lowest"} for os in matrix["os"]]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}


def test_every_dependency_has_a_lowest_version():
    extras = PROJECT["optional-dependencies"]
    needed = [*PROJECT["dependencies"], *(one for extra in extras.values() for one in extra)]
    assert [one for one in needed if ">=" not in one and not one.startswith("ssd-bench[")] == []
