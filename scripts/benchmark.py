"""How fast ssd-bench is: ratios, measured side by side in one run on one machine.

    python scripts/benchmark.py [--threads 1] [--device cpu] [--width 16] [--output results/benchmark/table.md]
    python scripts/benchmark.py --threads 1 --precision bfloat16 --only requests,study   # the usual way is float32

Ratios of loops and requests are medians of paired measurements taken in turn, so that other load on the machine falls
on both; those of the study, of sharing and of tuning are of one pass each, the study's cells in turn. All are in the
arithmetic of a run (float32 proper, deterministic kernels). The images are made up (CIFAR's shape, classes that
overlap): speed does not depend on what is in them. What is to beat is in usual_way.py. Times of training an original
are in none of the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from usual_way import Usual

from ssd_bench.cli import tune
from ssd_bench.core.dataset import Dataset, Part, fingerprint
from ssd_bench.core.images import HostPixels
from ssd_bench.core.task import Images
from ssd_bench.data.cifar import CIFAR20_NAMES, CIFAR100_NAMES, COARSE_OF, Cifar
from ssd_bench.data.view import view
from ssd_bench.importance import diagonal_fisher
from ssd_bench.models.fresh import fresh
from ssd_bench.models.resnet import ResNet18
from ssd_bench.run import pipeline
from ssd_bench.run import plan as config
from ssd_bench.run.environment import processor
from ssd_bench.train import devices
from ssd_bench.train.augment import Augment, augmented
from ssd_bench.train.loop import fit
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

METHODS = ("original", "ssd", "teacher", "unsir", "amnesiac", "finetune")
LATER = "ssd later"  # another class, of the same original
TARGETS = {"vehicle2": 19, "veg": 4}
PER_CLASS, LARGER = 10, 50  # training images of each of 100 classes; test images are a fifth of that, as CIFAR's are
REPEATS = 3
BASE = ("data=cifar20", "data._target_=__main__.Synthetic", "model=resnet18_slim", "train.epochs=1")
SECTIONS = (
    "loops", "streaming", "requests", "larger", "study", "larger_study", "sharing", "tuning", "start_up", "memory",
    "growth",
)  # fmt: skip
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # in a state dict, but no parameters


@dataclass(frozen=True)
class Synthetic(Cifar):
    """Made-up images with CIFAR-20's classes: `train_per_class` and `test_per_class` of each of its 100 fine ones."""

    def load(self) -> Dataset:
        return _make(self.name, self.train_per_class, self.test_per_class)


@lru_cache  # the data of a sweep are read once, and what it costs to make these up is not to count
def _make(name: str, train_per_class: int, test_per_class: int) -> Dataset:
    draws = torch.Generator().manual_seed(0)
    patterns = torch.rand(100, 3, 32, 32, generator=draws)
    parts = []
    for per_class in (train_per_class, test_per_class):
        fine = torch.arange(100).repeat(per_class)
        noise = torch.rand(len(fine), 3, 32, 32, generator=draws)
        parts.append(Part((patterns[fine] * 64 + noise * 191).to(torch.uint8), fine))
    coarse, of, level = (CIFAR20_NAMES, COARSE_OF, "coarse") if name == "cifar20" else ((), (), "fine")
    stats = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "fingerprint": fingerprint(*parts)}
    return Dataset("synthetic", *parts, CIFAR100_NAMES, coarse, of, level, {}, **stats)


def plan(out: Path, *overrides: str) -> config.Plan:
    """The plan of one run of ssd-bench in this process."""
    base = [*BASE, *sized(PER_CLASS), f"model.width={ARGS.width}", f"device={ARGS.device}", f"out={out}"]
    base.append(f"threads={ARGS.threads}")
    base.append(f"precision={ARGS.precision}")
    with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
        cfg = compose("config", overrides=[*base, *overrides], return_hydra_config=True)
    names = {group: str(cfg.hydra.runtime.choices[group]) for group in config.GROUPS}
    del cfg.hydra
    return config.plan(cfg, names)


def sized(per_class: int) -> tuple[str, ...]:
    """So many training images a class, a fifth as many test images, and a tenth of D for probes, as of all of CIFAR."""
    samples = f"metric.features.samples={10 * per_class}"
    return f"data.train_per_class={per_class}", f"data.test_per_class={max(2, per_class // 5)}", samples


