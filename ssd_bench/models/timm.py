"""Any classifier that timm builds, by its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.models.weights import pretrained


@dataclass(frozen=True)
class Timm:
    """Settings of timm's model of that name, with a newly initialised last layer for the classes of the task.

    side: of the images that it sees; null: its own where it takes one size alone, else the data's.
    """

    architecture: str | None = None
    pretrained: bool = False
    side: int | None = None
    checkpoint: str | None = None
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("timm",)

    def __post_init__(self) -> None:
        if not self.architecture:
            raise ValueError("architecture must name a model of timm, such as model.architecture=resnet18")
        if self.side is not None and self.side < 1:
            raise ValueError(f"side must be null or at least 1, got {self.side}")
        _check_name(self.architecture)
        if self.pretrained and not self._config.has_weights:
            raise ValueError(f"pretrained=true: timm has no weights of {self.architecture}; allowed: false")

    @cached_property
    def _config(self) -> Any:
        """What timm says of the model: the size and statistics of its input, and whether there are weights."""
        from timm.models import get_pretrained_cfg

        return get_pretrained_cfg(self.architecture)

    @cached_property
    def head(self) -> str:
        """Name of the last layer, "" where there is more than one. Raises ConfigError where there is none."""
        with torch.device("meta"):
            return _name_of_head(self._create(2, 3, self._config.input_size[-1]), self.architecture)

    def input_side(self, side: int) -> int:
        """Side (pixels) of what the model is given, for images of side `side`."""
        return self.side or (self._config.input_size[-1] if self._config.fixed_input_size else side)

    def norm(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std that the architecture's configuration asks for."""
        return tuple(self._config.mean), tuple(self._config.std)

    def untrained(self) -> Timm:
        """The same architecture without pretrained weights."""
        return replace(self, pretrained=False)

    def build(self, n_classes: int, channels: int, side: int) -> nn.Module:
        """A newly initialised model, or the pretrained backbone under a newly initialised last layer."""
        model = self._create(n_classes, channels, self.input_side(side), self.pretrained)
        _name_of_head(model, self.architecture)
        _check_answer(model, self.architecture, n_classes, channels, self.input_side(side))
        return model

    def _create(self, n_classes: int, channels: int, side: int, with_weights: bool = False) -> nn.Module:
        import timm

        shape = {"num_classes": n_classes, "in_chans": channels}
        if self._config.fixed_input_size and side != self._config.input_size[-1]:
            shape["img_size"] = side
        if with_weights:
            return pretrained(self.architecture, **shape)
        try:
            return timm.create_model(self.architecture, pretrained=False, **shape)
        except Exception as e:  # whatever an architecture may raise over a size that it does not like
            raise _does_not_fit(self.architecture, channels, side, e) from e


def _check_name(architecture: str) -> None:
    import timm

    with_tag = "." in architecture  # the name of published weights
    check_choice("architecture", architecture, timm.list_pretrained() if with_tag else timm.list_models())


def _name_of_head(model: nn.Module, architecture: str) -> str:
    """Name of the layer that timm calls the classifier; "" where several answer together. Raises ConfigError."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(head, nn.ModuleList | tuple | list):
        return ""
    names = [name for name, module in model.named_modules() if name and module is head]
    if not names or isinstance(head, nn.Identity):
        raise ConfigError(
            f"model.architecture={architecture} has no last layer that a class could be forgotten in; allowed: a "
            "classifier, such as resnet18 or vit_tiny_patch16_224"
        )
    return names[0]


def _check_answer(model: nn.Module, architecture: str, n_classes: int, channels: int, side: int) -> None:
    """Raises ConfigError unless the model takes images of that size and answers with one number a class."""
    was_training = model.training
    try:
        with torch.no_grad():
            answer = model.eval()(torch.zeros(2, channels, side, side))
    except Exception as e:  # each architecture has its own way to say that an image is too small
        raise _does_not_fit(architecture, channels, side, e) from e
    model.train(was_training)
    if getattr(answer, "shape", None) != (2, n_classes):
        raise ConfigError(f"model.architecture={architecture} is no classifier: it does not give one number a class")


def _does_not_fit(architecture: str, channels: int, side: int, e: Exception) -> ConfigError:
    said = " ".join(f"{type(e).__name__}: {e}".split())[:150]
    return ConfigError(
        f"model.architecture={architecture} does not take {channels} x {side} x {side} pixels ({said}); try another "
        "model.side, such as 224"
    )
