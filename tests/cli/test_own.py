"""What a user brings (methods, metrics, models): never mistaken for something else, and an error in it names it."""

import logging
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import SHORT

from ssd_bench.report.derive import derived, reevaluate
from ssd_bench.report.rows import across_seeds, by_task
from ssd_bench.report.summary import summarise
from ssd_bench.report.table import markdown
from ssd_bench.store.rows import read_rows

FINETUNE = ("method=finetune", "method.epochs=1")
IMPORTS = "from dataclasses import dataclass\nimport time\nimport numpy as np\nimport torch\nfrom torch import nn\n"


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Write a module and the YAML that names a class of it; a second time as if the user had edited it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    written = []

    def write(group, name, body, **settings):
        sys.modules.pop(name, None)
        written.append(name)
        (tmp_path / f"{name}.py").write_text(IMPORTS + textwrap.dedent(body))
        folder = tmp_path / "conf" / group
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"_target_: {name}.{name.capitalize()}", *(f"{key}: {value}" for key, value in settings.items())]
        text = f"{name}: {{{', '.join(lines)}}}\n" if group == "metric" else "\n".join([*lines, ""])
        (folder / f"{name}.yaml").write_text(text)

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def own(command, begun, tmp_path):
    """`ssd-bench` with the user's configs, all into one folder."""
    (tmp_path / "conf").mkdir()
    fixed = ("--config-dir", str(tmp_path / "conf"), *SHORT, f"out={begun}")
    return lambda *arguments: command(*fixed, *arguments)


@pytest.fixture
def told(monkeypatch):
    """What reports warn of."""
    lines = []
    log = logging.getLogger("ssd_bench.report.derive")
    monkeypatch.setattr(log, "warning", lambda line, *of: lines.append(line % of))
    return lines


METRIC = """
    @dataclass(frozen=True)
    class {cls}:
        about = {about}
        needs = {needs}
        def __call__(self, seen):
            return {{{returns}}}
"""


def metric(bring, name, returns, about="{}", needs=()):
    bring("metric", name, METRIC.format(cls=name.capitalize(), about=about, returns=returns, needs=needs))


def made(tmp_path, kind):
    return len(list((tmp_path / "runs/artefacts" / kind).glob("*.json")))


def test_an_edited_metric_is_computed_again_and_nothing_else_is(bring, own, tmp_path):
    metric(bring, "mine", "'mine': 1.0")
    first = own("metric=[accuracy,mine]", *FINETUNE).row
    before = {kind: made(tmp_path, kind) for kind in ("trained", "unlearned", "outputs")}
    metric(bring, "mine", "'mine': 2.0")
    second = own("metric=[accuracy,mine]", *FINETUNE).row
    assert (first["metrics"]["mine"], second["metrics"]["mine"]) == (1.0, 2.0)
    assert (first["original_metrics"]["mine"], second["original_metrics"]["mine"]) == (1.0, 2.0)
    assert {kind: made(tmp_path, kind) for kind in before} == before
    metric(bring, "mine", "'mine': 1.0")
    assert "finished already" in own("metric=[accuracy,mine]", *FINETUNE).err


def test_values_are_shared_by_the_runs_that_have_the_same_outputs(bring, own, tmp_path):
    own("method=original")
    before = made(tmp_path, "values")
    own("method=retrain")
    assert made(tmp_path, "values") == 2 * before  # those of the original are found


VANDAL = """
    @dataclass(frozen=True)
    class Vandal:
        needs = ("model",)
        def __call__(self, seen, probed):
            for model in (probed.model.train(), probed.original):
                for p in model.parameters():
                    p.data.zero_()
            return {"sum": sum(p.detach().sum().item() for p in model.parameters())}
"""