def run(out: Path, *overrides: str) -> dict:
    """One run; returns its row."""
    return json.loads(pipeline.run(plan(out, *overrides)).read_text())


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, the device synchronised."""
    devices.synchronise(torch.device(ARGS.device))
    start = time.perf_counter()
    work()
    devices.synchronise(torch.device(ARGS.device))
    return time.perf_counter() - start


def paired(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 7) -> tuple[float, float, float]:
    """Median seconds of both, and the median of the ratios of neighbours."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)


class Table:
    """Lines of the report: printed as they are made, and written to the file, so that a part is better than nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")

    def section(self, title: str, *columns: str) -> None:
        self.add(f"\n## {title}\n")
        self.line(*columns)
        self.line(*["---"] * len(columns))

    def line(self, *cells: object) -> None:
        self.add(f"| {' | '.join(f'{c:.3g}' if isinstance(c, float) else str(c) for c in cells)} |")

    def compare(self, what: str, ours: float, theirs: float, ratio: float, goal: str) -> None:
        kind, limit = goal.split()
        met = ratio <= float(limit) if kind == "<=" else ratio >= float(limit)
        self.line(what, ours, theirs, f"{ratio:.2f}", goal, "yes" if met else "no")

    def add(self, text: str) -> None:
        print(text, flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(text + "\n")


# Sections of the report


def loops(table: Table, model: nn.Module, images: Images) -> None:
    rows = torch.arange(len(images))
    inputs, labels = images.batch(rows.to(images.pixels.device))
    batches = list(zip(inputs.split(64), labels.split(64), strict=True))
    recipe = Recipe.constant("sgd", 1, 64, 0.01)
    lower = torch.autocast(images.pixels.device.type, torch.bfloat16, enabled=ARGS.precision == "bfloat16")

    @lower
    def losses(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(x), y)

    def bare_training() -> None:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for x, y in batches:
            losses(x, y).backward()
            optimizer.step()
            optimizer.zero_grad()

    @torch.inference_mode()
    @lower
    def bare_forward(size: int) -> None:
        model.eval()
        for x in inputs.split(size):
            model(x)

    def bare_backward() -> None:
        model.eval()
        for x, y in batches:
            torch.autograd.grad(losses(x, y), list(model.parameters()))

    table.section("Loops", "what", "ours, s", "against, s", "ratio", "goal", "met")
    ours = partial(fit, model, images, rows, recipe, torch.Generator().manual_seed(0), "training")
    table.compare("training, one epoch / barest PyTorch loop", *paired(ours, bare_training), "<= 1.03")
    draws = torch.zeros(64, 4, device=images.pixels.device)
    step = partial(augmented, images.pixels[:64], draws, 4, True)
    step()
    one, whole = median(seconds(step) for _ in range(7)) * len(batches), seconds(bare_training)
    table.line("augmentation of those images / training on them", one, whole, f"{one / whole:.3f}", "-", "-")
    best = min((32, 64, 128, 256, 512), key=lambda size: min(seconds(partial(bare_forward, size)) for _ in range(3)))
    ours = partial(predict, model, images, rows, 128)
    table.compare(
        f"inference / bare forward pass at its best batch ({best})",
        *paired(ours, partial(bare_forward, best)),
        "<= 1.05",
    )
    mean = partial(diagonal_fisher, model, batches)
    table.compare("batch-mean importances / bare forward and backward", *paired(mean, bare_backward), "<= 1.05")
    table.compare(
        "per-sample importances / batch-mean",
        *paired(partial(diagonal_fisher, model, batches, "per_sample"), mean),
        "<= 1.5",
    )


def streaming(table: Table, folder: Path, model: nn.Module, images: Images) -> None:
    """Training on images that stay in host memory, mapped from a file, against the same on the device."""
    path = folder / "pixels"
    images.pixels.cpu().numpy().tofile(path)
    mapped = torch.from_file(str(path), size=images.pixels.numel(), dtype=torch.uint8).view(images.pixels.shape)
    streamed = replace(images, pixels=HostPixels(mapped, images.device))
    recipe = Recipe.constant("sgd", 1, 64, 0.01)

    def epoch(of: Images) -> None:
        fit(model, of, torch.arange(len(of)), recipe, torch.Generator().manual_seed(0), "training", augment=Augment())

    table.section("Streaming", "what", "in memory, s", "streamed, s", "ratio", "goal", "met")
    ours = paired(partial(epoch, images), partial(epoch, streamed))
    table.compare("training speed, streamed / in memory", *ours, ">= 0.9")


def requests(table: Table, folder: Path, model: nn.Module, images: dict[str, Images]) -> None:
    """First and later SSD requests and all methods of a task: against the floor, and against the usual way."""
    took = cells(folder / "requests", model, images, (*METHODS, LATER), PER_CLASS)
    table.section("Requests", "what", "ours, s", "against, s", "ratio", "goal", "met")
    of_requests(table, took, METHODS.index("ssd"), len(METHODS))
    compare(table, took, "usual way / all methods of one task", "usual", list(range(len(METHODS))), ">= 2")
    table.add(f"\n{sizes(images)}, medians of {REPEATS} paired repeats.")
    table.section("Cells", "method", "ours, s", "usual way, s", "ratio")
    for place, method in enumerate((*METHODS, LATER)):
        ours, theirs = (median(of_run[place] for of_run in took[key]) for key in ("ours", "usual"))
        table.line(method, ours, theirs, f"{theirs / ours:.2f}")


def larger(table: Table, folder: Path) -> None:
    """The same requests on more images: what a run costs whatever its size counts less, as it does on all of CIFAR."""
    images = {part: of_part for part, (_, of_part) in made_up(LARGER, torch.device(ARGS.device)).items()}
    model = made_up(1, torch.device(ARGS.device))["train"][0]
    took = cells(folder / "larger", model, images, ("original", "ssd", LATER), LARGER)
    table.section("Requests on more images", "what", "ours, s", "against, s", "ratio", "goal", "met")
    of_requests(table, took, 1, 2)
    table.add(f"\n{sizes(images)}, medians of {REPEATS} paired repeats.")


def cells(
    folder: Path, model: nn.Module, images: dict[str, Images], methods: tuple[str, ...], per_class: int
) -> dict[str, list[list[float]]]:
    """Seconds of each method's cell, repeat by repeat: "ours", the "usual" way, and the "floor" of arithmetic alone."""
    train, test = (len(images[part]) for part in ("train", "test"))
    forget = int((images["train"].labels == TARGETS["vehicle2"]).sum())
    x, y = images["train"].batch(torch.arange(512, device=images["train"].pixels.device))

    @torch.inference_mode()
    def forward() -> None:
        for part in x.split(128):
            model(part)

    def backward() -> None:
        for part, labels in zip(x.split(64), y.split(64), strict=True):
            torch.autograd.grad(cross_entropy(model(part), labels), list(model.parameters()))

    model.eval()
    usual = {name: Usual(model, images, target) for name, target in TARGETS.items()}
    took: dict[str, list[list[float]]] = {"ours": [], "usual": [], "floor": []}
    run(folder / "trained", "method=original", *sized(per_class))
    for i in range(REPEATS):
        out = folder / str(i)
        shutil.copytree(folder / "trained/artefacts/trained", out / "artefacts/trained")
        per_image = [seconds(work) / 512 for work in (forward, backward)]
        floor, ours, theirs = [], [], []
        for method in methods:
            name, target = ("ssd", "veg") if method == LATER else (method, "vehicle2")
            planned = plan(out, f"method={name}", f"scenario.target={target}", *sized(per_class))
            ours.append(seconds(partial(pipeline.run, planned)))
            theirs.append(seconds(partial(usual[target].cell, name)))
            passes = {"ssd": train + forget, LATER: forget}.get(method, 0)
            floor.append((train + test) * per_image[0] + passes * per_image[1])
        for key, values in (("ours", ours), ("usual", theirs), ("floor", floor)):
            took[key].append(values)
    return took


