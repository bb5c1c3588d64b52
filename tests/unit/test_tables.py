"""Tables from rows alone: whose column it is, which rows are compared, what marks and verdicts say."""

import csv
import io
import json
from dataclasses import asdict

import pytest
from made_rows import NAMES, row, summary_of

from ssd_bench.cli import report
from ssd_bench.core.about import About
from ssd_bench.metrics.against import average_gap
from ssd_bench.report.derive import derived_metrics
from ssd_bench.report.requests import curves
from ssd_bench.report.rows import cost_s, current, references, rows_beside, to_frame
from ssd_bench.report.sheet import sheets
from ssd_bench.report.statistics import LEVEL, State, difference_p
from ssd_bench.report.summary import FLOOR, summarise
from ssd_bench.report.table import latex
from ssd_bench.report.verdict import verdict
from ssd_bench.store.rows import TRIED_HERE


def line_of(sheet, label):
    return {heading: cell.text for heading, cell in zip(sheet.headings, dict(sheet.lines)[label], strict=True)}


MINE = {
    "sureness": asdict(About("bits", "retrained", "", ("forget",), 200, "surely", 1, "main")),
    "spread": asdict(About(heading="spread of it")),
}


def own(method, seed, level, sureness, touched=None):
    metrics = {"sureness": sureness, "spread": 1.0, "sureness_low": sureness - 1, "sureness_high": sureness + 1}
    metrics |= {"undescribed": 2.0}
    columns = {"touched": asdict(About("percent", "0", heading="touched %", decimals=1, table="second"))}
    more = {"columns": columns, "details": {"touched": touched, "log": "text"}} if touched is not None else {}
    return row(method, seed, level, metrics=metrics, about=MINE, **more)


def test_an_own_metric_and_the_columns_of_an_own_method_are_like_the_packages():
    rows = [own("retrain", 0, 50, 4.0), own("mine", 0, 52, 4.5, touched=7.0), own("other", 0, 60, 9.0, touched=9.0)]
    summary = summary_of(rows)
    main, second = sheets(summary)
    assert main.headings.index("MIA %") < main.headings.index("surely") < main.headings.index("time s")
    assert line_of(main, "mine")["surely"] == "4.5 [3.5, 5.5] °"  # decimals, interval, least samples
    assert summary.ranks("sureness") == {"mine": 1, "other": 2}
    assert second.headings[:3] == ["spread of it", "undescribed", "touched %"]
    assert line_of(second, "mine")["touched %"] == "7.0"
    assert line_of(second, "mine")["spread of it"] == "1.000"
    assert line_of(second, "retrain")["touched %"] == "-"
    assert summary.ranks("touched") == {"mine": 1, "other": 2}
    assert summary.ranks("undescribed") == {}  # no value of it is better than another
    assert derived_metrics(rows)[rows[1]["path"]]["delta.sureness"] == 0.5
    assert "delta.undescribed" not in derived_metrics(rows)[rows[1]["path"]]


def test_an_own_metric_is_told_apart_or_not_as_the_packages():
    rows = [own("retrain", seed, 50 + seed, 4.0 + seed) for seed in range(6)]
    rows += [own("near", seed, 50 + seed, 4.0 + seed) for seed in range(6)]
    rows += [own("far", seed, 50 + seed, 40.0 + 2 * seed) for seed in range(6)]
    summary = summary_of(rows)
    states = summary.states(["sureness"])
    assert states == {("near", "sureness"): State.EQUAL, ("far", "sureness"): State.APART}
    main = sheets(summary)[0]
    assert line_of(main, "near")["surely"].endswith("=")
    assert not line_of(main, "far")["surely"].endswith(("=", "≈"))
    assert any(note.startswith("=: equal within the floor") for note in main.notes)


