"""The store: made once, found again, whole or not at all."""

import json
import multiprocessing
import time

import pytest
import torch

from ssd_bench.core.errors import CannotWrite
from ssd_bench.store import artefacts
from ssd_bench.store.address import digest
from ssd_bench.store.artefacts import Store
from ssd_bench.store.files import to_json, write_atomically
from ssd_bench.store.rows import LAYOUT, SCHEMA, finished, write_row


@pytest.fixture(autouse=True)
def _forget():
    artefacts._recent.clear()


def test_made_once_and_found_again(tmp_path):
    store, made = Store(tmp_path), []

    def make():
        made.append(1)
        return {"a": torch.arange(3.0)}, {"note": "x"}

    first = store.get_or_make("kind", {"seed": 1}, make)
    artefacts._recent.clear()  # as in another process
    again = store.get_or_make("kind", {"seed": 1}, make)
    assert (first.found, again.found, len(made)) == (False, True, 1)
    assert torch.equal(again.tensors["a"], first.tensors["a"])
    assert again.about == {"note": "x"}
    assert again.cost_s == first.cost_s
    store.get_or_make("kind", {"seed": 2}, make)
    store.get_or_make("other", {"seed": 1}, make)
    assert len(made) == 3
    assert not store.get_or_make("kind", {"seed": 1}, make, anew=True).found


def test_keys_are_the_same_whatever_their_order_and_1_is_not_true():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert len({digest({"a": v}) for v in (1, 1.0, "1", True, None)}) == 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "sheet", "remove"])
def test_what_is_damaged_is_set_aside_and_made_again(tmp_path, damage, caplog):
    store = Store(tmp_path)
    path = store.put("kind", {}, {"a": torch.ones(100)}, {}, 0.0).path
    artefacts._recent.clear()
    if damage == "flip":
        path.write_bytes(path.read_bytes()[:-1] + b"\7")
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "sheet":
        path.with_suffix(".json").write_text("{")
    else:
        path.unlink()
    made = store.get_or_make("kind", {}, lambda: ({"a": torch.zeros(100)}, {}))
    assert not made.found
    assert not made.tensors["a"].any()
    assert "damaged" in caplog.text
    artefacts._recent.clear()
    assert store.get("kind", {}).found


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(part):
        part.write_text("half")
        raise OSError("disk full")

    (tmp_path / "x").write_text("before")
    with pytest.raises(CannotWrite, match=r"x cannot be written \(disk full\)"):
        write_atomically(tmp_path / "x", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "before"
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": float("nan")})


def test_a_failed_make_leaves_nothing_and_no_lock(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Store(tmp_path).get_or_make("kind", {}, fail)
    assert Store(tmp_path).get_or_make("kind", {}, lambda: ({"a": torch.ones(1)}, {})).tensors["a"] == 1


def _work(folder):
    def make():
        with (folder / "made").open("a") as file:
            file.write(".")
        time.sleep(0.3)
        return {"a": torch.ones(2)}, {}

    Store(folder).get_or_make("kind", {}, make)


def test_processes_that_want_the_same_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert (tmp_path / "made").read_text() == "."


def test_sheets_say_what_determined_the_artefact(tmp_path):
    kept = Store(tmp_path).put("kind", {"seed": 3}, {"a": torch.ones(4)}, {}, 1.5)
    sheet = json.loads(kept.path.with_suffix(".json").read_text())
    assert sheet["key"] == {"seed": 3}
    assert sheet["bytes"] == kept.path.stat().st_size
    assert sheet["cost_s"] == 1.5


def test_same_tensors_same_bytes(tmp_path):
    tensors = {name: torch.ones(3) for name in "qwertyuiop"}
    one, other = (Store(tmp_path / n).put("kind", {}, tensors, {}, 0.0).path.read_bytes() for n in "ab")
    assert one == other


def test_what_becomes_of_tensors_that_were_kept_does_not_matter(tmp_path):
    weights = {"w": torch.ones(3), "t": torch.ones(2, 3).T}
    kept = Store(tmp_path).put("weights", "key", weights, {}, 0.0)
    for t in weights.values():
        t.zero_()
    assert all(
        (t == 1).all() for t in [*kept.tensors.values(), *Store(tmp_path).get("weights", "key").tensors.values()]
    )


def test_a_row_of_another_layout_is_not_finished(tmp_path):
    path = tmp_path / "metrics.json"
    for layout, done in ((LAYOUT, True), (LAYOUT - 1, False)):
        write_row(path, {"schema": SCHEMA, "layout": layout, "task": {}, "method": "ssd", "artefacts": {}})
        assert finished(path) is done
