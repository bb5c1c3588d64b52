"""ssd-bench-tune: what a study may look at, that it repeats itself and goes on, and what it says to wrong input."""

import errno
import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from filelock import FileLock
from omegaconf import OmegaConf
from PIL import Image

from ssd_bench.cli import beside, tune
from ssd_bench.cli.overrides import Cases
from ssd_bench.core.errors import ConfigError
from ssd_bench.data.cifar import CIFAR20_ALIASES, CIFAR20_NAMES, Cifar
from ssd_bench.data.source import forget_loaded
from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.ssd import SSD
from ssd_bench.run import pipeline
from ssd_bench.run.cases import holding, tuned_by
from ssd_bench.run.plan import CONF_DIR
from ssd_bench.store.rows import TRIED_HERE, every_row, read_rows
from tests.conftest import composed

optuna = pytest.importorskip("optuna")
from ssd_bench.tune.space import read_space  # noqa: E402
from ssd_bench.tune.study import Study  # noqa: E402

SHORT = (
    "train.epochs=1", "model.width=4", "data.train_per_class=20", "metric=[accuracy,population]", "threads=1",
    "metric.population.n_bootstrap=20", "method=ssd", "budget.trials=3", "validation.requests=1",
)  # fmt: skip


def study(out, *more, base=SHORT):
    tune.main([*base, f"out={out}", *more])
    return out / "tuning/ssd-digits-resnet18_slim-full_class"


