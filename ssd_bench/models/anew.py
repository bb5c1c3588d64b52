"""A model that was never trained, made from one that was: for models that nobody described in a configuration."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

RESETS = ("reset_parameters", "_reset_parameters")  # as PyTorch's layers call it (attention with the underscore)


def anew(model: nn.Module) -> nn.Module:
    """A copy on the CPU whose layers are initialised again, as PyTorch initialises them, from the global random state.

    What is frozen stays as it is: it was not trained on the data. Raises ValueError for a trainable parameter that
    belongs to no layer which can be reset, such as a class token, or that its layer's reset leaves as it was.
    """
    fresh = copied(model).cpu()  # whose draws are the same for every device
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
        before = {key: p.detach().clone() for key, p in layer.named_parameters(recurse=False)}
        reset()
        with torch.no_grad():
            for key in before.keys() - set(own):  # frozen
                getattr(layer, key).copy_(before[key])
        if same := [key for key in own if torch.equal(getattr(layer, key), before[key]) and not _plain(before[key])]:
            where = f"{name}.{same[0]}".lstrip(".")
            raise ValueError(f"{where} cannot be initialised anew ({type(layer).__name__} leaves it as it is)")
    return fresh


def _plain(values: Tensor) -> bool:
    """Whether a layer may begin with these: one number in all places, as biases and norms do."""
    return not values.numel() or bool((values == values.flatten()[0]).all())


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the model; a scripted one's copy would share its gradients."""
    with torch.no_grad():
        made = copy.deepcopy(model)
    for p, own in zip(model.parameters(), made.parameters(), strict=True):
        own.requires_grad_(p.requires_grad)
    return made


def head_of(model: nn.Module, inputs: Tensor) -> str:
    """Name of the last layer: the one with a weight whose output is the logits, or else the last with as many outputs.

    inputs: a few samples, for a forward pass. Where that shows no such layer (it is compiled, or averages afterwards),
    the last one whose weight has a row for each class. "" where there is none, and of a compiled script, whose layers
    cannot be changed.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return ""
    layers = {name: weight for name, layer in model.named_modules() if (weight := _own_weight(layer)) is not None}
    called: list[tuple[str, Any]] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, said, name=name: called.append((name, said)))
        for name in layers
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            logits = model.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    wide = [(name, said) for name, said in called if isinstance(said, Tensor) and said.shape == logits.shape]
    last = [name for name, said in wide if torch.equal(said, logits)] or [name for name, _ in wide]
    if len({*last}) > 1 and not torch.equal(dict(wide)[last[-1]], logits):
        return ""  # several say something of the classes, and the logits are made of all
    last = last or [name for name, weight in layers.items() if weight.shape[:1] == logits.shape[1:]]
    return last[-1] if last else ""


def _own_weight(layer: nn.Module) -> Tensor | None:
    """Its weight, or what that is made of. Reading a parametrised one itself may change it."""
    if isinstance(layer, torch.jit.ScriptModule):
        return None
    if "weight" in getattr(layer, "parametrizations", {}):
        return next(layer.parametrizations["weight"].parameters(recurse=False), None)
    weight = layer.__dict__.get("weight", layer._parameters.get("weight"))
    return weight if isinstance(weight, Tensor) else None
