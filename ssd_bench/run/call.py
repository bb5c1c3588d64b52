"""One call of a method: seeded, timed, watched; the command line and the library do it here."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import ConfigError
from ssd_bench.core.seeds import seeded
from ssd_bench.core.task import Context, Split, seeds_of
from ssd_bench.data.source import forget_loaded
from ssd_bench.models.anew import copied
from ssd_bench.store.artefacts import forget_recent
from ssd_bench.train import devices
from ssd_bench.train.loop import check_finite
from ssd_bench.train.passes import eval_mode, pass_clock, predict, uncompiled

Given = tuple[str, Tensor, int]  # what a tensor is, the tensor, how often it was edited before


def call(
    name: str,
    method: Any,
    model: nn.Module,
    data: Split,
    context: Context,
    given: Iterable[Given] = (),
    clock: Callable[[], float] = time.monotonic,
) -> tuple[nn.Module, devices.Measured]:
    """The unlearned model, and what the call of the method alone took.

    model: the method's own copy. given: what it gets and must not change; may grow while the method runs. What the
    method draws without asking for a generator follows the seeds that it says it uses, and nothing else. Raises
    ConfigError for a method that breaks its contract, Diverged for weights that are not finite.
    """
    seeds = sorted(seeds_used(method, context.seed, context.seed_unlearn).items())
    watched = _untouched(name, data, given), _named(f"method {name}"), seeded(0, "method", *seeds)
    with watched[0], watched[1], watched[2], devices.measured(context.device, clock) as measured:
        model = method(model, data, context)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"method {name} returned {type(model).__name__}; it has to return the model")
    check_finite(model, name)
    _check_usable(model, name, data)
    return model, measured


def _check_usable(model: nn.Module, name: str, data: Split) -> None:
    """Raise ConfigError for a model that cannot read an image of D_f, or has another number of outputs."""
    try:
        with eval_mode(model), torch.no_grad(), uncompiled():
            said = model(data.images.batch(data.forget[:2])[0])
    except torch.OutOfMemoryError:
        raise
    except Exception as e:
        why = " ".join(f"{type(e).__name__}: {e}".split())
        raise ConfigError(f"method {name} returned a model that cannot be used ({why})") from e
    of_each = tuple(said.shape[1:]) if isinstance(said, Tensor) else type(said).__name__
    if of_each != (data.n_classes,):
        raise ConfigError(f"method {name} returned a model that says {of_each} for {data.n_classes} classes")


def plain(value: Any) -> Any:
    """As a row holds it: numbers of Python, also for those of PyTorch and NumPy; None for what is not finite, names of
    enumerations, and of what is neither number nor text its kind."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str | int | float) else str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple | Set):
        return [plain(each) for each in (sorted(value, key=repr) if isinstance(value, Set) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else f"<{type(value).__name__}>"


def makes_it_again(model: nn.Module, holder: nn.Module, data: Split) -> bool:
    """Whether `model`'s weights and buffers, put into a copy of `holder`, say what `model` says of a few images of
    D_f and of D_r.

    They do not where a method changed more: a layer, a hook. True where the model does not even say the same twice, and
    where what it says is not finite, which is for whoever evaluates it to say.
    """
    again = copied(holder)
    try:
        again.load_state_dict(model.state_dict())
    except RuntimeError:
        return False
    rows = torch.cat([data.forget[:64], data.retain[:64]])
    with uncompiled():  # a compiled model rounds otherwise
        first, second, theirs = (predict(each, data.images, rows, len(rows)) for each in (model, model, again))
    if not first.isfinite().all():
        return True
    near = partial(torch.allclose, first, rtol=1e-3, atol=1e-3 * float(first.abs().max()))
    return not near(second) or near(theirs)


def seeds_used(method: Any, seed: int, seed_unlearn: int) -> Mapping[str, int]:
    """Of these two, those that the method's result depends on."""
    both = {"seed": seed, "seed_unlearn": seed_unlearn}
    return {name: value for name, value in both.items() if name in seeds_of(method)}


@contextmanager
def _named(what: str) -> Iterator[None]:
    """An error inside says where it was."""
    try:
        yield
    except Exception as e:
        e.add_note(f"in {what}")
        raise


@contextmanager
def _untouched(name: str, data: Split, given: Iterable[Given]) -> Iterator[None]:
    """Raises ConfigError if the method changes images or cached tensors in place: later runs would see it."""
    before = data.images.edits
    yield
    changed = [] if data.images.edits == before else ["the images"]
    changed += sorted({f"what it got as {kind}" for kind, t, edits in given if t._version != edits})
    if changed:
        forget_loaded(), forget_recent()  # what this process has in memory is no longer what was loaded
        raise ConfigError(f"method {name} changed {' and '.join(changed)} in place; it has to work on a clone")


_warm: set[Any] = set()  # what this process has warmed up


def warm_up(model: nn.Module, data: Split, what: Any = None) -> None:
    """One forward and backward pass, so that no method pays for the first use of the device's kernels; and an
    optimiser, as PyTorch loads its compiler with the first one of a process, which takes seconds.

    what: an architecture; once in a process for each, its device and shape, since later runs find them warm, and on a
    copy, so that nothing of it stays with the model. Without it (a model that is compiled for itself) each time, on
    the model, whose state is as before.
    """
    torch.optim.SGD(model.parameters())
    inputs, labels = data.images.batch(data.rows[:64])
    known = (what, str(inputs.device), tuple(inputs.shape))
    if (what is not None and known in _warm) or len(labels) < 2:  # BatchNorm cannot train on one
        return
    _warm.add(known)
    if what is not None:
        model = copied(model)
    else:
        state, training = copy.deepcopy(model.state_dict()), model.training
    with seeded(0, "warm up"), pass_clock():
        logits = model.train()(inputs)
        if not isinstance(logits, Tensor):  # heads for training beside the one that counts
            logits = model.eval()(inputs)
        loss = cross_entropy(logits, labels)
    with pass_clock.backward():
        loss.backward()
    if what is None:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(state)
        model.train(training)
