"""The vocabulary that data, scenarios, methods and metrics share: Request, Split, Outputs, Probed, Context, Method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.images import Images, Trigger
from ssd_bench.core.seeds import derive_seed, generator

HANDED_IN = ("retain", "recipe")  # what a method may need that every run has, and not every call of the library
SETS = ("retain", "forget", "test", "retain_train", "forget_train")  # D'_r, D'_f, D', D_r, D_f


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, as data alone: index sets over one data set's training and test images."""

    scenario: str
    target: str | None  # name of what is to be forgotten ("lamp+rocket": both); None in the random scenario
    target_index: int | None  # of the one class; None where there is not exactly one
    classes: tuple[str, ...]  # names of the model's labels
    train_labels: Tensor  # of all training images, int64: the model's labels
    test_labels: Tensor
    group: Tensor  # of all training images: the class that the scenario selects by
    train: Tensor  # rows of D, ascending
    retain: Tensor  # rows of D_r in the released order: class by class, or as the random split drew them
    forget: Tensor  # rows of D_f (not in D with a placebo)
    sets: Mapping[str, tuple[str, Tensor]]  # SETS and the scenario's own: ("train" or "test", rows)
    forget_label: int | None  # the model's label of what is forgotten (the superclass of a sub-class); None: not one
    placebo: bool = False
    drawn: bool = False  # whether `seed_forget` decided on any of it
    dataset: Dataset | None = None  # the data set as the scenario changed it; None: as it was loaded
    forget_labels: tuple[int, ...] = ()  # the model's labels of all classes that are named; by default the one
    earlier: tuple[Request, ...] = ()  # the requests that were forgotten before this one, in their order
    clean: Tensor | None = None  # rows of D that nobody manipulated, ascending; None: the scenario manipulates none
    trigger: Trigger | None = None  # what was put on some images
    true_labels: Mapping[str, Tensor] = field(default_factory=dict)  # of all images of a part, where not as above
    judged_by: Mapping[str, Tensor] = field(default_factory=dict)  # of a set's rows, where not by their true labels

    def __post_init__(self) -> None:
        object.__setattr__(self, "forget_labels", _all_labels(self))

    @property
    def ideal(self) -> Tensor:
        """Rows that the model is trained on that others are compared with: D_r, without what was not discovered."""
        return self.retain if self.clean is None else self.clean

    @property
    def gone(self) -> Tensor:
        """The rows that earlier requests forgot."""
        return torch.cat([torch.empty(0, dtype=torch.int64), *(each.forget for each in self.earlier)])

    @property
    def forget_sha256(self) -> str:
        """Of the indices of D_f into the training images, ascending, as little-endian int64."""
        return hash_rows(self.forget.sort().values)

    @property
    def unseen(self) -> Tensor | None:
        """The rows of D'_f among the test images; None where none of them show what is forgotten."""
        part, rows = self.sets.get("forget", ("train", None))
        return rows if part == "test" else None

    def clone(self) -> Request:
        """The same with tensors of its own, for who must not change these."""
        return replace(self, **{f.name: _cloned(getattr(self, f.name)) for f in fields(self) if f.name != "dataset"})

    def split(self, images: Images) -> Split:
        """The training side, for a method: copies of what it must not change, but for the pixels."""
        return Split(
            images=images.with_labels(images.labels.clone()),
            rows=self.train.clone(),
            retain=self.retain.clone(),
            forget=self.forget.clone(),
            group=self.group.clone(),
            scenario=self.scenario,
            forget_label=self.forget_label,
            n_classes=len(self.classes),
            forget_labels=self.forget_labels,
            gone=self.gone,
        )


def _cloned(value: Any) -> Any:
    """Tensors and requests, alone or in mappings and tuples, cloned; anything else as it is."""
    if isinstance(value, Tensor | Request):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _cloned(each) for key, each in value.items()}
    return tuple(map(_cloned, value)) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Split:
    """The training side of a task, as a method sees it. All index tensors lie on the CPU, images on the device.

    Images that are in none of `rows`, `forget` and `gone` are those that the original was not trained on: what
    data.validation took out of D, and in a pool what its other models have.
    """

    images: Images  # all training images
    rows: Tensor  # D, ascending
    retain: Tensor  # D_r
    forget: Tensor  # D_f
    group: Tensor  # of all training images: the class that the scenario selects by
    scenario: str
    forget_label: int | None  # the model's label of what is forgotten; None in the random scenario, and of several
    n_classes: int
    forget_labels: tuple[int, ...] = ()  # of all classes that are forgotten; () in the random scenario
    gone: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # what earlier requests forgot

    def __post_init__(self) -> None:
        object.__setattr__(self, "forget_labels", _all_labels(self))

    @property
    def placebo(self) -> bool:
        """Whether D_f was never part of D."""
        return not torch.isin(self.forget[:1], self.rows).item()

    @property
    def unsaid(self) -> Tensor:
        """Which classes are not to be said: what is forgotten, and what was before, of which D_r has no image: classes,
        bool."""
        labels = self.images.labels
        said = torch.full((self.n_classes,), not len(self.gone), device=labels.device)
        if len(self.gone):
            said[labels[self.retain.to(labels.device)]] = True
        said[list(self.forget_labels)] = False
        return ~said

    def relabelled(self, forget: Tensor | int) -> Tensor:
        """The labels of all images, with these in place of D_f's: N, int64, on the images' device."""
        labels = self.images.labels.clone()
        labels[self.forget.to(labels.device)] = torch.as_tensor(forget, device=labels.device)
        return labels


