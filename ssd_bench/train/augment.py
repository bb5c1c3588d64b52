"""The random transform of training images, batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """The random transform of training images: crop after padding by `crop` pixels, flip, rotation in degrees."""

    crop: int = 4
    flip: bool = True
    rotation: float = 15.0
    version: ClassVar[int] = 1


def augmented(pixels: Tensor, draws: Tensor, crop: int, flip: bool) -> Tensor:
    """Each image cropped after zero-padding, flipped and rotated about its centre by draws of its own.

    pixels: n x channels x side x side, uint8. draws: n x 4, float32: shift down and right in [-1, 1] times `crop`
    pixels, flip if below 0.5, angle in degrees. Nearest neighbour; what comes from outside is 0. One gather does all
    three, in the order crop, flip, rotation.
    """
    side = pixels.shape[-1]
    grid = torch.arange(side, device=pixels.device) - (side - 1) / 2
    angle = torch.deg2rad(draws[:, 3])[:, None, None]
    down, right = grid[None, :, None], grid[None, None, :]
    y = (down * angle.cos() - right * angle.sin() + (side - 1) / 2).round().long()  # where a rotated pixel was
    x = (down * angle.sin() + right * angle.cos() + (side - 1) / 2).round().long()
    inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
    if flip:
        x = torch.where((draws[:, 2] < 0.5)[:, None, None], side - 1 - x, x)
    shift = (draws[:, :2] * (crop + 0.5)).round().clamp(-crop, crop).long()  # each of -crop..crop equally often
    y, x = y + shift[:, :1, None], x + shift[:, 1:, None]
    inside &= (y >= 0) & (y < side) & (x >= 0) & (x < side)
    where = (y.clamp(0, side - 1) * side + x.clamp(0, side - 1)).flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
    return (pixels.flatten(2).gather(2, where) * inside.flatten(1)[:, None]).view_as(pixels)


def draw_augmentation(n: int, rotation: float, draws_from: torch.Generator) -> Tensor:
    """The random numbers that `augmented` wants for n images: n x 4, float32, on the CPU."""
    draws = torch.rand(n, 4, generator=draws_from)
    draws[:, :2] = draws[:, :2] * 2 - 1
    draws[:, 3] = (draws[:, 3] * 2 - 1) * rotation
    return draws