def test_what_a_metric_does_to_the_models_that_it_is_handed_concerns_nobody_else(bring, own, tmp_path):
    bring("metric", "vandal", VANDAL)
    first = own("metric=[accuracy,vandal,cka]", *FINETUNE).row
    assert first["metrics"]["sum"] == 0
    second = own("metric=[accuracy,cka]", *FINETUNE, f"out={tmp_path / 'alone'}").row["metrics"]
    assert {name: first["metrics"][name] for name in second} == second
    assert 0 < second["cka_forget_last"] < 1


SCRIBBLE = """
    @dataclass(frozen=True)
    class Scribble:
        needs = {needs}
        def __call__(self, seen, probed=None):
            {line}
            return {{}}
"""


@pytest.mark.parametrize(
    "line",
    [
        "probed.images['test'].pixels.zero_()",
        "probed.images['train'].mean.zero_()",
        "probed.images['test'].labels.zero_()",
    ],
)
def test_a_metric_that_changes_the_images_is_refused_and_nothing_of_it_stays(bring, own, tmp_path, line):
    bring("metric", "scribble", SCRIBBLE.format(needs="('model',)", line=line))
    asked = "method=original", f"out={tmp_path / 'other'}"
    ended = own("metric=[scribble,accuracy]", *asked)
    assert ended.code == 2
    said = "ssd-bench: metric scribble changed the images in place; it has to work on a clone"
    assert ended.err.splitlines()[-1] == said
    assert own("metric=[accuracy]", *asked).row["metrics"] == own("metric=[accuracy]", "method=original").row["metrics"]


@pytest.mark.parametrize(
    ("needs", "line"),
    [
        ("()", "[t.zero_() for t in (*seen.logits.values(), *seen.labels.values())]"),
        ("()", "[seen.probs(name).fill_(0.1) for name in seen.logits]"),
        ("()", "seen.logits['forget'].numpy()[:] = 0"),
        ("('model',)", "[rows.zero_() for _, rows in probed.request.sets.values()]"),
        ("('model',)", "probed.request.forget.zero_()"),
    ],
)
def test_outputs_and_rows_that_a_metric_scribbles_on_are_its_own(bring, own, tmp_path, needs, line):
    bring("metric", "scribble", SCRIBBLE.format(needs=needs, line=line))
    others = "zrf,calibration,accuracy"
    row = own(f"metric=[scribble,{others}]", "method=original", f"out={tmp_path / 'other'}").row
    assert row["metrics"] == own(f"metric=[{others}]", "method=original").row["metrics"]


COMPARES = """
    from ssd_bench.core.about import About

    @dataclass(frozen=True)
    class Apart:
        needs = ("reference",)
        about = {{"apart_forget": About("percent", "0", heading="apart %"), "apart_test": About("percent", "0")}}
        factor: float = 100.0
        def __call__(self, seen, reference):
            sets = [name for name in ("forget", "test") if seen.has(name)]
            said = {{name: [of.logits[name].argmax(1) for of in (seen, reference)] for name in sets}}
            return {{f"apart_{{name}}": {factor} * (a != b).double().mean() for name, (a, b) in said.items()}}
"""


def test_a_metric_that_compares_with_the_retrained_model_stands_in_tables(bring, own, tmp_path):
    bring("metric", "apart", COMPARES.format(factor="self.factor"))
    asked = "metric=[accuracy,mia,apart]"
    assert "apart_forget" not in own(asked, *FINETUNE).row["metrics"]  # there is no retrained model yet
    for seed in (0, 1):
        for method in (("method=original",), ("method=retrain",), FINETUNE):
            own(asked, f"seed={seed}", *method)
    rows = read_rows(tmp_path / "runs")
    values = derived(rows, tmp_path / "runs")
    assert "| apart % |" in markdown(summarise(rows, values))
    assert len(rows) == 6
    for row in rows:
        of_row = values[row["path"]]
        for name in ("forget", "test"):
            assert of_row[f"apart_{name}"] == pytest.approx(100 - of_row[f"agreement_{name}"])
            assert of_row[f"floor.apart_{name}"] == pytest.approx(100 - of_row[f"floor.agreement_{name}"])
            assert of_row[f"floor.apart_{name}"] > 0
    bring("metric", "apart", COMPARES.format(factor="2 * self.factor"))
    before = {kind: made(tmp_path, kind) for kind in ("trained", "unlearned", "outputs", "values")}
    own(asked, "seed=1", *FINETUNE)
    assert {kind: made(tmp_path, kind) for kind in before} == before


