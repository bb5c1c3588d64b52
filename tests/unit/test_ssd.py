"""Dampening: what it selects, what it must never do, and what its batches are made of."""

import copy
import logging

import pytest
import torch

from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Split
from ssd_bench.importance import diagonal_fisher
from ssd_bench.methods.assd import percentile_of_ratios
from ssd_bench.methods.ssd import SSD, dampen


@pytest.fixture
def importances(net, samples):
    inputs, labels = samples
    forget = labels == 2
    return diagonal_fisher(net, [samples], "per_sample"), diagonal_fisher(
        net, [(inputs[forget], labels[forget])], "per_sample"
    )


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_by_hand():
    model = torch.nn.Linear(5, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0]])
    full = {"weight": torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0]])}
    forget = {"weight": torch.tensor([[4.0, 2.0, 1.0, 5.0, 0.0]])}
    assert dampen(model, full, forget, alpha=3, lam=0.5) == {"weight": 3}
    # selected: 4 > 3 (times 0.5/4), not 2, 1 > 0 (times 0), 5 > 3 (times 0.5/5), never an importance of 0
    torch.testing.assert_close(model.weight.data, torch.tensor([[0.125, -2.0, 0.0, -0.4, 5.0]]))


def test_released_formula_selects_and_dampens_the_same(net, importances):
    full, forget = importances
    expected = {}
    for name, p in net.named_parameters():
        chosen = forget[name] > full[name] * 1.5
        factor = (full[name] * 1.2 / forget[name])[chosen]
        factor[factor > 1] = 1
        expected[name] = p.detach().clone()
        expected[name][chosen] *= factor
    counts = dampen(net, full, forget, 1.5, 1.2)
    assert sum(counts.values()) > 0
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 7.0])
def test_no_magnitude_grows_and_fewer_are_selected_as_alpha_grows(net, importances, lam):
    before, counts = parameters(net), []
    for alpha in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 1e9):
        model = copy.deepcopy(net)
        counts.append(sum(dampen(model, *importances, alpha, lam).values()))
        assert (parameters(model).abs() <= before.abs()).all()
        assert (parameters(model) * before >= 0).all()
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-2] > 0


def test_alpha_without_limit_changes_nothing(net, importances):
    before = parameters(net)
    full = {name: t + 1e-20 for name, t in importances[0].items()}
    assert sum(dampen(net, full, importances[1], float("inf"), 1.0).values()) == 0
    assert torch.equal(parameters(net), before)


def test_alpha_at_the_bound_selects_nothing_per_sample(net, samples, importances):
    bound = len(samples[1]) / (samples[1] == 2).sum().item()
    assert sum(dampen(net, *importances, bound * 1.001, 1.0).values()) == 0
    assert sum(dampen(net, *importances, bound * 0.5, 1.0).values()) > 0


def test_buffers_are_not_touched(net, importances):
    before = copy.deepcopy(dict(net.named_buffers()))
    dampen(net, *importances, 0.5, 0.1)
    for name, value in net.named_buffers():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda full, forget: full.pop("5.bias"), "nothing for 5.bias"),
        (lambda full, forget: forget.update({"5.bias": torch.zeros(3)}), r"shape \(3,\), not \(4,\)"),
        (lambda full, forget: full["5.bias"].fill_(float("nan")), "importance_full of 5.bias"),
        (lambda full, forget: forget["5.bias"].fill_(float("inf")), "importance_forget of 5.bias"),
        (lambda full, forget: full["5.bias"].fill_(-1.0), "negative"),
    ],
)
def test_unsound_importances_are_refused_and_the_model_kept(net, importances, change, message):
    full, forget = ({name: t.clone() for name, t in each.items()} for each in importances)
    change(full, forget)
    before = parameters(net)
    with pytest.raises(ValueError, match=message):
        dampen(net, full, forget, 10, 1)
    assert torch.equal(parameters(net), before)


