"""Pictures of corrective scenarios over the share of the manipulation that was discovered."""

from __future__ import annotations

import json
from collections.abc import Iterator

from matplotlib.figure import Figure

from ssd_bench.report.corrective import is_corrective, not_to_be_read
from ssd_bench.report.figures import heading, shown, style
from ssd_bench.report.summary import Line, Summary
from ssd_bench.report.svg import belongs_to, legend, room_for

PANELS = ("asr", "ic_err", "taught_as", "corrected_acc", "kept_acc", "average_gap")
OF_SHARE = ("n_forget", "forget_sha256", "retrained", "seed", "seed_unlearn", "seed_forget", "original", "reference")


def over_discovery(summaries: list[Summary]) -> Iterator[tuple[str, Figure]]:
    """A title and a picture for each manipulation of which two shares or more were discovered; none of those whose
    tables are not to be read. Bars are one standard deviation over seeds."""
    groups: dict[str, dict[float, Summary]] = {}
    for summary in summaries:
        if is_corrective(summary) and not not_to_be_read(summary):
            same = {name: value for name, value in summary.task.items() if name not in OF_SHARE}
            share = 100 * summary.task["n_forget"] / summary.task["n_manipulated"]
            groups.setdefault(json.dumps([same, summary.apart], sort_keys=True), {})[share] = summary
    for by_share in groups.values():
        if len(by_share) > 1:
            first = next(iter(by_share.values()))
            task, n = first.task, first.task["n_manipulated"]
            title = f"{task['data']}, {task['model']}, {task['scenario']}: {n} manipulated images{first.apart}"
            yield title, _picture(dict(sorted(by_share.items())))


def _picture(by_share: dict[float, Summary]) -> Figure:
    first = next(iter(by_share.values()))
    drawn_in: dict[str, tuple[Summary, Line]] = {}  # by label where it has its colour: the first share that shows it
    for summary in by_share.values():
        for line in shown(summary):
            drawn_in.setdefault(line.label, (summary, line))
    names = [name for name in PANELS if any(line.values.get(name) for s in by_share.values() for line in s.lines)]
    figure = Figure(figsize=(3.4 * len(names) + 1.6, max(3.4, room_for(len(drawn_in)))))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label in drawn_in:
            lines = {share: summary.line(label) for share, summary in by_share.items()}
            lines = {share: line for share, line in lines.items() if line and line.mean(name) is not None}
            if lines:
                colour, symbol = style(*drawn_in[label])
                drawn = axes.errorbar(
                    list(lines), [line.mean(name) for line in lines.values()],
                    yerr=[line.std(name) or 0.0 for line in lines.values()], color=colour, marker=symbol,
                    markersize=5, capsize=2, label=label,
                )  # fmt: skip
                belongs_to(label, *drawn.get_children(), about=label)
        axes.set(xlabel="discovered, %", ylabel=heading(first, name), xticks=list(by_share))
    legend(figure)
    return figure
