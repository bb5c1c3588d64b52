"""What methods share that train the last part of a network alone: where it begins, and how the rest is held still."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Method, Split, spoken
from ssd_bench.methods.by_epoch import ByEpoch, warm_restarts
from ssd_bench.methods.forward_order import LastPart, last_part
from ssd_bench.methods.head import has_several
from ssd_bench.train.loop import Objective, Pass, fit, mean_cross_entropy
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class LastK(Method):
    """Train what comes last in a forward pass on D_r: the last `k` blocks and the last layer, or the last `k` layers.

    layers: block, the last layer beside `k` blocks: residual blocks, or what else a list of the model repeats; in a
    model without any, `k` layers. layer: `k` layers with weights, the last one among them; BatchNorm goes with the
    layer before it. More than there are: the whole model. mode: part keeps the rest in eval mode, so that no tensor of
    it moves. train, as released, lets its running statistics follow D_r. eval lets no statistics move.
    epochs: null follows the original's own recipe, and then lr to lr_floor say nothing. schedule: constant, or restarts
    (cosine cycles of 1, 2, 4, ... epochs from lr to lr_floor). penalty: times half the squared distance to the start.
    """

    k: int = 2
    layers: str = "block"
    mode: str = "part"
    epochs: int | None = 5
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64
    schedule: str = "constant"
    lr_floor: float = 0.0
    penalty: float = 0.0

    def __post_init__(self) -> None:
        check_choice("layers", self.layers, ("block", "layer"))
        check_choice("mode", self.mode, ("part", "train", "eval"))
        check_choice("schedule", self.schedule, ("constant", "restarts"))
        if self.k < (least := int(self.layers == "layer")):
            raise ValueError(f"k must be at least {least} with layers={self.layers}, got {self.k}")
        if not 0 <= self.lr_floor <= self.lr:
            raise ValueError(f"lr_floor must be between 0 and lr={self.lr}, got {self.lr_floor}")
        check_range("penalty", self.penalty, 0)
        self.recipe(Recipe())

    def recipe(self, original: Recipe) -> Recipe:
        if self.epochs is None:
            return original.without_selection()
        plain = Recipe.constant("sgd", self.epochs, self.batch_size, self.lr, self.momentum, self.weight_decay)
        if self.schedule == "constant":
            return plain
        return ByEpoch.of(plain, factors=warm_restarts(self.epochs, self.lr_floor / self.lr))

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        return has_several(model, head, spoken(self))

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(forward=1, backward=self.recipe(recipe).epochs * len(data.retain))

    def part(self, model: nn.Module, data: Split, context: Context) -> LastPart:
        """The part that is trained."""
        inputs, _ = data.images.batch(data.retain[:1])
        return last_part(model, inputs, self.k, self.layers, context.head)

    def train_last(self, part: LastPart, data: Split, context: Context) -> nn.Module:
        """The model with this part of it trained; afterwards everything takes gradients that did before."""
        recipe, name = self.recipe(context.recipe), spoken(self)
        augment = context.augment if self.epochs is None and recipe.augment else None
        objective, more = self._objective(part), {"augment": augment, "ready": partial(self._ready, part)}
        context.details["trained_parameters"] = sum(p.numel() for p in part.parameters)
        draws, checkpoint = context.generator("batches"), context.checkpoint(name)

        def passes(epoch: int) -> list[Pass]:
            return [Pass(recipe.epoch_rows(data.retain, epoch, context.seed), objective)]

        with part.rest_frozen():
            return fit(part.model, data.images, passes, recipe, draws, name, checkpoint=checkpoint, **more)

    def _ready(self, part: LastPart, model: nn.Module) -> None:
        model.train(self.mode != "eval")
        for module in part.before if self.mode == "part" else ():
            module.training = False

    def _objective(self, part: LastPart) -> Objective:
        if not self.penalty:
            return mean_cross_entropy
        start = [(p, p.detach().clone()) for p in part.parameters]

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            loss, logits = mean_cross_entropy(model, inputs, labels, rows)
            return loss + self.penalty / 2 * sum((p - at).square().sum() for p, at in start), logits

        return objective
