"""Metrics that look into a model: numbers by hand, exact cases, and that the model stays as it is."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import ssd_bench
from ssd_bench.core.images import Images
from ssd_bench.core.task import Cost, Probed, read_by
from ssd_bench.metrics.cka import CKA
from ssd_bench.metrics.features import (
    Features,
    class_means,
    last_features,
    probe,
    prototype_recall,
    read_features,
    stratified,
)
from ssd_bench.metrics.perturbed import Perturbed
from ssd_bench.metrics.relearn import Relearn
from ssd_bench.metrics.where import Where, moved
from ssd_bench.models import ResNet18
from ssd_bench.models.timm import Timm
from ssd_bench.models.vit import ViT
from ssd_bench.run.given import given
from ssd_bench.train.features import LAST, features, recording, stages

LOOKING = {"features": Features, "relearn": Relearn, "cka": CKA, "where": Where, "perturbed": Perturbed}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Probe and prototypes


@pytest.mark.parametrize("ridge", [0.001, 0.1, 1.0])
def test_the_probe_is_the_minimum_of_its_objective(ridge):
    labels = torch.tensor([0] * 60 + [4] * 40 + [7] * 20)
    centres = {0: 0.0, 4: 1.2, 7: 2.0}
    shift = torch.tensor([centres[i] for i in labels.tolist()], dtype=torch.float64)[:, None]
    train, x = normal(120, 4) * 3 + shift, normal(50, 4, seed=1) * 3 + 2.0
    others = normal(50, 4, seed=2) * 3
    mean, std = train.mean(0), train.std(0)
    target = one_hot(torch.tensor([[0, 4, 7].index(i) for i in labels.tolist()])).double()
    w, b = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True), torch.zeros(3, dtype=torch.float64)
    b.requires_grad_(True)
    best = torch.optim.LBFGS([w, b], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        best.zero_grad()
        loss = cross_entropy((train - mean) / std @ w + b, target) + ridge / 2 * w.square().sum()
        loss.backward()
        return loss

    best.step(closure)
    inside, outside = (((each - mean) / std @ w + b).detach().softmax(1) for each in (x, others))
    recall = 100 * (inside.argmax(1) == 2).double().mean().item()
    auc = roc_auc_score([1] * 50 + [0] * 50, torch.cat([inside[:, 2], outside[:, 2]]))
    assert probe(train, labels, x, others, 7, ridge) == pytest.approx((recall, auc), abs=1e-3)


def test_a_probe_of_two_classes_knows_which_is_wanted():
    train, labels = torch.tensor([[0.0], [1], [10], [11]]).double(), torch.tensor([3, 3, 5, 5])
    low, high = torch.tensor([[0.5], [0.2]]).double(), torch.tensor([[10.5], [9.0]]).double()
    assert probe(train, labels, low, high, 3, 0.01) == (100, 1)
    assert probe(train, labels, high, low, 5, 0.01) == (100, 1)
    assert probe(train, labels, high, low, 3, 0.01) == (0, 0)


def test_prototypes_by_hand():
    x = torch.tensor([[1.0, 0], [0, 5], [3, 3]]).double()
    others = torch.tensor([[0.0, 1]]).double()
    right = torch.tensor([[[2.0, 0]]]).double()  # cosines 1, 0, .71 against 0, 1, .71: the first alone is nearer
    assert prototype_recall(right, others, x) == pytest.approx(100 / 3)
    wrong = others[None]
    assert prototype_recall(torch.cat([right, wrong]), others, x) == pytest.approx(100 / 6)
    two = torch.tensor([[[9.0, 0], [0, 1]]]).double()  # directions count, not lengths: their mean is the diagonal
    assert prototype_recall(two, others, x) == pytest.approx(200 / 3)


def test_means_of_the_other_classes_by_hand():
    x = torch.tensor([[5.0, 0], [0, 2], [0, 7], [1, 1]]).double()
    means = class_means(x, torch.tensor([2, 2, 4, 9]), without=9)
    torch.testing.assert_close(means, torch.tensor([[0.5**0.5, 0.5**0.5], [0, 1]]).double())


def test_a_stratified_sample_has_its_share_of_each_class_and_some_of_all():
    group = torch.tensor([0] * 600 + [1] * 300 + [2] * 3 + [3] * 97)
    rows = torch.arange(900).add(50)
    drawn = stratified(rows, group, 90, torch.Generator().manual_seed(0))
    assert group[drawn].bincount().tolist() == [55, 30, 1, 5]
    assert torch.isin(drawn, rows).all()
    assert len(drawn.unique()) == len(drawn)
    assert torch.equal(stratified(rows, group, 5000, torch.Generator()), rows)


# Whole models: a class of easy pictures


def pictures(n, seed, side=8):
    labels = torch.arange(n) % 4
    x = 0.7 * torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))
    for label in range(4):
        x[labels == label, :, label::4] += 1
    return x, labels


def asked(side=8):
    x, y = pictures(160, 0, side)
    return {
        "retain": (x[y != 3], y[y != 3]),
        "forget": (x[y == 3], y[y == 3]),
        "test": pictures(120, 1, side),
    }


def looked_into(model, original, head, **data):
    what = given(model, **(data or asked()))
    return Probed(copy.deepcopy(model).eval(), copy.deepcopy(original).eval(), head, what.images, what.request)


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    model = ResNet18(width=2).build(4, 1, 8)
    x, y = pictures(160, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(8):
        for rows in torch.randperm(160).split(40):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def masked(model, row=3):
    made = copy.deepcopy(model)
    with torch.no_grad():
        made.fc.weight[row], made.fc.bias[row] = 0, -1e4
    return made


def test_what_changes_the_last_layer_alone_leaves_everything_in_the_features(original):
    made = masked(original)
    ours, before = (looked_into(model, original, "fc") for model in (made, original))
    values, theirs = ({k: v for m in LOOKING.values() for k, v in m()(None, each).items()} for each in (ours, before))
    for name in ("probe_recall", "probe_auc", "prototype_recall", "prototype_recall_1", "relearn_head_10"):
        assert values[name] == theirs[name] is not None, name
    assert all(value == 1 for name, value in values.items() if name.startswith("cka_"))
    assert values["moved_row"] == values["moved_head"] == 100
    assert values["moved_4"] == 0
    assert theirs["moved_row"] is None
    assert min(values["probe_recall"], values["prototype_recall"]) > 50
    assert 0 < values["relearn_head_100"] < 100


def test_features_that_lost_the_class_are_seen_to_have_lost_it(original):
    gone = copy.deepcopy(original)
    with torch.no_grad():
        gone.layer4[1].bn2.weight.zero_(), gone.layer4[1].bn2.bias.fill_(-9)
        gone.layer4[0].bn2.weight.zero_(), gone.layer4[0].downsample[1].weight.zero_()
    values, theirs = (Features()(None, looked_into(model, original, "fc")) for model in (gone, original))
    assert values["prototype_recall"] < theirs["prototype_recall"] - 40
    assert values["probe_auc"] == 0.5 < theirs["probe_auc"]


def test_relearning_with_the_class_s_own_row_measures_the_row(original):
    probed = looked_into(masked(original), original, "fc")
    quick = {"layers": ["head"], "shares": [100], "max_steps": 20}
    assert Relearn(**quick, row="own")(None, probed)["relearn_head_100"] == 20
    assert Relearn(**quick)(None, probed)["relearn_head_100"] < 20
    assert Relearn(**quick, row="own")(None, looked_into(original, original, "fc"))["relearn_head_100"] == 0


def test_steps_of_relearning_by_hand():
    """Equal odds: each weight and bias has gradient 1/2, so that the first step moves the logits' gap by 2 lr."""
    head = nn.Linear(1, 2)
    with torch.no_grad():
        head.weight.zero_(), head.bias.copy_(torch.tensor([0.0, -0.03]))
    images = Images(torch.ones(4, 1), torch.tensor([1, 1, 0, 0]))
    unseen = Images(torch.ones(3, 1), torch.ones(3, dtype=torch.int64))
    both = iter([torch.tensor([0, 1])] * 9)
    assert Relearn(lr=0.01).steps(head, images, unseen, both, 100) == 2  # -0.03, about -0.01, above 0 by its momentum
    assert Relearn(max_steps=3).steps(nn.Linear(1, 2), images, unseen, both, 101) == 3
    assert Relearn().steps(head, images, unseen, both, 0) == 0


