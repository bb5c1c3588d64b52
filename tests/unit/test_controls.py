"""Controls stand apart from what competes, in tables, verdicts and pictures; and what random weights are."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from golden_data import FOLDER, Golden
from made_rows import row, summary_of
from torch import nn

from ssd_bench.methods.dampen_random import DampenRandom
from ssd_bench.methods.random import Random
from ssd_bench.methods.ssd import SSD, dampen
from ssd_bench.report.derive import derived_metrics
from ssd_bench.report.figures import COLOURS, plots, style
from ssd_bench.report.notes import main_notes
from ssd_bench.report.page import page
from ssd_bench.report.sheet import main_sheet
from ssd_bench.report.summary import FLOOR, summarise
from ssd_bench.report.table import latex, show
from ssd_bench.report.verdict import verdict

METHODS = ("mine", "other")


def rows(seeds=(0, 1), controls=("masks",), level=50.4, **more):
    found = [row("retrain", seed, 50 + seed) for seed in seeds]
    found += [row(method, seed, 60 + 5 * i + seed) for i, method in enumerate(METHODS) for seed in seeds]
    return found + [{**row(name, seed, level + seed, **more), "control": True} for name in controls for seed in seeds]


def test_a_control_neither_wins_nor_is_ranked():
    summary = summary_of(rows())
    assert [line.label for line in summary.methods] == ["mine", "other"]
    assert [line.label for line in summary.controls] == ["masks"]
    assert summary.ranks("average_gap") == {"mine": 1, "other": 2}
    assert verdict(summary).startswith("Nearest to the retrained model: mine")
    rival = summary_of([{**each, "control": False} for each in rows()])
    assert verdict(rival).startswith("Nearest to the retrained model: masks")


def test_controls_stand_under_a_rule_with_the_floor(capsys):
    summary = summary_of(rows())
    sheet = main_sheet(summary)
    assert [label for label, _ in sheet.lines] == ["original", "retrain", "mine", "other", FLOOR, "masks"]
    assert sheet.lines[sheet.rule][0] == FLOOR
    assert "Controls, which do not compete: masks." in main_notes(summary, [])
    assert re.search(r"\\midrule\nretrain, other seeds", latex([summary]))
    assert re.search(r"</tbody><tbody><tr [^>]*><td [^>]*>retrain, other seeds", page([summary]))
    show(summarise(rows(), derived_metrics(rows())))
    said = capsys.readouterr().out.splitlines()
    assert not said[next(i for i, line in enumerate(said) if line.strip().startswith(FLOOR)) - 1].strip()


def test_with_one_seed_the_rule_is_above_the_first_control():
    sheet = main_sheet(summary_of(rows(seeds=(0,), controls=("also", "masks"))))
    assert [label for label, _ in sheet.lines[sheet.rule :]] == ["also", "masks"]


def test_a_control_that_was_skipped_is_under_the_rule_too():
    sheet = main_sheet(summary_of(rows(seeds=(0,), status="skipped", reason="no class")))
    assert [label for label, _ in sheet.lines[sheet.rule :]] == ["masks"]


def test_tables_without_controls_are_as_they_were():
    summary = summary_of(rows(controls=()))
    assert main_sheet(summary).rule is None
    assert not [note for note in main_notes(summary, []) if note.startswith(("Controls", "Placebo"))]


def test_controls_count_as_no_method_that_was_not_tuned():
    found = [
        each if each["method"] in ("retrain", "masks") else each | {"tuned": {"study": "s", "budget": "9 trials"}}
        for each in rows()
    ]
    assert summary_of(found).tuning.startswith("Every method was tuned alike")


def test_in_pictures_controls_are_grey_and_those_far_off_are_left_out():
    summary = summary_of(rows(controls=("masks",)) + rows(controls=("wild",), level=0)[-2:])
    [trade_off] = [plot for plot in plots(summary) if plot.name == "trade_off"]
    assert [line.label for line in trade_off.lines] == ["original", "retrain", "masks", "mine", "other"]
    colours = {line.label: style(summary, line)[0] for line in trade_off.lines}
    assert colours["masks"] == "#777777"
    assert (colours["mine"], colours["other"]) == COLOURS[:2]
    assert len({style(summary, line) for line in (*trade_off.lines, summary.line("wild"))}) == 6


def test_a_table_says_what_methods_do_to_the_placebo():
    task = {"placebo": True, "forget_sha256": "held out", "n_train": 450}
    never = [{**each, "task": each["task"] | task} for each in rows(controls=())]
    request, placebo = summarise(rows() + never, derived_metrics(rows() + never))
    assert (request.task["placebo"], placebo.task["placebo"]) == (False, True)
    told = [note for note in main_notes(request, []) if note.startswith("Placebo")]
    assert told == [
        "Placebo, the same request for images that were never trained on: gap of mine 10.00, other 15.00.",
    ]
    assert not [note for note in main_notes(placebo, []) if note.startswith("Placebo")]
    other = [{**each, "task": each["task"] | {"target": "7"}} for each in never]
    assert summarise(rows() + other, derived_metrics(rows() + other))[0].placebo is None


def test_a_sequence_says_what_the_same_in_one_request_does():
    def of(level, target, **more):
        task = {"target": target, "n_forget": 100, **more}
        return [{**each, "task": each["task"] | task} for each in rows(controls=(), level=level)]

    one_by_one = of(90, "8>7", scenario="sequence", requests=2)
    for each in one_by_one:
        each["config"] = each["config"] | {"scenario": {"of": "full_class"}}
    found = one_by_one + of(70, "7+8") + of(60, "7+6")
    sequence, *others = summarise(found, derived_metrics(found))
    assert sequence.joint is others[0]
    [told] = [note for note in main_notes(sequence, []) if "in one request" in note]
    gaps = {line.label: line.mean("average_gap") for line in others[0].methods}
    assert told.endswith(f"gap of mine {gaps['mine']:.2f}, other {gaps['other']:.2f}.")
    assert not [other for other in others if other.joint]


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


def test_random_weights_follow_the_method_s_own_seed_alone(golden):
    made = [Random()(golden.model, golden.data, golden.context()).state_dict() for _ in range(2)]
    assert all(torch.equal(t, made[1][name]) for name, t in made[0].items())
    weights = {name for name, t in made[0].items() if t.ndim > 1}
    assert not [name for name in weights if torch.equal(made[0][name], golden.original[name])]


def test_random_dampening_takes_as_many_weights_by_the_same_factors(golden):
    """Of weights that are all 1, what is left is the factor."""
    left = []
    for kind in (SSD, DampenRandom):
        method, model = kind(alpha=1.5, order="request", batch_size=8), copy.deepcopy(golden.model)
        batches = method.batches(golden.data)
        found = method.importances(golden.model, golden.data.images, *batches, golden.context())
        for p in model.parameters():
            nn.init.ones_(p)
        dampen(model, *found, method.alpha, method.lam)
        left.append([p.detach().flatten() for p in model.parameters()])
    for theirs, ours in zip(*left, strict=True):
        assert torch.equal(ours.sort().values, theirs.sort().values)
    assert sum(int((ours != theirs).sum()) for theirs, ours in zip(*left, strict=True)) > 20


def test_which_weights_random_dampening_takes_follows_the_method_s_own_seed(golden):
    method = DampenRandom(alpha=1.5, order="request", batch_size=8)
    made = [
        method(copy.deepcopy(golden.model), golden.data, replace(golden.context(), seed_unlearn=seed)).state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(t, made[1][name]) for name, t in made[0].items())
    assert any(not torch.equal(t, made[2][name]) for name, t in made[0].items())
