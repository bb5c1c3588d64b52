"""SISA: what comes out is the ensemble that never held D_f, and no more is trained again than that takes."""

import json
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import SHORT, planned
from golden_data import FOLDER, Golden
from torch import nn

import ssd_bench
import ssd_bench.methods.sisa as sisa
from ssd_bench.core.task import row_hash
from ssd_bench.methods.rum import RUM
from ssd_bench.methods.sisa import SISA, Assignment, Ensemble
from ssd_bench.metrics.cka import CKA
from ssd_bench.metrics.features import Features
from ssd_bench.metrics.relearn import Relearn
from ssd_bench.metrics.where import Where
from ssd_bench.run import pipeline
from ssd_bench.run.cache import Cache
from ssd_bench.store.artefacts import NoStore, Store
from ssd_bench.train.recipe import Recipe

RECIPE = Recipe.constant("sgd", 6, 8, 0.05)
METHOD = SISA(shards=3, slices=2)
KINDS = ("sisa_ensemble", "sisa_slice", "unlearned")


@pytest.fixture
def golden():
    golden = Golden(FOLDER / "ssd_family")
    golden.data = asked(golden, [3, 11], range(28))
    return golden


def asked(golden, forget, rows, gone=()):
    """The split of a request for single images."""
    rows, forget, gone = (torch.tensor(list(each), dtype=torch.int64) for each in (rows, forget, gone))
    more = {"scenario": "random", "forget_label": None, "forget_labels": (), "gone": gone}
    return replace(golden.data, rows=rows, retain=rows[~torch.isin(rows, forget)], forget=forget, **more)


def made(golden, data, store=None, method=METHOD, model=None, recipe=RECIPE, clock=time.monotonic):
    """The state of the ensemble, the details, and what was spent on what."""
    cache = Cache(store or NoStore(), lambda key: key, torch.device("cpu"), clock=clock)
    context = replace(golden.context(), recipe=recipe, cached=cache.cached)
    ensemble = method(model or golden.model, data, context)
    return ensemble, context.details, cache


def assert_same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(t, other[name]) for name, t in one.items())


@pytest.fixture
def trained(monkeypatch):
    """What was trained: rows and epochs, call by call."""
    calls, fit = [], sisa.fit

    def watched(model, images, rows, recipe, *more, **named):
        calls.append((rows.sort().values.tolist(), recipe.epochs, recipe.warmup_epochs))
        return fit(model, images, rows, recipe, *more, **named)

    monkeypatch.setattr(sisa, "fit", watched)
    return calls


@pytest.mark.parametrize(
    ("epochs", "slices", "of_each"),
    [(20, 4, (8, 8, 8, 8)), (7, 4, (2, 3, 3, 3)), (5, 1, (5,)), (1, 4, (1,)), (2, 4, (1, 1, 1))],
)
def test_the_epochs_of_each_slice(golden, epochs, slices, of_each):
    recipe = replace(RECIPE, epochs=epochs)
    assert Assignment.of(SISA(slices=slices), golden.data, recipe, 0).epochs == of_each


def test_every_image_has_one_slice_and_what_is_left_over_lies_in_the_last(golden):
    plan = Assignment.of(SISA(shards=3, slices=4), golden.data, RECIPE, 0)
    assert [[len(part) for part in shard] for shard in plan.shards] == [[2, 2, 2, 4], [2, 2, 2, 3], [2, 2, 2, 3]]
    assert torch.cat([torch.cat(shard) for shard in plan.shards]).sort().values.tolist() == list(range(28))
    other = Assignment.of(SISA(shards=3, slices=4), golden.data, RECIPE, 1)
    assert not torch.equal(plan.shards[0][0], other.shards[0][0])


