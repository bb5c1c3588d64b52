"""Rows to tables: what is derived, what is left out, and the command that writes them."""

import copy
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import pytest
import torch
from conftest import SHORT
from hypothesis import example, given
from hypothesis import strategies as st
from made_rows import NAMES
from made_rows import row as made_row
from rich.console import Console

from ssd_bench.cli import report
from ssd_bench.metrics.against import accuracy_gap, average_gap, tow, weights_against
from ssd_bench.report.derive import derived, derived_metrics
from ssd_bench.report.pictures import _stems
from ssd_bench.report.sheet import Cell, Sheet, sheets
from ssd_bench.report.summary import FLOOR, summarise
from ssd_bench.report.table import _for_terminal, in_parts
from ssd_bench.store.rows import read_rows


@pytest.fixture
def say(capfd):
    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            report.main(list(map(str, arguments)))
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    return run


def only(things):
    assert len(things) == 1
    return things[0]


@pytest.fixture
def swept(command, kept):
    sweep = ("-m", *SHORT, "method=original,retrain,ssd", "seed=0,1")

    def make(out):
        assert command(*sweep, f"out={out}").code == 0

    return kept(make)


def test_average_gap_by_hand():
    ours = {"forget_train_acc": 10.0, "retain_train_acc": 90.0, "retain_acc": 80.0, "test_acc": 70.0, "mia": 5.0}
    theirs = {"forget_train_acc": 0.0, "retain_train_acc": 94.0, "retain_acc": 82.0, "test_acc": 78.0, "mia": 9.0}
    assert average_gap(ours, theirs, "full_class") == (10 + 4 + 2 + 4) / 4
    assert average_gap(ours, theirs, "random") == (10 + 4 + 8 + 4) / 4
    assert average_gap(ours | {"mia": None}, theirs, "random") is None
    assert accuracy_gap(ours | {"mia": None}, theirs, "full_class") == (10 + 4 + 2) / 3
    assert accuracy_gap(ours, theirs, "random") == (10 + 4 + 8) / 3
    assert accuracy_gap(ours | {"retain_acc": None}, theirs, "full_class") is None


def test_only_some_methods_are_shown_and_ranked_among_all(tmp_path, say):
    gone = made_row("jit", 0, 60, status="diverged", reason="nan", metrics=dict.fromkeys(NAMES))
    for made in (
        *(made_row("retrain", s, 50 + s) for s in (0, 1)),
        *(made_row(m, 0, 60) for m in ("ssd", "delete")),
        gone,
    ):
        path = tmp_path / "runs" / made["method"] / str(made["task"]["seed"]) / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(made))
    whole = pd.read_csv(io.StringIO(say(tmp_path, "--format", "csv")[1]))
    code, out, _ = say(tmp_path, "--format", "csv", "--only", "method=ssd", "--only", "data=toy")
    some = pd.read_csv(io.StringIO(out))
    assert (code, sorted(some.method)) == (0, ["retrain", "retrain", "ssd"])
    both = [frame.query("method == 'ssd'").iloc[0] for frame in (some, whole)]
    assert both[0].average_gap == both[1].average_gap
    assert both[0]["floor.average_gap"] == both[1]["floor.average_gap"]
    code, out, _ = say(tmp_path, "--format", "markdown", "--only", "method=ssd")
    all_lines = say(tmp_path, "--format", "markdown")[1].splitlines()
    assert "- Not shown, but ranked and compared with the others: delete, jit." in out
    assert [line for line in out.splitlines() if line.startswith("| ssd")] == [
        line for line in all_lines if line.startswith("| ssd")
    ]
    assert not [line for line in out.splitlines() if line.startswith(("| delete", "| jit"))]
    assert say(tmp_path, "--only", "method=jit")[0] == 0


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (["methods=ssd"], "--only=methods does not exist; did you mean 'method'?"),
        (["method=sdd"], "--only: method=sdd does not exist; did you mean 'ssd'? allowed: original, retrain, ssd"),
        (["target=7"], "--only: target=7 does not exist; allowed: 8"),
        (["method=ssd", "--format", "html"], "--only=method is for tables and csv"),
    ],
)
def test_rows_that_are_not_there(swept, say, asked, line):
    code, out, err = say(swept, "--only", *asked)
    assert (code, out) == (2, "")
    assert line in err


