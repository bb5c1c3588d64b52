"""The corrective scenarios: what is manipulated, what of it is discovered, what is judged by what; no model needed."""

import json
from dataclasses import asdict, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from made_rows import row, summary_of

from ssd_bench.core.dataset import Dataset, Part
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.images import HostPixels, Images, Trigger
from ssd_bench.core.task import Outputs, Split
from ssd_bench.data.view import view
from ssd_bench.methods.clean import Clean
from ssd_bench.metrics.corrective import Corrective
from ssd_bench.models import ResNet18
from ssd_bench.report.derive import derived_metrics
from ssd_bench.report.discovery import over_discovery
from ssd_bench.report.rows import references
from ssd_bench.report.sheet import sheets
from ssd_bench.report.summary import summarise
from ssd_bench.report.svg import inline
from ssd_bench.report.verdict import verdict
from ssd_bench.scenarios.confusion import Confusion, swapped
from ssd_bench.scenarios.label_noise import LabelNoise, wrong
from ssd_bench.scenarios.poison import Poison
from ssd_bench.scenarios.random import Random
from ssd_bench.train.augment import Augment
from ssd_bench.train.loop import Pass, Training
from ssd_bench.train.recipe import Recipe

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")
SCENARIOS = [Poison(share=0.2), Confusion(share=0.4), LabelNoise(share=0.2)]
OTHERS = replace(SCENARIOS[0], target="1"), replace(SCENARIOS[1], classes=["0", "1"]), LabelNoise(share=0.3)


def dataset(n=100, n_test=40, side=8, n_classes=8):
    """Grey images of a brightness of their own, classes in turn."""
    parts = [
        Part(torch.arange(1, size + 1, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, side, side), fine)
        for size, fine in ((n, torch.arange(n) % n_classes), (n_test, torch.arange(n_test) % n_classes))
    ]
    names = tuple("abcdefgh"[:n_classes])
    return Dataset("toy", *parts, names, (), (), "fine", {}, (0.5,) * 3, (0.25,) * 3, "x")


def request(scenario, seed=0):
    return scenario(dataset(), {}, seed)


def rows(task, name):
    return set(task.sets[name][1].tolist())


def manipulated(task):
    return set(range(100)) - set(task.clean.tolist())


@pytest.fixture(scope="module")
def golden():
    return {name: torch.as_tensor(each) for name, each in np.load(GOLDEN / "selection_and_corrective.npz").items()}


def test_labels_are_those_of_the_released_code(golden):
    labels, of = golden["corrective_labels"], golden["swap_rows"]
    assert torch.equal(swapped(labels[of], 3, 5), golden["swap_labels"])
    data = replace(dataset(60, n_classes=8), train=Part(torch.zeros(60, 3, 8, 8, dtype=torch.uint8), labels % 8))
    task = Poison(size=7)(data, {}, 0)
    assert torch.equal(task.train_labels[sorted(set(range(60)) - set(task.clean.tolist()))], golden["poison_labels"])
    known = json.loads((GOLDEN / "expected.json").read_text())["corrective"]
    kept = (golden["noise_labels"] == labels[golden["noise_rows"]]).sum()
    assert kept == known["noise_unchanged"] > 0  # permuted among themselves, some are right after all; ours never
    for seed in range(20):
        drawn = wrong(labels, 10, torch.Generator().manual_seed(seed))
        assert (drawn != labels).all()
        assert 0 <= drawn.min() <= drawn.max() <= 9


def test_the_trigger_lies_where_the_released_code_puts_it(golden):
    image = golden["trigger_pretrain_image"]
    pixels = torch.full((2, 3, 8, 8), 26, dtype=torch.uint8)
    rows = torch.tensor([0])
    both = dict.fromkeys(("train", "test"), Images(pixels, torch.tensor([0, 6])))
    images = Trigger(3, 0, 255, rows, rows).on(both)
    for part, carries, plain in (("train", 0, 1), ("test", 2, 0)):
        seen, _ = images[part].batch(torch.tensor([carries, plain]))
        assert torch.equal(seen[0] != 26, image != 26)
        assert (seen[0][image != 26] == 255).all()  # the brightest there is, in pixels; theirs after normalisation
        assert (seen[1] == 26).all()
    assert images["test"].labels.tolist() == [0, 6, 0]
    assert (pixels == 26).all()


