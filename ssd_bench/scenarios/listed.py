"""Forget the training images that a file lists."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import torch

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Request
from ssd_bench.scenarios.random import of_images

SHOWN = 200  # characters of a line in a message
COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True)
class Listed:
    """D_f is the training images that `file` lists, one a line; D'_f is D_f itself and D'_r all of D', as in random.

    By their numbers, from 0 on in the order of the training images, or, of a folder of pictures, by their files, as
    they stand below data.root. Empty lines and comments are no images:
    what follows a # at the beginning of a line or after a space.
    """

    file: str | None = None
    batch_size: int = 128

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        """Raises ConfigError for a file that cannot be read, or that lists what is no training image or all of them."""
        places = {normalize("NFC", name): row for row, name in enumerate(dataset.train.files)}
        apart = (("test", dataset.test), ("validation", dataset.validation))
        unseen = {normalize("NFC", name): what for what, part in apart if part for name in part.files}
        rows = [self._row(normalize("NFC", name), places, unseen, len(dataset.train.fine)) for name in self._names()]
        if twice := [row for row, n in Counter(rows).items() if n > 1]:
            image = list(places)[twice[0]] if places else twice[0]
            raise ConfigError(f"scenario.file={self.file} lists {image} twice")
        everything, forget = torch.arange(len(dataset.train.fine)), torch.tensor(rows).sort().values
        if len(forget) == len(everything):
            raise ConfigError(f"scenario.file={self.file} lists all training images; D_r would be empty")
        retain = everything[~torch.isin(everything, forget)]
        target = f"{len(forget)} of {Path(self.file).name}"
        return of_images("listed", dataset, everything, retain, forget, target=target)

    def _names(self) -> list[str]:
        if self.file is None:
            raise ConfigError("scenario=listed needs scenario.file=FILE, which lists training images, one a line")
        if not Path(self.file).expanduser().is_file():
            raise ConfigError(f"scenario.file={self.file} cannot be read: it is no file")
        try:
            lines = Path(self.file).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as e:
            raise ConfigError(f"scenario.file={self.file} cannot be read ({e})") from e
        if not (names := [name for line in lines if (name := COMMENT.sub("", line).strip())]):
            raise ConfigError(f"scenario.file={self.file} lists no image")
        return names

    def _row(self, name: str, places: dict[str, int], unseen: dict[str, str], n: int) -> int:
        if name in places:
            return places[name]
        if name in unseen:
            raise ConfigError(
                f"scenario.file={self.file}: {name} is a {unseen[name]} image; no model was trained on it"
            )
        if name.isdecimal() and len(name) < 19 and int(name) < n:
            return int(name)
        near = difflib.get_close_matches(name, places, n=1)
        allowed = (f"did you mean '{near[0]}'? " if near else "") + f"allowed: 0 to {n - 1}"
        allowed += ", or a file's name below data.root" if places else ""
        raise ConfigError(f"scenario.file={self.file}: {name[:SHOWN]} is no training image; {allowed}")
