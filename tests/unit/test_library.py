"""The library on models and data of all kinds, and what it says to input that is wrong."""

import copy
import subprocess
import sys

import pytest
import torch
from conftest import network_of, planned
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import ssd_bench
from ssd_bench.api import _method
from ssd_bench.core.task import Method
from ssd_bench.importance import diagonal_fisher
from ssd_bench.methods.ssd import SSD

CLASSES = 3
QUICK = {
    "amun": {"epochs": 1, "steps": 2},
    "amnesiac": {"epochs": 1},
    "boundary_expand": {"epochs": 1},
    "boundary_shrink": {"epochs": 1},
    "cf_k": {"epochs": 1},
    "ct": {"epochs": 1},
    "delete": {"epochs": 1},
    "finetune": {"epochs": 1, "lr": 0.001},
    "fisher": {"n_samples": 8},
    "influence": {"iterations": 2},
    "jit": {"n_samples": 2},
    "l1_sparse": {"epochs": 1},
    "lotus": {"epochs": 1},
    "msg": {"epochs": 1},
    "mu_mis": {"epochs": 1},
    "neggrad": {"epochs": 1},
    "neggrad_plus": {"epochs": 1},
    "potion": {"max_tries": 4},
    "prune_finetune": {"epochs": 1},
    "salun": {"epochs": 1},
    "scrub": {"epochs": 1},
    "unsir": {"noise_steps": 2, "noise_batch": 4, "noise_images": 4, "copies": 2},
}
MOVES_INPUTS = ("amun", "boundary_shrink", "jit", "mu_mis", "unsir")
METHODS = sorted(ssd_bench.list_methods().keys() - {"clean"})  # which nothing here is manipulated for


def data(*shape, n=48, dtype=torch.float32, seed=0):
    """Samples of three classes that overlap."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=draws)
    if dtype is torch.int64:
        return torch.randint(10, (n, *shape), generator=draws) + labels.view(-1, *(1,) * len(shape)), labels
    centres = torch.randn(CLASSES, *shape, generator=draws)
    return (centres[labels] + torch.randn(n, *shape, generator=draws)).to(dtype), labels


def request(inputs, labels, label=2):
    return {
        "retain": (inputs[labels != label], labels[labels != label]),
        "forget": (inputs[labels == label], labels[labels == label]),
    }


class Reader(nn.Module):
    """Tokens to logits, through a recurrent layer that wants the sequence first."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.recurrent = nn.GRU(8, 8)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, tokens):
        states, _ = self.recurrent(self.embedding(tokens).transpose(0, 1))
        return self.out(states[-1])


def small(dropout=0.0, channels=1, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(),
        nn.Linear(64, CLASSES),
    ).to(dtype)  # fmt: skip


def frozen():
    model = small()
    model[0].requires_grad_(False)
    return model


def torchvisions(name):
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=CLASSES)


def timms(name, **more):
    import timm

    return timm.create_model(name, num_classes=CLASSES, **more)


