"""Every data set keeps what the rest relies on: shapes, labels, names, targets that exist, an honest fingerprint."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import composed
from omegaconf import OmegaConf
from PIL import Image

from ssd_bench.core.build import build
from ssd_bench.core.dataset import fingerprint
from ssd_bench.data import source
from ssd_bench.data.cifar import COARSE_OF
from ssd_bench.run.plan import CONF_DIR
from ssd_bench.store.artefacts import forget_recent

DRAWS = np.random.default_rng(0)


def noise(*shape):
    return DRAWS.integers(0, 256, shape, np.uint8)


def folder(tmp_path):
    for i in range(24):
        path = tmp_path / "set" / ("ab"[i % 2]) / ("xyz"[i % 3]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(9, 7, 3)).save(path)
    return [f"data.root={tmp_path / 'set'}", "data.side=8"]


def arrays(tmp_path):
    labels, path = np.arange(24) % 3, tmp_path / "own.npz"
    x = {"x_train": noise(24, 8, 8, 3), "x_test": noise(24, 8, 8, 3)}
    np.savez(path, y_train=labels, y_test=labels, coarse_of=np.array([0, 1, 1]), **x)
    return [f"data.file={path}"]


def cifar(tmp_path):
    """Both archives in the Hugging Face layout."""
    for name, labels in (("cifar10", ["label"]), ("cifar100", ["fine_label", "coarse_label"])):
        n = 10 if name == "cifar10" else 100
        for part in ("train", "test"):
            encoded = []
            for image in noise(2 * n, 32, 32, 3):
                Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
                encoded.append({"bytes": buffer.getvalue(), "path": "x.png"})
            fine = [i % n for i in range(2 * n)]
            columns = dict(zip(labels, (fine, [COARSE_OF[f] for f in fine]), strict=False))
            (tmp_path / name).mkdir(exist_ok=True)
            pq.write_table(pa.table({"img": encoded, **columns}), tmp_path / name / f"{part}-0.parquet")
    return [f"data.root={tmp_path}", "data.download=false"]


MADE = {"digits": lambda tmp_path: [], "folder": folder, "arrays": arrays}
MADE |= dict.fromkeys(("cifar10", "cifar20", "cifar100"), cifar)
NAMES = sorted(path.stem for path in (Path(CONF_DIR) / "data").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_what_every_data_set_keeps(name, tmp_path, monkeypatch):
    assert name in MADE, f"{name} is new: say how a small one is made"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source.forget_loaded(), forget_recent()
    cfg = composed(f"data={name}", *MADE[name](tmp_path))
    settings = build(OmegaConf.to_container(cfg, resolve=True)["data"], "data")
    data = settings.load()
    channels, side = data.train.pixels.shape[1:3]
    for part in (data.train, data.test):
        assert part.pixels.dtype == torch.uint8
        assert part.pixels.shape == (len(part.fine), channels, side, side)
        assert part.pixels.is_contiguous()
        assert part.fine.dtype == torch.int64
        assert set(part.fine.tolist()) == set(range(len(data.fine_names)))
    assert len(data.mean) == len(data.std) == channels
    assert min(data.std) > 0
    for names in (data.fine_names, data.coarse_names):
        assert len(set(names)) == len(names)
    assert not data.coarse_names or set(data.coarse_of) == set(range(len(data.coarse_names)))
    assert set(data.aliases.values()) <= set(data.names(data.labels))
    for scenario, level in (("full_class", data.labels), ("sub_class", "fine")):
        for target in settings.targets[scenario]:
            assert target in data.names(level) or int(target) < len(data.names(level))
    assert data.fingerprint == fingerprint(data.train, data.test)
    source.forget_loaded(), forget_recent()
    again = settings.load()
    assert again.fingerprint == data.fingerprint
    assert torch.equal(again.test.pixels, data.test.pixels)
    source.forget_loaded(), forget_recent()
