"""SalUn (Fan et al. 2024, arXiv 2310.12508): random labels for D_f, learnt by the most salient weights alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Split, row_hash
from ssd_bench.importance import loss_gradient
from ssd_bench.methods.amnesiac import wrong_labels
from ssd_bench.methods.masks import largest, putting_back, size_of
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.loop import Pass
from ssd_bench.train.recipe import Recipe

KIND = "forget_gradient"  # in the original


@dataclass(frozen=True)
class SalUn(FurtherTraining):
    """In each of `epochs`, train on D_f with random labels, then on D_r; only a `share` of the weights may move.

    They are those with the largest gradient of the loss on D_f in the original; the rest is put back after each step,
    so that neither momentum nor weight decay moves it. share: 0 to 1; 1 is random labelling (RL). mask_from: sum of
    the samples' gradients, which no order or batches change, or, as released, of the batches' means. labels: other
    draws only classes that are not to be said; any, as released, draws the true one as well. redraw: new labels in each
    epoch, or once. order: sequential, or mixed, as released for CIFAR-100 and TinyImageNet: D_f and D_r in one pass.
    lr has to be tuned; the authors tried 1e-4 to 0.1. BatchNorm's statistics move with any share.
    """

    version: ClassVar[int] = 2
    share: float = 0.5
    epochs: int = 10
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    forget_batch_size: int = 256
    retain_batch_size: int = 256
    order: str = "sequential"
    labels: str = "other"
    redraw: str = "epoch"
    mask_from: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("order", self.order, ("sequential", "mixed"))
        check_choice("labels", self.labels, ("other", "any"))
        check_choice("redraw", self.redraw, ("epoch", "once"))
        check_choice("mask_from", self.mask_from, ("sum", "batches"))
        check_range("share", self.share, 0, 1)
        check_range("forget_batch_size", self.forget_batch_size, 1)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        of_mask = {KIND: (self._key(data), Cost(backward=len(data.forget)))} if self.share < 1 else {}
        return Cost(backward=self.epochs * (len(data.forget) + len(data.retain)), shared=of_mask)

    def _key(self, data: Split) -> dict[str, Any]:
        """What the gradient on D_f depends on beside the original: every `share` has it."""
        if self.mask_from == "sum":
            return {"rows": row_hash(data.forget.sort().values)}
        return {"rows": row_hash(data.forget), "batches": self.forget_batch_size}

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        def passes(epoch: int) -> list[Pass]:
            drawn = self.drawn(data, context.generator("labels", epoch if self.redraw == "epoch" else 1))
            if self.order == "mixed":
                return [Pass(torch.cat([data.forget, data.retain]), labels=drawn)]
            return [Pass(data.forget, batch_size=self.forget_batch_size, labels=drawn), Pass(data.retain)]

        put_back = None
        if self.share < 1:
            kept = context.cached(KIND, self._key(data), lambda: self.saliency(model, data))
            ordered = {name: kept[name].to(p.device) for name, p in model.named_parameters() if name in kept}
            put_back = putting_back(model, self.mask(ordered))
        return self.train(model, data.images, passes, context, "salun", after_step=put_back)

    def drawn(self, data: Split, draws: torch.Generator) -> Tensor:
        """The labels of all images, those of D_f at random: N, int64."""
        if self.labels == "other":
            return wrong_labels(data, draws)
        return data.relabelled(torch.randint(data.n_classes, data.forget.shape, generator=draws))

    def saliency(self, model: nn.Module, data: Split) -> dict[str, Tensor]:
        """The gradient of the loss on D_f by each trainable parameter."""
        of_samples = self.mask_from == "sum"
        rows = data.forget.sort().values if of_samples else data.forget
        parts = rows.to(data.images.indexed_on).split(self.forget_batch_size)
        batches = map(data.images.batch, parts)
        return loss_gradient(model, batches, "sum" if of_samples else "mean")

    def mask(self, saliency: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that are trained: the int(share n) largest of all n together."""
        return largest(saliency, int(self.share * size_of(saliency)))
