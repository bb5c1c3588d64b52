"""ssd-bench-pool: it enlarges, resumes and shares its work, keeps what it says it keeps, and says nothing without N."""

import json
import shutil
import sys
from dataclasses import asdict
from hashlib import sha256
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ssd_bench.cli import pool
from ssd_bench.core.errors import ConfigError, Diverged
from ssd_bench.metrics.margin import margins
from ssd_bench.run import forgetting, originals, trained
from ssd_bench.run import pool as run_pool
from ssd_bench.store.artefacts import read_artefact
from ssd_bench.store.locks import take
from ssd_bench.store.prune import at_rest, not_needed, unfinished
from ssd_bench.train.recipe import HeadReset, Recipe, SameSteps

SHORT = (
    "data=digits", "data.train_per_class=20", "data.test_per_class=5", "model.width=4", "train.epochs=2", "threads=1",
    "pool.core=0.5", "pool.single=0.4", "pool.blocks=2", "pool.block=0.02", "pool.draws=100",
)  # fmt: skip


def made(out, *more, size=8):
    """What the command makes of a pool of this size: the folder of its results, and pool.json."""
    pool.main([*SHORT, f"pool.size={size}", f"out={out}", *more])
    (folder,) = out.glob(f"pools/*/n{size}")
    return folder, json.loads((folder / "pool.json").read_text())


