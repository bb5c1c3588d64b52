"""Pictures of attacks on a pool of models, for a page: how well they do, and what they go by."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
import plotly.graph_objects as go

LEAST = 1e-3  # of a false positive rate that is drawn
POINTS = 400  # of a curve

Scores = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by line, of members (or forgotten) and of others


def roc(scores: Scores, title: str) -> go.Figure:
    """True positives over false ones, both on a logarithmic scale: few false ones are what matters."""
    figure, rates = go.Figure(), np.geomspace(LEAST, 1, POINTS)
    figure.add_scatter(x=rates, y=rates, mode="lines", line={"dash": "dot", "color": "grey"}, name="knows nothing")
    for label, (positives, negatives) in scores.items():
        thresholds = np.quantile(negatives, 1 - rates, method="higher")
        above = 1 - np.searchsorted(np.sort(positives), thresholds, side="right") / len(positives)
        figure.add_scatter(x=rates, y=above, mode="lines", name=escape(label))
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(type="log", range=[np.log10(LEAST), 0])
    return _laid_out(figure, title, "false positive rate", "true positive rate")


def one_image(margins: Scores, title: str) -> go.Figure:
    """The margins of one image, model by model: of those that held or have forgotten it, and of those that never did.

    Where the two clouds of a line lie apart, the models tell who was trained on the image.
    """
    figure = go.Figure()
    for i, (what, colour) in enumerate((("held or forgotten", "#c44e52"), ("never held", "#4c72b0"))):
        figure.add_box(
            x=[escape(label) for label, groups in margins.items() for _ in groups[i]],
            y=np.concatenate([groups[i] for groups in margins.values()]),
            name=what, boxpoints="all", jitter=0.4, pointpos=0, marker={"color": colour, "size": 4},
            line={"width": 1}, fillcolor="rgba(0,0,0,0)",
        )  # fmt: skip
    return _laid_out(figure.update_layout(boxmode="group"), title, "", "margin")


def _laid_out(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    return figure.update_layout(
        title={"text": escape(title), "font": {"size": 15}}, xaxis_title=x, yaxis_title=y, template="plotly_white",
        height=420, margin={"l": 60, "r": 10, "t": 50, "b": 50}, legend={"orientation": "h", "y": -0.25},
    )  # fmt: skip
