"""Pictures of a summary, for files: what a table says, what the stored outputs hold, and what methods bring."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ssd_bench.metrics.membership import entropy, scores
from ssd_bench.report.derive import outputs_of, tensors_of
from ssd_bench.report.discovery import over_discovery
from ssd_bench.report.figures import Plot, heading, plots, shown, style
from ssd_bench.report.requests import PANELS, Curve, curves
from ssd_bench.report.summary import FLOOR, ORIGINAL, Line, Summary
from ssd_bench.report.svg import STYLE, belongs_to, legend, room_for
from ssd_bench.report.sweeps import sweeps
from ssd_bench.store.address import digest
from ssd_bench.store.rows import Row

log = logging.getLogger(__name__)

LONGEST = 110  # characters of each part of a file's name


def draw(summaries: list[Summary], folder: Path, into: Path) -> list[Path]:
    """Every picture that these summaries have the numbers for, as PNG files in `into`; returns their paths.

    folder: the one that the rows were read from. The files of a task begin alike; the first of its words are the task.
    """
    into.mkdir(parents=True, exist_ok=True)
    paths, stems = [], _stems([summary.title for summary in summaries])
    with matplotlib.rc_context(STYLE):
        for summary in summaries:
            for name, figure in pictures(summary, Path(folder)):
                paths.append(save(figure, summary.title, into / f"{stems[summary.title]}-{_safe(name)}.png"))
        for title, figure in over_discovery(summaries):
            paths.append(save(figure, title, into / f"{_safe(title)}-discovery.png"))
    return paths


def save(figure: Figure, title: str, path: Path) -> Path:
    """As a PNG file under its title; returns the path."""
    figure.suptitle(title, fontsize=9, x=0.01, ha="left", parse_math=False)
    figure.savefig(path, metadata={"Software": None})
    return path


def _stems(titles: list[str]) -> dict[str, str]:
    """What the files of each task begin with; where two titles would begin alike, with a digest of theirs."""
    often = Counter(map(_safe, titles))
    return {
        title: f"{_safe(title)}-{digest(title)[:8]}" if often[_safe(title)] > 1 else _safe(title) for title in titles
    }


def _safe(name: str) -> str:
    """Names come from data and settings: nothing of them may reach another folder."""
    safe = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")
    return safe if len(safe) <= LONGEST else f"{safe[:LONGEST]}-{digest(name)[:8]}"


def pictures(summary: Summary, folder: Path) -> Iterator[tuple[str, Figure]]:
    """By name: all pictures of a summary."""
    yield from ((plot.name, drawn(summary, plot)) for plot in plots(summary))
    for picture in (histograms, classes):
        if figure := picture(summary, folder):
            yield picture.__name__, figure
    if panels := curves(summary):
        yield "requests", over_requests(summary, panels)
    yield from sweeps(summary)
    yield from shares(summary, folder)
    yield from of_methods(summary, folder)


def over_requests(summary: Summary, panels: dict[str, list[Curve]]) -> Figure:
    """Curves over the requests of a sequence, a panel a value."""
    most = max(len(of_panel) for of_panel in panels.values())
    figure = Figure(figsize=(3.4 * len(panels) + 1.6, max(3.4, room_for(most))))
    for axes, (name, of_panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for curve in of_panel:
            places = range(1, len(curve.means) + 1)
            colour, symbol = style(summary, curve.line)
            drawn = axes.errorbar(
                places, curve.means, yerr=curve.spreads, color=colour, marker=symbol, markersize=5,
                ls=":" if curve.line.label == FLOOR else "-", label=curve.line.label,
            )  # fmt: skip
            belongs_to(curve.line.label, *drawn.get_children(), about=curve.line.label)
        axes.set(xlabel="requests", ylabel=PANELS[name], xticks=places)
    legend(figure)
    return figure


def of_methods(summary: Summary, folder: Path) -> Iterator[tuple[str, Figure]]:
    """What the methods' own classes draw of their rows (`pictures` on the class, see CONTRIBUTING.md)."""

    def read(row: Row, kind: str) -> dict[str, Any] | None:
        return tensors_of(row, kind, folder)

    for method in dict.fromkeys(line.method for line in summary.methods):
        rows = [row for row in summary.rows if row["method"] == method and row["status"] == "done"]
        try:
            draws = getattr(resolve_name(rows[0]["config"]["method"]["_target_"]), "pictures", None)
            own = draws(rows, read) if draws else {}
        except Exception as e:  # of somebody's own code: the other pictures do not depend on it
            log.warning("%s: its own pictures are left out (%s: %s)", method, type(e).__name__, e)
            continue
        yield from ((f"{method}-{name}", figure) for name, figure in own.items())


