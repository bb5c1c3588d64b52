"""AMUN: the authors' adversarial images, a step by hand, what is trained on, and what no attack can move."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from golden_data import with_pixels
from torch import nn

import ssd_bench
from ssd_bench.core.task import Images, Split
from ssd_bench.methods.amun import Amun, step_up


@pytest.fixture
def golden():
    return with_pixels()


@pytest.mark.parametrize(("steps", "bound"), [(50, 0.04), (5, 0.3)])
def test_the_authors_adversarial_images(golden, steps, bound):
    released = golden.numbers("amun")
    rows, model = released["rows"], golden.model.eval()
    start, own = golden.given["pixels"][rows].float() / 255, golden.data.images.labels[rows]
    moved = Amun(steps=steps, bound=bound).climb(lambda pixels, places: model((pixels - 0.5) / 0.5), start, own)
    torch.testing.assert_close(moved, released[f"{steps}/adversarial"], rtol=0, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(model((moved - 0.5) / 0.5).argmax(1), released[f"{steps}/predicted"])
    torch.testing.assert_close((moved - start).flatten(1).norm(dim=1), released[f"{steps}/norm"], rtol=0, atol=1e-3)


def test_in_a_split_they_are_those_of_d_f(golden):
    made = Amun().adversaries(golden.model, golden.data)
    released = golden.numbers("amun")
    assert torch.equal(released["rows"][:6], golden.forget)
    torch.testing.assert_close((made["inputs"] + 1) / 2, released["50/adversarial"][:6], rtol=0, atol=1e-4)
    assert torch.equal(made["labels"], released["50/predicted"][:6])
    assert made["crossed"] == 6


def linear(weight, bias=0.0):
    """Logits 0 and weight . x + bias."""
    model = nn.Linear(len(weight), 2)
    with torch.no_grad():
        model.weight[0], model.bias[:] = 0, torch.tensor([0.0, bias])
        model.weight[1] = torch.tensor(weight)
    return model


def test_a_step_by_hand():
    """The way out of class 0 is along (3, 4) / 5, a tenth of the radius at a time, and never out of the ball."""
    model, x, own = linear([3.0, 4.0], -100.0), torch.tensor([[0.2, 0.1]]), torch.tensor([0])
    one = step_up(model, x, x, own, 0.5)
    torch.testing.assert_close(one, x + 0.05 * torch.tensor([[0.6, 0.8]]))
    for _ in range(20):
        one = step_up(model, one, x, own, 0.5)
    torch.testing.assert_close(one, x + 0.5 * torch.tensor([[0.6, 0.8]]))
    out = step_up(model, torch.tensor([[0.99, 0.99]]), torch.tensor([[0.9, 0.9]]), own, 2.0)
    torch.testing.assert_close(out, torch.ones(1, 2))


@pytest.mark.parametrize("sure", [1.0, 1e3])
def test_it_stops_just_beyond_the_boundary_however_sure_the_model_is(sure):
    model, x = linear([3.0 * sure, 4.0 * sure], -3.5 * sure), torch.tensor([[0.2, 0.1], [0.9, 0.9], [0.6, 0.6]])
    moved = Amun(steps=50, bound=0.04).climb(lambda pixels, places: model(pixels), x, torch.tensor([0, 0, 1]))
    away = (moved - x).norm(dim=1)
    distance = (3.5 - x @ torch.tensor([3.0, 4.0])).abs() / 5
    assert away[1] == 0  # taken for another class from the start
    assert model(moved).argmax(1).tolist() == [1, 1, 0]
    assert distance[0] <= away[0] <= 1.2 * distance[0] + 1e-5
    assert distance[2] <= away[2] <= 1.2 * distance[2] + 1e-5


def test_what_cannot_cross_is_told_and_gets_the_next_class():
    images = Images(torch.rand(6, 4), torch.tensor([0, 0, 1, 1, 2, 2]))
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.zero_(), model.bias.copy_(torch.tensor([3.0, 1.0, 2.0]))
    rows = torch.arange(6)
    data = Split(images, rows, rows[2:], rows[:2], images.labels, "full_class", 0, 3)
    made = Amun(steps=2).adversaries(model, data)
    assert made["labels"].tolist() == [2, 2]
    assert made["crossed"] == 0


@pytest.mark.parametrize("with_forget", [True, False])
def test_what_is_trained_on(golden, with_forget):
    method, context, seen = Amun(epochs=1, with_forget=with_forget, lr=1e-12, batch_size=7), golden.context(), []
    model = golden.model
    made = method.adversaries(model, golden.data)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()) if module.training else None)
    method(model, golden.data, context)
    rows = torch.cat([golden.retain, golden.forget] if with_forget else [golden.retain])
    expected = torch.cat([golden.data.images.batch(rows)[0], made["inputs"]]).flatten(1)
    trained = torch.cat(seen).flatten(1)
    assert sorted(map(tuple, trained.tolist())) == sorted(map(tuple, expected.tolist()))
    assert context.details == {"crossed_pct": 100.0, "outside_paper": True}


def test_the_forgotten_say_what_their_neighbours_are(golden):
    """Trained on long enough, D_f is taken for the classes beyond its boundaries."""
    data = golden.data
    made = Amun().adversaries(golden.model, data)
    model = Amun(epochs=60, lr=0.05, lr_step=60, batch_size=10, with_forget=False)(golden.model, data, golden.context())
    with torch.no_grad():
        said = model.eval()(made["inputs"]).argmax(1)
        kept = model(data.images.batch(golden.retain)[0]).argmax(1) == data.images.labels[golden.retain]
    assert torch.equal(said, made["labels"])
    assert kept.float().mean() > 0.9


def test_the_rate_falls_by_steps():
    trace = Amun(epochs=5, lr=0.1, lr_step=2).recipe().lr_trace(2)
    assert trace == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2)


def test_they_cross_into_classes_that_may_be_said(golden):
    near = Amun().adversaries(golden.model, golden.data)["labels"]
    labels, classes = golden.data.images.labels, (4, int(near[0]))
    both = torch.isin(labels, torch.tensor(classes))
    forget, retain = both.nonzero().flatten(), (~both).nonzero().flatten()
    several = replace(golden.data, forget=forget, retain=retain, forget_label=None, forget_labels=classes)
    made = Amun().adversaries(golden.model, several)
    assert not set(made["labels"].tolist()) & set(classes)
    assert made["crossed"] == len(forget)
    with torch.no_grad():
        logits = golden.model.eval()(made["inputs"])
    logits[:, [c for c in classes if c != 4]] = -torch.inf
    of_four = labels[forget] == 4
    assert torch.equal(logits.argmax(1)[of_four], made["labels"][of_four])


def test_inputs_that_are_all_the_same_are_moved_and_no_number_is_lost():
    images = Images(torch.ones(6, 4), torch.tensor([0, 0, 1, 1, 0, 1]))
    data = Split(images, torch.arange(6), torch.arange(2, 6), torch.arange(2), images.labels, "full_class", 0, 2)
    made = Amun(steps=3).adversaries(nn.Linear(4, 2), data)
    assert made["inputs"].isfinite().all()


def test_labels_that_are_wrong_are_not_trained_on():
    request = SimpleNamespace(clean=torch.arange(3), forget_labels=(), train=None, scenario="poison")
    assert "needs rightly labelled images to forget; scenario=poison has none" in Amun().skip(request)
    assert Amun(with_forget=False).skip(request) is None


def test_wrong_settings_and_inputs():
    for wrong in ({"steps": 0}, {"bound": 0.0}, {"lr_step": 0}, {"lr": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Amun(**wrong)
    pair = torch.randint(5, (8, 3)), torch.arange(8) % 2
    with pytest.raises(ValueError, match="amun needs inputs that are numbers to be moved"):
        ssd_bench.unlearn(
            nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)), retain=pair, forget=pair, method="amun"
        )