def test_the_csv_holds_what_metrics_methods_and_caches_tell(tmp_path, capfd):
    rows = [own("retrain", 0, 50, 4.0), own("mine", 0, 52, 4.5, touched=7.0)]
    rows[1]["times"] = {"online_s": 1.5, "shared_s": {"hessian": 2.0, "trained": 0.25}}
    for i, each in enumerate(rows):
        path = tmp_path / "runs" / str(i) / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(each))
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "runs"), "--format", "csv"])
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(capfd.readouterr().out))}
    assert len(lines) == 2
    mine = lines["mine"]
    assert (mine["touched"], mine["sureness"], mine["delta.sureness"]) == ("7.0", "4.5", "0.5")
    assert (mine["shared_s.hessian"], mine["shared_s.trained"], mine["cost_s"]) == ("2.0", "0.25", "3.75")
    assert (mine["n_train"], mine["n_forget"]) == ("500", "50")
    assert lines["retrain"]["touched"] == ""


def test_all_that_is_shared_counts_and_what_is_not_known_does_not_pass_for_nothing():
    assert cost_s(row("a", 0, 1, times={"online_s": 1.0, "shared_s": {"x": 2.0, "y": 0.5}})) == 3.5
    old = row("a", 0, 1)
    del old["times"]["shared_s"]
    assert cost_s(old) is None


def test_one_retrained_model_serves_every_draw_of_a_method():
    rows = [row("retrain", 0, 50), *(row("mine", 0, 50 + d, seed_unlearn=d) for d in (0, 2, 4))]
    summary = summary_of(rows)
    line = summary.line("mine")
    assert line.mean("retain_acc") == 52
    assert line.differences("retain_acc") == {0: [0, 2, 4]}
    assert line.mean("average_gap") == line.mean("retain_acc") - 50  # over the same runs
    assert summary.distance(line, "mia") == 2


def test_draws_on_both_sides_of_the_retrained_model_do_not_cancel_in_the_distance():
    rows = [row("retrain", 0, 50), row("mine", 0, 46, seed_unlearn=0), row("mine", 0, 54, seed_unlearn=1)]
    summary = summary_of([*rows, row("other", 0, 51)])
    assert summary.line("mine").mean("retain_acc") == 50
    assert summary.distance(summary.line("mine"), "retain_acc") == 4
    assert summary.ranks("retain_acc") == {"other": 1, "mine": 2}


def test_each_forget_set_has_its_own_retrained_model():
    def drawn(method, which, level):
        task = {"target": None, "seed_forget": which, "forget_sha256": f"set {which}", "reference": f"of {which}"}
        return row(method, 0, level, task=task)

    rows = [drawn("retrain", 0, 50), drawn("retrain", 1, 70), drawn("mine", 0, 51), drawn("mine", 1, 71)]
    summary = summary_of(rows)
    assert summary.line("mine").differences("retain_acc") == {0: [1, 1]}
    assert summary.line("mine").mean("average_gap") == 1
    alone = summary_of([row for row in rows if row is not rows[1]])
    assert alone.line("mine").differences("retain_acc") == {0: [1]}
    assert any("1 run has no retrained model of the same data and seed" in n for n in sheets(alone)[0].notes)


def test_the_reference_that_is_shown_is_the_one_that_is_used():
    rows = [row("retrain", 0, 50), row("mine", 0, 52)]
    old = row("retrain", 0, 10, env={"finished": "2020-01-01"}) | {"path": "old"}
    for every in ([old, *rows], [*rows, old]):
        values = derived_metrics(every)
        [summary] = summarise(every, values)
        assert summary.retrained.mean("retain_acc") == 50
        assert values[rows[1]["path"]]["average_gap"] == summary.line("mine").mean("average_gap") == 2
        assert summary.outdated == 1


def test_a_later_retrained_model_of_another_machine_leaves_the_others_theirs():
    rows = [row(method, seed, 50 + 2 * (method == "mine")) for seed in (0, 1) for method in ("retrain", "mine")]
    elsewhere = {"reference": "two threads", "original": "two threads"}
    later = row("retrain", 0, 70, task=elsewhere, env={"finished": "2026-02-02"})
    summary = summary_of([*rows, later])
    assert summary.line("mine").values["average_gap"] == {0: 2, 1: 2}
    assert references([*rows, later])[rows[1]["path"]] is rows[0]
    assert summary.retrained.values["retain_acc"] == {0: 70, 1: 50}
    kept = {each["path"] for each in current([*rows, later])}
    assert kept == {each["path"] for each in [*rows, later]}  # one replaced, and still compared with


