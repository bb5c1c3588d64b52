"""A model that was never trained, made from one that was: for models that nobody described in a configuration."""

from __future__ import annotations

import copy

from torch import nn

RESETS = ("reset_parameters", "_reset_parameters")  # as PyTorch's layers call it (attention with the underscore)


def anew(model: nn.Module) -> nn.Module:
    """A copy on the CPU whose layers are initialised again, as PyTorch initialises them, from the global random state.

    What is frozen stays as it is: it was not trained on the data. Raises ValueError for a trainable parameter that
    belongs to no layer which can be reset, such as a class token.
    """
    fresh = copy.deepcopy(model).cpu()  # whose draws are the same for every device
    for name, layer in fresh.named_modules():
        own = [key for key, p in layer.named_parameters(recurse=False) if p.requires_grad]
        if not own:
            if hasattr(layer, "reset_running_stats") and not any(True for _ in layer.parameters(recurse=False)):
                layer.reset_running_stats()  # learnt from the data all the same
            continue
        reset = next((getattr(layer, each) for each in RESETS if hasattr(layer, each)), None)
        if reset is None:
            where = f"{name}.{own[0]}".lstrip(".")
            raise ValueError(f"{where} cannot be initialised anew ({type(layer).__name__} has no reset_parameters)")
        reset()
    return fresh


def head_of(model: nn.Module, n_classes: int) -> str:
    """Name of the last layer: the last one whose weight has a row for each class; "" where there is none."""
    with_weight = [(name, getattr(layer, "weight", None)) for name, layer in model.named_modules()]
    fitting = [name for name, weight in with_weight if weight is not None and weight.shape[:1] == (n_classes,)]
    return fitting[-1] if fitting else ""