def test_old_runs_are_compared_by_a_metric_that_is_new(bring, own, tmp_path, monkeypatch, told):
    for method in (("method=retrain",), FINETUNE):
        own("metric=[accuracy,mia]", *method)
    bring("metric", "apart", COMPARES.format(factor="self.factor"), factor=1.0)
    folder = tmp_path / "runs"
    rows = reevaluate(read_rows(folder), folder, {"apart": {"_target_": "apart.Apart", "factor": 1.0}})
    values = [derived(rows, folder)[row["path"]] for row in rows]
    assert all(of["apart_forget"] == pytest.approx(1 - of["agreement_forget"] / 100) for of in values)
    assert [of["apart_forget"] for of in values].count(0) == 1
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    sys.modules.pop("apart")
    assert not any("apart_forget" in of for of in derived(rows, folder).values())
    assert told == [
        "metric apart: ConfigError: metric.apart._target_=apart.Apart cannot be imported (ModuleNotFoundError: No "
        "module named 'apart'); its values are left out"
    ]


SIDED = """
    from ssd_bench.core.about import About

    @dataclass(frozen=True)
    class Sided:
        needs = ("reference",)
        about = {{"sided": About("points", "0", heading="sided")}}
        def __call__(self, seen, reference):
            surer = [of.probs("{set}").max(1).values.mean() for of in (seen, reference)]
            return {{"{name}": surer[0] - surer[1]}}
"""


def test_the_floor_of_a_comparison_with_two_sides_has_both(bring, own, tmp_path):
    for seed in (0, 1):
        own("metric=[accuracy]", "method=retrain", f"seed={seed}")  # before anybody brought the metric
    bring("metric", "sided", SIDED.format(set="test", name="sided"))
    own("metric=[accuracy,sided]", *FINETUNE)
    values = derived(read_rows(tmp_path / "runs"), tmp_path / "runs")
    floors = [of["floor.sided"] for path, of in values.items() if "retrain" in path]
    assert floors[0] == pytest.approx(-floors[1])
    assert floors[0] != 0
    of_method = next(of for path, of in values.items() if "finetune" in path)
    assert of_method["floor.sided"] in floors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"set": "nowhere", "name": "sided"}, "metric sided: KeyError: 'nowhere'; its values are left out"),
        (
            {"set": "test", "name": "average_gap"},
            "metric sided: ConfigError: metric sided returned average_gap, which its about does not describe; "
            "its values are left out",
        ),
    ],
)
def test_a_comparison_that_fails_is_told_and_the_other_numbers_stand(bring, own, tmp_path, told, given, said):
    bring("metric", "sided", SIDED.format(**given))
    for method in (("method=retrain",), FINETUNE):
        own("metric=[accuracy,mia,sided]", *method)
    for of_row in derived(read_rows(tmp_path / "runs"), tmp_path / "runs").values():
        assert "sided" not in of_row
        assert "agreement_test" in of_row
        assert of_row["average_gap"] != 777
    assert told[-1] == said
    assert len(told) == len(set(told))


def test_of_seeds_that_forget_other_images_what_both_have_is_compared(bring, own, tmp_path):
    bring("metric", "apart", COMPARES.format(factor="self.factor"))
    for seed in (0, 1):
        own("metric=[accuracy,mia,apart]", "scenario=random", "scenario.n_forget=20", "method=retrain", f"seed={seed}")
    for of_row in derived(read_rows(tmp_path / "runs"), tmp_path / "runs").values():
        assert of_row["apart_forget"] == of_row["apart_test"] == 0
        assert of_row["floor.apart_test"] > 0
        assert "floor.apart_forget" not in of_row


