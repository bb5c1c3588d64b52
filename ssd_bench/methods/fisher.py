"""Fisher forgetting (Golatkar et al. 2020, arXiv 1911.04933): noise where the retained data does not mind it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssd_bench.core import console
from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Method, Split, row_hash
from ssd_bench.importance.per_sample import PerSample, zero_sums
from ssd_bench.methods.head import has_several
from ssd_bench.train.passes import eval_mode, pass_clock
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)

BATCH = 64
KIND = "fisher_of_retain"


@dataclass(frozen=True)
class Fisher(Method):
    """theta + sqrt(v) eps with v = alpha min(1 / (F + 1e-8), 1e3), averaged over each filter's inputs, where F is the
    diagonal Fisher information of D_r with the expectation over the model's own labels: samples x classes gradients.

    The last layer's v is capped at 1e2; its rows of forgotten classes (full_class) are drawn anew around 0. v is
    multiplied by 10 in the last layer and in one-dimensional tensors. variant=official takes any tensor with as many
    rows as there are classes for the last layer, and outside full_class multiplies one-dimensional tensors alone.
    n_samples: a seeded subsample of D_r (null: all of it). The information is kept: every alpha, and without a
    subsample every seed, has the same.
    """

    alpha: float = 1e-6
    n_samples: int | None = None
    variant: str = "corrected"
    version = 3
    needs = ("retain",)
    seeds = ("seed_unlearn",)

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("corrected", "official"))
        check_range("alpha", self.alpha, 0)
        check_range("n_samples", self.n_samples, 1, null=True)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        samples = len(data.retain[: self.n_samples])
        made = Cost(forward=samples, backward=samples * data.n_classes)
        if self.n_samples is not None:  # which of them decides a seed that is not known here
            return made
        return Cost(shared={KIND: (_key(data.retain), made)})

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        return has_several(model, head, "fisher")

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        drawn = torch.randperm(len(data.retain), generator=context.generator("samples"))
        rows = data.retain[drawn[: self.n_samples].sort().values]
        kept = context.cached(
            KIND, _key(rows), lambda: label_expected_fisher(model, data, rows.to(data.images.indexed_on))
        )
        information = {name: kept[name].to(p.device) for name, p in model.named_parameters()}
        draws = context.generator("noise")
        with torch.no_grad():
            for name, p in model.named_parameters():
                if not p.requires_grad:
                    continue
                mean, variance = self.distribution(name, p, information[name], data, context.head)
                noise = torch.randn(p.shape, generator=draws).to(p.device)
                p.copy_(mean + variance.rsqrt().reciprocal() * noise)  # sqrt() depends on the processor
        context.details["n_samples"] = len(rows)
        return model

    def distribution(self, name: str, p: Tensor, information: Tensor, data: Split, head: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of the noisy parameter, both of its shape."""
        official, full_class = self.variant == "official", data.scenario == "full_class"
        last = p.shape[:1] == (data.n_classes,) if official else name.startswith(f"{head}.")
        variance = self.alpha * (1 / (information + 1e-8)).clamp(max=1e2 if last else 1e3)
        if p.ndim > 1:
            variance = variance.mean(dim=1, keepdim=True).expand_as(p).clone()
        mean = p.clone()
        if last and full_class:
            mean[list(data.forget_labels)] = 0
            variance[list(data.forget_labels)] = 1e-4
        if p.ndim == 1 or (last and (full_class or not official)):
            variance *= 10
        return mean, variance


def label_expected_fisher(model: nn.Module, data: Split, rows: Tensor) -> dict[str, Tensor]:
    """Mean over samples of sum_y p(y | x) (grad of -ln p(y | x))^2, by parameter name, in eval mode."""
    total = zero_sums(model.named_parameters())
    log.info("fisher: %d samples x %d classes = %d gradients", len(rows), data.n_classes, len(rows) * data.n_classes)
    start = time.monotonic()
    sums = PerSample(model, total)
    with eval_mode(model), console.counted("fisher: images", rows.split(BATCH)) as batches:
        for done, batch in enumerate(batches):
            inputs, _ = data.images.batch(batch)
            with pass_clock():
                with torch.no_grad():
                    probs = model(inputs).softmax(dim=1)
                labels = torch.arange(data.n_classes, device=probs.device).expand_as(probs)
                sums.add(inputs, labels, probs)
            if done == 0 and len(rows) > BATCH:
                left = (time.monotonic() - start) * (len(rows) / BATCH - 1)
                log.info("fisher: about %s; method.n_samples makes it cheaper", console.clock(left))
    torch._foreach_div_(list(total.values()), float(len(rows)))
    return total


def _key(rows: Tensor) -> dict[str, str]:
    return {"rows": row_hash(rows)}
