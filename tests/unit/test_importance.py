"""Diagonal Fisher information: against the slow way, its identities, and that it leaves no trace."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import ConfigError, Diverged
from ssd_bench.importance import diagonal_fisher


def slowly(model, batches):
    """Mean over batches of the squared gradient of each batch's mean loss, one backward pass a batch."""
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for inputs, labels in batches:
        model.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        for name, p in model.named_parameters():
            total[name] += p.grad**2 / len(batches)
    return total


def cut(samples, size):
    return list(zip(samples[0].split(size), samples[1].split(size), strict=True))


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **tolerance)


@pytest.mark.parametrize("size", [1, 5, 24])
def test_batch_mean_is_the_mean_of_squared_batch_gradients(net, samples, size):
    batches = cut(samples, size)  # with size 5, a short last batch counts as one batch
    assert_same(diagonal_fisher(net, batches), slowly(net, batches), rtol=1e-5, atol=1e-9)


def test_per_sample_is_batch_mean_with_batches_of_one(net, samples):
    assert_same(
        diagonal_fisher(net, cut(samples, 24), "per_sample"), slowly(net, cut(samples, 1)), rtol=1e-4, atol=1e-8
    )


def test_no_batching_changes_per_sample_but_batch_mean_shrinks_when_classes_mix(net, samples):
    whole, parts = (diagonal_fisher(net, cut(samples, size), "per_sample") for size in (24, 7))
    assert_same(whole, parts, rtol=1e-4, atol=1e-8)
    order = samples[1].argsort(stable=True)
    pure = [(samples[0][rows], samples[1][rows]) for rows in order.split(torch.bincount(samples[1]).tolist())]
    sums = [sum(t.sum() for t in diagonal_fisher(net, batches).values()) for batches in (pure, cut(samples, 24))]
    assert sums[0] > 2 * sums[1]


def test_importance_of_all_is_the_weighted_mean_of_its_parts(net, samples):
    inputs, labels = samples
    full, one, rest = (
        diagonal_fisher(net, [(inputs[part], labels[part])], "per_sample")
        for part in (slice(None), slice(0, 6), slice(6, None))
    )
    mixed = {name: (6 * one[name] + 18 * rest[name]) / 24 for name in full}
    assert_same(full, mixed, rtol=1e-4, atol=1e-8)
    for name in full:  # so the ratio cannot exceed |D| / |D_f|
        assert (one[name] <= 24 / 6 * full[name] * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize("estimator", ["batch_mean", "per_sample"])
def test_the_model_is_left_as_it_was_found(net, samples, estimator):
    net.train()
    net[1].eval()  # a mode of its own inside a model in training mode
    net[5].bias.grad = torch.ones(4)
    before = copy.deepcopy(net.state_dict())
    diagonal_fisher(net, [samples], estimator)
    assert [m.training for m in net] == [True, False, True, True, True, True]
    assert net[0].weight.grad is None
    assert torch.equal(net[5].bias.grad, torch.ones(4))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_parameters_without_gradient_have_importance_zero(net, samples):
    net.unused = torch.nn.Parameter(torch.ones(2))
    net[0].weight.requires_grad_(False)
    importance = diagonal_fisher(net, [samples])
    assert set(importance) == {name for name, _ in net.named_parameters()}
    assert not importance["unused"].any()
    assert not importance["0.weight"].any()
    assert importance["5.weight"].any()


def test_bad_input_is_refused(net, samples):
    with pytest.raises(ConfigError, match="batch_mean"):
        diagonal_fisher(net, [samples], "batchmean")
    with pytest.raises(ValueError, match="at least one sample"):
        diagonal_fisher(net, [])
    with pytest.raises(Diverged, match="not finite"):
        diagonal_fisher(net, [(samples[0] * float("nan"), samples[1])])