@pytest.mark.parametrize("assign", ["random", "by_group"])
@pytest.mark.parametrize("kept", [False, True])
def test_it_is_the_ensemble_that_is_trained_without_what_is_forgotten(golden, tmp_path, assign, kept):
    """On the same assignment, which is of all images that D ever had."""
    method, store = replace(METHOD, assign=assign), Store(tmp_path) if kept else None
    ours, _, _ = made(golden, golden.data, store, method)
    never = asked(golden, [28], golden.data.retain.tolist(), gone=golden.data.forget.tolist())
    assert_same(ours, made(golden, never, method=method)[0])


def test_each_image_could_be_forgotten_exactly(golden, tmp_path):
    """Also one of those left over in a last slice, of which the released code finds the old model again."""
    data, store = asked(golden, [28], range(20)), Store(tmp_path)
    before, details, _ = made(golden, data, store)
    assert details["redone_pct"] == 0
    for image in range(0, 20, 3):
        ours, details, _ = made(golden, asked(golden, [image], range(20)), store)
        never = asked(golden, [28], [row for row in range(20) if row != image], gone=[image])
        assert_same(ours, made(golden, never)[0])
        assert details["redone_pct"] > 0
        assert any(not torch.equal(t, before.state_dict()[name]) for name, t in ours.state_dict().items())


def test_only_what_held_an_image_is_trained_again(golden, tmp_path, trained):
    store, plan = Store(tmp_path), Assignment.of(METHOD, golden.data, RECIPE, golden.context().seed)
    late, early = plan.shards[1][1][0].item(), plan.shards[2][0][0].item()
    made(golden, asked(golden, [late], range(28)), store)
    before = [(sorted(torch.cat(shard[: r + 1]).tolist()), 4, 0) for shard in plan.shards for r in range(2)]
    shard = torch.cat(plan.shards[1])
    assert trained == [*before, (sorted(shard[shard != late].tolist()), 4, 0)]
    trained.clear()
    _, details, _ = made(golden, asked(golden, [early, late], range(28)), store)
    first, shard = plan.shards[2][0], torch.cat(plan.shards[2])
    assert trained == [
        (sorted(rows[rows != early].tolist()), 4, 0) for rows in (first, shard)
    ]  # and the model of the second shard is that of the request before
    assert details["hit"] == {"1": 1, "2": 0}
    held = [
        [len(part) for part in plan.kept(s, torch.tensor([r for r in range(28) if r not in (early, late)]))]
        for s in range(3)
    ]
    whole = 4 * sum(2 * first + second for first, second in held)
    again = 4 * (sum(held[1]) + held[2][0] + sum(held[2]))
    assert details["redone_pct"] == pytest.approx(100 * again / whole)


def test_warm_up_is_in_the_first_slice_alone(golden, trained):
    made(golden, golden.data, recipe=replace(RECIPE, warmup_epochs=1))
    assert [warmup for *_, warmup in trained[:6]] == [1, 0, 1, 0, 1, 0]


def test_one_after_the_other_is_both_at_once(golden, tmp_path, trained):
    """A sequence is exact, too, and begins with what the step before it left."""
    store = Store(tmp_path)
    first, _, _ = made(golden, asked(golden, [3], range(28)), store)
    trained.clear()
    rows = [row for row in range(28) if row != 3]
    second, _, cache = made(golden, asked(golden, [11], rows, gone=[3]), store, model=first)
    assert len(trained) <= METHOD.slices
    assert cache.shared_s == {}  # was told with the step before
    assert_same(second, made(golden, golden.data)[0])


def test_what_a_request_trains_is_told_as_its_own(golden, tmp_path):
    """By a clock that goes on by one whenever it is looked at: twice for each thing that is asked for and found."""
    store, told = Store(tmp_path), []
    for _ in range(2):  # made, and found
        _, _, cache = made(golden, golden.data, store, clock=count().__next__)
        told.append(cache.shared_s)
    assert told[0] == told[1] == {"sisa_ensemble": store.get("sisa_ensemble", ensemble_key(golden)).cost_s}
    plan = Assignment.of(METHOD, golden.data, RECIPE, golden.context().seed)
    asked = 1 + plan.slices * len(plan.hit(golden.data.forget))
    assert -cache.aside_s == sum(store.get("sisa_slice", key).cost_s for key in keys_of(golden)) - asked


