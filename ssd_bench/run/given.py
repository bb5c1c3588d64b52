"""What a caller of the library hands in, checked and brought into the form that methods and metrics know."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

from ssd_bench.core.console import size
from ssd_bench.core.seeds import seeded
from ssd_bench.core.task import Images, Request
from ssd_bench.data.view import placed
from ssd_bench.models.anew import head_of
from ssd_bench.train.passes import eval_mode

log = logging.getLogger(__name__)

Data = Dataset | DataLoader | tuple[Tensor, Tensor]
READ = 256  # samples of a Dataset that are read at once
LOOKED_FOR = 8  # samples to forget, in what is to be kept
SHOWN = 4  # elements whose kind a message names
LOOKED_AT = 32  # numbers of a sample that are compared first
FEW_NUMBERS = 4  # samples of fewer numbers are not looked for


@dataclass(frozen=True)
class Given:
    """A model, what it is to keep and to forget, and what it has never seen."""

    model: nn.Module
    n_classes: int
    images: dict[str, Images]  # "train": what is to be kept, then what is to be forgotten; "test", where there is one
    request: Request
    device: torch.device

    @cached_property
    def head(self) -> str:
        """Name of the last layer; "" where there is none."""
        few = self.images["train"].raw(self.request.forget[:2]).to(self.device)
        return head_of(self.model, few)


def given(model: nn.Module, retain: Data | None, forget: Data, test: Data | None = None) -> Given:
    """All of it checked. Raises ValueError, in one line, for the first thing that is wrong."""
    device = device_of(model)
    parts = {"retain": retain, "forget": forget, "test": test}
    with torch.no_grad():  # a data set may ask a network of its own
        read = {name: _read(name, data, device) for name, data in parts.items() if data is not None}
    if "forget" not in read:
        raise ValueError("forget must be given: the samples that are to be forgotten")
    n_classes = check_model(model, read["forget"][0], device)
    for name, (inputs, labels) in read.items():
        _check_alike(name, inputs, labels, read["forget"][0], n_classes)
    if "retain" in read:
        _check_apart(read["retain"][0], read["forget"][0])
    if "test" in read and _holds([read[name][0] for name in ("retain", "forget") if name in read], read["test"][0]):
        log.warning("test holds samples of retain or forget; attacks and test accuracies mean nothing then")
    train = [read[name] for name in ("retain", "forget") if name in read]
    inputs, labels = (torch.cat([part[i] for part in train]) for i in (0, 1))
    images = {"train": Images(placed(inputs, device), labels.to(device))}
    if "test" in read:
        images["test"] = Images(placed(read["test"][0], device), read["test"][1].to(device))
    n_retain = len(labels) - len(read["forget"][1])
    test_labels = read["test"][1] if "test" in read else None
    return Given(model, n_classes, images, _request(labels, n_retain, test_labels, n_classes), device)


def device_of(model: nn.Module, who: str = "model") -> torch.device:
    """Where a model lies. Raises ValueError unless that is one place, and for complex or sparse numbers."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{who} must be a torch.nn.Module, got {type(model).__name__}")
    for name, t in model.state_dict().items():
        if not isinstance(t, Tensor):
            raise ValueError(f"{who} keeps a state that is no tensor ({name}); leave it out of its state_dict")
        if t.is_complex() or t.layout != torch.strided:
            kind = "complex" if t.is_complex() else "sparse"
            raise ValueError(f"{who} has {kind} numbers ({name}); allowed: real ones, in dense tensors")
    devices = sorted({str(p.device) for p in model.parameters()})
    if len(devices) != 1 or devices == ["meta"]:
        where = f"it lies on {', '.join(devices)}" if devices else "it has no parameters"
        raise ValueError(f"{who} must have all its parameters on one device ({where}); move it with .to(device)")
    return torch.device(devices[0])


