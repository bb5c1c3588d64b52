"""Every method in the corrective scenarios, and what decides on the addresses there."""

import copy

import pytest
import torch
from test_addresses import planned
from test_methods import FAST, METHODS

from ssd_bench.core.task import ask
from ssd_bench.methods.original import Original
from ssd_bench.run import pipeline
from ssd_bench.run.trained import initial
from ssd_bench.run.unlearn import unlearn
from ssd_bench.store.address import digest
from ssd_bench.train import devices

SMALL = ("data.train_per_class=12", "data.test_per_class=5", "model.width=4", "train.epochs=1", "threads=1")
SCENARIOS = {
    "poison": ["scenario.share=0.2", "scenario.trigger_size=2"],
    "confusion": ["scenario.share=0.5"],
    "label_noise": ["scenario.share=0.2"],
}


def prepared(scenario, *overrides):
    return pipeline.prepare(planned(*SMALL, f"scenario={scenario}", *SCENARIOS[scenario], *overrides))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_where_data_were_manipulated_or_says_why_not(tmp_path, method):
    for scenario in SCENARIOS:
        chosen = [f"method={method}", "scenario.discovered=0.5", f"out={tmp_path}", *FAST.get(method, [])]
        bench = prepared(scenario, *chosen)
        if bench.skipped:
            assert "to forget; scenario=" in bench.skipped
            continue
        with devices.arithmetic(bench.device, "float32"):
            original = initial(bench, 0)
            before = {name: t.clone() for name, t in original.state_dict().items()}
            like = ask(bench.plan.method, "holder", copy.deepcopy(original)).state_dict()
            made = unlearn(bench, original).model.state_dict()
        assert made.keys() == like.keys()
        assert all(t.isfinite().all() for t in made.values() if t.is_floating_point())
        assert all(torch.equal(t, before[name]) for name, t in original.state_dict().items())
        if isinstance(bench.plan.method, Original):
            assert all(torch.equal(t, before[name]) for name, t in made.items())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_original_and_the_clean_model_have_one_address_whatever_is_discovered(scenario):
    benches = [prepared(scenario, "method=clean", f"scenario.discovered={share}") for share in (0.3, 0.6, 1)]
    keys = [[digest(b.identity.original), digest(b.retrained.key), b.identity.task["reference"]] for b in benches]
    assert keys[0] == keys[1] == keys[2]
    assert len({digest(b.identity.unlearned) for b in benches}) == 3
    assert len({b.identity.task["retrained"] for b in benches}) == 3
    assert benches[2].identity.task["retrained"] == benches[2].identity.task["reference"]
    assert digest(benches[2].identity.retrained.key) == keys[2][1]


@pytest.mark.parametrize(
    ("scenario", "override"),
    [(name, "seed_forget=1") for name in SCENARIOS]
    + [(name, "scenario.share=0.3") for name in SCENARIOS]
    + [("poison", "scenario.target=3"), ("poison", "scenario.trigger_margin=1"), ("poison", "scenario.trigger_value=9")]
    + [("confusion", "scenario.classes=[3,8]")],
)
def test_what_was_manipulated_decides_on_the_original(scenario, override):
    usual, other = (prepared(scenario, "method=clean", *more).identity for more in ([], [override]))
    assert digest(usual.original) != digest(other.original)
    assert usual.task["reference"] != other.task["reference"]
