"""The library where its callers are: models, data and surroundings that are odd and allowed, or wrong."""

import argparse
import copy
import multiprocessing
import platform
import threading
import time
import warnings
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

import ssd_bench
from ssd_bench import api
from ssd_bench.run.call import _warm
from ssd_bench.store import address
from ssd_bench.store.prune import not_needed
from ssd_bench.train import devices

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


class Hooked:
    """Changes more than weights: a forward hook that makes the class unsayable."""

    def __call__(self, model, data, context):
        model.register_forward_hook(lambda module, inputs, said: said - 1e4 * (torch.arange(CLASSES) == 2))
        context.details["loss"] = np.float32(1.5)
        context.details["none"] = torch.tensor(float("nan"))
        return model


def test_a_model_that_weights_do_not_make_again_is_handed_out_and_not_kept(tmp_path, caplog):
    model = trained(net())
    for _ in range(2):
        made = ssd_bench.unlearn(model, **ASKED, method=Hooked(), out=tmp_path)
        assert made.model(INPUTS[~KEPT]).argmax(1).ne(2).all()
        assert made.path is None
        assert made.details["loss"] == 1.5
    assert "changes more than weights and buffers" in caplog.text


class Guard:
    """A hook that only changes what the model says of the forgotten class."""

    def __call__(self, model, data, context):
        def guard(_, __, said):
            return torch.where(said.argmax(1, keepdim=True) == 2, said.roll(1, 1), said)

        model.register_forward_hook(guard)
        return model


def test_a_model_that_differs_on_forgotten_samples_alone_is_not_kept(tmp_path):
    model = trained(net())
    for _ in range(2):
        made = ssd_bench.unlearn(model, **ASKED, method=Guard(), out=tmp_path).model
        assert made(INPUTS).argmax(1).ne(2).all()


class Overflowing:
    """Weights that are finite numbers, and outputs that are not."""

    def __call__(self, model, data, context):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(1e30)
        context.details["scores"] = torch.rand(3)
        return model


def test_outputs_that_are_not_finite_are_no_reason_not_to_hand_out_the_model(tmp_path):
    for out in (tmp_path, None):
        made = ssd_bench.unlearn(trained(net()), **ASKED, method=Overflowing(), out=out)
        assert not made.model(INPUTS).isfinite().all()
        assert isinstance(made.details["scores"], list if out else torch.Tensor)
    assert isinstance(made.details["scores"], torch.Tensor)  # as the method left it, where nothing is written


class Growing(nn.Module):
    """A buffer that its state dict leaves out and that is as long as the last batch."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, CLASSES)
        self.register_buffer("last", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.last = x.detach().sum(1)
        return self.out(x)


def test_a_buffer_that_grows_with_the_batch_is_no_error(tmp_path):
    made = ssd_bench.unlearn(trained(Growing()), **ASKED, method="finetune", epochs=1, out=tmp_path)
    assert made.model(INPUTS).shape == (40, CLASSES)


class Mapped(nn.Module):
    """Keeps what it last saw, as attention does, and a mean that its state dict leaves out."""

    def __init__(self):
        super().__init__()
        self.body, self.out, self.map = nn.Linear(6, 8), nn.Linear(8, CLASSES), None
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def forward(self, x):
        self.map = torch.relu(self.body(x))
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * self.map.detach().mean(0))
        return self.out(self.map - self.mean)


@pytest.mark.parametrize("method", ["teacher", "cf_k", "eu_k", "original"])
def test_what_warms_up_leaves_nothing_with_the_model(method):
    _warm.clear()
    model = trained(Mapped()).eval()
    with torch.no_grad():
        model(INPUTS)
    made = ssd_bench.unlearn(model, **ASKED, method=method, recipe=ssd_bench.Recipe(epochs=1)).model
    if method == "original":
        assert torch.equal(made.mean, model.mean)


def test_the_first_optimiser_of_a_process_is_made_before_the_clock_runs(monkeypatch):
    """It loads PyTorch's compiler, for seconds that no method has to answer for."""
    model, order = trained(net()), []
    made, measured = torch.optim.Optimizer.__init__, devices.measured

    def making(optimiser, *given):
        order.append("optimiser")
        made(optimiser, *given)

    def measuring(*given):
        order.append("clock")
        return measured(*given)

    monkeypatch.setattr(torch.optim.Optimizer, "__init__", making)
    monkeypatch.setattr(devices, "measured", measuring)
    ssd_bench.unlearn(model, **ASKED, method="finetune", epochs=1)
    assert order == ["optimiser", "clock", "optimiser"]


class Scaled(DataLoader):
    """What it hands out is not what lies in its data set."""

    def __iter__(self):
        return ((inputs / 10, labels) for inputs, labels in super().__iter__())


def test_a_loader_that_changes_what_it_hands_out_is_read_as_it_is():
    model = trained(net())
    told = [
        ssd_bench.evaluate(model, retain=kind(TensorDataset(*ASKED["retain"]), 8), forget=ASKED["forget"])
        for kind in (DataLoader, Scaled)
    ]
    scaled = ssd_bench.evaluate(model, retain=(INPUTS[KEPT] / 10, LABELS[KEPT]), forget=ASKED["forget"])
    assert told[1]["retain_train_acc"] == scaled["retain_train_acc"]
    assert told[1] != told[0]


