"""The paper's ResNet18 for small images, at any width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.modules.module import _has_any_global_hook


def normalised(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """norm(conv(x)). In eval mode the normalisation is folded into the convolution's weights: a forward pass takes 0.9
    of the time and importances 0.86 (one CPU thread, width 16), and gradients reach the parameters of both as before.
    Modules with hooks, or put in their place by a method, are called, and so are all where a compiler reads along: it
    has ways of its own. Outputs are overwritten by what follows."""
    watched = norm.training or _has_any_global_hook() or torch.compiler.is_compiling()
    if watched or not (_plain(conv, nn.Conv2d) and _plain(norm, nn.BatchNorm2d)):
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    return conv2d(x, conv.weight * scale[:, None, None, None], shift, conv.stride, conv.padding)


def _plain(module: nn.Module, kind: type) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return type(module) is kind and not any(hooks)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in He et al. 2016 (arXiv 1512.03385), section 3.3."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = None
        # Below 16 channels oneDNN's strided 1x1 convolution writes beyond its memory (uxlfoundation/oneDNN#6035): there
        # the stride is taken before it, which is the same to the bit.
        self.skip = stride if inner < 16 else 1
        if stride != 1 or inner != outer:
            conv = nn.Conv2d(inner, outer, 1, stride // self.skip, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        thinned = x if self.skip == 1 else x[..., :: self.skip, :: self.skip]
        shortcut = x if self.downsample is None else normalised(*self.downsample, thinned)
        x = torch.relu_(normalised(self.conv1, self.bn1, x))
        return torch.relu_(normalised(self.conv2, self.bn2, x).add_(shortcut))


class SmallImageResNet(nn.Module):
    """ResNet18 with a 3x3 stride-1 stem and no max-pool; parameters are named as torchvision names them."""

    def __init__(self, n_classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inner = width
        for i in range(4):
            outer = width * 2**i
            blocks = [BasicBlock(inner, outer, 1 if i == 0 else 2), BasicBlock(outer, outer, 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inner = outer
        self.fc = nn.Linear(inner, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(normalised(self.conv1, self.bn1, x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))  # unlike adaptive pooling, its gradient is deterministic on CUDA too


@dataclass(frozen=True)
class ResNet18:
    """Settings of the paper's ResNet18; `width` is the number of channels of the stem."""

    width: int = 64
    checkpoint: str | None = None
    head: ClassVar[str] = "fc"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def input_side(self, side: int) -> int:
        """Side (pixels) of what the model is given, for images of side `side`."""
        return side

    def norm(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std that the model asks for, or None."""
        return None

    def untrained(self) -> ResNet18:
        """The same architecture without pretrained weights."""
        return self

    def build(self, n_classes: int, channels: int, side: int) -> nn.Module:
        """A newly initialised model (PyTorch's default initialisation) from the global random state."""
        return SmallImageResNet(n_classes, channels, self.width)
