"""What an extra brings may be missing: the main job does without; what needs it says in one line what to install."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import SHORT

OPTIONAL = ("matplotlib", "plotly", "hydra_plugins", "submitit")
WITHOUT = (
    f"import sys; sys.modules |= dict.fromkeys({OPTIONAL})\n"
    "sys.argv = sys.argv[1:]\n"
    "from importlib import import_module\n"
    "import_module({'ssd-bench': 'ssd_bench.cli.run', 'ssd-bench-report': 'ssd_bench.cli.report'}[sys.argv[0]]).main()"
)


def without(*command):
    """A command in a process that can import nothing that an extra brings."""
    return subprocess.run([sys.executable, "-c", WITHOUT, *map(str, command)], capture_output=True, text=True)


def test_runs_tables_and_csv_need_no_extra(tmp_path):
    ran = without("ssd-bench", *SHORT, f"out={tmp_path / 'runs'}")
    assert ran.returncode == 0, ran.stderr
    assert "forget D'_f %" in ran.stdout
    told = without("ssd-bench-report", tmp_path / "runs", "--format", "csv")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("data,model,")


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("ssd-bench-report runs --format html", "plotly", "report"),
        ("ssd-bench-report runs --pictures figures", "matplotlib", "report"),
        ("ssd-bench -m hydra/launcher=joblib", "hydra/launcher=joblib", "parallel"),
        ("ssd-bench -m hydra/launcher=submitit_local", "hydra/launcher=submitit_local", "cluster"),
        ("ssd-bench -m hydra/launcher=submitit_slurm", "hydra/launcher=submitit_slurm", "cluster"),
        ("ssd-bench -m hydra/launcher=ray", "hydra/launcher=ray", "ray"),
    ],
)
def test_what_needs_an_extra_names_it_in_one_line(command, module, extra):
    ended = without(*command.split())
    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("ssd-bench: ")
    assert module in line
    assert line.endswith(f"is not installed: pip install 'ssd-bench[{extra}]'")
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
