"""Requests that come one after the other: what forgets the next one is what has forgotten those before it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError, check_choice, check_range
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import Classes, check_no_class_is_gone
from ssd_bench.scenarios.full_class import FullClass
from ssd_bench.scenarios.random import Random
from ssd_bench.scenarios.sub_class import SubClass

KINDS = {"full_class": FullClass, "sub_class": SubClass}


@dataclass(frozen=True)
class Sequence:
    """Disjoint requests F_1 to F_K: theta_k = U(theta_k-1, F_k, D without F_1 to F_k).

    requests: what each forgets, as `scenario.target` takes it (a class, or a list of them), or how many batches of
    `n_forget` random images; null: data.targets. After each, D'_f is what F_k shows, D'_r what none of F_1 to F_k
    shows; its own sets are `forgotten` (F_1 to F_k together), `kept` (what no request of all K shows) and `request_j`
    (F_j, before its turn, too). refresh: SSD's importances of D are made anew, of theta_k-1 on what is left; false:
    those of the original serve all requests.
    """

    requests: Any = None
    of: str = "sub_class"  # or full_class; random where `requests` is a number
    n_forget: int = 100
    refresh: bool = True
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_choice("of", self.of, (*KINDS, "random"))
        check_range("n_forget", self.n_forget, 1)
        asked = self.requests
        if isinstance(asked, List) and not isinstance(asked, str):
            if None in asked:
                raise ValueError("requests holds null; name a target for each request")
            object.__setattr__(self, "requests", tuple(Classes(target=each).target for each in asked))
        elif asked is not None and (isinstance(asked, bool) or not str(asked).isdecimal()):
            raise ValueError(f"requests={asked} is neither a list of targets nor a number of random batches")
        if self.random != (self.of == "random"):
            raise ValueError(
                f"of={self.of} does not go with requests={asked}: a number of requests is of random batches"
            )
        if self.count == 1 or self.count == 0:
            kind = "random" if self.random else self.of
            raise ValueError(f"requests names {self.count}; a sequence takes two or more (one alone: scenario={kind})")

    @property
    def random(self) -> bool:
        """Whether batches of images are drawn."""
        return self.requests is not None and not isinstance(self.requests, tuple)

    @property
    def count(self) -> int | None:
        """How many requests; None where the data set says it."""
        return int(self.requests) if self.random else None if self.requests is None else len(self.requests)

    @property
    def sets(self) -> Mapping[str, str]:
        """What is evaluated beside the usual sets after every request, with the headings of the accuracies."""
        return {"forgotten": "forgotten so far %", "kept": "kept %"}

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        """The last request; `earlier` holds those before it. Raises ConfigError for requests that overlap."""
        alone = self._batches(dataset, seed) if self.random else self._classes(dataset, targets, seed)
        for j, request in enumerate(alone):
            for other in alone[:j]:
                if (both := torch.isin(request.forget, other.forget)).any():
                    name = dataset.names("fine" if self.of == "sub_class" else dataset.labels)
                    name = name[int(request.group[request.forget[both][0]])]
                    raise ConfigError(f"scenario.requests: {name} is forgotten twice; requests must not overlap")
        steps: list[Request] = []
        for k in range(len(alone)):
            steps.append(replace(_after(alone, k), earlier=tuple(steps)))
        last = steps[-1]
        whole = steps if self.of == "full_class" and not self.random else []
        forgotten = {label for step in whole for label in step.forget_labels}
        check_no_class_is_gone(last.classes, last.train_labels, last.retain, forgotten)
        if len(last.train_labels[last.retain].unique()) < 2:
            raise ConfigError("scenario.requests leave a single class; a classifier needs two")
        return last

    def _classes(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> list[Request]:
        asked = self.requests or tuple(targets.get(self.of, ()))
        if len(asked) < 2:
            raise ConfigError(f"scenario.requests must be given: data.targets.{self.of} of this data names no two")
        try:
            return [KINDS[self.of](target=target)(dataset, targets, seed) for target in asked]
        except ConfigError as e:
            if self.requests is None:
                raise
            others = " or ".join(f"scenario.of={kind}" for kind in KINDS if kind != self.of)
            raise ConfigError(f"scenario.requests, taken as scenario.of={self.of} (there is {others}, too): {e}") from e

    def _batches(self, dataset: Dataset, seed: int) -> list[Request]:
        whole = Random(n_forget=self.n_forget * self.count)(dataset, {}, seed)
        batches = whole.forget.split(self.n_forget)
        everything = torch.cat([whole.forget, whole.retain])
        return [
            replace(
                whole,
                forget=batch,
                retain=everything[~torch.isin(everything, batch)],
                sets=whole.sets | {"forget": ("train", batch), "forget_train": ("train", batch)},
            )
            for batch in batches
        ]


def _after(alone: list[Request], k: int) -> Request:
    """Request k (from 0 on) of those that each stand `alone`, as it is once those before it are forgotten."""
    asked, gone = alone[k], _rows([request.forget for request in alone[:k]])
    part, shows = asked.sets["forget"]
    seen = [request.sets["forget"][1] for request in alone]
    others = asked.sets["retain"][1]
    left = {name: others[~torch.isin(others, _rows(of))] for name, of in (("so far", seen[:k]), ("at last", seen))}
    if part == "train":  # random images: all test images are others
        left = dict.fromkeys(left, others)
    if not len(left["at last"]):
        raise ConfigError("scenario.requests forget every class with test images; D'_r would be empty")
    retain = asked.retain[~torch.isin(asked.retain, gone)]
    return replace(
        asked,
        train=asked.train[~torch.isin(asked.train, gone)],
        retain=retain,
        sets={
            **asked.sets,
            "retain": ("test", left["so far"]),
            "forget": (part, shows),
            "retain_train": ("train", retain),
            "forgotten": (part, _rows(seen[: k + 1])),
            "kept": ("test", left["at last"]),
            **{f"request_{j}": (part, of) for j, of in enumerate(seen, 1)},
        },
    )


def _rows(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
