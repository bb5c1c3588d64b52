"""How methods on a pool are judged: on simulated margins, where the truth is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from ssd_bench.core.about import About
from ssd_bench.core.design import Parts, divide
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Pooled
from ssd_bench.metrics.lira import pair_left_out
from ssd_bench.metrics.roc import auc, tpr_at
from ssd_bench.report.attacks import roc
from ssd_bench.run.forgetting import Said
from ssd_bench.run.judged import Judge, _share, scores_of
from ssd_bench.run.originals import Originals
from ssd_bench.run.pool import PoolSettings
from ssd_bench.run.pool_metrics import numbers_of
from ssd_bench.run.requests import Target

FINE = torch.arange(10).repeat_interleave(40)


class Made:
    """A pool of simulated models; forgotten: by how much a member's margin is too high after unlearning."""

    def __init__(self, models, shift=2.0, seed=0, draws=100):
        self.rng = np.random.default_rng(seed)
        self.design = divide(FINE, Parts(core=0.4, single=0.5, blocks=2, block=0.03), {}, seed)
        self.member = self.design.member(models).numpy()
        self.mean = self.rng.normal(2, 1, size=self.member.shape[1])
        self.shift = shift
        asked = PoolSettings(size=models, draws=draws)
        dataset = SimpleNamespace(fine_names=[str(c) for c in range(10)], train=SimpleNamespace(fine=FINE))
        self.pool = SimpleNamespace(design=self.design, asked=asked, dataset=dataset, metrics={})
        self.originals = self.of(self.said(shift))

    def of(self, said):
        return Originals(self.pool, said.margin, said.correct, self.member, said.test_correct, said.test_margin)

    def said(self, shift):
        """What models say whose members' margins are higher by so much (one number, or of each audit sample)."""
        margin = self.mean + self.rng.normal(size=self.member.shape) + shift * self.member
        test = self.rng.normal(2, 1, size=(len(margin), 30))
        return Said(margin, margin > 0, test, test > 0, 0.5)

    def target(self, n=60, sets=1):
        single = self.design.single
        return Target("random", tuple(single[i : i + n] for i in range(sets)))

    def judge(self, **how):
        return Judge(self.originals, [self.target(**how)])

    def blocks(self):
        return Judge(self.originals, [Target(name, (rows,)) for name, rows in self.design.blocks.items()])


def values(numbers):
    return {name: number["value"] for name, number in numbers.items()}


def test_the_original_as_a_method_is_attacked_as_originals_are():
    made = Made(16)
    judge = made.judge(n=len(made.design.single) - 1)
    found = judge.numbers(judge.method([judge._before]))
    inside, outside = (of[:, judge.places[0]] for of in made.originals.split(made.originals.margin))
    assert found["auc"]["value"] == pytest.approx(auc(*pair_left_out(inside, outside)))
    assert values(found) == values(judge.numbers(judge.original()))
    assert found["ruli_privacy_auc"] == found["ruli_efficacy_auc"]  # nothing was changed


@pytest.mark.parametrize(("models", "sets"), [(32, 1), (32, 2), (64, 1)])
def test_retraining_has_forgotten_and_doing_nothing_has_not(models, sets):
    made = Made(models)
    judge = made.judge(sets=sets)
    (target,) = judge.targets
    held = torch.isin(made.design.audit, torch.cat(target.rows)).numpy()
    found = judge.numbers(judge.method([made.said(np.where(held, 0.0, 2.0))]))
    assert found["auc"]["low"] <= 0.5 <= found["auc"]["high"]
    assert found["ruli_efficacy_auc"]["low"] <= 0.5 <= found["ruli_efficacy_auc"]["high"]
    assert found["others_auc"]["value"] > 0.8  # what was not to be forgotten is known as before
    before = judge.numbers(judge.original())
    assert before["auc"]["low"] > 0.8
    if sets == 1:
        assert found["leaking"]["value"] < 5 < before["leaking"]["value"]
        assert found["worst_auc"]["low"] <= 0.5 <= found["worst_auc"]["high"]
        assert before["worse"]["value"] == 0
    else:
        assert "needs 64 models" in found["leaking"]["reason"]
    floor = judge.numbers(judge.retrained())
    assert floor["auc"]["low"] <= 0.5 <= floor["auc"]["high"]
    assert floor["auc"]["models"] == models // 2


