"""SISA (Bourtoule et al., IEEE S&P 2021, arXiv 1912.03817): an ensemble, of which a request trains again only what its
images went into."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ssd_bench.core.about import About
from ssd_bench.core.errors import ConfigError, check_choice, check_range
from ssd_bench.core.seeds import derive_seed, generator
from ssd_bench.core.task import Context, Cost, Method, Split, row_hash
from ssd_bench.methods.teaching import BATCH
from ssd_bench.train.loop import fit
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

ENSEMBLE, SLICE = "sisa_ensemble", "sisa_slice"  # what is kept: all models before a request; one after a slice

State = dict[str, Tensor]


@dataclass(frozen=True)
class SISA(Method):
    """`shards` models, each trained on its part of D slice after slice: on the first, on the first and second, ...

    A request trains each model that held an image of D_f again, from the first slice on that held one, on what is left.
    What comes out is, bit by bit, the ensemble that is trained without D_f on the same assignment of images. The seed
    of training decides on that before any request, by the order of D (in the library: D_r as handed in, then D_f). It
    takes nothing from the original. The retrained model is one network on all of D_r, so that the gap holds what it
    changes to be several on a part each; a row with a placebo shows that alone.

    With E epochs in the recipe, slice r of R gets floor(r e) - floor((r-1) e) of them, e = 2E / (R+1): as many images
    are passed as in E epochs on the whole. R is at most 2E-1, so that each has one. A slice begins with a new optimiser
    and the recipe's schedule from its start; the warm-up is in the first alone, and where the recipe selects an epoch,
    the last is taken. aggregate: mean, of the models' probabilities; vote, the class that most of them say, of several
    the one with the highest mean. assign: random; by_group, all images of a class that the scenario selects by to the
    same shard, so that other models never see it. A model of whose images none is left has no say.
    """

    version: ClassVar[int] = 1
    anew: ClassVar[bool] = True
    shards: int = 5
    slices: int = 4
    aggregate: str = "mean"
    assign: str = "random"
    needs: ClassVar[tuple[str, ...]] = ("retain", "recipe")
    seeds: ClassVar[tuple[str, ...]] = ("seed",)
    columns: ClassVar[Mapping[str, About]] = {"redone_pct": About("percent", heading="trained again %", decimals=1)}

    def __post_init__(self) -> None:
        check_range("shards", self.shards, 1)
        check_range("slices", self.slices, 1)
        check_choice("aggregate", self.aggregate, ("mean", "vote"))
        check_choice("assign", self.assign, ("random", "by_group"))

    def holder(self, model: nn.Module) -> nn.Module:
        if isinstance(model, Ensemble):  # of an earlier request
            return model
        return Ensemble([copy.deepcopy(model) for _ in range(self.shards)], self.aggregate)

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        already = isinstance(model, Ensemble)
        return "sisa makes an ensemble of one network; this model is one already" if already else None

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        """Of the assignment by the seed 0, as the seed is not known here; another one costs about as much."""
        plan = Assignment.of(self, data, recipe, seed=0)
        hit = plan.hit(data.forget)
        again, redone = plan.passes(data.retain, hit), sum(plan.slices - first for first in hit.values())
        before = Cost(backward=plan.passes(data.rows), networks=self.shards * (1 + plan.slices))
        shared = {} if len(data.gone) else {ENSEMBLE: (plan.key(data), before)}
        return Cost(self.shards * len(data.forget), again, shared, self.shards + redone)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        plan = Assignment.of(self, data, context.recipe, context.seed)
        hit, ensemble = plan.hit(data.forget), self.holder(model)
        training = Training(plan, data, context, hit)
        if not (len(data.gone) and isinstance(model, Ensemble)):
            ensemble.load_state_dict(context.cached(ENSEMBLE, plan.key(data), lambda: training.all_of(ensemble)))
        right = predict(ensemble, data.images, data.forget, BATCH).argmax(1) == data.images.labels.cpu()[data.forget]
        for shard, first in hit.items():
            training.into(ensemble, shard, data.retain, first)
        again, whole = plan.passes(data.retain, hit), plan.passes(data.retain)
        context.details |= {
            "slices": plan.slices,
            "hit": {str(shard): first for shard, first in hit.items()},
            "redone_pct": 100 * again / whole,
            "before": {"forget_train_acc": 100 * right.double().mean().item()},
        }
        return ensemble


class Ensemble(nn.Module):
    """The logarithm of what its models say together."""

    def __init__(self, models: Iterable[nn.Module], aggregate: str) -> None:
        super().__init__()
        self.models, self.aggregate = nn.ModuleList(models), aggregate
        self.register_buffer("counts", torch.ones(len(self.models), dtype=torch.bool))  # those that were trained

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: n of whatever the models take; n x classes, float32 or what they say if that is finer."""
        said, counts = torch.stack([model(inputs) for model in self.models]), self.counts
        said = said.to(torch.promote_types(said.dtype, torch.float32)).log_softmax(2)
        mean = said.masked_fill(~counts[:, None, None], -torch.inf).logsumexp(0) - counts.sum().log()
        if self.aggregate == "mean":
            return mean
        votes = (one_hot(said.argmax(2), said.shape[2]) * counts[:, None, None]).sum(0)
        return torch.log((votes + mean.exp()) / (counts.sum() + 1))


