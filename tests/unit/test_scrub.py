"""SCRUB: the authors' numbers after every pass, and what follows from its definition."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import planned
from golden_data import Golden, by_hand, in_order, network, same
from torch import nn

from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.scrub import Scrub, Students, divergence
from ssd_bench.methods.unseen import share_of, unseen


@pytest.fixture
def golden():
    return Golden()


def released(case):
    """The method with the settings that the numbers of this case were made with."""
    said = case["settings"]
    return Scrub(
        optimizer=said["optim"], gamma=said["gamma"], alpha=said["alpha"], temperature=said["kd_T"],
        max_epochs=said["msteps"], epochs=said["sgda_epochs"], lr=said["sgda_learning_rate"],
        decay_at=said["lr_decay_epochs"], weight_decay=said["sgda_weight_decay"], momentum=said["sgda_momentum"],
        retain_batch_size=said["retain_bs"], forget_batch_size=said["forget_bs"],
    )  # fmt: skip


@pytest.mark.parametrize("case", ["sgd", "adam"])
def test_released_scrub_after_every_epoch(golden, monkeypatch, case):
    """And so after every pass: each begins where the one before ended."""
    import ssd_bench.methods.scrub as module

    in_order(monkeypatch)
    monkeypatch.setattr(module.FirstAscent, "__call__", lambda self, epoch: states.append(copy_of(model)))
    model, states = golden.model, []
    released(golden.expected["scrub"][case])(model, golden.data, golden.context())
    numbers = golden.numbers("scrub")
    assert len(states) == len(golden.expected["scrub"][case]["epochs"])
    for epoch, state in enumerate(states, start=1):
        expected = golden.under(f"{case}/e{epoch}/min", numbers)
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-5)


def copy_of(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_divergence_by_hand(golden):
    said = golden.expected["scrub"]["divergence"]
    student, teacher = torch.tensor(said["student_logits"]), torch.tensor(said["teacher_logits"])
    for temperature, value in said["value"].items():
        assert divergence(student, teacher, float(temperature)).item() == pytest.approx(value, abs=1e-6)


def test_without_ascent_and_teacher_it_is_fine_tuning(golden, caplog):
    scrub = Scrub(epochs=2, max_epochs=0, gamma=1.0, alpha=0.0, lr=0.02, retain_batch_size=8)
    made = scrub(golden.model, golden.data, golden.context())
    same(made, Finetune(epochs=2, batch_size=8)(golden.model, golden.data, golden.context()).state_dict(), atol=0)
    assert "ascent" not in caplog.text


def test_the_teacher_is_asked_once_for_all_requests(golden):
    kept, made = {}, []

    def cached(kind, key, make):
        if (kind, str(key)) not in kept:
            made.append(kind)
            kept[kind, str(key)] = make()
        return kept[kind, str(key)]

    for _ in range(2):
        Scrub(epochs=1)(golden.model, golden.data, golden.context(cached))
    other = golden.data.__class__(**{**vars(golden.data), "retain": golden.forget, "forget": golden.retain})
    Scrub(epochs=1)(golden.model, other, golden.context(cached))
    assert made == ["original_logits"]
    [logits] = [t["logits"] for t in kept.values()]
    torch.testing.assert_close(logits, golden.given["logits_eval"][golden.data.rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("order", "warned"), [("max_first", True), ("min_first", False), ("auto", False)])
def test_without_batchnorm_ascent_first_has_nothing_to_begin_from(caplog, order, warned):
    model, data = by_hand()
    before = model.weight.data.clone()
    caplog.set_level(logging.WARNING)
    method = Scrub(epochs=1, max_epochs=1, gamma=0.0, alpha=0.0, weight_decay=0.01, lr=0.1, order=order)
    method(model, data, Golden().context())
    assert ("nothing to begin from" in caplog.text) == warned
    still = torch.allclose(model.weight.data, before * (1 - 0.001) * (1 - 0.0019), atol=1e-5)
    assert still == warned  # then only weight decay moves it, with a momentum of 0.9


def test_d_f_is_left_further_behind_than_d_r(golden):
    made = Scrub(epochs=3, lr=0.01, alpha=0.5, forget_batch_size=4, retain_batch_size=8)(
        golden.model, golden.data, golden.context()
    ).eval()
    now, before = made(golden.given["inputs"]), golden.given["logits_eval"]
    on_forget, on_retain = (divergence(now[rows], before[rows], 1.0) for rows in (golden.forget, golden.retain))
    assert on_forget > 2 * on_retain


def without(data, rows):
    """The same data where D holds none of these rows: the original was not trained on them."""
    kept = {name: getattr(data, name)[~torch.isin(getattr(data, name), rows)] for name in ("rows", "retain", "forget")}
    return replace(data, **kept)


def test_rewinding_takes_the_first_student_whose_error_is_nearest(golden, monkeypatch):
    for on_forget, taken in (([0.0, 25.0, 41.7, 33.3, 30.0], 3), ([0.0, 32.0, 41.7, 34.0, 32.0], 1)):
        errors = iter([33.0, *on_forget])  # the last student's on unseen images; on D_f from epoch 0 on
        monkeypatch.setattr("ssd_bench.methods.scrub.error", lambda *_, errors=errors: next(errors))
        context = golden.context()
        Scrub(epochs=4, rewind=True)(golden.model, golden.data, context)
        assert context.details["rewound_to"] == taken


def test_the_model_is_that_student_with_its_statistics(golden, monkeypatch):
    data, states = without(golden.data, golden.forget[::2]), []
    settings = {"epochs": 3, "max_epochs": 3, "lr": 0.05, "forget_batch_size": 4, "retain_batch_size": 8}
    keep = Students._keep
    monkeypatch.setattr(Students, "_keep", lambda self, epoch: (states.append(copy_of(model)), keep(self, epoch)))
    model, context = golden.model, golden.context()
    made = Scrub(rewind=True, **settings)(model, data, context)
    assert len(states) == 4
    assert context.details["rewound_to"] < 3  # so that something is rewound
    same(made, states[context.details["rewound_to"]], atol=0)
    same(Scrub(**settings)(golden.model, data, golden.context()), states[-1], atol=0)
    labels = data.images.labels
    wrong = network(states[-1]).eval()(data.images.pixels).argmax(1) != labels
    others = ~torch.isin(torch.arange(len(labels)), data.rows) & torch.isin(labels, labels[data.forget])
    by_hand = [
        (network(state).eval()(data.images.pixels).argmax(1) != labels)[data.forget].double().mean() for state in states
    ]
    away = [abs(error - wrong[others].double().mean()).item() for error in by_hand]
    assert context.details["rewound_to"] == away.index(min(away))


def test_classes_of_unseen_images_weigh_as_in_d_f():
    weights = share_of(torch.tensor([0, 0, 0, 2]), torch.tensor([0, 2, 2, 2, 2]))
    assert weights.tolist() == [3.0, 0.25, 0.25, 0.25, 0.25]


def test_only_images_outside_d_of_the_forgotten_classes_are_unseen():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 0])
    asked = SimpleNamespace(forget=torch.tensor([0, 3]), group=labels)
    assert unseen(asked, torch.tensor([0, 1, 3, 5]), labels).tolist() == [2, 4, 7]


def test_of_a_sub_class_its_own_images_are_unseen_where_it_has_any_left():
    labels, group = torch.tensor([0, 0, 0, 0, 0, 1]), torch.tensor([5, 5, 6, 6, 6, 7])
    asked = SimpleNamespace(forget=torch.tensor([0]), group=group)
    assert unseen(asked, torch.tensor([0, 2]), labels).tolist() == [1]
    assert unseen(asked, torch.tensor([0, 1, 2]), labels).tolist() == [3, 4]


def test_a_sub_class_without_unseen_images_has_those_of_its_class_whatever_others_have():
    labels, group = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([5, 5, 6, 7, 7])
    asked = SimpleNamespace(forget=torch.tensor([0, 2]), group=group)
    assert unseen(asked, torch.tensor([0, 2, 3]), labels).tolist() == [1, 4]


def test_students_that_are_near_their_teacher_are_told_apart_in_bfloat16():
    """Rounded as logits are, a divergence may come out below 0."""
    draws = torch.Generator().manual_seed(0)
    theirs = torch.randn(64, 10, generator=draws)
    ours = (theirs + 0.01 * torch.randn(64, 10, generator=draws)).bfloat16()
    assert divergence(ours, theirs, 4.0) > 0
    torch.testing.assert_close(divergence(ours, theirs, 4.0), divergence(ours.float(), theirs, 4.0))


@pytest.mark.parametrize("setting", ["scenario=random scenario.n_forget=10", "scenario=label_noise"])
def test_a_run_without_unseen_images_is_skipped_with_the_reason(setting):
    plan = planned("data=digits", "method=scrub", "method.rewind=true", *setting.split())
    request = plan.scenario(plan.data.load(), plan.data.targets, 0)
    assert ("a pool have them" if "random" in setting else "labels of D_f are wrong") in plan.method.skip(request)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0"),
        ({"max_epochs": -1}, "max_epochs must be at least 0"),
        ({"alpha": float("nan")}, "alpha must be at least 0, got nan"),
        ({"order": "max"}, "order=max does not exist"),
        ({"optimizer": "sgdd"}, "did you mean 'sgd'"),
    ],
)
def test_settings_out_of_range(setting, line):
    with pytest.raises(ValueError, match=line):
        Scrub(**setting)


def test_batchnorm_is_what_auto_looks_for(golden, caplog):
    caplog.set_level(logging.WARNING)
    Scrub(epochs=1)(golden.model, golden.data, golden.context())
    assert not caplog.text
    assert any(isinstance(module, nn.BatchNorm2d) for module in golden.model)
