"""Every config composes and builds: each option once, each tuned and experiment file, and the plan it makes."""

from pathlib import Path

import pytest
import yaml
from conftest import composed
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from ssd_bench.cli import overrides
from ssd_bench.core.errors import ConfigError, check_range
from ssd_bench.run.cases import CHOICES, as_list, cases, holding, setting, tuned_by
from ssd_bench.run.plan import CONF_DIR, Plan, plan
from ssd_bench.store.rows import TRIED_HERE

GROUPS = ("data", "model", "scenario", "method", "train", "metric")


def options(group):
    return sorted(path.stem for path in (CONF_DIR / group).rglob("*.yaml"))


GIVEN = {  # what an option cannot do without
    "data=folder": "data.root=pictures",
    "data=arrays": "data.file=mine.npz",
    "model=timm": "model.architecture=resnet18",
}


def planned(*overrides) -> Plan:
    cfg = composed(*overrides, *(GIVEN[choice] for choice in overrides if choice in GIVEN))
    names = dict(item.split("=") for item in overrides if item.split("=")[0] in GROUPS)
    return plan(cfg, {group: names.get(group, "") for group in GROUPS})


def test_there_are_options():
    assert set(options("data")) == {"digits", "cifar10", "cifar20", "cifar100", "folder", "arrays"}
    assert set(options("model")) == {"resnet18", "resnet18_slim", "vit_base", "vit_tiny", "timm"}
    assert set(options("scenario")) == {
        "full_class", "sub_class", "random", "sequence", "hard", "poison", "confusion", "label_noise", "listed",
    }  # fmt: skip
    assert set(options("method")) >= {"original", "retrain", "finetune", "ssd"}


@pytest.mark.parametrize("fidelity", ["corrected", "official"])
@pytest.mark.parametrize("choice", [f"{group}={option}" for group in GROUPS[:-1] for option in options(group)])
def test_every_option_builds(choice, fidelity):
    made = planned(choice, f"fidelity={fidelity}")
    assert made.settings.fidelity == fidelity


@pytest.mark.parametrize("data", options("data"))
@pytest.mark.parametrize("model", options("model"))
def test_every_recipe_builds(data, model):
    made = planned(f"data={data}", f"model={model}")
    assert made.train.epochs >= 8
    assert max(made.train.milestone_epochs()) < made.train.epochs or made.train.schedule == "cosine"


TUNED = [
    pytest.param(path.stem, case, id=f"{path.stem} {case['when']}")
    for path in sorted((CONF_DIR / "tuned").glob("*.yaml"))
    for case in cases([CONF_DIR], path.stem)
]


@pytest.mark.parametrize(("method", "case"), TUNED)
def test_cases_apply_when_they_say_and_leave_the_fidelity_switches_alone(method: str, case: dict):
    when = {key: as_list(value)[0] if key in CHOICES else value for key, value in case["when"].items()}
    chosen = {"data": "cifar20"} | when
    chosen = [f"method={method}", *(f"{key}={value}" for key, value in chosen.items())]
    cfg = composed(*chosen)
    default = yaml.safe_load((CONF_DIR / "method" / f"{method}.yaml").read_text())
    if "study" in case:
        assert tuned_by(OmegaConf.to_container(cfg, resolve=True), "a class")["study"] == case["study"]["name"]
        assert {key: cfg.method[key] for key in case["method"]} == case["method"]
        return
    official = composed("fidelity=official", *chosen)
    for key, value in case["method"].items():
        if "by_fidelity" in str(default[key]):
            assert "by_fidelity" in value, f"{key} would hide fidelity=official"
        elif "by_fidelity" in str(value):  # one of the two keeps the default
            assert official.method[key] != cfg.method[key]
            assert default[key] in (official.method[key], cfg.method[key])
        else:
            assert cfg.method[key] == value


def written(folder: Path, text: str, method: str = "ssd") -> list[Path]:
    (folder / "tuned").mkdir(exist_ok=True)
    (folder / f"tuned/{method}.yaml").write_text(text)
    return [folder]


@pytest.mark.parametrize("case", cases([CONF_DIR], "ssd"), ids=lambda case: str(case["when"]))
def test_the_control_for_ssd_takes_its_settings_in_every_case(case):
    chosen = {"data": "cifar20", "model": "resnet18", "scenario": "full_class"}
    chosen = [as_list(case["when"].get(key, other))[-1] for key, other in chosen.items()]
    ssd, control = (setting([CONF_DIR], "+".join([method, *chosen])) for method in ("ssd", "dampen_random"))
    assert ssd == control
    assert {**ssd["method"], "tuned": ssd["tuned"]} != {"tuned": []}


def test_the_control_for_ssd_has_its_settings():
    ssd, control = (
        yaml.safe_load((CONF_DIR / "method" / f"{name}.yaml").read_text()) for name in ("ssd", "dampen_random")
    )
    assert ssd | {"_target_": control["_target_"]} == control


