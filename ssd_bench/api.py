"""The library: unlearn and evaluate any classifier on any data, without configuration, store or command line."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from threading import RLock
from types import FunctionType
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from torch import Tensor, nn

from ssd_bench.core.about import check_names
from ssd_bench.core.build import build, class_of
from ssd_bench.core.errors import Diverged, check_choice
from ssd_bench.core.seeds import derive_seed, initial_seed, seeded
from ssd_bench.core.task import Context, Outputs, Probed, ask, compares, judges, looks_inside
from ssd_bench.metrics.against import ABOUT as AGAINST
from ssd_bench.metrics.against import kept_against, metrics_against, outputs_against, weights_against
from ssd_bench.metrics.compute import compare, compute_all
from ssd_bench.models.anew import anew, copied
from ssd_bench.run.cache import Cache
from ssd_bench.run.call import call, makes_it_again, plain, seeds_used, warm_up
from ssd_bench.run.cases import SEPARATOR, setting
from ssd_bench.run.given import Data, Given, check_model, device_of, given
from ssd_bench.run.identity import arithmetic
from ssd_bench.run.plan import CONF_DIR
from ssd_bench.run.plugins import config_folders, nodes
from ssd_bench.run.trained import train_from
from ssd_bench.store.address import address, classes_of, code_of, values_of
from ssd_bench.store.artefacts import Artefact, NoStore, Store, checksum
from ssd_bench.store.prune import LIBRARY
from ssd_bench.store.resume import Checkpoints, checkpoints
from ssd_bench.train import devices
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)
WAIT_S = 60.0  # between two lines of a call that waits for another

Fresh = Callable[[], nn.Module]  # makes a model of the same architecture that was never trained


@dataclass(frozen=True)
class Unlearned:
    """What a method made of a model."""

    model: nn.Module  # a new one; the model that was handed in is as it was
    seconds: float  # wall time of the method, with all that it made on the way
    details: dict[str, Any] = field(default_factory=dict)  # what the method has to tell
    shared_seconds: dict[str, float] = field(default_factory=dict)  # of what later requests could use again, by kind
    path: Path | None = None  # its weights, with `out`


def unlearn(
    model: nn.Module,
    *,
    retain: Data | None = None,
    forget: Data,
    method: Any = "ssd",
    seed: int = 0,
    recipe: Recipe | None = None,
    fresh_model: Fresh | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Unlearned:
    """Let a method forget `forget`, part of the data that `model` was trained on; `retain` is the rest of that data.

    model: maps a batch of inputs to logits (samples x classes), on one device, where all is computed. retain, forget:
    a Dataset, a DataLoader or a pair (inputs, labels); inputs are what the model takes, labels its classes as whole
    numbers. A Dataset is read once, into memory. method: a name (`list_methods`) or an object of a method class;
    settings: that method's fields, by default what the command line takes for such a request (protocol=published) on
    data and models that nothing was published for. seed: of all that is drawn. recipe: how the model was trained, for
    methods that train one anew (inputs are what they are: its augmentation and selection are the command line's).
    fresh_model: makes an untrained model; without it the layers of a copy are initialised again, frozen ones excepted.
    out: a folder that keeps the result, and what other settings of the method share.

    All of D_f of one class that D_r does not have is a request for that class, all of one class that it has a request
    for a sub-class, anything else one for single samples. Raises ValueError, in one line, for input that is wrong and
    for what the method needs and was not given; Diverged for weights that are no finite numbers.
    """
    settings = {key: value.item() if isinstance(value, np.generic) else value for key, value in settings.items()}
    name, _ = _method(method, settings)
    _check_arguments(seed, recipe, fresh_model, out)
    with _undisturbed(device_of(model)):
        what = given(model, retain, forget)
        name, method = _method(method, settings, what.request.scenario)
        task = _Task(name, method, what, int(seed), recipe, fresh_model)
        task.check({"retain": retain, "recipe": recipe})
        return task.carry_out(NoStore()) if out is None else task.find_or_carry_out(Store(Path(out).expanduser()))


def evaluate(
    model: nn.Module,
    *,
    retain: Data | None = None,
    forget: Data,
    test: Data | None = None,
    reference: nn.Module | None = None,
    original: nn.Module | None = None,
    metrics: Iterable[Any] | None = None,
    fresh_model: Fresh | None = None,
    batch_size: int = 128,
) -> dict[str, float]:
    """How well a model does on each set, and how much it gives away about what it was to forget.

    The arguments are those of `unlearn`; test: data that no model was trained on. `retain_train_acc` and
    `forget_train_acc` are on `retain` and `forget`; `test_acc` on all of `test`; where a whole class is forgotten,
    `forget_acc` is on its part of `test` and `retain_acc` on the others', elsewhere on `forget` and on `test`.
    Percentages are 0 to 100. reference: a model trained without `forget`; with it the distances to it are added.
    original: the model before it forgot, for metrics that compare with it. metrics: names (`list_metrics`) or objects;
    None: all that outputs and what was given suffice for, so not those that look into the model, such as features. A
    value that has no meaning here is left out. Raises ValueError, in one line, for input that is wrong.
    """
    chosen = _metrics(metrics, reference is not None)
    _check_arguments(fresh_model=fresh_model)
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
    with _undisturbed(device_of(model)):
        what = given(model, retain, forget, test)
        _check_alike(what, "reference", reference)
        _check_alike(what, "original", original)
        probed = partial(_probed, what, original, batch_size)
        random_logits = None
        if wanting := [name for name, metric in chosen.items() if "random_logits" in getattr(metric, "needs", ())]:
            random_logits = _random_logits(what, fresh_model, batch_size, wanting[0] if metrics is not None else None)
        seen = _outputs(what, model, batch_size, random_logits)
        comparing = {name: metric for name, metric in chosen.items() if compares(metric)}
        if comparing and reference is None:
            raise ValueError(f"metric {next(iter(comparing))} needs reference=..., a model trained without forget")
        alone = {name: metric for name, metric in chosen.items() if name not in comparing}
        values, kept = compute_all(alone, seen, partial(probed, model))
        if reference is not None:
            theirs = _outputs(what, reference, batch_size, random_logits)
            values |= outputs_against(seen, theirs) | compare(comparing, seen, theirs)
            of_reference, kept_of_reference = compute_all(alone, theirs, partial(probed, reference))
            values |= metrics_against(values, of_reference, what.request.scenario)
            values |= kept_against(kept, kept_of_reference)
            values |= weights_against(model.state_dict(), reference.state_dict())
            if test is None:
                del values["accuracy_gap"]  # one of its accuracies is on unseen data
    return {name: value for name, value in values.items() if value is not None}


MODEL, BUFFERS = LIBRARY
_ALONE = RLock()  # what a call sets for its time (seeds, kernels, warnings) is the process's
if hasattr(os, "register_at_fork"):  # not on Windows, which forks nothing
    os.register_at_fork(after_in_child=lambda: globals().update(_ALONE=RLock()))  # who held it is not in the child


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """One call at a time, whatever the caller has switched on around it: no_grad, inference_mode, autocast."""
    lock = _ALONE
    while not lock.acquire(timeout=WAIT_S):
        log.warning("waiting for another call of ssd_bench in this process, which may be waiting for this one")
    with ExitStack() as stack:
        stack.callback(lock.release)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(devices.arithmetic(device, "float32"))
        yield


def _check_arguments(seed: Any = 0, recipe: Any = None, fresh_model: Any = None, out: Any = None) -> None:
    """Raise ValueError for arguments of another kind than they must be."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, got {seed!r}")
    if not isinstance(recipe, Recipe | None):
        raise ValueError(f"recipe must be a ssd_bench.Recipe, such as Recipe(epochs=20), got {recipe!r}")
    if out is not None and (not isinstance(out, str | os.PathLike) or not str(out)):
        raise ValueError(f"out must name a folder, got {out!r}")
    if fresh_model is not None and (isinstance(fresh_model, nn.Module) or not callable(fresh_model)):
        kind = type(fresh_model).__name__
        raise ValueError(f"fresh_model must be a function that makes an untrained model, got an object of {kind}")


