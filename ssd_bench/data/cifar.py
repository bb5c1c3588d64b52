"""CIFAR-10, CIFAR-100, and CIFAR-20 (CIFAR-100's images under their 20 coarse labels), from either layout on disk."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path, user_data_path

from ssd_bench.core.dataset import Dataset, Part, fingerprint
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.data.source import DataSettings, remembered
from ssd_bench.data.view import CIFAR100_STATS
from ssd_bench.store.artefacts import Store

log = logging.getLogger(__name__)

CIFAR10_NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
CIFAR10_STATS = ((0.4913999, 0.4821587, 0.4465313), (0.2470319, 0.2434842, 0.2615869))
CIFAR100_NAMES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
CIFAR20_NAMES = tuple(
    """aquatic_mammals fish flowers food_containers veg electrical_devices household_furniture insects
    large_carnivores large_man-made_outdoor_things natural_scenes large_omnivores_and_herbivores medium_mammals
    non-insect_invertebrates people reptiles small_mammals trees vehicle1 vehicle2""".split()
)
CIFAR20_ALIASES = {  # the official name of what the released code calls by a short one
    "fruit_and_vegetables": "veg",
    "household_electrical_devices": "electrical_devices",
    "large_natural_outdoor_scenes": "natural_scenes",
    "vehicles_1": "vehicle1",
    "vehicles_2": "vehicle2",
}
COARSE_MEMBERS = (
    (4, 30, 55, 72, 95), (1, 32, 67, 73, 91), (54, 62, 70, 82, 92), (9, 10, 16, 28, 61), (0, 51, 53, 57, 83),
    (22, 39, 40, 86, 87), (5, 20, 25, 84, 94), (6, 7, 14, 18, 24), (3, 42, 43, 88, 97), (12, 17, 37, 68, 76),
    (23, 33, 49, 60, 71), (15, 19, 21, 31, 38), (34, 63, 64, 66, 75), (26, 45, 77, 79, 99), (2, 11, 35, 46, 98),
    (27, 29, 44, 78, 93), (36, 50, 65, 74, 80), (47, 52, 56, 59, 96), (8, 13, 48, 58, 90), (41, 69, 81, 85, 89),
)  # fmt: skip
COARSE_OF = tuple(next(c for c, fine in enumerate(COARSE_MEMBERS) if f in fine) for f in range(100))


@dataclass(frozen=True)
class Cifar(DataSettings):
    """One of the three; `root` holds torchvision's layout, or the Hugging Face one, or is downloaded into."""

    name: str = "cifar10"
    root: str | None = None
    download: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("name", self.name, ("cifar10", "cifar20", "cifar100"))

    def load_all(self) -> Dataset:
        root = Path(self.root).expanduser() if self.root else user_data_path("ssd-bench")
        ten = self.name == "cifar10"
        train, test, digest = _load("cifar10" if ten else "cifar100", root.absolute(), self.download)
        mean, std = CIFAR10_STATS if ten and self.norm == "own" else CIFAR100_STATS
        return Dataset(
            name=self.name,
            train=train,
            test=test,
            fine_names=CIFAR10_NAMES if ten else CIFAR100_NAMES,
            coarse_names=CIFAR20_NAMES if self.name == "cifar20" else (),
            coarse_of=COARSE_OF if self.name == "cifar20" else (),
            labels="coarse" if self.name == "cifar20" else "fine",
            aliases=CIFAR20_ALIASES if self.name == "cifar20" else {},
            mean=mean,
            std=std,
            fingerprint=digest,
        )


@remembered(2)  # the jobs of a sweep share what is loaded
def _load(archive: str, root: Path, download: bool) -> tuple[Part, Part, str]:
    """Train, test and fingerprint of `archive` ("cifar10" or "cifar100"), whichever layout `root` holds."""
    extracted = root / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[archive]
    try:
        if extracted.exists():
            return _checked(*_from_torchvision(archive, root))
        if list((root / archive).glob("train-*.parquet")):
            return _from_parquet(archive, root / archive)
        if not download:
            raise ConfigError(
                f"data.root={root} holds neither {extracted.name}/ nor {archive}/train-*.parquet; point data.root "
                "(or SSD_BENCH_DATA) at a folder that does, or allow data.download=true"
            )
        _download(archive, root, extracted)
        return _checked(*_from_torchvision(archive, root))
    except OSError as e:
        raise ConfigError(f"data.root={root} cannot be used: {e}") from e


def _checked(train: Part, test: Part) -> tuple[Part, Part, str]:
    return train, test, fingerprint(train, test)


def _torchvision_class(archive: str) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100

    return CIFAR10 if archive == "cifar10" else CIFAR100


