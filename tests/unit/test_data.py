"""Sources: digits, CIFAR in the Hugging Face layout and in torchvision's, subsets, and what is wrong with a folder."""

import io
import os
import urllib.error
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ssd_bench.core.errors import ConfigError
from ssd_bench.data import cifar
from ssd_bench.data.cifar import COARSE_OF, Cifar
from ssd_bench.data.digits import Digits
from ssd_bench.data.view import view, with_validation
from ssd_bench.models.resnet import ResNet18
from ssd_bench.models.vit import ViT
from ssd_bench.scenarios.full_class import FullClass


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test, and nothing remembered in this process."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(cifar, "user_cache_path", lambda name: folder)
    cifar._load.cache_clear()
    yield folder
    cifar._load.cache_clear()


def pictures(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, name: str, pixels, labels: dict[str, list[int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"img": [{"bytes": png(p), "path": f"{i}.png"} for i, p in enumerate(pixels)], **labels}
    pq.write_table(pa.table(columns), folder / name)


def hundred(folder: Path) -> tuple[np.ndarray, list[int]]:
    """A CIFAR-100 of 300 + 100 images; the training images lie in two files."""
    train, fine = pictures(300, 0), [i * 7 % 100 for i in range(300)]
    for part, rows in (("train-00000-of-00002", slice(0, 120)), ("train-00001-of-00002", slice(120, 300))):
        labels = {"fine_label": fine[rows], "coarse_label": [COARSE_OF[f] for f in fine[rows]]}
        write(folder / "cifar100", f"{part}.parquet", train[rows], labels)
    labels = {"fine_label": list(range(100)), "coarse_label": list(COARSE_OF)}
    write(folder / "cifar100", "test-00000-of-00001.parquet", pictures(100, 1), labels)
    return train, fine


def test_parquet_keeps_pixels_labels_and_order(tmp_path):
    train, fine = hundred(tmp_path)
    data = Cifar(name="cifar20", root=str(tmp_path)).load()
    assert np.array_equal(data.train.pixels.permute(0, 2, 3, 1).numpy(), train)
    assert data.train.fine.tolist() == fine
    assert data.labelled(data.train, "coarse").tolist() == [COARSE_OF[f] for f in fine]
    hundred_classes = Cifar(name="cifar100", root=str(tmp_path)).load()
    assert hundred_classes.names("fine")[69] == "rocket"
    assert hundred_classes.fingerprint == data.fingerprint


def test_images_are_decoded_once_and_a_damaged_cache_is_made_again(tmp_path, cache, monkeypatch):
    hundred(tmp_path)
    decoded = []
    really = cifar._decode
    monkeypatch.setattr(cifar, "_decode", lambda *a: decoded.append(a) or really(*a))

    def load():
        cifar._load.cache_clear()
        from ssd_bench.store import artefacts

        artefacts._recent.clear()
        return Cifar(name="cifar20", root=str(tmp_path)).load()

    first, again = load(), load()
    assert len(decoded) == 2  # train and test, once
    assert torch.equal(first.train.pixels, again.train.pixels)
    [kept] = cache.rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    assert torch.equal(load().train.pixels, first.train.pixels)
    assert len(decoded) == 4
    hundred_and_one = pictures(100, 2)
    write(
        tmp_path / "cifar100", "test-00000-of-00001.parquet", hundred_and_one,
        {"fine_label": list(range(100)), "coarse_label": list(COARSE_OF)},
    )  # fmt: skip
    assert load().fingerprint != first.fingerprint  # other files, other data


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, cache):
    hundred(tmp_path)
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    assert len(Cifar(name="cifar20", root=str(tmp_path)).load().train.fine) == 300


def test_nothing_is_written_into_the_data_folder(tmp_path):
    root = tmp_path / "root"
    hundred(root)
    before = sorted(root.rglob("*"))
    Cifar(name="cifar20", root=str(root)).load()
    assert sorted(root.rglob("*")) == before


def broken(folder, change):
    hundred(folder)
    path = folder / "cifar100" / "test-00000-of-00001.parquet"
    change(path)


def drop(column):
    return lambda path: pq.write_table(pq.read_table(path).drop_columns([column]), path)


def relabel(column, value):
    def change(path):
        table = pq.read_table(path)
        i = table.column_names.index(column)
        pq.write_table(table.set_column(i, column, pa.array([value] * len(table))), path)

    return change


def spoil_image(path):
    table = pq.read_table(path)
    images = [{"bytes": b"no image", "path": "x"}] * len(table)
    pq.write_table(table.set_column(table.column_names.index("img"), "img", pa.array(images)), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("img"), "column img is missing"),
        (drop("fine_label"), "column fine_label is missing"),
        (drop("coarse_label"), "column coarse_label is missing"),
        (relabel("fine_label", 100), "whole numbers from 0 to 99"),
        (relabel("fine_label", -1), "whole numbers from 0 to 99"),
        (relabel("fine_label", 1.5), "whole numbers from 0 to 99"),
        (relabel("coarse_label", 20), "whole numbers from 0 to 19"),
        (spoil_image, "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (Path.unlink, "no test-"),
    ],
)
def test_parquet_that_is_not_what_it_should_be(tmp_path, cache, change, message):
    broken(tmp_path, change)
    with pytest.raises(ConfigError, match=message):
        Cifar(name="cifar20", root=str(tmp_path)).load()
    assert not list(cache.rglob("*.safetensors"))