@pytest.mark.parametrize("name", LOOKING)
def test_the_models_that_are_looked_into_stay_as_they_are(name, original):
    model = masked(original).train()
    before = [(copy.deepcopy(m.state_dict()), [part.training for part in m.modules()]) for m in (model, original)]
    data = asked()
    inputs = {part: (x.clone(), y.clone()) for part, (x, y) in data.items()}
    first = ssd_bench.evaluate(model, **data, original=original, metrics=[name])
    for one, (state, modes) in zip((model, original), before, strict=True):
        assert all(torch.equal(t, state[key]) for key, t in one.state_dict().items())
        assert [part.training for part in one.modules()] == modes
        assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(x, inputs[part][0]) and torch.equal(y, inputs[part][1]) for part, (x, y) in data.items())
    assert first
    assert first == ssd_bench.evaluate(model, **data, original=original, metrics=[name])  # seeded
    assert set(first) <= set(LOOKING[name].about)


COSTING = {**LOOKING, "relearn": lambda: Relearn(max_steps=3, lr=1e-9)}  # which learns nothing


@pytest.mark.parametrize("name", COSTING)
def test_a_metric_costs_what_it_says(name, original):
    """Images that go through the first layer, with gradients and without."""
    went, probed = {True: 0, False: 0}, looked_into(masked(original), original, "fc")

    def count(layer, inputs):
        went[torch.is_grad_enabled()] += len(inputs[0])

    for model in (probed.model, probed.original):
        model.conv1.register_forward_pre_hook(count)  # which copies carry along
    metric = COSTING[name]()
    metric(None, probed)
    reads = sum(map(len, read_by(metric, probed.request).values()))
    told = metric.cost(probed.request) if hasattr(metric, "cost") else Cost()
    assert went[True] == told.backward
    assert 0 <= went[False] - told.forward - reads <= 2  # two images tell whether the model can be looked into
    assert (told.forward + reads > 0) == (name != "where")


