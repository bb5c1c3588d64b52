"""data.validation from the command line: SCRUB rewinds by images that no model of the run was trained on."""

import pytest
import torch
from conftest import SHORT, planned

from ssd_bench.methods import scrub
from ssd_bench.methods.scrub import Students
from ssd_bench.methods.unseen import error
from ssd_bench.report.rows import across_seeds
from ssd_bench.report.summary import summarise
from ssd_bench.run import pipeline, trained
from ssd_bench.store.rows import read_rows

REWIND = ("method=scrub", "method.rewind=true", "method.epochs=4", "method.max_epochs=4", "method.lr=0.02")
MORE = ("data.train_per_class=60", "data.test_per_class=20", "train.epochs=6", "model.width=4", "threads=1")


@pytest.mark.parametrize("scenario", ["scenario=full_class", "scenario=random scenario.n_forget=30"])
def test_scrub_rewinds_by_them(command, tmp_path, monkeypatch, scenario):
    given = (*MORE, *scenario.split(), "data.validation=0.2")
    students, rewind = [], Students.rewind

    def watch(after, data):
        before = {name: t.clone() for name, t in after.model.state_dict().items()}
        for epoch in range(5):
            after._restore(epoch)
            rows, labels = data.forget, data.images.labels
            students.append(error(after.model, data.images, rows, torch.ones(len(rows))))
        after.model.load_state_dict(before)
        validation = torch.arange(480, 600)
        weights = torch.bincount(labels[data.forget], minlength=10)[labels[validation]]  # as many of each class
        students.append(error(after.model, data.images, validation, weights))
        return rewind(after, data)

    monkeypatch.setattr(Students, "rewind", watch)
    ended = command(*given, *REWIND, f"out={tmp_path}")
    assert ended.code == 0, ended.err
    row = ended.row
    assert (row["status"], row["task"]["n_train"], row["task"]["n_test"]) == ("done", 480, 200)
    *on_forget, wanted = students
    away = [abs(each - wanted) for each in on_forget]
    assert row["details"]["rewound_to"] == away.index(min(away))


def test_all_runs_leave_the_same_images_out_and_their_tables_lie_apart(command, tmp_path, monkeypatch):
    seen, train = [], trained.train_from

    def watch(model, images, rows, *more, **how):
        seen.append(rows)
        return train(model, images, rows, *more, **how)

    monkeypatch.setattr(trained, "train_from", watch)
    given = (*SHORT, f"out={tmp_path}")
    ended = command("--multirun", *given, "method=original,retrain,finetune", "data.validation=0,0.2")
    assert ended.code == 0, ended.err
    assert sorted(len(rows) for rows in seen) == [216, 240, 270, 300]  # D_r and D of each, once
    rows = read_rows(tmp_path)
    assert [len(of_table) for of_table in across_seeds(rows)] == [3, 3]
    assert {row["task"]["n_train"] for row in rows} == {240, 300}
    apart = {summary.apart for summary in summarise(rows, {row["path"]: {} for row in rows})}
    assert apart == {", data.validation=0", ", data.validation=0.2"}
    assert "240 training images, 24 to forget, 100 test images" in ended.out


def test_without_them_one_line_says_what_to_set(command, tmp_path):
    ended = command(*SHORT, *REWIND, f"out={tmp_path}")
    assert (ended.code, ended.row["status"]) == (0, "skipped")
    assert "data.validation=0.1" in ended.row["reason"]
    assert not (tmp_path / "artefacts").exists()


def test_a_dry_run_counts_what_rewinding_takes(command, tmp_path):
    ended = command(*SHORT, *REWIND, "data.validation=0.2", "dry_run=true", f"out={tmp_path}")
    assert "1 scrub" in ended.out
    assert not list(tmp_path.iterdir())
    bench = pipeline.prepare(planned(*SHORT, *REWIND, "data.validation=0.2"))
    cost = bench.plan.method.cost(bench.split(), bench.plan.train)
    assert cost.forward == 5 * 24 + 6  # D_f after 0 to 4 epochs, and the images for validation of its class


def test_a_sequence_rewinds_at_every_request(command, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        scrub, "error", lambda model, images, rows, w: asked.append(rows) or error(model, images, rows, w)
    )
    given = (*SHORT, *REWIND, "scenario=sequence", "scenario.requests=2", "scenario.of=random", "scenario.n_forget=10")
    ended = command(*given, "data.validation=0.2", f"out={tmp_path}")
    assert ended.row["status"] == "done", ended.err
    first, second = asked[:6], asked[6:]  # of each the images for validation, then D_f after 0 to 4 epochs
    for validation, *forgotten in (first, second):
        assert validation.min() >= 240  # what the first request forgot is in no D, and no validation either
        assert [len(rows) for rows in forgotten] == [10] * 5
        assert max(rows.max() for rows in forgotten) < 240
