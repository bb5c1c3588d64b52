"""What the class scenarios share: their settings, finding classes by name, and the request to forget them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError, check_choice, check_range
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Request

DRAWN = "forget_drawn"  # the set of the images that are forgotten beside the classes


@dataclass(frozen=True)
class Classes:
    """Which classes are forgotten, by name or index, and how many images of other classes beside them.

    Those are drawn at random by `seed_forget`. D'_f is the test images of the classes, D'_r all others; the images
    drawn belong to D_f, and are a set of their own, `forget_drawn`.
    """

    target: Any = None  # one of them or a list
    n_forget: int | None = None
    placebo: bool = False
    batch_size: int = 64

    def __post_init__(self) -> None:
        several = isinstance(self.target, Sequence) and not isinstance(self.target, str)
        if several and not self.target:
            raise ValueError("target=[] names no class; name one or more, or leave it out")
        named = tuple(map(str, self.target)) if several else None if self.target is None else str(self.target)
        object.__setattr__(self, "target", named)
        check_range("n_forget", self.n_forget, 1, null=True)

    @property
    def sets(self) -> dict[str, str]:
        """Those that are evaluated beside the usual ones, with their headings."""
        return {} if self.n_forget is None else {DRAWN: "forget random %"}

    @property
    def targets(self) -> tuple[str | None, ...]:
        """What is named; (None,): the default."""
        return self.target if isinstance(self.target, tuple) else (self.target,)


def find_classes(
    targets: Sequence[str | None], names: tuple[str, ...], aliases: Mapping[str, str], fallback: list[str]
) -> list[int]:
    """Indices of classes given by name, by another name, or by index, ascending; `fallback` names the default first."""
    found: list[int] = []
    for target in targets:
        index = find_class(target, names, aliases, fallback)
        if index in found:
            raise ConfigError(f"scenario.target names {names[index]} twice; name each class once")
        found.append(index)
    return sorted(found)


def find_class(
    target: str | None,
    names: tuple[str, ...],
    aliases: Mapping[str, str],
    fallback: list[str],
    setting: str = "scenario.target",
) -> int:
    """Index of a class given by name, by another name of it, or by index; `fallback` names the default first."""
    if target is None:
        if not fallback:
            raise ConfigError(f"{setting} must be given: this data set names no default for the scenario")
        target = fallback[0]
    target = aliases.get(str(target), str(target))
    if target not in names and target.isdecimal() and int(target) < len(names):
        return int(target)
    others = (alias for alias in aliases if normalize("NFC", alias) not in names)
    check_choice(setting, target, (*names, *others) if target not in names else names)
    return names.index(target)


def class_request(
    asked: Classes, scenario: str, dataset: Dataset, level: str, select_by: str, indices: list[int], seed: int
) -> Request:
    """To forget these classes: `level` is what the model is trained on, `select_by` where the classes lie.

    Raises ConfigError for a request that leaves nothing to keep, to forget or to see it by.
    """
    group, test_group = (dataset.labelled(part, select_by) for part in (dataset.train, dataset.test))
    labels = dataset.labelled(dataset.train, level)
    names, classes = dataset.names(select_by), torch.tensor(indices)
    _check(names, indices, group, test_group)
    in_classes = torch.isin(group, classes)
    forget = by_class(in_classes.nonzero().flatten(), group)
    if asked.placebo:
        draws = generator(seed, "placebo")
        of_each = [(group == index).nonzero().flatten() for index in indices]
        halves = [rows[torch.randperm(len(rows), generator=draws)[: len(rows) // 2]] for rows in of_each]
        forget = torch.cat([half.sort().values for half in halves])
    others = (~in_classes).nonzero().flatten()
    drawn = _drawn(others, asked.n_forget, seed)
    held = torch.zeros(len(group), dtype=torch.bool)
    held[forget], held[drawn] = asked.placebo, asked.placebo
    kept = ~held if asked.placebo else ~in_classes
    kept[drawn] = False
    retain = by_class(kept.nonzero().flatten(), group)
    check_no_class_is_gone(dataset.names(level), labels, retain, set(indices) if select_by == level else set())
    forget = torch.cat([forget, drawn])
    of_classes = torch.isin(test_group, classes)
    sets = {
        "retain": ("test", by_class((~of_classes).nonzero().flatten(), test_group)),
        "forget": ("test", by_class(of_classes.nonzero().flatten(), test_group)),
        "test": ("test", torch.arange(len(test_group))),
        "retain_train": ("train", retain),
        "forget_train": ("train", forget),
    }
    of_target = labels[forget[: len(forget) - len(drawn)]].unique().tolist()
    one = len(indices) == 1 and not len(drawn)
    return Request(
        scenario=scenario,
        target="+".join([*(names[i] for i in indices), *([f"{len(drawn)} random"] if len(drawn) else [])]),
        target_index=indices[0] if one else None,
        classes=dataset.names(level),
        train_labels=labels,
        test_labels=dataset.labelled(dataset.test, level),
        group=group,
        train=(~held).nonzero().flatten(),
        retain=retain,
        forget=forget,
        sets=sets | ({DRAWN: ("train", drawn)} if len(drawn) else {}),
        forget_label=of_target[0] if len(of_target) == 1 and not len(drawn) else None,
        forget_labels=tuple(of_target),
        placebo=asked.placebo,
        drawn=asked.placebo or len(drawn) > 0,
    )


def _check(names: tuple[str, ...], indices: list[int], group: Tensor, test_group: Tensor) -> None:
    for index in indices:
        n, seen = int((group == index).sum()), int((test_group == index).sum())
        if n < 2:
            raise ConfigError(f"scenario.target={names[index]} has {n} training images; at least 2 are needed")
        if seen == 0:
            raise ConfigError(f"scenario.target={names[index]} has no test images left; D'_f would be empty")
    if torch.isin(test_group, torch.tensor(indices)).all():
        only = "is the only class" if len(indices) == 1 else "are all classes"
        target = ",".join(names[i] for i in indices)
        raise ConfigError(f"scenario.target={target} {only} with test images; D'_r would be empty")


def _drawn(others: Tensor, n: int | None, seed: int) -> Tensor:
    """So many of the images of other classes: int64, ascending."""
    if n is None:
        return others[:0]
    if n >= len(others):
        raise ConfigError(
            f"scenario.n_forget={n} of {len(others)} images of other classes; allowed: 1 to {len(others) - 1}"
        )
    return others[torch.randperm(len(others), generator=generator(seed, "forget"))[:n]].sort().values


def check_no_class_is_gone(names: tuple[str, ...], labels: Tensor, retain: Tensor, but: set[int]) -> None:
    """Raise ConfigError where a label that training images have is on none of those that stay, but for these."""
    gone = sorted(set(labels.unique().tolist()) - set(labels[retain].unique().tolist()) - but)
    if gone:
        name = names[gone[0]]
        raise ConfigError(
            f"scenario: the request leaves no training image of {name}; forget fewer, or the class as a whole "
            f"(scenario=full_class scenario.target={name})"
        )


def by_class(rows: Tensor, group: Tensor) -> Tensor:
    """Rows class by class, in stored order inside each: the released code's order of D_r and D'_r."""
    return rows[group[rows].argsort(stable=True)]
