"""scikit-learn's 1,797 real 8x8 handwritten digits: they ship with it, so a first run needs no download."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor

from ssd_bench.core.dataset import Dataset, Part, fingerprint
from ssd_bench.data.source import DataSettings, remembered
from ssd_bench.store.artefacts import Store

NAMES = tuple("0123456789")
GROUPS = (
    "looped",
    "straight",
    "curved",
)  # 0 6 8 9 have a closed loop; 1 4 7 are made of strokes; 2 3 5 of open arcs
GROUP_OF = (0, 1, 2, 2, 1, 2, 0, 1, 0, 0)


@dataclass(frozen=True)
class Digits(DataSettings):
    """A model learns the ten digits; in the sub_class scenario it learns three groups, and a digit is forgotten."""

    split_seed: int = 0

    def load_all(self) -> Dataset:
        return _load(self.split_seed)


def _split(split_seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
    fine = torch.from_numpy(labels).long()
    rows = train_test_split(torch.arange(len(fine)), test_size=0.2, stratify=labels, random_state=split_seed)
    parts = {name: of_part.sort().values for name, of_part in zip(("train", "test"), rows, strict=True)}
    tensors = {f"{name}.pixels": pixels[of_part] for name, of_part in parts.items()}
    return tensors | {f"{name}.fine": fine[of_part] for name, of_part in parts.items()}, {}


@remembered(2)
def _load(split_seed: int) -> Dataset:
    key = {"archive": "digits", "scikit-learn": version("scikit-learn"), "split_seed": split_seed}
    cache = Store(user_cache_path("ssd-bench"), optional=True)  # importing scikit-learn takes longer than all the rest
    kept = cache.get_or_make("decoded", key, lambda: _split(split_seed)).tensors
    train, test = (Part(kept[f"{name}.pixels"], kept[f"{name}.fine"]) for name in ("train", "test"))
    scaled = train.pixels.double() / 255
    return Dataset(
        name="digits",
        train=train,
        test=test,
        fine_names=NAMES,
        coarse_names=GROUPS,
        coarse_of=GROUP_OF,
        labels="fine",
        aliases={},
        mean=(round(scaled.mean().item(), 6),),
        std=(round(scaled.std().item(), 6),),
        fingerprint=fingerprint(train, test),
    )
