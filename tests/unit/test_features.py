"""Metrics that look into a model: numbers by hand, exact cases, and that the model stays as it is."""

import copy
import logging

import pytest
import torch
from made_rows import row, summary_of
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import ssd_bench
from ssd_bench.core.about import describe
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.images import Images
from ssd_bench.core.task import Cost, Probed
from ssd_bench.metrics.cka import CKA, _small, alike, cka, hsic
from ssd_bench.metrics.features import Features, class_means, probe, prototype_recall, stratified
from ssd_bench.metrics.perturbed import Perturbed, alone, seen_from_there
from ssd_bench.metrics.relearn import Relearn
from ssd_bench.metrics.residual import readings, residual_shares, telling
from ssd_bench.metrics.where import Where, moved
from ssd_bench.models import ResNet18
from ssd_bench.models.timm import Timm
from ssd_bench.models.vit import ViT
from ssd_bench.report.derive import derived_metrics, reevaluate
from ssd_bench.report.sheet import main_sheet
from ssd_bench.report.summary import FLOOR
from ssd_bench.report.verdict import verdict
from ssd_bench.run.given import given
from ssd_bench.train.features import LAST, features, stages

LOOKING = {"features": Features, "relearn": Relearn, "cka": CKA, "where": Where, "perturbed": Perturbed}


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
    told = metric.cost(probed.request)
    assert went[True] == told.backward
    assert 0 <= went[False] - told.forward <= 2  # two images tell whether the model can be looked into
    assert (told.forward > 0) == (name != "where")


@pytest.mark.parametrize("metric", [Features(), CKA(), Relearn()])
def test_a_metric_that_has_no_value_costs_nothing(metric):
    x, y = pictures(160, 0)
    samples = given(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (x[20:], y[20:]), (x[:20], y[:20]), pictures(40, 1))
    assert metric.cost(samples.request) == Cost()


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
    caplog.set_level(logging.INFO, "ssd_bench")
    samples = {"retain": (x[20:], y[20:]), "forget": (x[:20], y[:20]), "test": pictures(40, 1)}
    assert ssd_bench.evaluate(original, **samples, metrics=["features"]) == {}
    assert "no class is to be forgotten" in caplog.text


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


# Residual shares


def test_readings_tell_where_they_differ_by_two_standard_errors():
    far, near = ({"probe_recall": 0.9}, {"probe_recall": 0.5}), ({"probe_recall": 0.6}, {"probe_recall": 0.5})
    assert telling([far], 100) == {"probe_recall"}  # 0.4 against 2 x 0.058
    assert telling([near], 100) == set()  # 0.1 against 2 x 0.070
    assert telling([near], 1000) == {"probe_recall"}
    turned = ({"probe_recall": 0.2}, {"probe_recall": 0.5})
    assert telling([far, turned], 100_000) == set()  # 0.05, and seeds that disagree
    assert telling([({"probe_recall": 1.0}, {})], 100) == telling([], 0) == set()


def test_residual_shares_by_hand():
    steps = {"relearn_all_1": 0, "relearn_all_100": 3}  # the mean logarithm is ln 2
    original = {"probe_recall": 90.0, "prototype_recall": 80.0, "probe_auc": 1.0, **steps}
    retrained = {"probe_recall": 50.0, "prototype_recall": 20.0, "probe_auc": 0.8, "relearn_all_1": 7}
    ours = {"probe_recall": 60.0, "prototype_recall": 65.0, "probe_auc": 0.7, "relearn_all_1": 1}
    names = {"probe_recall", "prototype_recall", "probe_auc", "relearn"}
    found = residual_shares(ours, retrained, original, names)
    assert found == pytest.approx(
        {
            "residual.probe_recall": 0.25,
            "residual.prototype_recall": 0.75,
            "residual.probe_auc": -0.5,
            "residual.relearn": 1.0,
            "residual": 0.5,
            "relearn_log_ratio": -2 * readings(steps)["relearn"],
        }
    )
    assert residual_shares(retrained, retrained, original, names)["residual"] == 0
    assert residual_shares(original, retrained, original, names)["residual"] == 1
    assert residual_shares(ours, retrained, original, {"prototype_recall"})["residual"] == pytest.approx(0.75)
    assert "residual" not in residual_shares(ours, retrained, original, set())
    assert residual_shares({"test_acc": 1.0}, {"test_acc": 1.0}, {}, set()) == {}


ABOUT = describe({"features": Features()})


def made(method, seed, level, recall):
    before = {"probe_recall": 90.0, "prototype_recall": 80.0}
    values = {"probe_recall": recall, "prototype_recall": recall}
    return row(method, seed, level, metrics=values, original_metrics=before, about=ABOUT)


def test_a_table_shows_the_residual_and_the_verdict_names_what_is_unsayable():
    rows = [made("retrain", seed, 50 + seed, 20 + 2 * seed) for seed in range(3)]
    rows += [made("hides", seed, 50 + seed, 80) for seed in range(3)]
    rows += [made("forgets", seed, 50 + seed, 30) for seed in range(3)]
    rows += [made("unsure", seed, 50 + seed, 30 + 30 * seed) for seed in range(3)]
    rows += [made("loud", seed, 80 + seed, 80) for seed in range(3)]
    summary = summary_of(rows)
    assert main_sheet(summary).headings[-1] == "residual"
    assert summary.line("original").mean("residual") == 1
    assert summary.line("retrain").mean("residual") == 0
    assert summary.line(FLOOR).mean("residual") > 0
    said = verdict(summary)
    assert "Unsayable, not forgotten: hides (residual share of the features 0.93, 95 % 0.92 to 0.93)" in said
    for others in ("forgets (", "unsure (", "loud ("):
        assert others not in said.partition("Unsayable")[2]


def test_with_one_seed_the_value_decides():
    rows = [made("retrain", 0, 50, 20), made("hides", 0, 50, 80)]
    assert "Unsayable, not forgotten: hides (residual share of the features 0.93)." in verdict(summary_of(rows))


def test_tables_without_the_metric_are_as_they_were():
    rows = [row("retrain", 0, 50), row("mine", 0, 55)]
    assert not [name for values in derived_metrics(rows).values() for name in values if name.startswith("resid")]
    assert "residual" not in main_sheet(summary_of(rows)).headings


def test_a_report_cannot_look_into_models(tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_bench.report.derive.outputs_of", lambda *_: object())
    node = {"features": {"_target_": "ssd_bench.metrics.features.Features"}}
    with pytest.raises(ConfigError, match="metric features needs the model"):
        reevaluate([row("mine", 0, 50)], tmp_path, node)
