"""LoTUS: a step by hand, the temperature of each epoch, when it is over, and whom it needs."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from golden_data import FOLDER, Golden
from torch.nn.functional import log_softmax, softmax

from ssd_bench.methods import lotus
from ssd_bench.methods.lotus import LoTUS, Temperature
from ssd_bench.methods.teaching import ORIGINAL, Teaching, taught


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


@pytest.fixture
def single(golden):
    """Single images are forgotten: rows 0 to 5; the original was not trained on rows 24 to 29."""
    rows = torch.arange(24)
    golden.data = replace(
        golden.data, rows=rows, retain=rows[6:], forget=rows[:6], scenario="random", forget_label=None, forget_labels=()
    )
    return golden


def temperature(golden, method):
    model, data = golden.model, golden.data
    return Temperature(method, model, data, Teaching(ORIGINAL, taught(data), model, data, golden.context()))


def share_right(golden, rows, model=None):
    with torch.no_grad():
        logits = (model or golden.model).eval()(golden.given["inputs"][rows])
    return (logits.argmax(1) == golden.data.images.labels[rows]).double().mean().item()


@pytest.mark.parametrize("target", ["said", "drawn"])
def test_one_step_by_hand(golden, monkeypatch, target):
    """Without noise, D_f is taught the softened word of the original, and D_r its class."""
    monkeypatch.setattr(lotus, "gumbel_softmax", lambda logits, tau=1.0: softmax(logits / tau, dim=1))
    method = LoTUS(epochs=1, lr=0.01, retain_share=1.0, alpha=2.0, batch_size=100, retain_target=target)
    data, model = golden.data, golden.model
    expected = copy.deepcopy(model).train()
    rows = torch.cat([data.forget, data.retain])
    inputs, said = golden.given["inputs"][rows], golden.given["logits_eval"][rows]
    tau = math.exp(2.0 * share_right(golden, data.forget))
    targets = torch.nn.functional.one_hot(said.argmax(1), 5).float()
    targets[: len(data.forget)] = softmax(said[: len(data.forget)] / tau, dim=1)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01, weight_decay=5e-4)
    (-(targets * log_softmax(expected(inputs), dim=1)).sum(1).mean()).backward()
    optimizer.step()
    context = golden.context()
    made = method(model, data, context)
    parameters = dict(expected.named_parameters())
    del parameters["conv3.bias"]  # the norm after it takes it out again: its gradient is rounding, which Adam enlarges
    for name, p in parameters.items():
        torch.testing.assert_close(made.get_parameter(name), p, rtol=0, atol=1e-5)
    assert context.details == {"temperature": pytest.approx(tau), "goal_pct": 0}


def test_targets_of_d_f_are_drawn_anew_in_each_step_and_seeded(golden, monkeypatch):
    drawn, draw = [], lotus.gumbel_softmax
    monkeypatch.setattr(lotus, "gumbel_softmax", lambda *how: drawn.append(draw(*how)) or drawn[-1])

    def run(seed):
        drawn.clear()
        torch.manual_seed(seed)  # as whoever calls a method does
        LoTUS(epochs=2, batch_size=30, retain_share=1.0)(golden.model, golden.data, golden.context())
        return list(drawn)

    first, again, other = run(1), run(1), run(2)
    assert len(first) == 2
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0].sort(0).values, first[1].sort(0).values)
    assert not torch.equal(first[0], other[0])


def test_the_goal_of_single_images_is_the_accuracy_on_others_of_their_classes(single):
    """D_f has classes 0 to 3 as 3, 1, 1, 1; of the others the original is right on half of class 0 and all the rest."""
    data, said = single.data, single.given["logits_eval"].argmax(1)
    labels = data.images.labels.clone()
    labels[:6] = torch.tensor([0, 0, 0, 1, 2, 3])
    labels[24:30] = torch.tensor([0, 0, 1, 2, 3, 4])
    inputs = data.images.pixels.clone()
    picks = {int(c): (said == c).nonzero().flatten() for c in said.unique()}
    right = [0, 0, 0, 1, 2, 3]  # D_f is told right but for its last image
    shown = [picks[c][0] for c in right[:5]] + [picks[(3 + 1) % 5][0]]
    shown += [picks[0][0], picks[1][0], picks[1][0], picks[2][0], picks[3][0], picks[4][0]]
    inputs[:6], inputs[24:30] = inputs[torch.stack(shown[:6])], inputs[torch.stack(shown[6:])]
    single.data = replace(data, images=replace(data.images, pixels=inputs, labels=labels), group=labels)
    found = temperature(single, LoTUS(alpha=3.0))
    assert found.goal == pytest.approx((3 * 0.5 + 1 + 1 + 1) / 6)
    assert found.state["temperature"].item() == pytest.approx(math.exp(3.0 * (5 / 6 - found.goal)))


def test_it_is_over_once_d_f_is_forgotten(single, monkeypatch):
    accuracies = iter([0.1, 0.4, 0.45, 0.7])  # errors: of the unseen, then of D_f after each epoch
    monkeypatch.setattr(lotus, "error", lambda *_: next(accuracies))
    trained = []
    monkeypatch.setattr(LoTUS, "train", lambda self, model, *_, after_epoch, **__: trained.append(after_epoch))
    LoTUS(epochs=9)(single.model, single.data, single.context())
    (after,) = trained
    assert after.goal == pytest.approx(0.9)
    assert after(1)  # 0.6 is far below 0.9
    assert after.state["temperature"].item() != pytest.approx(math.exp(2 * (0.6 - 0.9)))  # the last one stays
    assert after(9) is False  # nothing is measured after the last epoch
    assert next(accuracies) == 0.45


def test_nothing_is_trained_where_d_f_is_not_known_in_the_first_place(single, monkeypatch):
    monkeypatch.setattr(lotus, "error", lambda *_: 0.0)  # all others are told right
    images = single.data.images
    wrong = (single.given["logits_eval"].argmax(1) + 1) % 5
    data = replace(single.data, images=images.with_labels(wrong))
    made = LoTUS(epochs=3, lr=0.1)(single.model, data, single.context())
    assert all(torch.equal(t, single.original[name]) for name, t in made.state_dict().items())


def test_only_a_share_of_d_r_is_read(golden):
    seen, model = [], golden.model
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()) if module.training else None)
    LoTUS(epochs=2, batch_size=8, retain_share=0.25)(model, golden.data, golden.context())
    assert sum(map(len, seen)) == 2 * (len(golden.data.forget) + int(0.25 * len(golden.data.retain)))
    assert len(torch.cat(seen).flatten(1).unique(dim=0)) == sum(map(len, seen)) // 2


def test_whom_it_needs():
    rows = torch.arange(6)
    request = SimpleNamespace(
        forget_labels=(),
        scenario="random",
        clean=None,
        train=rows[:5],
        gone=rows[:0],
        forget=rows[:2],
        train_labels=rows % 2,
        group=rows % 2,
    )
    assert LoTUS().skip(request) is None
    assert "lotus needs images of the forgotten classes" in LoTUS().skip(
        SimpleNamespace(**{**vars(request), "train": rows})
    )
    assert "needs rightly labelled images" in LoTUS().skip(SimpleNamespace(**{**vars(request), "clean": rows}))
    assert LoTUS().skip(SimpleNamespace(**{**vars(request), "train": rows, "forget_labels": (1,)})) is None


def test_settings_out_of_range():
    for wrong in ({"alpha": -1.0}, {"retain_share": 2.0}, {"retain_target": "drwan"}, {"lr": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LoTUS(**wrong)
