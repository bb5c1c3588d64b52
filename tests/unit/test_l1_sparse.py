"""l1-sparse: the authors' numbers, the schedule of its strength, and weights that are exactly zero."""

import pytest
import torch
from golden_data import Golden, by_hand, in_order, same

from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.l1_sparse import L1Sparse


@pytest.fixture
def golden():
    return Golden()


@pytest.mark.parametrize("case", ["decay_to_zero", "last_epoch_free"])
def test_released_l1_sparse(golden, monkeypatch, case):
    in_order(monkeypatch)
    said = golden.expected["l1_sparse"][case]
    method = L1Sparse(
        epochs=said["unlearn_epochs"], lr=said["unlearn_lr"], weight_decay=said["weight_decay"],
        momentum=said["momentum"], batch_size=said["retain_bs"], gamma=said["alpha"],
        free_epochs=said["no_l1_epochs"], penalise="all", prox=False,
    )  # fmt: skip
    assert method.strengths(12) == pytest.approx(said["alpha_by_epoch"])
    made = method(golden.model, golden.data, golden.context())
    same(made, golden.under(f"l1/{case}", golden.numbers("sparse")))


def test_strengths_by_hand(golden):
    said = golden.expected["by_hand"]["l1_alpha"]
    assert L1Sparse(epochs=5, gamma=0.2).strengths(10) == pytest.approx(said["by_epoch"])
    assert L1Sparse(epochs=3, gamma=0.2, free_epochs=3).strengths(9) == [0.2] * 3
    assert L1Sparse().strengths(1590)[0] == pytest.approx(1e-4)
    assert L1Sparse().strengths(159)[0] == pytest.approx(1e-3)


@pytest.mark.parametrize("prox", [True, False])
def test_without_a_penalty_it_is_fine_tuning(golden, prox):
    made = L1Sparse(epochs=2, lr=0.02, batch_size=8, gamma=0.0, prox=prox)(golden.model, golden.data, golden.context())
    same(made, Finetune(epochs=2, batch_size=8)(golden.model, golden.data, golden.context()).state_dict(), atol=0)


def test_one_step_takes_small_weights_to_exactly_zero_and_large_ones_nearer(golden):
    settings = {"epochs": 1, "lr": 0.1, "batch_size": 64}
    context = golden.context()
    made = L1Sparse(gamma=1.0, **settings)(golden.model, golden.data, context)
    plain = L1Sparse(gamma=0.0, **settings)(golden.model, golden.data, golden.context())
    zeros = n = 0
    for name, p in plain.named_parameters():
        shrunk = made.get_parameter(name)
        if p.ndim == 1:
            assert torch.equal(shrunk, p), name
            continue
        small = p.abs() <= 0.1
        assert not shrunk[small].any()
        torch.testing.assert_close(shrunk[~small], (p - 0.1 * p.sign())[~small])
        zeros, n = zeros + int(small.sum()), n + p.numel()
    assert zeros > 0
    assert context.details == pytest.approx({"pull": 0.1, "zero_pct": 100 * zeros / n})


@pytest.mark.parametrize("prox", [True, False])
def test_pull_is_how_far_an_undefended_weight_moves(prox):
    model, data = by_hand()
    data.images.pixels.zero_()  # no gradient of the loss
    before, context = model.weight.data.clone(), Golden().context()
    settings = {"epochs": 400, "lr": 0.01, "weight_decay": 0.0, "gamma": 0.01, "free_epochs": 100}
    L1Sparse(prox=prox, momentum=0.9, **settings)(model, data, context)
    assert (before - model.weight.data).max().item() == pytest.approx(context.details["pull"], rel=0.01)


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_it_resumes_with_the_strength_of_its_epoch(golden, stop):
    class Killed(Exception):
        pass

    class Kept:
        """Saves after every batch, and is killed after `stop` of them."""

        kept, saves = None, 0

        def due(self):
            return True

        def save(self, tensors, state):
            self.kept = {name: t.clone() for name, t in tensors.items()}, dict(state)
            self.saves += 1
            if self.saves == stop:
                raise Killed

        def restore(self):
            return self.kept

    method, checkpoint, context = L1Sparse(epochs=3, batch_size=16, gamma=0.05), Kept(), golden.context()
    whole = method(golden.model, golden.data, golden.context())
    context.checkpoint = lambda name: checkpoint
    with pytest.raises(Killed):
        method(golden.model, golden.data, context)
    same(method(golden.model, golden.data, context), whole.state_dict(), atol=0)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"gamma": -1.0}, "gamma must be null or at least 0"),
        ({"free_epochs": 11}, r"free_epochs must be between 0 and epochs \(10\), got 11"),
        ({"penalise": "weight"}, "did you mean 'weights'"),
        ({"momentum": 1.0}, "momentum must be below 1"),
    ],
)
def test_settings_out_of_range(setting, line):
    with pytest.raises(ValueError, match=line):
        L1Sparse(**setting)
