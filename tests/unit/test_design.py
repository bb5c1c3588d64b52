"""The design of a pool: what every model is trained on, whatever the seed, the sizes and the classes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_bench.core.design import Parts, divide
from ssd_bench.core.errors import ConfigError

PARTS = Parts(core=0.5, single=0.4, blocks=4, block=0.01)
SIZES = st.lists(st.integers(40, 90), min_size=2, max_size=6)  # images of each class


def classes(sizes, seed=0):
    fine = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return fine[torch.randperm(len(fine), generator=torch.Generator().manual_seed(seed))]


@given(SIZES, st.integers(0, 1000), st.sampled_from([4, 8, 16, 32]))
@settings(max_examples=40, deadline=None)
def test_the_parts_cover_the_images_and_every_pair_is_complementary(sizes, seed, models):
    fine = classes(sizes)
    design = divide(fine, PARTS, {"zero": 0}, seed)
    parts = [design.core, design.audit, design.reserve]
    assert torch.cat(parts).sort().values.tolist() == list(range(len(fine)))
    member = design.member(models)
    assert member.shape == (models, len(design.audit))
    assert (member[0::2] ^ member[1::2]).all()
    assert (member.sum(0) == models // 2).all()
    for m in (0, models - 1):
        expected = {*design.core.tolist(), *design.audit[member[m]].tolist()}
        assert design.rows(m).tolist() == sorted(expected)


@given(SIZES, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_half_is_stratified_and_every_class_gives_what_its_share_is(sizes, seed):
    fine = classes(sizes)
    design = divide(fine, PARTS, {}, seed)
    counts = torch.bincount(design.strata, minlength=len(sizes))
    assert counts.tolist() == [2 * int(0.4 * n / 2 + 1e-9) for n in sizes]
    assert torch.bincount(fine[design.core], minlength=len(sizes)).tolist() == [n // 2 for n in sizes]
    for row in design.member(8)[:, : len(design.single)]:
        assert (torch.bincount(design.strata[row], minlength=len(sizes)) * 2 == counts).all()


@pytest.mark.parametrize("models", [8, 16, 32, 64])
def test_any_two_blocks_have_a_quarter_of_the_models_in_each_state(models):
    design = divide(classes([100] * 5), Parts(0.5, 0.3, blocks=models // 2 + 1, block=0.002), {}, 3)
    assert design.apart(models) == models // 2
    columns, start = [], len(design.single)
    for rows in design.blocks.values():
        of_block = design.member(models)[:, start : start + len(rows)]
        assert (of_block == of_block[:, :1]).all()  # as a whole or not at all
        columns.append(of_block[:, 0])
        start += len(rows)
    for i, one in enumerate(columns[: models // 2]):
        for other in columns[:i]:
            states = 2 * one.long() + other.long()
            assert torch.bincount(states, minlength=4).tolist() == [models // 4] * 4
    same = columns[-1] == columns[0]  # one block too many: it goes with the first, or against it
    assert same.all() or not same.any()
    of_double = design.member(2 * models)[:, [len(design.single), -1]]
    assert torch.bincount(2 * of_double[:, 0].long() + of_double[:, 1].long()).tolist() == [models // 2] * 4


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_larger_pool_begins_with_the_smaller_one(seed):
    design = divide(classes([40, 50, 60]), PARTS, {"two": 2}, seed)
    whole = design.member(64)
    for models in (4, 8, 16, 32):
        assert (design.member(models) == whole[:models]).all()


def test_the_draw_is_fixed_by_the_seed():
    fine = classes([30, 40])
    one, again, other = (divide(fine, PARTS, {}, seed) for seed in (5, 5, 6))
    assert (one.member(16) == again.member(16)).all()
    assert (one.audit == again.audit).all()
    assert not torch.equal(one.single, other.single)
    assert not torch.equal(one.member(16), other.member(16))
    halves = one.member(16)[0::2, : len(one.single)]
    assert len({tuple(half.tolist()) for half in halves}) == 8  # each pair draws anew
    fixed = divide(torch.arange(2).repeat_interleave(10), Parts(0.4, 0.4, blocks=0), {}, 0)
    assert fixed.single.tolist() == FIXED
    assert fixed.member(4)[0].long().tolist() == FIXED_HALF


FIXED, FIXED_HALF = [3, 4, 7, 8, 10, 12, 13, 19], [0, 1, 1, 0, 1, 0, 0, 1]


def test_blocks_are_spread_over_the_classes_and_no_model_holds_all():
    fine = classes([100] * 10)
    design = divide(fine, Parts(0.5, 0.4, blocks=8, block=0.01), {}, 1)
    for rows in design.blocks.values():
        assert torch.bincount(fine[rows], minlength=10).tolist() == [1] * 10
    held = design.member(32)[:, len(design.single) :].float().mean(1)
    assert held.max() < 1
    sizes = [len(design.rows(m)) for m in range(16)]
    assert max(sizes) <= 500 + 200 + 80
    assert min(sizes) >= 500 + 200


def test_a_sub_class_is_a_block_as_a_whole():
    fine = classes([30, 40, 50])
    design = divide(fine, PARTS, {"lamp": 1}, 0)
    assert design.blocks["lamp"].tolist() == (fine == 1).nonzero().flatten().tolist()
    assert list(design.blocks) == ["lamp", "random-0", "random-1", "random-2", "random-3"]
    assert not (fine[design.core] == 1).any()
    assert not (design.strata == 1).any()


def test_parts_that_do_not_fit():
    fine = classes([30, 40])
    with pytest.raises(ConfigError, match=r"8 blocks of 4 images do not fit: .* leave 7"):
        divide(fine, Parts(0.5, 0.4, blocks=8, block=0.05), {}, 0)
    with pytest.raises(ConfigError, match=r"pool.single=0.01 is less than two images"):
        divide(fine, Parts(0.5, 0.01, blocks=0), {}, 0)
    for wrong in ({"core": 0.9, "single": 0.2}, {"single": 0.0}, {"core": -0.1}, {"blocks": -1}, {"block": 0.0}):
        with pytest.raises(ValueError, match="got"):
            Parts(**wrong)