def _all_labels(request: Request | Split) -> tuple[int, ...]:
    """The labels of the classes that are named, where the caller gave but the one."""
    one = () if request.forget_label is None else (request.forget_label,)
    return request.forget_labels or one


@dataclass(frozen=True)
class Outputs:
    """What one model says about each set of a task."""

    logits: Mapping[str, Tensor]  # of SETS: n x classes, float32, CPU; a set that was left out is missing
    labels: Mapping[str, Tensor]  # of SETS: n, int64, CPU
    random_logits: Tensor | None  # a randomly initialised model's, for D'_f
    forget_is_train: bool = False  # D'_f is D_f itself (the random scenario)
    _probs: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def has(self, *sets: str) -> bool:
        return all(name in self.logits for name in sets)

    def clone(self) -> Outputs:
        """The same with tensors of its own."""
        return Outputs(*map(_cloned, (self.logits, self.labels, self.random_logits)), self.forget_is_train)

    def only(self, *sets: str) -> Outputs:
        """Of these sets alone, as far as they are there."""
        kept = [{name: of[name] for name in sets if name in of} for of in (self.logits, self.labels)]
        return Outputs(*kept, self.random_logits, self.forget_is_train)

    def probs(self, name: str) -> Tensor:
        """Softmax of a set's logits: n x classes, float64."""
        if name not in self._probs:
            self._probs[name] = self.logits[name].double().softmax(dim=1)
        return self._probs[name]


@dataclass(frozen=True)
class Probed:
    """What a metric with `needs = ("model",)` is handed beside Outputs: models to look into or train, and the data."""

    model: nn.Module  # a copy, the metric's own
    original: nn.Module | None  # a copy of the model before it forgot; None where nobody knows it
    head: str  # name of the last layer; "" where there is none
    images: Mapping[str, Images]  # "train" and "test"
    request: Request
    batch_size: int = 128  # images in one inference pass
    passed: Callable[[str], tuple[Tensor, Tensor] | None] | None = None  # see `run.evaluate.Passed`

    @property
    def unseen(self) -> Tensor | None:
        """As of the request: the rows of D'_f among the test images."""
        return self.request.unseen


@dataclass(frozen=True)
class Pooled:
    """What a metric with `needs = ("pool",)` is handed: margins of the models of a pool on what they were to forget.

    Arrays are float64, pairs x samples; where two sets are forgotten, each pair's own. The models of a pair are alike
    but for what they were trained on: of each sample, one was and the other was not. Two lines of the table are
    controls of which this is not so: *retrained* are models that never held the samples, half of the pairs beside the
    other half, and of a *placebo* `inside` was asked to forget what it never held; there both are alike before.
    """

    inside: np.ndarray  # of the model that was trained on the sample, and has forgotten it
    outside: np.ndarray  # of the other one, which has forgotten others (of a block: nothing)
    inside_before: np.ndarray  # of both before they forgot
    outside_before: np.ndarray

    def of(self, pairs: np.ndarray) -> Pooled:
        """Of these pairs alone, with arrays of its own. pairs: bool, or places."""
        return Pooled(*(values[pairs].copy() for values in vars(self).values()))


def looks_inside(metric: Any) -> bool:
    """Whether a metric is to be handed `Probed`."""
    return "model" in getattr(metric, "needs", ())


def compares(metric: Any) -> bool:
    """Whether a metric is to be handed the retrained model's outputs beside the model's."""
    return "reference" in getattr(metric, "needs", ())


def judges(metric: Any) -> bool:
    """Whether a metric is to be handed `Pooled`."""
    return "pool" in getattr(metric, "needs", ())


def read_by(metric: Any, request: Request) -> Mapping[str, Tensor]:
    """Of which images, by part, a metric reads what the last layer sees: rows, ascending. Empty for most metrics."""
    reads = getattr(metric, "reads", None)
    return reads(request) if reads and looks_inside(metric) else {}


@dataclass
class Context:
    """All that a method may use beside the model and the training split.

    What a method draws comes from streams named by their purpose alone: two methods that shuffle "batches" under one
    seed see the same order (common random numbers).
    """

    device: torch.device
    seed: int  # of training; the original was trained with it
    seed_unlearn: int  # of the method's own draws
    recipe: Any  # train.recipe.Recipe of the original: what retrain follows
    fresh_model: Callable[..., nn.Module]  # (seed, pretrained=True) -> a newly initialised model on the device
    head: str  # name of the model's last layer
    cached: Callable[..., dict[str, Tensor]]  # (kind, key, make[, counts]): made once per key, to be read only
    augment: Any = None  # train.augment.Augment of the data set
    checkpoint: Callable[[str], Any] = lambda name: None  # (name of the phase): what `fit` takes as its checkpoint
    details: dict[str, Any] = field(default_factory=dict)  # what the method has to report; goes into the row

    def generator(self, *names: object) -> torch.Generator:
        """A CPU generator for one of the method's own purposes, seeded by `seed_unlearn`."""
        return generator(self.seed_unlearn, "method", *names)

    def seed_for(self, *names: object) -> int:
        """A seed for one of the method's own purposes, such as a new model."""
        return derive_seed(self.seed_unlearn, "method", *names)


