"""Every launcher runs a sweep by its agenda: the rows, the tables and the exit code of all its jobs, wherever they ran.

Slurm is stood for by three small programs: `sbatch` starts the script once for each job of the array, `srun` runs what
it is given, `sacct` knows who is still at work.
"""

import json
import os
from importlib.util import find_spec

import pytest
from conftest import SHORT

from ssd_bench.run.agenda import Agenda
from ssd_bench.store.rows import read_rows

SBATCH = """#!/usr/bin/env python3
import os, re, subprocess, sys
script = sys.argv[-1]
last = int(re.search(r"--array=0-(\\d+)", open(script).read())[1])
for i in range(last + 1):
    alone = {"SLURM_JOB_ID": str(70 + i), "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(i), "SLURM_NTASKS": "1"}
    alone |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
    log = open(os.path.join(os.environ["FAKE_SLURM"], f"7_{i}.log"), "w")
    run = f"bash {script}; echo COMPLETED > $FAKE_SLURM/7_{i}"
    subprocess.Popen(run, shell=True, env=os.environ | alone, stdout=log, stderr=log, start_new_session=True)
print("Submitted batch job 7")
"""
SRUN = """#!/usr/bin/env python3
import os, sys
command = sys.argv[1:]
while command[0].startswith("-"):
    option = command.pop(0)
    if option in ("--output", "--error"):
        command.pop(0)
os.execvp(command[0], command)
"""
SACCT = """#!/usr/bin/env python3
import glob, os
print("JobID|State|NodeList")
for i in range(9):
    over = os.path.exists(os.path.join(os.environ["FAKE_SLURM"], f"7_{i}"))
    print(f"7_{i}|{'COMPLETED' if over else 'RUNNING'}|here")
"""


@pytest.fixture
def swept(command, tmp_path):
    """A sweep: how it ended, and its rows."""

    def run(*arguments):
        ended = command("-m", *SHORT, f"out={tmp_path / 'runs'}", *arguments)
        return ended, read_rows(tmp_path / "runs")

    return run


@pytest.mark.parametrize("jobs", [1, 2])  # one: in the process that started the sweep
def test_joblib_counts_every_job_once(swept, jobs):
    sweep = "hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}", "method=original", "scenario.target=1,elven"
    ended, rows = swept(*sweep)
    assert (ended.code, len(rows)) == (1, 1)
    assert "1 runs in" in ended.err
    assert "1 jobs failed" in ended.err


def test_runs_that_could_not_tell_how_they_ended_count_as_failed(swept, monkeypatch):
    """Such as where the disk is full."""
    monkeypatch.setattr(Agenda, "journals", lambda self: {})
    ended, rows = swept("hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "method=original", "scenario.target=1,2")
    assert (ended.code, len(rows)) == (1, 2)
    assert "2 of 2 runs could not tell how they ended" in ended.err


@pytest.mark.skipif(not find_spec("submitit"), reason="needs pip install 'ssd-bench[cluster]'")
def test_submitit_on_this_machine_and_a_method_of_the_users(swept, tmp_path):
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/keeps.yaml").write_text("_target_: keeps.Keeps\n")
    (tmp_path / "keeps.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Keeps:\n"
        "    def __call__(self, model, data, context):\n        return model\n"
    )
    sweep = "--config-dir", str(tmp_path / "conf"), "method=keeps", "hydra/launcher=submitit_local"
    ended, rows = swept(*sweep, "scenario.target=1,elven")
    assert ended.code == 1, ended.err
    assert [row["method"] for row in rows] == ["keeps"]
    assert ended.out.count("retain D'_r %") == 1
    assert "1 runs in" in ended.err
    assert "1 jobs failed" in ended.err
    assert not list((tmp_path / "runs/sweeps").glob("*/jobs-*"))


@pytest.mark.skipif(not find_spec("submitit"), reason="needs pip install 'ssd-bench[cluster]'")
def test_slurm(swept, tmp_path, monkeypatch):
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    asked = "partition=gpu", "gpus_per_node=1", "array_parallelism=16", "timeout_min=600"
    sweep = (
        "method=original,ssd",
        "hydra/launcher=submitit_slurm",
        *(f"hydra.launcher.{one}" for one in asked),
        "json=true",
    )
    ended, rows = swept(*sweep)
    assert ended.code == 0, ended.err + "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert [row["method"] for row in rows] == ["original", "ssd"]
    said = [json.loads(line) for line in ended.out.splitlines()]
    assert sorted(row["method"] for row in said) == ["original", "ssd"]
    scripts = (tmp_path / "runs/sweeps").glob("*/.submitit/**/*submission*.sh")
    assert any("#SBATCH --partition=gpu" in script.read_text() for script in scripts)


@pytest.mark.skipif(not find_spec("ray"), reason="needs pip install 'ssd-bench[ray]'")
def test_ray(swept):
    few = "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"
    ended, rows = swept("method=original,ssd", "hydra/launcher=ray", *few)
    assert ended.code == 0, ended.err
    assert [row["method"] for row in rows] == ["original", "ssd"]
    assert ended.out.count("retain D'_r %") == 1
    assert "2 runs in" in ended.err


def test_a_wrong_number_of_jobs_per_card_is_said_once_before_any_job(swept, monkeypatch):
    monkeypatch.setenv("SSD_BENCH_JOBS_PER_GPU", "many")
    ended, rows = swept("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "method=original", "seed=0,1")
    assert ended.code == 1
    assert not rows
    assert ended.err.strip() == "ssd-bench: SSD_BENCH_JOBS_PER_GPU must be a whole number from 1 on, got many"
