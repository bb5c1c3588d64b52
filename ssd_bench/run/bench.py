"""What every stage of a run shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from ssd_bench.core.seeds import initial_seed
from ssd_bench.core.task import Images, Method, Request, Split, ask
from ssd_bench.run.identity import Identity, Trained
from ssd_bench.run.plan import Plan
from ssd_bench.store.artefacts import Store


@dataclass(frozen=True)
class Bench:
    """The plan, its request, and the place it is carried out."""

    plan: Plan
    request: Request
    images: dict[str, Images]  # "train" and "test", on the device
    identity: Identity
    store: Store
    device: torch.device
    new_model: Callable[..., nn.Module]  # (seed, pretrained=True) -> a newly initialised model on the device
    parallel: bool = False  # whether other jobs share the machine
    earlier: tuple[Bench, ...] = ()  # of the requests that are forgotten before this one
    stale: Mapping[str, str] = field(default_factory=dict)  # kept of another model: kind -> path of the artefact

    @property
    def steps(self) -> tuple[Bench, ...]:
        """One for each request, in their order."""
        return *self.earlier, self

    @cached_property
    def skipped(self) -> str | None:
        """Why the method makes no sense for this request, for one before it, or for a model of this kind."""
        reasons = (ask(self.plan.method, "skip", step.request) for step in self.steps)
        return next((reason for reason in reasons if reason), None) or self._unfit()

    def _unfit(self) -> str | None:
        if getattr(type(self.plan.method), "unfit", Method.unfit) is Method.unfit:
            return None  # nothing to build a model for
        model = self.new_model(initial_seed(self.plan.settings.seed), pretrained=False)
        return ask(self.plan.method, "unfit", model, self.plan.model.head)

    @cached_property
    def retrained(self) -> Trained | None:
        """What the method trains from a random start, if that is all that it does."""
        rows = ask(self.plan.method, "trains_on", self.request)
        return None if rows is None else replace(self.identity.retrained, rows=rows.sort().values)

    def compiled(self, model: nn.Module) -> nn.Module:
        """The same model, its forward pass compiled where compile=true. A copy of a compiled model is not compiled."""
        if self.plan.settings.compile:
            model.compile()
        return model

    def split(self) -> Split:
        """The training side of the request, for a method."""
        return self.request.split(self.images["train"])