@dataclass(frozen=True)
class Cost:
    """How many images are sent through a network of the original's size, as an estimate for `dry_run=true`."""

    forward: int = 0  # forward alone
    backward: int = 0  # forward and backward
    shared: Mapping[str, tuple[Any, Cost]] = field(default_factory=dict)  # what `Context.cached` keeps
    networks: int = 1  # whose weights are kept


class Method:
    """An unlearning method: a frozen dataclass of its settings that maps the original model to the unlearned one.

    A class need not derive from this one: what it does not say is taken from here. `columns` describes, by name, those
    of its `context.details` that tables show (metrics.About). `pictures` draws what the method alone can show.
    """

    version: ClassVar[int] = 1  # of what the package ships: raised when the weights that come out change
    of_data: ClassVar[tuple[str, ...]] = ()  # kinds of `Context.cached` that are means over D, whatever the request
    anew: ClassVar[bool] = False  # takes nothing from the original: what it keeps depends on the recipe and the seeds
    control: ClassVar[bool] = False  # there to be compared with: it does not compete
    seeds: ClassVar[tuple[str, ...]] = ("seed", "seed_unlearn")  # what the result depends on beside the original
    needs: ClassVar[tuple[str, ...]] = ()  # what it cannot do without: "retain", "recipe", "forget_label", "clean"
    columns: ClassVar[Mapping[str, Any]] = {}

    def skip(self, request: Request) -> str | None:
        """Why the method makes no sense for this request; None where it does.

        By default: it lacks what the class names in `needs`, such as "forget_label" (one class to forget).
        """
        for need in getattr(self, "needs", ()):
            if need not in HANDED_IN and getattr(request, need, None) is None:
                words = {"forget_label": "one class to forget", "clean": "manipulated images"}.get(need, need)
                has = "several" if need == "forget_label" and request.forget_labels else "none"
                return f"{spoken(self)} needs {words}; scenario={request.scenario} has {has}"
        return None

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        """Why the method cannot work on a model of this kind; None where it can. Asked before anything is trained.

        head: the name of the last layer, where it has one.
        """
        return None

    def holder(self, model: nn.Module) -> nn.Module:
        """What the weights of the unlearned model can be put into; for a method that makes another network of it.

        model: the original, which must stay as it is; whoever asks makes a copy of what comes back.
        """
        return model

    def cost(self, data: Split, recipe: Any) -> Cost | None:
        """What a call with these settings takes; None: not known."""
        return None

    def trains_on(self, request: Request) -> Tensor | None:
        """The rows that it trains a new model on by the original's recipe and nothing more; None for other methods."""
        return None

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        """The unlearned model. model: the method's own copy of the original."""


def ask(method: Any, name: str, *arguments: Any) -> Any:
    """A method's own answer, or `Method`'s where its class has none."""
    return getattr(type(method), name, getattr(Method, name))(method, *arguments)


def spoken(method: Any) -> str:
    """What a method is called in messages that do not know its YAML's name: of the package's, its module has that."""
    cls = type(method)
    package, _, module = cls.__module__.rpartition(".")
    return module if package == "ssd_bench.methods" else cls.__name__.lower()


def row_hash(rows: Tensor) -> str:
    """For the key of what a method keeps: of these rows (int64, on the CPU) in this order."""
    return hash_rows(rows)[:16]


def hash_rows(rows: Tensor) -> str:
    """sha256 of int64 numbers in their order, as little-endian bytes."""
    return hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest()


def seeds_of(method: Any) -> tuple[str, ...]:
    """The seeds that a method's result depends on. Raises ConfigError where it names others than there are."""
    named = getattr(method, "seeds", Method.seeds)
    if isinstance(named, str) or not set(named) <= set(Method.seeds):
        allowed = f"a tuple of some of {', '.join(Method.seeds)}"
        raise ConfigError(f"method {spoken(method)}: seeds = {named!r}; allowed: {allowed}")
    return tuple(named)


def of_data(method: Any) -> tuple[str, ...]:
    """The kinds of what a method keeps that are means over D: a sequence may hand on those of the original."""
    return tuple(getattr(method, "of_data", Method.of_data))


def outputs(
    sets: dict[str, Tensor], parts: dict[str, str], logits: dict[str, Tensor], random_logits: Tensor | None = None
) -> Outputs:
    """The outputs set by set: `sets` and `parts` are the tensors and the `about` of the artefact of `find_sets`."""
    return Outputs(
        logits={name: logits[part][sets[f"place.{name}"]] for name, part in parts.items()},
        labels={name: sets[f"labels.{name}"] for name in parts},
        random_logits=random_logits,
        forget_is_train=parts.get("forget") == "train",
    )
