"""Forward and backward passes: their clock and precision, eval mode, and the one inference loop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssd_bench.core import console
from ssd_bench.core.task import Images

log = logging.getLogger(__name__)


class PassClock:
    """Seconds spent inside forward and backward passes by this process (on an asynchronous device: launching them)."""

    seconds = 0.0
    precision: Callable[[], AbstractContextManager] = nullcontext  # what forward passes run in

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.backward(), self.precision():
            yield

    @contextmanager
    def using(self, device: torch.device, precision: str) -> Iterator[None]:
        """Forward passes in this precision while it lasts: autocast for bfloat16, else as they are."""
        before = self.precision
        self.precision = (
            partial(torch.autocast, device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext
        )
        try:
            yield
        finally:
            self.precision = before

    @contextmanager
    def backward(self) -> Iterator[None]:
        """The same for a backward pass, which autocast must not be around: it follows the forward pass's types."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


pass_clock = PassClock()


@torch.inference_mode()
def predict(model: nn.Module, images: Images, rows: Tensor, batch_size: int) -> Tensor:
    """The logits of these rows in eval mode: n x classes, float32, CPU. The model's modes are left as they were.

    Where the device's memory does not suffice, half as many images are taken at once, down to one.
    """
    order = rows.to(images.indexed_on)
    logits = []
    with eval_mode(model), console.counting("predictions: images", len(order)) as more:
        start = 0
        while start < len(order):
            try:
                inputs, _ = images.batch(order[start : start + batch_size])
                with pass_clock():
                    logits.append(model(inputs).float())
                start += batch_size
                more(len(inputs))
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                log.warning("out of memory: going on with evaluate.batch_size=%d", batch_size)
    with torch.inference_mode(False):  # an ordinary tensor, which may be kept
        return torch.cat(logits).cpu().clone()


@contextmanager
def statistics_for(model: nn.Module, n: int) -> Iterator[None]:
    """A forward pass over n samples in the mode the model is in. A single number in a channel has no statistics to
    normalise by, and PyTorch refuses: there those that BatchNorm keeps stand in, and stay as they are."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training] if n == 1 else []

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.training = inputs[0].numel() > inputs[0].shape[1]

    hooks = [norm.register_forward_pre_hook(before) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.training = True


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The whole model in eval mode; each module is put back into the mode it was found in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def uncompiled() -> AbstractContextManager:
    """Compiled models run as they are written: hooks are called, and nothing rounds otherwise.

    PyTorch's compiler, which takes seconds to import, is there where somebody compiled.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