def _from_torchvision(archive: str, root: Path) -> tuple[Part, Part]:
    """The official archive. torchvision compares the published checksums before it unpickles anything."""
    try:
        sets = [_torchvision_class(archive)(root, train=train, download=False) for train in (True, False)]
    except RuntimeError as e:
        raise ConfigError(
            f"data.root={root}: the {archive} archive is incomplete or damaged (checksums differ); remove its folder "
            "and download it again"
        ) from e
    return tuple(Part(torch.from_numpy(s.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(s.targets)) for s in sets)


def _download(archive: str, root: Path, extracted: Path) -> None:
    """Download and extract beside the final place, check, then move there in one step: nothing half-written stays."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s into %s", archive, root)
    scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
    try:
        _torchvision_class(archive)(scratch, train=True, download=True)
        try:
            os.replace(scratch / extracted.name, extracted)
        except OSError:
            if not extracted.is_dir():  # else another process was faster
                raise
    except (OSError, RuntimeError) as e:  # urllib's errors are OSErrors; a wrong checksum is a RuntimeError
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in missing:  # made for nothing
            folder.rmdir()
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ConfigError(
            f"{archive} could not be downloaded into data.root={root} ({reason}); put it there by hand or point "
            "SSD_BENCH_DATA at a folder that has it"
        ) from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _from_parquet(archive: str, folder: Path) -> tuple[Part, Part, str]:
    """The Hugging Face layout. Images are decoded once and kept, memory-mapped, in the per-user cache."""
    files = {part: sorted(folder.glob(f"{part}-*.parquet")) for part in ("train", "test")}
    if not files["test"]:
        raise ConfigError(f"{folder} has train-*.parquet but no test-*.parquet")
    source = {part: [_file_sha256(path) for path in paths] for part, paths in files.items()}

    def decode() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        log.info("decoding the images of %s (once; kept in the cache)", folder)
        parts = {part: _decode(archive, paths) for part, paths in files.items()}
        tensors = {f"{name}.{key}": getattr(part, key) for name, part in parts.items() for key in ("pixels", "fine")}
        return tensors, {"fingerprint": fingerprint(parts["train"], parts["test"])}

    decoded = Store(user_cache_path("ssd-bench"), optional=True).get_or_make(
        "decoded", {"archive": archive, "source": source}, decode
    )
    train, test = (
        Part(decoded.tensors[f"{part}.pixels"], decoded.tensors[f"{part}.fine"]) for part in ("train", "test")
    )
    return train, test, decoded.about["fingerprint"]


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _decode(archive: str, paths: list[Path]) -> Part:
    """Parquet rows to pixels and labels, in stored order."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    label, n_classes = ("label", 10) if archive == "cifar10" else ("fine_label", 100)
    wanted = ["img", "label"] if archive == "cifar10" else ["img", "fine_label", "coarse_label"]
    try:
        missing = [c for path in paths for c in wanted if c not in pq.read_schema(path).names]
        if missing:
            raise ConfigError(f"{paths[0].parent}: column {missing[0]} is missing; a {archive} parquet has {wanted}")
        table = pa.concat_tables([pq.read_table(path, columns=wanted) for path in paths])
        encoded = [row["bytes"] for row in table["img"].to_pylist()]
        # Decoding is PIL's, image by image: compressed images come in no other way, and it happens once.
        images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
        pixels = np.stack(images) if images else np.zeros((0, 0, 0, 3), np.uint8)
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, TypeError, KeyError, ValueError) as e:
        raise ConfigError(f"{paths[0].parent}: the parquet files are damaged ({str(e).splitlines()[0]})") from e
    if pixels.shape[1:] != (32, 32, 3):
        raise ConfigError(f"{paths[0].parent}: images of 32x32 pixels expected, got {pixels.shape[1:3]}")
    fine = _labels(table, label, n_classes, paths[0])
    if archive == "cifar100":
        coarse = _labels(table, "coarse_label", 20, paths[0])
        if not torch.equal(torch.tensor(COARSE_OF)[fine], coarse):
            log.warning("%s: coarse_label is not CIFAR-100's; the official grouping is used", paths[0].parent)
    return Part(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), fine)


def _labels(table: Any, column: str, n_classes: int, path: Path) -> torch.Tensor:
    values = table[column].to_numpy()
    if values.dtype.kind not in "iu" or (len(values) and not (values.min() >= 0 and values.max() < n_classes)):
        raise ConfigError(f"{path.parent}: {column} must hold whole numbers from 0 to {n_classes - 1}")
    return torch.from_numpy(values.astype(np.int64))