@pytest.mark.parametrize("metric", [CKA(), Relearn()])
def test_a_metric_that_has_no_value_costs_nothing(metric):
    x, y = pictures(160, 0)
    samples = given(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (x[20:], y[20:]), (x[:20], y[:20]), pictures(40, 1))
    assert metric.cost(samples.request) == Cost()
    assert not read_by(Features(), samples.request)


def test_without_being_asked_the_library_looks_into_no_model(original):
    assert not set(ssd_bench.evaluate(original, **asked())) & {n for m in LOOKING.values() for n in m.about}
    assert "cka_forget_last" not in ssd_bench.evaluate(original, **asked(), metrics=["cka"])  # to which original?
    with pytest.raises(ValueError, match="original tells 5 classes apart, the model 4"):
        ssd_bench.evaluate(original, **asked(), original=ResNet18(width=2).build(5, 1, 8), metrics=["cka"])


class Functional(nn.Module):
    """Its last layer is never called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.body(x.flatten(1)).relu() @ self.out.weight.T


MODELS = {
    "vit": (lambda: ViT(dim=16, depth=5, heads=2).build(4, 1, 8), 8),
    "timm": (lambda: Timm("mobilenetv3_small_050").build(4, 1, 32), 32),
    "sequential": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)), 8),
    "frozen": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9).requires_grad_(False), nn.Linear(9, 4)), 8),
}
OTHERS = {
    "functional": (Functional, "a forward pass does not call out"),
    "one layer": (lambda: nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "is no Linear inside the model"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_any_model_with_a_linear_last_layer_is_looked_into(kind):
    make, side = MODELS[kind]
    torch.manual_seed(0)
    metrics = [Features(), CKA(), Relearn(max_steps=2, shares=[10]), Where()]
    values = ssd_bench.evaluate(make(), **asked(side), original=make(), metrics=metrics)
    wanted = {"probe_recall", "prototype_recall_10", "relearn_head_10", "relearn_all_10", "cka_forget_last"}
    assert wanted <= set(values)
    assert ("cka_retain_4" in values) == (kind in ("vit", "timm"))


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_without_one_has_no_values_and_the_log_says_why(kind, caplog):
    make, said = OTHERS[kind]
    caplog.set_level(logging.INFO, "ssd_bench")
    metrics = [Features(), CKA(), Relearn()]
    assert ssd_bench.evaluate(make(), **asked(), original=make(), metrics=metrics) == {}
    assert caplog.text.count(said) == 3


def test_requests_for_no_class_have_no_values(original, caplog):
    x, y = pictures(160, 0)
    caplog.set_level(logging.DEBUG, "ssd_bench")
    samples = {"retain": (x[20:], y[20:]), "forget": (x[:20], y[:20]), "test": pictures(40, 1)}
    assert ssd_bench.evaluate(original, **samples, metrics=["features"]) == {}
    assert "what is to be forgotten is not one class" in caplog.text


def test_stages_are_the_outermost_blocks():
    assert stages(ResNet18(width=2).build(4, 1, 8), "fc") == ["layer1", "layer2", "layer3", "layer4"]
    assert stages(ViT(dim=8, depth=9, heads=2).build(4, 1, 8), "head") == [
        *(f"blocks.{i}" for i in (0, 3, 5, 8)),  # of ten: what cuts the image into patches is the first
    ]
    assert stages(MODELS["sequential"][0](), "3") == ["0"]
    nested = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(64, 9), nn.ReLU()), nn.ReLU()), nn.Linear(9, 4))
    assert stages(nested, "1") == ["0.0.0"]


def test_features_are_averages_over_places(net):
    x = torch.randn(5, 1, 6, 6)
    images = Images(x, torch.zeros(5, dtype=torch.int64))
    seen = features(net, "5", images, torch.tensor([4, 0, 2]), 2, ["0"])
    with torch.no_grad():
        torch.testing.assert_close(seen["0"], net.eval()[0](x)[[4, 0, 2]].mean((2, 3)))
        torch.testing.assert_close(seen[LAST], net[:5](x)[[4, 0, 2]])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_what_is_recorded_keeps_no_more_in_memory_than_itself():
    """A transformer's head sees one token of many: a view of all of them would keep all of them."""
    model = ViT(dim=8, depth=2, heads=2).build(4, 1, 8).eval()
    with recording(model, "head", ["blocks.1"]) as kept, torch.no_grad():
        model(torch.randn(6, 1, 8, 8))
    [batch] = kept.batches
    for seen in batch.values():
        assert seen.untyped_storage().nbytes() == seen.numel() * seen.element_size() == 6 * 8 * 4


