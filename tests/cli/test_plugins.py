"""Installed plug-ins: found by their entry point, answered like what the package has, and never shadowing it."""

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from conftest import SHORT, Ended

from ssd_bench.cli import report as report_cli
from ssd_bench.core.errors import ConfigError
from ssd_bench.run.plugins import config_folders

METHOD = '''
from dataclasses import dataclass


@dataclass(frozen=True)
class Theirs:
    """Leave the model as it is."""

    strength: float = 1.0

    def __call__(self, model, data, context):
        return model
'''
METRIC = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    value: float = 42.0

    def __call__(self, outputs):
        return {"constant": self.value}
"""
TORCHLESS = (
    "import sys; sys.argv = ['ssd-bench', *sys.argv[1:]]\n"
    "from ssd_bench.cli.run import main\n"
    "try: main()\n"
    "except SystemExit as e: print('LOADED', [m for m in ('torch', 'theirs') if m in sys.modules], file=sys.stderr)\n"
    "sys.exit(2)"
)


def distribution(site: Path, name: str, value: str, files: dict[str, str]) -> Path:
    """What pip leaves behind: metadata with one entry point, and the files of a package."""
    info = site / f"{name}_bench-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-bench\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ssd_bench.plugins]\n{name} = {value}\n")
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    return site


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that this process, and those that it starts, import from."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).resolve().parents[2]}")
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "theirs"]:
        del sys.modules[name]


@pytest.fixture
def theirs(site):
    """A plug-in with a method and a metric, in a package whose code must not run for its folder to be found."""
    return distribution(
        site,
        "theirs",
        "theirs.bench",
        {
            "theirs/__init__.py": "",
            "theirs/bench/__init__.py": "",
            "theirs/bench/method.py": METHOD,
            "theirs/bench/metric.py": METRIC,
            "theirs/bench/conf/method/theirs.yaml": "_target_: theirs.bench.method.Theirs\nstrength: 1.0\n",
            "theirs/bench/conf/metric/constant.yaml": "constant: {_target_: theirs.bench.metric.Constant}\n",
        },
    )


def report(capfd, *arguments) -> Ended:
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        report_cli.main(list(map(str, arguments)))
    said = capfd.readouterr()
    return Ended(ended.value.code or 0, said.out, said.err)


def refused(command, *arguments) -> str:
    ended = command(*arguments)
    lines = ended.err.strip().splitlines()
    assert (ended.code, len(lines)) == (2, 1), ended.err
    assert lines[0].startswith("ssd-bench: ")
    return lines[0]


def test_without_a_plug_in_there_is_none():
    assert config_folders() == {}


def test_its_method_and_its_metric_run_and_are_reported(theirs, command, tmp_path, capfd):
    assert config_folders() == {"theirs": theirs / "theirs/bench/conf"}
    ended = command(*SHORT, "method=theirs", "metric=[accuracy,constant]", f"out={tmp_path / 'runs'}")
    assert ended.code == 0, ended.err
    assert ended.row["settings"] == {"strength": 1.0}
    assert ended.row["metrics"]["constant"] == 42
    command(*SHORT, "method=original", f"out={tmp_path / 'runs'}")
    csv = report(capfd, tmp_path / "runs", "--metrics", "constant", "--format", "csv")
    assert csv.code == 0, csv.err
    assert pd.read_csv(StringIO(csv.out))["constant"].tolist() == [42, 42]
    assert "did you mean 'constant'" in report(capfd, tmp_path / "runs", "--metrics", "constan").err


def test_workers_of_a_sweep_find_it(theirs, command, tmp_path):
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = command("-m", *SHORT, *launcher, "method=theirs", f"out={tmp_path / 'runs'}")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "runs").rglob("theirs-*/metrics.json"))) == 1


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("method=thiers", "did you mean 'theirs'"),
        ("metric=[constnt]", "did you mean 'constant'"),
        ("--help", "ssd, teacher, theirs"),
    ],
)
def test_hints_and_help_name_it_and_load_neither_torch_nor_the_plug_in(theirs, argument, said):
    for file in ("theirs/__init__.py", "theirs/bench/__init__.py"):
        (theirs / file).write_text("raise RuntimeError('this code was run')")
    done = subprocess.run([sys.executable, "-c", TORCHLESS, argument], capture_output=True, text=True)
    assert said in done.stdout + done.stderr
    assert done.stderr.endswith("LOADED []\n"), done.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nowhere", "its package nowhere cannot be imported"),
        ("theirs.nowhere", "its package theirs.nowhere cannot be imported"),
        ("theirs.module", "its package theirs.module cannot be imported"),
        ("theirs", "its package has no "),
    ],
)
def test_a_plug_in_without_its_package_or_folder_is_one_line(site, command, capfd, tmp_path, value, said):
    distribution(site, "broken", value, {"theirs/__init__.py": "", "theirs/module.py": ""})
    line = refused(command, "method=ssd")
    assert "the plug-in broken (distribution broken-bench 1.0)" in line
    assert said in line


@pytest.mark.parametrize(("code", "said"), [("import not_there", "not_there"), ("class", "method.py, line 1")])
def test_a_plug_in_whose_code_cannot_be_imported_is_one_line(theirs, command, tmp_path, code, said):
    (theirs / "theirs/bench/method.py").write_text(code)
    line = refused(command, *SHORT, "method=theirs", f"out={tmp_path / 'runs'}")
    assert "method._target_=theirs.bench.method.Theirs cannot be imported" in line
    assert said in line
    assert not (tmp_path / "runs").exists()


CASE = "- {when: {data: digits}, method: {strength: 7.0}}\n"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("method/ssd.yaml", "brings method=ssd, which ssd-bench has already"),
        ("hydra/help/ssd_bench.yaml", "brings hydra/help=ssd_bench, which ssd-bench has already"),
        ("tuned/ssd.yaml", "brings tuned=ssd for {'data': 'digits'}: it may tune only what it brings"),
        ("method/theirs.yaml", "brings method=theirs, which the plug-in theirs has already"),
    ],
)
def test_a_name_that_is_taken_is_refused_and_not_shadowed(theirs, command, capfd, tmp_path, file, said):
    distribution(theirs, "zz", "zz", {"zz/__init__.py": "", f"zz/conf/{file}": CASE if "tuned" in file else "{}\n"})
    line = refused(command, "method=ssd")
    assert "the plug-in zz (distribution zz-bench 1.0)" in line
    assert said in line
    with pytest.raises(ConfigError, match="the plug-in zz"):
        config_folders()


def test_a_plug_in_tunes_what_it_brings(theirs, command):
    tuned = theirs / "theirs/bench/conf/tuned/theirs.yaml"
    tuned.parent.mkdir(parents=True)
    tuned.write_text(CASE)
    ended = command("method=theirs", "--cfg", "job", "--package", "method")
    assert "strength: 7.0" in ended.out, ended.out + ended.err
