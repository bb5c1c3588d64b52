"""Tables from rows alone: whose column it is, which rows are compared, what marks and verdicts say."""

import csv
import io
import json
from dataclasses import asdict

import pytest

from ssd_bench.cli import report
from ssd_bench.core.about import About
from ssd_bench.metrics.accuracy import Accuracy
from ssd_bench.metrics.against import average_gap
from ssd_bench.report.derive import derived_metrics
from ssd_bench.report.figures import shown, style
from ssd_bench.report.pictures import pictures
from ssd_bench.report.rows import cost_s, references, rows_beside
from ssd_bench.report.sheet import sheets
from ssd_bench.report.statistics import State
from ssd_bench.report.summary import FLOOR, summarise
from ssd_bench.report.table import latex
from ssd_bench.report.verdict import verdict

ABOUT = {name: asdict(about) for name, about in Accuracy.about.items()}
ABOUT |= {"mia": asdict(About("percent", "retrained", "", ("forget_train",), 20, "MIA %", 2, "main"))}
NAMES = ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc", "mia")


def row(method, seed, level, seed_unlearn=None, **more):
    """A finished run whose accuracies are all `level`; `more` replaces what it holds, section by section."""
    task = {
        "data": "toy", "model": "net", "scenario": "full_class", "target": "8", "target_index": 8, "placebo": False,
        "n_train": 500, "n_forget": 50, "n_test": 100, "seed": seed, "seed_unlearn": seed_unlearn, "seed_forget": None,
        "fidelity": "corrected", "forget_sha256": "f", "data_sha256": "d", "recipe": "r", "evaluation": "e",
        "original": f"original {seed}", "reference": f"reference {seed}",
    }  # fmt: skip
    metrics = {name: float(level) for name in NAMES}
    made = {
        "schema": 1, "layout": 2, "status": "done", "reason": None, "task": task, "method": method, "settings": {},
        "config": {"train": {}, "precision": "float32", "method": {"_target_": "nowhere.Method"}},
        "metrics": metrics, "original_metrics": dict.fromkeys(NAMES, 80.0) | {"mia_auc": 0.7},
        "about": ABOUT, "columns": {}, "details": {}, "artefacts": {}, "memory": None, "classes": ["7", "8"],
        "samples": dict.fromkeys(("retain", "forget", "test", "retain_train", "forget_train"), 100),
        "times": {"method_s": 1.0, "online_s": 1.0, "shared_s": {}},
        "env": {"device": "cpu (x)", "finished": "2026-01-01", "threads": 1, "torch": "2", "git": "g", "started": ""},
        "path": f"{method}-{seed}-{seed_unlearn}-{json.dumps(more, default=str, sort_keys=True)}",
    }  # fmt: skip
    return made | {key: made[key] | value if isinstance(value, dict) else value for key, value in more.items()}


def summary_of(rows):
    [summary] = summarise(rows, derived_metrics(rows))
    return summary


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


def test_few_seeds_are_never_equal_and_the_note_says_so():
    rows = [row(method, seed, 50 + seed) for seed in range(3) for method in ("retrain", "mine")]
    main = sheets(summary_of(rows))[0]
    assert line_of(main, "mine")["MIA %"].endswith("≈")
    [note] = [note for note in main.notes if note.startswith("≈")]
    assert "not told apart" in note
    assert "Holm" in note
    assert "5 seeds" in note
    assert "This does not mean equal." in note


def test_times_beside_other_jobs_are_marked():
    rows = [row("alone", 0, 50), row("beside", 0, 50, env={"parallel": True}), row("retrain", 0, 50)]
    main = sheets(summary_of(rows))[0]
    assert line_of(main, "alone")["time s"] == "1.00"
    assert line_of(main, "beside")["time s"] == "1.00 ‖"
    assert line_of(main, "beside")["MIA %"] == "50.00"
    assert any(note.startswith("‖: timed") for note in main.notes)
    assert r"$\parallel$" in latex([summary_of(rows)])


def test_where_no_method_beats_doing_nothing_the_verdict_names_none():
    rows = [row("retrain", 0, 77.8), row("fisher", 0, 80.01), row("worse", 0, 90)]  # the original: 80
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


def test_an_attack_near_chance_is_said_to_be_uninformative():
    rows = [row("retrain", 0, 50), row("mine", 0, 52)]
    assert "uninformative" not in verdict(summary_of(rows))
    for each in rows:
        each["original_metrics"]["mia_auc"] = 0.53
    assert "The attack's AUC on the original is 0.53, close to chance (0.5): MIA is uninformative here." in verdict(
        summary_of(rows)
    )


def test_any_numeric_setting_with_three_values_is_a_sweep(tmp_path, caplog):
    rows = [row("retrain", 0, 50)]
    columns = {"touched": asdict(About("percent", heading="touched %"))}
    for alpha in (0, 1.0, 100):
        for kind in ("a", "b"):
            settings = {"alpha": alpha, "kind": kind, "fast": True}
            rows.append(row("lfssd", 0, 50 + alpha / 10, settings=settings))
            rows.append(row("mine", 0, 50, settings=settings, columns=columns, details={"touched": 2 * alpha}))
    drawn = dict(pictures(summary_of(rows), tmp_path))
    assert {name for name in drawn if "sweep" in name} == {"lfssd-sweep_alpha", "mine-sweep_alpha"}
    plain, own = drawn["lfssd-sweep_alpha"], drawn["mine-sweep_alpha"]
    assert [axes.get_ylabel() for axes in plain.axes] == ["retain D'_r %", "forget D'_f %"]
    assert [axes.get_ylabel() for axes in own.axes][2:] == ["touched %", "retain D'_r %"]
    assert own.axes[0].get_legend_handles_labels()[1][:2] == ["kind=a", "kind=b"]
    assert "lfssd: its own pictures are left out" in caplog.text  # its class is nowhere


def test_a_method_brings_its_own_pictures(tmp_path, monkeypatch):
    code = """
def figure():
    from matplotlib.figure import Figure
    return Figure()

class Mine:
    @staticmethod
    def pictures(rows, read):
        assert read(rows[0], "original") is None
        return {f"layers of {len(rows)}": figure()}
"""
    (tmp_path / "brings_pictures.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    target = {"method": {"_target_": "brings_pictures.Mine"}}
    rows = [row("retrain", 0, 50), *(row("mine", seed, 50, config=target) for seed in (0, 1))]
    assert "mine-layers of 2" in dict(pictures(summary_of(rows), tmp_path))


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


def test_the_floor_is_between_models_that_forgot_the_same_images_where_there_are_any():
    def drawn(seed, which, level):
        task = {"target": None, "seed_forget": which, "forget_sha256": which, "reference": f"{seed} {which}"}
        return row("retrain", seed, level, task=task)

    one, other, same = drawn(0, "a", 50), drawn(1, "b", 60), drawn(1, "a", 53)
    assert derived_metrics([one, other])[one["path"]]["floor.average_gap"] == 10
    assert derived_metrics([one, other, same])[one["path"]]["floor.average_gap"] == 3


def test_more_methods_than_colours_can_still_be_told_apart():
    summary = summary_of([row("retrain", 0, 50), *(row(f"m{i:02}", 0, 50 + i) for i in range(12))])
    looks = [style(summary, line) for line in shown(summary)]
    assert len(set(looks)) == 14