@pytest.mark.parametrize("known", [[], [0, 3, 4, 9], list(range(12))])
def test_what_was_passed_is_read_in_the_order_that_is_asked_for(net, known):
    """What is handed over is moved by 1, so that it shows."""
    images = Images(torch.randn(12, 1, 6, 6), torch.zeros(12, dtype=torch.int64))
    alone = Probed(net, None, "5", {"train": images}, None, 5)
    seen = last_features(alone, "train", torch.arange(12))
    known = torch.tensor(known, dtype=torch.int64)
    handed = replace(alone, passed=lambda part: (known, seen[known].float() + 1) if part == "train" else None)
    wanted = torch.tensor([9, 1, 9, 4, 0, 11, 1])
    torch.testing.assert_close(read_features(alone, "train", wanted), seen[wanted])
    moved = torch.isin(wanted, known).double()[:, None]
    torch.testing.assert_close(read_features(handed, "train", wanted), seen[wanted] + moved)


def test_shares_of_what_moved_by_hand():
    theirs = {"a.w": torch.zeros(2), "head.weight": torch.zeros(2, 2), "head.bias": torch.zeros(2)}
    ours = {"a.w": torch.tensor([3.0, 0]), "head.weight": torch.tensor([[0, 0], [2.0, 0]]), "head.bias": torch.ones(2)}
    parts = {"moved_1": "a", "moved_head": "head"}
    wanted = {"moved_1": 60, "moved_head": 40, "moved_row": 100 * 5 / 15}
    assert moved(ours, theirs, parts, label=1) == pytest.approx(wanted)
    assert moved(ours, ours, parts, label=1) == dict.fromkeys(wanted)


@pytest.mark.parametrize(
    ("cls", "settings", "said"),
    [
        (Features, {"samples": 1}, "samples must be"),
        (Features, {"ridge": 0.0}, "ridge must be"),
        (Features, {"shots": []}, "shots must be"),
        (CKA, {"samples": 3}, "samples must be"),
        (Relearn, {"layers": ["haed"]}, "did you mean 'head'"),
        (Relearn, {"shares": [0]}, "shares must be"),
        (Relearn, {"row": "none"}, "row"),
        (Relearn, {"goal": 0.0}, "goal must be"),
        (Relearn, {"max_steps": 0}, "max_steps must be"),
        (Relearn, {"unseen": 0}, "unseen must be"),
        (Perturbed, {"size": 0.0}, "size must be"),
        (Perturbed, {"norm": "1"}, "norm"),
        (Perturbed, {"samples": 0}, "samples must be"),
        (Perturbed, {"draws": 0}, "draws must be"),
    ],
)
def test_settings_out_of_range(cls, settings, said):
    with pytest.raises(ValueError, match=said):
        cls(**settings)
