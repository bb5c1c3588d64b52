"""The library where its callers are: models, data and surroundings that are odd and allowed, or wrong."""

import copy
import platform
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

import ssd_bench
from ssd_bench import api

CLASSES = 3
LABELS = torch.arange(40) % CLASSES
INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(6)[LABELS]
KEPT = LABELS != 2
ASKED = {"retain": (INPUTS[KEPT], LABELS[KEPT]), "forget": (INPUTS[~KEPT], LABELS[~KEPT])}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def trained(model):
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def weights(made):
    return made.model.state_dict()


def equal(one, other):
    return all(torch.equal(t, other[name]) for name, t in one.items())


class LoRA(nn.Linear):
    """A reset of its own knows the weight and the bias alone."""

    def __init__(self):
        super().__init__(6, CLASSES)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(CLASSES, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.a.T @ self.b.T


def pruned():
    prune.l1_unstructured(layer := nn.Linear(6, CLASSES), "weight", 0.2)
    return layer


@pytest.mark.parametrize(("make", "named"), [(LoRA, "a"), (pruned, "weight_orig")])
def test_an_untrained_model_keeps_nothing_that_was_trained(make, named):
    model = trained(nn.Sequential(make()))
    recipe = ssd_bench.Recipe(epochs=1)
    with pytest.raises(ValueError, match=rf"0\.{named} cannot be initialised anew \(.* leaves it as it is\)"):
        ssd_bench.unlearn(model, **ASKED, method="retrain", recipe=recipe)
    assert "zrf" not in ssd_bench.evaluate(model, **ASKED, test=(INPUTS[:9] + 1, LABELS[:9]))


class Auxiliary(nn.Module):
    """Its last registered layer is none of a forward pass, its last layer comes before others."""

    def __init__(self):
        super().__init__()
        self.out, self.first, self.unused = nn.Linear(8, CLASSES), nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.out(torch.relu(self.first(x)))


@pytest.mark.parametrize("method", ["mask_head", "ntk_head", "boundary_expand"])
def test_the_last_layer_is_the_one_that_says_the_logits(method):
    model = trained(Auxiliary())
    made = ssd_bench.unlearn(model, **ASKED, method=method).model
    assert torch.equal(made.unused.weight, model.unused.weight)
    if method == "mask_head":
        assert not (made(INPUTS[~KEPT]).argmax(1) == 2).any()
    assert ssd_bench.evaluate(model, **ASKED, test=(INPUTS + 1, LABELS), metrics=["features"])


@pytest.mark.parametrize("norm", [spectral_norm, weight_norm])
def test_parametrised_layers_are_unlearnt_and_their_model_left_alone(norm):
    model = nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), norm(nn.Linear(8, CLASSES))).train()
    before = copy.deepcopy(model.state_dict())
    for method, more in {"ssd": {"alpha": 1.5}, "finetune": {"epochs": 1}}.items():
        assert ssd_bench.unlearn(model, **ASKED, method=method, **more).model(INPUTS).shape == (40, CLASSES)
    assert equal(before, model.state_dict())
    with pytest.raises(ValueError, match="needs a last layer that is a Linear"):
        ssd_bench.unlearn(model, **ASKED, method="boundary_expand")


def test_what_is_switched_on_around_a_call_changes_nothing():
    def call():
        made = ssd_bench.unlearn(net(), **ASKED, method="finetune", epochs=2)
        return weights(made), ssd_bench.evaluate(made.model, **ASKED, test=(INPUTS + 1, LABELS))

    expected, scores = call()
    around = torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)
    for each in around:
        with each:
            made, said = call()
        assert equal(expected, made)
        assert said == scores


def test_calls_from_threads_are_as_alone():
    def call():
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
        model.load_state_dict(start)
        made.append(weights(ssd_bench.unlearn(model, **ASKED, method="finetune", epochs=3)))

    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES)).state_dict()
    made, shown, kernels = [], warnings.showwarning, torch.are_deterministic_algorithms_enabled()
    call()
    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(made) == 4
    assert all(equal(made[0], other) for other in made[1:])
    assert torch.are_deterministic_algorithms_enabled() == kernels
    assert warnings.showwarning is shown


def test_a_call_that_waits_for_another_says_so(monkeypatch, caplog):
    monkeypatch.setattr(api, "WAIT_S", 0.01)
    made = []
    with api._ALONE:
        waiting = threading.Thread(target=lambda: made.append(ssd_bench.unlearn(net(), **ASKED, method="original")))
        waiting.start()
        waiting.join(timeout=1)
        assert not made
    waiting.join(timeout=120)
    assert len(made) == 1
    assert "waiting for another call of ssd_bench" in caplog.text


