"""scikit-learn's 1,797 real 8x8 handwritten digits: they ship with it, so a first run needs no download."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from ssd_bench.data import Dataset, DataSettings, Part, fingerprint

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


@lru_cache(maxsize=2)
def _load(split_seed: int) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
    fine = torch.from_numpy(labels).long()
    train_rows, test_rows = train_test_split(
        torch.arange(len(fine)), test_size=0.2, stratify=labels, random_state=split_seed
    )
    train, test = (Part(pixels[rows.sort().values], fine[rows.sort().values]) for rows in (train_rows, test_rows))
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
