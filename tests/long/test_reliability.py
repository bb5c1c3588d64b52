"""Killed, started many times over, out of room, in another order: nothing is lost and no number changes.

`./scripts/test --long tests/test_reliability.py` runs many more trials and prints what it counted, see
docs/reliability.md.
"""

import hashlib
import json
import os
import random
import signal
import time
import weakref
from pathlib import Path

import pytest
import torch
from conftest import SHORT
from forked import FORK, child, start

from ssd_bench.cli import run as cli
from ssd_bench.cli.interrupt import interruptible
from ssd_bench.store import artefacts, resume
from ssd_bench.store.files import Damaged
from ssd_bench.store.rows import read_row, read_rows


@pytest.fixture(autouse=True, scope="module")
def _imported():
    import sklearn.linear_model  # noqa: F401

    torch.use_deterministic_algorithms(True, warn_only=True)  # imports much


def complete(arguments, log):
    process = start(arguments, log)
    process.join(300)
    assert process.exitcode == 0, log.read_text()


def contents(folder):
    """What a folder of runs says: every artefact's bytes (as a hash) and every metric, times left out."""
    found = {}
    for path in sorted(folder.rglob("artefacts/*/*.safetensors")):
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    for row in read_rows(folder):
        kept = {key: row[key] for key in ("status", "task", "settings", "metrics", "original_metrics", "details")}
        found[row["path"]] = json.dumps(kept, sort_keys=True)
    return found


COMMANDS = {
    "retrain": ("method=retrain",),
    "unsir": ("method=unsir", "method.noise_mode=train"),
    "best_test": ("method=ssd", "train.select=best_test"),
    "adam": ("-m", "method=teacher,amnesiac"),
}


def test_killed_at_random_it_goes_on_and_ends_with_the_same_bytes(tmp_path, trials, record_property):
    draws, short = random.Random(0), (*SHORT, f"train.epochs={trials(3, 5)}")
    killed = resumed = ended = 0
    reference = {}
    for name, arguments in COMMANDS.items():
        complete([*short, *arguments, f"out={tmp_path / name}"], tmp_path / f"{name}.log")
        reference[name] = contents(tmp_path / name)
        assert not list((tmp_path / name / "artefacts/training").glob("*.safetensors"))
    for trial in range(trials(4, 100)):
        name = list(COMMANDS)[trial % len(COMMANDS)]
        folder, log = tmp_path / f"{name}-{trial}", tmp_path / f"{name}-{trial}.log"
        in_training = start([*short, *COMMANDS[name], f"out={folder}"], log, 0.0, checkpoints=draws.randint(1, 10))
        in_training.join(300)  # on any machine, however fast: those below die anywhere
        assert in_training.exitcode == -signal.SIGKILL, log.read_text()
        killed += 1
        for attempt in range(300):
            every_s = draws.choice((0.0, 120.0))  # after every step, or after every epoch
            process = start([*short, *COMMANDS[name], f"out={folder}"], log, every_s)
            process.join(draws.uniform(0.1, trials(1.5, 1.0)) * (1 + attempt / 5))  # patient on a busy machine
            if process.exitcode is not None:
                assert process.exitcode == 0, log.read_text()
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:
            pytest.fail(f"no progress: {log.read_text()[-2000:]}")
        resumed += log.read_text().count("resumes in epoch")
        ended += 1
        assert contents(folder) == reference[name], log.read_text()
        assert not list(folder.rglob("*.damaged")), log.read_text()
    assert resumed >= ended, "a training that was hit began anew"
    record_property("killed", f"{ended} commands, {killed} kills, {resumed} trainings went on, differences: none")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_says_so_and_leaves_nothing_half_written(tmp_path, how):
    log = tmp_path / "log"
    process = start([*SHORT, "train.epochs=4000", f"out={tmp_path / 'runs'}", "method=original"], log)
    for _ in range(300):
        if list(tmp_path.rglob("artefacts/training/*.safetensors")):
            break
        time.sleep(0.1)
    os.kill(process.pid, how)
    process.join(60)
    assert process.exitcode == 130, log.read_text()
    assert log.read_text().splitlines()[-1].startswith("ssd-bench: interrupted")
    assert not list(tmp_path.rglob(".part-*"))
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_inside_a_callback_whose_exceptions_python_drops_it_ends(tmp_path, monkeypatch, how):
    class Referent:
        pass

    def save(*given):  # in the forked process
        saved(*given)
        referent = Referent()
        reference = weakref.ref(referent, lambda _: signal.raise_signal(how))
        del referent
        assert reference() is None

    saved, log = resume.Checkpoint.save, tmp_path / "log"
    monkeypatch.setattr(resume.Checkpoint, "save", save)
    process = start([*SHORT, "train.epochs=4000", f"out={tmp_path / 'runs'}", "method=original"], log)
    process.join(60)
    assert process.exitcode == 130, log.read_text()
    assert log.read_text().splitlines()[-1].startswith("ssd-bench: interrupted")