def test_images_of_another_size_are_refused(tmp_path):
    write(tmp_path / "cifar10", "train-0.parquet", pictures(2, 0)[:, :16, :16], {"label": [0, 1]})
    write(tmp_path / "cifar10", "test-0.parquet", pictures(2, 0)[:, :16, :16], {"label": [0, 1]})
    with pytest.raises(ConfigError, match="32x32"):
        Cifar(name="cifar10", root=str(tmp_path)).load()


def test_no_data_and_no_download(tmp_path):
    with pytest.raises(ConfigError, match=r"cifar-100-python/ nor cifar100/train-\*.parquet"):
        Cifar(name="cifar20", root=str(tmp_path / "nowhere"), download=False).load()
    assert not (tmp_path / "nowhere").exists()


def test_a_download_that_cannot_happen_leaves_nothing(tmp_path, monkeypatch):
    class Offline:
        def __init__(self, root, train, download):
            Path(root, "cifar-100-python.tar.gz").write_bytes(b"half")
            raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(cifar, "_torchvision_class", lambda archive: Offline)
    with pytest.raises(ConfigError, match=r"could not be downloaded.*no route to host"):
        Cifar(name="cifar20", root=str(tmp_path / "root")).load()
    assert not (tmp_path / "root").exists()


def test_a_download_is_moved_into_place_when_it_is_whole(tmp_path, monkeypatch):
    class Mirror:
        def __init__(self, root, train, download):
            folder = Path(root, "cifar-10-batches-py")
            if download:
                folder.mkdir()
            assert folder.is_dir()
            self.data, self.targets = pictures(20, int(train)), [i % 10 for i in range(20)]

    monkeypatch.setattr(cifar, "_torchvision_class", lambda archive: Mirror)
    data = Cifar(name="cifar10", root=str(tmp_path / "root")).load()
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["cifar-10-batches-py"]
    assert np.array_equal(data.train.pixels.permute(0, 2, 3, 1).numpy(), pictures(20, 1))
    cifar._load.cache_clear()
    assert Cifar(name="cifar10", root=str(tmp_path / "root"), download=False).load().fingerprint == data.fingerprint


def test_a_damaged_archive_is_refused_before_anything_is_unpickled(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ConfigError, match="damaged"):
        Cifar(name="cifar100", root=str(tmp_path)).load()


