"""The library does what the command line does: every method gives the same weights through both."""

import pytest
import torch
from conftest import SHORT, composed
from safetensors.torch import load_file
from test_methods import FAST, METHODS

import ssd_bench
from ssd_bench.core.task import ask
from ssd_bench.metrics.against import average_gap
from ssd_bench.models.fresh import fresh
from ssd_bench.run import pipeline
from ssd_bench.run import plan as planning


@pytest.fixture
def prepared():
    """A run of the command line without its store, and its data as a user of the library has them."""

    def prepare(*overrides):
        cfg = composed(*SHORT, *overrides)
        names = {"data": "digits", "model": "resnet18_slim", "scenario": "full_class", "train": "resnet18_slim"}
        bench = pipeline.prepare(planning.plan(cfg, names | {"method": cfg.method._target_}))
        return bench, lambda part, rows: bench.images[part].batch(rows)

    return prepare


@pytest.mark.parametrize("method", [m for m in METHODS if m != "clean"])  # for it, something must be manipulated
def test_every_method_gives_the_same_weights_through_both(command, runs, prepared, method):
    """Of a whole class: finer classes, and the order of all images, are what the library is not told."""
    chosen = [f"method={method}", *FAST.get(method, [])]
    row = command(*SHORT, *chosen, f"out={runs}").row
    bench, pair = prepared(*chosen)
    request = bench.request
    model = bench.new_model(0)
    model.load_state_dict(load_file(row["artefacts"]["original"]))
    from_scratch = ask(bench.plan.method, "trains_on", bench.split()) is not None
    retain = request.retain.sort().values if from_scratch else request.retain

    def untrained():
        return bench.plan.model.build(len(request.classes), 1, 8).to(memory_format=torch.channels_last)

    made = ssd_bench.unlearn(
        model,
        retain=pair("train", retain),
        forget=pair("train", request.forget),
        method=bench.plan.method,
        recipe=bench.plan.train,
        fresh_model=untrained,
    )
    for name, theirs in load_file(row["artefacts"]["unlearned"]).items():
        torch.testing.assert_close(made.model.state_dict()[name], theirs, rtol=1e-4, atol=1e-5)


def test_every_metric_gives_the_same_value_through_both(command, runs, prepared):
    rows = {m: command(*SHORT, f"method={m}", f"out={runs}").row for m in ("ssd", "retrain")}
    bench, pair = prepared("method=ssd")
    request = bench.request
    models = {}
    for method, row in rows.items():
        models[method] = fresh(bench.plan.model, 0, 10, 1, 8)
        models[method].load_state_dict(load_file(row["artefacts"]["unlearned"]))
    said = ssd_bench.evaluate(
        models["ssd"],
        retain=pair("train", request.retain),
        forget=pair("train", request.forget),
        test=pair("test", torch.arange(len(request.test_labels))),
        reference=models["retrain"],
        fresh_model=lambda: bench.plan.model.build(10, 1, 8).to(memory_format=torch.channels_last),
    )
    for name, value in rows["ssd"]["metrics"].items():
        if value is not None and not name.startswith("population"):  # whose resamples follow the order of the set
            assert said[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    both = (rows[m]["metrics"] for m in ("ssd", "retrain"))
    assert said["average_gap"] == pytest.approx(average_gap(*both, "full_class"), abs=1e-3)