def test_rows_that_newer_ones_replaced_are_in_no_csv():
    rows = [row("retrain", 0, 50), row("mine", 0, 52), row("mine", 1, 52)]
    old = row("mine", 0, 90, env={"finished": "2020-01-01"}) | {"path": "old"}
    assert current([old, *rows]) == rows


def test_a_changed_source_tree_shows_in_the_csv():
    rows = [row("retrain", 0, 50), row("mine", 0, 52, env={"git_dirty": True})]
    assert list(to_frame(rows, {})["git"]) == ["g", "g+"]


def test_a_compiled_run_shows_in_the_csv():
    frame = to_frame([row("retrain", 0, 50), row("mine", 0, 52, config={"compile": True})], {})
    assert frame["compile"].fillna(False).tolist() == [False, True]
    assert "compile" not in to_frame([row("retrain", 0, 50)], {})


def test_a_method_that_diverged_for_some_seeds_is_not_the_nearest():
    rows = [row("retrain", seed, 50) for seed in range(3)] + [row("steady", seed, 52) for seed in range(3)]
    lucky = [row("lucky", 0, 50.1), *(row("lucky", seed, 0, status="diverged") for seed in (1, 2))]
    summary = summary_of([*rows, *(row("other", seed, 60) for seed in range(3)), *lucky])
    said = verdict(summary)
    assert said.startswith("Nearest to the retrained model: steady, 2.0 points away")
    assert "Not ranked: lucky diverged for seed 1, 2." in said
    assert "as near as that: no method" in said
    assert summary.ranks("retain_acc") == {"steady": 1, "other": 2}
    alone = verdict(summary_of([row("retrain", 0, 50), *lucky]))
    assert alone.startswith("No method beside the retrained model ended for every seed. Not ranked: lucky diverged")


REQUESTS = {"metrics_by_request": [{"metrics": dict.fromkeys(NAMES, 60.0)}, {"metrics": dict.fromkeys(NAMES, 70.0)}]}


@pytest.mark.parametrize("status", ["diverged", "skipped"])
def test_a_method_that_did_not_end_in_a_sequence_leaves_its_tables_whole(status):
    rows = [row("retrain", 0, 50) | REQUESTS, row("mine", 0, 52) | REQUESTS, row("lost", 0, 0, status=status)]
    summary = summary_of(rows)
    assert summary.line("mine").values["gap_after_2"] == {0: 0}
    assert summary.line("lost").ended == {status: [0]}


def test_the_original_has_no_curve_of_another_method():
    rows = [row("retrain", 0, 50) | REQUESTS, row("mine", 0, 52) | REQUESTS]
    assert "gap_after_1" not in summary_of(rows).line("original").values
    measured = row("original", 0, 80) | {"metrics_by_request": [{"metrics": dict.fromkeys(NAMES, 80.0)}] * 2}
    assert summary_of([*rows, measured]).line("original").values["gap_after_1"] == {0: 20}


def test_a_reset_head_is_the_reference_only_where_nothing_was_trained_from_scratch():
    reset = [row("retrain", seed, 20, settings={"mode": "head_reset"}) for seed in (0, 1)]
    scratch, mine = row("retrain", 0, 50, settings={"mode": "from_scratch"}), row("mine", 1, 52)
    assert references([*reset, mine])[mine["path"]] is reset[1]
    assert mine["path"] not in references([*reset, scratch, mine])  # of another seed, and not the line that is shown
    assert references([*reset, scratch, mine])[reset[0]["path"]] is scratch
    summary = summary_of([*reset, scratch, mine])
    assert summary.retrained.label == "retrain mode=from_scratch"


