"""Pretrained weights, through timm."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from ssd_bench.core.console import quiet
from ssd_bench.core.errors import ConfigError


def pretrained(architecture: str, **shape: Any) -> nn.Module:
    """timm's model of that name with its published weights. Raises ConfigError where they cannot be had."""
    import timm

    try:
        with quiet("huggingface_hub", logging.CRITICAL):  # without a network it reports each of its attempts
            return timm.create_model(architecture, pretrained=True, **shape)
    except (OSError, RuntimeError, ValueError) as e:
        raise ConfigError(
            f"model.pretrained=true: the weights of {architecture} cannot be had ({type(e).__name__}: is "
            "there a network?); go on without them with model.pretrained=false, or give model.checkpoint=FILE"
        ) from e