def test_cases_of_another_method_stand_where_a_file_names_it(tmp_path):
    folders = written(tmp_path, "- {when: {data: digits}, method: {alpha: 2.0, lam: 0.5}}")
    written(tmp_path, "- like: ssd\n- {when: {data: digits}, method: {alpha: 3.0}}", "control")
    assert setting(folders, "control+digits+resnet18+random")["method"] == {"alpha": 3.0, "lam": 0.5}
    written(tmp_path, "like: control", "more")
    assert setting(folders, "more+digits+resnet18+random")["method"] == {"alpha": 3.0, "lam": 0.5}
    written(tmp_path, "like: more")
    with pytest.raises(ConfigError, match="like: ssd leads back to itself"):
        setting(folders, "ssd+digits+resnet18+random")


def test_the_later_case_wins_and_several_options_make_one_condition(tmp_path):
    folders = written(
        tmp_path,
        "- {when: {scenario: random}, method: {alpha: 1.0, lam: 0.5}}\n"
        "- {when: {data: [digits, cifar10]}, method: {alpha: 2.0}}\n",
    )
    assert setting(folders, "ssd+digits+resnet18+random") == {"method": {"alpha": 2.0, "lam": 0.5}, "tuned": []}
    assert setting(folders, "ssd+cifar20+resnet18+random")["method"] == {"alpha": 1.0, "lam": 0.5}
    assert setting(folders, "ssd+cifar20+resnet18+full_class")["method"] == {}
    assert setting(folders, "retrain+digits+resnet18+random")["method"] == {}


def test_of_studies_that_hold_the_one_with_most_conditions_is_taken():
    few, more, last = ({"when": when, "method": {}} for when in ({}, {"precision": "bfloat16"}, {}))
    config = {"fidelity": "corrected", "protocol": "tuned", "precision": "bfloat16", "tuned": [few, more, last]}
    assert holding(config) is more
    assert holding(config | {"precision": "float32"}) is last


@pytest.mark.parametrize("text", ["- {when: {data: digits}}", "alpha: 3", "- 3"])
def test_a_case_without_a_condition_or_a_method_is_one_line(tmp_path, text):
    with pytest.raises(ConfigError, match="each case is a mapping with when"):
        setting(written(tmp_path, text), "ssd+digits+resnet18+random")


def test_a_key_that_no_case_has_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'published'"):
        setting(written(tmp_path, "- {when: {}, method: {}, publishd: {}}"), "ssd+digits+resnet18+random")


SWITCHES = {  # METHODS: what fidelity=official changes -> corrected, official
    ("train.select",): ("last", "best_test"),
    ("data.norm", "data=cifar10"): ("auto", "cifar100"),
    ("data.norm",): ("auto", "cifar100"),
    ("scenario.n_forget", "scenario=random"): (100, None),
    ("scenario.fraction", "scenario=random"): (None, 0.00165),
    ("method.mode", "method=retrain"): ("from_scratch", "head_reset"),
    ("method.order",): ("class_pure", "request"),
    ("method.order", "scenario=random"): ("mixed", "request"),
    ("method.importance", "data=cifar20"): ("batch_mean", "batch_mean"),
    ("method.epochs", "method=teacher"): (6, 1),  # a study's
    ("evaluate.average",): ("sample", "batch"),
}


@pytest.mark.parametrize("key", SWITCHES, ids=lambda key: " ".join(key))
def test_each_fidelity_switch(key):
    for fidelity, expected in zip(("corrected", "official"), SWITCHES[key], strict=True):
        assert OmegaConf.select(composed(*key[1:], f"fidelity={fidelity}"), key[0]) == expected


def test_batches_that_averages_mean():
    assert composed().evaluate.average_batch == 64
    assert composed("scenario=random").evaluate.average_batch == 128
    assert composed("scenario=random", "method=finetune").method.batch_size == 128


def test_a_number_to_forget_on_the_command_line_wins_over_the_released_fraction():
    assert planned("scenario=random", "fidelity=official", "scenario.n_forget=50").scenario.fraction is None
    for fidelity in ("corrected", "official"):  # else it would be a condition of a study, too
        asked = planned("scenario=random", f"fidelity={fidelity}", "scenario.fraction=0.1")
        assert (asked.config["scenario"]["n_forget"], asked.scenario.fraction) == (None, 0.1)
    assert planned("scenario=random", "fidelity=official", "seed=3", "scenario.n_forget=${seed}").scenario.n_forget == 3
    with pytest.raises(ConfigError, match="exactly one"):
        planned("scenario=random", "scenario.fraction=0.1", "scenario.n_forget=50")


