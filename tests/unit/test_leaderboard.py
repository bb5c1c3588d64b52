"""The leaderboard: what stands in results/, who shares a rank, what is refused, and what counts as reproduced."""

import csv
import os
import runpy
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from ssd_bench.core.errors import ConfigError
from ssd_bench.run.cases import cases
from ssd_bench.run.plan import CONF_DIR, PACKAGE

ROOT = PACKAGE.parent
RESULTS = ROOT / "results"
BOARD = runpy.run_path(str(ROOT / "scripts/leaderboard.py"), run_name="leaderboard")
REPRODUCE = runpy.run_path(str(ROOT / "scripts/reproduce.py"), run_name="reproduce")
apart = REPRODUCE["apart"]
STUDY = "ssd-digits-resnet18_slim-full_class, 20 trials"


@pytest.mark.skipif(not (RESULTS / "leaderboard.yaml").exists(), reason="the sdist has no rows of long runs")
def test_what_stands_in_results_is_what_the_rows_give():
    made = BOARD["made"](RESULTS)
    kept = {name: (RESULTS / name).read_text() for name in made}
    assert kept == made, "python scripts/leaderboard.py writes them again"


@pytest.mark.skipif(not (RESULTS / "study/settings").exists(), reason="the sdist has no rows of long runs")
def test_settings_taken_over_with_fewer_conditions_are_what_the_study_found():
    for path in (RESULTS / "study/settings/tuned").glob("*.yaml"):
        found = {case["study"]["name"]: case for case in cases([CONF_DIR], path.stem) if "study" in case}
        for case in cases([RESULTS / "study/settings"], path.stem):
            study = found[case["study"]["name"]]
            assert {**case, "when": None} == {**study, "when": None}, path
            assert case["when"].items() < study["when"].items(), path


def row(method, seed, gap, **more):
    """A run whose accuracies are all `gap` away from those of retrain, which are all 0."""
    task = {"data": "toy", "model": "net", "scenario": "full_class", "target": "8", "fidelity": "corrected"}
    numbers = ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc", "mia", "average_gap")
    return {
        **task, "seed": seed, "recipe": "r", "evaluation": "e", "method": method, "tuned": "", "status": "done",
        **dict.fromkeys(numbers, gap), "cost_s": 10 if method == "retrain" else 1, "git": "0123abc", "placebo": "False",
    } | more  # fmt: skip


REFERENCES = [row("retrain", 0, 0), row("retrain", 1, 0), row("retrain", 2, 0)]
REFERENCES = [each | {"retain_acc": 4 * each["seed"]} for each in REFERENCES]  # pairs 1, 1 and 2 points apart


def runs(method, gaps, **more):
    return [row(method, seed, gap, **more) for seed, gap in enumerate(gaps)]


