"""What the models of a pool are asked to forget: sets of images, of which each model forgets those that it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Request
from ssd_bench.run.originals import Originals
from ssd_bench.run.pool import Pool
from ssd_bench.scenarios.classes import by_class

SINGLES = ("random", "hard", "easy")  # sets of single samples, of which every model holds about a half
BLOCKS = 4  # that target `blocks` stands for: each is an unlearning run of half of the models
USUAL, SHARE = 100, 8  # k, at most the number of single samples by this


@dataclass(frozen=True, eq=False)  # tensors compare item by item
class Target:
    """Rows of the training images. Where there are several sets, the models of pair p are judged on set p mod their
    number, and the set was chosen without them."""

    name: str
    rows: tuple[Tensor, ...]
    label: int | None = None  # of a whole class of those that models learn; every model holds most of it

    @property
    def single(self) -> bool:
        """Whether each of its images is one by itself, in half of the models."""
        return self.label is None and self.name in SINGLES

    @property
    def block(self) -> bool:
        """Whether it is one that a model holds as a whole or not at all."""
        return self.label is None and not self.single

    def of(self, model: int) -> Tensor:
        """The rows that this model is asked about."""
        return self.rows[model // 2 % len(self.rows)]


def k_of(pool: Pool) -> int:
    """Images of a target that a model holds, on average. Raises ConfigError where there are not enough."""
    singles = len(pool.design.single)
    k = pool.asked.k or min(USUAL, max(1, singles // SHARE))
    if 2 * k >= singles:
        raise ConfigError(f"pool.k={k}: a target of {2 * k} single samples leaves none of {singles}; take fewer")
    return k


def names(pool: Pool) -> list[str]:
    """The targets that are asked for, each once, `blocks` spelt out. Raises ConfigError for those that do not exist."""
    blocks, classes, found = list(pool.design.blocks), pool.bench.request.classes, {}
    for asked in map(str, pool.asked.targets):
        name = pool.dataset.aliases.get(asked, asked)
        check_choice("pool.targets", name, (*SINGLES, *(["blocks"] if blocks else []), *blocks, *classes))
        found |= dict.fromkeys(
            blocks[: min(BLOCKS, pool.design.apart(pool.asked.size))] if name == "blocks" else [name]
        )
    if apart := set(found).intersection(blocks) - set(blocks[: pool.design.apart(pool.asked.size)]):
        raise ConfigError(f"pool.targets={sorted(apart)[0]}: in a pool of {pool.asked.size} it goes with another block")
    return list(found)


def targets(pool: Pool, originals: Originals | None) -> list[Target]:
    """The targets that are asked for. Without the originals, what is chosen by them is drawn at random: to count."""
    single, n = pool.design.single, 2 * k_of(pool)
    drawn = torch.randperm(len(single), generator=generator(pool.asked.seed, "pool", "target"))[:n].sort().values
    found = []
    for name in names(pool):
        label = None
        if name in pool.design.blocks:
            rows = [pool.design.blocks[name]]
        elif name not in SINGLES:
            label = pool.bench.request.classes.index(name)
            rows = [(pool.bench.request.train_labels == label).nonzero().flatten()]
        elif name == "random" or originals is None:
            rows = [single[drawn]]
        else:
            rows = [single[torch.from_numpy(places)] for places in originals.chosen(n, easy=name == "easy")]
        found.append(Target(name, tuple(rows), label))
    return found


def scenario_of(pool: Pool, target: Target) -> str:
    """The scenario that a method is told, and has its settings for: a class, a sub-class, or images whatever theirs."""
    if target.label is not None:
        return "full_class"
    return "sub_class" if target.name in pool.dataset.fine_names and target.block else "random"


def request(pool: Pool, m: int, target: Target, placebo: bool = False) -> Request:
    """What model m is to forget: the rows of the target that it holds; placebo: those that its twin holds instead.

    Raises ConfigError where there are none.
    """
    rows, member = target.of(m), pool.members[m].rows
    held = torch.isin(rows, member)
    forget = rows[~held if placebo else held]
    if not len(forget):
        raise ConfigError(f"model {m} holds none of target {target.name}; take a larger pool.k")
    base = pool.bench.request
    order = torch.randperm(len(base.train_labels), generator=generator(pool.asked.seed, "pool", "request"))
    retain = _in_order(order, member[~torch.isin(member, forget)])
    asked = replace(base, train=member, retain=retain, forget=_in_order(order, forget), sets={}, placebo=placebo)
    if (scenario := scenario_of(pool, target)) == "random":
        return asked
    group = base.train_labels if scenario == "full_class" else pool.dataset.train.fine
    return replace(
        asked, scenario=scenario, target=target.name, target_index=int(group[rows[0]]), group=group, forget=forget,
        retain=by_class(retain.sort().values, group), forget_label=int(base.train_labels[rows[0]]),
    )  # fmt: skip


def _in_order(order: Tensor, rows: Tensor) -> Tensor:
    """These rows as the random scenario would have drawn them."""
    return order[torch.isin(order, rows)]


def holders(pool: Pool, target: Target) -> list[int]:
    """The models that are asked to forget it: those that hold the block; all; of a class, the first of them."""
    models = list(range(pool.asked.size))
    if target.label is not None:
        return models[: pool.asked.class_models]
    if not target.block:
        return models
    return [m for m in models if torch.isin(target.rows[0][:1], pool.members[m].rows).item()]