def test_the_gap_has_a_floor_from_two_seeds_on():
    levels = {0: 50, 1: 53, 2: 59}
    rows = [row("retrain", seed, level) for seed, level in levels.items()] + [row("mine", 0, 58)]
    summary = summary_of(rows)
    floor = summary.line(FLOOR)
    assert floor.values["average_gap"] == {0: (3 + 9) / 2, 1: (3 + 6) / 2, 2: (9 + 6) / 2}
    assert average_gap(rows[0]["metrics"], rows[1]["metrics"], "full_class") == 3
    assert summary.margin("mia") == (3 + 9 + 6) / 3
    main = sheets(summary)[0]
    assert dict(main.lines)[FLOOR][0].text == ""  # accuracies are blank
    assert line_of(main, FLOOR)["gap"] == "6.00 ± 1.50"
    one = sheets(summary_of(rows[:1] + rows[-1:]))[0]
    assert FLOOR not in dict(one.lines)
    assert any("it takes method=retrain of a second training seed" in note for note in one.notes)


def test_the_floor_compares_models_that_forgot_the_same_images_where_it_can():
    def drawn(seed, which, level):
        task = {"target": None, "seed_forget": which, "forget_sha256": f"set {which}", "reference": f"{seed} {which}"}
        return row("retrain", seed, level, task=task)

    rows = [drawn(0, 0, 50), drawn(1, 0, 53), drawn(0, 1, 90), drawn(1, 1, 92)]
    assert [each["floor.average_gap"] for each in derived_metrics(rows).values()] == [3, 3, 2, 2]
    apart = [drawn(0, 0, 50), drawn(1, 1, 53)]
    assert [each["floor.average_gap"] for each in derived_metrics(apart).values()] == [3, 3]
    assert any("each without a D_f of its own" in note for note in sheets(summary_of(apart))[0].notes)


def test_few_seeds_are_never_equal_and_the_note_says_so():
    rows = [row(method, seed, 50 + seed) for seed in range(3) for method in ("retrain", "mine")]
    main = sheets(summary_of(rows))[0]
    assert line_of(main, "mine")["MIA %"].endswith("≈")
    [note] = [note for note in main.notes if note.startswith("≈")]
    assert "not told apart" in note
    assert "Holm" in note
    assert "5 seeds" in note
    assert "This does not mean equal." in note


def test_only_columns_of_the_table_are_named_with_their_ideals():
    rows = [own("retrain", 0, 50, 4.0), own("mine", 0, 52, 4.5, touched=7.0), own("other", 0, 60, 9.0, touched=9.0)]
    main, second = sheets(summary_of(rows))
    assert any("names no other (time s, gap: 0)." in note for note in main.notes)
    assert any("names no other (touched %: 0; ToW: 1)." in note for note in second.notes)


def test_what_a_repeat_may_not_give_again_is_named():
    rows = [row("retrain", 0, 50), row("loose", 0, 50, env={"deterministic": False}), row("firm", 0, 50)]
    [note] = [note for note in sheets(summary_of(rows))[0].notes if note.startswith("Not deterministic")]
    assert note.endswith(": loose.")


def test_times_beside_other_jobs_are_marked():
    rows = [row("alone", 0, 50), row("beside", 0, 50, env={"parallel": True}), row("retrain", 0, 50)]
    main = sheets(summary_of(rows))[0]
    assert line_of(main, "alone")["time s"] == "1.00"
    assert line_of(main, "beside")["time s"] == "1.00 ‖"
    assert line_of(main, "beside")["MIA %"] == "50.00"
    assert any(note.startswith("‖: timed") for note in main.notes)
    assert r"$\parallel$" in latex([summary_of(rows)])


def test_where_no_method_beats_doing_nothing_the_verdict_names_none():
    rows = [row("retrain", 0, 77.8), row("fisher", 0, 79.99), row("worse", 0, 90)]  # the original: 80
    said = verdict(summary_of(rows))
    assert said.startswith("No method ends nearer to the retrained model than the original")
    assert "fisher" not in said
    assert "worse" not in said
    assert "One training seed: nothing can be said" in said


