"""matplotlib's figures as SVG in a page: small, the same bytes for the same numbers, lines known by their labels."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
GROUP, TITLE = f"{{{SVG}}}g", f"{{{SVG}}}title"
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "figure.constrained_layout.use": True, "savefig.dpi": 130, "axes.titlesize": 9, "legend.frameon": False,
    "svg.hashsalt": "ssd-bench", "svg.fonttype": "none",
}  # fmt: skip
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what may not stand in it, even escaped
WIDE, PER_INCH = 7.0, 48  # a picture of more inches keeps so many pixels of each, and is scrolled in its frame
INHERITED = ("style", "clip-path")  # attributes that a group hands to its parts
MARK, APART = "line:", "\u241f"  # before a line's label in the name of what is drawn of it, and after it


def belongs_to(label: str, *artists: Artist | None, about: str = "") -> None:
    """These are drawn of a line of the table: the page hides them with it and shows `about` to who points at them."""
    for artist in artists:
        if artist is not None:
            artist.set_gid(f"{MARK}{label}{APART}{about}")


def legend(figure: Figure) -> None:
    """Beside everything, of lines with error bars: the mark and the label of each, which the page hides with it."""
    entries = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    marks = {label: drawn.lines[0] for of_axes in entries for drawn, label in of_axes}
    drawn = figure.legend(marks.values(), marks.keys(), loc="outside right center")
    for handle, text in zip(drawn.legend_handles, drawn.get_texts(), strict=True):
        text.set_parse_math(False)  # a label comes from rows: its dollars are dollars
        belongs_to(text.get_text(), handle, text)


def room_for(names: int) -> float:
    """Inches of height that a legend of so many names takes beneath a title."""
    return 0.21 * names + 0.6


def _said_once(element: ElementTree.Element) -> None:
    """Neighbours that are drawn of one line become one group, what all parts of a group have in common is said of the
    group alone, and a group of which nothing is said goes."""
    last = None
    for part in list(element):
        if last is not None and part.get("data-line") and (part.attrib, _title(part)) == (last.attrib, _title(last)):
            last.extend(inner for inner in part if inner.tag != TITLE)
            element.remove(part)
        else:
            last = part
    for part in element:
        _said_once(part)
    drawn = [part for part in element if part.tag != TITLE]
    if element.tag == GROUP and len(drawn) > 1:
        for name in INHERITED:
            [value, *others] = {part.get(name) for part in drawn}
            alone = any("transform" in part.attrib or " opacity" in f" {part.get('style', '')}" for part in drawn)
            if value and not (others or name in element.attrib or alone):
                element.set(name, value)
                for part in drawn:
                    del part.attrib[name]
    for place, part in reversed(list(enumerate(element))):
        if part.tag == GROUP and not part.attrib:
            element[place : place + 1] = list(part)


def _title(group: ElementTree.Element) -> str | None:
    return group.findtext(TITLE)


def inline(figure: Figure, salt: str) -> str:
    """One <svg> element, as wide as there is place. What `belongs_to` a line has the line's label as `data-line`.

    salt: another one for each picture of a page, so that no two share the names of what they refer to.
    """
    written = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": salt}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(NO_XML.sub("\ufffd", written.getvalue()))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    if (inches := figure.get_figwidth()) > WIDE:
        root.set("style", f"min-width: {PER_INCH * inches:.0f}px")
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for group in root.iter(GROUP):
        name = group.attrib.pop("id", "")  # of which a page would hold many alike
        if name.startswith(MARK):
            label, _, about = name.removeprefix(MARK).partition(APART)
            group.set("data-line", label)
            if about:
                title = ElementTree.Element(TITLE)
                title.text = about
                group.insert(0, title)
    for element in root.iter():
        if not (element.text or "").strip():
            element.text = None
        element.tail = None
        if "d" in element.attrib:
            element.set("d", re.sub(r"(^|\s+)([A-Zz])\s*|\s+$", r"\2", element.get("d")))
    _said_once(root)
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text)
    return re.sub(r" transform=\"rotate\(-?0 [^\"]*\"|font-family: [^;\"]*;? ?", "", text)  # the page has a font
