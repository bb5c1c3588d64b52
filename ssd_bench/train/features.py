"""What a network makes of images inside: global averages of its stages, and what its last layer sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.task import Images
from ssd_bench.train.passes import predict

LAST = "last"  # the key of what the last layer sees
LISTS = (nn.Sequential, nn.ModuleList)
MOST = 4  # stages


class Recording:
    """What passes through a model while it is recorded, batch by batch; see `recording`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.batches = names, []

    def found(self, n: int) -> dict[str, Tensor]:
        """By name, n x d, float32, on the CPU. Raises ValueError where a pass did not go through a module once."""
        try:
            found = {name: torch.cat([each[name] for each in self.batches]).cpu() for name in self.names}
        except KeyError as e:
            raise ValueError(f"a forward pass does not call {e.args[0]}") from e
        if wrong := [name for name, each in found.items() if each.ndim != 2 or len(each) != n]:
            raise ValueError(f"{wrong[0]} does not have one row of numbers an image")
        return found


@contextmanager
def recording(model: nn.Module, head: str, stages: Sequence[str] = ()) -> Iterator[Recording]:
    """Keep what goes into the module `head` and what comes out of `stages` while it lasts, whoever asks the model."""
    modules, batch, kept = dict(model.named_modules()), {}, Recording((head, *stages))

    def keep(name: str, seen: Any) -> None:
        batch[name] = _averaged(seen)

    def before_head(_: nn.Module, inputs: tuple) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            keep(head, inputs[0])

    def end(*_: Any) -> None:
        kept.batches.append(dict(batch))
        batch.clear()

    hooks = [modules[head].register_forward_pre_hook(before_head)]
    for name in stages:
        hooks.append(modules[name].register_forward_hook(lambda _, inputs, output, name=name: keep(name, output)))
    hooks.append(model.register_forward_hook(end))
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def features(
    model: nn.Module, head: str, images: Images, rows: Tensor, batch_size: int, stages: Sequence[str] = ()
) -> dict[str, Tensor]:
    """What these rows become in eval mode, by name of the stage, and for the last layer under `LAST`: n x d, float32.

    On the CPU. What is not n x d is averaged over places: n x d x height x width, or n x tokens x d. head: name of the
    last layer. Raises ValueError where a pass does not go through it, or through a stage, once.
    """
    with recording(model, head, stages) as kept:
        predict(model, images, rows, batch_size)
    found = kept.found(len(rows))
    return {LAST: found.pop(head)} | found


def _averaged(seen: Any) -> Tensor:
    if not isinstance(seen, Tensor):
        raise ValueError(f"a stage gives {type(seen).__name__}, not one tensor")
    seen = seen.detach().float()
    return seen.mean((2, 3)) if seen.ndim == 4 else seen.mean(1) if seen.ndim == 3 else seen.clone()  # no mere view


def stages(model: nn.Module, head: str) -> list[str]:
    """Names of at most four modules that divide the network, in their order: its outermost blocks of layers.

    Where there are fewer than four, lists of blocks are looked into; where there are none, layers with weights count.
    Of more than four, every so many-th and the last. The last layer, and what holds it, is none of them.
    """
    modules = dict(model.named_modules())

    def outer(names: list[str]) -> list[str]:
        return [n for n in names if n != head and not head.startswith(f"{n}.") and list(modules[n].parameters())]

    layers = outer([name for name, _ in model.named_children()])
    while len(found := [name for name in layers if list(modules[name].children())]) < MOST:
        lists = [name for name in found if isinstance(modules[name], LISTS)]
        if not lists:
            break
        inner = {name: [f"{name}.{child}" for child, _ in modules[name].named_children()] for name in lists}
        layers = outer([each for name in layers for each in inner.get(name, [name])])
    found = found or layers
    return [found[(i + 1) * len(found) // MOST - 1] for i in range(MOST)] if len(found) > MOST else found
