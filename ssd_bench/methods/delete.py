"""DELETE (Zhou et al., CVPR 2025, arXiv 2503.23751): what the original says of D_f, without the true class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Cost, Method, Split, row_hash
from ssd_bench.methods.ascent import MODES
from ssd_bench.train.loop import fit
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

KIND = "forget_logits"  # the original's, of D_f
BATCH = 128


@dataclass(frozen=True)
class Delete(Method):
    """`epochs` of SGD on KL(target || model) over D_f: the original's outputs with the logit of the true class removed.

    The targets are constants, made by one forward pass over D_f that other settings of the method share. mode: eval
    keeps BatchNorm's statistics; train, as released, lets D_f's replace them. lr and epochs are ours: the authors give
    none for these networks. Needs D_f alone.
    """

    epochs: int = 10
    lr: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    mode: str = "eval"
    seeds: ClassVar[tuple[str, ...]] = ("seed_unlearn",)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        self.recipe()

    def recipe(self) -> Recipe:
        return Recipe.constant("sgd", self.epochs, self.batch_size, self.lr, self.momentum, self.weight_decay)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        asked = {KIND: (_key(data), Cost(forward=len(data.forget)))}
        return Cost(backward=self.epochs * len(data.forget), shared=asked)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        device = data.images.device
        forget = data.forget.to(device)
        made = context.cached(
            KIND, _key(data), lambda: {"logits": predict(model, data.images, data.forget, BATCH).clone()}
        )
        targets = without(made["logits"].to(device), data.images.labels[forget])
        place = torch.empty(len(data.images), dtype=torch.int64, device=device)
        place[forget] = torch.arange(len(forget), device=device)

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(inputs)
            target = targets[place[rows]].to(logits.dtype)
            return kl_div(log_softmax(logits, dim=1), target, reduction="batchmean"), logits

        draws, more = context.generator("batches"), {"checkpoint": context.checkpoint("delete")}
        more |= {"objective": objective, "ready": getattr(nn.Module, self.mode)}
        return fit(model, data.images, data.forget, self.recipe(), draws, "delete", **more)


def _key(data: Split) -> dict[str, str]:
    return {"rows": row_hash(data.forget)}


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """The probabilities of the other classes, given that it is one of them: n x classes, 0 for the label's own."""
    return logits.scatter(1, labels[:, None], -torch.inf).softmax(dim=1)
