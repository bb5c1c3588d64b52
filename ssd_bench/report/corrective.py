"""What a table says where training data were manipulated: what its columns mean there, and whether it may be read."""

from __future__ import annotations

from ssd_bench.report.summary import ORIGINAL, Summary

LEAST_ASR = 90.0  # percent that an attack must succeed on the original
LEAST_APART = 5.0  # points that the clean model's corrected accuracy must be above the original's
AFFECTED = {
    "poison": "D'_f: test images of other classes than the target, with the trigger; D'_r: all test images. ASR: share "
    "of D'_f that is called the target.",
    "confusion": "D'_f: test images of the two classes, D'_r: the others. IC-err: share of D'_f not called what "
    "it is; Fgt: how many are called the other class.",
    "label_noise": "D'_f: all training images with a wrong label, D'_r: all test images. as taught: share of D'_f that "
    "is called by its wrong label.",
}


def is_corrective(summary: Summary) -> bool:
    """Whether training data were manipulated, whatever the scenario is called."""
    return "n_manipulated" in summary.task


def corrective_notes(summary: Summary) -> list[str]:
    """What stands under the main table of a corrective scenario; first, that it says nothing, where that is so."""
    task = summary.task
    reason = not_to_be_read(summary)
    return [
        *([reason] if reason else []),
        f"{task['n_manipulated']} training images were manipulated, {task['n_forget']} of them discovered: these are "
        f"D_f. Every set is judged by the true labels. {AFFECTED.get(task['scenario'], '')}".rstrip(),
        "The reference is the model trained without any manipulated image, discovered or not (method=clean; "
        "method=retrain where all is discovered): gap and distances are to it.",
    ]


def not_to_be_read(summary: Summary) -> str | None:
    """Why nothing follows from a table: the manipulation did not take in the original. None where it did, or where
    nobody knows."""
    original = summary.line(ORIGINAL)
    if original is None or not is_corrective(summary):
        return None
    success = original.mean("asr")
    if success is not None:
        return None if success >= LEAST_ASR else _refused(f"it succeeds on {success:.1f} % (least: {LEAST_ASR:g} %)")
    spoilt = original.mean("corrected_acc")
    ideal = summary.retrained.mean("corrected_acc") if summary.retrained else None
    if spoilt is None or ideal is None or ideal - spoilt >= LEAST_APART:
        return None
    return _refused(
        f"its accuracy on what was affected is {spoilt:.1f} %, the clean model's {ideal:.1f} % (least difference: "
        f"{LEAST_APART:g} points)"
    )


def _refused(why: str) -> str:
    return f"Not to be read: the manipulation did not take in the original: {why}. Nothing follows about its removal."