def of_requests(table: Table, took: dict[str, list[list[float]]], first: int, later: int) -> None:
    """Lines about the cells of a first and of a later request."""
    if ARGS.precision == "float32":  # the arithmetic of the floor
        compare(table, took, "a first SSD request / arithmetic floor", "floor", [first], "<= 1.15")
        compare(table, took, "a later SSD request / arithmetic floor", "floor", [later], "<= 1.2")
    compare(table, took, "usual way / a first SSD request", "usual", [first], ">= 2")
    compare(table, took, "usual way / a later SSD request", "usual", [later], ">= 7")
    for which, place in (("first", first), ("later", later)):
        most = median(u[place] / f[place] for u, f in zip(took["usual"], took["floor"], strict=True))
        what = f"usual way / float32 floor of a {which} request: the most that its arithmetic allows"
        table.line(what, "-", "-", f"{most:.2f}", "-", "-")


def compare(
    table: Table, took: dict[str, list[list[float]]], what: str, key: str, places: list[int], goal: str
) -> None:
    """A line: the seconds of these cells together, and their ratio, the one that the goal's sign asks for."""
    ours, theirs = ([sum(of_run[p] for p in places) for of_run in took[k]] for k in ("ours", key))
    ratios = [b / a if goal.startswith(">=") else a / b for a, b in zip(ours, theirs, strict=True)]
    table.compare(what, median(ours), median(theirs), median(ratios), goal)


