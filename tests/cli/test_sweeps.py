"""Sweeps: what they print for scripts, how long they say that they take, and how far they say that they are."""

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SHORT
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from ssd_bench.cli import overrides, progress, sweeper
from ssd_bench.core.errors import ConfigError
from ssd_bench.run import estimate
from ssd_bench.run.schedule import Schedule, Unit
from ssd_bench.store.rows import read_rows

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.fixture
def measured_at_once(monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED_S", 0.01)


def test_json_is_one_row_a_line_and_of_a_single_run_also_where_it_lies(command, runs):
    ended = command(*SHORT, f"out={runs}", "method=original", "json=true")
    row, last = ended.out.splitlines()
    assert last == f"metrics: {json.loads(row)['path']}"
    assert json.loads(row)["metrics"] == ended.row["metrics"]
    swept = command("-m", *SHORT, f"out={runs}", "method=original,ssd", "json=true")
    rows = [json.loads(line) for line in swept.out.splitlines()]
    assert [row["method"] for row in rows] == ["original", "ssd"]
    assert all(Path(row["path"]).is_file() for row in rows)


def test_a_parallel_sweep_names_the_job_that_failed_whatever_the_sweeper(command, tmp_path):
    grid = "+hydra.sweeper.params.method='original,ssd'", "hydra.sweeper.max_batch_size=2"
    ended = command("-m", *SHORT, *JOBLIB, *grid, "scenario.target=1,elven", "json=true", f"out={tmp_path / 'ours'}")
    assert ended.code == 1
    assert sorted(json.loads(line)["method"] for line in ended.out.splitlines()) == ["original", "ssd"]
    for method in ("original", "ssd"):
        assert re.search(rf"ssd-bench: scenario.target=elven .*\(method={method} .*elven\)", ended.err), ended.err
    assert "2 jobs failed" in ended.err
    assert len(read_rows(tmp_path / "ours")) == 2
    assert not list(tmp_path.glob("ours/sweeps/*/jobs-*"))
    arguments = (
        *JOBLIB,
        "hydra/sweeper=basic",
        "method=original",
        "scenario.target=1,elven",
        f"out={tmp_path / 'basic'}",
    )
    assert command("-m", *SHORT, *arguments).code == 1
    assert len(read_rows(tmp_path / "basic")) == 1


def test_a_job_that_fails_does_not_keep_the_next_batch_from_running(command, tmp_path):
    arguments = "hydra.sweeper.max_batch_size=1", "method=original", "scenario.target=elven,1", f"out={tmp_path}"
    assert command("-m", *SHORT, *arguments).code == 1
    assert len(read_rows(tmp_path)) == 1


def test_a_dry_sweep_says_how_long_it_takes_with_more_workers(command, tmp_path, measured_at_once):
    grid = (*SHORT, "method=original,ssd,retrain", "seed=0,1", "dry_run=true", f"out={tmp_path / 'runs'}")
    ended = command("-m", *grid, "hydra/launcher=joblib", "hydra.launcher.n_jobs=3")
    assert ended.code == 0, ended.err
    line = next(line for line in ended.out.splitlines() if line.startswith("parallel workers"))
    seconds = {int(n): 60 * int(m) + int(s) for m, s, n in re.findall(r"(\d+):(\d\d) with (\d+)", line)}
    assert {1, 2, 3} <= seconds.keys()
    assert sorted(seconds.values(), reverse=True) == [seconds[n] for n in sorted(seconds)]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_counts_what_workers_of_the_launcher_would_make(command, tmp_path, measured_at_once):
    """On a CPU the number of threads is part of every address: alone all cores, one each in parallel jobs."""
    arguments = [a for a in SHORT if not a.startswith("threads")]
    alone, beside = (
        command("-m", *arguments, *how, "method=original", "seed=0", "dry_run=true", f"out={tmp_path}", "threads=auto")
        for how in ((), ("hydra/launcher=joblib",))
    )
    one = command("-m", *arguments, "method=original", "seed=0", "dry_run=true", f"out={tmp_path}", "threads=1")
    assert beside.out.splitlines()[0] == one.out.splitlines()[0]
    assert alone.code == beside.code == 0


def test_the_launcher_and_its_settings_are_taken_out_of_a_dry_run():
    args = SimpleNamespace(
        overrides=["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3", "hydra.verbose=1"]
    )
    assert overrides.take_launcher(args) == (True, 3)
    batches = ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=4"]
    assert overrides.take_launcher(SimpleNamespace(overrides=batches)) == (True, 4)
    assert args.overrides == ["seed=0,1", "hydra.verbose=1"]
    assert overrides.take_launcher(args) == (False, None)


def test_jobs_are_told_apart_by_what_differs():
    batch = [["a=1", "seed=0", "out=x"], ["a=1", "seed=1", "out=x"]]
    assert sweeper.labels(batch, batch) == ["seed=0", "seed=1"]
    assert sweeper.labels(batch[1:], batch) == ["seed=1"]
    assert sweeper.labels(batch[:1], batch[:1]) == ["this job"]


def test_a_job_is_composed_once_and_starts_from_a_config_of_its_own():
    composed = []

    def load_sweep_config(master, given):
        composed.append(given)
        return OmegaConf.create({"hydra": {"job": {"num": "???"}}, "seed": "${master}", "master": master["seed"]})

    once = sweeper.Once(SimpleNamespace(load_sweep_config=load_sweep_config, list_groups=lambda where: [where]))
    checked = once.load_sweep_config({"seed": 3}, ["method=ssd"])
    checked.hydra.job.num = 0
    started = once.load_sweep_config({"seed": 3}, ["method=ssd"])
    assert (started.seed, OmegaConf.is_missing(started.hydra.job, "num")) == (3, True)
    once.load_sweep_config({"seed": 3}, ["method=delete"])
    assert composed == [["method=ssd"], ["method=delete"]]
    assert once.list_groups("data") == ["data"]


def test_a_serial_sweep_composes_each_of_its_jobs_once(command, tmp_path, monkeypatch, measured_at_once):
    composed, load = [], ConfigLoaderImpl.load_sweep_config

    def loading(loader, master, given):
        composed.append(" ".join(given))
        return load(loader, master, given)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", loading)
    ended = command("-m", *SHORT, f"out={tmp_path}", "method=original,ssd", "dry_run=true")
    assert ended.code == 0
    assert [re.search(r"method=(\w+)", job)[1] for job in composed] == ["original", "ssd"]


def test_the_bar_says_what_is_running_and_how_long_the_rest_takes():
    units = [Unit("o", 10.0, alone="original", label="original for seed=0")]
    units += [Unit(f"r{i}", 10.0, needs=("o",), label=f"seed={i}") for i in range(3)]
    events = {
        "one": [{"at": 0.0, "begin": "o"}, {"at": 20.0, "end": "o"}, {"at": 20.0, "begin": "r0"}],
        "two": [{"at": 20.5, "begin": "r1"}],
        "killed": [{"at": 0.0, "begin": "o"}, {"at": 1.0, "end": "o"}, {"at": 1.0, "begin": "r0"}],
    }
    schedule = Schedule({unit.name: unit for unit in units})
    agenda = SimpleNamespace(schedule=schedule, done=lambda: {"o"}, journals=lambda: events)
    text = "running: seed=0, seed=1; about 0:32 left"  # three units of 21 s for two workers
    assert progress.Watch(agenda, 4, 7)._look() == (4, text)
    done = SimpleNamespace(schedule=schedule, done=lambda: set(schedule.units), journals=dict)
    assert progress.Watch(done, 4, 7)._look() == (7, "nothing runs")


def test_between_jobs_of_one_process_a_line_now_and_then(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_last", float("-inf"))  # sweeps of other tests write lines, too
    caplog.set_level(logging.INFO)
    for ended in range(1, 11):
        now[0] += 10
        progress.between_jobs(ended, 10, 100.0)
    assert [record.message for record in caplog.records] == [
        "3 of 10 runs, about 1:10 left",
        "6 of 10 runs, about 0:40 left",
        "9 of 10 runs, about 0:10 left",
    ]


def test_what_cannot_be_planned_is_left_to_the_job(monkeypatch, tmp_path):
    from ssd_bench.cli import ticket
    from ssd_bench.run.agenda import Agenda, Wanted

    job = {"config": {}, "names": {}, "label": "a", "error": "seed=one is not allowed"}
    agenda = Agenda.write(tmp_path, [job], [Wanted(None, "", [])], [])
    with pytest.raises(ConfigError, match="seed=one"):
        ticket.plan_of(agenda, agenda.schedule.units["run-0"], "auto")