@pytest.mark.parametrize(
    ("needs", "about", "said"),
    [
        (("reference", "model"), "{'mine': None}", "mine needs model and reference; allowed: one of them"),
        (("reference",), "{}", "mine needs reference, so its class has to describe its values in about"),
        (("reference",), "{'tow': None}", "mine and metric against both return tow; rename it in one of them"),
        (("references",), "{}", "mine: needs=references does not exist; did you mean 'reference'?"),
    ],
)
def test_a_metric_that_asks_for_what_there_is_not_is_one_line(bring, own, tmp_path, needs, about, said):
    metric(bring, "mine", "", about, needs)
    ended = own("metric=[accuracy,mine]", f"out={tmp_path / 'none'}")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith(f"ssd-bench: metric {said}")
    assert not (tmp_path / "none").exists()


def test_two_metrics_that_claim_one_name_are_refused(bring, own, tmp_path):
    metric(bring, "mine", "'mia': 1.0", about="{'mia': None}")
    ended = own("metric=[mia,mine]", f"out={tmp_path / 'none'}")
    assert ended.code == 2
    line = "ssd-bench: metric mine and metric mia both return mia; rename it in one of them"
    assert ended.err.splitlines()[-1] == line
    assert not (tmp_path / "none").exists()  # what the classes say is checked first
    metric(bring, "mine", "'mia': 1.0")
    ended = own("metric=[mia,mine]")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == line


@pytest.mark.parametrize(("returns", "said"), [("'mine': float('nan')", "mine=nan"), ("'mine': 'x'", "mine=x")])
def test_a_value_that_is_no_finite_number_is_one_line_that_names_the_metric(bring, own, returns, said):
    metric(bring, "mine", returns)
    ended = own("metric=[accuracy,mine]", "method=original")
    assert ended.code == 2
    line = f"ssd-bench: metric mine returned {said}; allowed: a finite number, or None"
    assert ended.err.splitlines()[-1] == line


NET = """
    from ssd_bench.models import ResNet18

    class Net_(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.fc = nn.Linear(64, classes)
            self.scale = {scale}
        def forward(self, x):
            return self.fc(x.flatten(1)) * self.scale

    @dataclass(frozen=True)
    class Net(ResNet18):
        def untrained(self):
            return self
        def build(self, n_classes, channels, side):
            return Net_(n_classes)
"""


def test_an_own_model_is_not_taken_for_the_package_s_nor_for_its_former_self(bring, own):
    shipped = own("method=original").row
    bring("model", "net", NET.format(scale=1.0), width=64)
    arguments = ("method=original", "model=net", "train=resnet18_slim")
    mine = own(*arguments).row
    bring("model", "net", NET.format(scale=0.5), width=64)
    edited = own(*arguments).row
    assert len({row["artefacts"]["original"] for row in (shipped, mine, edited)}) == 3
    assert len({row["metrics"]["test_loss"] for row in (shipped, mine, edited)}) == 3


def test_an_own_model_without_a_recipe_of_its_name_is_told_which_there_are(bring, own, tmp_path):
    bring("model", "net", NET.format(scale=1.0), width=4, checkpoint="null")
    ended = own("model=net", f"out={tmp_path / 'none'}")
    assert ended.code == 2
    line = "ssd-bench: model=net has no recipe of its name (train/net.yaml); give one of train=fast,resnet18,"
    assert ended.err.splitlines()[-1].startswith(line)
    assert not (tmp_path / "none").exists()


