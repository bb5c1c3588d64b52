"""The contract that every method keeps, on real digits, in every scenario; and what single methods promise."""

import inspect
import json
from contextlib import contextmanager
from dataclasses import is_dataclass

import pytest
import torch
from conftest import SHORT, composed
from hydra.utils import get_class
from safetensors.torch import load_file

from ssd_bench.run.plan import CONF_DIR

METHODS = sorted(path.stem for path in (CONF_DIR / "method").glob("*.yaml"))
SCENARIOS = ("full_class", "sub_class", "random", "several")  # several: classes and random images together
FAST = {
    "cf_k": ["method.epochs=1"],
    "ct": ["method.epochs=1"],
    "delete": ["method.epochs=2"],
    "finetune": ["method.epochs=1"],
    "influence": ["method.iterations=3", "method.n_samples=50", "method.tolerance=0"],  # else it may end sooner
    "l1_sparse": ["method.epochs=1"],
    "msg": ["method.epochs=1"],
    "neggrad": ["method.epochs=2", "method.stop_at=null"],  # a stop makes it cheaper than it says
    "neggrad_plus": ["method.epochs=1"],
    "potion": ["method.max_tries=20"],
    "salun": ["method.epochs=1"],
    "scrub": ["method.epochs=1"],
}


def forgotten(scenario):
    if scenario == "several":
        return ["scenario=full_class", "scenario.target=[8,3]", "scenario.n_forget=20"]
    return [f"scenario={scenario}", *(["scenario.n_forget=20"] if scenario == "random" else [])]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_frozen_dataclass_that_maps_a_model_to_a_model(method):
    cls = get_class(composed(f"method={method}").method._target_)
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert list(inspect.signature(cls.__call__).parameters) == ["self", "model", "data", "context"]
    assert cls.__doc__


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_in_every_scenario_or_says_why_not(command, runs, method, scenario):
    ended = command(*SHORT, *forgotten(scenario), f"method={method}", f"out={runs}", *FAST.get(method, []))
    assert ended.code == 0, ended.err
    row = ended.row
    if row["status"] == "skipped":
        assert row["reason"]
        return
    assert row["status"] == "done"
    for name, value in row["metrics"].items():
        may_be_null = name == "zrf_official" or name.startswith("population_tpr1")  # a test set too small for 1 %
        assert value is not None or may_be_null, name
    assert all(0 <= row["metrics"][name] <= 100 for name in row["metrics"] if name.endswith("_acc") or name == "mia")
    assert 0 <= row["metrics"]["zrf"] <= 1
    original, unlearned = (load_file(row["artefacts"][name]) for name in ("original", "unlearned"))
    assert original.keys() == unlearned.keys()
    assert all(t.isfinite().all() for t in unlearned.values() if t.is_floating_point())
    json.dumps(row, allow_nan=False)


def test_the_original_is_left_as_it_is(command, runs):
    row = command(*SHORT, "method=original", f"out={runs}").row
    assert row["metrics"] == row["original_metrics"]
    assert row["artefacts"]["unlearned"] == row["artefacts"]["original"]
    assert row["times"]["method_s"] == 0


def weights(row, name):
    return load_file(row["artefacts"][name])


def test_retrain_shares_no_tensor_with_the_original(command, runs):
    row = command(*SHORT, "method=retrain", f"out={runs}").row
    original, retrained = weights(row, "original"), weights(row, "unlearned")
    for name, t in original.items():
        if t.is_floating_point():
            assert not torch.equal(t, retrained[name]), name


def test_head_reset_keeps_the_original_but_for_the_last_layer(command, runs):
    row = command(*SHORT, "method=retrain", "method.mode=head_reset", "method.lr=1e-30", f"out={runs}").row
    original, retrained = weights(row, "original"), weights(row, "unlearned")
    for name in ("conv1.weight", "layer4.1.conv2.weight"):
        torch.testing.assert_close(original[name], retrained[name])
    assert not torch.allclose(original["fc.weight"], retrained["fc.weight"])


def test_retrain_never_sees_the_forgotten_images(command, tmp_path, monkeypatch):
    from ssd_bench.run import trained

    seen, fit = [], trained.fit

    def watch(model, images, rows, *args, **kwargs):
        seen.append((images.labels[rows], kwargs["augment"]))
        return fit(model, images, rows, *args, **kwargs)

    monkeypatch.setattr(trained, "fit", watch)
    command(*SHORT, "method=retrain", "train.augment=true", f"out={tmp_path}")
    (_, _), (labels, augment) = seen  # the original, then the retrained model
    assert set(labels.tolist()) == set(range(10)) - {8}
    assert augment is not None


def test_a_method_cannot_reach_the_test_images():
    from ssd_bench.core.task import Context, Split

    names = {name for cls in (Context, Split) for name in cls.__dataclass_fields__}
    assert not {name for name in names if "test" in name or name == "sets"}


@pytest.mark.parametrize("scenario", ["full_class", "random"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("original", "fisher", "potion")])
def test_a_method_costs_what_it_says(command, tmp_path, monkeypatch, method, scenario):
    """Images that go through the first convolution while the method runs, against `cost`.

    Not of Fisher forgetting, where one forward pass serves the backward passes of all labels, and of Potion, whose
    search takes as many tries as it needs.
    """
    from ssd_bench.run import estimate, pipeline, unlearn

    images, told = [], []
    conv, measured = torch.nn.functional.conv2d, unlearn.devices.measured

    def counting(inputs, *more):
        if inputs.shape[1] == 1:  # digits have one channel, inner layers more
            images.append(len(inputs))
        return conv(inputs, *more)

    @contextmanager
    def counted(*how):
        images.clear()
        with measured(*how) as result:
            yield result
        told.append(sum(images))

    make_row = pipeline.make_row

    def asked(bench, original):
        if not bench.skipped:
            told.extend(w.cost for w in estimate.work_of(bench) if w.kind not in ("original", "outputs"))
        return make_row(bench, original)

    monkeypatch.setattr("ssd_bench.models.resnet.conv2d", counting)
    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", lambda of, x, *w: counting(x, *w, of.stride, of.padding))
    monkeypatch.setattr(unlearn.devices, "measured", counted)
    monkeypatch.setattr(pipeline, "make_row", asked)
    ended = command(*SHORT, *forgotten(scenario), f"method={method}", f"out={tmp_path}", *FAST.get(method, []))
    if ended.row["status"] == "skipped":
        assert not told
        return
    *costs, were = told
    assert were == pytest.approx(sum(cost.forward + cost.backward for cost in costs), rel=0.01)
