"""What compares the insides of two models: CKA, and images that one of them alone recognises."""

import pytest
import torch
from torch import nn

import ssd_bench
from ssd_bench.metrics.cka import _small, alike, cka, hsic
from ssd_bench.metrics.perturbed import Perturbed, alone, seen_from_there


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Centred kernel alignment


def test_cka_is_one_for_a_rotation_and_a_scale():
    x = normal(40, 7)
    rotation = torch.linalg.qr(normal(7, 7, seed=1)).Q
    assert cka(x, x) == 1.0
    assert cka(x, 3 * x @ rotation + 5) == pytest.approx(1, abs=1e-12)
    assert cka(x, x * torch.arange(1, 8)) < 0.99


def test_unrelated_features_have_no_cka_however_many_there_are():
    x, y = normal(30, 400), normal(30, 400, seed=1)
    one, other = (each - each.mean(0) for each in (x, y))
    k, l = one @ one.T, other @ other.T  # noqa: E741
    biased = (k * l).sum() / (k.norm() * l.norm())
    assert biased > 0.9
    assert abs(cka(x, y)) < 0.1


@pytest.mark.parametrize("d", [3, 50])  # by features, and by pairs of samples
def test_hsic_is_songs_formula(d):
    n, x, y = 12, normal(12, d), normal(12, d + 1, seed=1)
    k, l = (each @ each.T * (1 - torch.eye(n)) for each in (x, y))  # noqa: E741
    ones = torch.ones(n, dtype=torch.float64)
    parts = (k @ l).trace() + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    assert hsic(x, y) == pytest.approx(((parts - 2 / (n - 2) * ones @ k @ l @ ones) / (n * (n - 3))).item(), rel=1e-10)


def test_cka_of_too_few_samples_and_of_samples_that_do_not_differ_is_none():
    assert cka(normal(3, 5), normal(3, 5)) is None
    assert cka(torch.ones(9, 2), normal(9, 2)) is None


def test_cka_to_another_model_is_that_of_the_features_that_were_kept():
    x, y = (10 * normal(50, 7).float(), normal(50, 9, seed=1).float())
    rows = torch.arange(50)
    ours = {"features.forget.rows": rows, "features.forget.1": _small(x), "features.retain.rows": rows}
    theirs = {"features.forget.rows": rows, "features.forget.1": _small(x + y[:, :7]), "features.retain.rows": rows + 1}
    assert ours["features.forget.1"].dtype == torch.float16
    assert alike(ours, theirs) == {"cka_retrained_forget_1": pytest.approx(cka(x, x + y[:, :7]), abs=1e-5)}
    assert alike(ours, ours) == {"cka_retrained_forget_1": 1}
    other_images = theirs | {"features.forget.rows": rows.flip(0)}
    assert alike(ours, other_images) == alike(ours, {}) == {}


# Images that are slightly changed


class Bright(nn.Module):
    """Says class 1 where the mean of an image is above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.scale, self.level = nn.Parameter(torch.tensor([[-1.0, 1.0]])), level

    def forward(self, x):
        return (x.flatten(1).mean(1, keepdim=True) - self.level) * self.scale


def test_noise_that_is_added_and_taken_away_by_hand():
    """Images of one value, which noise of a length moves by exactly that."""
    x = torch.tensor([0.5, 0.52, 0.6]).repeat(40).view(-1, 1, 1, 1)
    data = {"retain": (x - 1, torch.zeros(120).long()), "forget": (x, torch.ones(120).long())}
    found = ssd_bench.evaluate(Bright(0.5), **data, metrics=[Perturbed(norm="2", size=0.03)])
    assert found["perturbed_acc"] == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)
    values = ssd_bench.evaluate(Bright(0.4), **data, reference=Bright(0.55), metrics=[Perturbed(size=0.01)])
    assert values["perturbed_acc"] == 100
    assert values["perturbed_here_alone"] == pytest.approx(200 / 3)
    assert values["perturbed_retrained_alone"] == 0


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_noise_has_the_norm_that_it_is_asked_for(norm):
    noise = Perturbed(size=0.03, norm=norm)._noise(torch.Size((200, 3, 8, 8)), torch.Generator().manual_seed(0))
    if norm == "2":
        torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((200,), 0.03))
    else:
        assert 0.0299 < noise.abs().max() <= 0.03
    assert abs(noise.mean()) < 0.001


def test_what_one_model_alone_tells_by_hand():
    rows = torch.tensor([4, 7])
    ours = {"perturbed.rows": rows, "perturbed.right": torch.tensor([[True, True], [True, False]])}
    theirs = {"perturbed.rows": rows, "perturbed.right": torch.tensor([[False, True], [False, True]])}
    assert alone(ours, theirs) == {"perturbed_here_alone": 50, "perturbed_retrained_alone": 25}
    assert seen_from_there(alone(ours, theirs)) == alone(theirs, ours)
    assert seen_from_there({"js_test": 1.0}) == {"js_test": 1.0}
    assert alone(ours, theirs | {"perturbed.rows": rows.flip(0)}) == alone(ours, {}) == {}