def test_an_interrupt_that_is_raised_again_wakes_what_waits():
    class Referent:
        pass

    with interruptible():
        referent = Referent()
        reference = weakref.ref(referent, lambda _: signal.raise_signal(signal.SIGTERM))
        del referent
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
        assert reference() is None
    assert time.monotonic() - begun < 30


def test_many_processes_on_one_task_train_once_and_all_end(tmp_path, trials, record_property):
    folder = tmp_path / "runs"
    methods = ["original", "ssd", "finetune", "teacher", "ssd", "amnesiac", "retrain", "ssd"]
    for round_ in range(trials(1, 12)):
        out = folder / str(round_)
        logs = [tmp_path / f"{round_}-{i}.log" for i in range(len(methods))]
        processes = [
            start([*SHORT, "train.epochs=4", f"method={method}", f"out={out}"], log)
            for method, log in zip(methods, logs, strict=True)
        ]
        if round_ % 3 == 0:  # one dies, perhaps the one that trains, and others take over
            time.sleep(1.5)
            os.kill(processes[0].pid, signal.SIGKILL)
        for i, (process, log) in enumerate(zip(processes, logs, strict=True)):
            process.join(300)
            assert process.exitcode == 0 or (round_ % 3 == 0 and i == 0), log.read_text()
        said = "".join(log.read_text() for log in logs)
        assert len(read_rows(out)) >= len(set(methods)) - (round_ % 3 == 0)
        for kind, count in (("trained", 2), ("importance_full", 1), ("unlearned", 4)):
            assert len(list((out / "artefacts" / kind).glob("*.json"))) == count, kind
        trained = [row for row in read_rows(out) if not row["cached"]["original"]]
        assert len(trained) <= 1, said
        assert not list(out.rglob("*.damaged")), said
    record_property("at once", f"{trials(1, 12)} rounds of {len(methods)} processes, originals trained twice: none")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are a Unix matter")
