"""The command line, driven in this process: what it answers, what it leaves, and what it says to wrong input."""

import importlib
import linecache
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SHORT, composed
from forked import start
from safetensors.torch import load_file

import ssd_bench
from ssd_bench.cli.run import main
from ssd_bench.models.fresh import fresh
from ssd_bench.models.resnet import ResNet18
from ssd_bench.run.plan import CONF_DIR

SECTIONS = {
    "schema", "layout", "status", "reason", "task", "method", "settings", "config", "metrics", "original_metrics",
    "tuned", "samples", "about", "columns", "control", "classes", "details", "times", "cached", "artefacts", "memory",
    "env",
}  # fmt: skip
TIME = re.compile(r"\d\d:\d\d:\d\d ")  # begins a line of the log


def test_a_sample_of_the_retained_images_is_enough_for_those_who_ask(command, tmp_path):
    whole, drawn, again = (
        command(*SHORT, f"out={tmp_path / name}", f"evaluate.retain_train_samples={n}")
        for name, n in (("whole", "null"), ("drawn", 100), ("again", 100))
    )
    assert (whole.row["samples"]["retain_train"], drawn.row["samples"]["retain_train"]) == (270, 100)
    assert drawn.row["metrics"] == again.row["metrics"]
    for name in ("retain_acc", "forget_acc", "test_acc", "forget_train_acc", "zrf"):
        assert drawn.row["metrics"][name] == whole.row["metrics"][name]
    error = 100 * (0.25 * (1 - 100 / 270) / 100) ** 0.5
    assert abs(drawn.row["metrics"]["retain_train_acc"] - whole.row["metrics"]["retain_train_acc"]) < 4 * error
    assert f"D_r: 100 of 270 images, drawn at random; standard error of its accuracy: {error:.1f} or less" in drawn.out


def test_a_run_leaves_a_row_and_prints_a_table(command, runs):
    ended = command(*SHORT, f"out={runs}")
    assert ended.code == 0
    row = ended.row
    assert set(row) == SECTIONS
    assert (row["status"], row["method"], row["schema"]) == ("done", "ssd", 1)
    assert {key: row["settings"][key] for key in ("alpha", "lam")} == {
        k: composed().method[k] for k in ("alpha", "lam")
    }
    assert row["tuned"] == {"study": "ssd-digits-resnet18_slim-full_class", "budget": "20 trials"}
    assert row["task"]["target"] == "8"
    assert row["task"]["n_forget"] == 30
    assert len(row["task"]["forget_sha256"]) == 64
    for name in ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc", "mia"):
        assert 0 <= row["metrics"][name] <= 100
    assert row["details"]["selected"] == sum(row["details"]["per_tensor"].values())
    times = row["times"]
    assert 0 < times["online_s"] <= times["method_s"] - times["importance_full_s"]
    assert 0 < times["importance_full_s"] <= times["method_s"]
    assert row["memory"]["what"]
    for name in ("original", "unlearned", "outputs", "importance_full"):
        assert Path(row["artefacts"][name]).is_file()
    table = [line.split() for line in ended.out.splitlines()]
    assert [line[0] for line in table if line and line[0] in ("original", "ssd")] == ["original", "ssd"]


def test_the_row_tells_how_to_get_the_unlearned_model_back(command, runs):
    row = command(*SHORT, f"out={runs}").row
    model = ResNet18(width=4).build(10, 1, 8)
    model.load_state_dict(load_file(row["artefacts"]["unlearned"]))
    original = load_file(row["artefacts"]["original"])
    changed = sum(int((p != original[name]).sum()) for name, p in model.named_parameters())
    assert 0 < changed <= row["details"]["selected"]


def test_a_finished_run_is_not_run_again_unless_forced(command, runs):
    first = command(*SHORT, f"out={runs}")
    again = command(*SHORT, f"out={runs}")
    assert again.code == 0
    assert "finished already" in again.err
    assert again.out == first.out
    forced = command(*SHORT, f"out={runs}", "force=true")
    assert forced.row["metrics"] == first.row["metrics"]
    assert forced.row["env"]["started"] >= first.row["env"]["started"]
    assert forced.row["cached"]["original"]