def test_seeds_follow_seed():
    made = planned("seed=4")
    assert (made.seed_unlearn, made.seed_forget) == (4, 4)
    made = planned("seed=4", "seed_unlearn=0", "seed_forget=7")
    assert (made.seed_unlearn, made.seed_forget) == (0, 7)


EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_a_sweep_whose_jobs_compose(name):
    args = get_args_parser().parse_args(["--multirun", f"experiment={name}"])
    args.overrides += overrides.sweep_of_experiment(args)
    swept = dict(override.split("=", 1) for override in args.overrides)
    if name.startswith("study_") and name != "study_cifar10_random":  # they take the same methods from one file
        args.overrides = ["method=original,retrain,ssd" if o.startswith("method=") else o for o in args.overrides]
    overrides.check(args)
    assert {"original", "retrain", "ssd"} <= set(swept["method"].split(","))
    assert len(swept["seed"].split(",")) == (3 if name.endswith("_slim") or name.startswith("study_") else 10)
    assert name.removeprefix("study_").startswith(f"{swept['data']}_{swept['scenario']}")
    alone = {key: value if value.startswith("[") else value.split(",")[0] for key, value in swept.items()}
    first = composed(*(f"{key}={value}" for key, value in alone.items() if key != "experiment"))
    assert first.scenario._target_
    targets = first.data.targets.get(swept["scenario"])
    if name.startswith("study_"):
        assert set(swept["method"].split(",")) == set(options("method")) - {"clean"}
        assert not targets or set(swept["scenario.target"].split(",")) <= set(targets)
    elif targets:
        assert swept["scenario.target"].split(",") == targets[: 1 if name.endswith("_slim") else None]


def test_every_paper_table_has_a_slim_twin():
    assert {name for name in EXPERIMENTS if f"{name}_slim" in EXPERIMENTS} == {
        name for name in EXPERIMENTS if not (name.endswith("_slim") or name.startswith("study_"))
    }


def test_what_is_given_beside_an_experiment_wins():
    args = get_args_parser().parse_args(["--multirun", "experiment=cifar20_sub_class_slim", "seed=7", "method=ssd"])
    added = overrides.sweep_of_experiment(args)
    assert "scenario=sub_class" in added
    assert not [override for override in added if override.startswith(("seed=", "method="))]


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        (1.5, {"least": 0, "most": 1}, "between 0 and 1, got 1.5"),
        (0, {"least": 1}, "at least 1, got 0"),
        (0.0, {"above": 0}, "positive, got 0.0"),
        (1, {"above": 1}, "more than 1, got 1"),
        (1.0, {"least": 0, "below": 1}, "at least 0 and below 1, got 1.0"),
        (-1, {"least": 0, "null": True}, "null or at least 0, got -1"),
        (float("inf"), {"least": 0}, "at least 0, got inf"),
        (float("nan"), {"above": 0}, "positive, got nan"),
    ],
)
def test_a_number_out_of_range_is_one_line_that_says_what_is_allowed(value, bounds, said):
    with pytest.raises(ValueError, match=f"^share must be {said}$"):
        check_range("share", value, **bounds)


def test_a_number_on_the_edge_of_its_range_and_null_where_it_is_allowed_pass():
    check_range("share", 0, 0, 1)
    check_range("share", 1, 0, 1)
    check_range("share", None, above=0, null=True)


@pytest.mark.parametrize("scenario", ["hard", "listed"])
def test_single_images_take_what_holds_for_random_ones(scenario):
    assert planned("data=cifar10", f"scenario={scenario}").method.order == "mixed"


def test_a_sequence_takes_what_was_found_for_one_request_of_its_kind():
    def alpha(*overrides):
        asked = ("data=digits", "method=ssd", "scenario=sequence", *overrides)
        return plan(composed(*asked), {}).config["method"]["alpha"]

    of_one = plan(composed("data=digits", "method=ssd", "scenario=full_class"), {}).config["method"]["alpha"]
    assert alpha("scenario.of=full_class", "scenario.requests=[3,8]") == of_one != 10.0
    assert alpha("scenario.requests=5") == 10.0  # no study of these


@pytest.mark.parametrize("method", ["ssd", "lfssd", "jit", "potion", "unsir"])
@pytest.mark.parametrize("protocol", ["tuned", "published"])
@pytest.mark.parametrize("data", ["digits", "cifar20"])
@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("full_class", "scenario.of=full_class"),
        ("sub_class", "scenario.of=sub_class"),
        ("random", "scenario.requests=5"),
    ],
)
def test_a_sequence_has_the_settings_of_one_request_of_its_kind(method, protocol, data, kind, asked):
    given = f"data={data}", "model=resnet18_slim", f"method={method}", f"protocol={protocol}"
    one, several = composed(*given, f"scenario={kind}"), composed(*given, "scenario=sequence", asked)
    assert OmegaConf.to_container(several.method, resolve=True) == OmegaConf.to_container(one.method, resolve=True)