class Counter(nn.Module):
    """Keeps a mean that no state dict holds."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, CLASSES)
        self.register_buffer("mean", torch.ones(6), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean = self.mean * 0.5 + x.detach().mean(0)
        return self.out(x * self.mean)


def test_what_is_found_is_what_was_made_buffers_included(tmp_path):
    torch.manual_seed(0)
    model = Counter()
    made, found = (ssd_bench.unlearn(model, **ASKED, method="finetune", out=tmp_path).model.eval() for _ in range(2))
    assert not torch.equal(made.mean, torch.ones(6))
    assert torch.equal(made(INPUTS), found(INPUTS))


def test_what_is_kept_loads_like_any_weights(tmp_path):
    made = ssd_bench.unlearn(Counter(), **ASKED, method="finetune", out=tmp_path)
    model = Counter()
    model.load_state_dict(load_file(made.path))
    assert equal(model.state_dict(), weights(made))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("method", ["ssd", "finetune", "scrub"])
def test_a_traced_model_keeps_its_gradients_to_itself(method):
    model = torch.jit.trace(net(), INPUTS[:4])
    ssd_bench.unlearn(model, **ASKED, method=method)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="mask_head needs a last layer"):
        ssd_bench.unlearn(model, **ASKED, method="mask_head")


def test_numbers_of_numpy_are_numbers(tmp_path):
    for more in ({"alpha": np.float64(1.5)}, {"method": "finetune", "epochs": np.int64(1), "seed": np.int64(3)}):
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in more.items()}
        one, other = (weights(ssd_bench.unlearn(net(), **ASKED, **each)) for each in (more, plain))
        assert equal(one, other)
    assert ssd_bench.unlearn(net(), **ASKED, method="amnesiac", seed=np.int64(1), out=tmp_path).path.exists()


def test_without_test_there_is_no_distance_that_needs_it():
    scores = ssd_bench.evaluate(net(), **ASKED, reference=trained(net()))
    assert not {"accuracy_gap", "average_gap"} & scores.keys()
    assert "agreement_forget" in scores


class Own:
    """Returns what it was made with."""

    def __init__(self, values):
        self.values = values

    def __call__(self, seen):
        return self.values


def test_metrics_of_ones_own():
    said = {"a": torch.tensor(1.5), "b": np.array(2.5), "c": np.bool_(True), "d": None}
    assert ssd_bench.evaluate(net(), **ASKED, metrics=[Own(said)]) == {"a": 1.5, "b": 2.5, "c": 1.0}
    for order in (["accuracy", Own({"forget_train_acc": 0.0})], [Own({"forget_train_acc": 0.0}), "accuracy"]):
        with pytest.raises(ValueError, match="both return forget_train_acc"):
            ssd_bench.evaluate(net(), **ASKED, metrics=order)

    def one(seen):
        return {"one": 1.0}

    def two(seen):
        return {"two": 2.0}

    assert ssd_bench.evaluate(net(), **ASKED, metrics=[one, two]) == {"one": 1.0, "two": 2.0}


def test_a_loader_of_a_training_is_read_whole(caplog):
    pairs = {name: TensorDataset(*pair) for name, pair in ASKED.items()}
    loaders = {name: DataLoader(data, 16, shuffle=True, drop_last=True) for name, data in pairs.items()}
    assert ssd_bench.evaluate(net(), **loaders) == ssd_bench.evaluate(net(), **ASKED)
    sampler = WeightedRandomSampler(torch.ones(len(pairs["retain"])), len(pairs["retain"]))
    ssd_bench.evaluate(net(), **ASKED | {"retain": DataLoader(pairs["retain"], 16, sampler=sampler)})
    assert "retain is drawn with replacement" in caplog.text


def test_inputs_that_are_not_finite_are_named(caplog):
    with pytest.raises(ssd_bench.Diverged):
        ssd_bench.unlearn(net(), **ASKED | {"retain": (ASKED["retain"][0] * torch.nan, ASKED["retain"][1])})
    assert "retain: inputs hold numbers that are not finite" in caplog.text


def test_arrays_of_any_order_and_tables_are_data():
    inputs, labels = ASKED["retain"]
    there = range(100, 100 + len(labels))
    ways = {
        "backwards": (inputs.flip(0).numpy()[::-1], labels.flip(0).numpy()[::-1].astype(">i8")),
        "tables": (pd.DataFrame(inputs.numpy(), index=there), pd.Series(labels.numpy(), index=there)),
    }
    expected = ssd_bench.evaluate(net(), **ASKED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for way in ways.values():
            assert ssd_bench.evaluate(net(), **ASKED | {"retain": way}) == expected


class Shapes(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, i):
        return torch.zeros(4 + i), 0


class State(nn.Linear):
    def __init__(self):
        super().__init__(6, CLASSES)

    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


WRONG = {
    "retain: <U1 values are no numbers": {"retain": (np.array(["a"] * 40), LABELS)},
    "retain: sparse and nested tensors are not read": {"retain": (INPUTS.to_sparse(), LABELS)},
    r"retain cannot be read \(RuntimeError: stack expects": {"retain": Shapes()},
    r"retain: samples must be of one shape, got \(4,\) and \(5,\)": {"retain": DataLoader(Shapes(), 1)},
    "out must name a folder, got 3": {"out": 3},
    "out must name a folder, got ''": {"out": ""},
    "model has complex numbers": {"model": nn.Linear(6, CLASSES, dtype=torch.cfloat)},
    r"model keeps a state that is no tensor \(_extra_state\)": {"model": State()},
}


class Wrapped(nn.Module):
    """A scripted network in one of Python, as one wraps what says more than logits."""

    def __init__(self):
        super().__init__()
        self.inner = torch.jit.script(net())

    def forward(self, x):
        return self.inner(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_script_inside_a_model_is_unlearnt():
    assert ssd_bench.unlearn(Wrapped(), **ASKED, alpha=1.5).model(INPUTS).shape == (40, CLASSES)


def test_a_last_layer_before_an_average_is_found_by_its_rows():
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(2, CLASSES)

        def forward(self, x):
            return self.out(x.view(-1, 3, 2)).mean(1)

    made = ssd_bench.unlearn(Averaged(), **ASKED, method="mask_head").model
    assert not (made(INPUTS).argmax(1) == 2).any()


def test_a_convolution_that_is_parametrised_is_left_alone_by_those_who_ask():
    layers = nn.Unflatten(1, (1, 6)), spectral_norm(nn.Conv1d(1, 4, 3)), nn.Flatten(), nn.Linear(16, CLASSES)
    model = nn.Sequential(*layers).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="prune_finetune needs a trainable convolution"):
        ssd_bench.unlearn(model, **ASKED, method="prune_finetune")
    assert equal(before, model.state_dict())


@pytest.mark.skipif(platform.system() != "Linux", reason="other systems have other kernels")
@pytest.mark.parametrize("metric", ["features", "cka", "relearn"])
@pytest.mark.parametrize("more", [{"test": (INPUTS, LABELS)}, {**ASKED, "test": ASKED["forget"]}])
def test_without_images_to_keep_features_are_not_judged(metric, more):
    given = {"forget": ASKED["forget"], "original": net(), "metrics": [metric]} | more
    scores = ssd_bench.evaluate(net(), **given)
    assert not [name for name, value in scores.items() if value is not None and not name.endswith("acc")]


def test_a_layer_without_a_forward_mode_is_named():
    with pytest.raises(ValueError, match=r"forward mode cannot go through \(Trying to use forward AD with mkldnn"):
        ssd_bench.unlearn(Recurrent(), **ASKED, method="influence")


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.out = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.out(self.read(x[:, None])[0][:, 0])


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_one_line(said):
    asked = {"model": net(), **ASKED, **WRONG[said]}
    with pytest.raises(ValueError, match=said) as refused:
        ssd_bench.unlearn(asked.pop("model"), **asked)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"reference": "x"}, "reference must be a torch.nn.Module"),
        ({"reference": nn.Linear(7, CLASSES)}, "reference cannot take inputs"),
        ({"metrics": print}, "metrics must be a list"),
        ({"metrics": [3]}, "metrics must be names or objects that can be called"),
        ({"metrics": [Own]}, "metrics must be names or objects that can be called"),
        ({"metrics": [Own({"a": "b"})]}, "returned a=b; allowed: a finite number"),
    ],
)
def test_what_is_wrong_of_an_evaluation_is_one_line(more, said):
    with pytest.raises(ValueError, match=said):
        ssd_bench.evaluate(net(), **ASKED, **more)