def test_what_is_asked_for_and_meets_nowhere_is_said(tmp_path, say):
    for data, method in (("one", "ssd"), ("two", "jit")):
        path = tmp_path / data / method / "0" / "metrics.json"
        path.parent.mkdir(parents=True)
        made = made_row(method, 0, 60)
        path.write_text(json.dumps(made | {"task": made["task"] | {"data": data, "model": f"of {data}"}}))
    code, out, err = say(tmp_path, "--only", "data=one", "--only", "model=of two")
    assert (code, out) == (2, "")
    assert "is of all that --only asks for" in err


@pytest.mark.parametrize("differs", [{"data": {"norm": "own"}}, {"scenario": {"trigger_size": 5}}])
def test_images_that_look_otherwise_are_another_table(differs):
    rows = [made_row("ssd", 0, 60), made_row("retrain", 0, 50)]
    rows += [made_row(name, 0, level, config=differs) for name, level in (("ssd", 30), ("retrain", 20))]
    summaries = summarise(rows, derived_metrics(rows))
    assert [(s.outdated, s.line("ssd").mean("average_gap")) for s in summaries] == [(0, 10), (0, 10)]
    assert len({s.title for s in summaries}) == 2


def test_other_images_under_one_title_are_told_by_their_hash():
    rows = [made_row("ssd", 0, 60)]
    rows.append(made_row("ssd", 0, 50, task={"forget_sha256": "another"}))
    one, other = (summary.title for summary in summarise(rows, {}))
    assert one.endswith(", f")
    assert other.endswith(", another")


def test_pictures_of_tasks_that_begin_alike_are_two_files():
    stems = _stems(["forget 猫", "forget 犬", "forget C#", "forget C++", "forget cat"])
    assert len(set(stems.values())) == 5
    assert stems["forget cat"] == "forget-cat"


@pytest.mark.parametrize(("name", "begins"), [("a.csv", "data,"), ("a.md", "**"), ("a.tex", "% "), ("a.txt", "**")])
def test_a_file_is_what_its_name_ends_in(swept, say, tmp_path, name, begins):
    assert say(swept, "-o", tmp_path / name)[0] == 0
    assert (tmp_path / name).read_text().startswith(begins)


def test_pictures_are_not_named_in_the_csv(swept, say, tmp_path):
    code, out, err = say(swept, "--format", "csv", "--pictures", tmp_path)
    assert code == 0
    assert len(pd.read_csv(io.StringIO(out))) == 6
    assert str(tmp_path) in err
    assert str(tmp_path) not in out


@example(244, ["gap"] * 5 + ["AUC of the loss"] * 5 + ["gap"] * 5)  # a heading that must be broken beside wider numbers
@given(st.integers(20, 260), st.lists(st.sampled_from(["gap", "AUC of the loss", "retain D'_r %"]), min_size=1))
def test_no_width_of_a_terminal_cuts_a_number(width, headings):
    cells = [[f"{i}{j}.25 ± 0.18" for j in range(len(headings))] for i in (1, 2)]
    lines = [(f"method {i}", [Cell(text) for text in of_line]) for i, of_line in enumerate(cells)]
    parts = in_parts(Sheet("title", headings, lines), width)
    assert [heading for part in parts for heading in part.headings] == headings
    out = io.StringIO()
    console = Console(file=out, width=max(width, 40))
    for part in in_parts(Sheet("title", headings, lines), console.width):
        console.print(_for_terminal(part, console.width))
    for text in (text for of_line in cells for text in of_line):
        assert text in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= console.width