class Opened(Dataset):
    """Opens its file where it is read."""

    rows = None

    def __len__(self):
        return int(KEPT.sum())

    def __getitem__(self, place):
        return self.rows[0][place], self.rows[1][place]


def test_what_readies_a_loader_s_workers_readies_those_that_read_it():
    def begin(_):
        torch.utils.data.get_worker_info().dataset.rows = ASKED["retain"]

    loader = DataLoader(Opened(), 8, num_workers=1, worker_init_fn=begin)
    told = ssd_bench.evaluate(trained(net()), retain=loader, forget=ASKED["forget"])
    assert told["retain_train_acc"] > 0


class Slow(Opened):
    """Its first worker does not answer in time."""

    rows = ASKED["retain"]

    def __getitem__(self, place):
        time.sleep(3)
        return super().__getitem__(place)


def test_a_loader_waits_for_its_workers_as_long_as_it_says():
    loader = DataLoader(Slow(), 1, num_workers=1, timeout=1)
    with pytest.raises((ValueError, RuntimeError), match="timed out after 1 sec"):
        ssd_bench.evaluate(trained(net()), retain=loader, forget=ASKED["forget"])


class Begun(Opened):
    """Knows how its worker was begun."""

    rows = ASKED["retain"]

    def __getitem__(self, place):
        assert type(multiprocessing.current_process()).__name__ == "ForkServerProcess"
        return super().__getitem__(place)


def test_a_loader_s_workers_are_begun_as_it_says():
    loader = DataLoader(Begun(), 8, num_workers=1, multiprocessing_context="forkserver")
    told = ssd_bench.evaluate(trained(net()), retain=loader, forget=ASKED["forget"])
    assert told["retain_train_acc"] > 0


def test_frozen_weights_of_a_layer_whose_bias_is_not_stay_as_they_are():
    model = trained(net())
    for name, p in model.named_parameters():
        p.requires_grad_(name.endswith("bias"))
    made = ssd_bench.unlearn(model, **ASKED, method="retrain", recipe=ssd_bench.Recipe(epochs=1)).model
    assert torch.equal(made[0].weight, model[0].weight)
    assert not torch.equal(made[0].bias, model[0].bias)


@dataclass
class Config:
    scale: float


class Configured(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.out, self.config, self.act = nn.Linear(6, CLASSES), kind(scale=1.0), partial(nn.functional.leaky_relu)

    def forward(self, x):
        return self.act(self.out(x)) * self.config.scale


@pytest.mark.parametrize("kind", [Config, argparse.Namespace, SimpleNamespace])
def test_settings_in_an_object_of_the_model_s_are_part_of_it(tmp_path, kind):
    model = trained(Configured(kind))
    paths = [ssd_bench.unlearn(model, **ASKED, method="ssd", out=tmp_path).path]
    model.config.scale = 20.0
    paths.append(ssd_bench.unlearn(model, **ASKED, method="ssd", out=tmp_path).path)
    model.act = partial(nn.functional.leaky_relu, negative_slope=0.5)
    paths.append(ssd_bench.unlearn(model, **ASKED, method="ssd", out=tmp_path).path)
    assert len(set(paths)) == 3


def scaled(by):
    return lambda module, inputs, out: by * out


def activated(by):
    return lambda model: setattr(model, "act", by)


CHANGES = {  # what a model computes with the same weights: an attribute, or a hook
    "lambda": [activated(lambda z: torch.relu(z)), activated(lambda z: torch.tanh(z))],
    "closure": [lambda m, by=by: m.register_forward_hook(scaled(by)) for by in (2.0, 3.0)],
    "hook": [lambda m: None, lambda m: m.out.register_forward_hook(scaled(2.0))],
}


@pytest.mark.parametrize("kind", CHANGES)
def test_functions_and_hooks_of_a_model_are_part_of_it(tmp_path, kind):
    paths = []
    for change in (*CHANGES[kind], CHANGES[kind][0]):
        torch.manual_seed(0)
        model = trained(Configured(Config))
        change(model)
        paths.append(ssd_bench.unlearn(model, **ASKED, method="ssd", out=tmp_path).path)
    assert paths[0] == paths[2] != paths[1]


def test_a_library_s_function_counts_by_its_version_and_nothing_of_the_library_is_read(tmp_path, monkeypatch):
    read, source = [], address._source
    monkeypatch.setattr(address, "_source", lambda name: read.append(name) or source(name))
    model = trained(Configured(Config))
    model.act = nn.functional.silu
    model.other = timm.layers.get_act_layer
    path = ssd_bench.unlearn(model, **ASKED, method="ssd", out=tmp_path).path
    assert {name.split(".")[0] for name in read}.isdisjoint({"torch", "timm"})
    monkeypatch.setattr(timm, "__version__", "0.0")
    assert path != ssd_bench.unlearn(model, **ASKED, method="ssd", out=tmp_path).path


@pytest.mark.parametrize("named", ["seed_unlearn", ("seed_unlern",)])
def test_seeds_that_are_no_names_of_seeds_are_one_line(named):
    method = type("Mine", (), {"seeds": named, "__call__": lambda self, model, data, context: model})()
    with pytest.raises(ValueError, match=r"method mine: seeds = .*; allowed: a tuple of some of seed, seed_unlearn"):
        ssd_bench.unlearn(trained(net()), **ASKED, method=method)


class Named(nn.Module):
    """Hands its layers their inputs by name, and has a parameter without a dimension."""

    def __init__(self):
        super().__init__()
        self.body, self.out, self.temperature = nn.Linear(6, 8), nn.Linear(8, CLASSES), nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.out(input=torch.relu(self.body(input=x))) * self.temperature


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ssd", {"importance": "per_sample"}),
        ("fisher", {"variant": "official"}),
        ("ntk_head", {"fresh_model": True}),
        ("influence", {}),
    ],
)
def test_inputs_by_name_and_parameters_without_a_dimension(method, settings):
    settings = {name: Named if name == "fresh_model" else value for name, value in settings.items()}
    made = ssd_bench.unlearn(trained(Named()), **ASKED, method=method, **settings).model
    assert made(INPUTS).shape == (40, CLASSES)


