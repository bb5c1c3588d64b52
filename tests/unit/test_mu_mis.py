"""MU-Mis: a step worked by hand, what it lowers, and what it never looks at."""

from dataclasses import replace

import pytest
import torch
from golden_data import FOLDER, Golden, by_hand

from ssd_bench.core.task import Images
from ssd_bench.methods.mu_mis import MUMis, sensitivity_to


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


@pytest.mark.parametrize(("other", "left"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_a_step_by_hand(other, left):
    """f(x) = Wx: the gradient of logit c is row c, so with both labels once the step shrinks W by lr (1 - other)."""
    model, data = by_hand()
    before = model.weight.data.clone()
    method = MUMis(epochs=1, lr=0.1, momentum=0.0, batch_size=2, other=other)
    made = method(model, data, Golden().context())
    torch.testing.assert_close(made.weight.data, left * before)


def test_the_other_class_is_never_the_own(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ssd_bench.methods.mu_mis.sensitivity_to", lambda i, logits, of: seen.append(of) or logits.sum(1) * 0
    )
    labels = torch.arange(4).repeat(50)
    MUMis().objective(torch.nn.Linear(3, 4), torch.randn(200, 3), labels, labels)
    own, others = seen
    assert torch.equal(own, labels)
    assert (others != labels).all()
    assert set(((others - labels) % 4).tolist()) == {1, 2, 3}


def sensitivity(model, golden):
    inputs, labels = golden.data.images.batch(golden.forget)
    inputs = inputs.clone().requires_grad_()
    return sensitivity_to(inputs, model.eval()(inputs), labels).mean().item()


def test_it_lowers_the_sensitivity_without_a_look_at_what_is_retained(golden):
    pixels = golden.data.images.pixels.clone()
    pixels[golden.retain] = float("nan")
    data = replace(golden.data, images=Images(pixels, golden.data.images.labels))
    made = MUMis(lr=1e-3, other=0.0)(golden.model, data, golden.context())
    assert sensitivity(made, golden) < 0.9 * sensitivity(golden.model, golden)
    assert all(torch.equal(t, golden.original[name]) for name, t in made.named_buffers())
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize("setting", [{"other": -1.0}, {"mode": "part"}, {"epochs": 0}, {"lr": 0.0}])
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MUMis(**setting)