def test_one_line_a_run(swept, say):
    code, out, _ = say(swept, "--format", "csv")
    assert code == 0
    frame = pd.read_csv(io.StringIO(out))
    assert sorted(frame.method) == sorted(["original", "retrain", "ssd"] * 2)
    assert set(frame.seed) == {0, 1}
    assert (frame[frame.method == "retrain"].average_gap == 0).all()
    assert (frame[frame.method != "retrain"].average_gap > 0).all()
    ssd = frame[(frame.method == "ssd") & (frame.seed == 0)].iloc[0]
    row = next(r for r in read_rows(swept) if r["method"] == "ssd" and r["task"]["seed"] == 0)
    assert ssd.retain_acc == pytest.approx(row["metrics"]["retain_acc"])
    assert ssd.cost_s == pytest.approx(row["times"]["online_s"] + row["times"]["shared_s"]["importance_full"])
    assert ssd["shared_s.importance_full"] == pytest.approx(row["times"]["shared_s"]["importance_full"])
    assert ssd.selected_pct == pytest.approx(row["details"]["selected_pct"])


def test_one_table_a_task_over_its_seeds(swept, say):
    code, out, _ = say(swept)
    assert code == 0
    assert out.count("digits, resnet18_slim, full_class: forget 8, seeds 0, 1") == 2  # accuracies, then distances
    firsts = [line.split("  ")[1] for line in out.splitlines() if "±" in line and "mean" not in line]
    assert firsts == ["original", "retrain", "ssd", FLOOR] * 2
    last = [line for line in out.splitlines() if line.strip()][-1]
    assert "retrained model" in last  # the verdict
    assert "2 training seeds" in last or last.strip().startswith("No method")
    values = [row["metrics"]["test_acc"] for row in read_rows(swept) if row["method"] == "ssd"]
    assert f"{mean(values):.2f} ± {stdev(values):.2f}" in out


def test_values_over_seeds_by_hand(swept):
    rows = read_rows(swept)
    summary = only(summarise(rows, derived(rows, swept)))
    by = {(row["method"], row["task"]["seed"]): row["metrics"]["mia"] for row in rows}
    ssd = summary.line("ssd")
    assert summary.seeds == [0, 1]
    assert ssd.values["mia"] == {0: by["ssd", 0], 1: by["ssd", 1]}
    apart = [by["ssd", seed] - by["retrain", seed] for seed in (0, 1)]
    assert ssd.differences("mia") == {0: [apart[0]], 1: [apart[1]]}
    assert summary.distance(ssd, "mia") == pytest.approx(mean(map(abs, apart)))
    assert summary.margin("mia") == abs(by["retrain", 0] - by["retrain", 1])
    assert {label for label, _ in summary.states(["mia", "cost_s", "average_gap"])} == {"ssd"}


def test_best_is_nearest_to_the_retrained_model_not_highest(swept):
    rows = read_rows(swept)
    for row in list(rows):  # two more methods, of which the better has the lower accuracies
        if row["method"] == "ssd":
            for name, value in (("high", 100.0), ("near", None)):
                other = copy.deepcopy(row) | {"method": name, "path": row["path"] + name}
                retrained = next(
                    r for r in rows if r["method"] == "retrain" and r["task"]["seed"] == row["task"]["seed"]
                )
                other["metrics"]["retain_acc"] = retrained["metrics"]["retain_acc"] if value is None else value
                rows.append(other)
    summary = only(summarise(rows, derived(rows, swept)))
    ranks = summary.ranks("retain_acc")
    assert ranks["near"] == 1
    assert summary.distance(summary.line("near"), "retain_acc") == 0
    assert not {"original", "retrain"} & set(ranks)


def test_what_is_missing_or_ended_badly_is_said(swept, command, say):
    command("-m", *SHORT, f"out={swept}", "method=finetune", "seed=0")
    command("-m", *SHORT, f"out={swept}", "method=teacher", "method.lr=1e30", "seed=0,1")
    out = say(swept)[1]
    assert "finetune: not run for seed 1." in out
    assert "teacher: diverged (seeds 0, 1)" in out