@dataclass(frozen=True)
class Assignment:
    """Which image is in which slice of which shard, and how long each slice is trained."""

    shards: tuple[tuple[Tensor, ...], ...]  # of each shard the rows of each slice, of D before any request
    epochs: tuple[int, ...]  # of each slice
    layout: Mapping[str, Any]  # what decides on it, beside D and the seed

    @classmethod
    def of(cls, method: SISA, data: Split, recipe: Recipe, seed: int) -> Assignment:
        slices = min(method.slices, 2 * recipe.epochs - 1)
        rows = torch.cat([data.rows, data.gone]).unique()
        rows = rows[torch.randperm(len(rows), generator=generator(seed, "sisa", "images"))]
        if method.shards > len(rows):
            raise ConfigError(f"sisa: shards={method.shards}, but there are {len(rows)} training images")
        if method.assign == "random":
            shards = rows.tensor_split(method.shards)
        else:
            groups, group = data.group[rows].unique(return_inverse=True)
            order = torch.randperm(len(groups), generator=generator(seed, "sisa", "groups"))
            shards = [rows[order[group] % method.shards == s] for s in range(method.shards)]
        ends = [2 * recipe.epochs * r // (slices + 1) for r in range(slices + 1)]
        epochs = tuple(end - start for start, end in pairwise(ends))
        layout = {"shards": method.shards, "slices": slices, "assign": method.assign}
        if method.assign == "by_group":
            layout["group"] = row_hash(data.group[rows.sort().values])
        return cls(tuple(_cut(shard, slices) for shard in shards), epochs, layout)

    def key(self, data: Split) -> dict[str, Any]:
        """Of the ensemble that is trained on D."""
        return {"rows": row_hash(data.rows), "gone": row_hash(data.gone.sort().values), **self.layout}

    @property
    def slices(self) -> int:
        return len(self.epochs)

    def hit(self, forget: Tensor) -> dict[int, int]:
        """Of each shard that holds some of these rows, the first slice that does."""
        first = {}
        for s, parts in enumerate(self.shards):
            holding = [r for r, part in enumerate(parts) if torch.isin(part, forget).any()]
            first |= {s: holding[0]} if holding else {}
        return first

    def kept(self, shard: int, keep: Tensor) -> list[Tensor]:
        """Of each slice of a shard, the rows that are among these."""
        return [part[torch.isin(part, keep)] for part in self.shards[shard]]

    def passes(self, keep: Tensor, first: Mapping[int, int] | None = None) -> int:
        """Images that training on these rows passes. first: of the shards that are trained, the first slice."""
        first = dict.fromkeys(range(len(self.shards)), 0) if first is None else first
        total = 0
        for s, start in first.items():
            images = torch.tensor([len(part) for part in self.kept(s, keep)]).cumsum(0).tolist()
            total += sum(n * e for n, e in list(zip(images, self.epochs, strict=True))[start:])
        return total


@dataclass
class Training:
    """The trainings of one request; each slice is kept, for other requests to begin from."""

    plan: Assignment
    data: Split
    context: Context
    hit: Mapping[int, int]
    ready: dict[int, State | None] = field(default_factory=dict)  # of a shard that is hit, the model before it is

    def all_of(self, ensemble: Ensemble) -> State:
        """What the ensemble is before the request."""
        for shard in range(len(self.plan.shards)):
            self.into(ensemble, shard, self.data.rows)
        return {name: t.clone() for name, t in ensemble.state_dict().items()}

    def into(self, ensemble: Ensemble, shard: int, keep: Tensor, first: int | None = None) -> None:
        """Put a model into its place that is trained on these rows of its shard.

        first: the slice in which a request trains again what was there before.
        """
        kept, state, start = self.plan.kept(shard, keep), None, 0
        if first is not None and shard in self.ready:
            state, start = self.ready[shard], first
        for r in range(start, self.plan.slices):
            if first is None and r == self.hit.get(shard):
                self.ready[shard] = state
            counts = "shared" if first is None else "request" if r >= first else "before"
            if any(map(len, kept[: r + 1])):
                state = self._slice(shard, r, kept[: r + 1], state, counts)
        ensemble.models[shard].load_state_dict(self._fresh(shard).state_dict() if state is None else state)
        ensemble.counts[shard] = state is not None

    def _slice(self, shard: int, r: int, rows: list[Tensor], before: State | None, counts: str) -> State:
        """A model after one more slice. rows: of it and of those before it."""
        context = self.context
        key = {"shard": shard, "rows": [row_hash(part) for part in rows], **self.plan.layout}

        def make() -> State:
            model, seen = self._fresh(shard), torch.cat(rows)
            if before is not None:
                model.load_state_dict(before)
            recipe, draws = context.recipe.without_selection(), generator(context.seed, "sisa", shard, r)
            recipe = replace(recipe, epochs=self.plan.epochs[r], warmup_epochs=recipe.warmup_epochs if r == 0 else 0)
            what, augment = f"sisa, shard {shard + 1}, slice {r + 1}", context.augment if recipe.augment else None
            resumed = context.checkpoint(f"sisa.{shard}.{r}.{row_hash(seen)}")
            return fit(
                model, self.data.images, seen, recipe, draws, what, augment=augment, checkpoint=resumed
            ).state_dict()

        return context.cached(SLICE, key, make, counts)

    def _fresh(self, shard: int) -> nn.Module:
        return self.context.fresh_model(derive_seed(self.context.seed, "sisa", shard))


def _cut(rows: Tensor, n: int) -> tuple[Tensor, ...]:
    """n parts of one size, what is left over in the last."""
    size = len(rows) // n
    return rows.split([size] * (n - 1) + [len(rows) - size * (n - 1)])
