"""What is left of a manipulation of the training data: attack success, confusion, and the accuracy that came back."""

from dataclasses import dataclass
from typing import ClassVar

from ssd_bench.core.task import Outputs
from ssd_bench.metrics import About

MARKS = ("attacked", "swapped", "taught")  # sets judged by the label that the manipulation was meant to bring about
SHARES = {"asr": "attacked", "taught_as": "taught", "corrected_acc": "forget", "kept_acc": "retain"}  # value -> its set
VALID = "corrective scenarios"


def _own(heading: str, on: str, unit: str = "percent", decimals: int = 2, table: str = "main") -> About:
    return About(unit, "retrained", VALID, (on,), 20, heading, decimals, table)


@dataclass(frozen=True)
class Corrective:
    """asr: percent of triggered test images of other classes that are called the target. ic_err: percent of the two
    classes' test images that are not called what they are; fgt: how many are called the other one (Goel et al. 2022,
    arXiv 2201.06640). taught_as: percent of the images with a wrong label that are called that. corrected_acc and
    kept_acc: accuracy (percent) on what was affected and on the rest, D'_f and D'_r. No value in other scenarios.
    """

    version: ClassVar[int] = 2
    about: ClassVar[dict[str, About]] = {
        "asr": _own("ASR %", "attacked"),
        "ic_err": _own("IC-err %", "swapped"),
        "fgt": _own("Fgt", "swapped", "images", 0),
        "taught_as": _own("as taught %", "taught"),
        "corrected_acc": _own("", "forget", table="none"),  # the column of D'_f shows it already
        "kept_acc": _own("", "retain", table="none"),
        "undiscovered_acc": _own("undiscovered %", "undiscovered"),  # this and the following come from `accuracy`
        **{
            f"{name}_acc": _own("", name, table="none") for name in ("triggered", "clean", *MARKS)
        },
    }  # fmt: skip

    def __call__(self, seen: Outputs) -> dict[str, float | None]:
        values: dict[str, float | None] = dict.fromkeys((*SHARES, "ic_err", "fgt"))
        if not any(map(seen.has, MARKS)):
            if seen.has("kept"):  # a sequence's set, whose accuracy has that name
                values.pop("kept_acc")
            return values
        for name, of in SHARES.items():
            if seen.has(of):
                values[name] = 100 * _right(seen, of) / len(seen.labels[of])
        if seen.has("swapped"):
            values["fgt"] = _right(seen, "swapped")
            if values["corrected_acc"] is not None:
                values["ic_err"] = 100 - values["corrected_acc"]
        return values


def _right(seen: Outputs, name: str) -> int:
    """How many images of a set are called what it is judged by."""
    return int((seen.logits[name].argmax(1) == seen.labels[name]).sum())
