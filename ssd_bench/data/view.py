"""A data set as a model wants to see it: images on the device with the request's labels."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssd_bench.core.console import size
from ssd_bench.core.dataset import Dataset, Part
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.images import HostPixels
from ssd_bench.core.task import Images, Request
from ssd_bench.data.mapped import joined
from ssd_bench.train import devices

log = logging.getLogger(__name__)

SHARE = 0.4  # of the device's free memory that images may take
CIFAR100_STATS = (
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)


def placed(pixels: Tensor, device: torch.device) -> Tensor | HostPixels:
    """Pixels of any shape on the device where they fit, with room for the network, and else in host memory."""
    n_bytes = pixels.numel() * pixels.element_size()
    if pixels.device == device or n_bytes <= SHARE * devices.free_bytes(device):
        return pixels.to(device)
    log.info("the images (%s) stay in host memory: %s has too little room for them", size(n_bytes), device)
    return HostPixels(pixels, device)


def with_validation(dataset: Dataset, request: Request) -> tuple[Dataset, Request]:
    """Both with the images for validation after the training images: rows of no D, D_r or D_f.

    Each has the label and the group that most training images of its finest class have (of true labels, where the
    scenario changed some).
    """
    if dataset.validation is None:
        return dataset, request
    if dataset.train.pixels.shape[1:] != dataset.validation.pixels.shape[1:]:
        raise ConfigError("data.validation: this scenario gives the training images another size; leave it out")
    fine = torch.cat([dataset.train.fine, dataset.validation.fine])

    def continued(labels: Tensor, by: Tensor) -> Tensor:
        """The labels (n, int64) with those of the images for validation after them."""
        n, most = len(labels), 1 + int(by.max())
        often = torch.bincount(fine[:n] * most + by, minlength=most * len(dataset.fine_names))
        return torch.cat([labels, often.view(-1, most).argmax(1)[fine[n:]]])

    steps: list[Request] = []
    for step in (*request.earlier, request):
        labels = continued(step.train_labels, step.true_labels.get("train", step.train_labels))
        group = continued(step.group, step.group)
        steps.append(replace(step, train_labels=labels, group=group, earlier=tuple(steps)))
    train = Part(joined([dataset.train, dataset.validation]), fine)
    return replace(dataset, train=train, validation=None), steps[-1]


def view(dataset: Dataset, task: Request, norm: str, model: Any, device: torch.device) -> dict[str, Images]:
    """The "train" and "test" images on the device, as `model` (its settings) wants to see them, with the task's labels.

    norm=auto: the statistics that the model's checkpoint asks for, else the data set's default.
    """
    mean, std = CIFAR100_STATS if norm == "cifar100" else (dataset.mean, dataset.std)
    if norm == "auto" and model.norm():
        mean, std = model.norm()
    channels = dataset.train.pixels.shape[1]
    if len(mean) != channels:  # grey images under colour statistics
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    side = model.input_side(dataset.train.pixels.shape[-1])
    mean, std = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    images = {
        part: Images(placed(pixels, device), labels.to(device), mean, std, side)
        for part, pixels, labels in (
            ("train", dataset.train.pixels, task.train_labels),
            ("test", dataset.test.pixels, task.test_labels),
        )
    }
    return task.trigger.on(images) if task.trigger else images
