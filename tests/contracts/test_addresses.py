"""No result is mistaken for another: every ingredient gives another address, and what must not matter the same."""

import importlib
import logging
import re
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT, planned
from omegaconf import OmegaConf
from safetensors.torch import save_file

from ssd_bench.core.build import class_of
from ssd_bench.models import ResNet18
from ssd_bench.run import identity, pipeline
from ssd_bench.run.plan import CONF_DIR
from ssd_bench.store.address import address, code_of, digest
from ssd_bench.train.recipe import Recipe

USUAL = ("train.augment=true", "method.importance=batch_mean")  # so that everything has a say


def keys(*overrides):
    """The addresses of one run."""
    own = any(override.startswith("method=") for override in overrides)
    found = pipeline.prepare(planned(*SHORT, *(USUAL[:1] if own else USUAL), *overrides)).identity
    parts = {"original": found.original, "retrained": found.retrained.key, "unlearned": found.unlearned}
    parts |= {"kept": found.kept({}), "untrained": found.untrained, "row": found.row}
    return {name: digest(part) for name, part in parts.items()}


ALL = {"original", "retrained", "unlearned", "kept", "untrained", "row"}
TRAINING = ALL - {"untrained"}
REQUEST = {"retrained", "unlearned", "row"}
OTHER = {  # what is asked for -> whose address changes
    "seed=1": TRAINING,
    "train.epochs=3": TRAINING,
    "train.lr=0.2": TRAINING,
    "train.augment=false": TRAINING,
    "train.select=best_test": TRAINING - {"retrained"},  # which has no test images to select by
    "data.augment.crop=3": TRAINING,
    "data.augment.flip=true": TRAINING,
    "data.split_seed=1": ALL,
    "data.train_per_class=20": ALL,
    "data.test_per_class=9": ALL,
    "data.subset_seed=1": ALL,
    "data.validation=0.2": ALL,
    "data.norm=cifar100": ALL,
    "model.width=5": ALL,
    "threads=2": ALL,
    "precision=bfloat16": ALL,
    "compile=true": ALL,
    "scenario.target=3": REQUEST,
    "scenario=random": REQUEST,
    "scenario.placebo=true": TRAINING,
    "method.alpha=2": {"unlearned", "row"},
    "method.importance=per_sample": {"unlearned", "row"},
    "method.order=mixed": {"unlearned", "row"},
    "method=finetune": {"unlearned", "row"},
    "evaluate.retain_train_samples=10": {"row"},
    "evaluate.attack_seed=1": {"row"},
    "evaluate.average=batch": {"row"},
    "metric=[accuracy]": {"row"},
}
SAME = (
    "out=elsewhere",
    "force=true",
    "save_model=false",
    "dry_run=true",
    "device=cpu",
    "data.validation=0",
    "seed_unlearn=5",  # SSD draws nothing
    "seed_forget=5",  # a class is not drawn
    'scenario.target="8"',
    "scenario.target=8",
)


@pytest.fixture(scope="module")
def usual():
    return keys()


@pytest.mark.parametrize("override", OTHER)
def test_what_determines_a_result_is_in_its_address(override, usual):
    found = keys(override)
    assert {name for name in found if found[name] != usual[name]} == OTHER[override]


@pytest.mark.parametrize("override", SAME)
def test_what_must_not_matter_does_not(override, usual):
    assert keys(override) == usual


def test_seeds_matter_to_those_who_use_them():
    finetune, drawn = keys("method=finetune"), keys("scenario=random", "method=retrain")
    other = keys("method=finetune", "seed_unlearn=5")
    assert {name for name in other if other[name] != finetune[name]} == {"unlearned", "row"}
    assert keys("method=retrain", "seed_unlearn=5") == keys("method=retrain")
    assert keys("scenario=random", "method=retrain", "seed_forget=5")["retrained"] != drawn["retrained"]