def _read(name: str, data: Data, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and labels, where they lie or on the CPU, as checked as they can be without the model."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "__array__") for part in data):
        inputs, labels = (_tensor(name, part) for part in data)
    elif isinstance(data, Dataset | DataLoader):
        inputs, labels = _read_all(name, data)
    else:
        hint = "; a list of samples becomes one by DataLoader(samples)" if isinstance(data, list) else ""
        raise ValueError(
            f"{name} must be a Dataset, a DataLoader or a pair (inputs, labels), got {_kind_of(data)}{hint}"
        )
    if labels.ndim != 1 or len(inputs) != len(labels):
        raise ValueError(
            f"{name}: labels must be one whole number a sample, got labels of shape {tuple(labels.shape)} for inputs "
            f"of shape {tuple(inputs.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name}: labels must be whole numbers (int64), got {labels.dtype}")
    for what, t in (("inputs", inputs), ("labels", labels)):
        if t.device not in (torch.device("cpu"), device):
            raise ValueError(f"{name}: its {what} lie on {t.device}; allowed: cpu, or the model's device, {device}")
    if len(labels) == 0:
        raise ValueError(f"{name} is empty; at least one sample is needed")
    if inputs.is_floating_point() and not _all_finite(inputs.detach()):
        log.warning("%s: inputs hold numbers that are not finite", name)
    return inputs.detach(), labels.detach().cpu().long()


def _all_finite(inputs: Tensor) -> bool:
    """In parts, for a file that is mapped, and with one answer from the device."""
    return bool(torch.stack([chunk.isfinite().all() for chunk in inputs.split(READ)]).all())


def _tensor(name: str, part: Any) -> Tensor:
    """A tensor as it is, an array of any kind as one. Raises ValueError for what holds no numbers."""
    if isinstance(part, Tensor):
        if part.layout != torch.strided or part.is_nested:
            raise ValueError(f"{name}: sparse and nested tensors are not read; hand in dense ones")
        return part
    array = np.asanyarray(part)  # a file that is mapped stays so
    if not array.flags.writeable and not isinstance(array, np.memmap):
        array = array.copy()  # PyTorch warns of an array that is read only
    try:
        return torch.as_tensor(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as e:
        raise ValueError(f"{name}: {array.dtype} values are no numbers that PyTorch knows") from e


def _read_all(name: str, data: Dataset | DataLoader) -> tuple[Tensor, Tensor]:
    """Every sample once, in stored order; in a loader's own order where it holds only a part of its data set."""
    loader = data
    if isinstance(data, Dataset):
        loader = DataLoader(data, READ)
    elif _holds_all(data):
        same = ("num_workers", "collate_fn", "timeout", "worker_init_fn", "multiprocessing_context")
        loader = DataLoader(data.dataset, data.batch_size, **{name: getattr(data, name) for name in same})
    if isinstance(data, DataLoader) and getattr(data.sampler, "replacement", False):
        log.warning("%s is drawn with replacement: some samples come twice, others not; hand in its data set", name)
    inputs, labels = [], []
    with seeded(0, "read", name):  # what a data set draws for itself
        for batch in _batches(name, loader):
            if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
                raise ValueError(f"{name}: a sample must be a pair (input tensor, label), got {_kind_of(batch)}")
            if not batch[0].ndim or batch[1].ndim != 1:
                shapes = " and ".join(str(tuple(t.shape)) for t in batch)
                raise ValueError(f"{name}: a batch must be (n x ..., n labels), got tensors of shape {shapes}")
            inputs.append(batch[0]), labels.append(batch[1])
            if len(inputs) == 1:
                _check_room(name, loader, batch[0])
    if not inputs:
        raise ValueError(f"{name} is empty; at least one sample is needed")
    shapes = {tuple(part.shape[1:]) for part in inputs}
    if len(shapes) > 1:
        raise ValueError(f"{name}: samples must be of one shape, got {' and '.join(map(str, sorted(shapes)))}")
    return torch.cat(inputs), torch.cat(labels)


def _batches(name: str, loader: DataLoader) -> Iterator[Any]:
    """What it gives. Raises ValueError for what it cannot read or put together."""
    batches = None
    while True:
        try:
            batches = iter(loader) if batches is None else batches
            batch = next(batches)
        except StopIteration:
            return
        except Exception as e:
            raise ValueError(f"{name} cannot be read ({' '.join(f'{type(e).__name__}: {e}'.split())[:300]})") from e
        yield batch


def _holds_all(loader: DataLoader) -> bool:
    """Whether it goes through all its data set, whatever the order, and hands out what is in there: PyTorch's own."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        return False
    sampler = loader.sampler
    drawn = (
        isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(loader.dataset)
    )
    return loader.batch_size is not None and (drawn or isinstance(sampler, SequentialSampler))


def _kind_of(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        more = ", ..." if len(batch) > SHOWN else ""
        return f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch[:SHOWN])}{more}"
    return type(batch).__name__


def _check_room(name: str, loader: DataLoader, first: Tensor) -> None:
    """Twice what is read must fit: the batches, and the whole that is made of them."""
    try:
        wanted = 2 * len(loader) * first.numel() * first.element_size()
    except TypeError:  # an iterable data set does not know how long it is
        return
    if wanted > (free := psutil.virtual_memory().available):
        raise ValueError(
            f"{name} takes {size(wanted)} of memory to read, and {size(free)} are free; give a pair of tensors, which "
            "may be mapped from a file (torch.from_file)"
        )


def check_model(model: nn.Module, inputs: Tensor, device: torch.device, who: str = "model") -> int:
    """How many classes the model tells apart, from what it says about a few samples. Raises ValueError."""
    few = inputs[:2].to(device)
    with torch.no_grad(), eval_mode(model):
        try:
            said = model(few)
        except Exception as e:
            why = " ".join(f"{type(e).__name__}: {e}".split())
            raise ValueError(f"{who} cannot take inputs of shape {tuple(few.shape)}, {few.dtype} ({why})") from e
    if not isinstance(said, Tensor):
        raise ValueError(
            f"{who} returns {_kind_of(said)}; it must return one tensor of logits, samples x classes: wrap it in a "
            "module that does"
        )
    if said.ndim != 2 or len(said) != len(few) or not said.is_floating_point() or said.shape[1] < 2:
        raise ValueError(
            f"{who} returns {said.dtype} of shape {tuple(said.shape)} for {len(few)} samples; it must return logits, "
            "samples x classes (at least 2)"
        )
    if (said >= 0).all() and ((said.float().sum(1) - 1).abs() < 1e-3).all():
        log.warning("the %s seems to return probabilities, as each row sums to 1; what is read here is logits", who)
    return said.shape[1]


def _check_alike(name: str, inputs: Tensor, labels: Tensor, others: Tensor, n_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        raise ValueError(f"{name}: label {wrong} is out of range; the model's classes are 0 to {n_classes - 1}")
    if inputs.shape[1:] != others.shape[1:] or inputs.dtype != others.dtype or inputs.device != others.device:
        raise ValueError(
            f"{name}: inputs are {inputs.dtype} of shape {tuple(inputs.shape[1:])} on {inputs.device}, those of forget "
            f"{others.dtype} of shape {tuple(others.shape[1:])} on {others.device}; they must be alike"
        )


def _check_apart(retain: Tensor, forget: Tensor) -> None:
    """D_r must not hold D_f: who keeps what is to be forgotten forgets nothing. A few of its samples are looked for.

    Samples of few numbers may be equal by chance, and where those of D_r are equal to each other, nothing is said.
    """
    if _holds([retain], forget):
        raise ValueError(
            "forget is part of retain; retain must hold the training data without the samples that are to be forgotten"
        )


def _holds(parts: list[Tensor], others: Tensor) -> bool:
    """Whether a few of `others` are all among the samples of these parts, which are not equal to each other."""

    if others[0].numel() < FEW_NUMBERS:
        return False
    flat = [samples.flatten(1) for samples in parts]

    def copies(looked_for: Tensor) -> int:
        """How often the rarest of a few of these is among the samples."""
        places = torch.linspace(0, len(looked_for) - 1, min(LOOKED_FOR, len(looked_for))).long().tolist()
        return min(sum(_count(samples, looked_for[i]) for samples in flat) for i in places)

    return copies(others) > 0 and all(copies(samples) == 1 for samples in parts)


def _count(flat: Tensor, wanted: Tensor) -> int:
    """How many samples (n x numbers) are equal to this one. A few of their numbers say of most that they are not."""
    places = torch.linspace(0, flat.shape[1] - 1, min(LOOKED_AT, flat.shape[1])).long().unique()
    wanted = wanted.flatten()
    near = (flat[:, places] == wanted[places]).all(1).nonzero().flatten()
    return int((flat[near] == wanted).all(1).sum())


def _request(labels: Tensor, n_retain: int, test_labels: Tensor | None, n_classes: int) -> Request:
    """The request, as its labels show it: a whole class, a part of one class, or samples of several."""
    retain, forget = torch.arange(n_retain), torch.arange(n_retain, len(labels))
    several = labels[forget].unique()
    label = int(several[0]) if len(several) == 1 else None
    whole = label is not None and not (labels[retain] == label).any()
    group = labels.clone()
    if label is not None and not whole:
        group[forget] = n_classes  # a sub-class, as far as one can see
    sets = {"retain": ("train", retain), "forget": ("train", forget)}
    if test_labels is not None:
        test = torch.arange(len(test_labels))
        of_class = test[test_labels == label] if whole else test[:0]
        sets |= {"test": ("test", test), "retain": ("test", test[test_labels != label] if len(of_class) else test)}
        sets |= {"forget": ("test", of_class)} if len(of_class) else {}
    sets |= {"retain_train": ("train", retain), "forget_train": ("train", forget)}
    return Request(
        scenario="full_class" if whole else "random" if label is None else "sub_class",
        target=None if label is None else str(label),
        target_index=label,
        classes=tuple(map(str, range(n_classes))),
        train_labels=labels,
        test_labels=torch.empty(0, dtype=torch.int64) if test_labels is None else test_labels,
        group=group,
        train=torch.arange(len(labels)),
        retain=retain,
        forget=forget,
        sets={name: (part, rows) for name, (part, rows) in sets.items() if len(rows)},
        forget_label=label,
    )