def test_an_older_row_of_the_same_run_is_left_out_and_said(swept):
    rows = read_rows(swept)
    old = copy.deepcopy(next(row for row in rows if row["method"] == "ssd"))
    old["path"], old["env"]["finished"], old["metrics"]["mia"] = "old", "2000-01-01T00:00:00+00:00", 1e6
    summary = only(summarise([old, *rows], derived(rows, swept)))
    assert summary.outdated == 1
    assert summary.line("ssd").mean("mia") <= 100
    assert any("Left out: 1 older row" in note for note in sheets(summary)[0].notes)


def test_latex_is_whole_and_escaped(swept, say):
    text = say(swept, "--format", "latex")[1]
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"resnet18\_slim" in text
    assert r"$\pm$" in text
    assert not re.search(r"(?m)(?<!\\)%(?!$)", text.split(r"\begin{table}")[1])
    assert text.count("{") == text.count("}")
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len({line.count(" & ") for line in rows}) <= 2


def test_few_images_are_marked(command, tmp_path, say):
    command(*SHORT, f"out={tmp_path}")  # ten test images to forget
    out = say(tmp_path)[1]
    assert "one seed, so no error bar" in out
    assert "°: rests on too few images" in out
    assert "D'_f 10" in out


def test_a_new_metric_runs_over_old_runs(swept, say, tmp_path, monkeypatch):
    (tmp_path / "mine" / "metric").mkdir(parents=True)
    (tmp_path / "mine" / "metric" / "surest.yaml").write_text(
        "surest: {_target_: surest.Surest, seed: '${evaluate.attack_seed}'}\n"
    )
    code = """
from dataclasses import dataclass

import torch

@dataclass(frozen=True)
class Surest:
    seed: int = 7
    def __call__(self, seen):
        wrong = float("nan") if self.seed else 0
        return {"surest": seen.probs("forget").max() + wrong, "drawn": float(torch.rand(()))}
"""
    (tmp_path / "mine" / "surest.py").write_text(code)
    monkeypatch.setattr("sys.path", list(sys.path))
    asked = ("--metrics", "surest,accuracy,mia", "--config-dir", tmp_path / "mine")
    code, out, err = say(swept, "--format", "csv", *asked)
    assert code == 0, err
    frame = pd.read_csv(io.StringIO(out))
    for row in read_rows(swept):
        line = frame[frame.path == row["path"]].iloc[0]
        assert 0 < line.surest <= 1
        for name in ("retain_acc", "mia"):  # from the same outputs, the same values
            assert line[name] == pytest.approx(row["metrics"][name], abs=1e-9)
        assert 0 < line["original.surest"] <= 1  # of the original, too
    assert frame.drawn.nunique() == 1  # draws are seeded, as in a run
    assert "surest" in say(swept, *asked)[1]  # a column of its own in the table
    yaml = tmp_path / "mine" / "metric" / "surest.yaml"
    yaml.write_text("surest: {_target_: surest.Surest, seed: 1}\n")
    code, _, err = say(swept, *asked)
    assert (code, err.strip()) == (2, "ssd-bench: metric surest returned surest=nan; allowed: a finite number, or None")
    code, _, err = say(swept, "--metrics", "mai")
    assert code == 2
    assert "did you mean 'mia'" in err


def test_artefacts_are_found_beside_their_rows_in_folders_of_several_machines(swept, say, tmp_path):
    alone = pd.read_csv(io.StringIO(say(swept, "--format", "csv")[1]))
    shutil.copytree(swept, tmp_path / "all/one")
    moved = swept.rename(tmp_path / "elsewhere")  # where the rows say that they are, there is nothing
    try:
        together = pd.read_csv(io.StringIO(say(tmp_path / "all", "--format", "csv")[1]))
    finally:
        moved.rename(swept)
    assert alone.js_forget.notna().any()
    assert together.js_forget.tolist() == pytest.approx(alone.js_forget.tolist(), nan_ok=True)


