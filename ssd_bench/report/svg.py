"""matplotlib's figures as SVG in a page: small, the same bytes for the same numbers, lines known by their labels."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "figure.constrained_layout.use": True, "savefig.dpi": 130, "axes.titlesize": 9, "legend.frameon": False,
    "svg.hashsalt": "ssd-bench", "svg.fonttype": "none",
}  # fmt: skip
MARK, APART = "line:", "\u241f"  # before a line's label in the name of what is drawn of it, and after it


def belongs_to(label: str, *artists: Artist | None, about: str = "") -> None:
    """These are drawn of a line of the table: the page hides them with it and shows `about` to who points at them."""
    for artist in artists:
        if artist is not None:
            artist.set_gid(f"{MARK}{label}{APART}{about}")


def inline(figure: Figure) -> str:
    """One <svg> element, as wide as there is place. What `belongs_to` a line has the line's label as `data-line`."""
    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(written.getvalue())
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for group in root.iter(f"{{{SVG}}}g"):
        name = group.attrib.pop("id", "")  # of which a page would hold many alike
        if name.startswith(MARK):
            label, _, about = name.removeprefix(MARK).partition(APART)
            group.set("data-line", label)
            if about:
                title = ElementTree.Element(f"{{{SVG}}}title")
                title.text = about
                group.insert(0, title)
    for element in root.iter():
        if not (element.text or "").strip():
            element.text = None
        element.tail = None
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text)
    return re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)  # the page's own
