"""The listed scenario: images by number or by file, and what is said of a list that is wrong."""

import shutil

import pytest
import torch
from test_own_data import classes, folder
from test_scenarios import assert_partition, dataset

from ssd_bench.core.errors import ConfigError
from ssd_bench.data import source
from ssd_bench.scenarios.listed import Listed
from ssd_bench.store.artefacts import forget_recent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source.forget_loaded(), forget_recent()


@pytest.fixture
def listing(tmp_path):
    def write(text):
        path = tmp_path / "gone.txt"
        path.write_text(text)
        return str(path)

    return write


def test_numbers_are_rows(listing):
    task = Listed(listing("# of customer 7\n3\n\n17  # her dog\n11\n"))(dataset(), {}, 0)
    assert task.forget.tolist() == [3, 11, 17]
    assert_partition(task, 500)
    assert task.sets["forget"] == ("train", task.forget)
    assert (task.scenario, task.target, task.forget_label, task.drawn) == ("listed", "3 of gone.txt", None, False)


def test_files_are_images_wherever_they_come_to_lie(listing, tmp_path):
    root = classes(tmp_path / "set")
    file = listing("train/cat/3.png\ntrain/dog/1.png\n")
    whole = folder(root).load()
    assert whole.train.files[:2] == ("train/cat/0.png", "train/cat/1.png")
    assert Listed(file)(whole, {}, 0).forget.tolist() == [3, 6]
    assert Listed(listing("3\n6\n"))(whole, {}, 0).forget.tolist() == [3, 6]
    some = folder(root, train_per_class=4, subset_seed=1).load()
    names = some.train.files[1], some.train.files[6]
    rows = Listed(listing("\n".join(names)))(some, {}, 0).forget
    assert rows.tolist() == [1, 6]
    was = [whole.train.files.index(name) for name in names]
    assert torch.equal(some.train.pixels[rows], whole.train.pixels[was])
    file = listing("train/cat/3.png\ntrain/dog/1.png\n")
    source.forget_loaded(), forget_recent()
    (root / "train/cat/0.png").write_text("no image")
    fewer = folder(root, skip_unreadable=True).load()
    assert len(fewer.train.files) == len(fewer.train.fine) == 9
    assert Listed(file)(fewer, {}, 0).forget.tolist() == [2, 5]


def test_a_file_that_became_a_test_image_is_told(listing, tmp_path):
    root = classes(tmp_path / "set")
    shutil.rmtree(root / "test")
    split = folder(root).load()
    with pytest.raises(ConfigError, match=f"{split.test.files[0]} is a test image; no model was trained on it"):
        Listed(listing(split.test.files[0]))(split, {}, 0)
    assert len(Listed(listing(split.train.files[0]))(split, {}, 0).forget) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no image"),
        ("# none", "lists no image"),
        ("3\n500", "500 is no training image; allowed: 0 to 499"),
        ("9" * 5000, "9 is no training image"),
        ("-1", "-1 is no training image; allowed: 0 to 499"),
        ("3\n4\n3", "lists 3 twice"),
        ("\n".join(map(str, range(500))), "lists all training images"),
        ("cat/3.png", r"cat/3\.png is no training image"),
    ],
)
def test_a_list_that_is_wrong_is_one_line(listing, text, message):
    with pytest.raises(ConfigError, match=message):
        Listed(listing(text))(dataset(), {}, 0)


def test_names_that_are_nearly_right(listing, tmp_path):
    data = folder(classes(tmp_path / "set")).load()
    with pytest.raises(ConfigError, match=r"did you mean 'train/cat/3\.png'"):
        Listed(listing("train/cat/3.pn"))(data, {}, 0)
    with pytest.raises(ConfigError, match=r"lists train/cat/3\.png twice"):
        Listed(listing("train/cat/3.png\n3"))(data, {}, 0)


def test_lists_as_other_systems_write_them(listing, tmp_path):
    root = classes(tmp_path / "set", names=("C#", "Müller"))
    data = folder(root).load()
    file = listing("\ufefftrain/C#/3.png\r\ntrain/Mu\u0308ller/1.png # her\r\n")
    assert Listed(file)(data, {}, 0).forget.tolist() == [3, 6]


def test_a_name_that_begins_like_an_unreadable_ones_keeps_its_image(listing, tmp_path):
    root = classes(tmp_path / "set")
    (root / "train/cat/0.png (copy).png").write_text("no image")
    data = folder(root, skip_unreadable=True).load()
    assert data.train.files[:2] == ("train/cat/0.png", "train/cat/1.png")
    assert Listed(listing("train/cat/3.png"))(data, {}, 0).forget.tolist() == [3]


@pytest.mark.parametrize(
    ("file", "message"),
    [("/dev/zero", "it is no file"), (None, "needs scenario.file=FILE"), ("nowhere", "cannot be read")],
)
def test_without_a_list(file, message):
    with pytest.raises(ConfigError, match=message):
        Listed(file)(dataset(), {}, 0)
