"""Influence unlearning: the authors' numbers, exact solutions, and what follows from its definition."""

import copy
from dataclasses import replace

import pytest
import torch
from golden_data import Golden
from torch import nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import Diverged
from ssd_bench.core.task import Images
from ssd_bench.importance import fisher_product, gradient, gradient_products, loss_gradient, slopes, weighted_gradient
from ssd_bench.methods.influence import Influence, conjugate_gradients, direction
from ssd_bench.train.passes import pass_clock


@pytest.fixture
def golden():
    return Golden()


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors.values()])


def in_double(data):
    return replace(data, images=Images(data.images.pixels.double(), data.images.labels))


def close(a, b, relative):
    assert (a - b).norm() <= relative * b.norm()


def test_direction(golden):
    close(flat(direction(golden.model, golden.data, golden.context())), golden.numbers("influence")["v"], 1e-5)


def test_released_recursion(golden):
    numbers, model = golden.numbers("influence"), golden.model
    v = direction(model, golden.data, golden.context())
    made = flat(Influence(variant="official").released(model, golden.data, v))
    close(made, numbers["official_inverse_times_v"], 1e-5)
    close(
        flat(loss_gradient(model, [golden.data.images.batch(golden.retain[:1])])),
        numbers["first_retain_gradient"],
        1e-5,
    )
    Influence(variant="official", step=3.0)(model, golden.data, golden.context())
    expected = golden.under("official_alpha_3", numbers)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("damping", ["1", "0.1", "0.01"])
def test_the_inverse_is_the_exact_one(golden, damping):
    data, context = in_double(golden.data), golden.context()
    method = Influence(damping=float(damping), iterations=400, tolerance=1e-9)
    model = golden.model.double()
    made = method.solved(model, data, direction(model, data, context), context)
    close(flat(made), golden.numbers("influence")[f"intended/damping_{damping}"].double(), 1e-5)
    assert context.details["residual"] <= 1e-9
    assert context.details["iterations"] <= 3  # one, but for rounding


def test_products_of_gradients_serve_every_damping_and_step(golden):
    kept, made = {}, []

    def cached(kind, key, make):
        return kept.setdefault(kind, None) or kept.update({kind: make()}) or made.append(kind) or kept[kind]

    model = golden.model.double()
    data = in_double(golden.data)
    for damping in (0.1, 0.01):
        context = golden.context(cached)
        Influence(damping=damping, tolerance=1e-9)(copy.deepcopy(model), data, context)
        assert context.details["residual"] <= 1e-9
    assert made == ["gradient_full", "gradient_products"]


def test_bfloat16_does_not_reach_the_inverse(golden):
    made = []
    for precision in ("float32", "bfloat16"):
        model, context = golden.model, golden.context()
        v = direction(model, golden.data, context)
        with pass_clock.using(torch.device("cpu"), precision):
            made.append(flat(Influence().solved(model, golden.data, v, context)))
        assert context.details["residual"] <= 1e-3
    torch.testing.assert_close(*made)


def test_gradients_that_are_not_finite_are_said(golden):
    model = golden.model
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        Influence()(model, golden.data, golden.context())


def test_steps_are_linear_and_nothing_else_changes(golden):
    def moved(step):
        model = Influence(step=step, iterations=5)(golden.model, golden.data, golden.context())
        for name, t in model.named_buffers():
            assert torch.equal(t, golden.original[name]), name
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        return flat(dict(model.named_parameters())) - flat(dict(golden.model.named_parameters()))

    assert not moved(0.0).any()
    close(moved(2.0), 2 * moved(1.0), 1e-4)


def test_with_much_damping_it_is_a_step_along_v(golden):
    model, context = golden.model, golden.context()
    v = direction(model, golden.data, context)
    made = Influence(damping=1e6).solved(model, golden.data, v, context)
    close(1e6 * flat(made), flat(v), 1e-4)


def test_it_raises_the_loss_of_d_f_more_than_that_of_d_r(golden):
    made, before = Influence(step=3.0)(golden.model, golden.data, golden.context()).eval(), golden.model.eval()
    rise = {}
    for name, rows in (("forget", golden.forget), ("retain", golden.retain)):
        inputs, labels = golden.data.images.batch(rows)
        rise[name] = cross_entropy(made(inputs), labels) - cross_entropy(before(inputs), labels)
    assert rise["forget"] > 0
    assert rise["forget"] > rise["retain"]


def test_a_placebo_is_compared_with_all_of_d(golden):
    data = replace(golden.data, rows=golden.retain)
    close(flat(direction(golden.model, data, golden.context())), golden.numbers("influence")["v"], 1e-5)


