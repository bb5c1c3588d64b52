"""Boundary expand: give D_f to a class of its own, and take that away (Chen et al., CVPR 2023, arXiv 2303.11570)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Split
from ssd_bench.methods.boundary import Boundary
from ssd_bench.methods.head import linear_head, not_linear, put


@dataclass(frozen=True)
class BoundaryExpand(Boundary):
    """The last layer gets one more class, D_f is trained on that, and the class is removed in the end.

    row_init: how its weights begin. xavier: normal by Glorot's rule, with bias 0, as the authors do. uniform: as a new
    layer of PyTorch's, as another release does.
    """

    version: ClassVar[int] = 1
    row_init: str = "xavier"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("row_init", self.row_init, ("xavier", "uniform"))

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        return not_linear(model, head, "boundary_expand")

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        head = linear_head(model, context.head, "boundary_expand")
        wide = widened(head, *self.new_row(head, context.generator("row")))
        put(model, context.head, wide)
        self.train_as(head.out_features, model, data, context, "boundary_expand")
        put(model, context.head, head)
        with torch.no_grad():
            for p, of_wide in zip(head.parameters(), wide.parameters(), strict=True):
                p.copy_(of_wide[:-1])
        return model

    def new_row(self, head: nn.Linear, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Weights and bias of the new class: 1 x features and 1."""
        if self.row_init == "xavier":
            rows = nn.init.xavier_normal_(torch.empty(head.out_features + 1, head.in_features), generator=draws)
            return rows[-1:], torch.zeros(1)
        row, bias = (2 * torch.rand(n, generator=draws) - 1 for n in ((1, head.in_features), (1,)))
        return row / head.in_features**0.5, bias / head.in_features**0.5


def widened(head: nn.Linear, row: Tensor, bias: Tensor) -> nn.Linear:
    """A layer with one more output, whose weights are `row` and `bias`; frozen where the layer is."""
    has_bias = head.bias is not None
    wide = nn.Linear(head.in_features, head.out_features + 1, has_bias).to(head.weight).train(head.training)
    with torch.no_grad():
        for p, own, more in zip(wide.parameters(), head.parameters(), (row, bias)[: 1 + has_bias], strict=True):
            p.copy_(torch.cat([own, more.to(own)])).requires_grad_(own.requires_grad)
    return wide