@pytest.mark.parametrize(("alpha", "lam"), [(-1, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_unsound_settings_are_refused(net, importances, alpha, lam):
    with pytest.raises(ValueError, match="at least 0"):
        dampen(net, *importances, alpha, lam)


@pytest.fixture
def split():
    """70 images of three groups, out of order; group 1 is to be forgotten. No images are needed to cut batches."""
    group = torch.randint(3, (70,), generator=torch.Generator().manual_seed(0))
    retain = (group != 1).nonzero().flatten()
    retain = retain[group[retain].argsort(stable=True)]
    forget = (group == 1).nonzero().flatten()
    return Split(group, torch.arange(70), retain, forget, group, "full_class", 1, 3)


def test_class_pure_batches_are_pure_and_the_same_for_every_request(split):
    from dataclasses import replace

    full, forget = SSD(batch_size=8).batches(split)
    assert all(len(split.group[batch].unique()) == 1 for batch in full)
    assert torch.equal(torch.cat(full).sort().values, split.rows)
    assert [b.tolist() for b in forget] == [b.tolist() for b in full if split.group[b[0]] == 1]
    other = replace(split, retain=(split.group != 2).nonzero().flatten(), forget=(split.group == 2).nonzero().flatten())
    assert [b.tolist() for b in SSD(batch_size=8).batches(other)[0]] == [b.tolist() for b in full]


def test_request_batches_are_the_released_ones(split):
    full, forget = SSD(batch_size=8, order="request").batches(split)
    assert torch.equal(torch.cat(full), torch.cat([split.retain, split.forget]))
    assert [len(b) for b in full] == [8] * 8 + [6]
    assert any(len(split.group[batch].unique()) > 1 for batch in full)  # they cross class borders
    assert torch.equal(torch.cat(forget), split.forget)


def test_mixed_and_shuffled_differ_in_the_forget_set_alone(split):
    mixed, shuffled = (SSD(batch_size=8, order=order).batches(split) for order in ("mixed", "shuffled"))
    assert torch.equal(torch.cat(mixed[0]), torch.cat(shuffled[0]))
    assert not torch.equal(torch.cat(mixed[0]), split.rows)
    assert torch.equal(torch.cat(shuffled[1]), split.forget)
    assert set(torch.cat(mixed[1]).tolist()) == set(split.forget.tolist())


@pytest.mark.parametrize("setting", ["importance=fisher", "order=sorted", "batch_size=0", "alpha=-1", "lam=-0.1"])
def test_settings_out_of_range(setting):
    key, value = setting.split("=")
    with pytest.raises((ConfigError, ValueError), match=key):
        SSD(**{key: value if key in ("importance", "order") else float(value)})


def test_the_bound_is_given_where_it_holds_alone(split):
    from dataclasses import replace

    def bound(data=split, **settings):
        method = SSD(batch_size=8, **settings)
        return method.bound(data, *method.batches(data))

    n_forget = len(split.forget)
    assert bound(importance="per_sample") == pytest.approx(70 / n_forget)
    assert bound() == len(SSD(batch_size=8).batches(split)[0]) / len(SSD(batch_size=8).batches(split)[1])
    assert bound(order="request") is bound(order="mixed") is bound(order="shuffled") is None
    part = replace(split, retain=torch.cat([split.retain, split.forget[:1]]), forget=split.forget[1:])
    assert bound(part) is None
    assert bound(replace(split, rows=split.retain)) is None  # a placebo


def test_warnings_name_what_went_wrong(split, caplog):
    caplog.set_level(logging.WARNING)
    SSD(order="shuffled")._warn(split, 0, 10, bound=10)
    assert "shrinks I_D" in caplog.text
    assert "selected nothing" in caplog.text
    caplog.clear()
    SSD()._warn(split, 3, 12, bound=10)
    assert "cannot exceed" in caplog.text
    caplog.clear()
    SSD()._warn(split, 3, 3, bound=10)
    assert not caplog.records


def test_the_percentile_of_ratios_pairs_entries_by_name():
    full = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0, 0.0])}
    forget = {"b": torch.tensor([2.0, 3.0]), "a": torch.tensor([0.2, 3.0])}  # ratios 0.2, 1.5, 0.5, and one of nothing
    assert percentile_of_ratios(full, forget, 50.0) == (0.5, 1)
    assert percentile_of_ratios(dict(reversed(full.items())), forget, 100.0) == (1.5, 1)