@pytest.mark.parametrize("host", [False, True])
def test_the_trigger_survives_crops_flips_and_rotations(host):
    """In every batch of a training, the square is whole and in its corner, on those images alone that carry it."""
    pixels = torch.full((40, 1, 9, 9), 100, dtype=torch.uint8)
    every, carried = torch.arange(40), torch.arange(0, 40, 3)
    train = Images(
        HostPixels(pixels, CPU) if host else pixels, torch.zeros(40).long(), *torch.tensor([[0.0], [1.0]]), 9
    )
    images = Trigger(2, 1, 255, carried, torch.arange(0)).on({"train": train, "test": train})["train"]
    net = torch.nn.Linear(1, 1)
    more = {"passes": lambda epoch: [Pass(every)], "recipe": Recipe(epochs=1, batch_size=16)}
    training = Training(net, images, draws=torch.Generator().manual_seed(0), what="", augment=Augment(2, True, 40.0),
                        ready=lambda _: None, after_step=None, after_epoch=None, checkpoint=None, **more)  # fmt: skip
    seen = 0
    for _, inputs, _, batch, _ in training._inputs():
        whole = torch.isin(batch, carried)
        assert (inputs[whole][..., 6:8, 6:8] == 1).all()
        assert (inputs[~whole] < 1).all()
        others = inputs[whole].clone()
        others[..., 6:8, 6:8] = 0
        assert (others < 1).all()
        assert (inputs[~whole] == 0).any()  # what came from outside: it was augmented
        seen += int(whole.sum())
    assert seen == len(carried)
    assert torch.equal(images.take(carried[:2]).batch(torch.tensor([1, 0]))[0], images.batch(carried[[1, 0]])[0])


@pytest.mark.parametrize(("scenario", "other"), list(zip(SCENARIOS, OTHERS, strict=True)))
def test_what_is_discovered_is_nested_and_changes_nothing_else(scenario, other):
    tasks = [request(replace(scenario, discovered=share)) for share in (0.1, 0.5, 0.9, 1.0)]
    for less, more in pairwise(tasks):
        assert set(less.forget.tolist()) < set(more.forget.tolist())
        assert rows(less, "undiscovered") > (rows(more, "undiscovered") if "undiscovered" in more.sets else set())
    for task in tasks:
        assert torch.equal(task.train_labels, tasks[0].train_labels)
        assert torch.equal(task.clean, tasks[0].clean)
        assert task.trigger is None or torch.equal(task.trigger.train, tasks[0].trigger.train)
        forget, retain = set(task.forget.tolist()), set(task.retain.tolist())
        assert not forget & retain
        assert forget | retain == set(task.train.tolist()) == set(range(100))
        assert forget | (rows(task, "undiscovered") if "undiscovered" in task.sets else set()) == manipulated(task)
    assert set(tasks[-1].retain.tolist()) == set(tasks[-1].clean.tolist())
    assert manipulated(request(scenario, 1)) != manipulated(tasks[0])
    assert manipulated(request(other)) != manipulated(tasks[0])
    assert scenario.sets == tuple(name for name in tasks[-1].sets if name in scenario.sets)
    assert set(replace(scenario, discovered=0.5).sets) <= tasks[1].sets.keys()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_smallest_share_discovers_one_and_no_share_below_one_all(scenario):
    small = replace(scenario, size=2)
    assert [len(request(replace(small, discovered=share)).forget) for share in (0.01, 0.99, 1)] == [1, 1, 2]


