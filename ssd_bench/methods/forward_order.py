"""The last part of a network, in the order in which a forward pass goes through its modules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssd_bench.train.features import LISTS
from ssd_bench.train.passes import eval_mode, pass_clock


@dataclass(frozen=True)
class LastPart:
    """A network, cut before one of its modules."""

    model: nn.Module
    after: dict[str, nn.Module]  # whose own parameters and buffers belong to the last part, in forward order
    before: list[nn.Module]  # that lie before the cut with all that they contain

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the last part but for what the user froze and what the part before it uses too."""
        ours = {id(m) for m in self.after.values()}
        held = {id(p) for m in self.model.modules() if id(m) not in ours for p in m.parameters(recurse=False)}
        own = {id(p): p for m in self.after.values() for p in m.parameters(recurse=False)}
        return [p for key, p in own.items() if p.requires_grad and key not in held]

    @contextmanager
    def rest_frozen(self) -> Iterator[None]:
        """While it lasts, only the last part takes gradients. Raises ValueError where that is nothing."""
        ours = {id(p) for p in self.parameters}
        if not ours:
            raise ValueError("the last part of the model has no trainable parameter; a larger method.k trains more")
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in ours]
        try:
            for p in rest:
                p.requires_grad_(False)
            yield
        finally:
            for p in rest:
                p.requires_grad_(True)


def last_part(model: nn.Module, inputs: Tensor, k: int, layers: str, head: str) -> LastPart:
    """What comes last: `k` blocks and the last layer ("block"), or `k` layers with weights ("layer").

    inputs: one sample, for a forward pass that shows the order. head: name of the last layer. A model without blocks
    has layers alone, k of them beside the last. With more than there are, the part is the whole model.
    """
    places, modules = forward_places(model, inputs), dict(model.named_modules())
    weighty = sorted({places[name] for name, module in modules.items() if has_weights(module)})
    found = sorted(places[name] for name in blocks(model)) if layers == "block" else []
    starts = [*found, places[head] if head else weighty[-1]] if found else weighty
    wanted = k if layers == "layer" else k + 1
    whole = wanted > len(found) + 1 if found else wanted >= len(starts)
    cut = 0 if whole else starts[-wanted]
    after = sorted((name for name in modules if places[name] >= cut), key=places.get)
    reached = {id(modules[name]) for name in after}
    before = [m for m in modules.values() if not any(id(inner) in reached for inner in m.modules())]
    return LastPart(model, {name: modules[name] for name in after}, before)


def forward_places(model: nn.Module, inputs: Tensor) -> dict[str, int]:
    """When a forward pass first reaches each module, by name; one that is never called is reached with its parent."""
    watched = copy.deepcopy(model)  # which is not compiled, so that every module is called
    called: dict[str, int] = {}

    def note(name: str) -> None:
        called.setdefault(name, len(called))

    for name, module in watched.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: note(name))
    with torch.no_grad(), eval_mode(watched), pass_clock():
        watched(inputs)
    places: dict[str, int] = {}
    for name, _ in model.named_modules():  # parents come first
        places[name] = called.get(name, places.get(name.rpartition(".")[0], 0))
    return places


def has_weights(module: nn.Module) -> bool:
    """Whether it is a layer that is counted: one with a matrix or a kernel of its own, as a normalisation has not."""
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def blocks(module: nn.Module, name: str = "", listed: bool = False) -> list[str]:
    """Names of the blocks inside: what a Sequential or ModuleList lists, where it consists of several layers.

    A list of lists, or of stages that list blocks of one class themselves, is looked into. A list of layers holds none.
    """
    if listed and type(module) not in LISTS and any(module.children()) and not is_stage(module):
        return [name] if any(True for _ in module.parameters()) else []
    inner = ((f"{name}.{child}".lstrip("."), m) for child, m in module.named_children())
    return [found for path, m in inner for found in blocks(m, path, type(module) in LISTS)]


def is_stage(module: nn.Module) -> bool:
    """Whether it holds a list of blocks of one class."""
    for inner in module.children():
        kinds = {type(m) for m in inner.children()} if type(inner) in LISTS else set()
        if len(kinds) == 1 and not issubclass(*kinds, nn.Sequential) and any(next(inner.children()).children()):
            return True
    return False