def test_slopes_and_fisher_product_are_those_of_each_samples_gradient(net, samples):
    inputs, labels = samples
    net.double().train()
    inputs = inputs.double()
    draws = torch.Generator().manual_seed(0)
    u = {name: torch.randn(p.shape, generator=draws).double() for name, p in net.named_parameters()}
    gradients = [flat(loss_gradient(net, [(x[None], y[None])])) for x, y in zip(inputs, labels, strict=True)]
    along = torch.stack([g.dot(flat(u)) for g in gradients])
    batches = [(inputs[:10], labels[:10]), (inputs[10:], labels[10:])]
    torch.testing.assert_close(slopes(net, batches, u), along)
    expected = torch.stack([a * g for a, g in zip(along, gradients, strict=True)]).mean(0)
    torch.testing.assert_close(flat(fisher_product(net, batches, u)), expected)
    assert net.training


class Unmappable(nn.Module):
    """Asks for a number, which nothing that maps over samples can give."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) if float(x.detach().sum()) < 1e9 else x


@pytest.mark.parametrize("mapped", [True, False])
def test_products_and_weighted_sums_of_gradients(net, samples, mapped, monkeypatch):
    inputs, labels = samples
    model = net.double().train() if mapped else Unmappable(net.double().train())
    inputs = inputs.double()
    names = [name for name, _ in model.named_parameters()]
    gradients = [flat(loss_gradient(model, [(x[None], y[None])])) for x, y in zip(inputs, labels, strict=True)]
    gradients = torch.stack(gradients)
    monkeypatch.setattr(gradient, "GRADIENT_BYTES", 2 * 3 * gradients[0].numel() * 8)  # three samples a block
    batches = [(inputs[:10], labels[:10]), (inputs[10:], labels[10:])]
    torch.testing.assert_close(gradient_products(model, batches, names), gradients @ gradients.T)
    weights = torch.randn(len(labels), generator=torch.Generator().manual_seed(0)).double()
    made = flat(weighted_gradient(model, batches, [weights[:10], weights[10:]], names))
    torch.testing.assert_close(made, weights @ gradients)
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_conjugate_gradients_on_a_small_system():
    a = torch.tensor([[4.0, 1.0], [1.0, 3.0]]).double()
    b = torch.tensor([1.0, 2.0]).double()
    x, steps, residual = conjugate_gradients(lambda u: a @ u, b, 10, 1e-12)
    torch.testing.assert_close(x, torch.tensor([1 / 11, 7 / 11]).double())
    assert steps == 2
    assert residual < 1e-12
    assert conjugate_gradients(lambda u: a @ u, b * 0, 10, 1e-3)[1:] == (0, 0.0)
    assert conjugate_gradients(lambda u: a @ u, b, 1, 1e-12)[1] == 1
    x, steps, residual = conjugate_gradients(lambda u: a @ u, b, 10, 1e-12, lambda u: torch.linalg.solve(a, u))
    torch.testing.assert_close(x, torch.tensor([1 / 11, 7 / 11]).double())
    assert steps == 1


def test_gradients_of_d_are_shared(golden):
    asked = []
    Influence(iterations=1)(golden.model, golden.data, golden.context(lambda *key: asked.append(key[:2]) or key[2]()))
    other = replace(golden.data, forget=golden.retain[:3], retain=torch.cat([golden.forget, golden.retain[3:]]))
    Influence(iterations=1)(golden.model, other, golden.context(lambda *key: asked.append(key[:2]) or key[2]()))
    full, products, again, others = asked
    assert full == again
    assert products != others  # of D_r, which another request draws from anew


def test_attention_can_be_followed_along_a_direction():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3))
    inputs, labels = torch.randn(4, 3, 8), torch.tensor([0, 1, 2, 0])
    u = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    far = copy.deepcopy(model).double().eval()
    step = 1e-6
    before = cross_entropy(far(inputs.double()), labels, reduction="none")
    with torch.no_grad():
        for p in far.parameters():
            p.add_(step)
    after = cross_entropy(far(inputs.double()), labels, reduction="none")
    along = slopes(model, [(inputs, labels)], u).double()
    torch.testing.assert_close(along, (after - before) / step, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"damping": 0.0}, "damping must be positive, got 0"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"variant": "exact"}, "variant=exact does not exist"),
    ],
)
def test_settings_out_of_range(setting, line):
    with pytest.raises(ValueError, match=line):
        Influence(**setting)
