"""One HTML page of all tasks: self-contained, readable without a network, on a phone and without scripts."""

from __future__ import annotations

from html import escape
from importlib.resources import files

import matplotlib
from matplotlib.figure import Figure

from ssd_bench import __version__
from ssd_bench.report.discovery import over_discovery
from ssd_bench.report.figures import plots
from ssd_bench.report.notes import in_words
from ssd_bench.report.pictures import drawn, over_requests
from ssd_bench.report.requests import PANELS, curves
from ssd_bench.report.sheet import Cell, Sheet, sheets, shown_columns
from ssd_bench.report.summary import Summary
from ssd_bench.report.svg import STYLE, inline
from ssd_bench.report.verdict import verdict

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ssd-bench: {title}</title><link rel="icon" href="data:,"><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto; max-width: 72rem; padding: 1rem; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; overflow-wrap: anywhere;
  scroll-margin-top: 2.5rem; }}
h3 {{ font-size: 1rem; margin-bottom: .3rem; overflow-wrap: anywhere; }}
nav a {{ display: inline-block; margin-right: 1rem; }}
.filter {{ position: sticky; top: 0; background: #fff; padding: .4rem 0; z-index: 2; }}
.filter input {{ font: inherit; width: 100%; max-width: 30rem; box-sizing: border-box; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .85rem; white-space: nowrap; }}
th, td {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: #fff; max-width: 40vw;
  overflow: hidden; text-overflow: ellipsis; }}
thead th {{ border-bottom: 2px solid #1a1a1a; cursor: pointer; }} [aria-sort=ascending]::after {{ content: " ▲"; }}
[aria-sort=descending]::after {{ content: " ▼"; }}
tbody + tbody {{ border-top: 2px solid #1a1a1a; }} .best1 {{ font-weight: 700; background: #dcefe4; }}
.best2 {{ text-decoration: underline; background: #f2f8ec; }} .verdict {{ background: #f4f4f0; padding: .6rem 1rem; }}
.notes {{ color: #555; font-size: .85rem; overflow-wrap: anywhere; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }}
figure {{ margin: 0 0 1rem; overflow-x: auto; }} figcaption {{ font-size: .95rem; }}
figure svg {{ display: block; width: 100%; height: auto; }}
dt {{ font-weight: 600; }}
footer {{ color: #555; font-size: .85rem; margin-top: 3rem; }}
</style></head><body>
"""
FILTER = """<p class="filter" hidden><input id="methods" type="search" aria-label="methods to show"
placeholder="show only: ssd, teacher, ..."></p>
"""


def page(summaries: list[Summary]) -> str:
    """The whole page. Everything that comes from rows is escaped."""
    title = f"{len(summaries)} task{'s' if len(summaries) != 1 else ''}"
    parts = [HEAD.format(title=title), f"<h1>Machine unlearning, {title}</h1>"]
    links = (f'<a href="#task{i}">{escape(name)}</a>' for i, name in enumerate(short_names(summaries)))
    parts += [f'<nav>{"".join(links)}<a href="#columns">columns</a></nav>', FILTER]
    with matplotlib.rc_context(STYLE):
        for i, summary in enumerate(summaries):
            parts.append(f'<h2 id="task{i}">{escape(summary.title)}</h2>')
            parts.append(f'<p class="verdict">{escape(verdict(summary))}</p>')
            figures = {plot.title: drawn(summary, plot) for plot in plots(summary)}
            for name, panel in curves(summary).items():
                figures[f"After each request: {PANELS[name]}"] = over_requests(summary, {name: panel})
            shown = "".join(_figure(figure, caption, f"task{i}") for caption, figure in figures.items())
            parts.append(f'<div class="plots">{shown}</div>')
            parts += [_table(sheet) for sheet in sheets(summary)]
        parts += [_figure(figure, f"What was discovered: {of}") for of, figure in over_discovery(summaries)]
    parts.append(_glossary(summaries))
    parts.append(f"<footer>{escape(_made_with(summaries))}</footer>")
    return "\n".join([*parts, f"<script>{files(__package__).joinpath('page.js').read_text()}</script></body></html>\n"])


def page_of_figures(title: str, lines: list[str], figures: dict[str, Figure]) -> str:
    """A page of figures by what stands above them, under what is said about them all."""
    parts = [HEAD.format(title=escape(title)), f"<h1>{escape(title)}</h1>"]
    parts.append(f'<p class="notes">{"<br>".join(map(escape, lines))}</p>')
    parts += [_figure(figure, caption) for caption, figure in figures.items()]
    return "\n".join([*parts, "</body></html>\n"])


def _figure(figure: Figure, caption: str, place: str = "") -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{inline(figure, f'{place} {caption}')}</figure>"


def _table(sheet: Sheet) -> str:
    def shown_as(cell: Cell) -> str:
        return f"<td{f' class=best{cell.best}' if cell.best else ''}>{escape(cell.text)}</td>"

    head = "".join(f"<th>{escape(heading)}</th>" for heading in ("method", *sheet.headings))
    rows = []
    for label, cells in sheet.lines:
        name, numbers = escape(label), "".join(map(shown_as, cells))
        rows.append(f'<tr data-line="{name}"><td title="{name}">{name}</td>{numbers}</tr>')
    rule = len(rows) if sheet.rule is None else sheet.rule
    bodies = "".join(f"<tbody>{''.join(part)}</tbody>" for part in (rows[:rule], rows[rule:]) if part)
    notes = "<br>".join(map(escape, sheet.notes))
    return (
        f'<h3>{escape(sheet.title)}</h3><div class="wide"><table><thead><tr>{head}</tr></thead>{bodies}</table></div>'
        f'<p class="notes">{notes}</p>'
    )


def _glossary(summaries: list[Summary]) -> str:
    """What each column is, as its metric or method describes it."""
    columns = {heading: about for summary in reversed(summaries) for heading, about in shown_columns(summary).items()}
    described = ((heading, in_words(about)) for heading, about in columns.items())
    terms = "".join(f"<dt>{escape(heading)}</dt><dd>{escape(words)}</dd>" for heading, words in described if words)
    return f'<h2 id="columns">What the columns are</h2><dl class="notes">{terms}</dl>'


def short_names(summaries: list[Summary]) -> list[str]:
    """A short name of each; one that two would share says the model, too, or else the whole title."""
    short = [_short(summary) for summary in summaries]
    with_model = [f"{name} {summary.task['model']}" for name, summary in zip(short, summaries, strict=True)]
    chosen = [longer if short.count(name) > 1 else name for name, longer in zip(short, with_model, strict=True)]
    return [s.title if chosen.count(name) > 1 else name for name, s in zip(chosen, summaries, strict=True)]


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