@pytest.fixture
def board(tmp_path):
    def make(*files, **yaml_rows):
        """By method and budget, the lines of a leaderboard of these files of rows; of controls and others."""
        told = {f"rows{i}.csv": "ssd-bench" for i in range(len(files))} | yaml_rows
        (tmp_path / "leaderboard.yaml").write_text(yaml.safe_dump({"toy": {"about": "made up", "rows": told}}))
        for i, rows in enumerate(files):
            with open(tmp_path / f"rows{i}.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, list(dict.fromkeys(key for each in rows for key in each)))
                writer.writeheader()
                writer.writerows(rows)
        made = BOARD["made"](tmp_path)
        lines = list(csv.DictReader(made["leaderboard.csv"].splitlines()))
        return {(line["method"], line["tuned"]): line for line in lines}, made["leaderboard.md"]

    return make


def ranks(lines):
    return {key: line["rank"] for key, line in lines.items()}


def test_a_seed_that_is_there_twice_is_refused(board):
    again = row("ssd", 0, 30)
    with pytest.raises(ConfigError, match=r"ssd: several rows for seed 0"):
        board([*REFERENCES, *runs("ssd", [2, 2, 2]), again])
    board([*REFERENCES, *runs("ssd", [2, 2, 2], seed_unlearn="0"), again | {"seed_unlearn": "1"}])


def test_a_budget_of_hours_is_part_of_the_budget():
    tuned = {"tuned": "ssd-digits-resnet18_slim-full_class, 12 trials, 2 h"}
    assert BOARD["_study"](tuned) == ("ssd-digits-resnet18_slim-full_class", "12 trials, 2 h")


def test_methods_share_a_rank_until_the_seeds_tell_them_from_the_first_of_it(board):
    rows = [*REFERENCES, *runs("ssd", [1, 1.1, 1.2]), *runs("scrub", [1, 1.3, 0.9]), *runs("salun", [9, 9.11, 9.2])]
    lines, page = board([*rows, *runs("delete", [5, 30, 10])])  # not told from ssd, but behind salun, which is
    assert list(ranks(lines).values())[:4] == ["1", "1", "3", "3"]
    assert [method for method, _ in lines][:4] == ["scrub", "ssd", "salun", "delete"]
    assert "| 1–2 | [ssd]" in page
    assert (lines["ssd", ""]["floor"], lines["ssd", ""]["floors"]) == ("1.3333", f"{1.1 / (4 / 3):.4f}")
    assert lines["ssd", ""]["cost_pct"] == "10.0000"


def test_methods_are_compared_on_the_seeds_that_both_have(board):
    rows = [*REFERENCES, row("retrain", 3, 0), *runs("ssd", [2, 2, 2]), *runs("scrub", [1, 1, 1, 8])]
    assert ranks(board(rows)[0]) == {
        ("ssd", ""): "1",
        ("scrub", ""): "1",
        ("retrain", ""): "",
    }  # 2.75, and nearer on 0-2


def test_tuned_and_untuned_are_ranked_apart_and_controls_not_at_all(board):
    tuned = runs("ssd", [5, 5, 5], tuned=STUDY, **{"method.alpha": 2.0})
    untuned = [*runs("ssd", [1, 1, 1], **{"method.alpha": 7.5}), *runs("scrub", [2, 2, 2])]
    lines, page = board([*REFERENCES, *tuned, *untuned, *runs("mask_head", [0.1] * 3), *runs("original", [40] * 3)])
    assert ranks(lines) == {
        ("ssd", "20 trials"): "1", ("ssd", ""): "1", ("scrub", ""): "2",
        ("retrain", ""): "", ("mask_head", ""): "", ("original", ""): "",
    }  # fmt: skip
    assert lines["ssd", ""]["settings"] == "alpha=7.5"
    assert lines["ssd", "20 trials"]["study"] == "ssd-digits-resnet18_slim-full_class"
    titles = ("Tuned, 20 trials each:", "Not tuned:", "References and controls, not ranked:")
    assert sorted(map(page.index, titles)) == list(map(page.index, titles))


def test_a_method_that_is_level_with_the_first_is_one_of_the_comparisons(board):
    two = [*REFERENCES, *runs("ssd", [1, 2, 3]), *runs("salun", [2, 3.3, 3.7])]
    assert board(two)[0]["salun", ""]["rank"] == "2"  # p = 0.029
    lines, _ = board([*two, *runs("scrub", [1, 2, 3])])
    assert [lines[name, ""]["rank"] for name in ("ssd", "scrub", "salun")] == ["1", "1", "1"]  # of two comparisons


def test_several_targets_without_a_floor_have_no_distance_in_floors(board):
    same = [row("retrain", seed, 0) for seed in range(3)]
    rows = [*same, *runs("ssd", [1, 2, 3])]
    _, page = board([*rows, *(each | {"target": "9"} for each in rows)])
    assert "together" in page


def test_over_several_targets_the_mean_of_each_seed_counts(board):
    def both(method, one, other):
        return [*runs(method, one), *runs(method, other, target="9")]

    rows = [*REFERENCES, *(each | {"target": "9"} for each in REFERENCES), *runs("delete", [0, 0, 0])]
    rows += [*both("ssd", [1, 5, 3], [5, 1, 3.2]), *both("scrub", [8, 5, 5.5], [4, 8, 6.2])]
    _, page = board([*rows, *both("salun", [1, 9], [1, 1, 1])])
    alone, together = page.split("forget 8 and 9 together")
    assert alone.count("| 1–2 | [ssd]") == 1  # target 9; on target 8 delete is with them
    assert [line.split(" | ")[:3] for line in together.splitlines() if "docs/methods" in line] == [
        ["| 1", "[ssd](../docs/methods/ssd.md)", "3.03 ± 0.06"],  # 3, 3, 3.1 against 6, 6.5, 5.85
        ["| 2", "[scrub](../docs/methods/scrub.md)", "6.12 ± 0.34"],
        ["| -", "[salun](../docs/methods/salun.md)", "3.00 ± 2.83"],  # two seeds have both targets
        ["| -", "[retrain](../docs/methods/retrain.md)", "0.00 ± 0.00"],
    ]
    assert "| 3.00 | 3.07 | 3 |" in together  # ssd's gap on each target, and seeds


ACCURACIES = ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc")


@pytest.mark.parametrize(
    ("auc", "first"), [(0.46, "ssd"), (0.54, "ssd"), (0.56, "scrub"), (0.44, "scrub"), ("", "scrub")]
)
def test_where_the_attack_tells_nothing_its_share_of_the_gap_decides_no_order(board, auc, first):
    def lines(method, gap, accuracies):
        apart = {f"delta.{name}": accuracies for name in ACCURACIES}
        return runs(method, [gap, gap, gap], **apart, mia_auc=0.7)  # what a method leaves does not matter

    original = runs("original", [40] * 3, **{f"delta.{name}": 40 for name in ACCURACIES})
    original = [each | {"mia_auc": auc} for each in original]
    references = [each | {f"delta.{name}": 0 for name in ACCURACIES} for each in REFERENCES]
    found, page = board([*references, *original, *lines("ssd", 5, 1), *lines("scrub", 4, 2)])
    ordered_by = {"ssd": "accuracy_gap", "scrub": "gap"}[first]
    assert {line["ordered_by"] for line in found.values()} == {ordered_by}
    assert ranks(found)[first, ""] == "1"
    ours = {"ssd": ("1.00 ± 0.00", "5.00 ± 0.00"), "scrub": ("4.00 ± 0.00", "2.00 ± 0.00")}[first]
    assert f"| 1 | [{first}](../docs/methods/{first}.md) | {ours[0]} | " in page
    assert f" | {ours[1]} | " in page
    floor = {"ssd": (4 + 4 + 8) / 3 / 3, "scrub": (4 + 4 + 8) / 4 / 3}[first]  # of what the order follows
    assert found[first, ""]["floor"] == f"{floor:.4f}"


def test_the_floor_of_a_task_that_corrects_has_the_accuracy_on_d_f_in_place_of_the_attack(board):
    references = [each | {"n_manipulated": 10, "forget_acc": 4 * each["seed"]} for each in REFERENCES]
    lines, _ = board([*references, *runs("ssd", [1, 1, 1], n_manipulated=10)])
    assert lines["ssd", ""]["floor"] == f"{(4 + 4 + 8) / 4 * 2 / 3:.4f}"  # D'_r and D'_f differ by 4, 4 and 8


def test_few_seeds_and_divergence_are_listed_and_not_ranked(board):
    diverged = row("delete", 2, "", status="diverged")
    lines, page = board(
        [*REFERENCES, *runs("ssd", [1, 1]), *runs("scrub", [3, 3, 3]), *runs("delete", [2, 2]), diverged]
    )
    assert ranks(lines) == {("scrub", ""): "1", ("ssd", ""): "", ("delete", ""): "", ("retrain", ""): ""}
    assert "2, 1 diverged" in page


def test_a_second_file_brings_its_own_references_and_is_ranked_with_the_first(board):
    ours, theirs = [*REFERENCES, *runs("ssd", [1, 1, 1])], [*REFERENCES, *runs("scrub", [2, 2, 2])]
    lines, _ = board(ours, theirs)
    assert [(lines[method, ""]["rank"], lines[method, ""]["rows"]) for method in ("ssd", "scrub", "retrain")] == [
        ("1", "rows0.csv"), ("2", "rows1.csv"), ("", "rows0.csv"),
    ]  # fmt: skip


ENTRY = runs("ssd", [1, 1, 1])
REFUSED = {
    "does not exist; did you mean 'ssd'": [[*REFERENCES, *runs("sssd", [1, 1, 1])]],
    "no retrained model": [ENTRY],
    "no gap for seed 1": [[*REFERENCES, *runs("ssd", [1, "", 1])]],
    "without a commit": [[*REFERENCES, *runs("ssd", [1, 1, 1], git="")]],
    "of several settings": [[*REFERENCES, *runs("ssd", [1, 1], **{"method.alpha": 1}), row("ssd", 2, 1)]],
    "has no study mine": [[*REFERENCES, *runs("ssd", [1, 1, 1], tuned="mine, 20 trials")]],
    "another recipe than rows0.csv": [REFERENCES, runs("retrain", [0, 0, 0], recipe="other")],
    "another n_train than rows0.csv": [[{**each, "n_train": n} for each in REFERENCES] for n in (20000, 50000)],
    "n_forget 100 and 500 in one task": [[{**each, "n_forget": n} for n in (100, 500) for each in REFERENCES]],
    "is in rows0.csv already": [[*REFERENCES, *ENTRY]] * 2,
    "no column cost_s": [[{k: v for k, v in each.items() if k != "cost_s"} for each in [*REFERENCES, *ENTRY]]],
}


@pytest.mark.parametrize("why", REFUSED)
def test_rows_are_refused_in_one_line(board, why):
    with pytest.raises(ConfigError, match=why) as refused:
        board(*REFUSED[why])
    assert "\n" not in str(refused.value)


def test_rows_without_a_command_and_missing_rows_are_refused(board):
    with pytest.raises(ConfigError, match=r"rows0.csv has no command"):
        board([*REFERENCES, *ENTRY], **{"rows0.csv": ""})
    with pytest.raises(ConfigError, match=r"other.csv does not exist"):
        board([*REFERENCES, *ENTRY], **{"other.csv": "ssd-bench"})


def test_check_says_what_is_stale(board, tmp_path, monkeypatch, capsys):
    board([*REFERENCES, *ENTRY])
    run = BOARD["main"]
    monkeypatch.setitem(run.__globals__, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["leaderboard.py"])
    run()
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", "--check"])
    with pytest.raises(SystemExit, match="0"):
        run()
    rows = tmp_path / "rows0.csv"
    rows.write_text(rows.read_text() + "\n")  # the same rows, and another checksum
    with pytest.raises(SystemExit, match="1"):
        run()
    assert "leaderboard.csv: not what the rows give" in capsys.readouterr().out


def gaps(values, method="ssd"):
    text = [str(value) for value in values]
    floors = {"floor.average_gap": "1.0" if len(text) != 1 else ""}  # one seed has none
    seeds = [str(seed) for seed in range(len(text))]
    return pd.DataFrame({"seed": seeds, "method": method, "tuned": "", "average_gap": text, **floors})


@pytest.mark.parametrize(
    ("kept", "made", "wrong"),
    [
        ([2, 2, 2], [2.9, 2.9, 2.9], 0),  # within a floor
        ([2, 2, 2], [3.1, 3.1, 3.1], 1),
        ([1, 2, 3], [6.5, 6.5, 6.5], 0),  # 2 ± 3.51, and a floor
        ([1, 2, 3], [6.6, 6.6, 6.6], 1),
        (["", "", ""], ["", "", ""], 0),  # diverged, and again
        ([2, 2, 2], ["", "", ""], 1),
        (["", "", ""], [2, 2, 2], 1),
        ([2, 2, 2], [], 1),
        ([2, 2, 2], [2, "", ""], 1),  # diverged for some
        ([2, "", ""], [2, 2, 2], 1),
        ([2, "", ""], [2, "", ""], 0),
        ([2, 2, 2], [2, 2], 0),  # of the seeds that both have
        ([2], [2, 2, 2], 0),
        ([2], [3, 3, 3], 1),
    ],
)
def test_a_gap_is_reproduced_within_a_floor_of_where_the_kept_ones_put_it(kept, made, wrong, capsys):
    assert apart(gaps(kept), gaps(made)) == wrong
    assert ("not reproduced" in capsys.readouterr().out) == bool(wrong)


@pytest.mark.parametrize(("loss", "differing"), [("0.5", 0), ("0.6", 2)])
def test_of_rows_that_are_made_again_what_both_looked_at_is_compared(monkeypatch, capsys, loss, differing):
    row = {"scenario": "full_class", "method": "ssd", "tuned": "", "average_gap": "1.0", "floor.average_gap": "1.0"}
    row |= {"device": "cpu", "threads": "1", "torch": "2"}
    kept = [row | {"seed": f"{seed}", "loss": "0.5", "batch": "64.0", "zrf": ""} for seed in range(3)]
    made = [row | {"seed": f"{seed}", "loss": loss, "batch": "64", "zrf": "0.7"} for seed in range(2)]
    again = REPRODUCE["reproduce_entries"]
    monkeypatch.setitem(again.__globals__, "entered", lambda methods: pd.DataFrame(kept))
    monkeypatch.setitem(
        again.__globals__, "sweep", lambda out, overrides: pd.DataFrame(made).to_csv(out / "rows.csv", index=False)
    )
    assert again(["ssd"]) == 0  # the gaps are those that were kept
    assert ("all the same to the last digit" if not differing else f"{differing} differ") in capsys.readouterr().out


def test_a_sweep_and_what_is_worked_out_from_it_run_in_one_environment(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr("subprocess.run", lambda command, check, env: ran.append(env))
    for capability, alike in (("AVX512", True), ("AVX2", True), ("DEFAULT", False)):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda said=capability: said)
        ran.clear()
        REPRODUCE["sweep"](tmp_path)
        assert len(ran) == 3  # the sweep, rows and tables
        assert all(env == ran[0] for env in ran)
        assert (REPRODUCE["ALIKE"].items() <= ran[0].items()) == alike


def test_numpys_code_for_newer_processors_is_left_out_though_it_was_already(monkeypatch):
    code = "import runpy; print(runpy.run_path({!r}, run_name='r')['ALIKE']['NPY_DISABLE_CPU_FEATURES'])"
    command = [sys.executable, "-c", code.format(str(ROOT / "scripts/reproduce.py"))]
    first, again = (
        subprocess.run(command, env=os.environ | more, capture_output=True, text=True, check=True).stdout
        for more in ({}, {"NPY_DISABLE_CPU_FEATURES": REPRODUCE["ALIKE"]["NPY_DISABLE_CPU_FEATURES"]})
    )
    assert sorted(first.split()) == sorted(again.split())
