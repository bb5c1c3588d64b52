"""Boundary shrink: give D_f to the classes that lie nearest (Chen et al., CVPR 2023, arXiv 2303.11570)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Split, row_hash
from ssd_bench.methods.amnesiac import may_be_said
from ssd_bench.methods.boundary import Boundary
from ssd_bench.methods.inputs import first_input, pixel_units
from ssd_bench.train.passes import eval_mode, pass_clock
from ssd_bench.train.recipe import Recipe

KIND = "nearest_labels"  # in the original, of D_f
BATCH = 128  # images that are attacked at once; in eval mode no image's result depends on the others
RELEASED = ((0.4914, 0.4822, 0.2265), (0.2023, 0.1994, 0.201))  # mean and std of the released attack


@dataclass(frozen=True)
class BoundaryShrink(Boundary):
    """Each image of D_f gets the class that the original sees after one step against it, and is trained on that.

    bound: of the step (FGSM), as a share of the range of a pixel; where images are no pixels, of the range of D_f's
    inputs. attack_norm: data, steps of that size inside that range; released, the attack's own mean and std, whose step
    on data normalised with 0.5 is 2.5 times as large. exclude_own: the nearest other class, of several that are
    forgotten, together or before, none of them; without, as released, an image that the step does not move across a
    boundary keeps its own label, which is then reinforced.
    """

    version: ClassVar[int] = 2
    bound: float = 0.1
    exclude_own: bool = True
    attack_norm: str = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack_norm", self.attack_norm, ("data", "released"))
        check_range("bound", self.bound, above=0)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        attack = Cost(forward=len(data.forget), backward=len(data.forget))
        return replace(super().cost(data, recipe), shared={KIND: (self._key(data), attack)})

    def _key(self, data: Split) -> dict[str, Any]:
        """What the labels depend on beside the original: other settings share them."""
        settings = {"bound": self.bound, "exclude_own": self.exclude_own, "attack_norm": self.attack_norm}
        several = {"classes": data.forget_labels} if len(data.forget_labels) > 1 else {}
        before = {"gone": row_hash(data.gone)} if len(data.gone) else {}
        return settings | {"rows": row_hash(data.forget)} | several | before

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        made = context.cached(KIND, self._key(data), lambda: self.nearest(model, data))
        context.details["crossed_pct"] = 100 * made["crossed"].item() / len(data.forget)
        return self.train_as(made["labels"], model, data, context, "boundary_shrink")

    def nearest(self, model: nn.Module, data: Split) -> dict[str, Tensor]:
        """`labels`: the class of each image of D_f beyond the nearest boundary; `crossed`: how many the step took."""
        mean, std = self._units(data)
        unsaid = data.unsaid
        labels, crossed = [], torch.zeros((), dtype=torch.int64, device=data.images.device)
        for rows in data.forget.split(BATCH):
            inputs, own = data.images.batch(rows)
            with eval_mode(model), pass_clock(), torch.no_grad():
                logits = model(fgsm(model, inputs, own, self.bound, mean, std))
            crossed += (logits.argmax(1) != own).sum()
            if self.exclude_own:
                logits = logits.masked_fill(~may_be_said(own, unsaid), -math.inf)
            labels.append(logits.argmax(1))
        return {"labels": torch.cat(labels), "crossed": crossed}

    def _units(self, data: Split) -> tuple[Tensor, Tensor]:
        """Mean and std that take inputs to pixels from 0 to 1, as the attack sees them: channels x 1 x 1, or single."""
        if self.attack_norm == "released":
            first = first_input(data, "boundary_shrink", "moved")
            known = first.shape[1] if first.shape[1] <= len(RELEASED[0]) else 1  # of more channels, one for all
            mean, std = (torch.tensor(of[:known]).to(first)[:, None, None] for of in RELEASED)
            return mean, std
        return pixel_units(data, "boundary_shrink")


def fgsm(model: nn.Module, inputs: Tensor, labels: Tensor, bound: float, mean: Tensor, std: Tensor) -> Tensor:
    """Inputs one step up the loss: each pixel, inputs x std + mean, by `bound`, and kept between 0 and 1."""
    moved = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = cross_entropy(model(moved), labels, reduction="sum")
    gradient = torch.autograd.grad(loss, moved)[0]
    return ((inputs * std + mean + bound * gradient.sign()).clamp(0, 1) - mean) / std