def test_an_output_without_room_is_one_line(swept):
    asked = f"from ssd_bench.cli.report import main; main([{str(swept)!r}, '--format', 'csv'])"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", asked], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == "ssd-bench: the output cannot be written (No space left on device)"
    assert "Traceback" not in ended.stderr


def test_outputs_that_are_gone_leave_the_values_as_they_are(swept, say, caplog):
    shutil.rmtree(swept / "artefacts" / "outputs")
    frame = pd.read_csv(io.StringIO(say(swept, "--format", "csv", "--metrics", "accuracy")[1]))
    assert "its outputs are gone" in caplog.text
    assert frame.retain_acc.notna().all()


def test_without_the_original_s_outputs_it_has_no_values_of_metrics_found_anew(swept, say):
    rows = read_rows(swept)
    of_original = {row["artefacts"]["original_outputs"] for row in rows}
    for name in of_original:
        Path(name).unlink()
    frame = pd.read_csv(io.StringIO(say(swept, "--format", "csv", "--metrics", "accuracy")[1]))
    others = frame[frame.method != "original"]
    assert others.retain_acc.notna().all()
    assert others["original.retain_acc"].isna().all()


def test_pictures_of_every_kind(swept, command, say, tmp_path):
    command("-m", *SHORT, f"out={swept}", "method=ssd", "method.alpha=1,2,4", "seed=0,1")
    command("-m", *SHORT, f"out={swept}", "method=finetune", "seed=0,1")
    code, out, _ = say(swept, "--pictures", tmp_path / "pictures")
    assert code == 0
    kinds = {path.stem.rsplit("-", 1)[1] for path in map(Path, out.split())}
    assert kinds == {"trade_off", "attack", "times", "histograms", "classes", "per_tensor", "sweep_alpha"}
    assert all(Path(path).stat().st_size > 5000 for path in out.split())