def ends(capfd, *arguments):
    """The exit code and the last line on stderr."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        pool.main([*SHORT, "pool.size=8", *arguments])
    return ended.value.code, capfd.readouterr().err.strip().splitlines()[-1]


def kept(out, kind, said):
    """By model, the tensors of this kind of artefact."""
    of = {member["seed"]: m for m, member in enumerate(said["members"])}
    sheets = {path: json.loads(path.read_text())["key"] for path in out.glob(f"artefacts/{kind}/*.json")}
    return {of[key["model"]["seed"]]: read_artefact(p.with_suffix(".safetensors")).tensors for p, key in sheets.items()}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    out = tmp_path_factory.mktemp("pool")
    return (out, *made(out, "pool.logits=true"))


@pytest.fixture
def copied(eight, tmp_path):
    """A copy of that pool."""
    shutil.copytree(eight[0], tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def trainings(monkeypatch):
    """What is trained from now on."""
    seen, train = [], trained.train

    def watch(bench, wanted, what, *more):
        seen.append(what)
        return train(bench, wanted, what, *more)

    monkeypatch.setattr(trained, "train", watch)
    return seen


def test_a_pool_leaves_images_out_by_itself(capfd, tmp_path):
    code, line = ends(capfd, "data.validation=0.1", f"out={tmp_path}")
    assert (code, line.partition(":")[2].strip()) == (
        2, "data.validation: models of a pool leave images out anyway (pool.core, pool.single); leave it out",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_what_is_kept_is_what_the_logits_say(eight):
    out, folder, said = eight
    table, logits, of_models = (
        pd.read_csv(folder / "samples.csv"),
        kept(out, "outputs", said),
        kept(out, "margins", said),
    )
    assert logits.keys() == of_models.keys() == set(range(8))
    for m, tensors in of_models.items():
        z = logits[m]["train"].double()
        p = z.softmax(dim=1)
        assert tensors["train.margin"].numpy() == pytest.approx(margins(z.numpy(), table["label"]), rel=1e-5, abs=1e-5)
        assert (tensors["train.argmax"] == z.argmax(dim=1)).all()
        assert tensors["train.entropy"].numpy() == pytest.approx(-(p * p.log()).sum(1).numpy(), rel=1e-5)
        assert tensors["train.top"].numpy() == pytest.approx(p.amax(1).numpy(), rel=1e-5)
        assert len(tensors["test.margin"]) == 50


def test_the_most_memorised_images_can_be_asked_for_by_any_run(eight, command):
    out, folder, _ = eight
    alike = [override for override in SHORT if not override.startswith("pool.")]
    ended = command(*alike, "scenario=hard", f"scenario.pool={folder}", "scenario.n_forget=5", f"out={out / 'hard'}")
    assert ended.code == 0, ended.err
    table = pd.read_csv(folder / "samples.csv").query("part == 'single'")
    chosen = table.sort_values("margin_gain", ascending=False)["row"][:5]
    assert ended.row["task"]["forget_sha256"] == sha256(np.sort(chosen).astype("<i8").tobytes()).hexdigest()
    assert ended.row["task"]["target"] == "5 most memorised"


def test_models_are_trained_on_their_rows_of_the_design(eight):
    out, folder, said = eight
    table = pd.read_csv(folder / "samples.csv")
    assert (table["models_in"] == 4).all()
    assert (table["models_out"] == 4).all()
    assert table["part"].value_counts().to_dict() == {"single": 80, "random-0": 4, "random-1": 4}
    sheets = [json.loads(path.read_text()) for path in out.glob("artefacts/trained/*.json")]
    assert len({sheet["key"]["rows"] for sheet in sheets}) == len({sheet["key"]["seed"] for sheet in sheets}) == 8
    (recipe,) = {json.dumps(sheet["key"]["recipe"]["train"]) for sheet in sheets}
    assert json.loads(recipe)["class"].endswith("SameSteps")
    assert json.loads(recipe)["settings"]["images"] == 100 + 88 / 2
    member = np.array([said["members"][m]["images"] for m in range(8)])
    assert (member[0::2] + member[1::2] == 2 * 100 + 88).all()  # the core twice, the others once


def test_no_number_stands_without_enough_models_or_without_an_interval(eight):
    said = eight[2]
    numbers = [number for of in said["numbers"].values() for number in of.values()]
    assert said["numbers"]["single"]["auc"] == {"value": None, "reason": "an attack needs 16 models, there are 8"}
    assert said["gate"]["passed"] is None
    assert said["numbers"]["single"]["accuracy_in"]["models"] == 8
    for number in numbers:
        assert number["value"] is None or number["low"] <= number["value"] <= number["high"]
        assert (number["value"] is None) == ("reason" in number)


def test_a_larger_pool_trains_the_new_models_alone(eight, copied, trainings, capfd):
    table = pd.read_csv(eight[1] / "samples.csv")
    capfd.readouterr()
    folder, said = made(copied, size=16)
    assert trainings == [f"model {m} of 16" for m in range(8, 16)]
    assert said["members"][:8] == eight[2]["members"]
    assert (folder.parent / "n8/pool.json").exists()
    assert (pd.read_csv(folder / "samples.csv")["row"] == table["row"]).all()
    auc = said["numbers"]["single"]["auc"]
    assert 0 < auc["low"] <= auc["value"] <= auc["high"] < 1
    printed = capfd.readouterr().out
    assert f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" in printed
    assert "do not leak enough for methods to be judged" in printed
    assert "train.epochs=4" in printed
    again = made(copied, size=16)[1]
    assert len(trainings) == 8
    assert again == said


def test_an_interrupted_pool_goes_on_and_ends_with_the_same_numbers(eight, tmp_path, trainings, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        margins_of = run_pool.Pool.margins

        def interrupted(self, m):
            if m == 3:
                raise KeyboardInterrupt
            return margins_of(self, m)

        patch.setattr(run_pool.Pool, "margins", interrupted)
        code, said = ends(capfd, f"out={tmp_path}", "pool.logits=true")
    assert code == 130
    assert "the same command goes on" in said
    assert not list(tmp_path.rglob("pool.json"))
    assert [path.name for path in unfinished(tmp_path)] == ["n8"]
    del trainings[:]
    folder, said = made(tmp_path, "pool.logits=true")
    assert len(trainings) == 5
    assert said["numbers"] == eight[2]["numbers"]
    assert (folder / "samples.csv").read_bytes() == (eight[1] / "samples.csv").read_bytes()


def test_a_model_that_another_process_is_at_is_left_to_it(copied, trainings, monkeypatch):
    for kind in ("trained", "margins", "outputs"):
        shutil.rmtree(copied / "artefacts" / kind)
    (folder,) = copied.glob("pools/*")
    other, when_waiting = take(folder / "locks/0.lock"), []

    def waits(_):
        when_waiting.append(list(trainings))
        other.release()

    monkeypatch.setattr(run_pool.time, "sleep", waits)
    made(copied)
    assert when_waiting == [[f"model {m} of 8" for m in range(1, 8)]]
    assert trainings[-1] == "model 0 of 8"


def test_what_a_pool_needs_is_not_pruned_and_nothing_while_it_is_trained(copied):
    (folder,) = copied.glob("pools/*")
    lock = take(folder / "locks/0.lock")
    with pytest.raises(ConfigError, match="a run is going on"), at_rest(copied):
        pass
    lock.release()
    assert not_needed(copied, artefacts_too=True) == []
    shutil.rmtree(copied / "pools")
    assert len(not_needed(copied, artefacts_too=True)) == 3 * 8 * 2


@pytest.mark.skipif(
    not find_spec("hydra_plugins.hydra_joblib_launcher"), reason="needs pip install 'ssd-bench[parallel]'"
)
def test_the_workers_of_a_launcher_share_a_pool(tmp_path, trainings):
    folder, said = made(
        tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "method=ssd", "method.alpha=2", *JUDGED, size=4
    )
    assert not trainings  # in this process
    assert said["models"] == 4
    assert len(list(tmp_path.glob("artefacts/margins/*.json"))) == 4 + 4
    assert (folder / "ssd-random.csv").exists()


JUDGED = ("pool.gate=false", "pool.targets=[random]")


@pytest.fixture
def unlearned(monkeypatch):
    """What is asked of methods from now on: each bench, in order."""
    seen, unlearn = [], forgetting.unlearn

    def watch(bench, original):
        seen.append(bench)
        return unlearn(bench, original)

    monkeypatch.setattr(forgetting, "unlearn", watch)
    return seen


def judged(folder):
    return json.loads((folder / "methods.json").read_text())


def test_methods_forget_what_each_model_holds_and_are_judged(copied, unlearned, capfd):
    capfd.readouterr()
    folder, said = made(
        copied, "method=ssd,mask_head", "pool.placebo=[ssd]", "pool.targets=[random,blocks]", "pool.gate=false"
    )
    table = pd.read_csv(folder / "ssd-random.csv")
    target, blocks = set(table["row"][table["forgotten"]]), {}
    assert len(target) == 2 * 10
    for bench in unlearned:
        request = bench.request
        assert set(request.retain.tolist()) == set(request.train.tolist()) - set(request.forget.tolist())
        assert request.placebo == (not torch.isin(request.forget, request.train).any())
        assert request.placebo or torch.isin(request.forget, request.train).all()
        assert bench.identity.trained.seed in {member["seed"] for member in said["members"]}
        if len(request.forget) == 4:
            blocks.setdefault(tuple(sorted(request.forget.tolist())), []).append(bench)
        else:
            seen = set(request.forget.tolist()) | set(request.train.tolist()) & target
            assert request.placebo or seen == set(request.forget.tolist())
            assert set(request.forget.tolist()) <= target
            assert not request.placebo or target - set(request.forget.tolist()) <= set(request.train.tolist())
    assert len(unlearned) == 2 * 8 + 2 * 4
    assert [len(of) for of in blocks.values()] == [4, 4]
    assert not list(copied.glob("artefacts/unlearned/*.safetensors"))
    assert len(list(copied.glob("artefacts/margins/*.json"))) == 8 + len(unlearned)
    assert not_needed(copied, artefacts_too=False) == []
    assert not [path for path in not_needed(copied, artefacts_too=True) if path.parent.name == "margins"]
    report = judged(folder)["targets"]
    assert report.keys() == {"random", "blocks"}
    assert report["random"]["numbers"].keys() == {"original", "retrained", "ssd", "ssd, placebo"}
    for numbers in (of for target in report.values() for of in target["numbers"].values()):
        for number in numbers.values():
            assert number.get("reason") or number["low"] <= number["value"] <= number["high"]
    assert report["random"]["numbers"]["ssd"]["auc"]["reason"] == "an attack needs 16 models, there are 8"
    assert "mask_head needs classes to forget" in report["blocks"]["missing"][0]
    chosen = judged(folder)["methods"]
    assert chosen.keys() == {"ssd, random", "mask_head, random"}
    assert chosen["ssd, random"] == {"settings": asdict(unlearned[0].plan.method), "tuned": None}
    printed = capfd.readouterr().out
    assert "Tuned? ssd, random: no; mask_head, random: no. Settings: methods.json." in printed
    assert "NOT TO BE RELIED ON, the originals do not leak enough: digits" in printed
    assert "accuracy, never held" in printed


def test_methods_go_on_where_they_were_killed_and_a_larger_pool_asks_the_new_models_alone(
    copied, unlearned, monkeypatch, capfd
):
    with monkeypatch.context() as patch:
        patch.setattr(forgetting.Pool, "said", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert ends(capfd, f"out={copied}", "method=ssd", *JUDGED)[0] == 130
    assert len(unlearned) == 1
    small = judged(made(copied, "method=ssd", *JUDGED)[0])
    assert len(unlearned) == 1 + 8
    for name in originals.GATE:
        monkeypatch.setitem(originals.GATE, name, 0.0)
    capfd.readouterr()
    folder, _ = made(copied, "method=ssd", "pool.targets=[random]", "pool.power=true", size=16)
    printed = capfd.readouterr().out
    told = "digits, resnet18_slim: 20 images (random), 16 models: can it be told who was trained on them?"
    assert told.split(":")[0] in printed
    tables = (folder / "tables.md").read_text()
    assert tables.index("16 originals (pool.seed=0)") < tables.index(told) < tables.index("random: what so many models")
    assert "NOT TO BE RELIED ON" not in printed
    assert len(unlearned) == 1 + 16
    assert {path.name for path in folder.glob("*.png")} == {f"random-{of}.png" for of in ("roc", "memorised", "image")}
    page = (folder / "methods.html").read_text()
    assert "random: U-LiRA" in page
    assert "the most memorised of them, model by model" in page
    assert "random: what was memorised, and what is still known" in page
    large = judged(folder)["targets"]["random"]["numbers"]["ssd"]
    assert 0 < large["auc"]["low"] <= large["auc"]["value"] <= large["auc"]["high"] < 1
    differences = pd.read_csv(folder / "differences.csv").set_index(["target", "number", "method", "less"])
    of_auc = differences.loc["random", "auc", "ssd", "original"]
    before = judged(folder)["targets"]["random"]["numbers"]["original"]
    assert of_auc["value"] == pytest.approx(large["auc"]["value"] - before["auc"]["value"])
    assert len(differences) == len(judged(folder)["targets"]["random"]["differences"])
    power = pd.read_csv(folder / "power.csv")
    assert power[["one", "other", "models"]].to_numpy().tolist() == [["ssd", "original", 8], ["ssd", "original", 16]]
    assert "what so many models can show, ssd less original" in printed
    assert small["targets"]["random"]["numbers"]["ssd"]["auc"]["value"] is None


def test_models_are_retrained_without_what_they_held_and_found_where_they_held_nothing(copied, trainings, unlearned):
    folder, _ = made(copied, "method=retrain,placebo", *JUDGED)
    assert len(trainings) == 8  # a placebo's are the originals
    sheets = [json.loads(path.read_text()) for path in copied.glob("artefacts/trained/*.json")]
    assert len(sheets) == 8 + 8
    assert len({json.dumps(sheet["key"]["recipe"]) for sheet in sheets}) == 1  # as many steps
    table = pd.read_csv(folder / "retrain-placebo-random.csv")
    numbers = judged(folder)["targets"]["random"]["numbers"]
    assert numbers["retrain, placebo"]["accuracy_test"] == numbers["original"]["accuracy_test"]
    of = table["forgotten"]
    never = pd.read_csv(folder / "original-random.csv")["margin_never"]
    assert table["margin"][of].to_numpy() == pytest.approx(never[of].to_numpy())


def test_a_class_is_held_against_models_trained_without_it(copied, trainings, unlearned, monkeypatch, capfd):
    monkeypatch.setitem(originals.LEAST, "accuracy", 4)
    capfd.readouterr()
    given = "pool.targets=[random,3]", "pool.class_models=4", "pool.gate=false"
    folder, _ = made(copied, "method=mask_head,placebo", *given)
    assert len(trainings) == 4  # the twins
    of_class = [bench for bench in unlearned if bench.request.scenario == "full_class"]
    assert len(of_class) == len(unlearned) == 4 + 4  # mask_head makes no sense for random images
    for bench in of_class:
        labels = bench.request.train_labels
        assert (labels[bench.request.forget] == 3).all()
        assert not (labels[bench.request.retain] == 3).any()
    report = judged(folder)["targets"]
    assert report.keys() == {"random", "3"}
    numbers = report["3"]["numbers"]
    assert list(numbers) == ["retrained", "original", "mask_head", "another retrained"]
    assert numbers["mask_head"]["accuracy_forget"]["value"] == numbers["retrained"]["accuracy_forget"]["value"] == 0
    assert numbers["mask_head"]["gap_forget"]["value"] == 0
    assert "3: a class, 4 models" in capfd.readouterr().out


def test_a_method_that_diverges_is_said_to(copied, monkeypatch, capfd):
    def diverges(bench, original):
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(forgetting, "unlearn", diverges)
    capfd.readouterr()
    folder, _ = made(copied, "method=ssd", *JUDGED)
    assert judged(folder)["targets"]["random"]["missing"] == ["ssd diverged on 8 of 8 models"]
    assert "not in the table: ssd diverged on 8 of 8 models" in capfd.readouterr().out


def test_no_method_is_run_where_the_originals_do_not_leak(copied, unlearned, monkeypatch, capfd):
    monkeypatch.setitem(originals.LEAST, "attack", 8)
    code, said = ends(capfd, f"out={copied}", "method=ssd")
    assert code == 2
    assert "no method is judged: the originals do not leak enough" in said
    assert "pool.gate=false" in said
    assert not unlearned


def test_a_method_has_the_settings_of_the_command_line(copied, unlearned, monkeypatch, capfd):
    monkeypatch.setattr("ssd_bench.run.estimate.MEASURED_S", 0.05)
    capfd.readouterr()
    given = "method=finetune", "method.epochs=1", *JUDGED
    pool.main([*SHORT, "pool.size=8", f"out={copied}", *given, "dry_run=true"])
    said = capfd.readouterr().out
    assert "8 unlearning runs, of finetune on random" in said
    assert not unlearned
    made(copied, *given)
    assert {bench.plan.method.epochs for bench in unlearned} == {1}


def test_a_method_has_the_settings_that_a_study_found_for_as_many_images(copied, unlearned, tmp_path):
    own = tmp_path / "own"
    (own / "tuned").mkdir(parents=True)
    study = {"name": "mine", "budget": "1 trial", "objective": 1.0, "untuned": 2.0, "command": "", "commit": ""}
    when = {"data": "digits", "scenario": "random", "scenario.n_forget": 10}
    found = [{"when": when, "method": {"epochs": 2}, "published": {"epochs": 5}, "study": study}]
    (own / "tuned" / "finetune.yaml").write_text(json.dumps(found))
    made(copied, "--config-dir", str(own), "method=finetune", *JUDGED)
    assert {bench.plan.method.epochs for bench in unlearned} == {2}


OWN = """
from dataclasses import dataclass
from ssd_bench.core.about import About

