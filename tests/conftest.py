"""Shared fixtures: the command line in this process, a small model whose classes overlap, and a folder of runs."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the suite's sizes are too small for more

import copy
import gc
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import DictConfig
from torch import nn

from ssd_bench.cli import overrides
from ssd_bench.cli import run as cli
from ssd_bench.cli.overrides import Cases
from ssd_bench.methods.sisa import SISA
from ssd_bench.run.plan import CONF_DIR, GROUPS, Plan, plan
from ssd_bench.run.plugins import config_folders
from ssd_bench.store.artefacts import forget_recent

SHORT = ("train.epochs=2", "data.train_per_class=30", "data.test_per_class=10", "model.width=4", "threads=1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="as many trials as docs/reliability.md reports (half an hour)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "long" not in item.path.parts)  # first, so that no worker ends long after the others


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays: not to be looked through again and again
    gc.set_threshold(50_000)  # a config is tens of thousands of small objects


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many trials: few in the suite, many with --long."""
    return lambda few, many: many if request.config.getoption("--long") else few


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def row(self) -> dict[str, Any]:
        """The row that the last line on stdout names."""
        last = self.out.strip().splitlines()[-1]
        assert last.startswith("metrics: "), self.out + self.err
        return json.loads(Path(last.removeprefix("metrics: ")).read_text())


@pytest.fixture(autouse=True, scope="session")
def _each_config_is_parsed_once() -> Iterator[None]:
    """Most of what composing takes is reading the same YAML again."""
    Plugins.instance()  # makes the class that is used
    files = SourcesRegistry.instance().resolve("file")
    load, found = files.load_config, {}

    def kept(source: Any, config_path: str) -> Any:
        file = Path(source.path) / source._normalize_file_name(config_path)
        if not file.is_file():
            return load(source, config_path)
        key = (file, file.stat().st_mtime_ns, file.stat().st_size, source.provider)
        if key not in found:
            found[key] = load(source, config_path)
        return copy.deepcopy(found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "load_config", kept)
        yield


@pytest.fixture(autouse=True, scope="session")
def _what_a_command_line_chooses_is_composed_once() -> Iterator[None]:
    """It is looked into, never changed; a user's own folders are read anew."""
    compose_with, found = overrides.compose_with, {}

    def kept(search: list[str], chosen: list[str], **how: bool) -> DictConfig:
        if search or how or config_folders() or Cases.own:
            return compose_with(search, chosen, **how)
        if tuple(chosen) not in found:
            found[tuple(chosen)] = compose_with(search, chosen)
        return found[tuple(chosen)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overrides, "compose_with", kept)
        yield


@pytest.fixture(autouse=True)
def no_cases_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--config-dir` of one test brings counts for no other test in this process."""
    monkeypatch.setattr(Cases, "own", None)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., Ended]:
    """`ssd-bench` with these arguments, in this process."""
    of_this_test = False
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)  # composes all for hydra.mode alone

    def run(*arguments: str) -> Ended:
        nonlocal of_this_test
        monkeypatch.setattr(sys, "argv", ["ssd-bench", *arguments])
        if "hydra/launcher=joblib" in arguments and not of_this_test:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown()  # workers that an earlier test left would write where it listened
            of_this_test = True
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return Ended(ended.value.code or 0, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that tests share, so that each original is trained once."""
    return tmp_path_factory.mktemp("shared") / "runs"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], object]], Path]:
    """`kept(make)`: the folder that `make(folder)` filled, once for a file's tests, as it was before one changed it."""
    place = tmp_path_factory.mktemp("kept")
    folder, copy = place / "runs", place / "copy"

    def restored(make: Callable[[Path], object]) -> Path:
        if copy.exists():
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)  # back to where it was made: rows name files by their whole path
            forget_recent()
        else:
            make(folder)
            shutil.copytree(folder, copy)
        return folder

    return restored


@pytest.fixture
def begun(command: Callable[..., Ended], kept: Callable[..., Path], tmp_path: Path) -> Path:
    """An output folder with the usual original in it, and what was computed of it, but no row."""
    made = kept(lambda folder: command(*SHORT, "method=original", f"out={folder}"))
    shutil.copytree(made / "artefacts", tmp_path / "runs/artefacts")
    return tmp_path / "runs"


def composed(*overrides: str) -> DictConfig:
    """The config of `ssd-bench` with these overrides."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def planned(*overrides: str) -> Plan:
    """What `ssd-bench` with these overrides would run."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    names = {group: str(cfg.hydra.runtime.choices[group]) for group in GROUPS}
    del cfg.hydra
    return plan(cfg, names)


def network_of(method: Any, model: nn.Module) -> nn.Module:
    """What a method makes of a model, but for the weights: all keep its layers, SISA has several of it."""
    return SISA().holder(copy.deepcopy(model)) if method == "sisa" else model


@pytest.fixture
def net() -> nn.Module:
    """A small network with a convolution, BatchNorm and a linear layer, its statistics away from their start."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    )
    for _ in range(3):
        model(torch.randn(16, 1, 6, 6))
    return model


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of overlapping classes for `net`: separable ones would have no gradient."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 1, 6, 6, generator=generator), torch.randint(4, (24,), generator=generator)
