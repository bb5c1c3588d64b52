"""What an extra brings may be missing: the main job does without; what needs it says in one line what to install."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import SHORT, Ended

OPTIONAL = ("matplotlib", "hydra_plugins", "submitit")
WITHOUT = f"""
import contextlib, io, json, sys
from importlib import import_module
sys.modules |= dict.fromkeys({OPTIONAL})
modules = {{"ssd-bench": "ssd_bench.cli.run", "ssd-bench-report": "ssd_bench.cli.report"}}
for command in json.load(sys.stdin):
    sys.argv, out, err = command, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            import_module(modules[command[0]]).main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
MAIN = (f"ssd-bench {' '.join(SHORT)} out=runs", "ssd-bench-report runs --format csv")
REFUSED = {
    "ssd-bench-report runs --format html": ("matplotlib", "report"),
    "ssd-bench-report runs --pictures figures": ("matplotlib", "report"),
    "ssd-bench -m hydra/launcher=joblib": ("hydra/launcher=joblib", "parallel"),
    "ssd-bench -m hydra/launcher=submitit_local": ("hydra/launcher=submitit_local", "cluster"),
    "ssd-bench -m hydra/launcher=submitit_slurm": ("hydra/launcher=submitit_slurm", "cluster"),
    "ssd-bench -m hydra/launcher=ray": ("hydra/launcher=ray", "ray"),
}


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """How these commands end in a process that can import nothing that an extra brings."""
    commands = [*REFUSED, *MAIN]
    asked, cwd = json.dumps([command.split() for command in commands]), tmp_path_factory.mktemp("without")
    done = subprocess.run([sys.executable, "-c", WITHOUT], input=asked, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {c: Ended(*json.loads(line)) for c, line in zip(commands, done.stdout.splitlines(), strict=True)}


def test_runs_tables_and_csv_need_no_extra(without):
    ran, told = (without[command] for command in MAIN)
    assert ran.code == 0, ran.err
    assert "forget D'_f %" in ran.out
    assert told.code == 0, told.err
    assert told.out.startswith("data,model,")


@pytest.mark.parametrize("command", REFUSED)
def test_what_needs_an_extra_names_it_in_one_line(without, command):
    ended, (module, extra) = without[command], REFUSED[command]
    assert ended.code == 2
    assert ended.out == ""
    [line] = ended.err.splitlines()
    assert line.startswith("ssd-bench: ")
    assert module in line
    assert line.endswith(f"is not installed: pip install 'ssd-bench[{extra}]'")
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
