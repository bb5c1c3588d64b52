"""Claims and leases between processes that get killed: nothing is made twice, nothing is left undone."""

import multiprocessing
import os
import signal
import time

import pytest

from ssd_bench.core.task import Cost
from ssd_bench.run import cards
from ssd_bench.run.agenda import Agenda, Wanted
from ssd_bench.run.estimate import Work

FORK = multiprocessing.get_context("fork")


def process(target, *arguments):
    started = FORK.Process(target=target, args=arguments)
    started.start()
    return started


def wait_for(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def kill(worker):
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()


def agenda_of(folder, **needs):
    """Runs by name; each needs originals (`o...`) and shared things (`p...`)."""

    def work(name):
        kind = "original" if name.startswith("o") else "importance_full"
        return Work(kind, folder / f"{name}.safetensors", Cost(10), 0, alone="original" if kind == "original" else "")

    runs = [Wanted(folder / name, name, [work(need) for need in wanted.split()]) for name, wanted in needs.items()]
    jobs = [{"config": {"seed": 1.0}, "names": {}, "label": name} for name in needs]
    return Agenda.write(folder / "agenda", jobs, runs, [])


def test_what_one_claims_no_other_claims(tmp_path):
    first = agenda_of(tmp_path, a="o1", b="o2", c="o1")
    second, third = Agenda(first.folder), Agenda(first.folder)
    with first.claim() as one, second.claim() as other, third.claim() as none:
        assert (one.name, other.name, none) == ("original-o1", "original-o2", None)
        first.finish(one)
        with third.claim() as run:
            assert run.label in "ac"


def test_a_shared_thing_is_waited_for_until_it_is_there_and_not_until_its_run_ends(tmp_path):
    first = agenda_of(tmp_path, a="p1", b="p1", c="p2", d="p2")
    second = Agenda(first.folder)
    with first.claim() as one, second.claim() as other, Agenda(first.folder).claim() as none:
        assert (one.label, other.label, none) == ("a", "c", None)
        (tmp_path / "p1.json").touch()
        with Agenda(first.folder).claim() as beside:
            assert beside.label == "b"


def test_a_failed_run_is_not_tried_again_and_what_it_would_have_shared_is_made_by_the_next(tmp_path):
    agenda = agenda_of(tmp_path, a="p", b="p")
    with agenda.claim() as unit:
        agenda.finish(unit, parts=False)
    with agenda.claim() as unit:
        assert unit.label == "b"
        assert agenda.schedule.missing(unit, agenda.done()) == ["importance_full-p"]
        agenda.finish(unit)
    assert agenda.over


def work_on(folder, log, sleep_s):
    agenda = Agenda(folder)
    while not agenda.over:
        with agenda.claim() as unit:
            if unit:
                with log.open("a") as file:
                    file.write(f"{unit.name}\n")
                time.sleep(sleep_s)
                agenda.finish(unit)
        time.sleep(0.01)


def test_the_work_of_a_killed_process_is_taken_up_and_all_else_is_made_once(tmp_path):
    agenda = agenda_of(tmp_path, a="o1 p", b="o1 p", c="o2 p", d="o2", e="o2")
    logs = [tmp_path / str(i) for i in range(3)]
    victim = process(work_on, agenda.folder, logs[0], 60.0)
    wait_for(logs[0].exists)
    others = [process(work_on, agenda.folder, log, 0.05) for log in logs[1:]]
    time.sleep(0.3)
    assert not agenda.over
    kill(victim)
    for other in others:
        other.join(20)
        assert other.exitcode == 0
    made = [line for log in logs[1:] for line in log.read_text().split()]
    assert sorted(made) == sorted(agenda.schedule.units)
    assert logs[0].read_text().split() == ["original-o2"]  # which three runs need
    assert agenda.over


def test_keys_that_are_no_texts_survive(tmp_path):
    from omegaconf import OmegaConf

    config = {"a": {1: "one"}, "b": [0.1, None, True]}
    job = {"config": config, "names": {}, "label": ""}
    written = Agenda.write(tmp_path, [job], [Wanted(None, "", [])], [])
    assert OmegaConf.create(Agenda(written.folder).content["jobs"][0]["config"]) == config


@pytest.fixture
def two_cards(monkeypatch, tmp_path):
    monkeypatch.setattr(cards, "visible", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(cards.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cards, "POLL_S", 0.02)


def lease(log, seconds):
    with cards.leased() as device, log.open("a") as file:
        file.write(device)
        file.flush()
        time.sleep(seconds)


def said(log):
    return log.exists() and log.read_text()


def test_each_job_has_a_card_to_itself_and_a_killed_one_frees_its_card(two_cards, tmp_path):
    logs = [tmp_path / str(i) for i in range(3)]
    first, second = (process(lease, log, 60.0) for log in logs[:2])
    wait_for(lambda: said(logs[0]) and said(logs[1]))
    assert sorted(map(said, logs[:2])) == ["cuda:0", "cuda:1"]
    third = process(lease, logs[2], 0.0)
    time.sleep(0.3)
    assert third.is_alive()
    assert not said(logs[2])
    kill(second)
    third.join(20)
    assert third.exitcode == 0
    assert said(logs[2]) == said(logs[1])
    kill(first)


def test_a_card_is_known_by_its_name_whatever_its_index(two_cards, tmp_path, monkeypatch):
    with cards.leased() as device:
        assert device == "cuda:0"
        monkeypatch.setattr(cards, "visible", lambda: ["GPU-b", "GPU-a"])  # as CUDA_VISIBLE_DEVICES=1,0
        with cards.leased() as other:
            assert other == "cuda:0"
        monkeypatch.setattr(cards, "visible", lambda: ["GPU-a"])
        waiting = process(lease, tmp_path / "log", 0.0)
        time.sleep(0.2)
        assert waiting.is_alive()
    waiting.join(20)
    assert said(tmp_path / "log") == "cuda:0"


def test_without_cards_the_device_is_chosen_as_ever(monkeypatch):
    monkeypatch.setattr(cards, "visible", list)
    with cards.leased() as device:
        assert device == "auto"