def ensemble_key(golden):
    return Assignment.of(METHOD, golden.data, RECIPE, golden.context().seed).key(golden.data)


def keys_of(golden):
    """Of the slices that the fixture's request trains again."""
    plan = Assignment.of(METHOD, golden.data, RECIPE, golden.context().seed)
    for shard, first in plan.hit(golden.data.forget).items():
        kept = [row_hash(part) for part in plan.kept(shard, golden.data.retain)]
        yield from ({"shard": shard, "rows": kept[: r + 1], **plan.layout} for r in range(first, plan.slices))


def asked_of_the_library(golden):
    images, label = golden.data.images, golden.data.images.labels
    return {
        name: images.batch(
            (label[:28] == 4).nonzero().flatten() if name == "forget" else (label[:28] != 4).nonzero().flatten()
        )
        for name in ("retain", "forget")
    }


def test_the_library_looks_into_none_of_the_networks(golden):
    """None of them is the model: its head, its features, what is moved."""
    asked = asked_of_the_library(golden)
    made = ssd_bench.unlearn(golden.model, **asked, method=METHOD, recipe=RECIPE).model
    inside = ("features", "relearn", "cka", "where")
    found = ssd_bench.evaluate(made, **asked, original=golden.model, metrics=["accuracy", *inside])
    assert "forget_acc" in found
    assert not {name for metric in (Features, Relearn, CKA, Where) for name in metric.about} & set(found)


def test_groups_that_others_select_by_are_another_assignment(golden, tmp_path):
    method, store = replace(METHOD, assign="by_group"), Store(tmp_path)
    other = replace(golden.data, group=golden.data.group.flip(0))
    made(golden, golden.data, store, method)
    ours, _, _ = made(golden, other, store, method)
    assert_same(ours, made(golden, other, method=method)[0])


def test_a_model_of_whose_images_none_is_left_has_no_say(golden):
    """By group: each shard has one of three classes, of which one is forgotten."""
    labels = golden.data.group[:28]
    chosen = labels.unique()[:3]
    rows = torch.isin(labels, chosen).nonzero().flatten().tolist()
    forget = (labels == chosen[0]).nonzero().flatten().tolist()
    ensemble, details, _ = made(golden, asked(golden, forget, rows), method=replace(METHOD, assign="by_group"))
    assert ensemble.counts.sum() == 2
    assert len(details["hit"]) == 1
    inputs = golden.data.images.batch(torch.arange(4))[0]
    with torch.no_grad():
        others = [
            model(inputs).softmax(1) for model, counts in zip(ensemble.models, ensemble.counts, strict=True) if counts
        ]
        torch.testing.assert_close(ensemble(inputs).exp(), torch.stack(others).mean(0))


class Says(nn.Module):
    def __init__(self, *probabilities):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([probabilities]).log() + 3)

    def forward(self, inputs):
        return self.logits.expand(len(inputs), -1)


def test_mean_and_vote():
    models = [Says(0.6, 0.3, 0.1), Says(0.5, 0.4, 0.1), Says(0.0001, 0.9998, 0.0001)]
    mean, vote = (Ensemble(models, how)(torch.zeros(2, 1)).exp() for how in ("mean", "vote"))
    torch.testing.assert_close(mean[0], torch.tensor([0.36670, 0.56660, 0.06670]), rtol=0, atol=1e-4)
    assert vote[1].argmax() == 0
    assert mean[1].argmax() == 1
    torch.testing.assert_close(vote.sum(1), torch.ones(2))
    tied = Ensemble([Says(0.9, 0.05, 0.05), Says(0.3, 0.6, 0.1), Says(0.1, 0.1, 0.8)], "vote")(torch.zeros(1, 1))
    assert tied.argmax() == 0
    assert tied.isfinite().all()