def sizes(images: dict[str, Images]) -> str:
    return f"{len(images['train']):,} training and {len(images['test']):,} test images"


def study(table: Table, folder: Path, per_class: int) -> None:
    """A table as `experiment=study_*` makes it, two targets and a tenth of D_r, against its cells in the usual way."""
    images = {part: of_part for part, (_, of_part) in made_up(per_class, torch.device(ARGS.device)).items()}
    model = made_up(1, torch.device(ARGS.device))["train"][0]
    samples = len(images["train"]) // 10
    given = (*sized(per_class), f"evaluate.retain_train_samples={samples}")
    out = folder / f"study{per_class}"
    run(out / "trained", "method=original", *sized(per_class))
    shutil.copytree(out / "trained/artefacts/trained", out / "artefacts/trained")
    ours, theirs = [], []
    for name, target in TARGETS.items():
        usual = Usual(model, images, target)
        for method in METHODS:
            planned = plan(out, f"method={method}", f"scenario.target={name}", *given)
            ours.append(seconds(partial(pipeline.run, planned)))
            theirs.append(seconds(partial(usual.cell, method)))
    table.section("Study", "what", "ours, s", "against, s", "ratio", "goal", "met")
    what = f"usual way / {len(METHODS)} methods on two targets, {samples} images of D_r"
    table.compare(what, sum(ours), sum(theirs), sum(theirs) / sum(ours), ">= 3")
    table.add(f"\n{sizes(images)}.")


def sharing(table: Table, folder: Path) -> None:
    """Sweeps against the sum of their cells, each cell alone in a folder of its own."""
    table.section("Sharing", "sweep", "shared, s", "cells apart, s", "ratio")
    cells = [(f"method={m}", f"seed={s}") for m in ("original", "ssd", "teacher") for s in (0, 1)]
    alphas = [("method=ssd", f"method.alpha={a}") for a in range(1, 21)]
    few = ("data.train_per_class=5",)
    sweeps = (
        ("3 methods x 2 seeds", cells, few),
        ("SSD, 20 values of alpha", alphas, few),
        ("the same, evaluate.sets=[retain,forget]", alphas, (*few, "evaluate.sets=[retain,forget]")),
    )
    for place, (what, grid, extra) in enumerate(sweeps):
        out = folder / f"sweep{place}"
        together = sum(seconds(partial(run, out, *cell, *extra)) for cell in grid)
        apart = sum(seconds(partial(run, out / f"alone{i}", *cell, *extra)) for i, cell in enumerate(grid))
        table.line(what, together, apart, f"{apart / together:.1f}")


def tuning(table: Table, folder: Path) -> None:
    """Trials of a study an hour, originals and retrained models included, against each trial in a folder of its own."""
    table.section("Tuning", "method", "trials", "shared, trials/h", "apart, trials/h", "ratio", "goal", "met")
    machine = (f"model.width={ARGS.width}", f"device={ARGS.device}", f"threads={ARGS.threads}")
    for method, n in (("ssd", 20), ("teacher", 8)):  # 20: the default budget
        given = [*BASE, *sized(PER_CLASS), *machine, "data.train_per_class=5", f"method={method}"]

        def study(name: str, trials: int, given: list[str] = given) -> None:
            with contextlib.redirect_stdout(None):
                tune.main([*given, f"out={folder / name}", f"budget.trials={trials}"])

        together = seconds(partial(study, f"{method}-shared", n))
        apart = n * seconds(partial(study, f"{method}-apart", 1))
        rates = (3600 * n / together, 3600 * n / apart)
        table.line(method, n, *rates, f"{apart / together:.2f}", ">= 4", "yes" if apart >= 4 * together else "no")


