"""One HTML page of all tasks: self-contained, interactive, and readable without a network."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ssd_bench import __version__
from ssd_bench.report.statistics import t_interval
from ssd_bench.report.summary import ORIGINAL, Line, Summary, shown, style
from ssd_bench.report.table import Cell, Sheet, sheets

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ssd-bench: {title}</title><link rel="icon" href="data:,"><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto; max-width: 72rem; padding: 1rem; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }}
h3 {{ font-size: 1rem; margin-bottom: .3rem; }} nav a {{ display: inline-block; margin-right: 1rem; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .85rem; white-space: nowrap; }}
th, td {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: #fff; }}
thead th {{ border-bottom: 2px solid #1a1a1a; }} .best1 {{ font-weight: 700; background: #dcefe4; }}
.best2 {{ text-decoration: underline; background: #f2f8ec; }} .verdict {{ background: #f4f4f0; padding: .6rem 1rem; }}
.notes {{ color: #555; font-size: .85rem; }} .plots {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.plot {{ flex: 1 1 26rem; min-width: 0; overflow: hidden; }}
footer {{ color: #555; font-size: .85rem; margin-top: 3rem; }}
</style><script>{plotly}</script></head><body>
"""


def page(summaries: list[Summary]) -> str:
    """The whole page. Everything that comes from rows is escaped."""
    title = f"{len(summaries)} task{'s' if len(summaries) != 1 else ''}"
    parts = [HEAD.format(title=title, plotly=get_plotlyjs()), f"<h1>Machine unlearning, {title}</h1>"]
    links = (f'<a href="#task{i}">{escape(_short(s))}</a>' for i, s in enumerate(summaries))
    parts.append(f"<nav>{''.join(links)}</nav>")
    for i, summary in enumerate(summaries):
        parts.append(f'<h2 id="task{i}">{escape(summary.title)}</h2>')
        parts.append(f'<p class="verdict">{escape(verdict(summary))}</p>')
        parts.append('<div class="plots">')
        for j, figure in enumerate((trade_off(summary), attack(summary), times(summary))):
            if figure:
                parts.append(f'<div class="plot">{_embed(figure, f"plot{i}-{j}")}</div>')
        parts.append("</div>")
        parts += [_table(sheet) for sheet in sheets(summary)]
    parts.append("<script>addEventListener('load', () => dispatchEvent(new Event('resize')))</script>")  # plots fit
    parts.append(f"<footer>{escape(_made_with(summaries))}</footer></body></html>\n")
    return "\n".join(parts)


def verdict(summary: Summary) -> str:
    """Which method ends nearest to the retrained model, what it costs, and how sure that is."""
    if not summary.retrained:
        return "No retrained model among these runs: which method forgets cannot be said. Add method=retrain."
    far = [(line.mean("average_gap"), line) for line in summary.methods if line.mean("average_gap") is not None]
    if not far:
        return "No method beside the retrained model yet."
    far.sort(key=lambda pair: pair[0])
    gap, best = far[0]
    text = f"Nearest to the retrained model: {best.label}, {gap:.1f} points away on average"
    before = summary.line(ORIGINAL) and summary.line(ORIGINAL).mean("average_gap")
    if before is not None and before <= gap:
        text = f"No method ends nearer to the retrained model than the original does ({before:.1f} points). {text}"
    elif before is not None:
        text += f" (the original: {before:.1f})"
    if best.mean("cost_s") and summary.retrained.mean("cost_s"):
        share = best.mean("cost_s") / summary.retrained.mean("cost_s")
        text += f", at {100 * share:.0f} % of retraining's time"
    return f"{text}. {_certainty(summary, best, far[1][1] if len(far) > 1 else None)}"


def _certainty(summary: Summary, best: Line, second: Line | None) -> str:
    if len(summary.seeds) < 2:
        return "One training seed: there is no saying how sure that is."
    if second is None:
        return f"{len(summary.seeds)} training seeds."
    ours, theirs = best.values["average_gap"], second.values["average_gap"]
    interval = t_interval([theirs[seed] - ours[seed] for seed in ours if seed in theirs])
    told = interval is not None and interval[0] > 0
    be = "is" if told else "cannot be"
    return (
        f"Over {len(summary.seeds)} training seeds it {be} told from the next, {second.label} "
        f"({second.mean('average_gap'):.1f} points; 95 % t-interval of the paired differences)."
    )