def list_methods() -> dict[str, type]:
    """Every method by name; those of installed plug-ins included."""
    return {name: class_of(node["_target_"], f"method={name}") for name, node in _described_methods().items()}


def list_metrics() -> dict[str, type]:
    """Every metric by name; those of installed plug-ins included."""
    return {name: class_of(node["_target_"], f"metric={name}") for name, node in _described_metrics().items()}


def _described_methods() -> dict[str, dict[str, Any]]:
    return {name: node for name, node in nodes("method").items() if "_target_" in node}


def _described_metrics() -> dict[str, dict[str, Any]]:
    """The class and the settings of each metric; what is composed (`${...}`) is the command line's."""
    found = {name: node for of_file in nodes("metric").values() for name, node in of_file.items()}
    return {
        name: {key: value for key, value in node.items() if "${" not in str(value)}
        for name, node in found.items()
        if isinstance(node, dict) and "_target_" in node
    }


def _method(method: Any, settings: Mapping[str, Any], scenario: str = "full_class") -> tuple[str, Any]:
    """Name and object, for such requests. Raises ValueError for a name or a setting that does not exist."""
    if isinstance(method, str):
        check_choice("method", method, _described_methods())
        node = {**_defaults(method, scenario, settings), **settings}
        return method, build(node, "", class_of(node.pop("_target_"), f"method={method}"))
    if isinstance(method, type) or not callable(method):
        raise ValueError(f"method must be a name or an object of a method class, such as SSD(alpha=10), got {method!r}")
    if settings:
        raise ValueError(f"settings are fields of the method object, not arguments beside it: {', '.join(settings)}")
    return type(method).__name__.lower(), method