def test_a_model_that_a_method_cannot_change_is_a_reason_before_anything_is_trained(bring, own):
    bring("model", "net", NET.format(scale=1.0).replace("64, classes", "64, classes, bias=False"), width=64)
    arguments = ("model=net", "train=resnet18_slim")
    skipped = own("method=mask_head", *arguments).row
    assert skipped["status"] == "skipped"
    assert "needs a last layer with a bias" in skipped["reason"]
    assert not skipped["artefacts"]
    bring(
        "model",
        "net",
        NET.format(scale=1.0).replace("nn.Linear(64, classes)", "nn.Sequential(nn.Linear(64, classes))"),
        width=64,
    )
    for method in ("ntk_head", "boundary_expand"):
        row = own(f"method={method}", *arguments).row
        assert row["reason"] == f"{method} needs a last layer that is a Linear inside the model, not Sequential"
        assert not row["artefacts"]


SLOW = """
    @dataclass(frozen=True)
    class Slow:
        def __call__(self, model, data, context):
            def make():
                time.sleep(0.5)
                return {"a": torch.ones(1)}
            context.cached("hessian", {}, make)
            return model
"""


def test_what_a_method_does_under_the_cache_is_part_of_its_cost(bring, own):
    bring("method", "slow", SLOW)
    first, later = own("method=slow").row, own("method=slow", "scenario.target=3").row
    for row in (first, later):
        assert row["times"]["shared_s"]["hessian"] >= 0.5
        assert row["times"]["online_s"] < 0.4
    assert first["times"]["method_s"] >= 0.5 > later["times"]["method_s"]
    assert (first["cached"]["hessian"], later["cached"]["hessian"]) == (False, True)


NESTED = """
    @dataclass(frozen=True)
    class Nested:
        def __call__(self, model, data, context):
            def inner():
                time.sleep(0.3)
                return {"a": torch.ones(1)}
            def outer():
                time.sleep(0.2)
                return context.cached("inner", {}, inner)
            if {first}:
                context.cached("inner", {}, inner)
            context.cached("outer", {}, outer)
            return model
"""


def test_something_kept_that_is_made_of_something_kept_costs_both(bring, own):
    for first in (False, True):
        bring("method", "nested", NESTED.replace("{first}", str(first)))
        shared = own("method=nested").row["times"]["shared_s"]
        assert shared["outer"] == pytest.approx(0.5, abs=0.25)  # not 0.2, and not 0.8
        assert ("inner" in shared) is first


RANDOM = """
    import random

    @dataclass(frozen=True)
    class Dice:
        def __call__(self, model, data, context):
            context.cached("warm", {}, lambda: {"a": torch.randn(3)})
            with torch.no_grad():
                model.fc.weight += 0.1 * torch.randn_like(model.fc.weight) + random.random() + np.random.rand()
            return model
"""


def test_global_random_numbers_follow_the_seeds(bring, own, tmp_path):
    bring("method", "dice", RANDOM)
    torch_bytes = [
        Path(own("method=dice", *more).row["artefacts"]["unlearned"]).read_bytes()
        for more in ((), ("force=true",), ("seed_unlearn=1",))
    ]
    assert torch_bytes[0] == torch_bytes[1] != torch_bytes[2]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("data.images.pixels[0] = 0", "the images"),
        ("data.images.mean.zero_()", "the images"),
        ("context.cached('kept', {}, lambda: {'a': torch.ones(2)})['a'].zero_()", "what it got as kept"),
    ],
)
def test_a_method_that_changes_what_others_see_is_refused(bring, own, line, what):
    body = f"@dataclass(frozen=True)\nclass Rude:\n    def __call__(self, model, data, context):\n        {line}\n"
    bring("method", "rude", body + "        return model\n")
    before = own("method=original").row["metrics"]
    ended = own("method=rude")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == f"ssd-bench: method rude changed {what} in place; it has to work on a clone"
    assert own("method=original", "force=true").row["metrics"] == before


def test_labels_that_a_method_scribbles_on_are_its_own(bring, own):
    body = "@dataclass(frozen=True)\nclass Scribble:\n    def __call__(self, model, data, context):\n"
    body += "        data.images.labels.zero_(), data.rows.zero_(), data.forget.zero_(), data.group.zero_()\n"
    bring("method", "scribble", body + "        return model\n")
    row = own("method=scribble").row
    assert row["metrics"] == own("method=original").row["metrics"]