def test_a_sequence_s_published_settings_are_those_of_its_kind():
    asked = ("data=cifar20", "model=resnet18_slim", "method=lfssd", "scenario=sequence", "protocol=published")
    found = {of: composed(*asked, f"scenario.of={of}").method.alpha for of in ("full_class", "sub_class")}
    assert found == {"full_class": 5.0, "sub_class": 10.0}


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ("data=cifar10 scenario.requests=[cat,dog]", "full_class"),
        ("data=cifar100 scenario.requests=null", "full_class"),
        ("data=cifar20 scenario.requests=[vehicle2,veg]", "full_class"),
        ("data=cifar20 scenario.requests=[vehicle2,[veg,people]]", "full_class"),
        ("data=cifar20 scenario.requests=[rocket,mushroom]", "sub_class"),
        ("data=cifar20 scenario.requests=null", "sub_class"),
        ("data=digits scenario.requests=[8,6]", "sub_class"),
        ("data=digits scenario.requests=[8,6] scenario.of=full_class", "full_class"),
        ("data=cifar10 scenario.requests=3", "random"),
    ],
)
def test_what_is_named_says_what_kind_of_requests_they_are(asked, kind):
    assert composed("scenario=sequence", *asked.split()).scenario.of == kind


@pytest.mark.parametrize("asked", ["-3", "true", "2.5"])
def test_requests_that_are_neither_targets_nor_a_number_are_one_line(asked):
    with pytest.raises(ConfigError, match="neither a list of targets nor a number of random batches"):
        planned("scenario=sequence", f"scenario.requests={asked}")


def test_a_kind_of_requests_that_does_not_exist_is_one_line():
    with pytest.raises(ConfigError, match="of=foo does not exist; allowed: full_class, random, sub_class"):
        planned("scenario=sequence", "scenario.of=foo")


def test_a_case_of_one_kind_may_set_what_no_line_of_text_holds(tmp_path):
    case = {"when": {"scenario": "sub_class"}, "method": {"table": {"a": 1, "ü": "${by_fidelity:1,2}"}, "new": 3}}
    folders = written(tmp_path, yaml.safe_dump([case]), "mine")
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("table: {}\n")
    with pytest.raises(ConfigError, match="sets new for some kinds of requests"):
        setting(folders, "mine+digits+resnet18_slim+sequence")
    (tmp_path / "method/mine.yaml").write_text("table: {}\nnew: 2\n")
    found = setting(folders, "mine+digits+resnet18_slim+sequence")
    for kind, table in (("sub_class", {"a": 1, "ü": 1}), ("random", {}), ("full_class", {})):
        config = OmegaConf.create({"fidelity": "corrected", "scenario": {"of": kind}, **found})
        assert OmegaConf.to_container(config.method, resolve=True) == {"table": table, "new": 3 if table else 2}


def test_what_was_found_by_hand_is_not_called_published():
    asked = ("data=cifar10", "model=resnet18_slim", "method=ssd", "scenario=full_class")
    assert composed(*asked).method.alpha == 6.0
    assert composed(*asked, "protocol=published").method.alpha == 10.0
    assert composed(*asked, "fidelity=official").method.alpha == 10.0
    assert tuned_by(OmegaConf.to_container(composed(*asked), resolve=True), "dog")["budget"] == "14 trials by hand"


@pytest.mark.parametrize(
    ("target", "here"),
    [("tried", True), ("veg+tried", True), ("tried>veg", True), ("veg", False), ("a, tried", False), (None, False)],
)
def test_a_request_that_settings_were_tried_on_is_named_however_it_is_asked_for(target, here):
    study = {"name": "s", "budget": "9 trials", "tried_on": [{"seed": 100, "scenario.target": "tried"}]}
    config = {"fidelity": "corrected", "protocol": "tuned", "method": {}, "scenario": {"target": 13}}
    config |= {"seed": 0, "tuned": [{"when": {}, "method": {}, "study": study}]}
    assert tuned_by(config, target)["budget"] == f"9 trials{f', {TRIED_HERE}' * here}"
    assert TRIED_HERE in tuned_by(config | {"seed": 100}, target)["budget"]


@pytest.mark.parametrize(("target", "here"), [("1, 7", True), ("7, 1", True), ("1, 8", False)])
def test_classes_that_settings_were_tried_on_count_in_either_order(target, here):
    study = {"name": "s", "budget": "9 trials", "tried_on": [{"scenario.classes": ["7", "1"]}]}
    config = {"fidelity": "corrected", "protocol": "tuned", "method": {}}
    config |= {"tuned": [{"when": {}, "method": {}, "study": study}]}
    assert (TRIED_HERE in tuned_by(config, target)["budget"]) == here