def test_settings_that_are_equal_are_one_run(command, runs):
    paths = {command(*SHORT, f"out={runs}", f"method.alpha={a}").out.splitlines()[-1] for a in ("5", "5.0", "5e0")}
    assert len(paths) == 1


def test_a_later_request_finds_the_original_and_its_importances(command, runs):
    mean = (*SHORT, f"out={runs}", "method.importance=batch_mean")
    command(*mean)
    row = command(*mean, "scenario.target=3", "method.alpha=4").row
    assert row["cached"] == {"original": True, "importance_full": True, "unlearned": False}
    assert row["times"]["importance_full_s"] == 0
    assert row["times"]["importance_full_cost_s"] > 0
    assert 0 < row["times"]["online_s"] <= row["times"]["method_s"]
    mixed = command(*mean, "scenario.target=3", "method.order=request").row
    assert not mixed["cached"]["importance_full"]  # the released order depends on the request


def test_same_command_same_numbers_in_another_folder(command, tmp_path):
    rows = [command(*SHORT, f"out={tmp_path / name}").row for name in "ab"]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    for kind in ("original", "unlearned", "outputs", "importance_full"):
        one, other = (Path(row["artefacts"][kind]).read_bytes() for row in rows)
        assert one == other


def test_seeds_change_what_they_say(command, runs):
    base = ("scenario=random", "scenario.n_forget=20", *SHORT, f"out={runs}", "method=original")
    tasks = {s: command(*base, s).row["task"] for s in ("seed=0", "seed=1", "seed_forget=1", "seed_unlearn=1")}
    assert tasks["seed=1"]["original"] != tasks["seed=0"]["original"]
    assert tasks["seed=1"]["forget_sha256"] == tasks["seed_forget=1"]["forget_sha256"]
    assert tasks["seed=0"]["forget_sha256"] != tasks["seed_forget=1"]["forget_sha256"]
    assert tasks["seed_forget=1"]["original"] == tasks["seed=0"]["original"]
    assert tasks["seed_unlearn=1"] == tasks["seed=0"]  # the original draws nothing
    assert tasks["seed=0"]["seed_unlearn"] is None
    finetune = command(*base[:-1], "method=finetune", "seed_unlearn=1", "method.epochs=1").row["task"]
    assert finetune["seed_unlearn"] == 1


def test_nothing_selected_is_a_warning(command, runs):
    ended = command(*SHORT, f"out={runs}", "method.alpha=1000")
    assert ended.code == 0
    assert "selected nothing" in ended.err
    assert ended.row["details"]["selected"] == 0
    assert ended.row["metrics"] == ended.row["original_metrics"]


def test_a_sweep_shares_survives_a_bad_job_and_ends_with_1(command, runs):
    ended = command("-m", *SHORT, f"out={runs}", "method=original,finetune,ssd", "scenario.target=8,eight")
    assert ended.code == 1
    assert ended.err.count("ssd-bench: scenario.target=eight does not exist") == 3
    assert ended.out.count("metrics: ") == 3
    assert "inside forward and backward passes" in ended.err
    assert "finetune" in ended.out
    assert not list(runs.glob("*/full_class-eight"))


def test_a_sweep_without_bad_jobs_ends_with_0(command, runs):
    assert command("-m", *SHORT, f"out={runs}", "method=original,ssd").code == 0


def test_a_diverged_run_leaves_a_row_and_ends_with_3(command, tmp_path):
    arguments = (*SHORT, f"out={tmp_path}", "method=finetune", "method.lr=1e30")
    ended = command(*arguments)
    assert ended.code == 3
    assert ended.row["status"] == "diverged"
    assert "finetune: the loss is nan" in ended.row["reason"]
    assert set(ended.row["metrics"].values()) == {None}
    assert ended.row["original_metrics"]["test_acc"] > 0
    assert "diverged" in ended.out
    assert "original" in ended.out
    assert command(*arguments).code == 3
    assert command("-m", *arguments).code == 1


def test_an_original_that_diverged_is_not_put_down_to_the_method(command, tmp_path):
    model = fresh(ResNet18(width=4), 3, 10, 1, 8)
    model.fc.weight.data.fill_(torch.inf)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    for method in ("original", "ssd"):
        given = f"model.checkpoint={tmp_path / 'model.pth'}", f"method={method}"
        ended = command(*SHORT, *given, f"out={tmp_path / 'runs'}")
        assert (ended.code, ended.row["status"]) == (3, "diverged")
        assert ended.row["reason"].startswith("the original itself: ")