def test_markdown_into_a_file(swept, say, tmp_path):
    code, out, _ = say(swept, "-o", tmp_path / "page.md")
    assert (code, out) == (0, "")
    text = (tmp_path / "page.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 2
    assert sum(line.startswith("| ssd |") for line in lines) == 2


def test_what_is_no_row_is_left_out_and_named(swept, say, caplog):
    rows = sorted(swept.rglob("metrics.json"))
    rows[0].write_text(rows[0].read_text()[:100])
    broken = json.loads(rows[1].read_text())
    broken["schema"] = 99
    rows[1].write_text(json.dumps(broken))
    assert len(read_rows(swept)) == 4
    assert str(rows[0]) in caplog.text  # by its full path
    assert str(rows[1]) in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is not a folder"),
        (["."], "holds no finished run"),
        ([".", "--format", "cvs"], "did you mean 'csv'"),
        ([".", "--fromat", "csv"], "unrecognized arguments"),
        ([], "folder"),
    ],
)
def test_wrong_input(say, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = say(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("ssd-bench: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_tow_and_layer_distance_by_hand():
    ours = {"forget_train_acc": 10.0, "retain_train_acc": 90.0, "test_acc": 70.0}
    theirs = {"forget_train_acc": 0.0, "retain_train_acc": 95.0, "test_acc": 78.0}
    assert tow(ours, theirs) == pytest.approx(0.9 * 0.95 * 0.92)
    assert tow(ours, theirs | {"test_acc": None}) is None
    one = {"a": torch.tensor([3.0, 0.0]), "n": torch.tensor(5)}
    other = {"a": torch.tensor([0.0, 4.0]), "n": torch.tensor(9)}
    assert weights_against(one, other) == {"layer_distance": 5}  # counters are not weights


def test_running_statistics_are_no_parameters(net):
    before = {name: t.clone() for name, t in net.state_dict().items()}
    net(torch.randn(8, 1, 6, 6))  # moves the statistics, and nothing else
    apart = weights_against(before, net.state_dict())
    assert apart["layer_distance"] == 0
    assert apart["statistics_distance"] > 0
    with torch.no_grad():
        net[0].bias += torch.tensor([3.0, 0.0, 4.0])
    assert weights_against(before, net.state_dict())["layer_distance"] == pytest.approx(5)


def test_distances_to_the_retrained_model_and_the_floor_under_them(swept):
    from safetensors.torch import load_file

    rows = read_rows(swept)
    values = derived(rows, swept)
    assert values.keys() == {row["path"] for row in rows}
    by = {(row["method"], row["task"]["seed"]): row for row in rows}
    ssd, retrain, other = (by[key] for key in (("ssd", 0), ("retrain", 0), ("retrain", 1)))
    itself = values[retrain["path"]]
    names = ("js_forget", "distance_test", "layer_distance", "statistics_distance", "average_gap")
    assert [itself[name] for name in names] == [0] * len(names)
    assert itself["agreement_test"] == 100
    assert itself["tow"] == 1
    ours, theirs = (load_file(row["artefacts"]["outputs"])["test"].double().softmax(1) for row in (ssd, retrain))
    assert values[ssd["path"]]["distance_test"] == pytest.approx((ours - theirs).norm(dim=1).mean().item())
    agreement = 100 * (ours.argmax(1) == theirs.argmax(1)).double().mean().item()
    assert values[ssd["path"]]["agreement_test"] == pytest.approx(agreement)
    delta = ssd["metrics"]["mia"] - retrain["metrics"]["mia"]
    assert values[ssd["path"]]["delta.mia"] == pytest.approx(delta)
    apart = (load_file(row["artefacts"]["outputs"])["test"].double().softmax(1) for row in (retrain, other))
    floor = torch.linalg.vector_norm(next(apart) - next(apart), dim=1).mean().item()
    assert values[ssd["path"]]["floor.distance_test"] == pytest.approx(floor)
    assert values[ssd["path"]]["floor.layer_distance"] > 0
    gap = average_gap(retrain["metrics"], other["metrics"], "full_class")
    assert values[ssd["path"]]["floor.average_gap"] == gap
    assert derived_metrics(rows)[ssd["path"]]["floor.average_gap"] == gap


def test_one_seed_has_no_floor_and_a_moved_folder_keeps_its_distances(command, tmp_path):
    out = tmp_path / "runs"
    command("-m", *SHORT, f"out={out}", "method=retrain,ssd")
    out.rename(tmp_path / "moved")
    rows = read_rows(tmp_path / "moved")
    values = derived(rows, tmp_path / "moved")
    assert not [name for told in values.values() for name in told if name.startswith("floor")]
    assert all("js_forget" in told for told in values.values())


def test_no_retrained_model_no_distances(command, tmp_path):
    command(*SHORT, f"out={tmp_path}")
    assert derived(read_rows(tmp_path), tmp_path) == {}


def test_another_precision_is_another_table_and_says_so(swept):
    rows = read_rows(swept)
    other = copy.deepcopy(rows)
    for row in other:
        row["config"]["precision"] = "bfloat16"
    titles = {summary.title for summary in summarise(rows + other, {})}
    assert len(titles) == 2 * len({summary.title for summary in summarise(rows, {})})
    assert {title.endswith(", precision bfloat16") for title in titles} == {True, False}


def test_tables_of_other_recipes_say_how_they_differ(swept):
    rows = read_rows(swept)
    other = copy.deepcopy(rows)
    for row in other:
        row["config"]["train"]["epochs"] = 60
        row["task"]["recipe"] = "another"
    titles = [summary.title for summary in summarise(rows + other, {})]
    assert len(set(titles)) == len(titles)
    assert sum("train.epochs=60" in title for title in titles) == len(titles) / 2
    assert not any("train.epochs" in summary.title for summary in summarise(rows, {}))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX on this machine")
def test_latex_compiles_as_it_is_whatever_the_names(swept, tmp_path):
    import subprocess

    from ssd_bench.report.table import latex

    rows = read_rows(swept)
    for row in rows:
        row["task"]["target"] = r"8 _&%$#{}~^\ <é|>"
    (tmp_path / "t.tex").write_text(latex(summarise(rows, {})))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
    assert made.returncode == 0, made.stdout[-2000:]
