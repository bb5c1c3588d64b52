"""Vision transformers, through timm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from ssd_bench.core.errors import ConfigError
from ssd_bench.models.weights import pretrained


@dataclass(frozen=True)
class ViT:
    """Settings of a vision transformer.

    architecture: timm's name of a model of these sizes, whose pretrained weights and normalisation are taken.
    """

    architecture: str | None = None
    pretrained: bool = False
    side: int | None = None
    patch: int | None = None
    dim: int = 128
    depth: int = 6
    heads: int = 4
    checkpoint: str | None = None
    head: ClassVar[str] = "head"
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("timm",)

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads, self.side or 1, self.patch or 1) < 1:
            raise ValueError("side, patch, dim, depth and heads must be at least 1")
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={self.dim} and heads={self.heads}")
        if self.pretrained and not self.architecture:
            raise ValueError("pretrained=true needs an architecture that timm has weights for")

    def input_side(self, side: int) -> int:
        """Side (pixels) of what the model is given, for images of side `side`."""
        return self.side or side

    def norm(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of the pretrained weights, or None."""
        if not self.architecture:
            return None
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(self.architecture)
        if config is None:
            raise ConfigError(f"model.architecture={self.architecture} is no model that timm knows (null: a plain ViT)")
        return config.mean, config.std

    def untrained(self) -> ViT:
        """The same architecture without pretrained weights."""
        return replace(self, pretrained=False)

    def build(self, n_classes: int, channels: int, side: int) -> nn.Module:
        """A newly initialised model, or the pretrained backbone under a newly initialised last layer."""
        side = self.input_side(side)
        shape = {
            "img_size": side, "patch_size": self.patch or max(1, side // 8), "in_chans": channels,
            "embed_dim": self.dim, "depth": self.depth, "num_heads": self.heads, "num_classes": n_classes,
        }  # fmt: skip
        from timm.models.vision_transformer import VisionTransformer

        if not self.pretrained:
            return VisionTransformer(**shape)
        model = pretrained(self.architecture, num_classes=n_classes, in_chans=channels, img_size=side)
        with torch.device("meta"):
            sizes, others = (_sizes(each) for each in (VisionTransformer(**shape), model))
        if sizes != others:  # a retrained model would be another one
            raise ConfigError(
                f"model.architecture={self.architecture} is no ViT of side {side}, patch {shape['patch_size']}, "
                f"dim {self.dim} and depth {self.depth}; any model of timm's: model=timm"
            )
        return model


def _sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in model.state_dict().items()}
