"""What Selective Synaptic Dampening and its relatives share: importances, batches, and the one step."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core import console
from ssd_bench.core.about import About
from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Context, Cost, Images, Method, Split, row_hash
from ssd_bench.importance import ESTIMATORS, LOSSES, VERSION, sensitivity
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]  # by name of a parameter, and of its shape
ORDERS = ("class_pure", "mixed", "request", "shuffled")


@dataclass(frozen=True)
class Dampening(Method, ABC):
    """Dampen the parameters that matter more than `threshold` times as much to D_f as to D.

    sensitivity: what says how much they matter. loss: squared gradients of the cross-entropy. output_sq, output:
    absolute gradients of the logits' squared norm (LFSSD) or norm, without labels; their ratios are of the order of the
    root of the loss's, so no alpha carries over. reference: full (D), or retain (D_r).
    order says what the batches of importance=batch_mean are made of, and with it what I_D means (gradients of
    different classes cancel inside a batch, so I_D of mixed batches is many times smaller):
    class_pure: D cut into batches inside each class that the scenario selects by; no request changes I_D.
    request: the released code's: D_r class by class, then D_f; batches cross class borders, so I_D follows the request.
    mixed: one permutation of D by `order_seed`, D_f in the same order (for the random scenario).
    shuffled: D in that permutation, D_f not. At the published alpha this destroys the model; it is there for study.
    """

    lam: float = 1.0
    importance: str = "batch_mean"
    order: str = "class_pure"
    batch_size: int = 64
    order_seed: int = 0
    sensitivity: str = "loss"
    reference: str = "full"
    columns: ClassVar[dict[str, About]] = {
        "selected": About("parameters", decimals=0, table="none"),
        "selected_pct": About("percent", heading="selected %", decimals=2, table="none"),
    }
    needs = ("retain",)
    seeds = ()

    def __post_init__(self) -> None:
        check_choice("importance", self.importance, ESTIMATORS)
        check_choice("order", self.order, ORDERS)
        check_choice("sensitivity", self.sensitivity, LOSSES)
        check_choice("reference", self.reference, ("full", "retain"))
        check_range("lam", self.lam, 0)
        check_range("batch_size", self.batch_size, 1)

    @property
    def of_data(self) -> tuple[str, ...]:
        return ("importance_full",) if self.reference == "full" else ()

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        full, forget = self.batches(data)
        passes = [Cost(backward=sum(map(len, batches)) + self._checked(batches)) for batches in (full, forget)]
        return replace(passes[1], shared={"importance_full": (self._key(full), passes[0])})

    def _checked(self, batches: list[Tensor]) -> int:
        """Images of the first batch that per-sample importances look at again, to check themselves."""
        return len(batches[0]) + min(2, len(batches[0])) if self.importance == "per_sample" else 0

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        full, forget = self.batches(data)
        full_of, forget_of = self.importances(model, data.images, full, forget, context)
        alpha = self.threshold(model, full_of, forget_of, data, context)
        per_tensor = dampen(model, full_of, forget_of, alpha, self.lam)
        selected, total = sum(per_tensor.values()), sum(p.numel() for p in model.parameters())
        bound = self.bound(data, full, forget)
        context.details.update(
            selected=selected, selected_pct=100 * selected / total, per_tensor=per_tensor, bound=bound
        )
        self._warn(data, selected, alpha, bound)
        return model

    def importances(
        self, model: nn.Module, images: Images, full: list[Tensor], forget: list[Tensor], context: Context
    ) -> tuple[Tensors, Tensors]:
        """Those of the reference set and of D_f; the former are made once for all requests that share their batches."""

        def of(batches: list[Tensor]) -> dict[str, Tensor]:
            rows = torch.cat(batches).to(images.indexed_on)  # in one transfer
            with console.counted("importances: images", rows.split([len(b) for b in batches])) as parts:
                return sensitivity(model, map(images.batch, parts), self.importance, self.sensitivity)

        return context.cached("importance_full", self._key(full), lambda: of(full)), of(forget)

    @abstractmethod
    def threshold(self, model: nn.Module, full: Tensors, forget: Tensors, data: Split, context: Context) -> float:
        """From which ratio of the importances on an entry is dampened, by each method's own rule; the model stays."""

    def batches(self, data: Split) -> tuple[list[Tensor], list[Tensor]]:
        """The rows of each batch of D and of D_f."""
        in_full = self._forget_in_full(data)
        if self.order == "request":
            full = torch.cat([data.retain, data.forget]) if in_full else data.retain
            return list(full.split(self.batch_size)), list(data.forget.split(self.batch_size))
        reference = data.rows if self.reference == "full" else data.retain
        if self.order == "class_pure":
            return tuple(self._class_pure(rows.sort().values, data.group) for rows in (reference, data.forget))
        order = torch.randperm(len(data.images), generator=generator(self.order_seed, "ssd", "order"))
        full = order[torch.isin(order, reference)]
        forget = data.forget if self.order == "shuffled" else order[torch.isin(order, data.forget)]
        return list(full.split(self.batch_size)), list(forget.split(self.batch_size))

    def bound(self, data: Split, full: list[Tensor], forget: list[Tensor]) -> float | None:
        """What I_f / I_D cannot exceed, so that alpha from there on is idle; None where it has no such bound.

        It has one where what I_f is a mean of (samples, or class-pure batches of whole classes) is part of I_D.
        """
        if not self._forget_in_full(data):
            return None
        if self.importance == "per_sample":
            return sum(map(len, full)) / sum(map(len, forget))
        whole = not torch.isin(data.group[data.retain], data.group[data.forget].unique()).any()
        return len(full) / len(forget) if self.order == "class_pure" and whole else None

    def _class_pure(self, rows: Tensor, group: Tensor) -> list[Tensor]:
        members = rows[group[rows].argsort(stable=True)]
        sizes = torch.bincount(group[members]).tolist()
        return [batch for part in members.split(sizes) for batch in part.split(self.batch_size) if len(batch)]

    def _forget_in_full(self, data: Split) -> bool:
        """A placebo was never part of D, and D_f is no part of D_r."""
        return self.reference == "full" and not data.placebo

    def _key(self, full: list[Tensor]) -> dict[str, Any]:
        """What I_D depends on. Per sample, neither order nor batches change it, so they must not change its address."""
        batches = [torch.cat(full).sort().values] if self.importance == "per_sample" else full
        made = {"estimator": self.importance, "of": self.sensitivity, "version": VERSION}
        return made | {"rows": [row_hash(rows) for rows in batches]}

    def _warn(self, data: Split, selected: int, alpha: float, bound: float | None) -> None:
        of_classes = data.scenario in ("full_class", "sub_class")
        if self.importance == "batch_mean" and self.order in ("mixed", "shuffled") and of_classes:
            log.warning(
                "ssd: method.order=%s mixes classes in the batches of D, which shrinks I_D manyfold: at the published "
                "alpha this destroys the model. Use class_pure unless that is what you study.",
                self.order,
            )
        if selected == 0:
            log.warning(
                "ssd: alpha=%g selected nothing, the model is unchanged; try a smaller method.alpha",
                alpha,
            )
        if bound is not None and alpha >= bound:
            log.warning(
                "ssd: alpha=%g reaches %.4g, which I_f / I_D cannot exceed here (D against D_f, in %s); only rounding "
                "errors and parameters with no importance for D can be selected",
                alpha,
                bound,
                "samples" if self.importance == "per_sample" else "batches",
            )