def test_an_error_in_a_method_shows_its_lines_and_names_it(bring, own):
    body = "@dataclass(frozen=True)\nclass Faulty:\n    def __call__(self, model, data, context):\n"
    bring("method", "faulty", body + "        return model.no_such_layer\n")
    ended = own("method=faulty")
    assert ended.code == 1
    assert "return model.no_such_layer" in ended.err
    assert "hydra" not in ended.err.split("Traceback")[1].split("ssd-bench:")[0]
    assert ended.err.count("Traceback") == 1
    assert "ssd-bench: method faulty failed (AttributeError" in ended.err


def test_a_module_that_cannot_be_imported_is_one_line(bring, own):
    bring("method", "broken", "this is no Python\n")
    ended = own("method=broken")
    assert ended.code == 2
    assert "method._target_=broken.Broken cannot be imported (SyntaxError" in ended.err.splitlines()[-1]


def test_a_retrained_model_is_trained_once_whatever_seed_unlearns(own, tmp_path):
    ended = own("-m", "method=retrain,ssd,amnesiac", "seed_unlearn=0,1,2", "method.batch_size=64")
    assert ended.code == 0, ended.err
    rows = sorted((tmp_path / "runs").rglob("metrics.json"))
    assert [sum(f"/{name}-" in str(path) for path in rows) for name in ("retrain", "ssd", "amnesiac")] == [1, 1, 3]
    assert made(tmp_path, "trained") == 2  # the original and the retrained model


def test_a_placebo_s_retrained_model_is_the_original_and_costs_what_that_did(own):
    original = own("scenario.placebo=true", "method=original").row
    retrained = own("scenario.placebo=true", "method=retrain").row
    assert retrained["artefacts"]["unlearned"] == original["artefacts"]["original"]
    assert retrained["metrics"] == original["metrics"]
    assert retrained["times"]["shared_s"]["trained"] == original["times"]["train_original_s"]


def test_the_original_and_the_retrained_model_begin_alike():
    from ssd_bench.run.trained import initial

    class Bench:
        new_model = staticmethod(lambda seed, pretrained=True: seed)

    assert initial(Bench, 3) == initial(Bench, 3) != initial(Bench, 4)


def test_rows_of_another_version_are_named_left_out_and_kept(own, tmp_path):
    from ssd_bench.cli import store
    from ssd_bench.store.rows import read_rows, write_row

    row = own("method=original").row
    path = tmp_path / "runs/old/metrics.json"
    older = {name: value for name, value in row.items() if name != "layout"}
    kept = tmp_path / "runs/artefacts/original/0123.safetensors"
    write_row(path, older | {"artefacts": {"original": str(kept)}})
    kept.parent.mkdir(), kept.write_bytes(b"old")
    assert len(read_rows(tmp_path / "runs")) == 1
    ended = own("method=original", "force=true")
    assert ended.code == 0
    with pytest.raises(SystemExit) as end:
        store.main([str(tmp_path / "runs"), "prune", "--yes"])
    assert not end.value.code
    assert kept.exists()
    assert path.exists()


def test_compile_reaches_every_model_that_is_trained_unlearned_or_evaluated(own, tmp_path, monkeypatch):
    from torch import nn

    from ssd_bench.methods.finetune import Finetune
    from ssd_bench.run import evaluate, trained

    compiled, used, before = set(), {}, []
    monkeypatch.setattr(nn.Module, "compile", lambda model: compiled.add(id(model)) or kept.append(model))
    kept = []  # so that no identity is used twice
    fit, predict, call = trained.fit, evaluate.predict, Finetune.__call__
    monkeypatch.setattr(trained, "fit", lambda m, *a, **k: used.update(trained=id(m)) or fit(m, *a, **k))

    def seen(model, *given):
        before.append(id(model) in compiled)
        used[f"seen{len(used)}"] = id(model)
        return predict(model, *given)

    monkeypatch.setattr(evaluate, "predict", seen)
    monkeypatch.setattr(Finetune, "__call__", lambda s, m, *a: used.update(method=id(m)) or call(s, m, *a))
    arguments = *FINETUNE, f"out={tmp_path / 'new'}"
    assert own(*arguments, "compile=true").code == 0
    assert {"trained", "method"} < used.keys()
    assert len(used) >= 5  # and the original, the unlearned and the random model, evaluated
    assert set(used.values()) <= compiled
    assert all(before)  # not after it was asked: what is kept of it does not say which it was
    compiled.clear(), used.clear()
    assert own(*arguments).code == 0
    assert used
    assert not compiled