def _defaults(method: str, scenario: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line gives a method for such requests, of data and models that no case names, but for what is
    composed of other parts of a config, such as the original's recipe, or given."""
    folders = [CONF_DIR, *config_folders().values()]
    node = _described_methods()[method] | setting(folders, SEPARATOR.join((method, "", "", scenario)))["method"]
    config = OmegaConf.create({"fidelity": "corrected", "scenario": nodes("scenario")[scenario], "method": node})
    found = {}
    for key in node.keys() - given.keys():
        with suppress(InterpolationResolutionError):
            value = config.method[key]
            found[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return found


def _metrics(metrics: Iterable[Any] | None, reference: bool) -> dict[str, Any]:
    """Metrics by name. reference: whether there is one. Raises ValueError for a name that does not exist."""
    known = _described_metrics()
    if metrics is None:
        built = {name: build(node, f"metric.{name}") for name, node in known.items()}
        more = looks_inside, judges, *([] if reference else [compares])
        return {name: metric for name, metric in built.items() if not any(needs(metric) for needs in more)}
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise ValueError(f"metrics must be a list of names or objects, such as metrics=['accuracy'], got {metrics!r}")
    chosen, owner = {}, dict.fromkeys(AGAINST, "against")
    for metric in metrics:
        if isinstance(metric, str):
            check_choice("metrics", metric, known)
        elif isinstance(metric, type) or not callable(metric):
            raise ValueError(f"metrics must be names or objects that can be called, such as Mine(), got {metric!r}")
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__).lower()
        if name in chosen:
            raise ValueError(f"metrics names {name} twice; ask for two of a kind in two calls")
        chosen[name] = build(known[metric], f"metric.{metric}") if isinstance(metric, str) else metric
        check_names(name, getattr(chosen[name], "about", ()), owner)
        if judges(chosen[name]):
            raise ValueError(f"metric {name} needs a pool of models; take ssd-bench-pool metric=[{name}]")
    return chosen


@dataclass(frozen=True)
class _Task:
    """One call of `unlearn`."""

    name: str
    method: Any
    what: Given
    seed: int
    recipe: Recipe | None
    fresh: Fresh | None

    def check(self, handed_in: Mapping[str, Any]) -> None:
        """Raise ValueError for what the method needs and was not handed in, and where it makes no sense."""
        for need in getattr(self.method, "needs", ()):
            if need in handed_in and handed_in[need] is None:
                raise ValueError(f"method {self.name} needs {need}=..., which was not given")
        what = self.what
        if unfit := ask(self.method, "skip", what.request) or ask(self.method, "unfit", what.model, what.head):
            raise ValueError(unfit)
        if not any(p.requires_grad for p in self.what.model.parameters()):
            raise ValueError("model has no trainable parameter: all are frozen (requires_grad is False)")

    def carry_out(self, store: Store | NoStore, resumed: Checkpoints | None = None) -> Unlearned:
        """Call the method."""
        what, data = self.what, self.what.request.split(self.what.images["train"])
        clock = resumed.clock if resumed else time.monotonic
        cache = Cache(store, self.kept if resumed else lambda key: key, what.device, clock=clock)
        context = Context(
            device=what.device,
            seed=self.seed,
            seed_unlearn=self.seed,
            recipe=self.recipe,
            fresh_model=self.fresh_model,
            head=what.head,
            cached=cache.cached,
            checkpoint=resumed or (lambda name: None),
        )
        if (rows := ask(self.method, "trains_on", what.request)) is not None:
            with devices.measured(what.device, clock) as measured:
                model = self.fresh_model(initial_seed(self.seed))
                more = {"checkpoint": context.checkpoint("training")}
                train_from(model, data.images, rows.sort().values, self.recipe, self.seed, self.name, **more)
        else:
            model = copied(what.model)
            warm_up(model, data, repr(model))
            _keep_logits_alone(model)
            model, measured = call(self.name, self.method, model, data, context, cache.given, clock)
        _say_all(model)  # `model`: a method may have made another one of it
        _modes_of(ask(self.method, "holder", what.model), model)
        return Unlearned(model, measured.seconds, context.details, cache.shared_s)

    def find_or_carry_out(self, store: Store) -> Unlearned:
        """The same, kept in the store, or found there."""
        with checkpoints(store, MODEL, self.key) as resumed:
            if found := store.get(MODEL, self.key, locked=True):
                model = copied(ask(self.method, "holder", self.what.model))
                model.load_state_dict(found.tensors)
                _put_back(model, store.get(BUFFERS, self.key))
                return Unlearned(model, **found.about, path=found.path)
            made = self.carry_out(store, resumed)
            if not self._kept_whole(made.model):
                log.warning("method %s changes more than weights and buffers: its model cannot be kept", self.name)
                return made
            about = {name: plain(getattr(made, name)) for name in ("seconds", "details", "shared_seconds")}
            if buffers := _unsaved(made.model):
                store.put(BUFFERS, self.key, buffers, {}, 0.0)
            artefact = store.put(MODEL, self.key, made.model.state_dict(), about, made.seconds)
            return replace(made, path=artefact.path, details=about["details"])

    def _kept_whole(self, model: nn.Module) -> bool:
        """Whether its weights and buffers are all that the method changed."""
        holder = copied(ask(self.method, "holder", self.what.model))
        if _sizes(_unsaved(holder)) != _sizes(_unsaved(model)):
            return False
        with torch.no_grad():
            for name, t in _unsaved(model).items():
                holder.get_buffer(name).copy_(t)
        return makes_it_again(model, holder, self.what.request.split(self.what.images["train"]))

    def fresh_model(self, seed: int, pretrained: bool = True) -> nn.Module:
        """A model of the same architecture that was never trained."""
        made = _fresh(self.what, self.fresh, seed, f"method {self.name}")
        made = _like(self.what.model, made) if self.fresh else made
        _keep_logits_alone(made)
        return made

    @cached_property
    def original(self) -> dict[str, Any]:
        """All that determines the model and the data that it was trained on."""
        model, images = self.what.model, self.what.images["train"]
        pixels = getattr(images.pixels, "host", images.pixels)
        usual = vars(nn.Module()).keys()
        plain = {
            name: [
                {key: _value(value) for key, value in vars(module).items() if key not in usual},
                *(_value(list(hooks.values())) for hooks in (module._forward_pre_hooks, module._forward_hooks)),
            ]
            for name, module in model.named_modules()
        }
        return {
            "architecture": [repr(model), classes_of(model.modules()), plain],
            "weights": _checksum(model.state_dict() | _unsaved(model)),
            "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
            "data": _checksum({"inputs": pixels, "labels": images.labels}),
            "machine": arithmetic(self.what.device, torch.get_num_threads()),
        }

    def kept(self, key: Any) -> dict[str, Any]:
        """The address of what the method keeps for later requests under a key of its own."""
        seeds = seeds_used(self.method, self.seed, self.seed) if code_of(type(self.method)).get("code") else {}
        made = {"original": self.original, "method": classes_of([self.method]), "seeds": seeds, "key": key}
        return made | (self._training if getattr(self.method, "anew", False) else {})

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that determines the unlearned model."""
        n_retain = len(self.what.request.retain)
        return {"original": self.original, "n_retain": n_retain, "method": address(self.method), **self._training}

    @cached_property
    def _training(self) -> dict[str, Any]:
        """All that determines what a method trains from a random start, beside what it trains on."""
        fresh = self.fresh and _checksum(self.fresh_model(0).state_dict())
        return {
            "seeds": seeds_used(self.method, self.seed, self.seed),
            "recipe": address(self.recipe),
            "fresh": fresh,
        }


def _value(of: Any) -> Any:
    """What an attribute of a module adds to its address: functions count by their code, as activations do, those of an
    installed library by its version."""
    if isinstance(of, FunctionType):
        with suppress(TypeError, RuntimeError, AttributeError):  # it carries what has no address
            return address([of])  # as a part: alone, it would count by the source of the whole library
    if isinstance(of, list | tuple):
        return [_value(each) for each in of]
    return values_of(of)


def _fresh(what: Given, fresh: Fresh | None, seed: int, who: str) -> nn.Module:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            made = None if fresh else anew(what.model)
        except ValueError as e:
            raise ValueError(f"{who} needs fresh_model=..., a function that makes an untrained model: {e}") from e
        made = fresh() if fresh else made
    if not isinstance(made, nn.Module):
        raise ValueError(f"fresh_model must make a torch.nn.Module, it made an object of {type(made).__name__}")
    return made.to(what.device)


WRAPPERS = re.compile(r"(^|\.)(_orig_mod|module)(?=\.)")  # of torch.compile and of nn.DataParallel


def _like(model: nn.Module, made: nn.Module) -> nn.Module:
    """What `fresh_model` made, wrapped as the model is. Raises ValueError where it is another network."""

    def bare(name: str) -> str:
        return WRAPPERS.sub("", name).lstrip(".")

    ours, theirs = ({bare(name): name for name in each.state_dict()} for each in (model, made))
    shapes, others = (_sizes({bare(n): t for n, t in each.named_parameters()}) for each in (model, made))
    for name in shapes.keys() & others.keys() or shapes:
        if shapes.get(name) != others.get(name):
            has, it = (each.get(name, "nothing") for each in (others, shapes))
            raise ValueError(f"fresh_model must make the model's own network: its {name} is {has}, the model's {it}")
    if ours.keys() != theirs.keys() or list(ours.values()) == list(theirs.values()):
        return made
    wrapped = copied(model)
    wrapped.load_state_dict({ours[bare(name)]: t for name, t in made.state_dict().items()})
    for name, p in made.named_parameters():
        wrapped.get_parameter(ours[bare(name)]).requires_grad_(p.requires_grad)
    return wrapped


def _unsaved(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that `state_dict` leaves out."""
    saved = model.state_dict()
    return {name: t for name, t in model.named_buffers() if name not in saved}


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors.items()}