def test_the_verdict_compares_with_the_original_the_next_and_the_floor():
    rows = [row("retrain", seed, 50 + 2 * (seed % 2)) for seed in range(5)]
    rows += [row("near", seed, 51 + 2 * (seed % 2)) for seed in range(5)]
    rows += [row("next", seed, 60 + seed) for seed in range(5)]
    said = verdict(summary_of(rows))
    assert said.startswith("Nearest to the retrained model: near, 1.0 points away on average (the original: 29.2)")
    assert "5 training seeds show that it is nearer than the original and than the next, next (11.2 points)" in said
    assert "Retrained models of different seeds are 1.2 points apart; as near as that: near." in said
    wide = [row("retrain", seed, 50 + 30 * seed) for seed in range(3)]
    said = verdict(summary_of([*wide, *(row("near", seed, 50 + 29 * seed) for seed in range(3))]))
    assert "cannot tell forgetting from doing nothing" in said


def test_the_first_of_many_is_held_to_a_stricter_test():
    rows = [row("retrain", seed, 50) for seed in range(3)] + [row("a", seed, 62 + 7 * seed) for seed in range(3)]
    assert "show that it is nearer than the original" in verdict(summary_of(rows))  # at 95 %: 2.6 to 37.4 points nearer
    rows += [row(name, seed, 110) for name in "bcdefg" for seed in range(3)]
    assert "do not show that it is nearer than the original" in verdict(summary_of(rows))


def test_an_attack_near_chance_is_said_to_be_uninformative():
    rows = [row("retrain", 0, 50), row("mine", 0, 52)]
    assert "uninformative" not in verdict(summary_of(rows))
    for each in rows:
        each["original_metrics"]["mia_auc"] = 0.53
    assert "The attack's AUC on the original is 0.53, close to chance (0.5): MIA is uninformative here." in verdict(
        summary_of(rows)
    )


def test_a_row_without_draws_stands_beside_every_draw(tmp_path):
    rows = [row("ssd", 0, 50), row("mine", 0, 51, seed_unlearn=0), row("mine", 0, 52, seed_unlearn=1)]
    for i, each in enumerate(rows):
        path = tmp_path / "task" / str(i) / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(each))
    beside = [[each["path"] for each in rows_beside(tmp_path / "task" / str(i) / "metrics.json")] for i in range(3)]
    assert beside == [
        [f"{i}/metrics.json" for i in (0, 1, 2)],
        [f"{i}/metrics.json" for i in (0, 1)],
        [f"{i}/metrics.json" for i in (0, 2)],
    ]


@pytest.mark.parametrize(("field", "value"), [("ideal", "highest"), ("table", "first")])
def test_what_a_metric_says_of_itself_is_checked(field, value):
    with pytest.raises(ValueError, match=value):
        About(**{field: value})


TWENTY, FORTY = ({"study": f"study of {n}", "budget": f"{n} trials"} for n in (20, 40))


def first_line(*methods):
    """Under a table of these methods, each with the study that found its settings."""
    rows = [row("retrain", 0, 50), *(row(name, 0, 50 + i, tuned=tuned) for i, (name, tuned) in enumerate(methods))]
    summary = summary_of(rows)
    return sheets(summary)[0].notes[0], verdict(summary)


def test_who_was_tuned_stands_in_the_first_line_and_the_unlike_are_no_ranking():
    assert first_line(("a", None), ("b", None))[0].startswith("No method was tuned: settings are published ones, or")
    said, concluded = first_line(("a", TWENTY), ("b", TWENTY))
    assert said == (
        "Every method was tuned alike (20 trials each, on other requests and seeds and without the test images)."
    )
    here = TWENTY | {"budget": f"20 trials, {TRIED_HERE}"}
    assert "on other requests" not in first_line(("a", here), ("b", here))[0]
    assert "no ranking" not in concluded
    said, concluded = first_line(("a", TWENTY), ("b", None))
    assert said == "No ranking, for methods were not tuned alike: tuned (20 trials): a; not tuned: b."
    assert concluded.startswith("Methods were not tuned alike, so that this is no ranking of them.")
    rows = [
        row("retrain", 0, 50),
        row("a", 0, 50, tuned=TWENTY),
        row("b", 0, 50) | {"status": "diverged", "reason": "nan"},
    ]
    assert sheets(summary_of(rows))[0].notes[0].endswith("tuned (20 trials): a; not tuned: b.")  # it is in the table
    said, concluded = first_line(("a", TWENTY), ("b", FORTY))
    assert said.startswith("No ranking, for methods were not tuned alike: tuned (20 trials): a; tuned (40 trials): b")
    assert "no ranking" in concluded