def test_what_makes_no_sense_is_one_line(golden):
    for settings in ({"shards": 0}, {"slices": 0}, {"aggregate": "median"}, {"assign": "sorted"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            SISA(**settings)
    with pytest.raises(ValueError, match="shards=29, but there are 28 training images"):
        Assignment.of(SISA(shards=29), golden.data, RECIPE, 0)
    with pytest.raises(ValueError, match="this model is one already"):
        ssd_bench.unlearn(
            Ensemble([golden.model], "mean"), **asked_of_the_library(golden), method=METHOD, recipe=RECIPE
        )
    with pytest.raises(ValueError, match="steps: sisa forgets all of D_f at once"):
        RUM(steps=[SISA()])


CHOSEN = (*SHORT, "method=sisa", "scenario=random", "scenario.n_forget=3")


def test_a_run_finds_the_ensemble_again_and_knows_its_request(command, tmp_path):
    """With other metrics, the ensemble is put together from what was kept, and nothing is trained."""
    first = command(*CHOSEN, f"out={tmp_path}", "metric=[accuracy]").row
    again = command(*CHOSEN, f"out={tmp_path}", "metric=[accuracy,features,relearn,cka,where,perturbed]").row
    assert again["cached"]["unlearned"]
    assert again["artefacts"]["unlearned"] == first["artefacts"]["unlearned"]
    assert all(again["metrics"][name] == first["metrics"][name] for name in ("forget_train_acc", "retain_acc"))
    assert again["metrics"]["moved_row"] is again["metrics"]["probe_recall"] is None
    assert 0 < first["details"]["redone_pct"] < 100
    other = command(*CHOSEN, f"out={tmp_path}", "metric=[accuracy]", "seed_forget=1").row
    assert other["cached"]["sisa_ensemble"]
    assert other["times"]["shared_s"] == first["times"]["shared_s"]


def test_times_and_bytes_are_those_of_what_was_made(command, tmp_path):
    """Of the request, the slices that it trains; and on disk, the networks that a dry run counts."""
    bench = pipeline.prepare(planned(*CHOSEN, f"out={tmp_path}"))
    cost = SISA().cost(bench.split(), bench.plan.train)
    row = command(*CHOSEN, f"out={tmp_path}", "metric=[accuracy]").row
    kept = {kind: [json.loads(p.read_text()) for p in (tmp_path / "artefacts" / kind).glob("*.json")] for kind in KINDS}
    networks = 5 * len(kept["sisa_ensemble"]) + 5 * len(kept["unlearned"]) + len(kept["sisa_slice"])
    assert networks == cost.networks + cost.shared["sisa_ensemble"][1].networks
    named = [path for name, path in row["artefacts"].items() if name.startswith("sisa_slice")]
    assert len(named) == len(set(named)) == len(kept["sisa_slice"])
    assert row["times"]["shared_s"] == {"sisa_ensemble": kept["sisa_ensemble"][0]["cost_s"]}
    costs = [json.loads(Path(path).with_suffix(".json").read_text())["cost_s"] for path in named]
    times, of_request = row["times"], sum(costs[5 * row["details"]["slices"] :])
    assert 0 < of_request <= times["online_s"] <= times["method_s"] - times["shared_s"]["sisa_ensemble"]
    command(*CHOSEN, f"out={tmp_path}", "metric=[accuracy]", "seed_forget=1", "save_model=false")
    assert len(list((tmp_path / "artefacts/sisa_slice").glob("*.json"))) == len(kept["sisa_slice"])


def test_a_slice_that_was_killed_costs_what_both_processes_put_into_it(tmp_path):
    clock = iter([0.0, 0.0, 107.0, 107.0])  # the second process spent 7 seconds and found a checkpoint of 100
    cache = Cache(Store(tmp_path), lambda key: key, torch.device("cpu"), clock=lambda: next(clock))
    cache.cached("sisa_slice", "a key", lambda: {"a": torch.zeros(1)}, "request")
    assert cache.aside_s == 0
    assert Store(tmp_path).get("sisa_slice", "a key").cost_s == 107
