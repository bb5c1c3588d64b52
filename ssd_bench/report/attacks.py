"""Pictures of attacks on a pool of models, for a page: how well they do, and what they go by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ssd_bench.report.svg import belongs_to

LEAST = 1e-3  # of a false positive rate that is drawn
POINTS = 200  # of a curve
SPREAD = 0.1  # of the points of one group to either side; 1 is the distance between two lines

Scores = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by line, of members (or forgotten) and of others


def roc(scores: Scores) -> Figure:
    """True positives over false ones, both on a logarithmic scale: few false ones are what matters."""
    figure, rates = Figure(figsize=(6.4, 4)), np.geomspace(LEAST, 1, POINTS)
    axes = figure.subplots()
    axes.plot(rates, rates, ":", color="grey", label="knows nothing")
    for label, (positives, negatives) in scores.items():
        thresholds = np.quantile(negatives, 1 - rates, method="higher")
        above = 1 - np.searchsorted(np.sort(positives), thresholds, side="right") / len(positives)
        [curve] = axes.plot(rates, above, label=label)
        belongs_to(label, curve, about=label)
    axes.set(
        xscale="log", yscale="log", xlim=(LEAST, 1), ylim=(LEAST, 1), xlabel="false positive rate",
        ylabel="true positive rate",
    )  # fmt: skip
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def by_memorisation(gains: np.ndarray, aucs: Mapping[str, np.ndarray]) -> Figure:
    """How far images are known after unlearning, from those that were memorised least to those that were most.

    gains: of groups of images, the margin that they owe to having been trained on; aucs: by line, of the same groups.
    """
    figure = Figure(figsize=(6.4, 4))
    axes = figure.subplots()
    axes.axhline(0.5, linestyle=":", color="grey", label="knows nothing")
    for label, values in aucs.items():
        [curve] = axes.plot(gains, values, ".-", label=label)
        belongs_to(label, curve, about=label)
    axes.set(xlabel="memorised: margin in minus out, before unlearning", ylabel="AUC of an image's margins")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def one_image(margins: Scores) -> Figure:
    """The margins of one image, model by model: of those that held or have forgotten it, and of those that never did.

    Where the two clouds of a line lie apart, the models tell who was trained on the image.
    """
    figure = Figure(figsize=(max(6.4, 2 + 0.7 * len(margins)), 4))
    axes = figure.subplots()
    for i, (what, colour) in enumerate((("held or forgotten", "#D55E00"), ("never held", "#0072B2"))):
        groups = [pair[i] for pair in margins.values()]
        places = np.arange(len(groups)) + (i - 0.5) * 0.4
        box = {"color": colour}
        axes.boxplot(
            groups, positions=places, widths=0.3, showfliers=False, manage_ticks=False, boxprops=box, whiskerprops=box,
            capprops=box, medianprops=box,
        )  # fmt: skip
        along = [x + SPREAD * np.linspace(-1, 1, len(group)) for x, group in zip(places, groups, strict=True)]
        axes.scatter(np.concatenate(along), np.concatenate(groups), s=6, color=colour, alpha=0.6, label=what)
    axes.set(ylabel="margin")
    axes.set_xticks(range(len(margins)), list(margins), rotation=30, ha="right")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
