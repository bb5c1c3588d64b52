"""DELETE: its targets by hand, and that it needs nothing but D_f."""

import copy

import pytest
import torch
from golden_data import FOLDER, Golden, by_hand
from torch.nn.functional import cross_entropy

from ssd_bench.methods.delete import Delete, without


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


def test_targets_by_hand():
    logits = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0]])
    expected = torch.tensor([[0.0, 0.7311, 0.2689], [0.7311, 0.2689, 0.0]])
    torch.testing.assert_close(without(logits, torch.tensor([0, 2])), expected, rtol=0, atol=1e-4)


def test_one_step_by_hand():
    """Of two classes, the target is the other one: a step down the cross-entropy of the opposite labels."""
    model, data = by_hand()
    expected = copy.deepcopy(model)
    inputs, labels = data.images.batch(data.forget)
    cross_entropy(expected(inputs), 1 - labels).backward()
    Delete(epochs=1, lr=0.1)(model, data, Golden().context())
    torch.testing.assert_close(model.weight, expected.weight - 0.1 * expected.weight.grad)


def test_it_gets_to_the_targets_from_d_f_alone(golden):
    data, model = copy.deepcopy(golden.data), golden.model
    before = golden.given["logits_eval"][golden.forget]
    targets = without(before, golden.given["labels"].long()[golden.forget])
    data.images.pixels[golden.retain] = float("nan")
    made = Delete(epochs=40, lr=0.05)(model, data, golden.context()).eval()
    with torch.no_grad():
        probs = made(golden.given["inputs"][golden.forget]).softmax(1)
    assert (probs - targets).norm(dim=1).mean() < 0.15 * (before.softmax(1) - targets).norm(dim=1).mean()
    for name, t in made.named_buffers():
        assert torch.equal(t, golden.original[name]), name


def test_in_train_mode_statistics_move(golden):
    made = Delete(epochs=1, mode="train")(golden.model, golden.data, golden.context())
    assert not torch.equal(made.bn1.running_mean, golden.original["bn1.running_mean"])


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="mode=trane does not exist; did you mean 'train'"):
        Delete(mode="trane")
