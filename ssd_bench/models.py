"""The architectures: the paper's ResNet18 for small images (any width) and vision transformers through timm."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from ssd_bench.errors import ConfigError


def normalised(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """norm(conv(x)). In eval mode the normalisation is folded into the convolution's weights: a forward pass takes 0.9
    of the time and importances 0.86 (one CPU thread, width 16), and gradients reach the parameters of both as before.
    Modules with hooks, or put in their place by a method, are called. Outputs are overwritten by what follows."""
    if norm.training or not (_plain(conv, nn.Conv2d) and _plain(norm, nn.BatchNorm2d)):
        return norm(conv(x))
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
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
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else normalised(*self.downsample, x)
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

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def input_side(self, side: int) -> int:
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


@dataclass(frozen=True)
class ViT:
    """Settings of a vision transformer; with `architecture`, timm's model of that name."""

    architecture: str | None = None
    pretrained: bool = False
    side: int | None = None
    patch: int | None = None
    dim: int = 128
    depth: int = 6
    heads: int = 4
    checkpoint: str | None = None
    head: ClassVar[str] = "head"

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads, self.side or 1, self.patch or 1) < 1:
            raise ValueError("side, patch, dim, depth and heads must be at least 1")
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={self.dim} and heads={self.heads}")
        if self.pretrained and not self.architecture:
            raise ValueError("pretrained=true needs an architecture that timm has weights for")

    def input_side(self, side: int) -> int:
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
        if not self.pretrained:
            from timm.models.vision_transformer import VisionTransformer

            return VisionTransformer(**shape)
        import timm

        hub = logging.getLogger("huggingface_hub")
        level = hub.level
        hub.setLevel(logging.CRITICAL)  # without a network it reports each of its attempts; one line is enough
        try:
            return timm.create_model(
                self.architecture, pretrained=True, num_classes=n_classes, in_chans=channels, img_size=side
            )
        except (OSError, RuntimeError, ValueError) as e:
            raise ConfigError(
                f"model.pretrained=true: the weights of {self.architecture} cannot be had ({type(e).__name__}: is "
                "there a network?); go on without them with model.pretrained=false, or give model.checkpoint=FILE"
            ) from e
        finally:
            hub.setLevel(level)


# The released code's parameter names -> ours. Its blocks call their parts residual_function and shortcut.
_RELEASED = (
    (r"^conv1\.0\.", "conv1."),
    (r"^conv1\.1\.", "bn1."),
    (r"^conv([2-5])_x\.", lambda m: f"layer{int(m[1]) - 1}."),
    (r"\.residual_function\.0\.", ".conv1."),
    (r"\.residual_function\.1\.", ".bn1."),
    (r"\.residual_function\.3\.", ".conv2."),
    (r"\.residual_function\.4\.", ".bn2."),
    (r"\.shortcut\.", ".downsample."),
)


def checkpoint_sha256(path: Path) -> str:
    """sha256 of a checkpoint file; raises ConfigError where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise ConfigError(f"model.checkpoint={path} cannot be read: {e.strerror}") from e


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file or one that `weights_only` can read; raises ConfigError otherwise."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # of a file that is none; the error below says it in a line
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise ConfigError(
            f"model.checkpoint={path} is not a checkpoint that can be read safely ({type(e).__name__}); allowed: a "
            "safetensors file (*.safetensors), or a state dict of tensors saved with torch.save"
        ) from e
    for wrapper in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(name, str) and isinstance(t, Tensor) for name, t in state.items())
    ):
        raise ConfigError(f"model.checkpoint={path} holds no state dict of tensors")
    state = {re.sub(r"^module\.", "", name): t for name, t in state.items()}
    if any(".residual_function." in name for name in state):
        for pattern, ours in _RELEASED:
            state = {re.sub(pattern, ours, name): t for name, t in state.items()}
    return state


def fit_checkpoint(model: nn.Module, path: Path) -> None:
    """Load the checkpoint at `path` into `model`; raises ConfigError that names the tensors that do not fit."""
    own, state = model.state_dict(), read_checkpoint(path)
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # absent from old checkpoints
    missing = sorted(own.keys() - state.keys() - counters)
    unknown = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    problems = [
        f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", sorted(shapes)))
        if names
    ]
    if problems:
        raise ConfigError(f"model.checkpoint={path} does not fit the model; tensors " + "; ".join(problems))
    model.load_state_dict(state, strict=False)


def fresh(settings: Any, seed: int, n_classes: int, channels: int, side: int) -> nn.Module:
    """A model initialised from `seed` alone, on the CPU, so that it is the same for every device.

    Channels-last: the slim ResNet18 trains 1.3 to 1.4 times as fast on a CPU with it, and predicts up to twice.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return settings.build(n_classes, channels, side).to(memory_format=torch.channels_last)
