"""What the models of a pool are asked to forget: each what it holds, and nobody judged on what was chosen with it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssd_bench.core.dataset import Dataset, Part
from ssd_bench.core.design import Parts, divide
from ssd_bench.core.errors import ConfigError
from ssd_bench.run import requests
from ssd_bench.run.originals import Originals
from ssd_bench.run.pool import PoolSettings
from ssd_bench.scenarios.random import Random

FINE = torch.arange(6).repeat_interleave(40)


def made(models=8, **asked):
    """A pool whose models learn two coarse classes of three fine ones each; the fine class "lamp" is a block."""
    part = Part(torch.zeros(len(FINE), 1, 2, 2, dtype=torch.uint8), FINE)
    names = ("lamp", "sea", "rocket", "cat", "dog", "owl")
    dataset = Dataset("made", part, part, names, ("thing", "animal"), (0, 0, 0, 1, 1, 1), "coarse", {}, (0,), (1,), "f")
    design = divide(FINE, Parts(core=0.4, single=0.5, blocks=2, block=0.02), {"lamp": 0}, 0)
    members = [SimpleNamespace(rows=design.rows(m)) for m in range(models)]
    bench = SimpleNamespace(request=Random(n_forget=1)(dataset, {}, 0))
    settings = PoolSettings(size=models, **asked)
    return SimpleNamespace(design=design, asked=settings, dataset=dataset, members=members, bench=bench)


def originals(pool, seed=0):
    rng = np.random.default_rng(seed)
    member = pool.design.member(pool.asked.size).numpy()
    margin = rng.normal(size=member.shape)
    return Originals(pool, margin, margin > 0, member, np.zeros((len(member), 1)), np.zeros((len(member), 1)))


def test_a_model_forgets_what_it_holds_and_the_placebo_is_its_twins_request():
    pool = made(targets=["random"], k=10)
    (target,) = requests.targets(pool, None)
    assert len(target.rows[0]) == 20
    assert torch.isin(target.rows[0], pool.design.single).all()
    for m in range(8):
        asked, twins = requests.request(pool, m, target), requests.request(pool, m ^ 1, target)
        placebo = requests.request(pool, m, target, placebo=True)
        assert set(asked.forget.tolist()) == set(target.rows[0].tolist()) & set(pool.members[m].rows.tolist())
        assert set(placebo.forget.tolist()) == set(twins.forget.tolist())
        assert (placebo.placebo, asked.placebo) == (True, False)
        assert sorted(placebo.retain.tolist()) == placebo.train.tolist() == pool.members[m].rows.tolist()
        assert sorted([*asked.retain.tolist(), *asked.forget.tolist()]) == asked.train.tolist()
        assert asked.retain.tolist() != sorted(asked.retain.tolist())  # as the random scenario draws it


def test_a_random_target_follows_the_seed_alone_and_k_the_size():
    first, larger = (requests.targets(made(models, targets=["random"]), None)[0] for models in (8, 32))
    assert first.rows[0].equal(larger.rows[0])
    other = requests.targets(made(targets=["random"], seed=1), None)[0]
    assert not first.rows[0].equal(other.rows[0])
    assert len(first.rows[0]) == 2 * 12  # an eighth of 100 single samples
    with pytest.raises(ConfigError, match="leaves none of 100; take fewer"):
        requests.k_of(made(k=50))


@pytest.mark.parametrize(("name", "sign"), [("hard", 1), ("easy", -1)])
def test_few_models_choose_by_half_what_the_other_half_forgets(name, sign):
    pool = made(16, targets=[name], k=10)
    said = originals(pool)
    (target,) = requests.targets(pool, said)
    assert len(target.rows) == 2
    difference = sign * np.subtract(*said.split(said.margin))
    for judged, rows in enumerate(target.rows):
        chosen_on = difference[1 - judged :: 2].mean(axis=0)
        places = np.isin(pool.design.single.numpy(), rows.numpy())
        inside, outside = (of[1 - judged :: 2].mean(axis=0) for of in said.split(said.correct.astype(float)))
        allowed = (inside + outside >= 1) | (name == "hard")
        assert places.sum() == 20
        assert chosen_on[places].min() >= chosen_on[~places & allowed].max()
        assert allowed[places].all()
        assert all(target.of(m).equal(rows) for m in range(16) if m // 2 % 2 == judged)
    assert len(requests.targets(made(64, targets=[name]), originals(made(64)))[0].rows) == 1


def test_blocks_are_forgotten_by_those_that_hold_them_as_what_they_are():
    pool = made(targets=["blocks", "random-1"])
    targets = requests.targets(pool, None)
    assert [target.name for target in targets] == ["lamp", "random-0", "random-1"]
    assert [requests.scenario_of(pool, target) for target in targets] == ["sub_class", "random", "random"]
    for target in targets:
        holders = requests.holders(pool, target)
        assert len(holders) == 4
        assert {m // 2 for m in holders} == {0, 1, 2, 3}
        for m in holders:
            asked = requests.request(pool, m, target)
            assert sorted(asked.forget.tolist()) == target.rows[0].tolist()
    asked = requests.request(pool, requests.holders(pool, targets[0])[0], targets[0])
    assert (asked.scenario, asked.target, asked.target_index, asked.forget_label) == ("sub_class", "lamp", 0, 0)
    assert asked.group.equal(FINE)
    assert (FINE[asked.retain].diff() >= 0).all()
    with pytest.raises(ConfigError, match="holds none of target lamp"):
        requests.request(pool, (set(range(8)) - set(requests.holders(pool, targets[0]))).pop(), targets[0])


def test_targets_that_do_not_exist():
    with pytest.raises(ConfigError, match="did you mean 'hard'"):
        requests.names(made(targets=["hrd"]))
    with pytest.raises(ConfigError, match="goes with another block"):
        requests.names(made(4, targets=["random-1"]))


def test_a_class_is_forgotten_whole_by_the_first_models():
    pool = made(targets=["thing", "random"], class_models=4)
    target, single = requests.targets(pool, None)
    assert (target.label, target.block, target.single) == (0, False, False)
    assert single.single
    assert requests.scenario_of(pool, target) == "full_class"
    assert requests.holders(pool, target) == [0, 1, 2, 3]
    coarse = FINE // 3
    for m in range(4):
        asked, member = requests.request(pool, m, target), pool.members[m].rows
        assert asked.forget.tolist() == member[coarse[member] == 0].tolist()
        assert sorted(asked.retain.tolist()) == member[coarse[member] == 1].tolist()
    assert (asked.scenario, asked.target, asked.target_index, asked.forget_label) == ("full_class", "thing", 0, 0)
    assert asked.group.equal(coarse)
    with pytest.raises(ValueError, match="class_models must be a multiple of 4"):
        PoolSettings(class_models=6)
