"""Boundary shrink and expand: the released attack and weights, steps worked by hand, and what they never touch."""

from dataclasses import replace

import pytest
import torch
from golden_data import Golden, by_hand, in_order, same, with_pixels
from torch import nn

import ssd_bench
from ssd_bench.core.task import Images, Split
from ssd_bench.methods.boundary_expand import BoundaryExpand
from ssd_bench.methods.boundary_shrink import BoundaryShrink, fgsm

SECOND = {"lr": 0.01, "weight_decay": 5e-4, "epochs": 2, "batch_size": 4, "mode": "train"}  # SalUn's copy


@pytest.fixture
def golden():
    return with_pixels()


@pytest.fixture
def released(golden):
    return golden.numbers("boundary")


def test_released_shrink(golden, released, monkeypatch):
    in_order(monkeypatch)
    method = BoundaryShrink(lr=1e-5, batch_size=4, mode="train", exclude_own=False, attack_norm="released")
    assert torch.equal(method.nearest(golden.model, golden.data)["labels"], released["shrink/official/label"])
    inputs, labels = golden.data.images.batch(golden.forget)
    units = method._units(golden.data)
    attacked = fgsm(golden.model.eval(), inputs, labels, 0.1, *units)
    expected = released["shrink/official/adversarial"]  # rounded to whole grey levels
    torch.testing.assert_close(attacked, expected, rtol=0, atol=0.5001 / 255 / 0.1994)
    made = method(golden.model, golden.data, golden.context())
    for name, delta in golden.under("shrink/official/delta", released).items():
        moved = made.get_parameter(name) - golden.original[name]
        torch.testing.assert_close(moved, delta, rtol=0, atol=1e-6)
    same(made, {name: released[f"shrink/official/{name}"] for name in golden.original})


def test_released_shrink_in_pixel_space(golden, released, monkeypatch):
    in_order(monkeypatch)
    method, context = BoundaryShrink(**SECOND, exclude_own=False), golden.context()
    assert torch.equal(method.nearest(golden.model, golden.data)["labels"], released["shrink/pixel_space/label"])
    inputs, labels = golden.data.images.batch(golden.forget)
    half = torch.tensor(0.5)
    attacked = fgsm(golden.model.eval(), inputs, labels, 0.1, half, half) * 0.5 + 0.5
    expected = released["shrink/pixel_space/adversarial"]  # rounded to whole grey levels
    torch.testing.assert_close(attacked, expected, rtol=0, atol=0.5001 / 255)
    made = method(golden.model, golden.data, context)
    same(made, {name: released[f"shrink/pixel_space/{name}"] for name in golden.original})
    assert context.details["crossed_pct"] == pytest.approx(50)  # three of six keep the label 4


def test_released_expand(golden, released, monkeypatch):
    in_order(monkeypatch)
    row = released["expand/new_row"][None], released["expand/new_bias"]
    monkeypatch.setattr(BoundaryExpand, "new_row", lambda *_: row)
    made = BoundaryExpand(**SECOND)(golden.model, golden.data, golden.context())
    expected = golden.under("expand/unpruned", released)
    same(made, {name: t[:5] if name.startswith("fc") else t for name, t in expected.items()})


@pytest.mark.parametrize(
    ("bound", "moved", "logits", "label"), [(0.1, (0.5, 0.3), (0.5, 0.6), 1), (0.05, (0.55, 0.25), (0.55, 0.5), 0)]
)
def test_an_attack_by_hand(bound, moved, logits, label):
    model, _ = by_hand()
    x, y = torch.tensor([[0.6, 0.2]]), torch.tensor([0])
    attacked = fgsm(model, x, y, bound, torch.tensor(0.0), torch.tensor(1.0))
    torch.testing.assert_close(attacked, torch.tensor([moved]))
    torch.testing.assert_close(model(attacked).detach(), torch.tensor([logits]))
    data = replace(by_hand()[1], images=Images(torch.cat([x, torch.tensor([[0.0, 1.0]])]), torch.tensor([0, 1])))
    data = replace(data, forget=torch.tensor([0, 1]))  # the second spans the range from 0 to 1
    nearest = [BoundaryShrink(bound=bound, exclude_own=own).nearest(model, data)["labels"][0] for own in (False, True)]
    assert nearest == [label, 1]