@pytest.mark.parametrize("layer", [lambda: spectral_norm(nn.Conv2d(1, 2, 3)), lambda: pruned_convolution()])
@pytest.mark.parametrize("method", ["ct", "msg"])
def test_convolutions_whose_weights_are_made_of_others_are_not_counted_as_changed(layer, method):
    model = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Upsample((4, 4)), layer(), nn.Flatten(), nn.Linear(8, CLASSES))
    made = ssd_bench.unlearn(model, **ASKED, method=method)
    assert made.details["transposed" if method == "ct" else "drawn_anew"] == 0


def pruned_convolution():
    prune.l1_unstructured(layer := nn.Conv2d(1, 2, 3), "weight", 0.2)
    return layer


class Heads(nn.Module):
    """A convolution that is used in training alone."""

    def __init__(self):
        super().__init__()
        self.first, self.aside = nn.Conv2d(1, 2, 2), nn.Conv2d(1, 2, 2)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = x.view(-1, 1, 2, 3)
        seen = self.first(x) + self.aside(x) if self.training else self.first(x)
        return self.out(seen.flatten(1))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_msg_leaves_out_what_no_loss_reaches_and_works_in_half_precision(kind):
    asked = {name: (inputs.to(kind), labels) for name, (inputs, labels) in ASKED.items()}
    assert ssd_bench.unlearn(Heads().to(kind), **asked, method="msg", epochs=1).details["drawn_anew"] > 0


COMPILE = partial(torch.compile, backend="eager")  # the wrapper alone: a compiler takes minutes


@pytest.mark.parametrize(
    ("wrap", "method"), [(nn.DataParallel, "retrain"), (nn.DataParallel, "eu_k"), (COMPILE, "eu_k")]
)
def test_a_fresh_model_without_the_wrapper_is_put_into_it(wrap, method, tmp_path):
    model = wrap(trained(net()))
    for _ in range(2):
        more = {"fresh_model": net, "recipe": ssd_bench.Recipe(epochs=1), "out": tmp_path}
        made = ssd_bench.unlearn(model, **ASKED, method=method, **more).model
        assert made.state_dict().keys() == model.state_dict().keys()


def test_what_a_fresh_model_leaves_trainable_is_trained_inside_the_wrapper_too():
    model = nn.DataParallel(trained(net()))
    model.module[0].weight.requires_grad_(False)
    more = {"fresh_model": net, "recipe": ssd_bench.Recipe(epochs=1)}
    made = ssd_bench.unlearn(model, **ASKED, method="retrain", **more).model
    assert all(p.requires_grad for p in made.parameters())


def test_an_averaged_model_takes_a_fresh_one_as_it_is():
    model = torch.optim.swa_utils.AveragedModel(trained(net()))
    more = {"fresh_model": net, "recipe": ssd_bench.Recipe(epochs=1)}
    assert ssd_bench.unlearn(model, **ASKED, method="retrain", **more).model(INPUTS).shape == (40, CLASSES)


def test_a_fresh_model_that_is_another_network_is_one_line():
    other = partial(nn.Linear, 6, CLASSES + 1)
    with pytest.raises(ValueError, match=r"fresh_model must make the model's own network: its 0\.weight is nothing"):
        ssd_bench.unlearn(trained(net()), **ASKED, method="retrain", fresh_model=other, recipe=ssd_bench.Recipe())


def test_pruning_keeps_what_the_library_made(tmp_path):
    made = ssd_bench.unlearn(trained(net()), **ASKED, method="ssd", out=tmp_path)
    assert made.path not in not_needed(tmp_path, artefacts_too=True)
    assert not_needed(tmp_path, artefacts_too=True)  # importances are made again