def wrong(capfd, *arguments):
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        tune.main(list(arguments))
    assert ended.value.code == 2
    return capfd.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study from beginning to end: its output folder, its own, and what it prepared."""
    out, seen, prepare = tmp_path_factory.mktemp("whole"), [], pipeline.prepare

    def watch(plan, *more, **how):
        bench = prepare(plan, *more, **how)
        seen.append((plan.data, bench))
        return bench

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "prepare", watch)
        return out, study(out), seen


@pytest.fixture
def tried(whole, tmp_path):
    """An output folder with the runs of that study, as if another had needed them, but without the study."""
    shutil.copytree(whole[0] / "tuning/runs", tmp_path / "tuning/runs")
    return tmp_path


def test_a_report_of_runs_shows_no_trial_and_pruning_sees_them_all(tried, caplog):
    trials = read_rows(tried / "tuning/runs")
    assert trials
    assert read_rows(tried) == []
    assert {row["path"] for row in every_row(tried)} == {f"tuning/runs/{row['path']}" for row in trials}
    (tried / "below").mkdir()
    (tried / "tuning").rename(tried / "below/tuning")
    with caplog.at_level("INFO"):
        assert read_rows(tried) == []  # a folder above it
    assert f"{len(trials)} trials of studies" in caplog.text


def test_a_study_touches_nothing_that_is_reported(whole):
    out, folder, seen = whole
    rows = read_rows(out / "tuning/runs")
    assert {row["method"] for row in rows} == {"retrain", "ssd"}
    assert not {row["task"]["target"] for row in rows} & {"8", "3", "5"}
    assert {row["task"]["seed"] for row in rows} == {100, 101}
    data = seen[0][0]
    whole = data.load_all()
    for _, bench in seen:
        tested = bench.images["test"].pixels.flatten(1)
        trained = {bytes(t.numpy()) for t in whole.train.pixels.flatten(1)}
        assert all(bytes(t.numpy()) in trained for t in tested[:50])
        assert not {bytes(t.numpy()) for t in bench.images["train"].pixels.flatten(1)} & {
            bytes(t.numpy()) for t in tested
        }
    assert json.loads((folder / "result.json").read_text())["budget"] == "3 trials"


def test_a_study_repeats_itself_wherever_it_was_interrupted(whole, tmp_path, monkeypatch):
    def told(folder):
        found = json.loads((folder / "result.json").read_text())
        return found["settings"], found["objective"], found["floors"]

    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ""

    with monkeypatch.context() as patch:
        patch.setattr("ssd_bench.tune.study.progress", interrupt)
        with pytest.raises(SystemExit) as ended:
            study(tmp_path)
    assert ended.value.code == 130
    assert told(study(tmp_path)) == told(whole[1])


def test_a_method_that_needs_images_for_validation_is_tuned_with_some(tmp_path):
    given = [*(o for o in SHORT if o != "method=ssd"), "method=scrub", "method.rewind=true", "budget.trials=1"]
    tune.main([*given, "data.validation=0.2", f"out={tmp_path}"])
    [found] = yaml.safe_load((tmp_path / "tuning/conf/tuned/scrub.yaml").read_text())
    assert (found["when"]["data.validation"], found["when"]["method.rewind"]) == (0.2, True)
    rows = read_rows(tmp_path / "tuning/runs")
    assert {row["status"] for row in rows} == {"done"}
    assert {row["task"]["n_train"] for row in rows} == {160}  # a fifth of 20 of each class less


def test_published_settings_are_tried_first_and_the_result_is_a_case_that_later_runs_take(tried, monkeypatch):
    folder = study(tried, "method.importance=per_sample", "method.order=mixed")
    trials = (folder / "trials.csv").read_text().splitlines()
    published = composed("protocol=published").method.alpha
    assert f",{published},per_sample,1.0," in trials[1]
    assert len(trials) == 4
    assert (folder / "page.html").read_text().count("<svg") >= 2
    [found] = yaml.safe_load((tried / "tuning/conf/tuned/ssd.yaml").read_text())
    assert found["when"]["data.train_per_class"] == 20
    assert found["when"]["train.epochs"] == 1
    [target] = {task["scenario.target"] for task in found["study"]["tried_on"]}
    assert found["when"]["method.order"] == "mixed"  # not searched, but what the others were found with
    assert found["published"] == {"alpha": published, "importance": "batch_mean", "lam": 1.0}
    monkeypatch.setattr(Cases, "own", tried / "tuning/conf")
    here = [*(o for o in SHORT if not o.startswith(("budget", "validation"))), "method.order=mixed"]
    for given, alpha, study_of_row in (
        (here, found["method"]["alpha"], {"study": folder.name, "budget": "3 trials"}),
        ([*here, "protocol=published"], published, None),
        ([*here, "fidelity=official"], published, None),
        (
            [*here, "train.epochs=2"],
            composed().method.alpha,
            {"study": folder.name, "budget": "20 trials"},
        ),  # the package's
        ([*here, "method.alpha=3"], 3.0, None),
        (here[:-1], composed().method.alpha, {"study": folder.name, "budget": "20 trials"}),
        (
            [*here, f"scenario.target={target}"],
            found["method"]["alpha"],
            {"study": folder.name, "budget": "3 trials, this request or seed among them"},
        ),
    ):
        cfg = composed(*given)
        assert cfg.method.alpha == alpha, given
        asked = target if f"scenario.target={target}" in given else "8"
        assert tuned_by(OmegaConf.to_container(cfg, resolve=True), asked) == study_of_row, given


def test_a_row_says_that_its_request_was_tried_on_though_others_were_forgotten_with_it(tried, command):
    study(tried)
    [found] = yaml.safe_load((tried / "tuning/conf/tuned/ssd.yaml").read_text())
    target = found["study"]["tried_on"][0]["scenario.target"]
    short = [o for o in SHORT if not o.startswith(("budget", "validation"))]
    own = ["--config-dir", str(tried / "tuning/conf")]
    command(*own, *short, f"out={tried}", f"scenario.target=[{target},3]")
    [row] = read_rows(tried)
    assert row["tuned"]["budget"] == f"3 trials, {TRIED_HERE}"


def test_what_is_set_of_the_default_method_holds_in_trials_though_it_is_not_named(tmp_path):
    base = [o for o in SHORT if o != "method=ssd"]
    study(tmp_path, "method.order=mixed", "method.batch_size=7", "budget.trials=1", base=base)
    rows = [row for row in read_rows(tmp_path / "tuning/runs") if row["method"] == "ssd"]
    assert {(row["settings"]["order"], row["settings"]["batch_size"]) for row in rows} == {("mixed", 7)}
    [found] = yaml.safe_load((tmp_path / "tuning/conf/tuned/ssd.yaml").read_text())
    assert found["when"]["method.batch_size"] == 7
    assert found["study"]["command"].startswith("ssd-bench-tune method=ssd ")


def test_a_study_is_of_these_images_wherever_they_lie(tmp_path):
    def key(name, seed):
        draws, labels = np.random.default_rng(seed), np.arange(100) % 10
        x = draws.integers(0, 256, (100, 8, 8), np.uint8)
        np.savez(tmp_path / name, x_train=x, y_train=labels, x_test=x, y_test=labels)
        forget_loaded()  # as a new process would
        return made("data=arrays", f"data.file={tmp_path / name}", "scenario.target=1")[0].key

    first = key("a.npz", 0)
    assert key("b.npz", 0) == first
    assert key("a.npz", 1) != first


def test_where_a_folder_of_pictures_lies_says_what_the_data_are(tmp_path):
    draws = np.random.default_rng(0)
    for place in range(100):
        path = tmp_path / f"pictures/{place % 5}/{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    _, when = made("data=folder", f"data.root={tmp_path / 'pictures'}", "data.side=32", "scenario.target=1")
    assert when["data.root"] == str(tmp_path / "pictures")
    _, when = made("data=cifar10", "data.root=null", "scenario=random", method="delete")
    assert "data.root" not in when


def test_where_a_scenario_corrects_the_clean_model_is_what_a_study_comes_near(tmp_path):
    study(tmp_path, "scenario=label_noise", "scenario.discovered=0.5", "budget.trials=1")
    rows = read_rows(tmp_path / "tuning/runs")
    assert {row["method"] for row in rows} == {"clean", "ssd"}
    assert {row["task"]["seed_forget"] for row in rows} == {100}
    found = tmp_path / "tuning/ssd-digits-resnet18_slim-label_noise/result.json"
    floors = json.loads(found.read_text())["floors"]
    assert set(floors) == {"forget_train_acc", "retain_train_acc", "corrected_acc", "kept_acc"}


def test_the_training_seeds_of_a_poisoned_class_share_what_was_manipulated():
    tasks = made("scenario=poison", "scenario.discovered=0.5")[0].tasks
    assert {override for task in tasks for override in task if "seed_forget" in override} == {"seed_forget=100"}
    assert len({json.dumps(task[-1]) for task in tasks}) == len(tasks) / 2  # each target with either seed


def test_another_objective_or_space_is_told_from_the_usual_one(tmp_path):
    assert made()[0].unlike == made("objective.terms=null")[0].unlike == []
    (tmp_path / "search").mkdir()
    (tmp_path / "search/ssd.yaml").write_text("alpha: {low: 1.0, high: 3.0}")
    told = made("objective.terms=[forget_acc]", config_dir=tmp_path)[0].unlike
    assert told == ["objective.terms=['forget_acc']", "another search space"]
    usual = "objective.terms=[forget_train_acc,retain_train_acc,unseen_acc,population_auc]"
    assert made(usual)[0].unlike == []


def test_several_methods_in_one_command_and_one_that_cannot_be_tuned(tried, capfd):
    several = [*(o for o in SHORT if not o.startswith(("method", "budget"))), "method=original,mask_head,ssd"]
    with pytest.raises(SystemExit) as ended:
        tune.main([*several, "budget.trials=1", f"out={tried}"])
    assert ended.value.code == 1
    assert capfd.readouterr().err.count("has no search space") == 2
    assert [path.name for path in (tried / "tuning/conf/tuned").glob("*.yaml")] == ["ssd.yaml"]


def test_a_trial_of_a_process_that_is_gone_is_taken_up_again_and_no_more_are_begun_than_the_budget_has(
    tried, monkeypatch
):
    folder = study(tried, "budget.trials=1")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    others = optuna.load_study(study_name=folder.name, storage=storage)
    dead, alive = (others.ask({"alpha": optuna.distributions.FloatDistribution(1.0, 100.0, log=True)}) for _ in "da")
    alive.set_user_attr("seconds", 1.0)
    waited = []

    def ends(seconds):
        waited.append(seconds)
        others.tell(alive.number, 999.0)

    monkeypatch.setattr("ssd_bench.tune.study.time.sleep", ends)
    with FileLock(folder / f"trial-{alive.number}.lock"):  # somebody is at work on this one
        study(tried)
    states = [t.state.name for t in others.get_trials()]
    assert states.count("FAIL") == 1
    assert others.trials[dead.number].state.name == "FAIL"
    assert states.count("COMPLETE") + states.count("PRUNED") == 3  # the budget, the other's included
    assert len(waited) == 1


def test_another_space_or_protocol_is_never_mixed_into_a_study(tried, capfd):
    study(tried, "budget.trials=1")
    said = wrong(capfd, *SHORT, f"out={tried}", "validation.holdout=0.3")
    assert "holds a study of another space, protocol or version; give study.name" in said
    study(tried, "budget.trials=2")  # more trials are the same study


def test_what_a_study_would_cost(tmp_path, capfd):
    tune.main([*SHORT, f"out={tmp_path}", "dry_run=true"])
    said = capfd.readouterr().out
    assert "2 validation tasks" in said
    assert "3 of them" in said
    assert not list(tmp_path.iterdir())


def test_a_typo_in_the_second_method_is_seen_before_the_first_is_tuned(tmp_path, capfd):
    given = [o for o in SHORT if not o.startswith("method")]
    assert "did you mean 'finetune'" in wrong(capfd, *given, f"out={tmp_path}", "method=ssd,finetun")
    assert not list(tmp_path.iterdir())


WRONG = {
    "--bogus": "ssd-bench: unrecognized arguments: --bogus",
    "out=/proc/nope": "out=/proc/nope cannot be written",
    "budget.trials=0": "budget: trials must be at least 1",
    "budget.trial=3": "did you mean 'budget.trials'",
    "validation.seeds=[0,1]": "seeds must be at least two, from 100 on",
    "validation.targets=[8]": "validation.targets=8 is a reported request",
    "study.name=a/b": "study.name=a/b: a name of letters",
    "validation.requests=8": "only 7 targets are not reported",
    "objective.slack=-1": "a slack from 0 on",
    "objective.terms=[forget_ac]": "did you mean 'forget_acc'",
    "method=original": "method=original has no search space",
    "budget=3": "budget=3 is no setting",
    "scenario=sequence": "tune scenario=sub_class, full_class or random",
    "scenario=hard": "tune scenario=random",
    "scenario=listed": "tune scenario=random",
    "methd=ssd": "did you mean 'method'",
    "experiment=cifar20_full_class": "experiment=cifar20_full_class cannot be tuned with",
    "fidelity=official": "fidelity=official cannot be tuned with",
    "model.checkpoint=a.safetensors": "model.checkpoint=a.safetensors cannot be tuned with: it may have seen",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_input_is_one_line(override, tmp_path, capfd):
    assert WRONG[override] in wrong(capfd, *SHORT, f"out={tmp_path}", override)


def made(*overrides, method="ssd", config_dir=None):
    """A study that is not run, and the conditions under which what it found would hold."""
    args = Namespace(overrides=[f"method={method}", "threads=1", *overrides], config_dir=config_dir)
    _, settings = beside.own_settings(args, "tune")
    made = tune.make_study(args, beside.composed(args, []), settings)
    return made, tune.conditions(args, made)


def test_a_recipe_by_name_and_a_precision_are_conditions_of_what_is_found():
    asked = ("data=cifar10", "scenario=random", "train.epochs=10")
    _, usual = made(*asked, method="delete")
    assert usual == {"data": "cifar10", "model": "resnet18", "scenario": "random", "train.epochs": 10}
    fast, found = made(*asked, "train=fast", "precision=bfloat16", method="delete")
    assert found | usual == found
    assert (found["train.schedule"], found["precision"]) == ("one_cycle", "bfloat16")
    assert fast.name == "delete-cifar10-resnet18-random-fast"
    config = OmegaConf.to_container(composed(*asked, "train=fast", "precision=bfloat16"), resolve=True)
    for other in ({}, {"train": config["train"] | {"lr": 0.1}}, {"precision": "float32"}):
        below = {key: value for key, value in found.items() if "." in key or key == "precision"}
        case = {"when": below, "method": {}, "study": {"name": "fast", "budget": "1 trial"}}
        assert holding(config | {"tuned": [case]} | other) == (case if not other else None)


@pytest.mark.parametrize("asked", [[], ["scenario.classes=[1,7]"]])
def test_classes_that_are_confused_in_tables_are_not_in_trials(asked):
    tasks = made("scenario=confusion", *asked)[0].tasks
    pairs = {next(o for o in task if o.startswith("scenario.classes=")) for task in tasks}
    assert len(tasks) == 4
    assert len(pairs) == 2
    tried = [name for pair in pairs for name in json.loads(pair.partition("=")[2])]
    assert len(set(tried)) == 4
    assert set(tried).isdisjoint({"3", "5", "1", "7"} if asked else {"3", "5"})
    with pytest.raises(ConfigError, match="names 1 classes; a request takes 2"):
        made("scenario=confusion", "validation.targets=[2]")
    with pytest.raises(ConfigError, match="only 8 targets are not reported, and a request takes 2"):
        made("scenario=confusion", "validation.requests=5")


def test_what_is_skipped_is_known_before_anything_is_trained(tmp_path, capfd):
    said = wrong(capfd, *SHORT, f"out={tmp_path}", "method=unsir", "scenario=random")
    assert "method=unsir cannot be tuned here" in said
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_class_is_reported_by_any_of_its_names(monkeypatch):
    monkeypatch.setattr(Cifar, "load", lambda self: SimpleNamespace(
        labels="coarse", aliases=CIFAR20_ALIASES, names=lambda level: tuple(CIFAR20_NAMES)))  # fmt: skip
    alias, name = "vehicles_1", CIFAR20_ALIASES["vehicles_1"]
    few = f"validation.requests={len(CIFAR20_NAMES) - 6}"  # all but the five of the tables and this one
    asked = made("data=cifar20", f"scenario.target={alias}", few, method="delete")[0]
    assert not any(name in override for task in asked.tasks for override in task)
    with pytest.raises(ConfigError, match=f"validation.targets={name} is a reported request"):
        made("data=cifar20", f"scenario.target={name}", f"validation.targets=[{alias}]", method="delete")


def test_settings_are_dropped_after_a_whole_request_and_where_there_is_one_never(tmp_path):
    for requests, dropped in ((1, [None, None]), (2, [None, 1])):
        out = f"out={tmp_path / str(requests)}"
        study = made("data=digits", f"validation.requests={requests}", out)[0].open()
        for _ in range(5):
            trial = study.ask()
            for step in range(2 * requests):
                trial.report(1.0, step)
            study.tell(trial, 1.0)
        trial, ended = study.ask(), []
        for step in range(2 * requests - 1):  # the last task is not one to stop before
            trial.report(9.0, step)
            ended.append(step if trial.should_prune() else None)
        assert ended[:2] == dropped[: len(ended)]


def test_a_method_of_one_s_own_is_tuned_with_one_yaml(tried, tmp_path, capfd, command, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/search").mkdir()
    code = "from ssd_bench.methods.finetune import Finetune\nclass Mine(Finetune):\n    {}\n"
    (tmp_path / "mine.py").write_text(code.format("pass"))
    (tmp_path / "conf/method/mine.yaml").write_text("_target_: mine.Mine\nepochs: 1\n")
    (tmp_path / "conf/search/mine.yaml").write_text("lr: {low: 0.001, high: 0.1, log: true}\n")
    own = ["method=mine", "budget.trials=1", f"out={tried}", "--config-dir", str(tmp_path / "conf")]
    tune.main([*SHORT, *own])
    assert f"into {tmp_path / 'conf'}/tuned/mine.yaml" in capfd.readouterr().out
    [found] = yaml.safe_load((tried / "tuning/conf/tuned/mine.yaml").read_text())
    assert found["study"]["command"].startswith(f"ssd-bench-tune --config-dir={tmp_path / 'conf'} ")
    shutil.copytree(tried / "tuning/conf/tuned", tmp_path / "conf/tuned")
    short = [o for o in SHORT if not o.startswith(("budget", "validation", "method"))]
    for body, tuned in (("pass", True), ("touched = 1", False)):  # no study has seen the second
        (tmp_path / "mine.py").write_text(code.format(body))
        sys.modules.pop("mine", None)
        row = command("--config-dir", str(tmp_path / "conf"), *short, "method=mine", f"out={tmp_path / 'runs'}").row
        assert (row["settings"]["lr"], bool(row["tuned"])) == (found["method"]["lr"], tuned)


@pytest.mark.parametrize(("data", "kept"), [("cifar10", False), ("folder", True)])
def test_the_command_that_is_kept_says_where_one_s_own_images_lie(tmp_path, monkeypatch, data, kept):
    """Not where those lie that everybody can get."""
    lies, told = f"data.root={tmp_path}", []
    monkeypatch.setattr(tune, "make_study", lambda *_: SimpleNamespace(run=lambda _: None))
    monkeypatch.setattr(tune, "leave", lambda *parts: told.append(parts[-1]) or [tmp_path / "tuned/ssd.yaml"])
    tune.main([f"data={data}", lies, "scenario.target=1"])
    assert (lies in told[0]) == kept


SENSELESS = {
    "budget.trials=[": "budget.trials=[: while parsing",
    "study.startup=x": "study.startup=x is not allowed; allowed: a whole number",
    "study.seed=-1": "must be whole numbers from 0 on",
    "validation.seeds=100": "validation.seeds must be a list",
    "objective.terms=[forget_trian_acc]": "did you mean 'forget_train_acc'",
    "metric=accuracy": "metric=[accuracy] finds no population_auc",
}


@pytest.mark.parametrize("given", SENSELESS)
def test_what_is_wrong_with_a_study_is_said_before_anything_is_trained(capfd, tmp_path, given):
    wanted = [o for o in SHORT if not o.startswith(given.partition("=")[0])]
    assert SENSELESS[given] in wrong(capfd, *wanted, f"out={tmp_path / 'runs'}", given)
    assert not (tmp_path / "runs").exists()


def test_a_study_goes_on_whose_journal_ends_in_half_a_line(tmp_path):
    folder = study(tmp_path, "budget.trials=1")
    whole = (folder / "journal.log").read_bytes()
    (folder / "journal.log").write_bytes(whole + whole.splitlines()[-1][:20])  # as a full disk leaves it
    study(tmp_path, "budget.trials=2")
    assert (folder / "journal.log").read_bytes().startswith(whole)
    assert json.loads((folder / "result.json").read_text())["budget"].startswith("2 trials")


def test_a_full_disk_is_one_line(capfd, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Study, "open", full)
    assert "cannot be written (No space left on device)" in wrong(capfd, *SHORT, f"out={tmp_path / 'runs'}")


SPACES = {
    "unknown": ({"alpa": {"low": 1.0, "high": 2.0}}, "did you mean 'alpha'"),
    "empty": ({"alpha": {"low": 2.0, "high": 2.0}}, "alpha has an empty range"),
    "logarithm of nothing": ({"alpha": {"low": 0.0, "high": 2.0, "log": True}}, "alpha has an empty range"),
    "half": ({"alpha": {"low": 1.0}}, "alpha needs low and high, or choices"),
    "no range": ({"alpha": 3.0}, "alpha must be"),
    "nothing": ({}, "names no setting"),
}


@pytest.mark.parametrize("space", SPACES)
def test_spaces_that_are_wrong_are_one_line(space):
    given, said = SPACES[space]
    with pytest.raises(ConfigError, match=said):
        read_space("ssd", SSD, given, lambda: 10.0)


def test_what_a_run_has_may_lie_in_no_range():
    space = read_space("finetune", Finetune, {"lr": {"low": 1e-3, "high": 0.1}}, lambda: 10.0)
    assert not space["lr"].holds(None)
    assert not space["lr"].holds(1.0)
    assert space["lr"].holds(0.1)


def test_thresholds_are_searched_as_far_as_anything_can_be_selected():
    study, _ = made("data=digits")
    each = 1437 / 139  # images of D for each eight
    assert study.space["alpha"].high == pytest.approx(each)
    assert study.space["lam"].high == 1.0


def test_whole_numbers_stay_whole():
    given = {"epochs": {"low": 1, "high": 5}, "lr": {"low": 1e-3, "high": 0.1}}
    space = read_space("finetune", Finetune, given, lambda: 10.0)
    drawn = optuna.create_study().ask()
    assert isinstance(space["epochs"].suggest(drawn, "epochs"), int)
    assert isinstance(space["lr"].suggest(drawn, "lr"), float)


def test_every_search_space_fits_its_method():
    from ssd_bench import list_methods

    paths = list(Path(CONF_DIR, "search").glob("*.yaml"))
    assert len(paths) > 20
    for path in paths:
        cls = list_methods()[path.stem]
        space = read_space(path.stem, cls, yaml.safe_load(path.read_text()), lambda: 10.0)
        for name, parameter in space.items():
            ends = parameter.choices or (parameter.low, parameter.high)
            for value in ends:
                cls(**{name: value})  # raises for what the method does not take


def test_settings_that_a_study_found_make_a_row_that_says_so_though_they_were_run_by_hand_before(tmp_path, command):
    case = {"when": {"data": "digits"}, "method": {"alpha": 7.0}, "published": {"alpha": 10.0}}
    case["study"] = {"name": "mine", "budget": "3 trials"}
    (tmp_path / "conf/tuned").mkdir(parents=True)
    (tmp_path / "conf/tuned/ssd.yaml").write_text(yaml.safe_dump([case]))
    here = [o for o in SHORT if not o.startswith(("budget", "validation"))]
    here += [f"out={tmp_path / 'runs'}", "--config-dir", str(tmp_path / "conf")]
    by_hand = command(*here, "method.alpha=7", "protocol=published").row
    tuned = command(*here).row
    assert (by_hand["tuned"], tuned["tuned"]) == (None, {"study": "mine", "budget": "3 trials"})
    assert by_hand["settings"] == tuned["settings"]
    assert by_hand["metrics"] == tuned["metrics"]
    assert tuned["cached"]["unlearned"]
