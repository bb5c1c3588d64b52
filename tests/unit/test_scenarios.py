"""What is forgotten and what is retained, as sets of indices; no model needed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_bench.core.dataset import Dataset, Part
from ssd_bench.core.errors import ConfigError
from ssd_bench.data.cifar import (
    CIFAR10_NAMES,
    CIFAR20_ALIASES,
    CIFAR20_NAMES,
    CIFAR100_NAMES,
    COARSE_MEMBERS,
    COARSE_OF,
)
from ssd_bench.data.digits import Digits
from ssd_bench.scenarios.full_class import FullClass
from ssd_bench.scenarios.random import Random
from ssd_bench.scenarios.sub_class import SubClass

TARGETS = {"full_class": ["vehicle2"], "sub_class": ["rocket"]}
COARSE_NAMES_OF_19 = [CIFAR100_NAMES[f] for f in COARSE_MEMBERS[19]]


def dataset(per_class=5, test_per_class=2, labels="coarse"):
    """CIFAR-20 in miniature: all the labels, in a shuffled order, and no pixels to speak of."""

    def part(n, seed):
        fine = torch.arange(100).repeat(n)[torch.randperm(100 * n, generator=torch.Generator().manual_seed(seed))]
        return Part(torch.zeros(len(fine), 3, 1, 1, dtype=torch.uint8), fine)

    names = CIFAR20_NAMES if labels == "coarse" else ()
    of = COARSE_OF if labels == "coarse" else ()
    stats = ((0.5,) * 3, (0.25,) * 3)
    return Dataset(
        "cifar20",
        part(per_class, 0),
        part(test_per_class, 1),
        CIFAR100_NAMES,
        names,
        of,
        labels,
        CIFAR20_ALIASES,
        *stats,
        "x",
    )


def rows(task, name):
    return set(task.sets[name][1].tolist())


def assert_partition(task, n_train):
    forget, retain = set(task.forget.tolist()), set(task.retain.tolist())
    assert not forget & retain
    assert forget | retain == set(range(n_train))
    assert len(task.retain) + len(task.forget) == n_train
    assert rows(task, "retain_train") == retain
    assert rows(task, "forget_train") == forget


def test_names_are_the_official_ones():
    assert [CIFAR100_NAMES.index(n) for n in ("rocket", "mushroom", "baby", "lamp", "sea")] == [69, 51, 2, 40, 71]
    assert len(set(CIFAR100_NAMES)) == 100
    assert list(CIFAR100_NAMES) == sorted(CIFAR100_NAMES)
    assert len(set(CIFAR20_NAMES)) == 20
    assert len(set(CIFAR10_NAMES)) == 10
    assert sorted(f for members in COARSE_MEMBERS for f in members) == list(range(100))
    assert {CIFAR100_NAMES[f] for f in COARSE_MEMBERS[19]} == {"lawn_mower", "rocket", "streetcar", "tank", "tractor"}


def test_full_class():
    data = dataset()
    task = FullClass()(data, TARGETS, 0)
    assert (task.target, task.target_index, task.forget_label) == ("vehicle2", 19, 19)
    assert_partition(task, 500)
    assert (task.train_labels[task.forget] == 19).all()
    assert (task.train_labels[task.retain] != 19).all()
    assert len(task.forget) == 25
    assert (task.test_labels[task.sets["forget"][1]] == 19).all()
    assert (task.test_labels[task.sets["retain"][1]] != 19).all()
    assert len(rows(task, "forget")) == 10
    assert rows(task, "forget") | rows(task, "retain") == rows(task, "test") == set(range(200))


def test_retained_data_is_ordered_class_by_class_as_the_released_code_has_it():
    task = FullClass()(dataset(), TARGETS, 0)
    labels = task.train_labels[task.retain]
    assert (labels.diff() >= 0).all()
    for label in labels.unique():
        assert (task.retain[labels == label].diff() > 0).all()


@pytest.mark.parametrize("target", ["19", "vehicle2", "vehicles_2"])
def test_names_indices_and_aliases_are_one_target(target):
    task, default = (FullClass(target=t)(dataset(), TARGETS, 0) for t in (target, None))
    assert task.target == "vehicle2"
    assert task.forget_sha256 == default.forget_sha256


def test_sub_class():
    task = SubClass()(dataset(), TARGETS, 0)
    assert (task.target, task.target_index, task.forget_label) == ("rocket", 69, 19)
    assert_partition(task, 500)
    assert (task.group[task.forget] == 69).all()
    assert (task.train_labels[task.forget] == 19).all()
    assert (task.train_labels[task.retain] == 19).sum() == 20  # the superclass's other four stay
    assert len(rows(task, "forget")) == 2
    assert task.classes == CIFAR20_NAMES


def test_several_sub_classes_at_once():
    task = SubClass(target=["rocket", "lamp"])(dataset(), TARGETS, 0)
    assert (task.target, task.target_index, task.forget_label) == ("lamp+rocket", None, None)
    assert task.forget_labels == (5, 19)
    assert_partition(task, 500)
    assert task.group[task.forget].tolist() == [40] * 5 + [69] * 5  # class by class, for class-pure batches
    assert sorted(task.test_labels[task.sets["forget"][1]].tolist()) == [5, 5, 19, 19]
    assert rows(task, "forget") | rows(task, "retain") == rows(task, "test")
    assert SubClass(target=["lamp", "rocket"])(dataset(), TARGETS, 1).forget_sha256 == task.forget_sha256


def test_several_sub_classes_of_one_label_have_that_label():
    task = SubClass(target=["rocket", "tank"])(dataset(), TARGETS, 0)
    assert (task.forget_label, task.forget_labels) == (19, (19,))


def test_classes_and_random_images_at_once():
    task = FullClass(target=["vehicle2", "veg"], n_forget=20)(dataset(), TARGETS, 3)
    drawn = rows(task, "forget_drawn")
    assert task.target == "veg+vehicle2+20 random"
    assert (task.forget_label, task.forget_labels, task.drawn) == (None, (4, 19), True)
    assert_partition(task, 500)
    assert len(drawn) == 20
    assert drawn <= rows(task, "forget_train")
    assert not set(task.train_labels[list(drawn)].tolist()) & {4, 19}
    assert set(task.test_labels[task.sets["forget"][1]].tolist()) == {4, 19}
    assert rows(FullClass(target="veg", n_forget=20)(dataset(), TARGETS, 4), "forget_drawn") != drawn


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.integers(0, 19), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(1, 60)),
    st.booleans(),
    st.integers(0, 50),
)
def test_splits_part_the_data_whatever_is_asked(classes, n_forget, placebo, seed):
    asked = FullClass(target=sorted(map(str, classes)), n_forget=n_forget, placebo=placebo)
    task = asked(dataset(), TARGETS, seed)
    assert_partition(task, 500)
    assert set(task.train.tolist()) == (rows(task, "retain_train") if placebo else set(range(500)))
    assert rows(task, "forget") | rows(task, "retain") == set(range(200))
    assert not rows(task, "forget") & rows(task, "retain")
    assert len(task.sets.get("forget_drawn", (0, ()))[1]) == (n_forget or 0)


def test_digits_have_sub_classes_too():
    data = Digits().load()
    task = SubClass(target="8")(data, {}, 0)
    assert task.classes == ("looped", "straight", "curved")
    assert task.forget_label == 0
    assert (data.train.fine[task.forget] == 8).all()
    assert FullClass(target="8")(data, {}, 0).classes == tuple("0123456789")


def test_random():
    task = Random(n_forget=20)(dataset(), {}, 3)
    assert_partition(task, 500)
    assert len(task.forget) == 20
    assert task.sets["forget"] == ("train", task.forget)  # D'_f is D_f itself
    assert rows(task, "retain") == rows(task, "test") == set(range(200))  # and D'_r all of D'
    assert task.forget_label is None
    assert Random(n_forget=20)(dataset(), {}, 3).forget_sha256 == task.forget_sha256
    assert Random(n_forget=20)(dataset(), {}, 4).forget_sha256 != task.forget_sha256


def test_the_released_share_forgets_83_of_50000():
    assert Random(n_forget=None, fraction=0.00165)._share(50_000) == 83
    assert Random(n_forget=None, fraction=0.002)._share(50_000) == 100
    for total in (10_000, 20_000, 1437):
        expected = len(torch.utils.data.random_split(range(total), [0.00165, 1 - 0.00165])[0])
        assert Random(n_forget=None, fraction=0.00165)._share(total) == expected


@pytest.mark.parametrize(
    "scenario", [FullClass(placebo=True), SubClass(placebo=True), Random(n_forget=20, placebo=True)]
)
def test_a_placebo_was_never_trained_on(scenario):
    task = scenario(dataset(), TARGETS, 0)
    trained, forget = set(task.train.tolist()), set(task.forget.tolist())
    assert forget
    assert not trained & forget
    assert trained | forget == set(range(500))
    assert set(task.retain.tolist()) == trained
    if task.target:
        assert (task.group[task.forget] == task.target_index).all()
        assert (task.group[task.train] == task.target_index).any()


@pytest.mark.parametrize(
    ("scenario", "data", "message"),
    [
        (FullClass(target="rockett"), dataset(labels="fine"), "did you mean 'rocket'"),
        (FullClass(target="20"), dataset(), "scenario.target=20"),
        (FullClass(target="-1"), dataset(), "scenario.target=-1"),
        (SubClass(), dataset(labels="fine"), "data=cifar20"),
        (Random(n_forget=500), dataset(), "1 to 499"),
        (Random(n_forget=501), dataset(), "1 to 499"),
        (Random(n_forget=495), dataset(), "leaves no training image of"),
        (FullClass(target=["vehicle2", "19"]), dataset(), "names vehicle2 twice"),
        (FullClass(target=[str(i) for i in range(20)]), dataset(), "are all classes with test images"),
        (FullClass(target="sea", n_forget=495), dataset(labels="fine"), "allowed: 1 to 494"),
        (FullClass(target="sea", n_forget=494), dataset(labels="fine"), "leaves no training image of"),
        (SubClass(target=list(COARSE_NAMES_OF_19)), dataset(), "scenario=full_class scenario.target=vehicle2"),
    ],
)
def test_what_cannot_be_forgotten_is_said(scenario, data, message):
    with pytest.raises(ConfigError, match=message):
        scenario(data, TARGETS, 0)


def test_a_class_without_test_images_is_refused():
    data = dataset()
    data.test.fine[data.test.fine == 69] = 0
    with pytest.raises(ConfigError, match="no test images left"):
        SubClass()(data, TARGETS, 0)


def test_sizes_of_the_real_thing():
    assert len(FullClass()(dataset(500, 100), TARGETS, 0).forget) == 2500
    assert len(SubClass()(dataset(500, 100), TARGETS, 0).forget) == 500