KINDS = {
    "grey": (small, (1, 6, 6), torch.float32),
    "float64": (lambda: small(0.5, dtype=torch.float64), (1, 6, 6), torch.float64),  # with dropout
    "frozen": (frozen, (1, 6, 6), torch.float32),
    "text": (Reader, (5,), torch.int64),
    "resnet18": (lambda: torchvisions("resnet18"), (3, 32, 32), torch.float32),
    "mobilenet": (lambda: torchvisions("mobilenet_v3_small"), (3, 32, 32), torch.float32),
    "convnext": (lambda: timms("convnext_atto"), (3, 32, 32), torch.float32),
    "vit": (
        lambda: timms("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3),
        (3, 32, 32), torch.float32,
    ),
}  # fmt: skip


LARGE = ("resnet18", "mobilenet", "convnext")  # what takes seconds a method is tried with one of each family
A_FEW = ("cf_k", "finetune", "fisher", "influence", "jit", "msg", "retrain", "salun", "ssd", "teacher", "unsir")


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_on_models_of_every_kind(kind):
    make, shape, dtype = KINDS[kind]
    torch.manual_seed(0)
    model = make().train()
    model[-1].eval() if isinstance(model, nn.Sequential) else None
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    asked = request(*data(*shape, n=24, dtype=dtype))
    for method in A_FEW if kind in LARGE else METHODS:
        if kind == "text" and method in MOVES_INPUTS:
            with pytest.raises(ValueError, match=f"{method} needs inputs that are numbers"):
                ssd_bench.unlearn(model, **asked, method=method)
            continue
        if kind == "mobilenet" and method == "mu_mis":
            with pytest.raises(ValueError, match="mu_mis needs a model that can be differentiated twice"):
                ssd_bench.unlearn(model, **asked, method=method)
            continue
        if kind in ("text", "frozen", "vit") and method == "prune_finetune":
            with pytest.raises(ValueError, match="prune_finetune needs a trainable convolution"):
                ssd_bench.unlearn(model, **asked, method=method)
            continue
        recipe = ssd_bench.Recipe(epochs=1, batch_size=16, lr=0.01)
        more = QUICK.get(method, {}) | ({"teacher_init": "random"} if method == "teacher" else {})
        made = ssd_bench.unlearn(model, **asked, method=method, recipe=recipe, fresh_model=make, **more)
        after = made.model.state_dict()
        like = network_of(method, model)
        of_each = like.state_dict()
        assert after.keys() == of_each.keys()
        assert all(t.isfinite().all() and t.dtype == of_each[name].dtype for name, t in after.items())
        assert [module.training for module in made.model.modules()] == [module.training for module in like.modules()]
        assert all(p.grad is None for p in [*model.parameters(), *made.model.parameters()])
        assert made.seconds >= 0
        if kind == "frozen" and method not in ("retrain", "random", "sisa"):
            assert torch.equal(after["0.weight"], before["0.weight"])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    scores = ssd_bench.evaluate(made.model, **asked, test=data(*shape, n=12, dtype=dtype, seed=1), fresh_model=make)
    assert {"retain_acc", "forget_acc", "test_acc", "mia", "zrf"} <= scores.keys()
    assert all(isinstance(value, float) for value in scores.values())


def test_values_by_hand():
    """A model that says class 0 to all: right on the retained zeros alone, wrong on what is to be forgotten."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_(), model.bias.copy_(torch.tensor([1.0, 0.0]))
    zeros, ones = (torch.zeros(4, 2), torch.zeros(4).long()), (torch.ones(2, 2), torch.ones(2).long())
    test = (torch.zeros(5, 2), torch.tensor([0, 0, 0, 1, 1]))
    scores = ssd_bench.evaluate(model, retain=zeros, forget=ones, test=test, metrics=["accuracy"])
    assert scores == pytest.approx(
        {
            "retain_train_acc": 100, "forget_train_acc": 0, "test_acc": 60, "retain_acc": 100, "forget_acc": 0,
            "retain_loss": 0.31326, "forget_loss": 1.31326, "test_loss": (3 * 0.31326 + 2 * 1.31326) / 5,
        }, abs=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("forget_labels", "retain_labels", "scenario", "label"),
    [([1, 1], [0, 2], "full_class", 1), ([1, 1], [0, 1, 2], "sub_class", 1), ([0, 1], [0, 1, 2], "random", None)],
)
def test_the_labels_say_what_kind_of_request_it_is(forget_labels, retain_labels, scenario, label):
    seen = []

    class Asking(Method):
        def __call__(self, model, data, context):
            seen.append(data)
            return model

    inputs = torch.randn(9, 4)
    ssd_bench.unlearn(
        nn.Linear(4, 3),
        retain=(inputs[:len(retain_labels)], torch.tensor(retain_labels)),
        forget=(inputs[5:5 + len(forget_labels)], torch.tensor(forget_labels)),
        method=Asking(),
    )  # fmt: skip
    assert (seen[0].scenario, seen[0].forget_label) == (scenario, label)
    assert torch.equal(seen[0].images.batch(seen[0].forget)[0], inputs[5 : 5 + len(forget_labels)])


class Squares(Dataset):
    """Sample i is (i, i squared), of class i % 3."""

    def __len__(self):
        return 30

    def __getitem__(self, i):
        if not 0 <= i < 30:
            raise IndexError(i)
        return torch.tensor([float(i), float(i * i)]), i % CLASSES


def test_datasets_loaders_and_pairs_are_the_same_data():
    squares, parts = Squares(), {}
    keep, forget = [i for i in range(30) if i % 3 != 2], list(range(2, 30, 3))
    x, y = (torch.stack([torch.as_tensor(squares[i][j]) for i in range(30)]) for j in (0, 1))
    parts["pair"] = [(x[rows], y[rows]) for rows in (keep, forget)]
    parts["arrays"] = [(x[rows].numpy(), y[rows].numpy()) for rows in (keep, forget)]
    parts["dataset"] = [Subset(squares, rows) for rows in (keep, forget)]
    parts["shuffled"] = [DataLoader(Subset(squares, rows), 7, shuffle=True) for rows in (keep, forget)]
    parts["sampled"] = [DataLoader(squares, 4, sampler=rows) for rows in (keep, forget)]
    torch.manual_seed(0)
    model, made = nn.Linear(2, CLASSES), {}
    for name, (retained, forgotten) in parts.items():
        result = ssd_bench.unlearn(model, retain=retained, forget=forgotten, method="finetune", lr=1e-5)
        made[name] = result.model.weight
    assert all(torch.equal(weight, made["pair"]) for weight in made.values())
    assert not torch.equal(made["pair"], model.weight)


def test_the_seed_decides_and_nothing_else(monkeypatch):
    asked, model = request(*data(1, 6, 6)), small(dropout=0.5)

    def weights(seed):
        torch.manual_seed(torch.seed())  # whatever the global stream holds
        return ssd_bench.unlearn(model, **asked, method="finetune", seed=seed, epochs=1).model[0].weight

    state = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))
    torch.set_rng_state(state)
    ssd_bench.unlearn(model, **asked, method="finetune", epochs=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_of_an_earlier_run_is_left_behind(command, tmp_path):
    asked, model = request(*data(1, 6, 6)), small().eval()
    batches = [asked["retain"]]
    torch.set_num_threads(2)
    before = diagonal_fisher(model, batches), ssd_bench.evaluate(model, **asked)
    few = ("precision=bfloat16", "train.epochs=1", "model.width=4", "data.train_per_class=30", f"out={tmp_path}")
    command(*few, "threads=1")
    command(*few, "train.lr=1e30")  # diverges
    assert torch.get_num_threads() == 2
    after = diagonal_fisher(model, batches), ssd_bench.evaluate(model, **asked)
    torch.set_num_threads(1)
    assert all(torch.equal(t, after[0][name]) for name, t in before[0].items())
    assert after[1] == before[1]


def test_nothing_is_written_unless_asked_for_and_a_second_request_shares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs, labels = data(1, 6, 6)
    model = small()
    once = ssd_bench.unlearn(model, **request(inputs, labels), alpha=2.0)
    ssd_bench.evaluate(model, **request(inputs, labels))
    assert not list(tmp_path.iterdir())
    kept = ssd_bench.unlearn(model, **request(inputs, labels), alpha=2.0, out=tmp_path / "kept")
    again = ssd_bench.unlearn(model, **request(inputs, labels), alpha=2.0, out=tmp_path / "kept")
    other = ssd_bench.unlearn(model, **request(inputs, labels), alpha=1.5, out=tmp_path / "kept")
    assert kept.path.is_relative_to(tmp_path / "kept")
    assert again.path == kept.path != other.path
    assert again.seconds == kept.seconds
    assert len(list((tmp_path / "kept/artefacts/importance_full").glob("*.safetensors"))) == 1
    for name, t in once.model.state_dict().items():
        assert torch.equal(t, kept.model.state_dict()[name])
        assert torch.equal(t, again.model.state_dict()[name])
    model[1].weight.data.mul_(2)
    assert ssd_bench.unlearn(model, **request(inputs, labels), alpha=2.0, out=tmp_path / "kept").path != kept.path


def test_tied_weights_are_kept(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    made = ssd_bench.unlearn(Tied(), **request(*data(3)), method="finetune", epochs=1, out=tmp_path)
    again = ssd_bench.unlearn(made.model, **request(*data(3)), method="original", out=tmp_path)
    assert again.model.b.weight is again.model.a.weight


def test_what_is_frozen_stays_when_the_rest_is_trained_anew():
    model = frozen()
    recipe = ssd_bench.Recipe(epochs=1, batch_size=16)
    made = ssd_bench.unlearn(model, **request(*data(1, 6, 6)), method="retrain", recipe=recipe).model
    assert torch.equal(made[0].weight, model[0].weight)
    assert not torch.isclose(made[5].weight, model[5].weight).any()


def test_retraining_is_the_plain_loop_from_a_fresh_model():
    asked, start = request(*data(4)), nn.Linear(4, CLASSES)
    recipe = {"epochs": 3, "batch_size": 64, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 0}
    made = ssd_bench.unlearn(
        nn.Linear(4, CLASSES),
        **asked,
        method="retrain",
        recipe=ssd_bench.Recipe(**recipe, schedule="constant"),
        fresh_model=lambda: copy.deepcopy(start),
    ).model
    for _ in range(3):  # all that is retained fits one batch
        gradients = torch.autograd.grad(
            cross_entropy(start(asked["retain"][0]), asked["retain"][1]), [*start.parameters()]
        )
        for p, g in zip(start.parameters(), gradients, strict=True):
            p.data -= 0.1 * g
    torch.testing.assert_close(made.state_dict(), start.state_dict())


@pytest.mark.parametrize("method", ["finetune", "ssd"])
def test_a_sample_may_be_a_single_token_that_others_are_too(method):
    inputs, labels = data(dtype=torch.int64)
    model = nn.Sequential(nn.Embedding(13, 8), nn.Linear(8, CLASSES))
    asked = {"retain": (inputs[6:], labels[6:]), "forget": (inputs[:6], labels[:6])}
    made = ssd_bench.unlearn(model, **asked, method=method)
    assert made.model(inputs).shape == (len(inputs), CLASSES)


def test_equal_samples_are_no_sign_that_what_is_forgotten_is_kept_where_all_have_equals():
    words, labels = torch.arange(5).repeat_interleave(6).repeat(2), torch.arange(60) % CLASSES
    inputs = words[:, None].expand(-1, 6).contiguous()
    model = nn.Sequential(nn.Embedding(5, 8), nn.Flatten(), nn.Linear(48, CLASSES))
    asked = {"retain": (inputs[6:], labels[6:]), "forget": (inputs[:6], labels[:6])}
    assert ssd_bench.unlearn(model, **asked, method="finetune", epochs=1).model(inputs).shape == (60, CLASSES)


WRONG = {
    "nothing to forget": ({"forget": (torch.zeros(0, 4), torch.zeros(0).long())}, "forget is empty"),
    "forget is kept": ({"forget": "part of retain"}, "forget is part of retain"),
    "labels out of range": ({"forget": (torch.zeros(2, 4), torch.tensor([2, 7]))}, "label 7 is out of range"),
    "negative labels": ({"retain": (torch.zeros(2, 4), torch.tensor([-1, 0]))}, "retain: label -1 is out of range"),
    "labels that are no numbers": ({"forget": (torch.zeros(2, 4), torch.zeros(2))}, "whole numbers"),
    "one-hot labels": ({"forget": (torch.zeros(2, 4), torch.zeros(2, 3).long())}, "one whole number a sample"),
    "another length": ({"forget": (torch.zeros(2, 4), torch.zeros(3).long())}, "one whole number a sample"),
    "another shape": ({"retain": (torch.zeros(2, 5), torch.zeros(2).long())}, "must be alike"),
    "another device": ({"forget": (torch.zeros(2, 4, device="meta"), torch.zeros(2).long())}, "lie on meta"),
    "no data": ({"forget": 3}, "forget must be a Dataset"),
    "a loader of single samples": (
        {"forget": DataLoader(TensorDataset(torch.zeros(2, 4), torch.zeros(2).long()), batch_size=None)},
        "a batch must be",
    ),
    "no method": ({"method": "sd"}, "did you mean 'ssd'"),
    "no setting": ({"alfa": 3}, "did you mean 'alpha'"),
    "setting out of range": ({"alpha": -1.0}, "alpha must be at least 0"),
    "setting of another type": ({"alpha": "much"}, "alpha=much is not allowed; allowed: a number"),
    "settings beside an object": ({"method": SSD(), "alpha": 3.0}, "fields of the method object"),
    "a class for an object": ({"method": SSD}, "an object of a method class"),
    "no retain": ({"retain": None}, "ssd needs retain"),
    "no recipe": ({"method": "retrain"}, "retrain needs recipe"),
    "a recipe of another kind": ({"method": "retrain", "recipe": {"lr": 0.1}}, "recipe must be a ssd_bench.Recipe"),
    "no seed": ({"seed": "a"}, "seed must be a whole number from 0 on, got 'a'"),
    "a negative seed": ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
    "a model for a function": ({"fresh_model": nn.Linear(4, CLASSES)}, "fresh_model must be a function .* of Linear"),
    "a function that makes no model": (
        {"method": "teacher", "teacher_init": "random", "fresh_model": lambda: None},
        "fresh_model must make a torch.nn.Module, it made an object of NoneType",
    ),
    "a list of samples": (
        {"retain": [(torch.zeros(4), torch.tensor(0))] * 99},
        r"got a list of tuple, tuple, tuple, tuple, \.\.\.; a list of samples becomes one by DataLoader",
    ),
    "several classes": ({"method": "unsir", "forget": "two classes"}, "unsir needs one class to forget"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_input_that_is_wrong_is_one_line(wrong):
    inputs, labels = data(4)
    changed, said = WRONG[wrong]
    asked = request(inputs, labels) | changed
    if changed.get("forget") == "part of retain":
        asked["forget"] = tuple(part[:3] for part in asked["retain"])
    if changed.get("forget") == "two classes":
        asked["forget"] = (torch.randn(4, 4), torch.tensor([0, 1, 2, 2]))
    with pytest.raises(ValueError, match=said) as refused:
        ssd_bench.unlearn(nn.Linear(4, CLASSES), **asked)
    assert "\n" not in str(refused.value)


class Two(nn.Module):
    """Returns more than logits."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.inner(x), x


MODELS = {
    "returns a tuple of Tensor, Tensor": Two(),
    "has no parameters": nn.Flatten(),
    "must be a torch.nn.Module, got str": "resnet18",
    "lies on meta": nn.Linear(4, CLASSES, device="meta"),
    "cannot take inputs of shape": nn.Linear(5, CLASSES),
    "must return logits": nn.Linear(4, 1),
    "no trainable parameter": nn.Linear(4, CLASSES).requires_grad_(False),
}


@pytest.mark.parametrize("said", MODELS)
def test_models_that_are_no_classifiers_are_one_line(said):
    with pytest.raises(ValueError, match=said) as refused:
        ssd_bench.unlearn(MODELS[said], **request(*data(4)))
    assert "\n" not in str(refused.value)


def test_what_cannot_be_initialised_anew_is_named():
    class Token(nn.Linear):
        def __init__(self):
            super().__init__(4, CLASSES)
            self.inner = nn.Module()
            self.inner.token = nn.Parameter(torch.zeros(3))

    with pytest.raises(ValueError, match=r"retrain needs fresh_model.*inner\.token cannot be initialised anew"):
        ssd_bench.unlearn(Token(), **request(*data(4)), method="retrain", recipe=ssd_bench.Recipe(epochs=1))
    scores = ssd_bench.evaluate(Token(), **request(*data(4)))
    assert "zrf" not in scores
    with pytest.raises(ValueError, match="zrf needs fresh_model"):
        ssd_bench.evaluate(Token(), **request(*data(4)), metrics=["zrf"])


def test_a_reference_must_be_of_the_same_kind():
    asked = request(*data(4))
    for reference, said in ((nn.Linear(4, 5), "5 classes apart"), (Two(), "tuple"), (3, "torch.nn.Module")):
        with pytest.raises(ValueError, match=said):
            ssd_bench.evaluate(nn.Linear(4, CLASSES), **asked, reference=reference)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number from 1 on, got 2.5"),
        ({"fresh_model": lambda: None}, "fresh_model must make a torch.nn.Module, it made an object of NoneType"),
        ({"metrics": "mia"}, r"metrics must be a list of names or objects, such as metrics=\['accuracy'\], got 'mia'"),
        ({"fresh_model": nn.Linear(4, CLASSES)}, "fresh_model must be a function"),
    ],
)
def test_what_is_wrong_of_an_evaluation_is_one_line(more, said):
    with pytest.raises(ValueError, match=said):
        ssd_bench.evaluate(nn.Linear(4, CLASSES), **request(*data(4)), **more)


