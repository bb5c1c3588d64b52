"""Where the weights moved: which part of the squared distance to the original lies in which part of the network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ssd_bench.core.task import Cost, Outputs, Probed, Request
from ssd_bench.metrics import About
from ssd_bench.train.features import MOST, stages

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Where:
    """Shares (percent) of the squared distance to the original of all parameters: `moved_row`, the class's own row of
    the last layer; `moved_head`, all of the last layer; `moved_1` to `moved_4`, the stages in their order."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("model",)
    about: ClassVar[dict[str, About]] = {
        name: About("percent", "", "where a class is forgotten", heading=heading, decimals=1, table=table)
        for name, heading, table in (
            ("moved_row", "moved in row %", "second"),
            ("moved_head", "moved in head %", "second"),
            *((f"moved_{i}", "", "none") for i in range(1, MOST + 1)),
        )
    }

    def cost(self, request: Request) -> Cost:
        return Cost()

    def __call__(self, seen: Outputs, probed: Probed) -> dict[str, float | None]:
        if probed.original is None:
            log.info("where: no value, for the original is not known")
            return dict.fromkeys(self.about)
        ours, theirs = (dict(model.named_parameters()) for model in (probed.model, probed.original))
        if {name: p.shape for name, p in ours.items()} != {name: p.shape for name, p in theirs.items()}:
            log.info("where: no value, for the model is built in another way than the original")
            return dict.fromkeys(self.about)
        parts = {f"moved_{i}": name for i, name in enumerate(stages(probed.model, probed.head), 1)}
        if probed.head:
            parts["moved_head"] = probed.head
        label = probed.request.forget_label if probed.head else None
        return dict.fromkeys(self.about) | moved(ours, theirs, parts, label)


def moved(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], parts: Mapping[str, str], label: int | None = None
) -> dict[str, float | None]:
    """Share (percent) of the squared L2 distance of all tensors that lies in each part, and in a row of the head.

    ours, theirs: parameters by name, of one architecture. parts: by name of the value, the module whose tensors they
    are; label: the row of the module "moved_head" that is "moved_row". None for all where nothing moved.
    """
    pairs = {name: (t.detach().cpu().double(), theirs[name].detach().cpu().double()) for name, t in ours.items()}
    by_row = {name: (one - other).square() for name, (one, other) in pairs.items()}
    whole = sum(t.sum().item() for t in by_row.values())
    inside = {part: [t for n, t in by_row.items() if n.startswith(f"{module}.")] for part, module in parts.items()}
    squares = {part: sum(t.sum().item() for t in tensors) for part, tensors in inside.items()}
    if label is not None and "moved_head" in inside:
        squares["moved_row"] = sum(t[label].sum().item() for t in inside["moved_head"] if t.ndim)
    return {part: 100 * square / whole if whole else None for part, square in squares.items()}
