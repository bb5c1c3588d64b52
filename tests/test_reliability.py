"""Killed, started many times over, out of room, in another order: nothing is lost and no number changes.

`./scripts/test --long tests/test_reliability.py` runs many more trials and prints what it counted, see
docs/reliability.md.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys

import pytest
from conftest import FIGURES, SHORT

from ssd_bench import artefacts, cli, resume
from ssd_bench.results import read_rows

FORK = multiprocessing.get_context("fork")  # children find all imported: a kill can hit any moment of the work


@pytest.fixture(autouse=True, scope="module")
def _imported():
    import sklearn.linear_model  # noqa: F401

    import ssd_bench.pipeline
    import ssd_bench.report.derive
    import ssd_bench.report.table

    ssd_bench.pipeline.devices.be_deterministic()


def child(arguments, log, every_s):
    """`ssd-bench` in a process of its own, its words in a file."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout = sys.stderr = os.fdopen(out, "w", buffering=1)
    artefacts._recent.clear()
    resume.EVERY_S = every_s
    sys.argv = ["ssd-bench", *arguments]
    try:
        cli.main()
    except SystemExit as e:
        os._exit(e.code or 0)
    finally:
        os._exit(99)


def start(arguments, log, every_s=120.0):
    process = FORK.Process(target=child, args=(arguments, log, every_s))
    process.start()
    return process


def complete(arguments, log):
    process = start(arguments, log)
    process.join(300)
    assert process.exitcode == 0, log.read_text()


def contents(folder):
    """What a folder of runs says: every artefact's bytes (as a hash) and every metric, times left out."""
    found = {}
    for path in sorted(folder.rglob("artefacts/*/*.safetensors")):
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    for row in read_rows(folder):
        kept = {key: row[key] for key in ("status", "task", "settings", "metrics", "original_metrics", "details")}
        found[row["path"]] = json.dumps(kept, sort_keys=True)
    return found


COMMANDS = {
    "retrain": ("method=retrain", "train.epochs=5"),
    "unsir": ("method=unsir", "train.epochs=3", "method.noise_mode=train"),
    "best_test": ("method=ssd", "train.epochs=5", "train.select=best_test"),
    "adam": ("-m", "method=teacher,amnesiac", "train.epochs=3"),
}


def test_killed_at_random_it_goes_on_and_ends_with_the_same_bytes(tmp_path, trials):
    draws = random.Random(0)
    killed = resumed = ended = 0
    reference = {}
    for name, arguments in COMMANDS.items():
        complete([*SHORT, *arguments, f"out={tmp_path / name}"], tmp_path / f"{name}.log")
        reference[name] = contents(tmp_path / name)
        assert not list((tmp_path / name / "artefacts/training").glob("*.safetensors"))
    for trial in range(trials(4, 150)):
        name = list(COMMANDS)[trial % len(COMMANDS)]
        folder, log = tmp_path / f"{name}-{trial}", tmp_path / f"{name}-{trial}.log"
        for _ in range(300):
            every_s = draws.choice((0.0, 120.0))  # after every step, or after every epoch
            process = start([*SHORT, *COMMANDS[name], f"out={folder}"], log, every_s)
            process.join(draws.uniform(0.2, 1.5))
            if process.exitcode is not None:
                assert process.exitcode == 0, log.read_text()
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:
            pytest.fail(f"no progress: {log.read_text()[-2000:]}")
        resumed += log.read_text().count("goes on from epoch")
        ended += 1
        assert contents(folder) == reference[name], log.read_text()
        assert not list(folder.rglob("*.damaged")), log.read_text()
    assert resumed, "no training was ever hit"
    FIGURES.append(f"killed: {ended} commands, {killed} kills, {resumed} trainings went on, differences: none")