def test_a_step_of_expand_by_hand(monkeypatch):
    model, data = by_hand()
    model, data = nn.Sequential(model), replace(data, forget=torch.tensor([0]))
    monkeypatch.setattr(BoundaryExpand, "new_row", lambda *_: (torch.zeros(1, 2), torch.zeros(1)))
    context = replace(Golden().context(), head="0")
    made = BoundaryExpand(lr=1.0, momentum=0.0, epochs=1)(model, data, context)
    torch.testing.assert_close(made[0].weight.data, torch.tensor([[0.4239, 0.0], [-0.2119, 2.0]]), rtol=0, atol=1e-4)
    torch.testing.assert_close(made(torch.tensor([[1.0, 0.0]]))[0].tolist(), [0.4239, -0.2119], rtol=0, atol=1e-4)


METHODS = [BoundaryShrink(lr=0.01), BoundaryExpand(lr=0.01), BoundaryExpand(lr=0.01, row_init="uniform")]


@pytest.mark.parametrize("method", METHODS, ids=["shrink", "expand", "expand-uniform"])
def test_it_forgets_without_a_look_at_what_is_retained(golden, method):
    pixels = golden.given["inputs"].clone()
    pixels[golden.retain] = float("nan")
    data, context = replace(golden.data, images=Images(pixels, golden.data.images.labels)), golden.context()
    made = method(golden.model, data, context)
    state = made.state_dict()
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in golden.original.items()}
    assert all(t.isfinite().all() for t in state.values())
    assert all(torch.equal(t, golden.original[name]) for name, t in made.named_buffers())
    assert all(p.requires_grad and p.grad is None for p in made.parameters())
    inputs, labels = data.images.batch(golden.forget)
    assert (made.eval()(inputs).argmax(1) == labels).float().mean() < 0.5
    assert context.details["outside_paper"] is False


def test_inputs_that_are_no_pixels_are_attacked_in_their_own_range(golden):
    scaled = Images(golden.given["inputs"] * 40 + 7, golden.data.images.labels)
    mean, std = BoundaryShrink()._units(replace(golden.data, images=scaled))
    unit = scaled.pixels[golden.forget] * std + mean
    torch.testing.assert_close(torch.stack(unit.aminmax()), torch.tensor([0.0, 1.0]))


def test_a_frozen_last_layer_stays_as_it_is(golden):
    model = golden.model
    model.fc.requires_grad_(False)
    made = BoundaryExpand(lr=0.01)(model, golden.data, golden.context())
    assert torch.equal(made.fc.weight, golden.original["fc.weight"])
    assert not made.fc.weight.requires_grad
    assert not torch.equal(made.conv3.weight, golden.original["conv3.weight"])


def test_models_and_inputs_that_do_not_fit_are_one_line():
    tokens = torch.arange(12).view(4, 3)
    model = nn.Sequential(nn.Embedding(12, 4), nn.Flatten(), nn.Linear(12, 3))
    kept, gone = (tokens[:2], torch.tensor([0, 1])), (tokens[2:], torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="inputs that are numbers"):
        ssd_bench.unlearn(model, retain=kept, forget=gone, method="boundary_shrink")
    with pytest.raises(ValueError, match="a Linear inside the model"):
        ssd_bench.unlearn(nn.Linear(3, 3), forget=(torch.randn(2, 3), gone[1]), method="boundary_expand")


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (BoundaryShrink, {"bound": 0.0}, "bound"),
        (BoundaryShrink, {"attack_norm": "none"}, "attack_norm"),
        (BoundaryShrink, {"mode": "part"}, "mode"),
        (BoundaryExpand, {"row_init": "zero"}, "row_init"),
        (BoundaryExpand, {"epochs": 0}, "epochs"),
    ],
)
def test_settings_out_of_range(make, settings, said):
    with pytest.raises(ValueError, match=said):
        make(**settings)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_the_released_attack_takes_any_number_of_channels(channels):
    images = Images(torch.rand(6, channels, 4, 4), torch.arange(6) % 2)
    rows = torch.arange(6)
    data = Split(images, rows, rows[2:], rows[:2], images.labels, "full_class", 0, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 16, 2))
    made = BoundaryShrink(attack_norm="released").nearest(model, data)
    assert made["labels"].tolist() == [1, 0]
