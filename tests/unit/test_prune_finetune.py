"""Prune, then unlearn: the authors' mask, zeros that stay zeros, and models that have nothing to prune."""

import pytest
import torch
from golden_data import Golden, in_order, same
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import weight_norm

import ssd_bench
from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.masks import smallest
from ssd_bench.methods.prune_finetune import PruneFinetune, prunable

N = 108 + 216  # weights of the two convolutions


@pytest.fixture
def golden():
    return Golden()


def test_released_mask(golden):
    said = golden.expected["prune"]
    pruned = smallest(prunable(golden.model), round(said["rate"] * N))
    expected = golden.under(f"prune_{said['rate']}", golden.numbers("sparse"))
    assert {f"{name}_mask": (~t).tolist() for name, t in pruned.items()} == {
        name: t.bool().tolist() for name, t in expected.items()
    }
    assert [int((~t).sum()) for t in pruned.values()] == list(said["kept"].values())


def test_smallest_of_all_tensors_together(golden):
    said = golden.expected["by_hand"]["masked_l1_prune"]
    weights = torch.tensor(said["weights"])
    pruned = smallest({"a": weights}, round(said["rate"] * weights.numel()))
    assert (~pruned["a"]).int().tolist() == said["mask"]
    tensors = {"a": torch.tensor([[3.0, -1.0], [0.5, -2.0]]), "b": torch.tensor([-4.0, 1.0])}
    assert [t.tolist() for t in smallest(tensors, 2).values()] == [[[False, True], [True, False]], [False, False]]
    assert [int(t.sum()) for t in smallest(tensors, 3).values()] == [2, 1]  # of the equal ones the first comes first


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.333, 0.5, 0.95, 0.999, 1.0])
def test_the_smallest_are_pruned_and_no_step_brings_them_back(golden, monkeypatch, rate):
    import ssd_bench.methods.training as training

    at_start, fit = [], training.fit

    def watched(model, *more, **how):
        at_start.append({name: t.clone() for name, t in model.state_dict().items()})
        return fit(model, *more, **how)

    monkeypatch.setattr(training, "fit", watched)
    context, original = golden.context(), golden.original
    method = PruneFinetune(rate=rate, epochs=3, lr=0.05, weight_decay=0.1, batch_size=8)
    made = method(golden.model, golden.data, context)
    [start] = at_start
    pruned = {name: start[name] == 0 for name in prunable(made)}
    gone, sizes = (torch.cat([t[name].flatten() for name in pruned]) for t in (pruned, original))
    assert gone.sum() == round(rate * N)
    assert sizes[gone].abs().sort().values.equal(sizes.abs().sort().values[: round(rate * N)])
    for name, t in start.items():
        assert torch.equal(t, original[name].masked_fill(pruned[name], 0) if name in pruned else original[name]), name
    for name, mask in pruned.items():
        p = made.get_parameter(name)
        assert torch.equal(p == 0, mask)
        assert (p != original[name]).all()  # the others are trained
    assert context.details["zero_pct"] == pytest.approx(100 * round(rate * N) / N)


def test_nothing_pruned_is_fine_tuning_to_the_bit(golden):
    settings = {"epochs": 2, "lr": 0.05, "weight_decay": 0.1, "batch_size": 8}
    made = PruneFinetune(rate=0.0, **settings)(golden.model, golden.data, golden.context())
    same(made, Finetune(**settings)(golden.model, golden.data, golden.context()).state_dict(), atol=0)


def test_what_is_left_is_trained_as_if_the_rest_had_never_been(golden, monkeypatch):
    in_order(monkeypatch)
    method = PruneFinetune(rate=0.5, epochs=3, lr=0.05, weight_decay=0.1, batch_size=8)
    made = method(golden.model, golden.data, golden.context())
    model = golden.model.train()
    weights = prunable(model)
    kept = {name: ~mask for name, mask in smallest(weights, N // 2).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for name, p in weights.items():
        p.data *= kept[name]
        p.register_hook(kept[name].mul)
    for rows in 3 * golden.retain.split(8):
        inputs, labels = golden.data.images.batch(rows)
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    same(made, model.state_dict(), atol=0)


def test_what_is_frozen_is_neither_pruned_nor_counted(golden):
    model, context = golden.model, golden.context()
    model.conv2.requires_grad_(False)
    made = PruneFinetune(rate=0.75, epochs=2, weight_decay=0.1, batch_size=8)(model, golden.data, context)
    assert torch.equal(made.conv2.weight, golden.original["conv2.weight"])
    assert context.details == {"zero_pct": 75.0}
    assert int((made.conv1.weight == 0).sum()) == 81


MODELS = {
    "multilayer perceptron": nn.Sequential(nn.Flatten(), nn.Linear(108, 5)),
    "patches": nn.Sequential(nn.Conv2d(3, 4, 3, stride=3), nn.Flatten(), nn.Linear(16, 5)),
    "normalised": nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(64, 5)),
    "frozen": nn.Sequential(nn.Conv2d(3, 4, 3).requires_grad_(False), nn.Flatten(), nn.Linear(64, 5)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_without_convolutions_to_prune_is_one_line(golden, kind):
    data = golden.data
    parts = {"retain": data.images.batch(data.retain), "forget": data.images.batch(data.forget)}
    line = "prune_finetune needs a trainable convolution whose windows overlap; Sequential has none"
    with pytest.raises(ValueError, match=line):
        ssd_bench.unlearn(MODELS[kind], **parts, method="prune_finetune")
    assert PruneFinetune().unfit(MODELS[kind], None) == line
    assert PruneFinetune().unfit(nn.Sequential(MODELS[kind], nn.Conv1d(5, 5, 3)), None) is None


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_settings_out_of_range(rate):
    with pytest.raises(ValueError, match=f"rate must be between 0 and 1, got {rate}"):
        PruneFinetune(rate=rate)
