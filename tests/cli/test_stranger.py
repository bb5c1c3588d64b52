"""A stranger's folder, arrays and models on the command line: what is answered, and that a run comes out."""

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ssd_bench.data.source import forget_loaded
from ssd_bench.models.resnet import ResNet18

SMALL = ("model.width=4", "train.epochs=1", "threads=1", "metric=[accuracy,mia]", "data.side=16")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    forget_loaded()
    yield
    forget_loaded()


def picture(path, i):
    """An image of odd size and mode."""
    draws = np.random.default_rng(i)
    pixels = draws.integers(0, 256, (*draws.integers(5, 60, 2), 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    mode, suffix = [("RGB", "jpg"), ("L", "png"), ("P", "gif"), ("RGBA", "webp"), ("CMYK", "jpeg"), ("1", "bmp")][i % 6]
    Image.fromarray(pixels).convert(mode).save(path.with_suffix(f".{suffix}"))


ODD = ("Ana de Armas", "it's", "one, two", "Müller", "[bold]", "-dash", ".dot", "007")


def stranger(root, names=ODD, n=8):
    for c, name in enumerate(names):
        for i in range(n):
            picture(root / name / f"img {i}", 100 * c + i)
    (root / "Thumbs.db").write_bytes(b"x")
    return root


def test_a_folder_of_a_stranger(command, tmp_path):
    root = stranger(tmp_path / "set of mine")
    (root / "empty").mkdir()
    (root / "007/img 0.jpg").write_bytes(b"\xff\xd8\xff\xe0 damaged")
    given = ("data=folder", f"data.root={root}", *SMALL)
    refused = command(*given)
    assert refused.code == 2
    line = refused.err.splitlines()[-1]
    assert line.startswith(f"ssd-bench: data.root={root}: 1 image cannot be read: 007/img 0.jpg (")
    assert line.endswith("replace or remove them, or leave them out with data.skip_unreadable=true")
    assert "left out, as they hold no images: empty" in refused.err
    assert not (tmp_path / "runs").exists()
    given += ("data.skip_unreadable=true",)
    row = command(*given, "scenario.target=Ana de Armas").row
    assert (row["task"]["target"], row["task"]["n_forget"]) == ("Ana de Armas", 6)
    assert row["classes"] == sorted(ODD)
    for target, name in (("'Müller'", "Müller"), ("'one, two'", "one, two"), ("'[bold]'", "[bold]"), (1, ".dot")):
        ended = command(*given, "method=original", f"scenario.target={target}")
        assert ended.row["task"]["target"] == name, ended.err
        assert f"forget {name}" in ended.out
    wrong = command(*given, "scenario.target=Anna de Armas")
    assert wrong.code == 2
    assert "did you mean 'Ana de Armas'?" in wrong.err.splitlines()[-1]
    bare = command(*given, "scenario.target=Müller")
    assert "quotes of their own" in bare.err.splitlines()[-1]


def test_remarks_on_a_folder_are_one_line_before_an_error(command, tmp_path):
    root = stranger(tmp_path / "set", ("train/cat", "train/dog", "test/cat"))
    (root / "train/empty").mkdir()
    (root / "train/cat/notes.txt").write_bytes(b"x")
    shutil.copy(root / "train/cat/img 0.jpg", root / "test/cat/same.jpg")
    asked = "data=folder", f"data.root={root}", *SMALL, "scenario.target=cow"
    for cached in (False, True):
        forget_loaded()
        lines = command(*asked).err.splitlines()
        assert lines[-1].startswith("ssd-bench: scenario.target=cow")
        assert len(lines) == 2
        for said in ("hold no images: train/empty", "1 .txt", "1 test images are training images, too"):
            assert said in lines[0]
        assert "no test images of dog, which cannot be a target" in lines[0]
        assert ("decoding the images" in lines[0]) != cached


def test_a_sub_class_of_a_folder(command, tmp_path):
    root = stranger(tmp_path / "set", ("cat/white", "cat/tabby", "dog/white", "dog/poodle"))
    given = ("data=folder", f"data.root={root}", *SMALL)
    row = command(*given, "scenario=sub_class", "scenario.target=dog/white").row
    assert row["classes"] == ["cat", "dog"]
    assert (row["task"]["target"], row["task"]["n_forget"]) == ("dog/white", 6)
    assert command(*given, "scenario.target=cat").row["task"]["n_forget"] == 12
    picture(root / "cat/stray", 0)
    forget_loaded()
    mixed = command(*given)
    assert mixed.code == 2
    assert "class cat holds images and class cat a folder of them, tabby" in mixed.err.splitlines()[-1]


@pytest.mark.parametrize("given", ["data=folder", "data=arrays", "model=timm"])
def test_what_has_to_be_given_is_asked_for(command, given):
    ended = command(given)
    assert ended.code == 2
    wanted = {"data=folder": "data.root=FOLDER", "data=arrays": "data.file=FILE.npz", "model=timm": "architecture="}
    assert wanted[given] in ended.err.splitlines()[-1]


def test_arrays(command, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    y = np.arange(60) % 3
    np.savez("mine.npz", x_train=x, y_train=y, x_test=x[:12], y_test=y[:12], class_names=np.array(["a", "b", "ç"]))
    row = command("data=arrays", "data.file=mine.npz", *SMALL[:-1], "scenario.target='ç'").row
    assert (row["task"]["target_index"], row["task"]["n_forget"]) == (2, 20)


def test_a_model_of_timm_s(command):
    given = ("model=timm", "train.epochs=1", "data.train_per_class=10", "threads=1", "metric=[accuracy,mia]")
    given += ("model.architecture=mobilenetv3_small_050", "method=retrain", "method.mode=head_reset")
    row = command(*given, "model.side=16").row
    assert row["status"] == "done"
    ended = command(*given[:-3], "model.architecture=mobilnetv3_small_050")
    assert ended.code == 2
    assert "did you mean 'mobilenetv3_small_050'?" in ended.err.splitlines()[-1]
    ended = command(*given[:-3], "model.architecture=vgg11")
    assert ended.code == 2
    assert "vgg11 does not take 1 x 8 x 8 pixels" in ended.err.splitlines()[-1]


def test_two_networks_are_two_tables(command, tmp_path):
    given = ("data.train_per_class=10", "threads=1", "train.epochs=1", "metric=[accuracy]", "method=original")
    assert command("-m", *given, "model.width=2,3").out.count("full_class: forget 8") == 2


NET = """
from dataclasses import dataclass
from torch import nn
from {package}.parts.block import Block
from ssd_bench.models import ResNet18

@dataclass(frozen=True)
class Own(ResNet18):
    def untrained(self):
        return self
    def build(self, n_classes, channels, side):
        return Block(channels * side * side, n_classes)
"""
BLOCK = """
from torch import nn

class Block(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.fc = nn.Linear(inner, outer{more})
    def forward(self, x):
        return self.fc(x.flatten(1))
"""


def test_a_model_in_a_package_of_the_working_directory(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "theirs_/nets").mkdir(parents=True), (tmp_path / "theirs_/parts").mkdir()
    (tmp_path / "theirs_/nets/own.py").write_text(NET.format(package="theirs_"))
    (tmp_path / "theirs_/parts/block.py").write_text(BLOCK.format(more=""))
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/own.yaml").write_text("_target_: theirs_.nets.own.Own\nwidth: 4\ncheckpoint: null\n")
    given = ("--config-dir", "conf", "model=own", "train=resnet18", "train.epochs=1", "threads=1", "metric=[accuracy]")
    given += ("method=original", "data.train_per_class=10")

    def original():
        for name in [name for name in sys.modules if name.split(".")[0] == "theirs_"]:
            del sys.modules[name]
        ended = command(*given)
        return ended.row["artefacts"]["original"]

    first = original()
    assert original() == first
    (tmp_path / "theirs_/parts/block.py").write_text(BLOCK.format(more=", bias=False"))
    assert original() != first
    (tmp_path / "conf/model/bare.yaml").write_text("_target_: bare.Bare\n")
    (tmp_path / "bare.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Bare:\n    head = 'fc'\n"
    )
    ended = command(*given, "model=bare")
    assert ended.code == 2
    line = "ssd-bench: model=bare: its class has no build, input_side, checkpoint"
    assert ended.err.splitlines()[-1].startswith(line)


def test_a_checkpoint_of_another_task(command, tmp_path):
    torch.save({f"module.model.{name}": t for name, t in ResNet18(4).build(10, 1, 8).state_dict().items()}, "ten.pth")
    given = ("model.width=4", "threads=1", "metric=[accuracy]", "model.checkpoint=ten.pth", "method=original")
    assert command(*given).code == 0
    ended = command(*given, "scenario=sub_class")
    assert ended.code == 2
    line = "ten.pth was trained on 10 classes, and this task has 3; choose the data and the scenario"
    assert line in ended.err.splitlines()[-1]
