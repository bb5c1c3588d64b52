"""Relearning: how many steps it takes until a model tells a forgotten class again, from a few images of it."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.images import Images
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Cost, Outputs, Probed, Request
from ssd_bench.metrics import About
from ssd_bench.metrics.features import VALID, last_features, told_by_images, why_not
from ssd_bench.train.passes import eval_mode, pass_clock, predict

log = logging.getLogger(__name__)

LAYERS = ("head", "all")
SHARES = (1, 10, 100)
PREFIX = "relearn_"
PASS = 128  # images that are looked at together after a step


@dataclass(frozen=True)
class Relearn:
    """`relearn_head_10`: the first step at which a copy, of which the last layer alone is trained on 10 % of D_f and as
    many retained images, has `goal` times the original's accuracy on D'_f; `relearn_all_10`: all weights are trained.

    Half of a batch is of D_f. Statistics of BatchNorm stand still. max_steps: what is counted where it takes more.
    unseen: so many images of D'_f, drawn, tell after each step how far it is; null: all. row: fresh begins with the
    mean of the other classes' rows in place of the class's own, so that the features count and not how far that row was
    pushed away; own with what is there. A class that is not forgotten whole keeps its row.
    """

    layers: list[str] = field(default_factory=lambda: list(LAYERS))
    shares: list[int] = field(default_factory=lambda: list(SHARES))
    goal: float = 0.5
    max_steps: int = 100
    unseen: int | None = 200
    batch_size: int = 32
    lr: float = 0.01
    row: str = "fresh"
    seed: int = 0
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("model",)
    about: ClassVar[dict[str, About]] = {
        f"{PREFIX}{layers}_{share}": About(
            "steps", "retrained", VALID, ("forget",), 20, f"relearn {layers} {share} %", 0,
            "second" if share == 100 else "none",
        )
        for layers in LAYERS
        for share in SHARES
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name in self.layers:
            check_choice("layers", name, LAYERS)
        for share in self.shares:
            check_range("shares", share, 1, 100)
        check_choice("row", self.row, ("fresh", "own"))
        check_range("goal", self.goal, above=0, most=1)
        check_range("max_steps", self.max_steps, 1)
        check_range("unseen", self.unseen, 1, null=True)
        check_range("batch_size", self.batch_size, 2)
        check_range("lr", self.lr, above=0)

    def cost(self, request: Request) -> Cost:
        """At most: all of `max_steps`. Steps of the last layer alone take no pass."""
        if not told_by_images(request):
            return Cost()
        unseen = min(self.unseen or len(request.unseen), len(request.unseen))
        forward, backward = unseen, 0
        for n in (self._images(request, share) for share in self.shares):
            if "head" in self.layers:
                forward += 2 * n + unseen
            if "all" in self.layers:
                forward += self.max_steps * unseen
                rounds, rest = divmod(self.max_steps, math.ceil(n / (self.batch_size // 2)))
                backward += 2 * (rounds * n + rest * (self.batch_size // 2))
        return Cost(forward, backward)

    def _images(self, request: Request, share: int) -> int:
        """How many of D_f, and as many of D_r, a share (percent) of D_f is."""
        return min(max(1, round(len(request.forget) * share / 100)), len(request.retain))

    def __call__(self, seen: Outputs, probed: Probed) -> dict[str, float | None]:
        reason = "the original is not known" if probed.original is None else why_not(probed)
        if reason:
            log.info("relearn: no value, for %s", reason)
            return dict.fromkeys(self.about)
        request, draws = probed.request, generator(self.seed, "relearn")
        forget = request.forget[torch.randperm(len(request.forget), generator=draws)]
        retain = request.retain[torch.randperm(len(request.retain), generator=draws)]
        unseen = probed.unseen[torch.randperm(len(probed.unseen), generator=draws)[: self.unseen]]
        goal = self.goal * accuracy(probed.original, probed.images["test"], unseen, probed.batch_size)
        values: dict[str, float | None] = dict.fromkeys(self.about)
        for share in self.shares:
            n = self._images(request, share)
            for layers in self.layers:
                model, *images = self._trained(probed, layers, torch.cat([forget[:n], retain[:n]]), unseen)
                batches = self._batches(n, generator(self.seed, "relearn", "batches", share))
                values[f"{PREFIX}{layers}_{share}"] = self.steps(model, *images, batches, goal)
        return values

    def _trained(self, probed: Probed, layers: str, rows: Tensor, unseen: Tensor) -> tuple[nn.Module, Images, Images]:
        """What is trained, on what, and what tells how far it is: pictures, or what the head sees of them."""
        model, parts = copy.deepcopy(probed.model), {"train": rows, "test": unseen}
        head = model.get_submodule(probed.head).requires_grad_(True)  # whatever the user froze
        label = probed.request.forget_label
        if self.row == "fresh" and not (probed.request.train_labels[probed.request.retain] == label).any():
            _fresh_row(head, label)
        if layers == "all":
            return model, *(probed.images[part].take(of_part) for part, of_part in parts.items())
        images = []
        for part, of_part in parts.items():
            labels = probed.images[part].labels
            seen = last_features(probed, part, of_part).to(labels.device, head.weight.dtype)
            images.append(Images(seen, labels[of_part.to(labels.device)]))
        return head, *images

    def _batches(self, n: int, draws: torch.Generator) -> Iterator[Tensor]:
        """Places among n images of D_f and then n of D_r: half of a batch from each, each over and over."""
        sides = [_over_and_over(n, self.batch_size // 2, draws) for _ in range(2)]
        for forget, retain in zip(*sides, strict=True):
            yield torch.cat([forget, n + retain])

    def steps(self, model: nn.Module, train: Images, unseen: Images, batches: Iterator[Tensor], goal: float) -> int:
        """Steps until the accuracy on `unseen` reaches the goal (0 to 100); `max_steps` where it does not."""
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=self.lr, momentum=0.9)
        every = torch.arange(len(unseen))
        with eval_mode(model):
            for step in range(self.max_steps):
                if accuracy(model, unseen, every, PASS) >= goal:
                    return step
                inputs, labels = train.batch(next(batches))
                with pass_clock():
                    loss = cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                with pass_clock.backward():
                    loss.backward()
                optimizer.step()
        return self.max_steps


@torch.no_grad()
def _fresh_row(head: nn.Linear, label: int) -> None:
    others = torch.arange(head.out_features, device=head.weight.device) != label
    for p in (head.weight, head.bias):
        if p is not None:
            p[label] = p[others].mean(0)


def _over_and_over(n: int, size: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Places from 0 to n - 1 in batches of at most `size`, shuffled anew each time that all were seen."""
    while True:
        yield from torch.randperm(n, generator=draws).split(size)


def accuracy(model: nn.Module, images: Images, rows: Tensor, batch_size: int) -> float:
    """Percent of these rows that the model tells right."""
    said = predict(model, images, rows, batch_size).argmax(1)
    return 100 * (said == images.labels.cpu()[rows]).double().mean().item()