def test_test_data_without_the_forgotten_class_leave_out_what_needs_it():
    asked, (inputs, labels) = request(*data(4)), data(4, n=24, seed=1)
    for kept in (labels != 2, labels == 2):
        scores = ssd_bench.evaluate(nn.Linear(4, CLASSES), **asked, test=(inputs[kept], labels[kept]))
        assert ("population_auc" in scores) == bool((labels[kept] == 2).any())
        assert {"test_acc", "retain_train_acc", "mia"} <= scores.keys()


def test_probabilities_and_test_samples_that_were_trained_on_are_a_warning(caplog):
    model, asked, test = nn.Linear(4, CLASSES), request(*data(4)), data(4, n=12, seed=1)
    ssd_bench.evaluate(model, **asked, test=test)
    assert not caplog.text
    ssd_bench.evaluate(nn.Sequential(model, nn.Softmax(1)), **asked, test=test)
    assert "seems to return probabilities" in caplog.text
    both = tuple(torch.cat([asked["retain"][i], asked["forget"][i]]) for i in (0, 1))
    for leaking in (asked["retain"], asked["forget"], both):
        caplog.clear()
        ssd_bench.evaluate(model, **asked, test=leaking)
        assert "test holds samples of retain or forget" in caplog.text


def test_a_list_of_samples_in_a_loader_is_data():
    inputs, labels = data(4)
    asked = {name: list(zip(*pair, strict=True)) for name, pair in request(inputs, labels).items()}
    loaders = {name: DataLoader(samples) for name, samples in asked.items()}
    model = nn.Linear(4, CLASSES)
    of_pairs, of_loaders = (ssd_bench.evaluate(model, **each) for each in (request(inputs, labels), loaders))
    assert of_pairs == of_loaders


