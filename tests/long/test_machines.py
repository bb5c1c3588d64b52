"""Two machines that share nothing but a folder: each is a set of namespaces of its own (users, processes, names)."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SHORT
from test_reliability import contents

from ssd_bench.run.plan import PACKAGE
from ssd_bench.store.rows import read_rows

APART = "unshare --user --map-root-user --pid --mount --uts --ipc --net --fork --kill-child --mount-proc".split()


def possible():
    found = shutil.which("unshare") and subprocess.run([*APART, "true"], capture_output=True, check=False)
    return found and found.returncode == 0


pytestmark = pytest.mark.skipif(not possible(), reason="this system allows no user namespaces")


@pytest.fixture
def machine(tmp_path):
    """Starts `ssd-bench` on a machine of this name: its own host name, process numbers, temporary files and cache."""
    started = []

    def start(name, *arguments):
        own = tmp_path / name
        own.mkdir(exist_ok=True)
        script = f'hostname {name} && mount -t tmpfs none {own} && exec "$@"'
        command = [*APART, "sh", "-c", script, "sh", sys.executable, "-m", "ssd_bench.cli", *SHORT, *arguments]
        places = {"TMPDIR": own, "HOME": own, "XDG_CACHE_HOME": own, "PYTHONPATH": PACKAGE.parent}
        log = (tmp_path / f"{name}-{len(started)}.log").open("w+")
        environment = os.environ | {key: str(path) for key, path in places.items()}
        started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path))
        return started[-1], Path(log.name)

    yield start
    for process in started:
        process.kill()
        process.wait()


def ended(process, log):
    process.wait(300)
    assert process.returncode == 0, log.read_text()
    return log.read_text()


def test_two_machines_make_everything_once(machine, tmp_path):
    grid = ("--multirun", "method=original,ssd,finetune")
    both = [machine(name, *grid, f"out={tmp_path / 'shared'}") for name in ("one", "two")]
    for process, log in both:
        ended(process, log)
    ended(*machine("three", *grid, f"out={tmp_path / 'alone'}"))
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    rows = read_rows(tmp_path / "shared")
    assert len(rows) == 3
    assert sum(not row["cached"]["original"] for row in rows) == 1
    assert not list((tmp_path / "shared").rglob("*.damaged"))
    assert not list((tmp_path / "shared").rglob(".part-*"))


def test_what_a_machine_that_died_was_making_is_taken_up_by_the_other(machine, tmp_path):
    out = tmp_path / "shared"
    command = ("method=original", "train.epochs=60")
    both = [machine(name, *command, f"out={out}") for name in ("one", "two")]
    for _ in range(6000):  # up to five minutes, on a busy machine
        waiting = [i for i, (_, log) in enumerate(both) if "waiting for another process" in log.read_text()]
        if waiting and list(out.rglob("artefacts/training/*.safetensors")):
            break
        time.sleep(0.05)
    else:
        pytest.fail("".join(log.read_text() for _, log in both))
    dying, _ = both[1 - waiting[0]]
    assert dying.poll() is None
    dying.kill()  # and with it all that runs there
    assert "resumes in epoch" in ended(*both[waiting[0]])
    ended(*machine("three", *command, f"out={tmp_path / 'alone'}"))
    assert contents(out) == contents(tmp_path / "alone")