def test_a_method_whose_study_found_the_published_settings_was_tuned():
    published = {"lr": 1.0, "epochs": 2}
    rows = [row("retrain", 0, 50), row("b", 0, 52, settings=published, tuned=TWENTY)]
    rows += [row("a", 0, 51, settings=published, tuned=TWENTY), row("a", 0, 51, settings=published)]
    summary = summary_of(rows)
    assert {line.label: line.budget for line in summary.methods} == {
        "a (tuned)": "20 trials", "a (untuned)": None, "b": "20 trials",
    }  # fmt: skip
    assert summary.outdated == 0
    rows.append(row("a", 0, 53, settings=published | {"lr": 3.0}))
    assert {line.label for line in summary_of(rows).methods} == {
        "a lr=1.0 (tuned)", "a lr=1.0 (untuned)", "a lr=3.0 (untuned)", "b",
    }  # fmt: skip


def test_the_tuned_and_the_untuned_line_of_a_method_are_told_apart_in_words():
    rows = [row("retrain", 0, 50)]
    rows += [
        row("a", 0, 51, settings={"lr": 1.0, "epochs": 2}),
        row("a", 0, 52, settings={"lr": 2.0, "epochs": 3}, tuned=TWENTY),
    ]
    assert {line.label for line in summary_of(rows).methods} == {"a (tuned)", "a (untuned)"}
    rows.append(row("a", 0, 53, settings={"lr": 3.0, "epochs": 2}))
    assert {line.label for line in summary_of(rows).methods} == {
        f"a epochs={e} lr={r}" for e, r in ((2, 1.0), (3, 2.0), (2, 3.0))
    }


def test_a_setting_that_came_later_makes_a_line_of_its_own():
    rows = [row("retrain", seed, 50) for seed in (0, 1)]
    rows += [row("mine", seed, 50, settings={"lr": 0.1}) for seed in (0, 1)]
    rows += [row("mine", seed, 69, settings={"lr": 0.1, "epochs": 3}) for seed in (0, 1)]
    summary = summary_of(rows)
    assert summary.line("mine epochs=3").mean("retain_acc") == 69
    assert summary.line("mine epochs=None").mean("retain_acc") == 50


def test_a_method_that_was_run_for_fewer_seeds_is_not_compared_with_the_others():
    rows = [row("retrain", seed, 50) for seed in range(5)]
    rows += [row("ssd", seed, 50.1 if seed < 2 else 58) for seed in range(5)]
    rows += [row("lucky", seed, 51) for seed in (0, 1)]
    summary = summary_of([*rows, *(row("far", seed, 70) for seed in range(5))])
    said = verdict(summary)
    assert said.startswith("Nearest to the retrained model: ssd")
    assert "Not ranked: lucky has no gap for seed 2, 3, 4." in said
    assert summary.ranks("retain_acc") == {"ssd": 1, "far": 2}
    two = [row("retrain", seed, 50) for seed in (0, 1)] + [row("a", 0, 51), row("b", 1, 59)]
    said = verdict(summary_of(two))
    assert said.startswith("No method beside the retrained model ended for every seed.")
    assert "Not ranked: a has no gap for seed 1; b has no gap for seed 0." in said


def test_one_method_with_a_seed_more_leaves_the_others_in():
    rows = [row("retrain", seed, 50) for seed in range(4)] + [row("ssd", seed, 70) for seed in range(4)]
    rows += [row(name, seed, 51 + far) for far, name in enumerate("abc") for seed in range(3)]
    for every in (rows, [each for each in rows if (each["method"], each["task"]["seed"]) != ("retrain", 3)]):
        summary = summary_of(every)
        assert verdict(summary).startswith("Nearest to the retrained model: a, 1.0 points away")
        assert summary.ranks("retain_acc") == {"a": 1, "b": 2}


def widths(method, level, width, **more):
    return row(method, 0, level, config={"model": {"width": width}}, **more)


