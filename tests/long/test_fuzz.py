"""Whatever is typed ends in a result or in one line with exit code 2; what is drawn at random keeps its promises."""

import sys
import urllib.error
import urllib.request

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd_bench.cli import run as cli
from ssd_bench.core.dataset import Dataset, Part
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.seeds import generator
from ssd_bench.report.rows import across_seeds, by_task
from ssd_bench.run import estimate
from ssd_bench.run.plan import CONF_DIR
from ssd_bench.scenarios.full_class import FullClass
from ssd_bench.scenarios.random import Random

METHODS = sorted(path.stem for path in (CONF_DIR / "method").glob("*.yaml"))
GROUPS = ("data", "model", "scenario", "method", "train", "metric", "experiment", "tuned", "hydra/launcher")
KEYS = (
    "method.alpha", "method.lam", "method.order", "method.importance", "method.batch_size", "scenario.target",
    "scenario.n_forget", "scenario.placebo", "train.epochs", "train.lr", "train.milestones", "train.optimizer",
    "data.train_per_class", "data.test_per_class", "data.root", "data.download", "evaluate.sets", "evaluate.batch_size",
    "seed", "seed_unlearn", "seed_forget", "device", "threads", "precision", "fidelity", "force", "compile",
    "save_model", "model.width", "model.checkpoint", "model.patch", "method._target_", "data.norm", "train", "data",
)  # fmt: skip
VALUES = (
    "", "null", "true", "0", "-1", "1e400", "nan", "inf", "5", "5.0", "0x10", "1_0", "ssd", "'ssd'", '"ssd"', "[1,2]",
    "[]", "{a:1}", "{}", "a,b", "1,2", "range(3)", "choice(a,b)", "glob(*)", "interval(0,1)", "../../etc", "/dev/null",
    "~", ".", "..", "${seed}", "${nothing}", "${oc.env:HOME}", "${", "$", "\\", "'", '"', "=", "==", "#", "é", "💥",
    " ", "\t", "\n", "a b", "full_class", "random", "sub_class", "cifar10", "digits", "resnet18_slim", "vit_tiny",
    "official", "cpu", "mps", "cuda:9", "os.system", "builtins.eval", "ssd_bench.methods.ssd.SSD", "9" * 20, "1" * 400,
)  # fmt: skip
TEXT = st.text(max_size=12)
KEY = st.one_of(st.sampled_from(GROUPS + KEYS), TEXT, st.tuples(st.sampled_from(KEYS), TEXT).map("".join))
VALUE = st.one_of(st.sampled_from(VALUES), TEXT, st.integers().map(str), st.floats().map(str))
SOUND = st.one_of(
    st.sampled_from(METHODS).map("method={}".format), st.integers(0, 99).map("seed={}".format),
    st.floats(0, 1000).map("train.lr={}".format), st.sampled_from(("full_class", "random")).map("scenario={}".format),
)  # fmt: skip
OVERRIDE = st.one_of(
    SOUND,
    st.tuples(st.sampled_from(("", "", "", "+", "++", "~")), KEY, st.just("="), VALUE).map("".join),
    st.tuples(KEY, VALUE).map("".join),
)
FLAGS = st.lists(st.sampled_from(("-m", "--multirun", "--config-dir", "--cfg", "job", "--wrong", "--")), max_size=1)


def no_network(*_, **__):
    raise urllib.error.URLError("no network in this test")


