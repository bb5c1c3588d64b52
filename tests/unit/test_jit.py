"""JiT: the released loop with its own noise, steps worked by hand, and what its corrections change."""

from dataclasses import replace

import pytest
import torch
from golden_data import FOLDER, Golden, by_hand, in_order, same

from ssd_bench.core.task import Images
from ssd_bench.methods.jit import JiT
from ssd_bench.train.passes import pass_clock

SETTINGS = {"lr": 0.02, "sigma": 0.5, "n_samples": 3, "batch_size": 4, "reduction": "sum", "clamp": "batch"}


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


@pytest.fixture
def stored_noise(golden, monkeypatch):
    """The fixture's noise, in the order in which it is asked for: batches of 4 and 2 images, 3 copies of each."""
    in_order(monkeypatch)
    noise = golden.numbers("jit")["noise"]
    drawn = iter([part[:, copy] for part in noise.split(4) for copy in range(3)])
    monkeypatch.setattr("ssd_bench.methods.jit.torch.randn_like", lambda inputs: next(drawn))


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("official_train", {"mode": "train", "accumulate": True}),
        ("official_eval", {"accumulate": True}),
        ("corrected_eval", {}),
    ],
)
def test_released_loop(golden, stored_noise, case, settings):
    made = JiT(**SETTINGS, **settings)(golden.model, golden.data, golden.context())
    same(made, golden.under(case, golden.numbers("jit")))


@pytest.mark.parametrize(
    ("x", "moved", "gradient", "loss", "expected"),
    [
        ((1.0, 0.0), (1.0, 0.5), "one_sided", 2.0, [[0.0, 0.0], [-2.0, 0.0]]),
        ((1.0, 0.0), (1.0, 0.5), "both", 2.0, [[0.0, 0.0], [0.0, 1.0]]),
        ((2.0, -1.0), (1.0, 1.0), "one_sided", 1.84391, [[0.21693, -0.10847], [-0.86772, 0.43386]]),
    ],
)
def test_a_gradient_by_hand(monkeypatch, x, moved, gradient, loss, expected):
    model, _ = by_hand()
    inputs, moved = torch.tensor([x]), torch.tensor([moved])
    monkeypatch.setattr("ssd_bench.methods.jit.torch.randn_like", lambda inputs: moved - inputs)
    rough = JiT(sigma=1.0, gradient=gradient).roughness(model, inputs, model(inputs), *inputs.aminmax())
    assert rough.item() == pytest.approx(loss, abs=1e-5)
    rough.sum().backward()
    torch.testing.assert_close(model.weight.grad, torch.tensor(expected), rtol=0, atol=1e-5)


def weights(golden, data=None, **settings):
    torch.manual_seed(0)
    return JiT(**SETTINGS | settings)(golden.model, data or golden.data, golden.context()).state_dict()


def equal(ours, theirs):
    return all(torch.equal(t, theirs[name]) for name, t in ours.items())


def test_gradients_accumulate_over_batches_alone(golden):
    assert not equal(weights(golden), weights(golden, accumulate=True))
    assert equal(weights(golden, batch_size=6), weights(golden, batch_size=6, accumulate=True))


@pytest.mark.parametrize("sigma", [0.01, 0.5])
def test_bfloat16_does_not_round_away_what_a_small_sigma_moves(golden, sigma):
    whole = weights(golden, sigma=sigma)
    with pass_clock.using(torch.device("cpu"), "bfloat16"):
        assert equal(weights(golden, sigma=sigma), whole)


def test_the_mean_over_a_batch_is_a_smaller_step(golden):
    ours, theirs = weights(golden, batch_size=6, reduction="mean", lr=0.12), weights(golden, batch_size=6)
    torch.testing.assert_close(ours, theirs)


def test_neither_labels_nor_retained_images_are_looked_at(golden):
    pixels, labels = golden.data.images.pixels.clone(), golden.data.images.labels
    pixels[golden.retain] = float("nan")
    data = replace(golden.data, images=Images(pixels, (labels + 1) % 5))
    ours = weights(golden, data, clamp="data")
    assert equal(ours, weights(golden, clamp="data"))
    assert all(torch.equal(ours[name], t) for name, t in golden.model.named_buffers())
    assert not equal(ours, golden.original)


def test_copies_stay_in_the_range_of_what_is_forgotten(golden):
    seen, model = [], golden.model
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    JiT(sigma=50.0, n_samples=2, batch_size=4)(model, golden.data, golden.context())
    of_forget = golden.data.images.pixels[golden.forget].aminmax()
    assert (torch.cat(seen).min(), torch.cat(seen).max()) == of_forget


def test_a_network_that_says_the_same_to_all_stays_as_it_is(golden):
    original = golden.original
    original["fc.weight"].zero_()
    model = golden.model
    model.load_state_dict(original)
    made = JiT(**SETTINGS)(model, golden.data, golden.context())
    assert equal(made.state_dict(), original)


@pytest.mark.parametrize(
    "setting",
    [
        {"sigma": 0.0}, {"n_samples": 0}, {"lr": 0.0}, {"mode": "part"}, {"gradient": "none"}, {"clamp": "no"},
        {"reduction": "max"},
    ],
)  # fmt: skip
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        JiT(**setting)