def test_the_placebo_under_a_table_is_of_the_same_network():
    placebo = {"placebo": True, "target": "8", "forget_sha256": "p"}
    rows = [widths(method, level, width) for width in (16, 64) for method, level in (("retrain", 50), ("ssd", 52))]
    rows += [widths(method, level, 64, task=placebo) for method, level in (("retrain", 50), ("ssd", 95))]
    found = {each.rows[0]["config"]["model"]["width"]: each for each in summarise(rows, {}) if not each.task["placebo"]}
    assert found[16].placebo is None
    assert found[64].placebo.task["placebo"]


@pytest.mark.parametrize("drawn", [False, True])
def test_nothing_is_equal_on_images_that_each_seed_draws_for_itself(drawn):
    """Retrained models that forget other images differ on them for that alone, which a paired difference does not."""
    rows = []
    for seed in range(6):
        for method, off in (("retrain", 0.0), ("ssd", 0.1 + seed / 100)):
            metrics = {"forget_train_acc": 60 + 5 * seed + off, "retain_acc": 70 + seed + off}
            task = {"scenario": "random", "target": None, "forget_sha256": f"{seed if drawn else 0}"}
            rows.append(row(method, seed, 50, task=task, metrics=metrics))
    summary = summary_of(rows)
    assert summary.draws == drawn
    said = summary.states(["forget_train_acc", "retain_acc"])
    assert said["ssd", "forget_train_acc"] == (State.APART if drawn else State.EQUAL)
    assert said["ssd", "retain_acc"] == State.EQUAL


def test_columns_that_are_one_are_one_hypothesis():
    """Of random images D'_r is D' and D'_f is D_f: Holm's rule is not made stricter by telling a number twice."""
    rows = []
    for seed, off in enumerate((3.0, 4.4, 6.3)):
        rows.append(row("retrain", seed, 50))
        rows.append(row("ssd", seed, 50, metrics={"retain_acc": 50 + off, "test_acc": 50 + off}))
    said = summary_of(rows).states(["retain_acc", "test_acc"])
    assert said["ssd", "retain_acc"] == said["ssd", "test_acc"] == State.APART
    assert LEVEL / 2 < difference_p([3.0, 4.4, 6.3]) < LEVEL


def test_what_a_sequence_is_held_against_is_no_placebo():
    def request(level, method, **task):
        return row(method, 0, level, config={"scenario": {"of": "full_class"}}, task=task)

    rows = []
    for method, add in (("retrain", 0), ("ssd", 2)):
        rows.append(request(50 + add, method, target="8+3"))
        rows.append(request(90 + add, method, target="8+3", placebo=True, forget_sha256="p"))
        rows.append(request(50 + add, method, scenario="sequence", target="8>3", requests=2))
    [sequence] = [each for each in summarise(rows, derived_metrics(rows)) if each.task.get("requests")]
    assert sequence.joint.line("ssd").mean("retain_acc") == 52


def test_the_one_request_beside_a_sequence_is_of_the_same_network():
    def of(width, level, **task):
        config = {"model": {"width": width}, "scenario": {"of": "full_class"}}
        return [row(method, 0, level, config=config, task=task) for method in ("retrain", "ssd")]

    sequence = of(16, 50, scenario="sequence", target="8>3", requests=2)
    for width, found in ((64, False), (16, True)):
        rows = sequence + of(width, 52, target="8+3")
        [told] = [each for each in summarise(rows, {}) if each.task.get("requests")]
        assert (told.joint is not None) == found


def test_curves_of_a_sequence_weigh_training_seeds_alike():
    def steps(level):
        return {"metrics_by_request": [{"metrics": dict.fromkeys((*NAMES, "kept_acc"), float(level))}]}

    rows = [row("retrain", seed, 50, task={"requests": 1}) | steps(50) for seed in (0, 1)]
    rows += [row("mine", 0, 10, seed_unlearn=draw, task={"requests": 1}) | steps(10) for draw in range(3)]
    rows += [row("mine", 1, 50, seed_unlearn=0, task={"requests": 1}) | steps(50)]
    mine = {curve.line.label: curve for curve in curves(summary_of(rows))["kept_acc"]}["mine"]
    assert mine.means == [30]
    assert mine.spreads == [pytest.approx(28.28, abs=0.01)]
