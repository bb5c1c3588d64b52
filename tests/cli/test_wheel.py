"""Built, installed in a clean environment, and used from elsewhere, with a method that lives outside the package."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = ("train.epochs=1", "data.train_per_class=30", "model.width=4", "threads=1")

MINE = '''
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Shrink:
    """Scale the last layer's row of the forgotten class."""

    factor: float = 0.5
    needs = ("forget_label",)

    def __call__(self, model, data, context):
        with torch.no_grad():
            model.get_submodule(context.head).weight[data.forget_label] *= self.factor
        context.details["scaled"] = data.forget_label
        return model
'''


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder that holds the sdist, and the wheel made from it, so that both are whole."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.fail("the tests are run from a source tree")
    folder = tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source")
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel in an environment that has nothing else of ours."""
    folder = tmp_path_factory.mktemp("wheel")
    [wheel] = built.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    [site] = (folder / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # the wheel's dependencies, not the sources
    return folder / "venv/bin", wheel


def run(*command, cwd=None, env=None):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean():
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SSD_BENCH"))}


def test_the_wheel_holds_the_configs_and_no_tests(installed):
    names = zipfile.ZipFile(installed[1]).namelist()
    assert "ssd_bench/conf/config.yaml" in names
    shipped = {n.removeprefix("ssd_bench/") for n in names if n.startswith("ssd_bench/conf/")}
    assert shipped == {str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml")}
    assert {"ssd_bench/py.typed", "hydra_plugins/ssd_bench.py"} <= set(names)
    assert not [n for n in names if n.startswith(("tests", "scripts", "results", "conf"))]


def test_the_sdist_holds_all_it_takes_to_build_test_and_read(built, tmp_path):
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    holds = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert holds >= {
        *files_of("ssd_bench", "hydra_plugins", "conf", "tests", "scripts", "docs", ".ci", ".github", "results/digits")
    }
    assert holds >= {str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("results/*/README.md")]}
    assert {path.split("/")[0] for path in holds} & {".venv", "runs", ".git"} == set()
    assert archive.stat().st_size < 3e6  # the rows of long runs stay in the repository
    assert os.access(source / "scripts/test", os.X_OK)


def files_of(*folders):
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts]


def test_it_runs_from_another_folder_and_finds_its_own_configs(installed, tmp_path):
    where = run(
        installed[0] / "python", "-c", "import ssd_bench.run.plan as c; print(c.CONF_DIR)", cwd=tmp_path, env=clean()
    )
    assert "site-packages" in where
    out = run(installed[0] / "ssd-bench", *FEW, cwd=tmp_path, env=clean())
    row = json.loads((tmp_path / out.strip().splitlines()[-1].removeprefix("metrics: ")).read_text())
    assert row["status"] == "done"
    assert "ssd" in run(installed[0] / "ssd-bench-report", "runs", cwd=tmp_path, env=clean())


def test_a_method_outside_the_package(installed, tmp_path):
    conf = tmp_path / "my/conf/method"
    conf.mkdir(parents=True)
    (tmp_path / "my/shrink.py").write_text(MINE)
    (conf / "shrink.yaml").write_text("_target_: shrink.Shrink\nfactor: 0.0\n")
    command = [
        installed[0] / "ssd-bench",
        "--config-dir",
        "my/conf",
        "method=shrink",
        *FEW,
    ]
    swept = run(*command, "-m", "scenario=full_class,random", "json=true", cwd=tmp_path, env=clean())
    row, skipped = map(json.loads, swept.splitlines())
    assert row["settings"] == {"factor": 0.0}
    assert row["details"] == {"scaled": 8}
    assert skipped["status"] == "skipped"
    wrong = subprocess.run(
        list(map(str, [*command, "method.factr=1"])), cwd=tmp_path, capture_output=True, text=True, env=clean()
    )
    assert wrong.returncode == 2
    assert "did you mean 'method.factor'" in wrong.stderr
