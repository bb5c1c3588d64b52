"""Pictures of a summary, for files. Colours are Okabe and Ito's, which colour-blind readers can tell apart too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ssd_bench.methods.ssd import ORDERS
from ssd_bench.metrics.membership import entropy, scores
from ssd_bench.report.derive import said, tensors
from ssd_bench.report.summary import COLOURS, ORIGINAL, Line, Summary, shown, style
from ssd_bench.store.rows import Row

STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "figure.constrained_layout.use": True, "savefig.dpi": 130, "axes.titlesize": 9, "legend.frameon": False,
    "svg.hashsalt": "ssd-bench",
}  # fmt: skip
MATPLOTLIB = {
    "circle": "o", "star": "*", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "cross": "P",
    "x": "X", "triangle-left": "<", "triangle-right": ">",
}  # fmt: skip
MARKERS = "osD^v"
IMPORTANCES = ("per sample", *(f"batch mean, {order}" for order in ORDERS))
NOTHING = 1e-4  # percent: where a logarithmic axis shows that nothing was selected
Picture = Callable[[Summary, Path], "Figure | None"]


def draw(summaries: list[Summary], folder: Path, into: Path) -> list[Path]:
    """Every picture that these summaries have the numbers for, as PNG files in `into`; returns their paths.

    folder: the one that the rows were read from. The files of a task begin alike; the first of its words are the task.
    """
    into.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        for summary in summaries:
            task = re.sub(r"[^a-z0-9]+", "-", summary.title.lower()).strip("-")
            for picture in PICTURES:
                figure = picture(summary, Path(folder))
                if figure is None:
                    continue
                figure.suptitle(summary.title, fontsize=9, x=0.01, ha="left")
                paths.append(into / f"{task}-{picture.__name__}.png")
                figure.savefig(paths[-1], metadata={"Software": None})
    return paths


def trade_off(summary: Summary, folder: Path) -> Figure | None:
    """Accuracy on retained against forgotten test images; the retrained model is the target."""
    return _scatter(summary, "forget_acc", "retain_acc", "accuracy on D'_f, %", "accuracy on D'_r, %")


def attack(summary: Summary, folder: Path) -> Figure | None:
    """The paper's attack against the accuracy on retained test images."""
    return _scatter(summary, "mia", "retain_acc", "D_f that the attack calls members, %", "accuracy on D'_r, %")


def _scatter(summary: Summary, x: str, y: str, x_label: str, y_label: str) -> Figure | None:
    lines = [line for line in shown(summary) if line.mean(x) is not None and line.mean(y) is not None]
    if len(lines) < 2:
        return None
    figure = Figure(figsize=(6.4, 4))
    axes = figure.subplots()
    for line in lines:
        colour, marker = look(summary, line)
        axes.errorbar(
            line.mean(x), line.mean(y), xerr=line.std(x), yerr=line.std(y), color=colour, fmt=marker,
            markersize=13 if line is summary.retrained else 7, capsize=2, label=line.label, zorder=3,
        )  # fmt: skip
    if summary.retrained in lines:
        axes.axvline(summary.retrained.mean(x), color="grey", lw=0.8, ls=":", zorder=1)
        axes.axhline(summary.retrained.mean(y), color="grey", lw=0.8, ls=":", zorder=1)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    figure.legend(loc="outside right upper")
    return figure


