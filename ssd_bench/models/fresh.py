"""A newly initialised model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def fresh(settings: Any, seed: int, n_classes: int, channels: int, side: int) -> nn.Module:
    """A model initialised from `seed` alone, on the CPU, so that it is the same for every device.

    Channels-last: the slim ResNet18 trains 1.3 to 1.4 times as fast on a CPU with it, and predicts up to twice.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # those of other devices are somebody else's
        return settings.build(n_classes, channels, side).to(memory_format=torch.channels_last)