def trade_off(summary: Summary) -> go.Figure | None:
    """Accuracy on retained against forgotten test images."""
    return _scatter(
        summary, "forget_acc", "retain_acc", "accuracy on D'_f, %", "accuracy on D'_r, %", "Forget and retain"
    )


def attack(summary: Summary) -> go.Figure | None:
    """The paper's attack against the accuracy on retained test images."""
    return _scatter(summary, "mia", "retain_acc", "called members of D_f, %", "accuracy on D'_r, %", "Attack")


def _scatter(summary: Summary, x: str, y: str, x_label: str, y_label: str, title: str) -> go.Figure | None:
    lines = [line for line in shown(summary) if line.mean(x) is not None and line.mean(y) is not None]
    if len(lines) < 2:
        return None
    figure = go.Figure()
    for line in lines:
        colour, symbol = style(summary, line)
        bars = {
            f"error_{axis}": {"array": [line.std(key) or 0], "thickness": 1, "width": 3}
            for axis, key in (("x", x), ("y", y))
        }
        figure.add_scatter(
            x=[line.mean(x)], y=[line.mean(y)], name=escape(line.label), mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 15 if line is summary.retrained else 10}, **bars,
        )  # fmt: skip
    if summary.retrained in lines:
        figure.add_vline(summary.retrained.mean(x), line={"dash": "dot", "color": "grey", "width": 1})
        figure.add_hline(summary.retrained.mean(y), line={"dash": "dot", "color": "grey", "width": 1})
    return _laid_out(figure, f"{title} (dotted: the retrained model)", x_label, y_label)


def times(summary: Summary) -> go.Figure | None:
    """What each method costs, on a log scale."""
    lines = sorted((line for line in shown(summary) if line.mean("cost_s")), key=lambda line: line.mean("cost_s"))
    if len(lines) < 2:
        return None
    figure = go.Figure()
    seconds = [line.mean("cost_s") for line in lines]
    figure.add_bar(
        y=[escape(line.label) for line in lines], x=seconds, orientation="h", text=[f"{s:.3g} s" for s in seconds],
        marker={"color": [style(summary, line)[0] for line in lines]}, showlegend=False,
    )  # fmt: skip
    low, high = math.log10(seconds[0]), math.log10(seconds[-1])
    ticks = [digit * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 1) for digit in (1, 2, 5)]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks], range=[low - 0.3, high + 0.1])
    figure.update_yaxes(automargin=True)
    return _laid_out(figure, "Time", "seconds, the importance of D included", "")


def _laid_out(figure: go.Figure, title: str, x_label: str, y_label: str) -> go.Figure:
    return figure.update_layout(
        title={"text": title, "font": {"size": 15}}, xaxis_title=x_label, yaxis_title=y_label, template="plotly_white",
        height=380, margin={"l": 60, "r": 10, "t": 50, "b": 50}, legend={"orientation": "h", "y": -0.25},
    )  # fmt: skip


def _embed(figure: go.Figure, name: str) -> str:
    options: dict[str, Any] = {"responsive": True, "displayModeBar": False}
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=options)


def _table(sheet: Sheet) -> str:
    def shown_as(cell: Cell) -> str:
        return f"<td{f' class=best{cell.best}' if cell.best else ''}>{escape(cell.text)}</td>"

    head = "".join(f"<th>{escape(heading)}</th>" for heading in ("method", *sheet.headings))
    body = "".join(f"<tr><td>{escape(label)}</td>{''.join(map(shown_as, cells))}</tr>" for label, cells in sheet.lines)
    notes = "<br>".join(map(escape, sheet.notes))
    return (
        f'<h3>{escape(sheet.title)}</h3><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        f'</table></div><p class="notes">{notes}</p>'
    )


def _short(summary: Summary) -> str:
    task = summary.task
    return (
        f"{task['data']} {task['scenario']} {task['target'] or task['n_forget']}{' placebo' if task['placebo'] else ''}"
    )


def _made_with(summaries: list[Summary]) -> str:
    envs = [row["env"] for summary in summaries for row in summary.rows]
    told = {key: ", ".join(sorted({str(env[key]) for env in envs})) for key in ("device", "threads", "torch", "git")}
    last = max((env["finished"] for env in envs), default="-")
    return (
        f"ssd-bench {__version__}. {len(envs)} runs, the last of {last}; device {told['device']}; threads "
        f"{told['threads']}; PyTorch {told['torch']}; commit {told['git']}."
    )
