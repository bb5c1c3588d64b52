"""Whether a model recognises forgotten images once they are slightly changed, where a retrained model does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.images import Images
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Cost, Outputs, Probed, Request
from ssd_bench.metrics import About
from ssd_bench.train.passes import predict

NORMS = ("inf", "2")
HERE, THERE = "perturbed_here_alone", "perturbed_retrained_alone"
ABOUT = {
    HERE: About("percent", "0", "beside the floor", ("forget_train",), 20, "D_f ± noise, here alone %", 1),
    THERE: About("percent", "0", "beside the floor", ("forget_train",), 20, "D_f ± noise, retrained alone %", 1),
}
AT_ONCE = 128  # images that are changed together: what is drawn does not hang on evaluate.batch_size


@dataclass(frozen=True)
class Perturbed:
    """Share of D_f that the model tells right once noise of a small norm is added, and once it is taken away.

    Residual knowledge (Hsu et al. 2025, arXiv 2601.22359) is what of that the retrained model does not tell right. So
    that tables can compare models (`alone`), it is kept which images were told right. The noise is drawn, not searched
    for: an attacker would find more. size: of the noise, where an image's values go from 0 to 1; of inputs that come
    prepared, in their own unit. norm: inf draws each value up to the size, 2 a direction of that length. samples:
    images of D_f at most; draws: of noise for each.
    """

    size: float = 0.03
    norm: str = "inf"
    samples: int = 1000
    draws: int = 2
    seed: int = 0
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("model",)
    about: ClassVar[dict[str, About]] = {
        "perturbed_acc": About("percent", "retrained", "everywhere", ("forget_train",), 20, "D_f ± noise %", 1)
    }

    def __post_init__(self) -> None:
        check_range("size", self.size, above=0)
        check_choice("norm", self.norm, NORMS)
        check_range("samples", self.samples, 1)
        check_range("draws", self.draws, 1)

    def cost(self, request: Request) -> Cost:
        return Cost(forward=2 * self.draws * min(self.samples, len(request.forget)))

    def __call__(self, seen: Outputs, probed: Probed) -> dict[str, float | Tensor | None]:
        images, draws = probed.images["train"], generator(self.seed, "perturbed")
        rows = probed.request.forget
        rows = rows[torch.randperm(len(rows), generator=draws)[: self.samples]]
        if not images.batch(rows[:1])[0].is_floating_point():
            return dict.fromkeys(self.about)
        right = torch.cat([self._right(probed, images, part, draws) for part in rows.split(AT_ONCE)])
        kept = {"perturbed.right": right, "perturbed.rows": rows}
        return {"perturbed_acc": 100 * right.double().mean().item(), **kept}

    def _right(self, probed: Probed, images: Images, rows: Tensor, draws: torch.Generator) -> Tensor:
        """Which of these are told right under each noise and its opposite: n x 2 draws, bool."""
        inputs, labels = images.batch(rows)
        found = []
        for _ in range(self.draws):
            noise = self._noise(inputs.shape, draws).to(inputs)
            if images.std is not None:
                noise = noise / images.std[:, None, None]
            for changed in (inputs + noise, inputs - noise):
                said = predict(probed.model, Images(changed, labels), torch.arange(len(rows)), probed.batch_size)
                found.append(said.argmax(1) == labels.cpu())
        return torch.stack(found, dim=1)

    def _noise(self, shape: torch.Size, draws: torch.Generator) -> Tensor:
        if self.norm == "inf":
            return self.size * (2 * torch.rand(shape, generator=draws) - 1)
        noise = torch.randn(shape, generator=draws)
        return self.size * noise / noise.flatten(1).norm(dim=1).view(-1, *[1] * (len(shape) - 1))


def alone(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Percent of the changed images that our model alone tells right, and their model alone: `ABOUT`.

    Nothing where they were not asked about the same images.
    """
    rows, others = (each.get("perturbed.rows") for each in (ours, theirs))
    if rows is None or others is None or not torch.equal(rows, others):
        return {}
    here, there = ours["perturbed.right"], theirs["perturbed.right"]
    if here.shape != there.shape:
        return {}
    return {
        HERE: 100 * (here & ~there).double().mean().item(),
        THERE: 100 * (there & ~here).double().mean().item(),
    }


def seen_from_there(values: Mapping[str, float]) -> dict[str, float]:
    """What `alone` says with the models exchanged; other values as they are."""
    other = {HERE: THERE, THERE: HERE}
    return {other.get(name, name): value for name, value in values.items()}
