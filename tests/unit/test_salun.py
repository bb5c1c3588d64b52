"""SalUn: the authors' masks and weights, and what a mask promises."""

from dataclasses import replace

import pytest
import torch
from golden_data import Golden, in_order, same
from torch.nn.functional import cross_entropy

from ssd_bench.importance import loss_gradient
from ssd_bench.methods.masks import largest, size_of
from ssd_bench.methods.salun import SalUn

RELEASED = {
    "epochs": 2, "lr": 0.05, "weight_decay": 0.05, "labels": "any", "mask_from": "batches", "forget_batch_size": 5,
    "retain_batch_size": 8,
}  # fmt: skip


@pytest.fixture
def golden():
    return Golden()


def mask_of(method, model, data):
    return method.mask(method.saliency(model, data))


@pytest.mark.parametrize("share", ["0.1", "0.5", "1.0"])
def test_released_masks(golden, share):
    mask = mask_of(SalUn(**RELEASED, share=float(share)), golden.model, golden.data)
    expected = golden.under(f"mask_{share}", golden.numbers("salun"))
    assert {name: t.tolist() for name, t in mask.items()} == {name: t.bool().tolist() for name, t in expected.items()}
    assert sum(int(t.sum()) for t in mask.values()) == golden.expected["salun"]["masked_in"][share]


@pytest.mark.parametrize(("case", "share"), [("rl", 1.0), ("salun_0.5", 0.5)])
def test_released_weights(golden, monkeypatch, case, share):
    in_order(monkeypatch)
    numbers = golden.numbers("salun")
    labels = golden.data.images.labels.repeat(2, 1)
    labels[:, golden.forget] = numbers[f"{case}/drawn_labels"].long()
    context = golden.context()
    context.generator = lambda purpose, epoch=None: epoch or torch.Generator()
    monkeypatch.setattr(SalUn, "drawn", lambda self, data, epoch: labels[epoch - 1])
    made = SalUn(share=share, **RELEASED)(golden.model, golden.data, context)
    expected = golden.under(case, numbers)
    same(made, {name: t for name, t in expected.items() if name != "drawn_labels"})


def test_a_mask_that_lets_all_through_is_random_labelling_to_the_bit(golden, monkeypatch):
    import ssd_bench.methods.salun as module

    free = SalUn(share=1.0, epochs=2)(golden.model, golden.data, golden.context())
    almost = SalUn(share=0.9999, epochs=2)
    monkeypatch.setattr(module, "largest", lambda tensors, n: largest(tensors, size_of(tensors)))
    same(almost(golden.model, golden.data, golden.context()), free.state_dict(), atol=0)


@pytest.mark.parametrize("order", ["sequential", "mixed"])
def test_what_is_masked_stays_to_the_bit_whatever_the_weight_decay(golden, order):
    method = SalUn(share=0.3, epochs=2, lr=0.05, weight_decay=0.1, order=order, retain_batch_size=8)
    mask, model = mask_of(method, golden.model, golden.data), golden.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    method(model, golden.data, golden.context())
    moved = {name: p != before[name] for name, p in model.named_parameters()}
    assert not any((moved[name] & ~mask[name]).any() for name in mask)
    assert sum(int(t.sum()) for t in moved.values()) > 0.9 * sum(int(t.sum()) for t in mask.values())


def test_no_order_of_d_f_changes_the_mask(golden):
    turned = replace(golden.data, forget=golden.forget.flip(0))
    for mask_from, alike in (("sum", True), ("batches", False)):
        method = SalUn(share=0.5, mask_from=mask_from, forget_batch_size=5)
        masks = [mask_of(method, golden.model, data) for data in (golden.data, turned)]
        assert all(torch.equal(t, masks[1][name]) for name, t in masks[0].items()) == alike


def test_labels_are_new_in_every_epoch_or_the_same(golden, monkeypatch):
    def labels(**settings):
        seen = []
        monkeypatch.setattr(
            "ssd_bench.methods.training.fit", lambda model, images, passes, *more, **kw: seen.append(passes)
        )
        SalUn(share=1.0, **settings)(golden.model, golden.data, golden.context())
        return [seen[0](epoch)[0].labels for epoch in (1, 2, 2)]

    first, second, again = labels()
    assert torch.equal(second, again)
    assert not torch.equal(first, second)
    own, forget = golden.data.images.labels, golden.forget
    assert (first[forget] != own[forget]).all()
    assert torch.equal(first[golden.retain], own[golden.retain])
    assert torch.equal(*labels(redraw="once")[:2])
    drawn = torch.stack([SalUn(labels="any").drawn(golden.data, torch.Generator().manual_seed(i)) for i in range(60)])
    assert (drawn[:, forget] == own[forget]).double().mean().item() == pytest.approx(0.2, abs=0.05)


def test_largest_of_all_tensors_together():
    tensors = {"a": torch.tensor([[3.0, -1.0], [0.5, -2.0]]), "b": torch.tensor([-4.0, 1.0])}
    assert {n: t.tolist() for n, t in largest(tensors, 3).items()} == {
        "a": [[True, False], [False, True]],
        "b": [True, False],
    }
    assert [int(t.sum()) for t in largest(tensors, 4).values()] == [3, 1]  # of the equal ones the first


def test_loss_gradient_is_the_gradient_and_leaves_nothing_behind(net, samples):
    inputs, labels = samples
    net.train()
    batches = [(inputs[:20], labels[:20]), (inputs[20:], labels[20:])]
    by_sample, by_batch = (loss_gradient(net, batches, reduction) for reduction in ("sum", "mean"))
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    net.eval()
    cross_entropy(net(inputs), labels, reduction="sum").backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(by_sample[name], p.grad, rtol=1e-4, atol=1e-5)
    net.zero_grad()
    sum(cross_entropy(net(x), y) for x, y in batches).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(by_batch[name], p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"share": 1.5}, "share must be between 0 and 1, got 1.5"),
        ({"order": "mix"}, "order=mix does not exist; did you mean 'mixed'"),
        ({"labels": "own"}, "labels=own does not exist"),
        ({"forget_batch_size": 0}, "forget_batch_size must be at least 1"),
    ],
)
def test_settings_out_of_range(setting, line):
    with pytest.raises(ValueError, match=line):
        SalUn(**setting)