def start_up(table: Table, folder: Path) -> None:
    table.section("Start-up", "command", "seconds", "goal", "met")
    base = ["threads=1", "train.epochs=1", f"out={folder / 'start'}"]
    ask = partial(subprocess.run, capture_output=True, check=False)
    ask([sys.executable, "-m", "ssd_bench.cli", *base])
    commands = (
        ("ssd-bench --help", ["--help"], 1.0),
        ("ssd-bench method=sdd", ["method=sdd"], 1.0),
        ("a finished run again", base, 3.0),
    )
    for what, arguments, goal in commands:
        command = [sys.executable, "-m", "ssd_bench.cli", *arguments]
        took = median(seconds(partial(ask, command)) for _ in range(3))
        table.line(what, took, f"<= {goal:g}", "yes" if took <= goal else "no")


def memory(table: Table) -> None:
    table.section(
        "Peak memory", "stage (a batch of 64; inference 128)", "growth, MB", "what its tensors need, MB", "ratio"
    )
    for stage in ("training", "inference", "batch_mean", "per_sample"):
        command = [sys.executable, __file__, "--stage", stage, "--width", str(ARGS.width), "--threads", ARGS.threads]
        grown, needed = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        table.line(stage, grown / 1e6, needed / 1e6, f"{grown / needed:.2f}")


