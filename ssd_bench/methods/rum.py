"""RUM (Zhao et al., NeurIPS 2024, arXiv 2406.01257): D_f in parts, from the least memorised to the most, each forgotten
by a method of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.build import build
from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Cost, Method, Request, Split, ask, spoken
from ssd_bench.methods import delete, teaching
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class RUM(Method):
    """One of `steps` after the other, each on as large a part of D_f; the next goes on from what the last one made.

    steps: methods, or their nodes (`_target_` and settings), the first for the images that are memorised least. A step
    keeps nothing for other runs, as it depends on those before it. How much an image is memorised takes hundreds of
    models to say; here the margin of the original stands in for it, low where an image was hard to learn (the authors'
    proxies are means over the epochs of training). order: memorised, least first, or reversed; shuffled: parts at
    random, the authors' control. retain: all, D_r in each step; cumulative, as released, with the parts of D_f whose
    turn has not come, which are trained on as if they were to stay.
    """

    version: ClassVar[int] = 1
    steps: list[Any] = field(default_factory=list)
    order: str = "memorised"
    retain: str = "all"
    needs: ClassVar[tuple[str, ...]] = ("retain",)

    def __post_init__(self) -> None:
        check_choice("order", self.order, ("memorised", "reversed", "shuffled"))
        check_choice("retain", self.retain, ("all", "cumulative"))
        if not self.steps:
            raise ValueError("steps must name a method, such as steps=[{_target_: ...}]")
        built = (build(step, "method.steps") if isinstance(step, Mapping) else step for step in self.steps)
        object.__setattr__(self, "steps", tuple(built))
        for step in self.steps:
            if spoken(step) == "retrain" or getattr(step, "anew", False):
                raise ValueError(f"steps: {spoken(step)} forgets all of D_f at once; take it alone")

    def skip(self, request: Request) -> str | None:
        of_steps = (ask(step, "skip", request) for step in self.steps)
        return super().skip(request) or next(filter(None, of_steps), None)

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        return next(filter(None, (ask(step, "unfit", model, head) for step in self.steps)), None)

    def cost(self, data: Split, recipe: Recipe) -> Cost | None:
        total = Cost(shared=teaching.cost(delete.KIND, data.forget))
        for step, part in zip(self.steps, self.parts(data.forget), strict=True):
            of_step = ask(step, "cost", self.split(data, part, part), recipe) if spoken(step) != "original" else Cost()
            if of_step is None:
                return None
            each = [of_step, *(made for _, made in of_step.shared.values())]
            forward, backward = sum(c.forward for c in each), sum(c.backward for c in each)
            total = replace(total, forward=total.forward + forward, backward=total.backward + backward)
        return total

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        ordered = data.forget[self.ranked(model, data, context)]
        told: dict[str, Any] = {}
        done = data.forget[:0]
        for k, (step, part) in enumerate(zip(self.steps, self.parts(ordered), strict=True)):
            done = torch.cat([done, part])
            own = replace(context, cached=_made, checkpoint=_named(context.checkpoint, f"step{k}"), details={})
            if len(part):
                model = step(model, self.split(data, part, done), own)
            told[f"step{k}"] = {"method": spoken(step), "images": len(part), **own.details}
        context.details |= told
        return model

    def ranked(self, model: nn.Module, data: Split, context: Context) -> Tensor:
        """Places of the images of D_f, in the order in which they are forgotten."""
        if self.order == "shuffled":
            return torch.randperm(len(data.forget), generator=context.generator("parts"))
        logits = teaching.Teaching(delete.KIND, data.forget, model, data, context)(data.forget.to(data.images.device))
        labels = data.images.labels[data.forget.to(data.images.device)][:, None]
        margin = logits.gather(1, labels)[:, 0] - logits.scatter(1, labels, -torch.inf).logsumexp(1)
        return margin.cpu().argsort(descending=self.order == "memorised", stable=True)

    def parts(self, ordered: Tensor) -> tuple[Tensor, ...]:
        """Of these images, those of each step."""
        return ordered.tensor_split(len(self.steps))

    def split(self, data: Split, part: Tensor, done: Tensor) -> Split:
        """What a step sees whose part this is. done: the parts up to it."""
        later = data.forget[~torch.isin(data.forget, done)] if self.retain == "cumulative" else data.forget[:0]
        return replace(data, forget=part, retain=torch.cat([data.retain, later]))


def _made(kind: str, key: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    return make()


def _named(checkpoint: Callable[[str], Any], prefix: str) -> Callable[[str], Any]:
    return lambda name: checkpoint(f"{prefix}.{name}")