def test_poison_by_hand():
    task = request(Poison(share=0.2, discovered=0.5, trigger_size=2))
    true = torch.arange(100) % 8
    assert (task.target, task.target_index, task.forget_label) == ("a", 0, None)
    changed = manipulated(task)
    assert len(changed) == round(0.2 * (100 - 13))
    assert (true[sorted(changed)] != 0).all()
    assert (task.train_labels[sorted(changed)] == 0).all()
    assert torch.equal(task.train_labels[task.clean], true[task.clean])
    assert torch.equal(task.true_labels["train"], true)
    assert rows(task, "clean") == rows(task, "test") == rows(task, "retain") == set(range(40))
    assert rows(task, "triggered") == rows(task, "forget") == set(range(40, 75))  # 35 of 40 are of other classes
    assert not rows(task, "triggered") & rows(task, "clean")
    assert (task.judged_by["attacked"] == 0).all()
    images = view(dataset(), task, "own", ResNet18(), CPU)
    for part, carry in (("train", changed), ("test", rows(task, "triggered"))):
        pixels, labels = images[part].batch(torch.arange(len(images[part])))
        white = (pixels[..., 6:, 6:] == pixels.max()).flatten(1).all(1)
        assert set(white.nonzero().flatten().tolist()) == carry
    assert (labels[40:] != 0).all()
    assert torch.equal(labels, task.true_labels["test"])


def test_confusion_by_hand():
    task = request(Confusion(size=9, classes=["b", "2"]))  # an odd number: half of it from either class
    true, changed = torch.arange(100) % 8, sorted(manipulated(task))
    assert (task.target, len(changed)) == ("b, c", 8)
    assert sorted(zip(true[changed].tolist(), task.train_labels[changed].tolist(), strict=True)) == (
        [(1, 2)] * 4 + [(2, 1)] * 4
    )
    assert rows(task, "forget") == rows(task, "swapped") == {i for i in range(40) if i % 8 in (1, 2)}
    assert rows(task, "retain") == set(range(40)) - rows(task, "forget")
    of = task.sets["swapped"][1] % 8
    assert torch.equal(task.judged_by["swapped"], torch.where(of == 1, 2, 1))
    default = Confusion()(dataset(), {"confusion": ["h", "0"]}, 0)
    assert default.target == "h, a"
    assert request(Confusion()).target == "d, f"


def test_label_noise_by_hand():
    task = request(LabelNoise(size=10, discovered=0.3))
    true, changed = torch.arange(100) % 8, sorted(manipulated(task))
    assert (len(changed), len(task.forget)) == (10, 3)
    assert (task.train_labels[changed] != true[changed]).all()
    assert torch.equal(task.train_labels[task.clean], true[task.clean])
    assert rows(task, "forget") == rows(task, "taught") == set(changed)
    assert torch.equal(task.judged_by["taught"], task.train_labels[task.sets["taught"][1]])
    assert len(rows(task, "undiscovered")) == 7


def test_what_a_method_sees_is_the_manipulated_data_and_not_what_is_undiscovered():
    task = request(Poison(share=0.2, discovered=0.5))
    data = task.split(view(dataset(), task, "own", ResNet18(), CPU)["train"])
    assert (data.images.labels[data.forget] == 0).all()
    assert (data.images.batch(data.forget)[0][..., 5:, 5:] == data.images.batch(data.forget)[0].max()).all()
    assert not {"clean", "true_labels"} & set(Split.__dataclass_fields__)