def shares(summary: Summary, folder: Path) -> Iterator[tuple[str, Figure]]:
    """For methods whose details count entries by tensor (`per_tensor`): the share of each that the method selected.

    Of each method the first row that selected anything.
    """
    for method in dict.fromkeys(line.method for line in summary.methods):
        rows = (row for row in summary.rows if row["method"] == method and row["status"] == "done")
        row = next((row for row in rows if any((row["details"].get("per_tensor") or {}).values())), None)
        tensors = tensors_of(row, "original", folder) if row else None
        if tensors:
            yield f"{method}-per_tensor", _shares(row, tensors)


def _shares(row: Row, tensors: dict[str, Any]) -> Figure:
    counts = {name: n for name, n in row["details"]["per_tensor"].items() if name in tensors}
    share = [100 * n / tensors[name].numel() for name, n in counts.items()]
    figure = Figure(figsize=(max(6.4, 0.14 * len(share)), 3.2))
    axes = figure.subplots()
    axes.bar(range(len(share)), share, color=["#0072B2" if name.endswith("weight") else "#E69F00" for name in counts])
    axes.set_xticks(range(len(share)), list(counts), rotation=90, fontsize=6)
    axes.set_xlim(-1, len(share))
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("entries selected, %")
    settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
    title = f"{settings}; seed {row['task']['seed']}; weights blue, others yellow"
    axes.set_title(fill(title, 100), loc="left")
    return figure


def drawn(summary: Summary, plot: Plot) -> Figure:
    """A plot as matplotlib draws it."""
    n = len(plot.lines)
    height = max(4, room_for(n)) if plot.y else 0.8 + 0.32 * n
    figure = Figure(figsize=(6.4, height))
    axes = figure.subplots()
    (_scatter if plot.y else _bars)(axes, summary, plot)
    axes.set(xlabel=heading(summary, plot.x), ylabel=heading(summary, plot.y))
    if plot.y:
        legend(figure)
    return figure


def _scatter(axes: Any, summary: Summary, plot: Plot) -> None:
    for line in plot.lines:
        colour, symbol = style(summary, line)
        marks = axes.errorbar(
            line.mean(plot.x), line.mean(plot.y), xerr=line.std(plot.x), yerr=line.std(plot.y), color=colour,
            fmt=symbol, markersize=13 if symbol == "*" else 7, label=line.label, zorder=3,
        )  # fmt: skip
        belongs_to(line.label, *marks.get_children(), about=_about(summary, line, plot))
    if summary.retrained in plot.lines:
        axes.axvline(summary.retrained.mean(plot.x), color="grey", lw=0.8, ls=":", zorder=1)
        axes.axhline(summary.retrained.mean(plot.y), color="grey", lw=0.8, ls=":", zorder=1)


def _about(summary: Summary, line: Line, plot: Plot) -> str:
    """What one reads who points at a line's mark: its numbers."""
    numbers = []
    for name in filter(None, (plot.x, plot.y)):
        decimals, std = summary.columns[name].decimals, line.std(name)
        spread = "" if std is None else f" ± {std:.{decimals}f}"
        numbers.append(f"{heading(summary, name)} {line.mean(name):.{decimals}f}{spread}")
    return f"{line.label}: {', '.join(numbers)}"


def _bars(axes: Any, summary: Summary, plot: Plot) -> None:
    lines = plot.lines[::-1]  # the first on top
    for line in lines:
        value, spread, colour = line.mean(plot.x), line.std(plot.x) or 0, style(summary, line)[0]
        bar = axes.barh([line.label], [value], xerr=[spread], height=0.6, capsize=2, color=colour)
        [number] = axes.bar_label(bar, [f"{value:.3g} s"], padding=6)
        belongs_to(line.label, *bar, *bar.errorbar.get_children(), number, about=_about(summary, line, plot))
    for line, label in zip(lines, axes.get_yticklabels(), strict=True):
        label.set_parse_math(False)
        belongs_to(line.label, label)
    values = [line.mean(plot.x) for line in lines]
    axes.set_xscale("log")
    axes.tick_params(which="minor", labelbottom=False)  # the bars carry their numbers
    axes.set_xlim(min(values) / 2, max(values) * 4)
    axes.grid(axis="y", visible=False)