def test_a_model_that_a_method_cannot_work_on_is_refused_before_anything_runs():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, CLASSES, bias=False))
    with pytest.raises(ValueError, match="mask_head needs a last layer with a bias"):
        ssd_bench.unlearn(model, **request(*data(4)), method="mask_head")


def test_a_sample_of_more_than_two_parts_is_refused():
    inputs, labels = data(4)
    asked = request(inputs, labels) | {"retain": TensorDataset(inputs, labels, labels)}
    with pytest.raises(ValueError, match=r"a sample must be a pair .*, got a list of Tensor, Tensor, Tensor"):
        ssd_bench.unlearn(nn.Linear(4, CLASSES), **asked)


def test_an_own_metric_and_an_own_method():
    class Worst:
        def __call__(self, seen):
            losses = cross_entropy(seen.logits["forget_train"], seen.labels["forget_train"], reduction="none")
            return {"worst": losses.max().item()}

    asked, model = request(*data(4)), nn.Linear(4, CLASSES)
    scores = ssd_bench.evaluate(model, **asked, metrics=[Worst(), "accuracy"])
    assert scores["worst"] >= scores["forget_loss"]


def test_an_own_metric_that_compares_is_handed_the_reference_s_outputs():
    class Apart:
        needs = ("reference",)

        def __call__(self, seen, reference):
            reference.labels["forget"].zero_()  # its own
            return {"apart": (seen.logits["forget"] - reference.logits["forget"]).abs().max()}

    asked, model, other = request(*data(4)), nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)
    with torch.no_grad():
        other.weight.copy_(model.weight), other.bias.copy_(model.bias + 2)
    scores = ssd_bench.evaluate(model, **asked, reference=other, metrics=[Apart(), "accuracy"])
    assert scores["apart"] == pytest.approx(2, abs=1e-5)
    assert scores["forget_acc"] == ssd_bench.evaluate(model, **asked, metrics=["accuracy"])["forget_acc"]
    Apart.about = {"tow": None}
    with pytest.raises(ValueError, match="metric apart and metric against both return tow"):
        ssd_bench.evaluate(model, **asked, reference=other, metrics=[Apart()])
    del Apart.about
    with pytest.raises(ValueError, match=r"^metric apart needs reference=\.\.\., a model trained without forget$"):
        ssd_bench.evaluate(model, **asked, metrics=[Apart()])