def test_a_checkpoint_is_unlearned_instead_of_training(command, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(fresh(ResNet18(width=4), 3, 10, 1, 8).state_dict(), path)
    row = command(*SHORT, f"out={tmp_path / 'runs'}", f"model.checkpoint={path}").row
    assert row["times"]["train_original_s"] is None
    assert row["artefacts"]["original"] == str(path)
    assert not (tmp_path / "runs/artefacts/original").exists()


def test_dry_run_leaves_nothing(command, tmp_path):
    ended = command(*SHORT, f"out={tmp_path / 'runs'}", "dry_run=true")
    assert ended.code == 0
    assert "would be run" in ended.out
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_would_be_skipped(command, tmp_path):
    ended = command(*SHORT, f"out={tmp_path / 'runs'}", "dry_run=true", "method=unsir", "scenario=random")
    assert ended.code == 0
    assert "would be skipped, unsir" in ended.out


def test_a_dry_sweep_counts_what_is_shared_once_and_leaves_nothing(command, tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_bench.run.estimate.MEASURED_S", 0.05)
    sweep = ("-m", *SHORT, f"out={tmp_path / 'runs'}", "method=ssd,finetune", "method.lr=1")  # what exists is checked
    assert command(*sweep, "dry_run=true").code != 0
    sweep = ("-m", *SHORT, f"out={tmp_path / 'runs'}", "seed=0,1", "method=original,ssd")
    ended = command(*sweep, "dry_run=true")
    assert ended.code == 0, ended.err
    assert "4 runs: 0 finished already, 4 to do" in ended.out
    wanted = "2 original (for 4 runs), 4 outputs (for 6 runs), 4 features (for 6 runs), 2 importance_full, 2 ssd"
    wanted += ", 2 last_layer (for 4 runs)"
    said = next(line for line in ended.out.splitlines() if line.startswith("to be made"))
    assert sorted(said.removeprefix("to be made, each once: ").split(", ")) == sorted(wanted.split(", "))
    assert not (tmp_path / "runs").exists()
    command("-m", *SHORT, f"out={tmp_path / 'runs'}", "seed=0", "method=original,ssd")
    before = sorted(tmp_path.rglob("*"))
    ended = command(*sweep, "dry_run=true")
    assert "4 runs: 2 finished already, 2 to do" in ended.out
    assert "1 original (for 2 runs)" in ended.out
    assert sorted(tmp_path.rglob("*")) == before
    command(*sweep)
    made = {kind: len(list((tmp_path / "runs/artefacts" / kind).glob("*.json"))) for kind in ("trained", "unlearned")}
    assert made == {"trained": 2, "unlearned": 2}
    ended = command(*sweep, "dry_run=true")
    assert "4 runs: 4 finished already, 0 to do" in ended.out
    assert "to be made" not in ended.out
    row = next((tmp_path / "runs").rglob("ssd-*/metrics.json"))
    row.write_text(row.read_text().replace('"status"', '"state"'))  # damaged: the run would make it anew
    assert "4 runs: 3 finished already, 1 to do" in command(*sweep, "dry_run=true").out


def test_everything_lies_under_out(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("-m", *SHORT, "out=here", "method=original", "seed=0")
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_save_model_false_keeps_no_unlearned_weights(command, tmp_path):
    row = command(*SHORT, f"out={tmp_path}", "save_model=false").row
    assert row["artefacts"]["unlearned"] is None
    assert not (tmp_path / "artefacts/unlearned").exists()


def test_sets_left_out_are_null(command, runs):
    row = command(*SHORT, f"out={runs}", "evaluate.sets=[forget]").row
    assert row["metrics"]["forget_acc"] is not None
    assert row["metrics"]["zrf"] is not None
    assert row["metrics"]["mia"] is row["metrics"]["test_acc"] is None


WRONG = {  # arguments -> what the line says
    "method=sdd": "did you mean 'ssd'",
    "scenario.target=1_0": "Hydra reads 1_0 as 10; write",
    "scenario.target=[3,1_0]": "Hydra reads 1_0 as 10; write",
    "scenario.target=1_0-cats": "scenario.target=1_0-cats does not exist; allowed: 0, 1",
    "data=cifar1": "did you mean 'cifar10'",
    "model=resnet": "did you mean 'resnet18'",
    "scenario=fullclass": "did you mean 'full_class'",
    "train=resnet81": "did you mean 'resnet18'",
    "metric=[accuracy,zfr]": "did you mean 'zrf'",
    "experiment=table": "experiment",
    "experiment=cifar20_sub_class": "add --multirun",
    "methd=ssd": "did you mean 'method'",
    "sede=1": "did you mean 'seed'",
    "method.alpa=3": "did you mean 'method.alpha'",
    "+method.alpa=3": "did you mean 'method.alpha'",
    "data.rot=x data=cifar10": "did you mean 'data.root'",
    "model.widht=8": "did you mean 'model.width'",
    "scenario.taget=8": "did you mean 'scenario.target'",
    "train.epoch=3": "did you mean 'train.epochs'",
    "evaluate.avrage=batch": "did you mean 'evaluate.average'",
    "method.alpha=abc": "method.alpha=abc is not allowed; allowed: a number",
    "method.alpha=-1": "alpha must be at least 0",
    "method.alpha=null": "method.alpha=null is not allowed",
    "method.alpha=inf": "allowed: a finite number",
    "train.weight_decay=nan": "allowed: a finite number",
    "method.batch_size=0": "batch_size must be at least 1",
    "method.batch_size=1.5": "allowed: a whole number",
    "method.importance=fisher": "method.importance=fisher",
    "method.order=sorted": "method.order=sorted",
    "train.epochs=0": "epochs must be at least 1",
    "train.lr=0": "lr must be positive",
    "train.optimizer=adm": "did you mean 'adam'",
    "train.milestones=[15]": "between 0 and 1",
    "train.augment=maybe": "allowed: true or false",
    "model.width=0": "width must be at least 1",
    "seed=-1": "seed must be a whole number",
    "seed=one": "seed=one is not allowed",
    "fidelity=offical": "did you mean 'official'",
    "device=gpu": "device=gpu does not exist",
    "device=cuda:99": "device=cuda:99 is not there",
    "threads=0": "threads must be auto or a number",
    "evaluate.average=mean": "evaluate.average=mean",
    "evaluate.sets=[retian]": "did you mean 'retain'",
    "evaluate.batch_size=0": "batch_size must be at least 1",
    "scenario.target=eight": "scenario.target=eight does not exist",
    "scenario.target=10": "scenario.target=10 does not exist",
    "scenario=random scenario.n_forget=1437": "allowed: 1 to 1436",
    "scenario=random scenario.n_forget=0": "n_forget must be at least 1",
    "scenario=random scenario.n_forget=50 scenario.fraction=0.5": "exactly one of n_forget and fraction",
    "scenario=random scenario.n_forget=null scenario.fraction=2": "fraction must be between 0 and 1",
    "scenario=poison scenario.discovered=0": "discovered must be above 0 and at most 1",
    "scenario=confusion scenario.classes=[3,3]": "scenario.classes names 3 twice",
    "scenario=label_noise evaluate.sets=[undiscovered]": "evaluate.sets=undiscovered",
    "data.test_per_class=0": "test_per_class must be null or at least 1",
    "data.train_per_class=1000": "at most",
    "data.norm=cifar": "did you mean 'cifar100'",
    "data=cifar10 scenario=sub_class data.root=/nowhere data.download=false": "data.root=/nowhere",
    "data=cifar20 data.root=/nowhere data.download=false": "data.root=/nowhere",
    "model.checkpoint=/nowhere.pth": "model.checkpoint=/nowhere.pth",
    "model.checkpoint=README": "model.checkpoint=",
    "method=ssd,finetune": "add --multirun",
    "seed=0,1": "add --multirun",
    "ssd": "key=value",
    "method.alpha=[": "key=value",
    "--multrun": "unrecognized arguments",
    "--config-dir=/nowhere": "--config-dir=/nowhere",
    "--multirun method=ssd,sdd": "did you mean 'ssd'",
    "--multirun method=ssd,ssd method.alpa=1,2": "did you mean 'method.alpha'",
    "--multirun method=ssd,finetune method.alpha=1,2": "with method=finetune: method.alpha does not exist",
    "hydra/launcher=jobli": "hydra/launcher",
    "method._target_=nowhere.Mine": "nowhere",
    "model=vit_base model.architecture=foo": "foo",
    "scenario=sequence scenario.of=full_class scenario.requests=[null,3]": "requests holds null",
    "scenario=listed": "scenario=listed needs scenario.file=FILE",
    "data.holdout=0.0001": "data.holdout=0.0001",
    "data.validation=-0.1": "validation must be at least 0 and below 1, got -0.1",
    "data.validation=1": "validation must be at least 0 and below 1, got 1.0",
    "data.validation=ten": "data.validation=ten",
    "data.validation=0.0001": "data.validation=0.0001",
    "data.validation=0.999": "leaves no training image of 0",
    "data.validation=0.99 data.train_per_class=50 data.holdout=0.2": "leaves no training image of 0, which has 50",
    "data.validation=0.9 data.train_per_class=10 scenario=sub_class": "at least 2 are needed",
    "out='~/runs'": "~ stands for nothing here",
    "out=": "out must name a folder",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_left(command, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("README").write_text("not a checkpoint")
    ended = command(*SHORT[2:3], *arguments.split()) if "width" not in arguments else command(*arguments.split())
    lines = ended.err.strip().splitlines()
    assert ended.code == 2, ended.err
    assert lines[-1].startswith("ssd-bench: ")
    assert WRONG[arguments] in lines[-1]
    assert len(lines) <= 2
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["README"]


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_out_that_cannot_be_written(command, tmp_path, out):
    (tmp_path / "file").write_text("")
    ended = command(*SHORT, f"out={tmp_path / out}")
    assert ended.code == 2
    assert "cannot be written" in ended.err.splitlines()[-1]
    swept = command("--multirun", *SHORT, f"out={tmp_path / out}", "seed=0,1")
    assert swept.code == 2
    assert "cannot be written" in swept.err.splitlines()[-1]


def test_typos_and_help_do_not_wait_for_torch():
    program = (
        "import sys; sys.argv = ['ssd-bench', *sys.argv[1:]]\n"
        "from ssd_bench.cli.run import main\n"
        "try: main()\n"
        "except SystemExit as e: print('CODE', e.code, 'torch' in sys.modules)"
    )
    for argument, expected in (
        ("method.alpa=3", "CODE 2 False"),
        ("+method.alpa=3", "CODE 2 False"),
        ("--help", "CODE 0 False"),
    ):
        said = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, check=True)
        assert said.stdout.strip().endswith(expected), said


def test_the_version_is_ours(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ssd-bench", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"ssd-bench {ssd_bench.__version__} (Hydra ")


def test_simultaneous_processes_make_one_row(tmp_path):
    arguments, logs = [*SHORT, f"out={tmp_path / 'runs'}", "method=finetune"], [tmp_path / "one", tmp_path / "other"]
    both = [start(arguments, log) for log in logs]
    for process, log in zip(both, logs, strict=True):
        process.join(300)
        assert process.exitcode == 0, log.read_text()
    said = [[line for line in log.read_text().splitlines() if not TIME.match(line)] for log in logs]
    assert said[0] == said[1]  # the same table and the same row
    assert said[0][-1].startswith("metrics: ")
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    assert len(list((tmp_path / "runs/artefacts/unlearned").glob("*.safetensors"))) == 1


def test_an_edited_method_is_run_again(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/edited.yaml").write_text("_target_: edited.Edited\n")
    body = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Edited:\n"
    body += (
        "    def __call__(self, model, data, context):\n        context.details['version'] = {}\n        return model\n"
    )
    versions = []
    for text in (body.format(1), body.format(1) + "# a remark\n", body.format(2)):
        (tmp_path / "edited.py").write_text(text)
        sys.modules.pop("edited", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        row = command("--config-dir", "conf", "method=edited", *SHORT, f"out={tmp_path / 'runs'}").row
        versions.append(row["details"]["version"])
    assert versions == [1, 1, 2]
    assert len(list((tmp_path / "runs").rglob("metrics.json"))) == 2


def test_an_interruption_ends_with_130(command, monkeypatch, tmp_path):
    from ssd_bench.run import pipeline

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupt)
    ended = command(f"out={tmp_path / 'runs'}")
    assert ended.code == 130
    assert ended.err.strip().splitlines()[-1].startswith("ssd-bench: interrupted")


def test_a_bug_keeps_its_traceback_from_the_package_on(command, monkeypatch, tmp_path):
    from ssd_bench.metrics import accuracy

    monkeypatch.setattr(accuracy, "cross_entropy", lambda *_, **__: 1 / 0)
    ended = command(*SHORT, f"out={tmp_path / 'runs'}", "method=original")
    assert ended.code == 1
    assert "ZeroDivisionError: division by zero" in ended.err
    assert "ssd_bench/metrics/accuracy.py" in ended.err
    assert "hydra/_internal" not in ended.err


def test_precedence_command_line_fidelity_tuned_default():
    assert composed().method.alpha == pytest.approx(5.643, abs=1e-3)  # a study's, for digits
    assert composed("protocol=published").method.alpha == 10.0
    assert composed("fidelity=official").method.alpha == 10.0
    assert composed("data=cifar100").method.alpha == 10.0  # the method's default
    assert composed("method.alpha=3").method.alpha == 3
    assert composed().method.order == "class_pure"
    assert composed("scenario=random").method.order == "mixed"  # tuned for the scenario
    assert composed("scenario=random", "fidelity=official").method.order == "request"  # fidelity wins over tuned
    assert composed("fidelity=official", "method.order=mixed").method.order == "mixed"  # the command line over it


def test_cifar_asks_for_the_papers_model_and_digits_for_a_small_one():
    assert composed().model.width == 16
    assert composed("data=cifar100").model.width == 64
    assert composed("data=cifar20", "model=resnet18_slim").model.width == 16
    assert composed("model=vit_base", "data=cifar100").model.architecture


def test_milestones_and_epochs_follow_data_and_model():
    cfg = composed("data=cifar20", "model=resnet18")
    assert (cfg.train.epochs, cfg.train.lr, cfg.train.batch_size, cfg.train.weight_decay) == (40, 0.1, 64, 5e-4)
    assert composed("data=cifar100").train.epochs == 200
    assert composed("data=cifar100").train.augment  # which cifar100 does not mention
    assert not composed().train.augment  # digits does
    assert composed("data=cifar20", "model=vit_base").train.optimizer == "adamw"
    assert composed("data=cifar20", "model=vit_base").method.alpha == 5
    assert composed("data=cifar20", "model=vit_base", "scenario=sub_class").method.alpha == 25


def test_a_file_of_one_s_own_that_hydra_would_not_read_is_refused(command, tmp_path):
    shutil.copytree(CONF_DIR, tmp_path / "conf")
    (tmp_path / "conf/tuned/ssd.yaml").write_text("[]\n")  # adds to the package's cases: never hidden
    arguments = ("--config-dir", str(tmp_path / "conf"), *SHORT, f"out={tmp_path / 'runs'}")
    assert command(*arguments, "dry_run=true").code == 0  # the others say what the package's say
    mine = tmp_path / "conf/method/ssd.yaml"
    mine.write_text(mine.read_text().replace("lam: 1.0", "lam: 0.5"))
    ended = command(*arguments, "dry_run=true")
    assert ended.code == 2
    assert f"{mine} would not be read" in ended.err.splitlines()[-1]
    assert "method/my_ssd.yaml" in ended.err.splitlines()[-1]


def test_a_dry_run_names_the_methods_whose_cost_it_does_not_know(command, tmp_path, monkeypatch):
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/silent.yaml").write_text("_target_: silent.Silent\n")
    (tmp_path / "silent.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Silent:\n"
        "    def __call__(self, model, data, context):\n        return None\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ("--config-dir", str(tmp_path / "conf"), *SHORT, "method=silent", f"out={tmp_path / 'runs'}")
    ended = command(*arguments, "dry_run=true")
    assert ended.code == 0
    assert "not in the time: silent" in ended.out
    ended = command(*arguments)
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == "ssd-bench: method silent returned NoneType; it has to return the model"
