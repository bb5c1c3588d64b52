"""scripts/first_hour: steps are bounded, what was stopped goes on, what fails stops nobody, and the summary says it."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from conftest import SHORT

from ssd_bench.run.plan import CONF_DIR

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SCRIPT = runpy.run_path(str(SCRIPTS / "first_hour.py"))
Step, Outcome, carry_out_all, planned = (SCRIPT[name] for name in ("Step", "Outcome", "carry_out_all", "planned"))
HERE = {"device": "cpu (a processor)", "torch": "2.x", "commit": "abc1234"}


def shell(name, minutes, script, **more):
    return Step(name, minutes, ["bash", "-c", script], **more)


def statuses(out):
    return {each["name"]: each["status"] for each in json.loads((out / "summary.json").read_text())["steps"]}


def test_a_stopped_step_goes_on_a_failed_one_stops_nobody_and_a_done_one_is_not_repeated(tmp_path, capfd, monkeypatch):
    run = [sys.executable, "-m", "ssd_bench.cli", *SHORT, "method=original", f"out={tmp_path / 'runs'}"]
    steps = [
        shell("slow", 0.3, f"cd {tmp_path}; [ -f kept ] && exit; touch kept; exec sleep 60"),
        shell("deaf", 0.1, f"cd {tmp_path}; [ -f deaf ] && exit; touch deaf; trap '' INT; sleep 60", resumes=False),
        shell("wrong", 1, f"[ -f {tmp_path}/mended ] && exit; echo 'ssd-bench: no data'; echo 4 jobs failed; exit 2"),
        Step("real", 38.6, run),
    ]
    monkeypatch.setitem(carry_out_all.__globals__, "GRACE_S", 0.1)
    assert carry_out_all(steps, HERE, 2, tmp_path) == 1
    assert statuses(tmp_path) == {"slow": "out of time", "deaf": "out of time", "wrong": "failed", "real": "done"}
    told = (tmp_path / "summary.md").read_text()
    assert told in capfd.readouterr().out
    assert "cpu (a processor), PyTorch 2.x, commit abc1234" in told
    for line in (
        "slow | out of time, resumes | 1",
        "deaf | out of time, begins again | 0",
        "wrong | failed | 0 | ssd-",
    ):
        assert f"| {line}" in told
    assert "digits, resnet18_slim, full_class: forget 8" in told  # the table
    assert "metrics: " in (tmp_path / "logs/real.log").read_text()

    (tmp_path / "mended").touch()
    monkeypatch.setitem(carry_out_all.__globals__, "report", lambda runs: "")
    said = (tmp_path / "logs/real.log").read_text()
    assert carry_out_all(steps, HERE, 2, tmp_path) == 0
    assert set(statuses(tmp_path).values()) == {"done"}
    assert (tmp_path / "logs/real.log").read_text() == said
    later = SCRIPT["known"](steps, HERE | {"commit": "def5678"}, tmp_path)
    assert later == [Outcome()] * 4  # of other code nothing is known


def test_interrupted_it_ends_with_the_summary(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(carry_out_all.__globals__, "report", lambda runs: "")
    steps = [shell("first", 1, f"sleep 0.3; kill -INT {os.getpid()}; exec sleep 60"), shell("second", 1, "exit 0")]
    try:
        assert carry_out_all(steps, HERE, 2, tmp_path) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert statuses(tmp_path) == {"first": "interrupted", "second": "not begun"}
    assert "| first | interrupted, resumes |" in (tmp_path / "summary.md").read_text()


def test_what_is_done_leaves_its_time_to_the_others():
    steps = [shell(name, minutes, "") for name, minutes in (("a", 10), ("b", 20), ("c", 10))]
    todo, done = Outcome(), Outcome("done")
    assert SCRIPT["bounds"](steps, [todo] * 3, 80) == [20, 40, 20]
    assert SCRIPT["bounds"](steps, [done, todo, todo], 90) == [0, 60, 30]
    assert SCRIPT["bounds"](steps, [todo] * 3, -1) == [0, 0, 0]


@pytest.mark.parametrize("tiny", [False, True])
def test_the_plan_is_40_minutes_of_what_exists(tmp_path, tiny):
    steps = planned("cuda", tiny, tmp_path)
    assert [step.name for step in steps[:3]] == ["tests", "throughput", "benchmark"]
    assert sum(step.minutes for step in steps) == 40
    for step in steps[3:]:
        experiments = [word.removeprefix("experiment=") for word in step.command if word.startswith("experiment=")]
        assert all((CONF_DIR / "experiment" / f"{name}.yaml").exists() for name in experiments)
        assert "device=cuda" in step.command


def test_throughput_is_of_all_jobs_together():
    command = [sys.executable, "scripts/throughput.py", "--device", "cpu", "--width", "1", "--images", "64"]
    command += ["--batch", "8", "--seconds", "0.2", "--jobs", "2"]
    lines = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True, check=True).stdout.splitlines()
    assert re.fullmatch(r"cpu \(.+\), PyTorch .+, commit .+; ResNet18 of width 1", lines[0])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert [row[:3] for row in rows] == [["bfloat16", "8", "2"]]
    assert all(float(row[3].replace(",", "")) > 0 for row in rows)


def test_without_the_device_it_is_one_line(capfd):
    with pytest.raises(SystemExit) as ended:
        SCRIPT["where"]("cuda:99")
    assert ended.value.code == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("first_hour: device=cuda:99 is not there; allowed on this machine: auto, cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_benchmark_measures_and_keeps_what_it_has(tmp_path, monkeypatch, capfd, precision):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    benchmark = runpy.run_path(str(SCRIPTS / "benchmark.py"))
    loops, cpu = benchmark["loops"], torch.device("cpu")
    given = Namespace(width=1, device="cpu", threads="1", precision=precision)
    monkeypatch.setitem(loops.__globals__, "ARGS", given)
    model, images = benchmark["made_up"](1, cpu)["train"]
    loops(benchmark["Table"](tmp_path / "a folder/table.md"), model, images.take(torch.arange(8)))
    kept = (tmp_path / "a folder/table.md").read_text()
    assert kept == capfd.readouterr().out
    assert kept.count("| yes |") + kept.count("| no |") == 4