def test_importing_the_library_loads_neither_hydra_nor_torch_before_it_is_used():
    code = (
        "import sys, ssd_bench; assert 'torch' not in sys.modules; ssd_bench.unlearn; "
        "assert 'torch' in sys.modules and 'hydra' not in sys.modules; assert 'unlearn' in dir(ssd_bench)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_result_that_is_kept_is_not_what_the_caller_goes_on_with(tmp_path):
    asked = {**request(*data(1, 6, 6)), "method": "neggrad", "out": tmp_path}
    first = ssd_bench.unlearn(small(), **asked).model
    made = copy.deepcopy(first.state_dict())
    with torch.no_grad():
        for p in first.parameters():
            p.zero_()
    again = ssd_bench.unlearn(small(), **asked).model.state_dict()
    assert all(torch.equal(t, again[name]) for name, t in made.items())


def test_a_plain_attribute_and_a_buffer_of_the_model_make_another_result(tmp_path):
    class Scaled(nn.Linear):
        def __init__(self, scale, offset):
            super().__init__(2, CLASSES)
            self.scale = scale
            self.register_buffer("offset", torch.tensor(offset), persistent=False)

        def forward(self, x):
            return self.scale * super().forward(x) + self.offset

    def made(scale, offset):
        torch.manual_seed(0)
        asked = {**request(*data(2)), "method": "neggrad", "lr": 1.0, "out": tmp_path}
        return ssd_bench.unlearn(Scaled(scale, offset), **asked).path

    assert made(1.0, 0.0) == made(1.0, 0.0)
    assert len({made(1.0, 0.0), made(2.0, 0.0), made(1.0, 1.0)}) == 3


@pytest.mark.parametrize("more", [lambda logits: (logits, logits), lambda logits: {"out": logits, "beside": logits}])
def test_a_model_that_says_more_while_it_is_trained(more):
    """As models with heads beside the one that counts do (GoogLeNet)."""

    class More(nn.Linear):
        def forward(self, x):
            logits = super().forward(x)
            return more(logits) if self.training else logits

    model, asked = More(2, CLASSES), request(*data(2))
    for method in ("ssd", "finetune", "retrain"):
        made = ssd_bench.unlearn(model, **asked, method=method, recipe=ssd_bench.Recipe(epochs=1))
        assert isinstance(made.model(asked["forget"][0]), tuple | dict), method
        assert not made.model._forward_hooks
    assert not model._forward_hooks


def test_a_single_sample_in_a_set_leaves_out_what_it_cannot_tell():
    inputs, labels = data(2)
    asked = request(inputs, labels)
    scores = ssd_bench.evaluate(nn.Linear(2, CLASSES), **asked, test=(inputs[:1], labels[:1]), metrics=["mia"])
    assert "mia" in scores
    assert "mia_auc" not in scores


@pytest.mark.parametrize(("method", "kind"), [("ssd", "random"), ("lfssd", "sub_class"), ("unsir", "sub_class")])
def test_a_method_that_is_named_has_the_settings_of_the_command_line(method, kind):
    told = planned(f"method={method}", f"scenario={kind}", "data=cifar10", "protocol=published").method
    assert _method(method, {}, kind) == (method, told)
    assert _method(method, {}) != (method, told)


def test_samples_to_forget_of_several_classes_are_asked_about_as_the_command_line_asks():
    inputs, labels = data(2)
    asked = {"retain": (inputs[8:], labels[8:]), "forget": (inputs[:8], labels[:8])}
    torch.manual_seed(0)
    model = nn.Linear(2, CLASSES)
    by_name, as_told, as_for_a_class = (
        ssd_bench.unlearn(model, **asked, method=method).model.weight
        for method in ("ssd", SSD(order="mixed", batch_size=128), SSD())
    )
    assert torch.equal(by_name, as_told)
    assert not torch.equal(by_name, as_for_a_class)


@pytest.mark.parametrize("scale", [("_scale", 1.0), ("scale", torch.tensor(1.0)), ("table", {"a": [1.0]})])
def test_what_a_model_keeps_beside_its_parameters_counts(scale, tmp_path):
    def made(value):
        torch.manual_seed(0)
        model = nn.Linear(2, CLASSES)
        setattr(model, scale[0], value)
        return ssd_bench.unlearn(model, **request(*data(2)), method="neggrad", out=tmp_path).path

    other = {"a": [2.0]} if scale[0] == "table" else scale[1] + 1
    assert made(scale[1]) == made(copy.deepcopy(scale[1])) != made(other)


def test_a_single_image_is_forgotten_by_every_method():
    """Through a network whose last maps are of one place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, CLASSES))
    inputs, labels = data(1, 3, 3)
    asked = {"retain": (inputs[1:], labels[1:]), "forget": (inputs[:1], labels[:1])}
    train = {"mode": "train", "epochs": 1}
    for method, settings in {"salun": {"epochs": 1}, "scrub": {}, "neggrad_plus": train, "delete": train}.items():
        made = ssd_bench.unlearn(model, **asked, method=method, **settings).model
        assert all(t.isfinite().all() for t in made.state_dict().values()), method


def test_two_metrics_of_one_name_are_refused():
    asked = request(*data(2))
    with pytest.raises(ValueError, match="metrics names accuracy twice"):
        ssd_bench.evaluate(nn.Linear(2, CLASSES), **asked, metrics=["accuracy", "accuracy"])


def test_a_compiled_script_is_unlearned_too():
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, CLASSES)))
    made = ssd_bench.unlearn(model, **request(*data(2)), method="ssd", alpha=1.0).model
    assert not torch.equal(made.state_dict()["2.weight"], model.state_dict()["2.weight"])