def test_the_interval_of_a_share_knows_what_pairs_have_in_common():
    exact = binomtest(200, 400).proportion_ci(method="exact")
    same = _share(lambda pairs: np.arange(400) < 200, 16)  # whatever pairs are left out
    assert same["value"] == 50
    assert 0 < 100 * exact.low - same["low"] < 2
    by_pairs = _share(lambda pairs: np.arange(400) < 200 + 100 * (int(pairs[0]) - int(pairs[1])), 16)
    assert by_pairs["high"] - by_pairs["low"] > 3 * (same["high"] - same["low"])
    none = _share(lambda pairs: np.zeros(400, dtype=bool), 16)
    assert (none["value"], none["low"]) == (0, 0)
    assert none["high"] == pytest.approx(100 * binomtest(0, 400).proportion_ci(method="exact").high)


class Gap:
    """A metric that is brought along: by how much margins of those that forgot are too high."""

    about: ClassVar = {"gap": About("nats", "0"), "gain": About("nats")}

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, pool):
        self.seen.append(Pooled(*(values.copy() for values in vars(pool).values())))
        found = {"gap": (pool.inside - pool.outside).mean(), "gain": (pool.inside_before - pool.outside_before).mean()}
        for values in vars(pool).values():
            values[:] = 0  # they are its own
        return found


@pytest.mark.parametrize("sets", [1, 2])
def test_a_metric_that_is_brought_along_sees_each_pair_s_own_samples(sets):
    made, seen = Made(32), []
    made.pool.metrics = {"mine": Gap(seen)}
    judge = made.judge(n=50, sets=sets)
    found = judge.numbers(judge.method([made.said(0.5)]))
    inside, outside = (of[:, : made.originals.singles] for of in judge._split(made.originals.margin))
    for p in range(16):
        places = judge.places[p % sets]
        np.testing.assert_array_equal(seen[0].inside_before[p], inside[p, places])
        np.testing.assert_array_equal(seen[0].outside_before[p], outside[p, places])
    assert [len(each.inside) for each in seen] == [16, *[14] * 8]
    assert found["gap"]["low"] <= 0.5 <= found["gap"]["high"]
    assert found["gain"]["low"] <= made.shift <= found["gain"]["high"]
    assert found["gap"]["models"] == 32
    few = Made(16)
    few.pool.metrics = {"mine": Gap([])}
    number = few.judge(n=50, sets=2).numbers(few.judge(n=50, sets=2).original())["gap"]
    assert number == {"value": None, "reason": "an interval needs 32 models, there are 16"}


def test_its_interval_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        of_models = rng.normal(size=(16, 1))  # what all samples of a model share
        pooled = Pooled(*(of_models + rng.normal(size=(16, 30)), *np.zeros((3, 16, 30))))
        number = numbers_of({"mine": Gap([])}, pooled, 1)["gap"]
        held += number["low"] <= 0 <= number["high"]
    assert binomtest(held, 400, 0.95).pvalue > 0.001


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        ({"gap": "x"}, "metric mine returned gap=x; allowed: a finite number, or None"),
        ({"gip": 1.0}, "metric mine returned gip, which its about does not describe"),
        ({"auc": 1.0}, "a metric returns auc, a number that every pool has; rename it"),
        (3, "metric mine returned int; allowed: a dict of named numbers"),
    ],
)
def test_what_a_metric_that_is_brought_along_may_not_return(returns, said):
    made, about = Made(16), {name: About() for name in ("gap", "auc")}
    made.pool.metrics = {"mine": type("Mine", (), {"about": about, "__call__": lambda self, pool: returns})()}
    judge = made.judge()
    with pytest.raises(ConfigError, match=said):
        judge.numbers(judge.original())