def test_the_clean_model_is_for_scenarios_that_manipulate():
    assert "needs manipulated images; scenario=random has none" in Clean().skip(request(Random(n_forget=5)))
    task = request(Poison(share=0.2, discovered=0.5))
    assert Clean().skip(task) is None
    assert torch.equal(Clean().trains_on(task), task.clean)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Poison(discovered=0), "discovered must be above 0 and at most 1, got 0"),
        (lambda: Poison(discovered=1.1), "discovered must be above 0"),
        (lambda: LabelNoise(share=1), "share must be between 0 and 1"),
        (lambda: LabelNoise(size=1), "size must be at least 2"),
        (lambda: Poison(trigger_size=0), "trigger_size must be at least 1"),
        (lambda: Confusion(classes=["a"]), "classes must be two, got 1"),
        (lambda: request(Poison(target="ten")), "scenario.target=ten does not exist"),
        (lambda: request(Poison(target="8")), "scenario.target=8 does not exist"),
        (lambda: request(Poison(size=87)), "87 images to manipulate of 87 that are not of class a; allowed: 2 to 86"),
        (lambda: request(Poison(size=5, trigger_size=6, trigger_margin=3)), "do not fit images of 8x8 pixels"),
        (lambda: request(Confusion(classes=["a", "ten"])), "scenario.classes=ten does not exist"),
        (lambda: request(Confusion(classes=["a", "0"])), "scenario.classes names a twice"),
        (lambda: request(Confusion(size=24, classes=["g", "h"])), "allowed: 2 to 23"),
        (lambda: Confusion()(dataset(n_classes=2), {"confusion": ["0", "1"]}, 0), "of other classes"),
        (lambda: request(LabelNoise(size=100)), "100 images to manipulate of 100 training images; allowed: 2 to 99"),
        (lambda: request(LabelNoise(share=0.001)), "0 images to manipulate"),
    ],
)
def test_what_cannot_be_done_is_one_line(made, message):
    with pytest.raises((ConfigError, ValueError), match=message) as raised:
        made()
    assert "\n" not in str(raised.value)


def said(n_classes=4, **sets):
    """What is said of each set, and what it is judged by."""
    logits = {name: torch.nn.functional.one_hot(torch.tensor(s), n_classes).float() for name, (s, _) in sets.items()}
    return Outputs(logits, {name: torch.tensor(labels) for name, (_, labels) in sets.items()}, None)


def test_corrective_metrics_by_hand():
    triggered = [0, 0, 0, 1, 2]  # three of five are called the target
    values = Corrective()(said(attacked=(triggered, [0] * 5), forget=(triggered, [1, 2, 3, 1, 3]), retain=([1], [1])))
    expected = dict.fromkeys(("taught_as", "ic_err", "fgt"))
    assert values == expected | {"asr": 60, "corrected_acc": 20, "kept_acc": 100}
    two = [1, 2, 3, 2, 1, 2]  # classes 1, 1, 1, 2, 2, 2
    values = Corrective()(said(swapped=(two, [2, 2, 2, 1, 1, 1]), forget=(two, [1, 1, 1, 2, 2, 2])))
    assert values["fgt"] == 2  # one 1 as 2, one 2 as 1; a 1 as 3 is an error all the same
    assert values["ic_err"] == pytest.approx(50)
    assert values["kept_acc"] is values["asr"] is None
    values = Corrective()(said(taught=([1, 1], [1, 2]), forget=([1, 1], [3, 1])))
    assert (values["taught_as"], values["corrected_acc"]) == (50, 50)
    assert set(Corrective()(said(forget=([1], [1]), retain=([1], [1]))).values()) == {None}


def made(method, level, before, scenario="poison", seed=0, discovered=0.5, **more):
    """A finished run with half or all of 100 manipulated images discovered. before: the original's own metrics."""
    retrained = f"reference {seed}" if discovered == 1 else f"half {seed}"
    task = {"scenario": scenario, "n_manipulated": 100, "retrained": retrained, "n_forget": round(100 * discovered)}
    task |= {"seed_forget": seed, "forget_sha256": f"of {seed}"}
    return row(method, seed, level, task=task, original_metrics=before, **more)


@pytest.mark.parametrize("scenario", ["poison", "one_of_the_user_s_own"])
def test_the_reference_is_the_clean_model_and_mia_is_no_part_of_the_gap(scenario):
    before = {"asr": 99.0, "retain_acc": 80.0}
    rows = [made(method, level, before, scenario) for method, level in (("retrain", 60), ("clean", 50), ("mine", 54))]
    rows[2]["metrics"]["mia"] = 0.0
    assert references(rows) == {each["path"]: rows[1] for each in rows}
    summary = summary_of(rows)
    assert (summary.retrained.label, [line.label for line in summary.methods]) == ("clean", ["mine"])
    assert [summary.line(name).mean("average_gap") for name in ("retrain", "clean", "mine")] == [10, 0, 4]
    assert any("method=clean" in note and "gap and distances are to it" in note for note in sheets(summary)[0].notes)
    alone = summary_of([rows[0], rows[2]])  # a model that saw what was not discovered is no reference
    assert alone.retrained is None
    assert "Add method=clean" in verdict(alone)
    whole = [made(method, 50, before, discovered=1) for method in ("retrain", "mine")]
    assert references(whole)[whole[1]["path"]] is whole[0]
    seeds = [made(method, 50 + 4 * seed, before, seed=seed) for seed in (0, 1) for method in ("clean", "mine")]
    assert summary_of(seeds).seeds == [0, 1]  # one table, although each seed manipulates other images