def stage_memory(stage: str) -> None:
    """In a process of its own: bytes that a stage adds at its peak, and bytes of the tensors that it has to hold."""
    model, images = made_up(2, torch.device("cpu"))["train"]
    rows, saved = torch.arange(len(images)), {}
    x, y = images.batch(rows[:64])

    def keep(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = cross_entropy(model(x), y)
    own = sum(p.numel() * 4 for p in model.parameters())
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(size for place, size in saved.items() if place not in held)
    del loss
    widest = 2 * 128 * ARGS.width * 32 * 32 * 4 * 2  # input and output of a block, and its shortcut
    needed = {"training": activations + 3 * own, "inference": widest, "batch_mean": activations + 2 * own}
    needed["per_sample"] = activations + own
    batches = list(zip(*(t.split(64) for t in images.batch(rows)), strict=True))
    work = {
        "training": lambda: fit(
            model, images, rows, Recipe.constant("sgd", 1, 64, 0.01), torch.Generator(), "training"
        ),
        "inference": lambda: predict(model, images, rows, 128),
        "batch_mean": lambda: diagonal_fisher(model, batches),
        "per_sample": lambda: diagonal_fisher(model, batches, "per_sample"),
    }
    with devices.measured(torch.device("cpu")) as measured:
        work[stage]()
    print(json.dumps([measured.peak_bytes, needed[stage]]))


def growth(table: Table, folder: Path) -> None:
    """Seconds and bytes as one size grows; the exponent is the slope in log-log, 1 is linear."""
    columns = ("first request, s", "exponent", "later request without D_r, s", "exponent", "peak of the first, MB")
    table.section("Growth", "what grows", "sizes", *columns)
    hundred = ("data=cifar100", "data.name=cifar100", "data.targets.full_class=[rocket,sea]")
    random = ("scenario=random",)
    veg, sea, redrawn = ("scenario.target=veg",), ("scenario.target=sea",), ("seed_forget=1",)
    axes = {  # settings, and what asks for another request
        "|D|": [((f"data.train_per_class={n}", *random, "scenario.n_forget=50"), redrawn) for n in (4, 8, 16)],
        "|D_f|": [((*random, f"scenario.n_forget={n}"), redrawn) for n in (50, 100, 200)],
        "classes": [((), veg), (hundred, sea)],
        "parameters": [((f"model.width={w}",), veg) for w in (8, 16, 32)],
    }
    restricted = "evaluate.sets=[retain,forget]"
    for axis, grid in axes.items():
        sizes, first, later, peaks = [], [], [], []
        for i, (cell, another) in enumerate(grid):
            out = folder / f"growth{list(axes).index(axis)}-{i}"
            run(out, *cell, "method=original")
            row = run(out, *cell, "method=ssd")
            first.append(row["times"]["method_s"] + row["times"]["evaluate_s"])
            peaks.append(row["memory"]["peak_bytes"] / 1e6)
            run(out, *cell, restricted, "method=original")
            row = run(out, *cell, *another, restricted, "method=ssd")
            later.append(row["times"]["online_s"] + row["times"]["evaluate_s"])
            task = row["task"]
            size = {"|D|": task["n_train"], "|D_f|": task["n_forget"], "classes": len(row["classes"])}
            sizes.append(size.get(axis) or n_parameters(row))
        slopes = [np.polyfit(np.log(sizes), np.log(times), 1)[0] for times in (first, later)]
        shown = [", ".join(f"{value:.3g}" for value in values) for values in (first, later, peaks)]
        cells = (shown[0], f"{slopes[0]:.2f}", shown[1], f"{slopes[1]:.2f}", shown[2])
        table.line(axis, ", ".join(map(str, sizes)), *cells)


def n_parameters(row: dict) -> int:
    from safetensors import safe_open

    with safe_open(row["artefacts"]["original"], "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys() if not name.endswith(BUFFERS)]  # noqa: SIM118
    return sum(math.prod(shape) for shape in shapes)


def made_up(per_class: int, device: torch.device) -> dict[str, tuple[nn.Module, Images]]:
    data = Synthetic(name="cifar20", train_per_class=per_class, test_per_class=max(2, per_class // 5)).load()
    labels = {part: data.labelled(getattr(data, part), "coarse") for part in ("train", "test")}
    task = SimpleNamespace(trigger=None, **{f"{part}_labels": of_part for part, of_part in labels.items()})
    images = view(data, task, "own", ResNet18(), device)
    model = fresh(ResNet18(width=ARGS.width), 0, 20, 3, 32).to(device)
    return {part: (model, of_part) for part, of_part in images.items()}


def main() -> None:
    logging.disable(logging.WARNING)
    device = torch.device(ARGS.device)
    if ARGS.stage:
        stage_memory(ARGS.stage)
        return
    with devices.arithmetic(device, "float32"):
        measure(device)


def measure(device: torch.device) -> None:
    """All sections that were asked for."""
    threads = devices.use_threads(ARGS.threads, parallel=False)
    devices.keep_freed_memory()
    start, table = time.monotonic(), Table(ARGS.output)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    command = f"python scripts/benchmark.py --threads {ARGS.threads} --device {ARGS.device} --width {ARGS.width}"
    if ARGS.precision != "float32":
        command += f" --precision {ARGS.precision}"
    if ARGS.only:
        command += f" --only {ARGS.only}"
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    table.add(f"# Benchmark\n\n`{command}`\n\n{what}, {threads} threads, {versions}; ResNet18 of width {ARGS.width}.")
    made = made_up(PER_CLASS, device)
    model, images = made["train"][0], {part: of_part for part, (_, of_part) in made.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sections = {
            "loops": devices.arithmetic(device, ARGS.precision)(
                lambda: loops(table, copy.deepcopy(model), images["train"])
            ),
            "streaming": lambda: streaming(table, folder, copy.deepcopy(model), images["train"]),
            "requests": lambda: requests(table, folder, copy.deepcopy(model), images),
            "larger": lambda: larger(table, folder),
            "study": lambda: study(table, folder, PER_CLASS),
            "larger_study": lambda: study(table, folder, LARGER),
            "sharing": lambda: sharing(table, folder),
            "tuning": lambda: tuning(table, folder),
            "start_up": lambda: start_up(table, folder),
            "memory": lambda: memory(table),
            "growth": lambda: growth(table, folder),
        }
        assert tuple(sections) == SECTIONS
        for section in filter(None, ARGS.only.split(",")) if ARGS.only else sections:
            if section != "memory" or device.type == "cpu":
                sections[section]()
    table.add(f"\nThe whole took {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="auto", help="CPU threads, or auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, default=16, help="channels of the ResNet18's stem")
    parser.add_argument("--output", type=Path, help="write the tables to this file too")
    parser.add_argument(
        "--precision", default="float32", help="of our runs and the bare loops; the usual way is float32"
    )
    parser.add_argument(
        "--only",
        help=f"some of: {','.join(SECTIONS)}",
    )
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    ARGS = parser.parse_args()
    for each in filter(None, (ARGS.only or "").split(",")):
        if each not in SECTIONS:
            parser.error(f"--only={each}: there is no such section; allowed: {', '.join(SECTIONS)}")
    main()