def test_subsets_are_balanced_seeded_and_in_stored_order(tmp_path):
    train, _ = hundred(tmp_path)

    def chosen(**settings):
        return Cifar(name="cifar20", root=str(tmp_path), **settings).load().train

    part = chosen(train_per_class=2)
    assert torch.bincount(part.fine, minlength=100).tolist() == [2] * 100
    position = {p.tobytes(): i for i, p in enumerate(train.transpose(0, 3, 1, 2))}
    order = [position[p.numpy().tobytes()] for p in part.pixels]
    assert order == sorted(order)
    assert torch.equal(part.pixels, chosen(train_per_class=2).pixels)
    assert not torch.equal(part.pixels, chosen(train_per_class=2, subset_seed=1).pixels)
    first = chosen(train_per_class=2, subset_seed=None)
    assert [position[p.numpy().tobytes()] for p in first.pixels] == list(range(200))
    with pytest.raises(ConfigError, match=r"train_per_class=4.*at most 3"):
        chosen(train_per_class=4)


def test_holdout_leaves_an_image_of_each_class():
    tuning = Digits(holdout=0.999).load()
    assert torch.bincount(tuning.train.fine).tolist() == [1] * 10


def test_holdout_takes_its_test_set_from_the_training_images():
    whole, tuning = Digits().load(), Digits(holdout=0.2).load()
    everything = {p.numpy().tobytes() for p in whole.train.pixels}
    assert len(tuning.train.fine) + len(tuning.test.fine) == len(whole.train.fine)
    assert {p.numpy().tobytes() for p in tuning.test.pixels} <= everything
    shares = torch.bincount(tuning.test.fine) / torch.bincount(whole.train.fine)
    assert (shares - 0.2).abs().max() < 0.01


def test_validation_takes_images_of_each_finest_class_of_cifar(tmp_path):
    hundred(tmp_path)
    for name, level in (("cifar20", "coarse"), ("cifar100", "fine")):
        data = Cifar(name=name, root=str(tmp_path), validation=0.4).load()
        assert [len(part.fine) for part in data.parts] == [200, 100, 100]
        assert torch.bincount(data.validation.fine).tolist() == [1] * 100  # of three
        whole, request = with_validation(data, FullClass(target="3")(data, {}, 0))
        images = view(whole, request, "auto", ResNet18(), torch.device("cpu"))["train"]
        assert len(images) == 300
        assert torch.equal(images.raw(torch.arange(200, 300)), data.validation.pixels)
        assert torch.equal(images.labels[200:], data.labelled(data.validation, level))


def test_digits():
    data = Digits().load()
    assert data.train.pixels.shape == (1437, 1, 8, 8)
    assert data.test.pixels.shape == (360, 1, 8, 8)
    assert data.train.pixels.max() == 255
    assert data.fingerprint == Digits().load().fingerprint
    assert data.fingerprint != Digits(split_seed=1).load().fingerprint


def test_which_statistics_are_used():
    data = Digits().load()
    task = FullClass(target="8")(data, {}, 0)

    def mean(norm, model):
        return view(data, task, norm, model, torch.device("cpu"))["train"].mean.tolist()

    base = ViT(architecture="vit_base_patch16_224.orig_in21k_ft_in1k", side=224)
    assert mean("auto", ResNet18()) == pytest.approx(list(data.mean))
    assert mean("auto", base) == [0.5]
    assert mean("cifar100", base) == pytest.approx([sum(cifar.CIFAR100_STATS[0]) / 3])


REAL = os.environ.get("SSD_BENCH_DATA")


@pytest.mark.skipif(
    not REAL or not Path(REAL, "cifar100").is_dir(), reason="SSD_BENCH_DATA names no folder with CIFAR-100"
)
def test_real_cifar():
    data = Cifar(name="cifar20", root=REAL, download=False).load()
    assert data.train.pixels.shape == (50_000, 3, 32, 32)
    assert torch.bincount(data.labelled(data.train, "coarse")).tolist() == [2500] * 20
    counts = torch.stack([torch.bincount(of.flatten(), minlength=256) for of in data.train.pixels.unbind(1)]).double()
    value = torch.arange(256).double() / 255
    mean = counts @ value / counts.sum(1)
    std = (counts @ value**2 / counts.sum(1) - mean**2).sqrt()
    assert mean.tolist() == pytest.approx(cifar.CIFAR100_STATS[0], abs=1e-4)
    assert std.tolist() == pytest.approx(cifar.CIFAR100_STATS[1], abs=1e-3)