def test_whatever_is_typed_ends_in_a_result_or_in_one_line(tmp_path, capfd, monkeypatch, trials, record_property):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSD_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(estimate, "throughput", lambda bench: (1.0, 1.0))
    codes = {}

    @settings(
        max_examples=trials(40, 3000), deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(OVERRIDE, min_size=1, max_size=3), FLAGS)
    def typed(overrides, flags):
        fixed = ["dry_run=true", "out=runs"]
        monkeypatch.setattr(sys, "argv", ["ssd-bench", *flags, *overrides, *fixed])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code, said = ended.value.code or 0, capfd.readouterr().err
        codes[code] = codes.get(code, 0) + 1
        assert "Traceback" not in said
        if code:
            assert code in ((1, 2) if "-m" in flags or "--multirun" in flags else (2,)), said
            assert [line for line in said.splitlines() if line.startswith("ssd-bench: ")], said
        assert not (tmp_path / "runs").exists()

    typed()
    assert codes.get(0), "nothing that was typed was right"
    record_property("typed at random", f"{sum(codes.values())} command lines, exit codes {codes}, tracebacks: none")


def dataset(labels, n_classes):
    n = len(labels)
    part = Part(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.tensor(labels))
    names = tuple(f"class{i}" for i in range(n_classes))
    stats = {"mean": (0.5,), "std": (0.5,), "fingerprint": "x"}
    return Dataset("drawn", part, part, names, (), (), "fine", {}, **stats)


LABELS = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, n - 1), max_size=60).map(lambda more: [*range(n), *range(n), *more]), st.just(n)
    )
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(LABELS, st.integers(0, 5), st.integers(0, 1000))
def test_a_split_parts_the_training_data(drawn, target, seed):
    labels, n_classes = drawn
    for scenario in (FullClass(target=str(target % n_classes)), Random(n_forget=1 + seed % (len(labels) - 1))):
        kept = torch.tensor(labels)[torch.randperm(len(labels), generator=generator(seed, "forget"))]
        if isinstance(scenario, Random) and len(kept[scenario.n_forget :].unique()) < len(kept.unique()):
            with pytest.raises(ConfigError, match="leaves no training image"):
                scenario(dataset(labels, n_classes), {}, seed)
            continue
        task = scenario(dataset(labels, n_classes), {}, seed)
        both = torch.cat([task.retain, task.forget]).sort().values
        assert both.tolist() == list(range(len(labels)))
        assert task.train.tolist() == both.tolist()
        for name, (part, rows) in task.sets.items():
            assert part in ("train", "test"), name
            assert len(rows.unique()) == len(rows)


ROW = st.fixed_dictionaries({
    "method": st.sampled_from("abc"), "seed": st.integers(0, 3), "alpha": st.sampled_from((1.0, 2.0)),
    "target": st.sampled_from((None, "x", "y")), "device": st.sampled_from(("cpu (a)", "cpu (b)", "cuda:0 (c)")),
})  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(ROW, min_size=1, max_size=12))
def test_tables_lose_no_row_and_mix_no_tasks(drawn):
    rows = [
        {
            "method": r["method"], "settings": {"alpha": r["alpha"]}, "path": str(i), "config": {},
            "env": {"device": r["device"]},
            "task": {"seed": r["seed"], "original": str(r["seed"]), "target": r["target"], "placebo": False},
        }
        for i, r in enumerate(drawn)
    ]  # fmt: skip
    for grouped, alike in ((by_task(rows), ("seed", "target")), (across_seeds(rows), ("target",))):
        assert sorted(row["path"] for group in grouped for row in group) == sorted(row["path"] for row in rows)
        assert all(len({row["task"][key] for row in group}) == 1 for group in grouped for key in alike)
    assert all(len({row["env"]["device"][:4] for row in group}) == 1 for group in across_seeds(rows))


WRONG = (b"a: [1,\nb: }", b"\xff\xfe\x00", b"- a\n", b"_target_: os.system\n", b"_target_: [1]\n")


@pytest.mark.parametrize("text", WRONG)
def test_a_yaml_of_ones_own_that_is_wrong_is_one_line(command, tmp_path, text):
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/mine.yaml").write_bytes(text)
    ended = command("--config-dir", str(tmp_path / "conf"), "method=mine", f"out={tmp_path / 'runs'}")
    assert ended.code == 2, ended.err
    assert ended.err.splitlines()[-1].startswith("ssd-bench: ")
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs").exists()
