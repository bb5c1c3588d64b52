"""MSG and CT: the released scores, masks and weights, and cases worked by hand."""

from dataclasses import replace

import pytest
import torch
from golden_data import FOLDER, Golden, in_order, same
from torch import nn

from ssd_bench.core.task import Images, Split
from ssd_bench.methods.by_epoch import cosine, triangle
from ssd_bench.methods.ct import CT, transpose_kernels
from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.msg import MSG, slowed

OFFICIAL = {"lr": 0.01, "batch_size": 6, "score": "sums", "score_mode": "train", "scaled": "gradient"}


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


@pytest.fixture
def released(golden):
    return golden.numbers("msg_ct")


def test_released_scores_and_masks(golden, released):
    model, context = golden.model, golden.context()
    scores = MSG(**OFFICIAL).scores(model, golden.data, released["msg/retain_subset"])
    for name, expected in golden.under("msg/gradient", released).items():
        torch.testing.assert_close(scores[name], expected, rtol=1e-3, atol=1e-6)
        mask = MSG(rate=0.3).mask(scores[name])
        assert torch.equal(mask, released[f"msg/reinitialised/{name}"].bool())
        assert mask.sum() == golden.expected["msg"]["reinitialised"][name]
    same(model, golden.under("msg/before_reinit", released))
    MSG(epochs=1)(golden.model, golden.data, context)
    assert context.details["drawn_anew"] == 32 + 65 + 130


def test_released_fine_tuning_of_msg(golden, released, monkeypatch):
    in_order(monkeypatch)
    method, model = MSG(**OFFICIAL), golden.model
    model.load_state_dict(golden.under("msg/after_reinit", released))
    chosen = {name: mask.bool() for name, mask in golden.under("msg/reinitialised", released).items()}
    assert method.recipe().lr_trace(1) == pytest.approx(golden.expected["msg"]["lr_by_epoch"])
    same(method.finetune(model, chosen, golden.data, golden.context()), golden.under("msg/final", released))


def test_released_ct(golden, released, monkeypatch):
    in_order(monkeypatch)
    method = CT(lr=0.01, batch_size=6)
    assert method.recipe().lr_trace(1) == pytest.approx(golden.expected["ct"]["lr_by_epoch"])
    same(method(golden.model, golden.data, golden.context()), golden.under("ct/final", released))


def test_rates_by_hand():
    assert cosine(3) == pytest.approx([1, 0.75, 0.25])
    assert triangle(5) == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert triangle(1) == [1]
    assert triangle(2) == pytest.approx([1, 0.5])


GRADIENT = [0.5, -0.1, 0.3, 0.05, -0.9, 0.2, 0.0, 0.7, -0.4, 0.6]


@pytest.mark.parametrize(("rate", "entries"), [(0.3, [1, 3, 6]), (0.0, []), (1.0, list(range(10)))])
def test_what_is_smallest_by_hand(rate, entries):
    assert MSG(rate=rate).mask(torch.tensor(GRADIENT)).nonzero().flatten().tolist() == entries


@pytest.mark.parametrize(("decay", "expected"), [(0.0, -0.01 * 0.1 * 0.5), (0.2, -0.01 * 0.1 * (0.5 + 0.2 * 3))])
def test_a_slowed_step_by_hand(decay, expected):
    """Entry 0 has weight 3 and gradient 0.5; entry 1 is drawn anew and goes at full speed."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False))
    model[0].weight.data.fill_(3.0)
    scales = {"0": torch.tensor([0.1, 1.0, 0.1, 0.1]).view(1, 1, 2, 2)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=decay)
    gradient = torch.tensor([0.5, -0.1, 0.0, 0.0]).view(1, 1, 2, 2)
    with slowed(model, scales, decay):
        (model[0].weight * gradient).sum().backward()
    optimizer.step()
    moved = (model[0].weight.data - 3).flatten()
    assert moved[0].item() == pytest.approx(expected, rel=1e-3)
    assert moved[1].item() == pytest.approx(-0.01 * (-0.1 + decay * 3), rel=1e-3)
    assert not model[0].weight._backward_hooks


def test_only_what_is_smallest_is_drawn_anew_and_its_spread_is_kaimings():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    mask = MSG(rate=0.5).mask(torch.randn(model[0].weight.shape))
    MSG().draw_anew(model, {"0": mask}, torch.Generator().manual_seed(0))
    after = model.state_dict()
    assert torch.equal(after["0.weight"] != before["0.weight"], mask)
    assert after["0.weight"][mask].std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert torch.equal(after["0.bias"], before["0.bias"])
    MSG(keep_bias=False).draw_anew(model, {"0": mask}, torch.Generator().manual_seed(0))
    assert not torch.equal(model[0].bias, before["0.bias"])


def test_corrected_scores_are_of_mean_losses_and_move_nothing(golden):
    method, model = MSG(batch_size=4), golden.model
    ours = method.scores(model, golden.data, golden.retain[:6])
    at_once = MSG(batch_size=6).scores(golden.model, golden.data, golden.retain[:6])
    torch.testing.assert_close(ours, at_once)
    assert all(torch.equal(t, golden.original[name]) for name, t in model.state_dict().items())
    in_sums = MSG(batch_size=4, score="sums").scores(golden.model, golden.data, golden.retain[:6])
    assert not torch.allclose(in_sums["conv1"], ours["conv1"])


def test_kernels_are_transposed_and_twice_is_nothing():
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, (1, 3)), nn.Conv2d(1, 1, 2))
    model[0].weight.data = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    model[3].weight.requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert transpose_kernels(model) == 1
    assert model[0].weight.tolist() == [[[[1, 3], [2, 4]]]]
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"0.weight"}
    transpose_kernels(model)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_ct_without_kernels_to_transpose_is_fine_tuning(golden):
    torch.manual_seed(0)
    inputs, labels = torch.randn(20, 3, 4, 4), torch.arange(20) % 3
    rows = torch.arange(20)
    data = Split(Images(inputs, labels), rows, rows[:15], rows[15:], labels, "random", None, 3)
    made = []
    for method in (CT(epochs=1, batch_size=5), Finetune(epochs=1, lr=1e-3, batch_size=5)):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 3))
        made.append(method(model, data, golden.context()).state_dict())
    assert all(torch.equal(t, made[1][name]) for name, t in made[0].items())


def test_ct_does_not_look_at_what_is_forgotten(golden):
    pixels = golden.data.images.pixels.clone()
    pixels[golden.forget] = float("nan")
    data = replace(golden.data, images=Images(pixels, golden.data.images.labels))
    ours, theirs = (CT(batch_size=6)(golden.model, d, golden.context()).state_dict() for d in (data, golden.data))
    assert all(torch.equal(t, theirs[name]) for name, t in ours.items())


@pytest.mark.parametrize(
    "setting",
    [{"rate": 1.5}, {"keep_scale": -0.1}, {"score": "max"}, {"score_mode": "x"}, {"scaled": "x"}, {"epochs": 0}],
)
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MSG(**setting)