@dataclass(frozen=True)
class Gap:
    needs = {needs}
    about = {{"{name}": About("nats", "0", heading="gap of margins (nats)", decimals=2)}}
    factor: float = 1.0

    def __call__(self, pool):
        return {{"{name}": self.factor * (pool.inside - pool.outside).mean()}}
"""


@pytest.fixture
def gap(tmp_path, monkeypatch):
    """Bring a metric along."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds to it

    def bring(name="gap", needs=("pool",)):
        (tmp_path / "own/metric").mkdir(parents=True)
        (tmp_path / "own/gap_metric.py").write_text(OWN.format(name=name, needs=needs))
        (tmp_path / "own/metric/gap.yaml").write_text("gap: {_target_: gap_metric.Gap, factor: 2.0}\n")
        return "--config-dir", str(tmp_path / "own"), "metric=[gap]"

    yield bring
    sys.modules.pop("gap_metric", None)


def test_a_metric_of_ones_own_judges_methods_on_a_pool(copied, gap, monkeypatch, capfd):
    capfd.readouterr()
    monkeypatch.setattr("ssd_bench.run.pool_metrics.EIGHTHS", 4)
    folder, _ = made(copied, *gap(), "method=ssd", "pool.targets=[random,blocks]", "pool.gate=false")
    report, table = judged(folder), pd.read_csv(folder / "ssd-random.csv")
    number = report["targets"]["random"]["numbers"]["ssd"]["gap"]
    forgotten = table[table["forgotten"]]
    assert number["value"] == pytest.approx(2 * (forgotten["margin"] - forgotten["margin_never"]).mean())
    assert number["low"] < number["value"] < number["high"]
    assert "gap" in report["targets"]["blocks"]["numbers"]["original"]
    assert report["metrics"] == {"gap": {"_target_": "gap_metric.Gap", "factor": 2.0}}
    said = capfd.readouterr().out
    assert "metrics that were brought along" in said
    assert "gap of margins (nats)" in said