ASR = {"asr": asdict(Corrective.about["asr"])}


def test_what_is_discovered_is_drawn_over_its_share():
    took, not_taken = {"asr": 99.0}, {"asr": 50.0}
    shares, seeds, methods = (0.1, 0.5, 1), (0, 1), ("clean", "mine")

    def tasks(before, scenario="poison"):
        kinds = product(shares, seeds, methods)
        rows = [made(m, 50 + s, before, scenario, s, d, metrics={"asr": 10 * d}, about=ASR) for d, s, m in kinds]
        return summarise(rows, derived_metrics(rows))

    [(title, figure)] = over_discovery(tasks(took))
    assert "100 manipulated images" in title
    asr = next(axes for axes in figure.axes if axes.get_ylabel() == "ASR %")
    mine = dict(zip(asr.get_legend_handles_labels()[1], asr.get_legend_handles_labels()[0], strict=True))["mine"]
    assert mine[0].get_xdata().tolist() == [10, 50, 100]
    assert mine[0].get_ydata().tolist() == [1, 5, 10]
    assert '<g data-line="mine"><title>mine' in inline(figure, "")  # or a page could not filter it
    assert not list(over_discovery(tasks(not_taken)))
    assert not list(over_discovery(tasks(took)[:1]))


def test_a_method_that_diverged_at_the_smallest_share_is_drawn_at_the_others():
    kinds = [(share, name) for share in (0.1, 0.5, 1) for name in ("clean", "mine")]
    rows = [made(name, 50, {"asr": 99.0}, "poison", 0, share, metrics={"asr": 9.0}, about=ASR) for share, name in kinds]
    rows[1] |= {"status": "diverged"}
    [(_, figure)] = over_discovery(summarise(rows, derived_metrics(rows)))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert dict(zip(labels, handles, strict=True))["mine"][0].get_xdata().tolist() == [50, 100]


def test_a_retrained_model_may_be_the_reference_at_one_share_and_a_rival_at_another():
    kinds = [(share, name) for share in (0.5, 1) for name in ("clean", "retrain", "mine")]
    rows = [made(name, 50, {"asr": 99.0}, "poison", 0, share, metrics={"asr": 9.0}, about=ASR) for share, name in kinds]
    [(_, figure)] = over_discovery(summarise(rows, derived_metrics(rows)))
    assert {"clean", "retrain", "mine"} <= set(figure.axes[0].get_legend_handles_labels()[1])


@pytest.mark.parametrize(
    ("scenario", "before", "said"),
    [
        ("poison", {"asr": 89.9}, "it succeeds on 89.9 % (least: 90 %)"),
        ("poison", {"asr": 90.0}, None),
        ("confusion", {"corrected_acc": 76.0}, "is 76.0 %, the clean model's 80.0 % (least difference: 5 points)"),
        ("confusion", {"corrected_acc": 75.0}, None),
        ("label_noise", {"corrected_acc": 90.0}, "is 90.0 %"),
    ],
)
def test_a_manipulation_that_did_not_take_is_not_to_be_read(scenario, before, said):
    rows = [made(method, 50, before, scenario, metrics={"corrected_acc": 80.0}) for method in ("clean", "mine")]
    summary = summary_of(rows)
    warned = [text for text in (*sheets(summary)[0].notes, verdict(summary)) if text.startswith("Not to be read")]
    assert len(warned) == (2 if said else 0)
    assert all(said in text for text in warned)
