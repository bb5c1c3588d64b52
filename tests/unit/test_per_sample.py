"""Per-sample gradients: every way of finding them against one backward pass for each sample."""

import copy
import logging
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ssd_bench.importance import per_sample
from ssd_bench.importance.per_sample import PerSample, zero_sums
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


class SequenceFirst(nn.Module):
    """Layers whose first dimension is the sequence: 7 tokens, as many as there are samples."""

    def __init__(self, pool="mean"):
        super().__init__()
        self.pool = pool
        self.inner, self.norm, self.last = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.norm(torch.relu(self.inner(x.transpose(0, 1))))
        return self.last(x.mean(0) if self.pool == "mean" else x[0])


class Borrowed(nn.Module):
    """A layer's weight is used outside of it, where no hook sees it."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(x) @ self.inner.weight))


class Apart(nn.Module):
    """Layers that see no sample, their outputs as long as the batch: 7."""

    def __init__(self):
        super().__init__()
        self.one, self.table, self.last = nn.Linear(3, 7), nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(torch.tanh(x * self.table(torch.ones(7, 3)).mean(0) + self.one(torch.ones(3)).sum()))


class Dead(nn.Module):
    """Layers that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 6))
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last(torch.relu(self.inner(x) - 1000))


class Attention(nn.Module):
    """The gradient of the keys' bias is nothing but rounding."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(5, 6) for _ in range(3))
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        attended = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.last(attended.mean(1))


class Words(nn.Module):
    """Takes integers, which have no gradient, and has a layer that sees no sample."""

    def __init__(self):
        super().__init__()
        self.words, self.one, self.last = nn.Embedding(9, 5), nn.Linear(3, 7), nn.Linear(5, 4)

    def forward(self, x):
        return self.last(self.words(x).mean(1) * self.one(torch.ones(3)).mean())


def vit(**settings):
    from timm.models.vision_transformer import VisionTransformer

    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 4}
    return VisionTransformer(**shape, **settings)


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
    "sequence_first": (SequenceFirst, (7, 5)),
    "first_token": (lambda: SequenceFirst("first"), (7, 5)),
    "borrowed": (Borrowed, (6,)),
    "attention": (Attention, (3, 5)),
    "apart_from_samples": (Apart, (6,)),
    "dead": (Dead, (2, 3, 3)),
    "resnet": (lambda: fresh(ResNet18(width=4), 0, 4, 3, 16), (3, 16, 16)),
    "vit": (lambda: fresh(ViT(dim=8, depth=1, heads=2), 0, 4, 3, 16), (3, 16, 16)),
    "registers": (lambda: vit(reg_tokens=2), (3, 16, 16)),
    "apart": (lambda: vit(no_embed_class=True, pre_norm=True, global_pool="avg"), (3, 16, 16)),
    "no_class": (lambda: vit(class_token=False, global_pool="avg"), (3, 16, 16)),
    "no_place": (lambda: vit(pos_embed="none"), (3, 16, 16)),
    "any_size": (lambda: vit(dynamic_img_size=True), (3, 16, 16)),
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
        torch.testing.assert_close(ours[name], theirs[name] + more, rtol=2e-4, atol=1e-7, msg=name)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("case", "general"),
    [
        ("resnet", set()),
        ("twice", {"again.weight", "again.bias", "one.weight", "other.bias", "shift"}),
        ("folded", {"inner.weight", "inner.bias"}),
        ("vit", set()),
        ("registers", set()),
        ("apart", set()),
        ("no_class", set()),
        ("no_place", {"cls_token"}),
        ("any_size", {"cls_token", "pos_embed"}),
        ("attention", set()),
        ("dead", set()),
        ("first_token", {f"{layer}.{part}" for layer in ("inner", "norm", "last") for part in ("weight", "bias")}),
    ],
    indirect=["case"],
)
def test_only_what_needs_it_goes_the_general_way(case, general, monkeypatch):
    net, inputs, labels, _ = case
    seen = set()
    monkeypatch.setattr(PerSample, "_add_mapped", lambda self, rest, *_: seen.update(rest))
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


def general(net, *batches):
    """The names of what goes the general way after these batches of inputs."""
    sums = PerSample(net, zero_sums(net.named_parameters()))
    for inputs in batches:
        sums.add(inputs, torch.zeros(len(inputs), dtype=torch.int64))
    return sums._general


@pytest.mark.parametrize("shapes", [[(7, 7), (5, 7)], [(5, 7), (7, 7)], [(1, 1), (7, 7)]])
def test_dimensions_that_agree_by_chance_are_seen_in_whichever_batch_they_do(shapes):
    torch.manual_seed(0)
    net = SequenceFirst().eval()
    sums, theirs = PerSample(net, zeros(net)), zeros(net)
    for n, length in shapes:
        inputs, labels = torch.randn(n, length, 5), torch.arange(n) % 4
        sums.add(inputs, labels)
        for name, more in slowly(net, inputs, labels[:, None], torch.ones(n, 1)).items():
            theirs[name] += more
    for name, value in sums.total.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-7, msg=name)


def test_a_model_that_the_fast_way_does_not_suit_is_named_in_one_line(caplog):
    with caplog.at_level("INFO"):
        assert general(SequenceFirst().eval(), *torch.randn(2, 7, 7, 5))
    assert [r.getMessage() for r in caplog.records] == [
        "per-sample gradients: the fast way does not suit this model (inner.weight and 3 more); all parameters go the "
        "general way, which is slower"
    ]


@pytest.mark.parametrize("precision", ["float64", "bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("case", ["resnet", "vit", "attention", "tokens"], indirect=True)
def test_rounding_of_any_precision_passes_the_check(case, precision):
    net, inputs, *_ = case
    dtype = torch.float32 if precision == "autocast" else getattr(torch, precision)
    expected = general(net, inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        assert general(net.to(dtype), inputs.to(dtype)) == expected


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.bfloat16, 0.3), (torch.float16, 0.1)])
@pytest.mark.parametrize("case", ["vit", "attention"], indirect=True)
def test_sums_of_another_precision(case, dtype, tolerance):
    net, inputs, labels, weights = case
    theirs = slowly(net.double(), inputs.double(), labels, weights.double())
    net = net.to(dtype)
    sums = PerSample(net, zero_sums(net.named_parameters()))
    sums.add(inputs.to(dtype), labels, weights.to(dtype))
    for name, value in sums.total.items():
        assert value.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        off = (value.double().sqrt() - theirs[name].sqrt()).norm()
        assert off <= tolerance * (theirs[name].sqrt().norm() + 0.01), name


@pytest.mark.parametrize("case", ["resnet", "vit"], indirect=True)
def test_in_a_precision_of_a_run_sums_are_float32s_but_for_rounding(case):
    net, inputs, labels, weights = case
    exact, rounded = (PerSample(net, zeros(net)) for _ in range(2))
    exact.add(inputs, labels, weights)
    with torch.autocast("cpu", torch.bfloat16):
        rounded.add(inputs, labels, weights)
    whole, also = (sum(squares.sum().item() for squares in sums.total.values()) for sums in (exact, rounded))
    assert also == pytest.approx(whole, rel=0.03)
    assert rounded._general == exact._general
    for name, squares in rounded.total.items():
        assert (squares - exact.total[name]).norm() <= 0.1 * exact.total[name].norm() + 1e-6 * whole, name


def test_inputs_may_be_integers():
    torch.manual_seed(0)
    net, inputs, labels = Words(), torch.randint(9, (7, 3)), torch.randint(4, (7, 1))
    theirs = slowly(net, inputs, labels, torch.ones(7, 1))
    sums = PerSample(net, zeros(net))
    sums.add(inputs, labels)
    for name, value in sums.total.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-7)


def test_the_check_is_made_once(case):
    net, inputs, *_ = case
    calls = []
    for batches in (1, 2, 6):
        handle = net.register_forward_hook(lambda *_: calls.append(1))
        calls.clear()
        sums = PerSample(net, zeros(net))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PerSample, "_add_mapped", lambda *_: None)
            for _ in range(batches):
                sums.add(inputs, torch.zeros(7, dtype=torch.int64))
        handle.remove()
        own = 0 if sums._general == {name for name, _ in net.named_parameters()} else batches
        assert len(calls) == own + 2


def test_the_general_way_holds_no_more_gradients_than_fit(case, monkeypatch):
    net, inputs, labels, _ = case
    sums = []
    for size in (1, 2**30):
        monkeypatch.setattr(per_sample, "GRADIENT_BYTES", size)
        sums.append(zeros(net))
        with warnings.catch_warnings(action="ignore"):
            PerSample(net, sums[-1]).add(inputs, labels[:, 0])
    for name in sums[0]:
        torch.testing.assert_close(sums[0][name], sums[1][name], rtol=1e-4, atol=1e-8)


def test_sums_hold_no_graph(case):
    """Also where some layers go the fast way and others the general way: a graph would grow with the samples."""
    net, inputs, labels, _ = case
    total = zeros(net)
    with warnings.catch_warnings(action="ignore"):
        PerSample(net, total).add(inputs, labels[:, 0])
    assert not any(t.requires_grad for t in total.values())


def test_a_recurrent_layer_cannot_be_mapped_and_goes_one_by_one(caplog):
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.out = nn.GRU(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.recurrent(x.transpose(0, 1))[0][-1])

    net, inputs, labels = Reader().eval(), torch.randn(5, 6, 3), torch.tensor([0, 1, 2, 0, 1])
    sums, expected = zeros(net), zeros(net)
    with caplog.at_level(logging.INFO):
        PerSample(net, sums).add(inputs, labels)
    assert "one by one" in caplog.text
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        gradients = torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters()))
        for total, g in zip(expected.values(), gradients, strict=True):
            total += g.square()
    for name, total in sums.items():
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-8)
