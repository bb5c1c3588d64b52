"""Per-sample gradients: every way of finding them against one backward pass for each sample."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ssd_bench.importance import per_sample
from ssd_bench.importance.per_sample import PerSample
from ssd_bench.models.fresh import fresh
from ssd_bench.models.resnet import ResNet18
from ssd_bench.models.vit import ViT


class Twice(nn.Module):
    """A layer used twice, a parameter shared by two layers, one that belongs to no layer, and an in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.again = nn.Linear(6, 6)
        self.one, self.other = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.other.weight = self.one.weight
        self.shift = nn.Parameter(torch.ones(1, 6))
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu_(self.again(x.flatten(1))) + self.shift
        return self.last(torch.relu_(self.other(self.one(self.again(x)))))


class Folded(nn.Module):
    """Layers that see more rows than there are samples."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 5), nn.Linear(10, 4)

    def forward(self, x):
        return self.outer(self.inner(x.reshape(-1, 3)).view(len(x), 10))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), nn.BatchNorm2d(4), nn.ReLU(True),
        nn.Conv2d(4, 4, 3, padding="valid", bias=False), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip


def tokens():
    return nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 6), nn.GELU(), nn.LayerNorm(6, bias=False), nn.Flatten(), nn.Linear(18, 4))  # fmt: skip # noqa: E501


NETS = {
    "convolutions": (convolutions, (2, 9, 9)),
    "tokens": (tokens, (3, 5)),
    "batch_norm_1d": (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)), (6,)),
    "twice": (Twice, (6,)),
    "folded": (Folded, (2, 3)),
    "resnet": (lambda: fresh(ResNet18(width=4), 0, 4, 3, 16), (3, 16, 16)),
    "vit": (lambda: fresh(ViT(dim=8, depth=1, heads=2), 0, 4, 3, 16), (3, 16, 16)),
}


def zeros(net):
    return {name: torch.zeros_like(p) for name, p in net.named_parameters()}


def slowly(net, inputs, labels, weights):
    """One backward pass for each sample and label."""
    net, total = copy.deepcopy(net), zeros(net)
    for x, its_labels, its_weights in zip(inputs, labels, weights, strict=True):
        for label, weight in zip(its_labels, its_weights, strict=True):
            net.zero_grad()
            cross_entropy(net(x[None]), label[None]).backward()
            for name, p in net.named_parameters():
                total[name] += weight * p.grad**2
    return total


@pytest.fixture(params=NETS)
def case(request):
    build, shape = NETS[request.param]
    torch.manual_seed(0)
    net, inputs = build(), torch.randn(7, *shape)
    net(inputs)  # makes the lazy layer
    for module in net.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    labels, weights = torch.randint(4, (7, 3)), torch.rand(7, 3)
    return net.eval(), inputs, labels, weights


def test_equal_to_one_backward_pass_a_sample(case):
    net, inputs, labels, weights = case
    ours, kept = zeros(net), copy.deepcopy(net.state_dict())
    with warnings.catch_warnings(action="ignore"):  # torch.func says which of its ways are slow
        PerSample(net, ours).add(inputs, labels, weights)
        PerSample(net, ours).add(inputs, labels[:, 0])
    theirs = slowly(net, inputs, labels, weights)
    for name, more in slowly(net, inputs, labels[:, :1], torch.ones(7, 1)).items():
        torch.testing.assert_close(ours[name], theirs[name] + more, rtol=2e-4, atol=1e-7)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("case", "general"),
    [
        ("resnet", set()),
        ("twice", {"again.weight", "again.bias", "one.weight", "other.bias", "shift"}),
        ("folded", {"inner.weight", "inner.bias"}),
        ("vit", {"cls_token", "pos_embed"}),
    ],
    indirect=["case"],
)
def test_only_what_needs_it_goes_the_general_way(case, general, monkeypatch):
    net, inputs, labels, _ = case
    seen = set()
    monkeypatch.setattr(per_sample, "_add_slowly", lambda model, parameters, *rest: seen.update(parameters))
    PerSample(net, zeros(net)).add(inputs, labels[:, 0])
    assert seen == general


def test_steps_of_any_size_give_the_same_sum(case, monkeypatch):
    net, inputs, labels, _ = case
    sums = []
    for size in (1, 2**40):
        monkeypatch.setattr(per_sample, "CACHE_BYTES", {"cpu": size})
        sums.append(zeros(net))
        with warnings.catch_warnings(action="ignore"):
            PerSample(net, sums[-1]).add(inputs, labels[:, 0])
    for name in sums[0]:
        torch.testing.assert_close(sums[0][name], sums[1][name], rtol=1e-4, atol=1e-8)