def histograms(summary: Summary, folder: Path) -> Figure | None:
    """Entropy and loss on D_r, D_f and D', for each model of the first seed: what the attacks see.

    The last bin holds the one percent that would stretch the axis.
    """
    models = _models(summary, folder, "retain_train", "forget_train", "test")
    if len(models) < 2:
        return None
    figure = Figure(figsize=(7, 1.2 + 1.1 * len(models)))
    grid = figure.subplots(len(models), 2, sharex="col", squeeze=False)
    features = (
        ("entropy, nats", lambda answers, name: entropy(answers.probs(name)).numpy()),
        ("loss, nats", lambda answers, name: -scores(answers, name)),
    )
    for column, (name, feature) in enumerate(features):
        values = {label: {of: feature(answers, of) for of in SETS} for label, answers in models}
        top = max(np.quantile(v, 0.99) for of_model in values.values() for v in of_model.values())
        for axes, of_model in zip(grid[:, column], values.values(), strict=True):
            _histogram(axes, of_model, np.linspace(0, top, 41))
        grid[-1, column].set_xlabel(f"{name}; seed {summary.seeds[0]}")
    for axes, (label, _) in zip(grid[:, 0], models, strict=True):
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    figure.legend(*grid[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


SETS = {"retain_train": ("D_r", "#009E73"), "test": ("D'", "#0072B2"), "forget_train": ("D_f", "#D55E00")}


def _histogram(axes: Any, of_model: dict[str, np.ndarray], bins: np.ndarray) -> None:
    for name, (short, colour) in SETS.items():
        heights, _ = np.histogram(np.minimum(of_model[name], bins[-1]), bins, density=True)
        filled = name == "retain_train"
        width = 1.6 if name == "forget_train" else 1
        axes.stairs(heights, bins, fill=filled, alpha=0.35 if filled else 1, color=colour, lw=width, label=short)
    axes.set_yticks([])
    axes.grid(visible=False)


def classes(summary: Summary, folder: Path) -> Figure | None:
    """Change of the accuracy on each class's test images against the original: which classes did forgetting hurt?"""
    models = _models(summary, folder, "test")
    names = summary.rows[0].get("classes")
    if len(models) < 2 or models[0][0] != ORIGINAL or not names:
        return None
    right = {label: _class_accuracy(answers, len(names)) for label, answers in models}
    before = right.pop(ORIGINAL)
    change = np.array([after - before for after in right.values()])
    most = max(10.0, float(np.nanmax(np.abs(change))))
    figure = Figure(figsize=(max(6.4, 1.6 + 0.16 * len(names)), 1.9 + 0.28 * len(change)))
    axes = figure.subplots()
    image = axes.imshow(change, cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
    forgotten = (summary.task["target"] or "").split("+")
    labels = [f"» {name}" if name in forgotten else name for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(right)), list(right))
    axes.grid(visible=False)
    figure.colorbar(image, label=f"change, points; seed {summary.seeds[0]}", shrink=0.8)
    return figure


def _class_accuracy(answers: Any, n_classes: int) -> np.ndarray:
    labels = answers.labels["test"].numpy()
    right = (answers.logits["test"].argmax(1) == answers.labels["test"]).numpy()
    n = np.bincount(labels, minlength=n_classes)
    return 100 * np.bincount(labels, weights=right, minlength=n_classes) / np.where(n, n, np.nan)


def _models(summary: Summary, folder: Path, *sets: str) -> list[tuple[str, Any]]:
    """Label and outputs of each model of the first seed whose outputs on these sets are there."""
    models = []
    for line in shown(summary):
        of_seed = (row for row in line.rows if row["task"]["seed"] == summary.seeds[0] and row["status"] == "done")
        found = (answers for row in of_seed if (answers := outputs_of(row, folder)))
        if (answers := next(found, None)) and answers.has(*sets):
            models.append((line.label, answers))
    return models