def times(summary: Summary, folder: Path) -> Figure | None:
    """What each method costs, on a log scale."""
    lines = [line for line in shown(summary) if line.mean("cost_s")]
    if len(lines) < 2:
        return None
    lines.sort(key=lambda line: line.mean("cost_s"), reverse=True)
    figure = Figure(figsize=(6.4, 0.8 + 0.32 * len(lines)))
    axes = figure.subplots()
    seconds = [line.mean("cost_s") for line in lines]
    bars = axes.barh(
        [line.label for line in lines], seconds, xerr=[line.std("cost_s") or 0 for line in lines], height=0.6,
        color=[look(summary, line)[0] for line in lines], capsize=2,
    )  # fmt: skip
    axes.bar_label(bars, [f"{s:.3g} s" for s in seconds], padding=6)
    axes.set_xscale("log")
    axes.set_xlim(right=max(seconds) * 4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds, the importance of D included")
    return figure


def histograms(summary: Summary, folder: Path) -> Figure | None:
    """Entropy and loss on D_r, D_f and D', for each model of the first seed: what the attacks see.

    The last bin holds the one percent that would stretch the axis.
    """
    models = _models(summary, folder, "retain_train", "forget_train", "test")
    if len(models) < 2:
        return None
    figure = Figure(figsize=(7, 1.2 + 1.1 * len(models)))
    grid = figure.subplots(len(models), 2, sharex="col", squeeze=False)
    sets = (("retain_train", "D_r", "#009E73"), ("test", "D'", "#0072B2"), ("forget_train", "D_f", "#D55E00"))
    features = (
        ("entropy, nats", lambda seen, name: entropy(seen.probs(name)).numpy()),
        ("loss, nats", lambda seen, name: -scores(seen, name)),
    )
    for column, (heading, feature) in enumerate(features):
        values = {label: {name: feature(seen, name) for name, _, _ in sets} for label, seen, _ in models}
        top = max(np.quantile(v, 0.99) for of_model in values.values() for v in of_model.values())
        bins = np.linspace(0, top, 41)
        for axes, (label, of_model) in zip(grid[:, column], values.items(), strict=True):
            for name, short, colour in sets:
                heights, _ = np.histogram(np.minimum(of_model[name], top), bins, density=True)
                style = {"color": colour, "lw": 1.6 if name == "forget_train" else 1, "label": short}
                axes.stairs(
                    heights, bins, fill=name == "retain_train", alpha=0.35 if name == "retain_train" else 1, **style
                )
            axes.set_yticks([])
            axes.grid(visible=False)
            if column == 0:
                axes.set_ylabel(label, rotation=0, ha="right", va="center")
        grid[-1, column].set_xlabel(f"{heading}; seed {summary.seeds[0]}")
    grid[0, 1].legend(loc="upper right", ncols=3)
    return figure


def classes(summary: Summary, folder: Path) -> Figure | None:
    """Change of the accuracy on each class's test images against the original: which classes did forgetting hurt?"""
    models = _models(summary, folder, "test")
    names = summary.rows[0].get("classes")
    if len(models) < 2 or models[0][0] != ORIGINAL or not names:
        return None
    right = {label: _class_accuracy(seen, len(names)) for label, seen, _ in models}
    before = right.pop(ORIGINAL)
    change = np.array([after - before for after in right.values()])
    most = max(10.0, float(np.nanmax(np.abs(change))))
    figure = Figure(figsize=(max(6.4, 1.6 + 0.16 * len(names)), 1.9 + 0.28 * len(change)))
    axes = figure.subplots()
    image = axes.imshow(change, cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
    forgotten = next((row["task"]["target"] for row in summary.rows), None)
    axes.set_xticks(
        range(len(names)), [f"» {name}" if name == forgotten else name for name in names], rotation=90, fontsize=7
    )
    axes.set_yticks(range(len(right)), list(right))
    axes.grid(visible=False)
    figure.colorbar(image, label=f"change, points; seed {summary.seeds[0]}", shrink=0.8)
    return figure


def _class_accuracy(seen: Any, n_classes: int) -> np.ndarray:
    labels = seen.labels["test"].numpy()
    right = (seen.logits["test"].argmax(1) == seen.labels["test"]).numpy()
    n = np.bincount(labels, minlength=n_classes)
    return 100 * np.bincount(labels, weights=right, minlength=n_classes) / np.where(n, n, np.nan)


def dampened(summary: Summary, folder: Path) -> Figure | None:
    """Where SSD dampened: the share of each parameter tensor's entries that it selected."""
    line = next((line for line in summary.methods if line.rows[0]["details"].get("per_tensor")), None)
    row = line.rows[0] if line else None
    shapes = tensors(row["artefacts"].get("original"), folder) if row else None
    if not shapes:
        return None
    counts = row["details"]["per_tensor"]
    share = [100 * n / shapes[name].numel() if name in shapes else math.nan for name, n in counts.items()]
    figure = Figure(figsize=(max(6.4, 0.14 * len(share)), 3.2))
    axes = figure.subplots()
    axes.bar(range(len(share)), share, color=["#0072B2" if name.endswith("weight") else "#E69F00" for name in counts])
    axes.set_xticks(range(len(share)), list(counts), rotation=90, fontsize=6)
    axes.set_xlim(-1, len(share))
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("entries selected, %")
    axes.set_title(f"{line.label}, seed {row['task']['seed']}; weights blue, biases yellow", loc="left")
    return figure


def alpha_sweep(summary: Summary, folder: Path) -> Figure | None:
    """What SSD keeps, forgets and selects as alpha grows, for each kind of importance that was run.

    The last panel sets what is kept against what is selected: importances alike but for a factor meet there. Bands
    are one standard deviation over seeds.
    """
    curves: dict[str, list[Line]] = {}
    for line in summary.methods:
        if "alpha" in line.settings and line.mean("selected_pct") is not None:
            curves.setdefault(importance_label(line.settings), []).append(line)
    curves = {name: sorted(lines, key=lambda line: line.settings["alpha"]) for name, lines in curves.items()}
    if max((len(lines) for lines in curves.values()), default=0) < 3:
        return None
    figure = Figure(figsize=(8, 5.6))
    grid = figure.subplots(2, 2)
    keeps, forgets, share, matched = grid.flatten()
    for name, lines in sorted(curves.items()):
        place = IMPORTANCES.index(name)
        colour, marker = COLOURS[place], MARKERS[place]
        alphas = np.array([line.settings["alpha"] for line in lines])
        selected = np.maximum([line.mean("selected_pct") for line in lines], NOTHING)
        look = {"color": colour, "marker": marker, "ms": 4, "lw": 1.2}
        for axes, key in ((keeps, "retain_acc"), (forgets, "forget_acc")):
            middle = np.array([line.mean(key) for line in lines])
            spread = np.array([line.std(key) or 0 for line in lines])
            axes.plot(alphas, middle, label=name, **look)
            axes.fill_between(alphas, middle - spread, middle + spread, color=colour, alpha=0.15, lw=0)
        share.plot(alphas, selected, **look)
        matched.plot(selected, [line.mean("retain_acc") for line in lines], **look)
        if bound := lines[0].rows[0]["details"].get("bound"):
            for axes in (keeps, forgets, share):
                axes.axvline(bound, color="grey", lw=0.8, ls=":", label="alpha = bound")
    for axes, key in ((keeps, "retain_acc"), (forgets, "forget_acc"), (matched, "retain_acc")):
        for line, dashes in ((summary.line(ORIGINAL), "--"), (summary.retrained, "-.")):
            if line and line.mean(key) is not None:
                axes.axhline(line.mean(key), color="black", lw=0.8, ls=dashes, label=line.label)
    ticks = sorted({line.settings["alpha"] for lines in curves.values() for line in lines})
    for axes, heading in ((keeps, "accuracy on D'_r, %"), (forgets, "accuracy on D'_f, %"), (share, "selected, %")):
        axes.set(xscale="log", xlabel="alpha", ylabel=heading)
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=7)
        axes.minorticks_off()
    share.set_yscale("log")
    matched.set(xscale="log", xlabel=f"selected, % ({NOTHING:g}: nothing)", ylabel="accuracy on D'_r, %")
    named = dict(zip(*reversed(keeps.get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def importance_label(settings: dict[str, Any]) -> str:
    """What an importance is made of, in a word."""
    return "per sample" if settings["importance"] == "per_sample" else f"batch mean, {settings['order']}"


PICTURES: tuple[Picture, ...] = (trade_off, attack, times, histograms, classes, dampened, alpha_sweep)


def look(summary: Summary, line: Line) -> tuple[str, str]:
    """Colour and matplotlib's marker."""
    colour, symbol = style(summary, line)
    return colour, MATPLOTLIB[symbol]


def _models(summary: Summary, folder: Path, *sets: str) -> list[tuple[str, Any, Row]]:
    """Label, outputs and row of each model of the first seed whose outputs on these sets are there."""
    models = []
    for line in shown(summary):
        for row in line.rows:
            if row["task"]["seed"] == summary.seeds[0] and row["status"] == "done" and (seen := said(row, folder)):
                if seen.has(*sets):
                    models.append((line.label, seen, row))
                break
    return models
