"""One HTML page of all tasks: self-contained, interactive, and readable without a network."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from ssd_bench import __version__
from ssd_bench.report.figures import Plot, heading, plots, style
from ssd_bench.report.requests import PANELS, Curve, curves
from ssd_bench.report.sheet import Cell, Sheet, sheets
from ssd_bench.report.summary import FLOOR, Summary
from ssd_bench.report.verdict import verdict

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
thead th {{ border-bottom: 2px solid #1a1a1a; }}
.rule td {{ border-top: 2px solid #1a1a1a; }} .best1 {{ font-weight: 700; background: #dcefe4; }}
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
        parts += [f'<div class="plot">{_embed(drawn(summary, p), f"plot{i}-{p.name}")}</div>' for p in plots(summary)]
        parts.append("</div>")
        if panels := curves(summary):
            parts.append(f'<div class="plot">{_embed(over_requests(summary, panels), f"plot{i}-requests")}</div>')
        parts += [_table(sheet) for sheet in sheets(summary)]
    parts.append("<script>addEventListener('load', () => dispatchEvent(new Event('resize')))</script>")  # plots fit
    parts.append(f"<footer>{escape(_made_with(summaries))}</footer></body></html>\n")
    return "\n".join(parts)


def page_of_figures(title: str, lines: list[str], figures: list[go.Figure]) -> str:
    """A page of plotly's figures, under what is said about them."""
    parts = [HEAD.format(title=escape(title), plotly=get_plotlyjs()), f"<h1>{escape(title)}</h1>"]
    parts.append(f'<p class="notes">{"<br>".join(map(escape, lines))}</p>')
    parts += [f'<div class="plot">{_embed(figure, f"plot{i}")}</div>' for i, figure in enumerate(figures)]
    return "\n".join([*parts, "</body></html>\n"])


def drawn(summary: Summary, plot: Plot) -> go.Figure:
    """A plot as plotly draws it."""
    figure, title = go.Figure(), plot.title
    if plot.y:
        _scatter(figure, summary, plot)
        title += " (dotted: the retrained model)" if summary.retrained in plot.lines else ""
    else:
        _bars(figure, summary, plot)
    return figure.update_layout(
        title={"text": title, "font": {"size": 15}}, xaxis_title=escape(heading(summary, plot.x)),
        yaxis_title=escape(heading(summary, plot.y)), template="plotly_white", height=380,
        margin={"l": 60, "r": 10, "t": 50, "b": 50}, legend={"orientation": "h", "y": -0.25},
    )  # fmt: skip


def over_requests(summary: Summary, panels: dict[str, list[Curve]]) -> go.Figure:
    """Curves over the requests of a sequence, a panel a value, as plotly draws them."""
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=[PANELS[name] for name in panels])
    for column, of_panel in enumerate(panels.values(), 1):
        for curve in of_panel:
            (colour, symbol), label = style(summary, curve.line), escape(curve.line.label)
            figure.add_scatter(
                x=list(range(1, len(curve.means) + 1)), y=curve.means, error_y={"array": curve.spreads, "thickness": 1},
                name=label, legendgroup=label, showlegend=column == 1, mode="lines+markers",
                line={"color": colour, "dash": "dot" if curve.line.label == FLOOR else "solid"},
                marker={"symbol": symbol}, row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title="requests", dtick=1)
    return figure.update_layout(template="plotly_white", height=380, legend={"orientation": "h", "y": -0.25})


def _scatter(figure: go.Figure, summary: Summary, plot: Plot) -> None:
    for line in plot.lines:
        colour, symbol = style(summary, line)
        bars = [{"array": [line.std(name) or 0], "thickness": 1, "width": 3} for name in (plot.x, plot.y)]
        figure.add_scatter(
            x=[line.mean(plot.x)], y=[line.mean(plot.y)], error_x=bars[0], error_y=bars[1], name=escape(line.label),
            mode="markers", marker={"color": colour, "symbol": symbol, "size": 15 if symbol == "star" else 10},
        )  # fmt: skip
    if summary.retrained in plot.lines:
        dotted = {"dash": "dot", "color": "grey", "width": 1}
        figure.add_vline(summary.retrained.mean(plot.x), line=dotted)
        figure.add_hline(summary.retrained.mean(plot.y), line=dotted)


def _bars(figure: go.Figure, summary: Summary, plot: Plot) -> None:
    values = [line.mean(plot.x) for line in plot.lines]
    figure.add_bar(
        y=[escape(line.label) for line in plot.lines], x=values, orientation="h", text=[f"{v:.3g} s" for v in values],
        marker={"color": [style(summary, line)[0] for line in plot.lines]}, showlegend=False,
    )  # fmt: skip
    low, high = math.log10(values[0]), math.log10(values[-1])
    ticks = [digit * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 1) for digit in (1, 2, 5)]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks], range=[low - 0.3, high + 0.1])
    figure.update_yaxes(automargin=True)


def _embed(figure: go.Figure, name: str) -> str:
    options: dict[str, Any] = {"responsive": True, "displayModeBar": False}
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=options)


def _table(sheet: Sheet) -> str:
    def shown_as(cell: Cell) -> str:
        return f"<td{f' class=best{cell.best}' if cell.best else ''}>{escape(cell.text)}</td>"

    head = "".join(f"<th>{escape(heading)}</th>" for heading in ("method", *sheet.headings))
    body = "".join(
        f"<tr{' class=rule' if i == sheet.rule else ''}><td>{escape(label)}</td>{''.join(map(shown_as, cells))}</tr>"
        for i, (label, cells) in enumerate(sheet.lines)
    )
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
    values = {key: ", ".join(sorted({str(env[key]) for env in envs})) for key in ("device", "threads", "torch", "git")}
    last = max((env["finished"] for env in envs), default="-")
    return (
        f"ssd-bench {__version__}. {len(envs)} runs, the last of {last}; device {values['device']}; threads "
        f"{values['threads']}; PyTorch {values['torch']}; commit {values['git']}."
    )
