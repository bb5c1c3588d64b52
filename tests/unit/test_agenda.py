"""Claims and leases between processes that get killed: nothing is made twice, nothing is left undone."""

import multiprocessing
import os
import signal
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from conftest import composed

from ssd_bench.cli import ticket
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Cost
from ssd_bench.run import cards, pipeline
from ssd_bench.run import plan as planning
from ssd_bench.run.agenda import Agenda, Wanted
from ssd_bench.run.estimate import Work

NAMES = dict.fromkeys(planning.GROUPS, "any")
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


def test_jobs_share_a_card_where_that_is_allowed_and_take_the_emptiest(two_cards, monkeypatch):
    monkeypatch.setenv(cards.SHARED, "2")
    monkeypatch.setattr(cards, "_last", 0)
    with ExitStack() as held:
        taken = [held.enter_context(cards.leased()) for _ in range(4)]
        assert sorted(taken[:2]) == sorted(taken[2:]) == ["cuda:0", "cuda:1"]
        assert held.enter_context(cards.leased("cuda:1")) == "cuda:1"  # named: no lease to wait for
    monkeypatch.setenv(cards.SHARED, "none")
    with pytest.raises(ConfigError, match=r"SSD_BENCH_JOBS_PER_GPU must be a whole number from 1 on, got none"):
        cards.jobs_per_card()


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


def test_cards_have_names_that_do_not_depend_on_what_this_process_sees(monkeypatch):
    about = [
        SimpleNamespace(uuid="12ab", pci_bus_id=1),
        SimpleNamespace(pci_domain_id=0, pci_bus_id=59, pci_device_id=0),
        SimpleNamespace(),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", about.__getitem__)
    assert cards.visible() == ["12ab", "pci-0-59-0", "index-2"]


def test_a_lease_decides_only_where_the_device_is_left_open():
    left_open, named = (planning.plan(composed(f"device={device}"), NAMES) for device in ("auto", "cuda:1"))
    assert left_open.on("cuda:3").settings.device == "cuda:3"
    assert left_open.on("cuda:3").config == left_open.config  # the row holds what was asked for
    assert named.on("cuda:3").settings.device == "cuda:1"


def test_a_folder_of_leases_that_is_not_ours_is_refused(two_cards, monkeypatch):
    cards.folder()
    me = os.getuid()
    monkeypatch.setattr(cards.os, "getuid", lambda: me + 1)
    (cards.Path(cards.tempfile.gettempdir()) / f"ssd-bench-cards-{me + 1}").mkdir()
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        cards.folder()


def test_without_cards_the_device_is_chosen_as_ever(monkeypatch):
    monkeypatch.setattr(cards, "visible", list)
    with cards.leased() as device:
        assert device == "auto"


def test_a_ticket_makes_what_is_shared_and_does_one_run_on_the_card_that_it_leased(two_cards, tmp_path, monkeypatch):
    agenda, made, ran = agenda_of(tmp_path, a="o1", b="o1"), [], []
    monkeypatch.setattr(ticket, "plan_of", lambda agenda, unit, device: planning.plan(composed(), NAMES).on(device))
    monkeypatch.setattr(pipeline, "ahead", lambda plan, what: made.append((what, plan.settings.device)))
    ticket.serve(agenda.folder, lambda agenda, unit, device: ran.append((unit.label, device)))
    assert made == [("original", "cuda:0")]
    assert ran == [("a", "cuda:0")]
    with cards.leased() as card:  # it was given back
        assert card == "cuda:0"
        ticket.serve(agenda.folder, lambda agenda, unit, device: ran.append((unit.label, device)))
    assert ran[1:] == [("b", "cuda:1")]
    assert agenda.over


@pytest.mark.parametrize(("devices", "leases"), [(("cuda:1", "cuda:1"), "cuda:1"), (("cuda:1", "auto"), "cuda:0")])
def test_a_sweep_of_jobs_that_name_their_device_leases_nothing(two_cards, tmp_path, monkeypatch, devices, leases):
    monkeypatch.setattr(cards, "_last", 0)
    jobs = [{"config": {"a": {1: "one"}}, "device": device, "names": {}, "label": device} for device in devices]
    agenda = Agenda.write(tmp_path, jobs, [Wanted(None, device, []) for device in devices], [])
    ran = []
    ticket.serve(agenda.folder, lambda agenda, unit, device: ran.append(device))
    assert ran == [leases]


def test_what_cannot_be_made_ahead_is_left_to_the_runs_and_a_failed_run_is_over(tmp_path, monkeypatch, caplog):
    agenda = agenda_of(tmp_path, a="o1")
    monkeypatch.setattr(ticket, "plan_of", lambda *_: 1 / 0)
    caplog.set_level("INFO")

    def fails(*_):
        raise ValueError("as said")

    with pytest.raises(ValueError, match="as said"):
        ticket.serve(agenda.folder, fails)
    assert "ZeroDivisionError: division by zero; left to the runs" in caplog.text
    assert agenda.over
    ticket.serve(agenda.folder, fails)  # nothing is left


def test_an_interrupted_ticket_leaves_its_work_to_others(tmp_path, monkeypatch):
    agenda = agenda_of(tmp_path, a="")

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ticket.serve(agenda.folder, interrupted)
    with agenda.claim() as unit:
        assert unit.label == "a"