def test_metrics_that_a_pool_and_a_run_cannot_have_are_one_line(gap, command, tmp_path, capfd):
    own = gap("auc")
    assert ends(capfd, f"out={tmp_path / 'none'}", *own) == (
        2, "ssd-bench: metric gap and metric of a pool both return auc; rename it in one of them",
    )  # fmt: skip
    code, said = ends(capfd, f"out={tmp_path / 'none'}", "metric=[accuracy]")
    assert code == 2
    assert said.startswith("ssd-bench: metric=accuracy: a pool measures by itself; allowed: metrics of your own")
    ended = command(*own, f"out={tmp_path / 'none'}")
    assert ended.code == 2
    assert (
        ended.err.splitlines()[-1] == "ssd-bench: metric gap needs a pool of models; take ssd-bench-pool metric=[gap]"
    )
    assert not (tmp_path / "none").exists()


def test_what_a_pool_would_cost(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("ssd_bench.run.estimate.MEASURED_S", 0.05)
    pool.main([*SHORT, "pool.size=8", f"out={tmp_path}", "dry_run=true"])
    said = capfd.readouterr().out
    assert "0 of 8 models are there" in said
    assert "8 trainings, on 140 to 148 images, 2 epochs each of 144 images" in said
    assert "kB on disk" in said or "MB on disk" in said
    assert not list(tmp_path.iterdir())
    pool.main([*SHORT, "pool.size=8", f"out={tmp_path}", "dry_run=true", "pool.same_steps=false"])
    own = capfd.readouterr().out
    assert "2 epochs each\n" in own
    assert own.split(":")[0] != said.split(":")[0]  # another pool


def test_a_recipe_that_says_itself_how_many_steps_there_are():
    design = SimpleNamespace(images=7)
    assert run_pool._same_steps(Recipe(epochs=3, lr=0.2), design) == SameSteps(epochs=3, lr=0.2, images=7)
    with pytest.raises(ConfigError, match=r"train is a HeadReset.*take pool\.same_steps=false"):
        run_pool._same_steps(HeadReset(), design)


WRONG = {
    "pool.size=6": "pool: size must be a power of two from 4 to 4096, got 6",
    "pool.sise=8": "did you mean 'pool.size'",
    "pool.core=0.9": "both together at most 1, got 0.9 and 0.4",
    "pool.block=0.2": "2 blocks of 40 images do not fit",
    "pool.hard=2": "hard between 0 and 1",
    "pool.sub_classes=[8]": "learn the finest classes",
    "pool=3": "pool=3 is no setting",
    "scenario=random": "a pool has no scenario of its own",
    "method=sdd": "method=sdd does not exist; did you mean 'ssd'",
    "method=placebo": "name one, too: method=ssd,placebo",
    "method.alpha=2": "for one method; 0 are named",
    "method=ssd,finetune method.alpha=2": "for one method; 2 are named",
    "method=ssd method.alhpa=2": "did you mean 'method.alpha'",
    "method=ssd pool.placebo=[sdd]": "pool.placebo=sdd does not exist; did you mean 'ssd'",
    "method=ssd": "pool.size=8: fewer than 16 models cannot show whether originals leak",
    "--bogus": "unrecognized arguments: --bogus",
    "method=ssd pool.targets=[random,heard]": "did you mean 'hard'",
    "method=ssd pool.k=40": "pool.k=40: a target of 80 single samples leaves none of 80",
    "method=ssd pool.size=4 pool.blocks=3 pool.targets=[random-2]": "in a pool of 4 it goes with another block",
    "pool.k=0": "k must be null or at least 1",
    "seed=1": "pool.seed decides on all that is drawn",
    "modle=resnet18": "did you mean 'model'",
    "train.epochs=0": "epochs must be at least 1",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_input_is_one_line(override, tmp_path, capfd):
    code, said = ends(capfd, f"out={tmp_path}", *override.split())
    assert code == 2
    assert said.startswith("ssd-bench: ")
    assert WRONG[override] in said
    assert not list(tmp_path.iterdir())


def test_sub_classes_are_blocks_where_models_learn_coarser_ones():
    dataset = SimpleNamespace(labels="coarse", fine_names=("lamp", "rocket", "sea"), aliases={"ocean": "sea"})
    plan = SimpleNamespace(data=SimpleNamespace(targets={"sub_class": ["rocket", "sea", "lamp"]}))
    asked = run_pool.PoolSettings()
    assert run_pool._sub_classes(plan, dataset, asked) == {"rocket": 1, "sea": 2}
    assert run_pool._sub_classes(plan, dataset, run_pool.PoolSettings(sub_classes=["ocean"])) == {"sea": 2}