def test_a_value_that_is_not_finite_is_none_and_the_table_stands():
    made = Made(16)
    returns = {"gap": np.float64("nan"), "gain": 1.0}
    made.pool.metrics = {"mine": type("Mine", (), {"about": Gap.about, "__call__": lambda self, pool: returns})()}
    judge = made.judge()
    found = judge.numbers(judge.original())
    assert found["gap"]["value"] is None
    assert "no value for these models" in found["gap"]["reason"]
    assert (found["gain"]["low"], found["gain"]["high"]) == (1, 1)


def test_too_much_is_seen_as_well_as_too_little():
    made = Made(32)
    judge = made.judge()
    found = judge.numbers(judge.method([made.said(-3.0)]))
    assert found["auc"]["low"] > 0.9  # the attack has learnt that the forgotten have too low margins
    assert found["leaking"]["value"] > 90
    assert found["worst_auc"]["value"] > 0.9
    assert found["worse"]["value"] > 30


def test_each_set_is_judged_on_the_pairs_that_did_not_choose_it():
    made = Made(32, shift=0.0)
    judge = made.judge(n=40, sets=2)
    margin = made.originals.margin.copy()
    place = judge.places[0][0]
    assert place not in judge.places[1]
    of_odd_pairs = (np.arange(32) // 2 % 2 == 1) & made.member[:, place]
    margin[of_odd_pairs, place] += 100.0  # says nothing of the first set, which even pairs are asked about
    correct = made.originals.correct.copy()
    correct[of_odd_pairs, place] ^= True
    other = Judge(made.of(Said(margin, correct, np.zeros((32, 2)), np.zeros((32, 2)), 0.0)), judge.targets)
    for line in ("original", "retrained"):
        ours, theirs = (each.numbers(getattr(each, line)()) for each in (judge, other))
        assert ours["accuracy_forgotten"] == theirs["accuracy_forgotten"]
    assert values(other.attacked((other.original().inside, other.original().outside), judge.places)) == values(
        judge.attacked((judge.original().inside, judge.original().outside), judge.places)
    )


def test_what_was_chosen_on_other_models_does_not_seem_to_leak():
    """Methods start from the original: models that never held a sample stay as they were when it was chosen."""
    crossed, naive = [], []
    for seed in range(24):
        made = Made(16, shift=0.0, seed=seed)
        said, before = made.said(0.0), made.originals.margin
        said = replace(said, margin=np.where(made.member, said.margin, before))
        single = made.design.single
        rows = tuple(single[places] for places in made.originals.chosen(20))
        inside, outside = made.originals.split(before)
        most = np.sort(np.argsort(-(inside - outside).mean(axis=0))[:20])
        for found, sets in ((crossed, rows), (naive, (single[most],))):
            judge = Judge(made.originals, [Target("hard", sets)])
            line = judge.method([said])
            found.append(auc(*scores_of((line.inside, line.outside), judge.places)))
    assert np.mean(crossed) == pytest.approx(0.5, abs=0.025)  # four standard errors
    assert np.mean(naive) > 0.525


def test_models_that_never_held_are_held_against_others_that_did_not_choose_the_set_either():
    made = Made(16)
    judge = made.judge(sets=2)
    never, line = judge.original().outside, judge.retrained()
    for of in (line.inside, line.outside):
        assert [next(p for p in range(8) if (never[p] == row).all()) % 2 for row in of] == [0, 1, 0, 1]
    assert len(np.unique(np.concatenate([line.inside, line.outside])[:, 0])) == 8


def test_swapping_the_twins_swaps_members_and_placebo():
    made = Made(16)
    judge, asked, said = made.judge(), made.said(1.0), made.said(0.5)
    line = judge.placebo(asked, said)
    for pair in range(8):
        for x in range(0, 60, 7):
            m = 2 * pair + int(made.member[2 * pair, x])  # which does not hold x
            assert line.inside[pair, x] == asked.margin[m, x]
            assert line.outside[pair, x] == said.margin[m, x]
    flipped = Judge(replace(made.originals, member=~made.member), judge.targets)
    assert (flipped.method([asked]).inside == line.inside).all()
    assert "others_auc" not in judge.numbers(line)


def test_the_order_of_pairs_and_samples_changes_no_number():
    made = Made(16)
    judge, said = made.judge(), made.said(1.0)
    order = made.rng.permutation(8)
    twins = np.stack([2 * order + 1, 2 * order], axis=1).ravel()
    moved = {name: getattr(made.originals, name)[twins]
             for name in ("margin", "correct", "member", "test_correct", "test_margin")}  # fmt: skip
    other = Judge(Originals(made.pool, **moved), [Target("random", (judge.targets[0].rows[0].flip(0),))])
    shuffled = Said(said.margin[twins], said.correct[twins], said.test_margin[twins], said.test_correct[twins], 0.5)
    expected = values(judge.numbers(judge.method([said])))
    assert values(other.numbers(other.method([shuffled]))) == pytest.approx(expected)


@pytest.mark.parametrize(("models", "there"), [(8, set()), (16, {"auc"}), (64, {"auc", "gaussian_kl"}),
                                               (128, {"auc", "gaussian_kl", "klom", "quality"})])  # fmt: skip
def test_blocks_are_held_against_models_that_never_held_them(models, there, monkeypatch):
    monkeypatch.setattr("ssd_bench.run.judged.TESTED", 20)
    made = Made(models)
    judge = made.blocks()
    exact = judge.numbers(judge.method([made.said(0.0)] * 2))
    assert {name for name in ("auc", "gaussian_kl", "klom", "quality") if exact[name]["value"] is not None} == there
    if "auc" in there:
        assert exact["auc"]["low"] <= 0.5 <= exact["auc"]["high"]
        assert judge.numbers(judge.original())["auc"]["low"] > 0.6
    if models < 128:
        return
    wrong, floor = judge.numbers(judge.original()), judge.numbers(judge.retrained())
    for name in ("klom", "gaussian_kl"):
        assert exact[name]["low"] <= exact[name]["ideal"] <= exact[name]["high"]
        assert wrong[name]["low"] > wrong[name]["ideal"] == floor[name]["value"] == exact[name]["ideal"]
        assert exact[name]["a_side"] == 32
        for elsewhere in (f"{name}_others", f"{name}_test"):  # exact or not, nothing else was changed
            assert wrong[elsewhere]["low"] <= wrong[elsewhere]["ideal"] <= wrong[elsewhere]["high"]
    assert wrong["klom_p95"]["value"] > wrong["klom"]["value"]
    assert wrong["quality"]["high"] < wrong["quality"]["ideal"]


def test_what_was_not_to_be_forgotten_is_seen_to_be_harmed():
    """Models that hold a block and have forgotten it, on single samples; half of the models hold each of these."""
    made = Made(64)
    judge, single = made.blocks(), np.arange(made.member.shape[1]) < len(made.design.single)
    before = judge._before
    number = judge.numbers(judge.method([before] * 2))["gaussian_kl_others"]
    assert number["low"] <= number["ideal"] <= number["high"]  # nothing was done to them
    harmed = replace(before, margin=before.margin - 1.5 * single)
    found = judge.numbers(judge.method([harmed] * 2))
    assert found["gaussian_kl_others"]["low"] > found["gaussian_kl_others"]["ideal"] + 0.2
    assert found["gaussian_kl_test"]["low"] < found["gaussian_kl_test"]["ideal"]
    assert "needs 128 models" in found["klom_others"]["reason"]
    ours, theirs = judge.method([harmed] * 2).apart["_others"]
    assert ours.shape == theirs.shape == (32, 2 * len(made.design.single))
    held = made.member[0::2, judge.places[0][0]]
    drawn = judge._some("others", int(single.sum()))
    assert (ours[held, 0] == harmed.margin[0::2][held, drawn[0]]).all()
    assert (theirs[held, 0] == before.margin[1::2][held, drawn[0]]).all()


def test_a_block_is_read_of_the_models_that_have_forgotten_it():
    made = Made(8)
    judge = made.blocks()
    said = [made.said(0.0) for _ in judge.targets]
    line, at = judge.method(said), 0
    for target, of_target in zip(judge.targets, said, strict=True):
        for place in judge.places[0][at : at + len(target.rows[0])]:
            for pair in range(4):
                m = 2 * pair + int(not made.member[2 * pair, place])
                assert line.inside[pair, place] == of_target.margin[m, place]
                assert line.never[pair, place] == made.originals.margin[m ^ 1, place]
        at += len(target.rows[0])
    ours, theirs = line.apart["_test"]
    first = judge.places[0][0]
    m = int(not made.member[0, first])
    assert set(ours[0, :30]) == set(said[0].test_margin[m])
    assert set(theirs[0, :30]) == set(made.originals.test_margin[m ^ 1])


def test_every_number_has_its_models_and_an_interval_or_a_reason():
    made = Made(16)
    for judge in (made.judge(), made.judge(sets=2), made.blocks()):
        for line in (judge.original(), judge.retrained(), judge.method([made.said(1.0)] * len(judge.targets))):
            for name, number in judge.numbers(line).items():
                if number["value"] is None:
                    assert "needs" in number["reason"], name
                else:
                    assert number["low"] <= number["value"] <= number["high"], name
                    assert number["models"] > 0


def test_the_table_of_samples():
    made = Made(32)
    judge = made.judge()
    table = judge.table(judge.method([made.said(0.0)]))
    assert sum(table["forgotten"]) == 60
    assert table["row"] == made.design.single.tolist()
    assert table["auc_before"][table["forgotten"]].mean() > 0.8 > table["auc"][table["forgotten"]].mean()
    assert "p" not in made.blocks().table(Made(16).blocks().original())


def test_what_pictures_show():
    made = Made(16)
    made.mean[5] = 0.0
    margin = made.originals.margin.copy()
    place = made.judge().places[0][5]
    margin[:, place] += 50 * made.member[:, place]
    judge = Judge(replace(made.originals, margin=margin), [made.target()])
    lines = {"original": judge.original(), "retrained": judge.retrained(), "ssd": judge.method([made.said(0.0)])}
    scores, margins, row = judge.pictured(lines)
    assert row == int(made.design.audit[place])
    assert scores.keys() == {"original", "ssd"}  # there are not enough models for the other
    assert auc(*scores["ssd"]) == pytest.approx(judge.numbers(lines["ssd"])["auc"]["value"])
    assert margins["original"][0] == pytest.approx(margin[made.member[:, place], place])
    x, y = roc(scores).axes[0].lines[1].get_data()
    middle = np.abs(x - 0.1).argmin()
    assert y[middle] == pytest.approx(tpr_at(*scores["original"], x[middle]), abs=0.02)


def test_what_was_memorised_is_what_is_still_known():
    made = Made(32)
    shift = np.linspace(0, 3, made.member.shape[1])
    made.originals = made.of(made.said(shift))
    judge = made.judge(n=len(made.design.single) - 1)
    lines = {"original": judge.original(), "retrained": judge.retrained(), "none": judge.method([made.said(0.0)])}
    gains, known = judge.by_memorisation(lines)
    assert known.keys() == {"original", "none"}
    assert len(gains) == len(known["original"]) == 10
    assert gains[0] < 0.5 < 2 < gains[-1]
    assert known["original"][0] < 0.65 < 0.9 < known["original"][-1]
    assert np.abs(known["none"] - 0.5).max() < 0.08


def test_images_that_nobody_memorised_do_not_seem_to_leak_however_they_are_sorted():
    made = Made(32, shift=0.0)
    judge = made.judge(n=len(made.design.single) - 1)
    gains, known = judge.by_memorisation({"original": judge.original()})
    assert np.abs(gains).max() < 0.25
    assert np.abs(known["original"] - 0.5).max() < 0.08