def dampen(
    model: nn.Module, importance_full: Tensors, importance_forget: Tensors, alpha: float, lam: float
) -> dict[str, int]:
    """Dampen `model` in place (the paper's equations 4 and 5, as the released code bounds them).

    Select entry i where I_f,i > alpha I_D,i and multiply it by min(lam I_D,i / I_f,i, 1), so that no magnitude grows.
    I_f = 0 is never selected; I_D = 0 < I_f sets the entry to 0. Importances: by parameter name, shaped like the
    parameters. Returns how many entries of each parameter were selected. Raises ValueError for negative or undefined
    alpha and lam, and for importances that are missing, of another shape, negative or not finite.
    """
    if not (alpha >= 0 and lam >= 0) or math.isinf(lam):
        raise ValueError(f"alpha and lam must be at least 0 and lam finite, got alpha={alpha} and lam={lam}")
    parameters = dict(model.named_parameters())
    for which, importance in (("full", importance_full), ("forget", importance_forget)):
        _check_importance(which, importance, parameters)
    counts = []
    with torch.no_grad():
        for name, p in parameters.items():
            full, forget = importance_full[name].to(p.device), importance_forget[name].to(p.device)
            chosen = (forget > full * alpha) & (forget > 0)
            factor = (full * lam / forget).clamp(max=1)
            p.copy_(torch.where(chosen, p * factor, p))
            counts.append(chosen.sum())
    return dict(zip(parameters, torch.stack(counts).tolist(), strict=True))


def _check_importance(which: str, importance: Tensors, parameters: Tensors) -> None:
    for name, p in parameters.items():
        if name not in importance:
            raise ValueError(f"importance_{which} has nothing for {name}")
        if importance[name].shape != p.shape:
            raise ValueError(
                f"importance_{which} of {name} has shape {tuple(importance[name].shape)}, not {tuple(p.shape)}"
            )
    sound = torch.stack([(t.isfinite() & (t >= 0)).all().cpu() for t in map(importance.get, parameters)])
    if not sound.all():
        bad = list(parameters)[int(sound.long().argmin())]
        raise ValueError(f"importance_{which} of {bad} holds numbers that are negative or not finite")
