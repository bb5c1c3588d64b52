"""ssd-bench-store: what is there, whether it is whole, and what may go."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import SHORT
from filelock import FileLock

from ssd_bench.cli import store as storage
from ssd_bench.store.artefacts import forget_recent
from ssd_bench.store.rows import read_rows


@pytest.fixture
def stored(command, kept):
    return kept(lambda folder: command("-m", *SHORT, "method=original,ssd,finetune", f"out={folder}"))


def ask(capfd, *arguments):
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        storage.main(list(map(str, arguments)))
    said = capfd.readouterr()
    return ended.value.code, said.out, said.err


def test_it_lists_every_artefact_with_its_size_and_its_runs(stored, capfd):
    code, out, _ = ask(capfd, stored)
    assert code == 0
    listed = [line for line in out.splitlines() if line.endswith(".safetensors")]
    assert len(listed) == len(list(stored.rglob("*.safetensors")))
    assert "3 runs" in next(line for line in listed if "/trained/" in line)
    assert "1 runs" in next(line for line in listed if "/importance_full/" in line)


def test_verify_names_what_is_damaged(stored, capfd):
    assert ask(capfd, stored, "verify")[0] == 0
    path = next(stored.glob("artefacts/unlearned/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    row = next(stored.rglob("metrics.json"))
    row.write_text(row.read_text().replace('"method": "', '"method": "x'))
    code, out, _ = ask(capfd, stored, "verify")
    assert code == 1
    assert f"{path}: its checksum differs" in out
    assert f"{row}: no sound row" in out
    assert "2 damaged" in out


def test_prune_removes_what_no_row_names_and_nothing_else(stored, command, capfd):
    before = {path for path in stored.rglob("*") if path.is_file()}
    assert "0 files" in ask(capfd, stored, "prune", "--yes")[1]
    assert {path for path in stored.rglob("*") if path.is_file()} == before
    row = next(p for p in stored.rglob("metrics.json") if json.loads(p.read_text())["method"] == "finetune")
    own = [Path(json.loads(row.read_text())["artefacts"][name]) for name in ("unlearned", "outputs")]
    for path in row.parent.iterdir():
        path.unlink()
    (stored / "artefacts/outputs/.part-x.safetensors-1").write_text("half")
    (stored / "artefacts/outputs/x.json.damaged").write_text("{")
    (stored / "sweeps/2026/jobs-1").mkdir(parents=True)
    (stored / "sweeps/2026/jobs-1/agenda.json").write_text("{}")
    code, out, _ = ask(capfd, stored, "prune")
    assert code == 0
    assert "17 files" in out  # weights, outputs and five metrics' values, and what was left behind
    assert "jobs-1/agenda.json" in ask(capfd, stored.parent, "prune")[1]
    assert all(path.exists() for path in own)
    ask(capfd, stored, "prune", "--yes")
    assert not any(path.exists() for path in own)
    assert not list(stored.rglob(".part-*"))
    ended = command("-m", *SHORT, "method=original,ssd", f"out={stored}")
    assert ended.err.count("finished already") == 2
    assert ask(capfd, stored, "verify")[0] == 0


def test_rows_behind_a_link_count(stored, tmp_path, capfd):
    [task] = {path.parents[2] for path in stored.rglob("metrics.json")}
    shutil.move(task, tmp_path / "elsewhere")
    task.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(stored)  # no search is endless
    assert "0 files" in ask(capfd, stored, "prune", "--yes")[1]
    assert "3 rows read: none damaged" in ask(capfd, stored, "verify")[1]
    assert len(read_rows(stored)) == 3
    shared = tmp_path / "shared"  # by several folders
    shutil.move(stored / "artefacts", shared)
    (stored / "artefacts").symlink_to(shared)
    (shared / "outputs/others.safetensors").write_bytes(b"of another folder's rows")
    assert "0 files" in ask(capfd, stored, "prune", "--yes")[1]


def test_a_row_without_what_all_rows_have_is_damaged(stored, capfd):
    row = next(iter(stored.rglob("metrics.json")))
    row.with_suffix(".sha256").unlink()
    row.write_text(json.dumps({name: value for name, value in json.loads(row.read_text()).items() if name != "task"}))
    assert f"{row}: no sound row" in ask(capfd, stored, "verify")[1]
    assert len(read_rows(stored)) == 2


@pytest.mark.parametrize("going_on", ["row", "artefact", "sweep"])
def test_prune_waits_for_what_goes_on(stored, capfd, going_on):
    sweep = stored / "sweeps/today/jobs-1/locks"
    sweep.mkdir(parents=True)
    row, kept = next(stored.rglob("metrics.json")), next(stored.rglob("artefacts/*/*.safetensors"))
    lock = {"row": row.with_suffix(".lock"), "artefact": kept.with_suffix(".lock"), "sweep": sweep / "original-1"}
    with FileLock(lock[going_on]):
        code, _, err = ask(capfd, stored, "prune", "--yes")
    assert code == 2
    assert "a run is going on" in err


@pytest.mark.parametrize("what", ["unlink", "acquire"])
def test_prune_of_what_is_somebody_else_s_is_one_line(stored, capfd, monkeypatch, what):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "theirs")

    (stored / "artefacts/outputs/.part-x").write_text("half")
    monkeypatch.setattr({"unlink": Path, "acquire": FileLock}[what], what, denied)
    code, _, err = ask(capfd, stored, "prune", "--yes")
    assert code == 2
    assert "Permission denied" in err
    assert len(err.splitlines()) == 1


def test_prune_keeps_what_unfinished_runs_have_made_until_they_are_given_up(stored, capfd):
    row = next(p for p in stored.rglob("metrics.json") if json.loads(p.read_text())["method"] == "finetune")
    own = Path(json.loads(row.read_text())["artefacts"]["unlearned"])
    row.unlink()  # as if killed before it was written
    code, out, _ = ask(capfd, stored, "prune", "--yes")
    assert code == 0
    assert "all artefacts are kept, for 1 unfinished runs" in out
    assert own.exists()
    code, _, _ = ask(capfd, stored, "prune", "--yes", "--unfinished")
    assert code == 0
    assert not own.exists()


def test_prune_leaves_alone_what_a_damaged_row_would_be_made_of(stored, capfd):
    row = next(stored.rglob("metrics.json"))
    row.write_text("{")
    code, _, err = ask(capfd, stored, "prune", "--yes", "--unfinished")
    assert code == 2
    assert f"{row} is damaged" in err


def test_verify_misses_tensors_that_are_gone(stored, capfd):
    next(stored.glob("artefacts/trained/*.safetensors")).unlink()
    code, out, _ = ask(capfd, stored, "verify")
    assert code == 1
    assert "1 damaged" in out


def test_wrong_input_is_one_line(tmp_path, capfd):
    for arguments, wanted in (((tmp_path / "no",), "is not a folder"), ((tmp_path, "lst"), "did you mean 'list'?")):
        code, out, err = ask(capfd, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("ssd-bench: ")
        assert wanted in err
        assert err.count("\n") == 1


def test_weights_that_chance_picks_are_the_same_whether_importances_are_read_or_were_just_made(command, tmp_path):
    asked = (*SHORT, "method=dampen_random", "method.alpha=2", "train.epochs=1")
    command(*asked, f"out={tmp_path / 'made'}")
    for kind in ("trained", "importance_full"):
        shutil.copytree(tmp_path / "made/artefacts" / kind, tmp_path / "read/artefacts" / kind)
    forget_recent()
    command(*asked, f"out={tmp_path / 'read'}")
    rows = [read_rows(tmp_path / name)[0] for name in ("made", "read")]
    assert [row["cached"]["importance_full"] for row in rows] == [False, True]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    assert rows[0]["details"]["selected"] > 0
