"""scripts/setup: sets up once, again when what is to be installed changes, and never takes half of one for done."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) exit {old} ;;
  --version) echo Python 3.4.2 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
               printf '#!/bin/sh\\necho ran "$@"\\n' > "$3/bin/ssd-bench" && chmod +x "$3/bin/ssd-bench" ;;
  "-m pip install"*) echo "$@" && echo "$@" >> "$LOG" && exit "$PIP_ENDS" ;;
  *) echo tested "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the scripts and a Python that notes what it is asked to install."""
    folder = tmp_path / "a clone"
    (folder / "scripts").mkdir(parents=True)
    for name in ("setup", "bench", "test"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts" / name)
    (folder / "pyproject.toml").write_text("[project]\n")
    for name, old in (("python", 0), ("python-old", 1)):
        (tmp_path / name).write_text(PYTHON.replace("{old}", str(old)))
        (tmp_path / name).chmod(0o755)
    return folder


def call(clone, script, *arguments, python="python", ends=0):
    beside = {"PYTHON": str(clone.parent / python), "LOG": str(clone.parent / "installs"), "PIP_ENDS": str(ends)}
    command = [clone / "scripts" / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env=os.environ | beside)


def installs(clone):
    log = clone.parent / "installs"
    return log.read_text().splitlines() if log.exists() else []


def test_it_sets_up_once_and_hands_on_the_arguments(clone):
    first = call(clone, "bench", "method=ssd", "out=two words")
    assert (first.returncode, first.stdout) == (0, "ran method=ssd out=two words\n")
    assert "Setting up .venv" in first.stderr
    assert "pip install" in first.stderr  # minutes without a word would look like a fault
    assert [line.split()[-1] for line in installs(clone)] == ["clone[dev]"]
    again = call(clone, "bench")
    assert (again.stdout, again.stderr) == ("ran\n", "")
    tested = call(clone, "test", "-k", "word")
    assert tested.stdout.startswith("tested -m pytest ")
    assert tested.stdout.endswith(" -k word\n")
    assert len(installs(clone)) == 1


@pytest.mark.parametrize("file", ["pyproject.toml", "scripts/setup"])
def test_it_sets_up_again_when_what_is_installed_changes(clone, file):
    call(clone, "bench")
    with (clone / file).open("a") as text:
        text.write("# another extra\n")
    assert call(clone, "bench").returncode == 0
    assert len(installs(clone)) == 2


def test_it_sets_up_again_where_it_was_moved_to(clone):
    call(clone, "bench")
    moved = clone.rename(clone.parent / "moved")
    assert call(moved, "bench").returncode == 0
    assert [line.split("/")[-1] for line in installs(moved)] == ["a clone[dev]", "moved[dev]"]


def test_a_set_up_that_failed_is_made_again(clone):
    assert call(clone, "bench", ends=1).returncode == 1
    assert call(clone, "bench").stdout == "ran\n"
    assert len(installs(clone)) == 2


def test_a_python_that_is_too_old_is_one_line(clone):
    ended = call(clone, "bench", python="python-old")
    assert ended.returncode == 2
    assert "Python 3.11 or newer is needed, Python 3.4.2 found" in ended.stderr
    assert not (clone / ".venv").exists()