def _put_back(model: nn.Module, kept: Artefact | None) -> None:
    for name, t in _unsaved(model).items():
        if kept and name in kept.tensors:
            t.copy_(kept.tensors[name])


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return checksum({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _keep_logits_alone(model: nn.Module) -> None:
    """Let a model say but the first of what it says while it is trained, as one with further heads does; a compiled
    script takes no hook."""
    if not isinstance(model, torch.jit.ScriptModule):
        model.register_forward_hook(_logits_alone)


def _say_all(model: nn.Module) -> None:
    """Undo that, in its copies inside the model, too."""
    for module in model.modules():
        hooks = module._forward_hooks
        for key in [key for key, hook in hooks.items() if hook is _logits_alone]:
            del hooks[key]


def _logits_alone(model: nn.Module, inputs: tuple[Any, ...], said: Any) -> Any:
    return next(iter(said.values() if isinstance(said, Mapping) else said)) if not isinstance(said, Tensor) else said


def _modes_of(model: nn.Module, other: nn.Module) -> None:
    """Put `other` into the modes that `model` is in."""
    other.train(model.training)
    theirs = dict(other.named_modules())
    for name, module in model.named_modules():
        if name in theirs:
            theirs[name].training = module.training


def _check_alike(what: Given, name: str, other: nn.Module | None) -> None:
    if other is None:
        return
    if (device := device_of(other, name)) != what.device:
        raise ValueError(f"{name} lies on {device}, the model on {what.device}; move one of them")
    if (n := check_model(other, what.images["train"].raw(what.request.forget[:2]), device, name)) != what.n_classes:
        raise ValueError(f"{name} tells {n} classes apart, the model {what.n_classes}")


def _probed(what: Given, original: nn.Module | None, batch_size: int, model: nn.Module) -> Probed:
    copies = [None if each is None else copied(each).eval() for each in (model, original)]
    return Probed(*copies, what.head, what.images, what.request.clone(), batch_size)


def _outputs(what: Given, model: nn.Module, batch_size: int, random_logits: Tensor | None) -> Outputs:
    sets = what.request.sets
    said = {part: predict(model, images, torch.arange(len(images)), batch_size) for part, images in what.images.items()}
    if not all(logits.isfinite().all() for logits in said.values()):
        raise Diverged("the model's outputs are not finite")
    return Outputs(
        logits={name: said[part][rows] for name, (part, rows) in sets.items()},
        labels={name: what.images[part].labels.cpu()[rows] for name, (part, rows) in sets.items()},
        random_logits=random_logits,
        forget_is_train=sets["forget"][0] == "train",
    )


def _random_logits(what: Given, fresh: Fresh | None, batch_size: int, asked_by: str | None) -> Tensor | None:
    """What a model that was never trained says about the set `forget`. asked_by: the metric that was asked for."""
    part, rows = what.request.sets["forget"]
    try:
        with seeded(0, "zrf"):
            at_random = _fresh(what, fresh, derive_seed(0, "zrf"), f"metric {asked_by}")
    except ValueError:
        if asked_by or fresh:
            raise
        return None
    return predict(at_random, what.images[part], rows, batch_size)