def test_out_of_room_it_says_so_and_goes_on_when_there_is_room(tmp_path, trials, record_property):
    """A limit on the size of files stands for a full disk: writes fail in the middle of a file."""
    import resource

    complete([*SHORT, "method=ssd", f"out={tmp_path / 'reference'}"], tmp_path / "reference.log")
    sizes = [path.stat().st_size for path in (tmp_path / "reference").rglob("*.*") if path.is_file()]

    def limited(arguments, log, limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        child(arguments, log, 120.0)

    failed = 0
    limits = sorted({max(size // 2, 1) for size in sizes})
    for trial, limit in enumerate(limits[:: max(1, len(limits) // trials(5, 50))]):  # all sizes of files
        folder, (read, write) = tmp_path / f"{trial}", os.pipe()  # no limit on what goes into a pipe
        arguments = [*SHORT, "method=ssd", f"out={folder}"]
        process = FORK.Process(target=limited, args=(arguments, f"/dev/fd/{write}", limit))
        process.start()
        os.close(write)
        with open(read) as pipe:
            said = pipe.read()
        process.join(120)
        assert process.exitcode in (0, 2), said
        assert "Traceback" not in said
        failed += process.exitcode == 2
        if process.exitcode == 2:
            assert "cannot be written" in said.splitlines()[-1], said
            assert "File too large" in said
        assert not list(folder.rglob(".part-*"))
        complete([*SHORT, "method=ssd", f"out={folder}"], tmp_path / f"{trial}-again.log")
        assert contents(folder) == contents(tmp_path / "reference")
        assert not list(folder.rglob("*.damaged"))
    assert failed
    record_property("no room", f"{failed} commands stopped by a full disk, went on when there was room: all")


def test_an_output_folder_that_cannot_be_one(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing", tmp_path / "link"):
        ended = command(*SHORT, f"out={out}")
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith("ssd-bench: out=")
        assert "Traceback" not in ended.err
    assert (tmp_path / "file").read_text() == "mine"


SHARING = ["assd", "influence", "salun", "ssd"]


def test_every_run_is_the_same_alone_in_a_sweep_and_in_another_order(command, tmp_path, trials):
    methods = [path.stem for path in sorted((Path(cli.planning.CONF_DIR) / "method").glob("*.yaml"))]
    methods = trials(SHARING, methods)  # an order can matter most to those that find what others kept
    scenarios, sizes = ("full_class", "random"), (*SHORT, f"data.train_per_class={trials(15, 30)}")
    forward = f"method={','.join(methods)}", f"scenario={','.join(scenarios)}"
    assert command("-m", *sizes, *forward, f"out={tmp_path / 'sweep'}").code == 0
    for scenario in reversed(scenarios):
        for method in reversed(methods):
            artefacts._recent.clear()
            assert command(*sizes, f"method={method}", f"scenario={scenario}", f"out={tmp_path / 'alone'}").code == 0
    one, other = contents(tmp_path / "sweep"), contents(tmp_path / "alone")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    assert len([name for name in one if name.endswith("metrics.json")]) == len(methods) * len(scenarios)


def flipped(path, draws):
    """One byte of a file becomes another; or, sometimes, the file ends early."""
    whole = path.read_bytes()
    place = draws.randrange(len(whole))
    if draws.random() < 0.2:
        path.write_bytes(whole[:place])
    else:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ draws.randrange(1, 256)]) + whole[place + 1 :])
    return whole


def test_damage_at_any_byte_is_noticed(command, tmp_path, trials, caplog, record_property):
    command(*SHORT, "method=ssd", f"out={tmp_path / 'runs'}")
    files = [p for p in (tmp_path / "runs").rglob("*") if p.suffix in (".json", ".safetensors")]
    draws, unnoticed, harmless = random.Random(0), [], 0
    for trial in range(trials(60, 5000)):
        path = files[trial % len(files)]
        before = json.loads(path.read_text()) if path.suffix == ".json" else None
        whole = flipped(path, draws)
        try:
            if path.name == "metrics.json":
                read_row(path)
            else:
                artefacts.read_artefact(path.with_suffix(".safetensors"))
        except Damaged:
            pass
        else:
            same = before is not None and json.loads(path.read_text()) == before  # white space
            harmless += same
            unnoticed += [] if same else [path]
        path.write_bytes(whole)
    assert unnoticed == []
    record_property("damaged", f"{trials(60, 5000)} files, unnoticed: none ({harmless} changes of white space alone)")


def test_a_damaged_row_is_set_aside_and_made_again(command, tmp_path):
    arguments = (*SHORT, "method=ssd", f"out={tmp_path}")
    first = command(*arguments).row
    path = next(tmp_path.rglob("metrics.json"))
    path.write_text(path.read_text().replace('"forget_acc": ', '"forget_acc": 1'))
    again = command(*arguments)
    assert again.code == 0
    assert "set aside" in again.err
    assert again.row["metrics"] == first["metrics"]
    assert path.with_name("metrics.json.damaged").exists()


def test_a_damaged_checkpoint_is_set_aside_and_training_begins_anew(command, tmp_path):
    arguments = (*SHORT, "train.epochs=40", "method=original", f"out={tmp_path / 'runs'}")
    process = start(arguments, tmp_path / "log")
    while not (found := list(tmp_path.rglob("artefacts/training/*.safetensors"))):
        assert process.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    whole = found[0].read_bytes()
    found[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    ended = command(*SHORT, "train.epochs=40", "method=original", f"out={tmp_path / 'runs'}")
    assert ended.code == 0
    assert "checksum differs" in ended.err
    assert "goes on" not in ended.err


def test_a_long_sweep_in_one_process_does_not_grow(command, tmp_path, monkeypatch, trials, record_property):
    """Memory, open files and seconds per run of the last quarter of a sweep against the second."""
    import psutil

    me, figures, note = psutil.Process(), [], cli._note

    def noted(row=None, code=None):
        figures.append((me.memory_info().rss, me.num_fds(), read_row(row)["times"]["total_s"]))
        note(row, code)

    monkeypatch.setattr(cli, "_note", noted)
    n = trials(20, 400)
    alphas = f"method.alpha=range(1,{n // 20 + 1})"
    assert command("-m", *SHORT, "seed=0,1", "scenario.target=range(0,10)", alphas, f"out={tmp_path}").code == 0
    assert len(figures) == n
    quarters = [zip(*part, strict=True) for part in (figures[n // 4 : n // 2], figures[-n // 4 :])]
    memory, files, seconds = zip(*([sorted(c)[len(c) // 2] for c in quarter] for quarter in quarters), strict=True)
    assert files[1] <= files[0]
    assert memory[1] < 1.1 * memory[0]
    record_property(
        "soak",
        f"{n} runs; second and last quarter: {memory[0] / 1e6:.0f} and {memory[1] / 1e6:.0f} MB, "
        f"{files[0]} and {files[1]} open files, {seconds[0]:.2f} and {seconds[1]:.2f} s a run",
    )


def test_a_parallel_sweep_gives_the_same_bytes_its_tables_and_its_exit_code(command, tmp_path):
    sweep = ("-m", *SHORT, "method=original,ssd,unsir", "scenario=full_class,random")
    assert command(*sweep, f"out={tmp_path / 'one'}").code == 0
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "threads=auto", f"out={tmp_path / 'two'}")
    ended = command(*(a for a in sweep if a != "threads=1"), *parallel)
    assert ended.code == 0, ended.err
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert {row["env"]["threads"] for row in read_rows(tmp_path / "two")} == {1}
    beside = {name: {row["env"]["parallel"] for row in read_rows(tmp_path / name)} for name in ("one", "two")}
    assert beside == {"one": {False}, "two": {True}}  # whose times other jobs may have lengthened
    assert ended.out.count("unsir") >= 2, "no tables"
    assert "6 runs in" in ended.err
    bad = command("-m", *SHORT, "method=ssd", "scenario.target=1,elven", *parallel[:2], f"out={tmp_path / 'three'}")
    assert bad.code == 1
    assert len(read_rows(tmp_path / "three")) == 1
    assert "Traceback" not in bad.err


def test_a_method_whose_weights_are_not_kept_goes_on_until_its_row_is_there(command, tmp_path, monkeypatch):
    from ssd_bench.run import pipeline

    arguments = (*SHORT, "method=finetune", "save_model=false", f"out={tmp_path}")

    evaluated = []

    def interrupted(*given, **how):
        evaluated.append(given)
        if len(evaluated) > 1:  # the original comes first
            raise KeyboardInterrupt
        return evaluate(*given, **how)

    with monkeypatch.context() as patch:
        evaluate = pipeline.evaluate
        patch.setattr(pipeline, "evaluate", interrupted)
        assert command(*arguments).code == 130
    ended = command(*arguments)
    assert ended.code == 0
    assert "finetune: resumes in epoch 11" in ended.err
    assert not list(tmp_path.rglob("artefacts/training/*.safetensors"))


def test_seconds_of_killed_processes_count_and_those_for_checkpoints_do_not(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    state = {"draws": torch.zeros(3)}, {"epoch": 1}
    with resume.checkpoints(artefacts.Store(tmp_path), "kind", {}, keep=True) as first:
        checkpoint, begun = first("a"), first.clock()
        now[0] += 10
        save = resume.save_tensors

        def slow(*arguments, **how):
            now[0] += 3
            save(*arguments, **how)

        monkeypatch.setattr(resume, "save_tensors", slow)
        checkpoint.save(*state)
        now[0] += 5  # lost: not in the checkpoint
        assert first.clock() - begun == 15
    with resume.checkpoints(artefacts.Store(tmp_path), "kind", {}) as second:
        checkpoint, begun = second("a"), second.clock()
        tensors, known = checkpoint.restore()
        assert torch.equal(tensors["draws"], state[0]["draws"])
        assert known["epoch"] == 1
        now[0] += 7
        assert second.clock() - begun == 17


def test_a_sweep_that_is_cut_short_does_not_pass_for_one_bad_job(command, tmp_path, monkeypatch):
    """One job is wrong and says so; then a worker is killed, as for want of memory: that is not the same error."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown()
    killer = tmp_path / "killer.py"
    killer.write_text(
        "import os, signal, time\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\nclass Killer:\n"
        "    def __call__(self, model, data, context):\n"
        "        time.sleep(1)\n        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/killer.yaml").write_text("_target_: killer.Killer\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    sweep = ("-m", "--config-dir", str(tmp_path / "conf"), *SHORT, "method=original,killer", "scenario.target=elven,1")
    ended = command(*sweep, *launcher, f"out={tmp_path / 'runs'}")
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith("ssd-bench: the sweep was cut short (TerminatedWorkerError")
    get_reusable_executor().shutdown()