def test_a_method_that_changes_more_than_weights_has_its_own_numbers_each_time(bring, own, begun):
    body = """
    @dataclass(frozen=True)
    class Hooked:
        def __call__(self, model, data, context):
            model.register_forward_hook(lambda _, __, said: said - 1e4 * (torch.arange(10) == 8))
            return model
    """
    bring("method", "hooked", body)
    first = own("method=hooked")
    assert "method hooked changes more than weights and buffers" in first.err
    own("method=hooked", "evaluate.batch_size=100")
    found = [row for row in read_rows(begun) if row["method"] == "hooked"]
    assert [row["metrics"]["forget_acc"] for row in found] == [0, 0]


def test_an_own_scenario_with_other_sets_is_another_run(bring, own):
    body = """
        from dataclasses import replace
        from ssd_bench.scenarios.full_class import FullClass
        @dataclass(frozen=True)
        class Few(FullClass):
            keep: int = 10
            def __call__(self, dataset, targets, seed):
                request = super().__call__(dataset, targets, seed)
                part, rows = request.sets["forget"]
                return replace(request, sets={**request.sets, "forget": (part, rows[: self.keep])})
    """
    settings = {"target": "null", "n_forget": "null", "placebo": "false", "batch_size": 64}
    bring("scenario", "few", body, keep=4, **settings)
    rows = [own("scenario=few", f"scenario.keep={n}").row for n in (3, 5)]
    assert [row["samples"]["forget"] for row in rows] == [3, 5]
    assert rows[0]["task"]["forget_sha256"] == rows[1]["task"]["forget_sha256"]
    assert len(by_task(rows)) == len(across_seeds(rows)) == 2
    bring("scenario", "few", body.replace(": self.keep", ": self.keep // 2"), keep=4, **settings)
    assert own("scenario=few").row["samples"]["forget"] == 2


def test_settings_and_details_of_any_kind_stand_in_the_row(bring, own):
    body = """
        from enum import Enum
        class Kind(Enum):
            near = 1
            far = 2
        @dataclass(frozen=True)
        class Kinds:
            kind: Kind = Kind.near
            def __call__(self, model, data, context):
                context.details |= {"seen": {3, 1}, "by": len, "kind": self.kind, (1, 2): np.float32(0.5)}
                return model
    """
    bring("method", "kinds", body, kind="near")
    row = own("method=kinds", "method.kind=far").row
    assert row["settings"] == {"kind": "far"}
    told = {"seen": [1, 3], "by": "<builtin_function_or_method>", "kind": "far", "(1, 2)": 0.5}
    assert row["details"] == told


UNUSABLE = {
    "half": ("model.half()", "cannot be used (RuntimeError"),
    "nine": ("nn.Sequential(model, nn.Linear(10, 9))", "says (9,) for 10"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_model_that_cannot_be_used_is_one_line_that_names_the_method(bring, own, kind):
    made, said = UNUSABLE[kind]
    bring(
        "method",
        "odd",
        f"@dataclass(frozen=True)\nclass Odd:\n    def __call__(self, model, data, context):\n        return {made}\n",
    )
    ended = own("method=odd")
    assert ended.code == 2
    assert f"ssd-bench: method odd returned a model that {said}" in ended.err.splitlines()[-1]
