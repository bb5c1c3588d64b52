"""Methods that raise the loss of D_f: the authors' numbers, hand-worked steps, and what keeps them within bounds."""

import copy

import pytest
import torch
from golden_data import FOLDER, Golden, by_hand, in_order, same
from torch import nn

from ssd_bench.core.errors import Diverged
from ssd_bench.methods.ascent import Clipped
from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.neggrad import NegGrad
from ssd_bench.methods.neggrad_plus import NegGradPlus
from ssd_bench.train.recipe import Recipe


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


def test_released_ascent(golden, monkeypatch):
    in_order(monkeypatch)
    method = NegGrad(
        epochs=2, lr=0.01, momentum=0.9, weight_decay=5e-4, batch_size=4, mode="train", clip=None, stop_at=None
    )
    made = method(golden.model, golden.data, golden.context())
    same(made, golden.under("ascent", golden.numbers("ascent_and_finetune")))


def test_one_step_of_ascent_by_hand():
    model, data = by_hand()
    NegGrad(epochs=1, lr=0.1, batch_size=2, clip=None)(model, data, Golden().context())
    expected = torch.tensor([[1.0616485, -0.0856536], [-0.0616485, 2.0856536]])
    torch.testing.assert_close(model.weight.data, expected, rtol=0, atol=1e-6)


def test_a_clipped_step_is_as_long_as_it_may_be():
    model, data = by_hand()
    before = model.weight.data.clone()
    NegGrad(epochs=1, lr=0.1, batch_size=2, clip=0.5)(model, data, Golden().context())
    torch.testing.assert_close((model.weight.data - before).norm(), torch.tensor(0.05))


def test_the_mode_decides_whether_statistics_move_and_eval_never_sees_a_retained_image(golden):
    data = copy.deepcopy(golden.data)
    data.images.pixels[data.retain] = float("nan")
    for mode, moved in (("eval", False), ("train", True)):
        made = NegGrad(epochs=1, mode=mode, batch_size=4)(golden.model, data, golden.context())
        assert all(t.isfinite().all() for t in made.state_dict().values())
        for name, t in made.named_buffers():
            assert torch.equal(t, golden.original[name]) != moved, name


@pytest.mark.parametrize(("stop_at", "epochs"), [(100.0, 1), (None, 6), (0.0, None)])
def test_it_stops_when_enough_is_forgotten(golden, stop_at, epochs):
    context = golden.context()
    method = NegGrad(epochs=6, lr=0.3, batch_size=4, stop_at=stop_at)
    made = method(golden.model, golden.data, context)
    if epochs:
        assert context.details["epochs"] == epochs
        return
    assert 1 < context.details["epochs"] < 6
    inputs, labels = golden.data.images.batch(golden.data.forget)
    assert (made.eval()(inputs).argmax(1) != labels).all()


def test_an_ascent_that_was_stopped_by_what_it_forgot_is_over_when_it_resumes(golden):
    kept = {}

    class Kept:
        def due(self):
            return False

        def save(self, tensors, state):
            kept.update(tensors={name: t.clone() for name, t in tensors.items()}, state=state)

        def restore(self):
            return (kept["tensors"], kept["state"]) if kept else None

    contexts = golden.context(), golden.context()
    method = NegGrad(epochs=6, lr=0.3, batch_size=4, stop_at=0.0)
    for context in contexts:
        context.checkpoint = lambda name: Kept()
    first, second = (method(golden.model, golden.data, context) for context in contexts)
    assert contexts[0].details == contexts[1].details
    same(second, first.state_dict(), atol=0)


def test_an_unbounded_ascent_diverges():
    model, data = by_hand()
    with pytest.raises(Diverged):
        NegGrad(epochs=5, lr=3e38, clip=None, stop_at=None)(model, data, Golden().context())


def test_a_recipe_without_clip_is_the_recipe(net):
    steps = []
    for recipe in (Recipe(lr=0.1), Clipped(lr=0.1), Clipped(lr=0.1, clip=1e9)):
        model = copy.deepcopy(net)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        recipe.make_optimizer(model).step()
        steps.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[0], steps[2])


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"stop_at": 101.0}, r"stop_at \(percent of D_f\) must be null or between 0 and 100"),
        ({"clip": 0.0}, "clip must be null or positive, got 0"),
        ({"mode": "evl"}, "mode=evl does not exist; did you mean 'eval'"),
        ({"lr": -1.0}, "lr must be positive"),
    ],
)
def test_settings_out_of_range(setting, line):
    with pytest.raises(ValueError, match=line):
        NegGrad(**setting)


# NegGrad+


@pytest.mark.parametrize("epochs", [1, 2])
def test_released_neggrad_plus_in_train_mode(monkeypatch, epochs):
    in_order(monkeypatch)
    golden = Golden()
    method = NegGradPlus(epochs=epochs, a=0.9, retain_batch_size=8, forget_batch_size=5, mode="train")
    made = method(golden.model, golden.data, golden.context())
    same(made, golden.under(f"e{epochs}", golden.numbers("neggrad_plus")))


def test_released_neggrad_plus_in_eval_mode(golden, monkeypatch):
    in_order(monkeypatch)
    method = NegGradPlus(epochs=2, a=0.95, penalty=0.1, retain_batch_size=6, forget_batch_size=4)
    made = method(golden.model, golden.data, golden.context())
    expected = golden.under("neggrad_plus_eval", golden.numbers("ascent_and_finetune"))
    same(made, expected, atol=5e-7)  # without the penalty: 3e-6


def test_one_step_both_ways_by_hand():
    model, data = by_hand()
    NegGradPlus(epochs=1, lr=0.1, a=0.9)(model, data, Golden().context())
    expected = torch.tensor([[1.0182672, -0.0139295], [-0.0182672, 2.0139295]])
    torch.testing.assert_close(model.weight.data, expected, rtol=0, atol=1e-6)


def test_without_ascent_it_is_fine_tuning_to_the_bit(golden):
    plus = NegGradPlus(epochs=2, a=1.0, retain_batch_size=6, mode="train")
    fine = Finetune(epochs=2, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=6)
    made, expected = (method(golden.model, golden.data, golden.context()) for method in (plus, fine))
    same(made, expected.state_dict(), atol=0)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"a": 1.1}, "a must be between 0 and 1, got 1.1"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
        ({"forget_batch_size": 0}, "forget_batch_size must be at least 1"),
    ],
)
def test_settings_of_both_ways_out_of_range(setting, line):
    with pytest.raises(ValueError, match=line):
        NegGradPlus(**setting)
