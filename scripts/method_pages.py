"""Write docs/methods/: a page a method and a table of all, from docstrings, configurations and `cost()`.

    python scripts/method_pages.py

A test compares the pages with what this would write.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from ssd_bench.core.build import build, class_of
from ssd_bench.core.images import Images
from ssd_bench.core.task import Cost, Method, Split, ask, seeds_of
from ssd_bench.run.plan import CONF_DIR, FIDELITIES
from ssd_bench.run.plugins import nodes

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "methods"
EXAMPLE = ("data=cifar20", "model=resnet18", "scenario=sub_class")
N, N_FORGET, CLASSES = 50_000, 500, 20  # of that example
NEEDS = {
    "retain": "D_r",
    "recipe": "the original's recipe",
    "forget_label": "one class to forget",
    "clean": "manipulated images",
}
TABLE = ("method", "needs D_r", "needs one class", "draws", "passes, % of retraining", "of them shared by requests, %")
FIRST = """# Methods

Made by `python scripts/method_pages.py` from the code; the numbers of passes are those of a sub-class of CIFAR-20
(50,000 images, 500 of them to forget, 20 labels, an original of 40 epochs), a forward pass counted as a third of one
forward and backward. *draws*: whether the result depends on random numbers beside the original.
"""


def split() -> Split:
    """Sizes and classes of CIFAR-20; what cost() asks for."""
    fine = torch.arange(N) // N_FORGET
    rows = torch.arange(N)
    images = Images(torch.empty(N, 1), fine % CLASSES)
    return Split(images, rows, rows[fine != 0], rows[fine == 0], fine, "sub_class", 0, CLASSES)


def composed(name: str, fidelity: str) -> tuple[dict[str, Any], Any]:
    """The method's settings in the example, and the original's recipe."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("config", [*EXAMPLE, f"method={name}", f"fidelity={fidelity}"])
    return dict(cfg.method), build(dict(cfg.train), "train")


def comments(name: str) -> dict[str, str]:
    """What the YAML says beside each setting."""
    text = (CONF_DIR / "method" / f"{name}.yaml").read_text()
    return {k: c.strip() for k, c in re.findall(r"^(\w+):[^#\n]*#(.*)$", text, re.MULTILINE)}


def story(cls: type) -> str:
    """The docstrings of the module and the class, and of what of ours it builds on."""
    classes = [c for c in inspect.getmro(cls) if issubclass(c, Method) and c is not Method]
    texts = [inspect.getdoc(sys.modules[cls.__module__]), *(inspect.cleandoc(c.__doc__) for c in classes)]
    return "\n\n".join(text for text in texts if text)


def searched(about: dict[str, Any] | None) -> str:
    """Where conf/search looks for a setting."""
    if not about:
        return ""
    if choices := about.get("choices"):
        return ", ".join(map(str, choices))
    low, high = (f"{end:g}" if isinstance(end, (int, float)) else end for end in (about["low"], about["high"]))
    return f"{low} to {high}" + ", by logarithm" * bool(about.get("log"))


def passes(cost: Cost) -> float:
    """In forward and backward passes of an image."""
    return cost.backward + cost.forward / 3


def page(name: str) -> tuple[str, list[str]]:
    """The page of a method, and its line of the table."""
    both = {fidelity: composed(name, fidelity) for fidelity in FIDELITIES}
    (settings, recipe), (official, _) = both.values()
    cls = class_of(settings.pop("_target_"), name)
    method, notes, data = build({"_target_": official.pop("_target_"), **settings}, name), comments(name), split()
    needs = getattr(cls, "needs", ())
    cost = ask(method, "cost", data, recipe) or Cost()
    shared = sum(passes(of_kind) for _, of_kind in cost.shared.values())
    whole, retrained = passes(cost) + shared, recipe.epochs * len(data.retain)
    lines = [f"# {name}", "", story(cls), "", "## Settings", ""]
    lines += ["| setting | corrected | official | searched | |", "|---|---|---|---|---|"]
    ranges = nodes("search").get(name, {})
    for key, value in settings.items():
        differs = "" if official.get(key) == value else f"`{official.get(key)}`"
        note = re.sub(r"\$\{.*?\}", "", notes.get(key, "")).strip()
        lines.append(f"| `method.{key}` | `{value}` | {differs} | {searched(ranges.get(key))} | {note} |")
    needed = ", ".join(NEEDS.get(need, need) for need in needs) or "D_f alone"
    seeds = ", ".join(f"`{seed}`" for seed in seeds_of(method)) or "none: it draws nothing"
    lines += ["", f"Needs: {needed}. Seeds: {seeds}.", ""]
    lines += [
        f"Cost of the example: {cost.forward:,} images forward and {cost.backward:,} forward and backward a request"
    ]
    for kind, (_, of_kind) in cost.shared.items():
        lines[-1] += f"; {of_kind.forward:,} and {of_kind.backward:,} for `{kind}`, which requests share"
    lines[-1] += f". Retraining takes {retrained:,} forward and backward."
    marks = ["yes" if need in needs else "" for need in ("retain", "forget_label")]
    numbers = [f"{100 * whole / retrained:.2f}", f"{100 * shared / retrained:.2f}" if shared else ""]
    drawn = "yes" if seeds_of(method) else ""
    return "\n".join(lines) + "\n", [f"[{name}]({name}.md)", *marks, drawn, *numbers]


def pages() -> dict[str, str]:
    """File name -> text."""
    names = sorted(path.stem for path in (CONF_DIR / "method").glob("*.yaml"))
    made = {name: page(name) for name in names}
    rows = [TABLE, ["---"] * len(TABLE), *(line for _, line in made.values())]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return {"README.md": f"{FIRST}\n{table}\n"} | {f"{name}.md": text for name, (text, _) in made.items()}


if __name__ == "__main__":
    if CONF_DIR.parent != FOLDER.parents[1]:
        sys.exit(f"ssd_bench is imported from {CONF_DIR.parent}, not from beside this script; set PYTHONPATH")
    made = pages()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        old.unlink()
    for name, text in made.items():
        Path(FOLDER, name).write_text(text)