def test_a_checkpoint_counts_by_its_content_and_the_recipe_still_does(tmp_path):
    def saved(name, seed):
        torch.manual_seed(seed)
        save_file(ResNet18(width=4).build(10, 1, 8).state_dict(), tmp_path / name)
        return f"model.checkpoint={tmp_path / name}"

    first, moved, other = (keys(saved(f"{name}.safetensors", seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == moved
    assert {name for name in first if first[name] != other[name]} == {"original", "unlearned", "kept", "row"}
    for override in ("data.augment.crop=3", "train.epochs=3"):  # a method may train by the recipe
        changed = keys(saved("a.safetensors", 0), override)
        assert {name for name in first if first[name] != changed[name]} == {"retrained", "unlearned", "row"}


def test_a_retrained_model_is_found_by_what_it_was_trained_on():
    """The same images, whoever names them: as a class, or as what a placebo leaves."""
    placebo = pipeline.prepare(planned(*SHORT, "scenario.placebo=true")).identity
    assert placebo.retrained.key == placebo.trained.key  # D_r is D
    by_sub_class = {target: keys("scenario=sub_class", f"scenario.target={target}") for target in (8, 4)}
    assert by_sub_class[8]["retrained"] != by_sub_class[4]["retrained"]


def test_threads_count_on_a_cpu_and_the_model_of_the_gpu_on_cuda(monkeypatch):
    def machine(device, threads, gpu="H100"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu)
        return identity.arithmetic(torch.device(device), threads)

    assert machine("cpu", 1) != machine("cpu", 2)
    assert machine("cuda", 1) == machine("cuda", 64) == machine("cuda:1", 64)
    assert machine("cuda", 1) != machine("cuda", 1, "A100")
    assert machine("cuda", 1) != machine("cpu", 1)


# What a user brings

OWN = """
from dataclasses import dataclass
import {helper}

@dataclass(frozen=True)
class Own:
    size: int = {default}

    def __call__(self, *arguments):
        import numpy
        return {helper}.value() + {body}  # {remark}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A class in a module of the user's, as a new process sees it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(module="own_module", helper="own_helper", returns="1", default=1, body="2", remark="", layout=""):
        (tmp_path / f"{helper}.py").write_text(f"def value():\n    return {returns}\n")
        source = OWN.format(helper=helper, default=default, body=body, remark=remark)
        (tmp_path / f"{module}.py").write_text(source.replace("\n\n", f"\n{layout}\n"))
        for name in (module, helper):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(module).Own

    yield write
    for name in ("own_module", "own_helper", "other_module", "this"):
        sys.modules.pop(name, None)


CHANGES = {
    "its own code": {"body": "3"},
    "a module of theirs that it imports": {"returns": "2"},
    "where it lies": {"module": "other_module"},
    "a default": {"default": 2},
}


@pytest.mark.parametrize("change", CHANGES)
def test_own_code_counts(own, change):
    before = address(own()())
    assert address(own(**CHANGES[change])()) != before


def test_a_module_that_is_called_as_one_of_pythons_own_is_the_users_all_the_same(own, monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    before = address(own(module="this")())
    assert before["code"]
    assert address(own(module="this", body="3")()) != before
    assert address(own(module="this", returns="2")()) != before


def test_a_folder_of_modules_counts_also_without_an_init(own, tmp_path):
    (tmp_path / "own_folder").mkdir()
    found = []
    for value in (1, 2):
        (tmp_path / "own_folder/part.py").write_text(f"VALUE = {value}\n")
        cls = own(body="__import__('own_folder')\n        from own_folder import part\n        0")
        found.append(address(cls()))
    assert found[0] != found[1]


def test_remarks_and_layout_do_not_count(own):
    before = address(own()())
    assert address(own(remark="quite another remark")()) == before
    assert address(own(layout="\n\n")()) == before


def test_what_was_edited_while_a_process_runs_does_not_pass_for_what_runs_in_it(own, tmp_path):
    cls = own()
    before = address(cls())
    path = tmp_path / "own_module.py"
    path.write_text(path.read_text().replace("+ 2", "+ 3"))
    assert address(cls()) == before  # what is in memory is what was read
    importlib.reload(sys.modules["own_module"])
    assert address(sys.modules["own_module"].Own()) != before


@dataclass(frozen=True)
class Wider(ResNet18):
    """Another network under the same settings."""

    def untrained(self):
        return self


def test_another_class_with_the_same_settings_is_another_model():
    assert address(Wider(width=4)) != address(ResNet18(width=4))
    assert "ssd_bench.models.resnet.ResNet18" in address(Wider())["versions"]  # it builds on the package's


def test_a_field_that_came_later_counts_only_where_it_is_set():
    assert {"nesterov", "decay_all"}.isdisjoint(address(Recipe())["settings"])
    assert address(Recipe(nesterov=True))["settings"]["nesterov"] is True


def test_a_version_that_is_raised_is_another_address(monkeypatch):
    from ssd_bench.metrics.zrf import ZRF
    from ssd_bench.train.recipe import Recipe

    for cls in (ResNet18, Recipe, ZRF):
        before = address(cls())
        monkeypatch.setattr(cls, "version", cls.version + 1)
        assert address(cls()) != before


def test_what_lands_has_a_version_and_what_has_none_yet_counts_by_its_source(tmp_path):
    for group in ("method", "metric", "model"):
        for path in sorted((CONF_DIR / group).glob("*.yaml")):
            for target in re.findall(r"_target_: ([\w.]+)", path.read_text()):
                assert "version" in vars(class_of(target, group)), f"{target}: version: ClassVar[int] = 1"

    def landed(body, room="methods"):
        name = f"ssd_bench.{room}.not_landed"
        of = "(Method)" if room == "methods" else ""
        imports = "from dataclasses import dataclass\nfrom ssd_bench.core.task import Method\n"
        (tmp_path / "not_landed.py").write_text(f"{imports}@dataclass\nclass Mine{of}:\n{body}")
        spec = spec_from_file_location(name, tmp_path / "not_landed.py")
        sys.modules[name] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
        try:
            return code_of(module.Mine)
        finally:
            del sys.modules[name]

    for room in ("methods", "metrics"):
        bodies = (f"    rate = {rate}  # {why}\n" for rate, why in ((1, ""), (1, "as it was"), (2, "")))
        first, again, edited = (landed(body, room) for body in bodies)
        assert first == again != edited
    assert landed("    version = 1\n    rate = 1\n") == landed("    version = 1\n    rate = 2\n")


def test_what_is_typed_into_an_interpreter_counts_by_its_compiled_code(monkeypatch):
    source = "def helper():\n    return {}\nclass Typed:\n    a = 1\n    def f(self):\n        return helper()\n"

    def typed(number):
        space = {"__name__": "__main__"}
        exec(source.format(number), space)
        return space["Typed"]

    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    first, same, other = typed(1), typed(1), typed(2)
    assert code_of(first) == code_of(same) != code_of(other)
    assert code_of(first)["code"]


@pytest.mark.parametrize(
    "line",
    [
        "LR = {}",
        "def f(self, s={}): pass",
        "def f(self, m=sorted, s={}): pass",
        "def f(self, *, s={}): pass",
        "WEIGHTS = [{}]",
        "TABLE = {{'a': {}}}",
        "LR = {{{}, 7}}",
        "import torch; LR = torch.tensor({})",
        "f = property(lambda self: {})",
    ],
)
def test_constants_defaults_and_lists_typed_into_an_interpreter_count(line, monkeypatch):
    def typed(number):
        space = {"__name__": "__main__"}
        own = line.startswith(("def", "f ="))
        outside = "" if own else line.format(number)
        inside = line.format(number) if own else "def f(self): return LR, WEIGHTS, TABLE"
        exec(f"{outside}\nclass Typed:\n    {inside}\n", space)
        return code_of(space["Typed"])

    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert typed(1) == typed(1) != typed(2)


def test_a_function_counts_with_what_it_carries():
    def closed_over(value):
        def inner(x):
            return inner if x else value

        return inner

    def with_default(value):
        def inner(x, of=value):
            return inner if x else of

        return inner

    class Bound:
        def __init__(self, value):
            self.value = value

        def method(self):
            return self.value

    makes = closed_over, with_default, lambda value: partial(closed_over, value), lambda value: Bound(value).method
    for make in makes:
        assert address(make(1)) == address(make(1)) != address(make(2))
    assert address({1, 2}) == address({2, 1}) != address({1, 3})
    assert address({1, 2}) != address([1, 2])


@dataclass(slots=True, frozen=True)
class Slotted:
    lr: float

    def __call__(self):
        return self.lr


@pytest.mark.parametrize(
    "make",
    [
        Slotted, lambda k: {1: k}.get, lambda k: torch.tensor([k]).add,
        lambda k: torch.tensor([k], dtype=torch.bfloat16), lambda k: np.array([f"name {k}", None], dtype=object),
        lambda k: bytes([k]), lambda k: slice(k),
    ],
)  # fmt: skip
def test_what_has_a_value_counts_by_it_wherever_that_lies(make):
    assert address(make(1)) == address(make(1)) != address(make(2))


def test_values_that_have_no_address_count_by_their_kind():
    from ssd_bench.store.address import values_of

    assert values_of({"a": torch.ones(2).to_sparse(), "b": object(), "c": torch.ones(2, device="meta")})
    assert values_of([b"a", {1}]) != values_of([b"b", {1}]) != values_of([b"b", [1]])


def test_what_a_user_s_code_takes_from_a_library_counts_by_its_version():
    layer, place = torch.nn.Linear(2, 2), torch.device("cpu")
    mine = {
        "compiled": partial(torch.clamp, min=0),
        "function": partial(torch.nn.functional.cross_entropy, label_smoothing=0.1),
        "module": lambda x: layer(x),
        "type": lambda x, dtype=torch.float32, device=place: x.to(device, dtype),
        "logger": partial(logging.getLogger("mine").info, "x"),
        "number": np.float32(2),
    }
    told = address(mine)
    assert len(str(told)) < 20_000  # not the library's source
    assert str(told).count(torch.__version__) >= 2
    with torch.no_grad():
        layer.weight += 1
    assert address(mine)["module"] != told["module"]


def test_a_tensor_counts_by_its_bytes():
    one = torch.arange(3.0)
    assert address(one) == address(one.clone()) != address(one + 1)
    assert address({"a": [1, (one, None)]}) == {"a": [1, [address(one), None]]}
    with pytest.raises(TypeError, match="has no address"):
        address(object())


def test_every_plug_in_of_the_package_has_a_version():
    found = 0
    for group in ("method", "model", "train"):
        for path in sorted((Path(CONF_DIR) / group).glob("*.yaml")):
            node = OmegaConf.load(path)
            if "_target_" in node:
                found += 1
                module, _, name = str(node._target_).rpartition(".")
                assert code_of(getattr(importlib.import_module(module), name))["versions"], path
    assert found > 10
