"""What the class scenarios share: finding a class by name, and the task of forgetting it."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Request


def find_class(
    target: str | None,
    names: tuple[str, ...],
    aliases: dict[str, str],
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
    check_choice(setting, target, (*names, *aliases) if target not in names else names)
    return names.index(target)


def class_request(
    scenario: str, dataset: Dataset, level: str, select_by: str, index: int, placebo: bool, seed: int
) -> Request:
    """The task of forgetting one class: `level` is what the model is trained on, `select_by` where the class lies."""
    names = dataset.names(select_by)
    train_group, test_group = (dataset.labelled(part, select_by) for part in (dataset.train, dataset.test))
    labels = dataset.labelled(dataset.train, level)
    in_class = (train_group == index).nonzero().flatten()
    if len(in_class) < 2:
        raise ConfigError(f"scenario.target={names[index]} has {len(in_class)} training images; at least 2 are needed")
    test_of_class = (test_group == index).nonzero().flatten()
    if len(test_of_class) == 0:
        raise ConfigError(f"scenario.target={names[index]} has no test images left; D'_f would be empty")
    if len(test_of_class) == len(test_group):
        raise ConfigError(f"scenario.target={names[index]} is the only class with test images; D'_r would be empty")
    forget, held = in_class, torch.zeros(len(train_group), dtype=torch.bool)
    if placebo:
        half = torch.randperm(len(in_class), generator=generator(seed, "placebo"))[: len(in_class) // 2]
        forget = in_class[half].sort().values
        held[forget] = True
    retain_mask = ~held if placebo else train_group != index
    retain = by_class(retain_mask.nonzero().flatten(), train_group)
    retain_test = by_class((test_group != index).nonzero().flatten(), test_group)
    return Request(
        scenario=scenario,
        target=names[index],
        target_index=index,
        classes=dataset.names(level),
        train_labels=labels,
        test_labels=dataset.labelled(dataset.test, level),
        group=train_group,
        train=(~held).nonzero().flatten(),
        retain=retain,
        forget=forget,
        sets={
            "retain": ("test", retain_test),
            "forget": ("test", test_of_class),
            "test": ("test", torch.arange(len(test_group))),
            "retain_train": ("train", retain),
            "forget_train": ("train", forget),
        },
        forget_label=int(labels[forget[0]]),
        placebo=placebo,
        drawn=placebo,
    )


def by_class(rows: Tensor, group: Tensor) -> Tensor:
    """Rows class by class, in stored order inside each: the released code's order of D_r and D'_r."""
    return rows[group[rows].argsort(stable=True)]
