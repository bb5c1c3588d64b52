"""Labelled images as training and inference see them; only this module knows where their pixels lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class HostPixels:
    """Pixels that stay in host memory (mapped from a file or not), of which a batch at a time goes to a device.

    Indexed by rows, as a tensor that lies on the device is.
    """

    def __init__(self, host: Tensor, device: torch.device) -> None:
        self.host, self.device = host, device

    def __getitem__(self, rows: Tensor) -> Tensor:
        """These rows (indices on the CPU), on the device; a GPU fetches them by itself while it does something else."""
        pinned = self.device.type == "cuda"
        batch = torch.empty(len(rows), *self.host.shape[1:], dtype=self.host.dtype, pin_memory=pinned)
        torch.index_select(self.host, 0, rows, out=batch)
        return batch.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Trigger:
    """A square of one brightness near the lower right corner of some images, as an attacker would put it there."""

    size: int  # pixels, as `margin`: the distance to either edge
    margin: int
    value: int  # of every channel, 0 to 255
    train: Tensor  # rows of the training images that carry it, int64
    test: Tensor  # rows of the test images of which a copy that carries it comes after all test images, int64

    def on(self, images: Mapping[str, Images]) -> dict[str, Images]:
        """The "train" and "test" images with it; no pixel is copied."""
        train, test = images["train"], images["test"]
        copied = test.take(torch.cat([torch.arange(len(test)), self.test]))
        carried = torch.zeros(len(train), dtype=torch.bool)
        carried[self.train] = True
        of_test = torch.arange(len(copied)) >= len(test)
        return {
            "train": replace(train, trigger=self, carried=carried.to(train.device)),
            "test": replace(copied, trigger=self, carried=of_test.to(test.device)),
        }


@dataclass(frozen=True)
class Images:
    """Labelled images, and how a model wants to see them."""

    pixels: Tensor | HostPixels  # N x channels x side x side, uint8; without `mean`, N x ..., what a model takes
    labels: Tensor  # N, int64, on the device: what the model is trained on
    mean: Tensor | None = None  # channels, of pixels / 255; None: nothing is to be done to them
    std: Tensor | None = None  # channels
    side: int = 0  # the model's input side; images are resized to it after normalisation
    places: Tensor | None = None  # N, int64: where each image lies in `pixels`; None: in their order
    trigger: Trigger | None = None
    carried: Tensor | None = None  # N, bool, on the device: which images carry the trigger

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.labels.device

    @property
    def indexed_on(self) -> torch.device:
        """Where rows should lie, so that reading them waits for nobody."""
        return torch.device("cpu") if isinstance(self.pixels, HostPixels) else self.pixels.device

    @property
    def edits(self) -> int:
        """How often the pixels, or what normalises them, were changed in place: nobody may do that."""
        pixels = self.pixels.host if isinstance(self.pixels, HostPixels) else self.pixels
        return sum(t._version for t in (pixels, self.mean, self.std) if t is not None)

    def with_labels(self, labels: Tensor) -> Images:
        """The same images under other labels (N, int64, on the same device)."""
        return replace(self, labels=labels)

    def take(self, rows: Tensor) -> Images:
        """These rows as images of their own, in this order, any of them as often as one likes; no pixel is copied."""
        places = rows.to(self.indexed_on)
        if self.places is not None:
            places = self.places[places]
        on_device = rows.to(self.device)
        carried = None if self.carried is None else self.carried[on_device]
        return replace(self, labels=self.labels[on_device], places=places, carried=carried)

    def raw(self, rows: Tensor) -> Tensor:
        """A copy of the pixels of these rows, on the device: n x channels x side x side, uint8 (or as they were given).

        Without the trigger, which `triggered` puts on when all else has been done to them.
        """
        rows = rows.to(self.indexed_on)
        return self.pixels[rows if self.places is None else self.places[rows]]

    def triggered(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """These pixels, changed in place: on those of these rows that carry it, the trigger lies."""
        if self.trigger is None:
            return pixels
        end = pixels.shape[-1] - self.trigger.margin
        corner = pixels[..., end - self.trigger.size : end, end - self.trigger.size : end]
        carried = self.carried[rows.to(self.device)]
        corner.copy_(torch.where(carried[:, None, None, None], self.trigger.value, corner))
        return pixels

    def prepare(self, pixels: Tensor) -> Tensor:
        """uint8 pixels to what a model takes: n x channels x side x side, float32, normalised."""
        if self.mean is None:
            return pixels
        x = pixels.to(torch.float32).div_(255).sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
        if x.shape[-1] != self.side:
            x = interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)
        return x.contiguous(memory_format=torch.channels_last)  # as the models' weights

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The prepared images and the labels of these rows (int64 indices)."""
        return self.prepare(self.triggered(self.raw(rows), rows)), self.labels[rows.to(self.device)]
