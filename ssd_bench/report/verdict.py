"""One paragraph on a task: which method ends nearest to the retrained model, what it costs, and how certain that is."""

from __future__ import annotations

from ssd_bench.metrics.residual import RESIDUAL
from ssd_bench.report.corrective import not_to_be_read
from ssd_bench.report.statistics import LEVEL, t_interval
from ssd_bench.report.summary import FLOOR, ORIGINAL, Line, Summary

GAP = "average_gap"
NEAR_CHANCE = 0.05  # of an attack's AUC to 0.5
STILL_THERE = 0.5  # the residual share from which on features count as the original's rather than the retrained model's


def verdict(summary: Summary) -> str:
    """What a reader may conclude from a summary, and what not."""
    if reason := not_to_be_read(summary):
        return reason
    if not summary.retrained:
        added = f"Add method={summary.reference_method}."
        return f"No retrained model among these runs: which method forgets cannot be said. {added}"
    known = [line for line in summary.methods if line.mean(GAP) is not None]
    ranked = sorted(summary.comparable(GAP), key=lambda line: line.mean(GAP))
    unsteady = [f"{line.label} {_unlike(summary, line)}" for line in known if line not in ranked]
    left_out = [f"Not ranked: {'; '.join(unsteady)}"] if unsteady else []
    if not ranked:
        nothing = (
            "No method beside the retrained model ended for every seed"
            if known
            else "No method beside the retrained model yet"
        )
        return " ".join(f"{each}." for each in [nothing, *left_out, *_unsayable(summary)])
    original = summary.line(ORIGINAL)
    before = original.mean(GAP) if original else None
    if before is not None and round(before, 1) <= round(ranked[0].mean(GAP), 1):
        sentences = [
            f"No method ends nearer to the retrained model than the original, to which nothing was done ({before:.1f} "
            f"points away; the methods: {ranked[0].mean(GAP):.1f} or more)"
        ]
    else:
        sentences = [_nearest(summary, ranked[0], before), *_certainty(summary, ranked, original)]
    if any(line.budget for line in summary.methods) and len({line.budget for line in summary.methods}) > 1:
        sentences.insert(0, "Methods were not tuned alike, so that this is no ranking of them")
    if len(summary.seeds) < 2:
        sentences.append("One training seed: nothing can be said about how certain this is")
    sentences += [*left_out, *_floor(summary, ranked, before), *_unsayable(summary), *_attack(original)]
    return " ".join(f"{sentence}." for sentence in sentences)


def _unlike(summary: Summary, line: Line) -> str:
    """Why a method's mean is not over the same seeds as the others'."""
    if line.diverged:
        return f"diverged for seed {', '.join(map(str, line.diverged))}"
    others = sorted(summary.usual_seeds(GAP) - line.values[GAP].keys())
    return f"has no gap for seed {', '.join(map(str, others))}"


def _nearest(summary: Summary, best: Line, before: float | None) -> str:
    text = f"Nearest to the retrained model: {best.label}, {best.mean(GAP):.1f} points away on average"
    if before is not None:
        text += f" (the original: {before:.1f})"
    if best.mean("cost_s") and summary.retrained.mean("cost_s"):
        text += f", at {100 * best.mean('cost_s') / summary.retrained.mean('cost_s'):.0f} % of retraining's time"
    return text


def _certainty(summary: Summary, ranked: list[Line], original: Line | None) -> list[str]:
    """Whether the seeds show that the first is nearer than the original, and than the next.

    The first was chosen from all methods by the same numbers: Bonferroni's correction for that many comparisons.
    """
    best, rivals = ranked[0], [*([original] if original and original.mean(GAP) is not None else []), *ranked[1:2]]
    if len(summary.seeds) < 2 or not rivals:
        return []
    level = 1 - LEVEL / len(ranked)
    shown = [_named(line) for line in rivals if _nearer(best, line, level)]
    not_shown = [_named(line) for line in rivals if not _nearer(best, line, level)]
    parts = [f"show that it is nearer than {' and than '.join(shown)}"] if shown else []
    parts += [f"do not show that it is nearer than {' or than '.join(not_shown)}"] if not_shown else []
    certainty = (
        f"paired t-intervals, 95 % over all {len(ranked)} methods" if len(ranked) > 1 else "paired t-interval, 95 %"
    )
    return [f"{len(summary.seeds)} training seeds {', and '.join(parts)} ({certainty})"]


def _named(line: Line) -> str:
    return "the original" if line.label == ORIGINAL else f"the next, {line.label} ({line.mean(GAP):.1f} points)"


def _nearer(best: Line, other: Line, level: float) -> bool:
    ours, theirs = best.values[GAP], other.values[GAP]
    interval = t_interval([theirs[seed] - ours[seed] for seed in ours if seed in theirs], level)
    return interval is not None and interval[0] > 0


def _floor(summary: Summary, ranked: list[Line], before: float | None) -> list[str]:
    """What the gaps are worth beside those of retrained models of other seeds."""
    line = summary.line(FLOOR)
    floor = line.mean(GAP) if line else None
    if floor is None:
        method = summary.reference_method
        return [f"There is no floor to hold this against: it takes method={method} of a second training seed"]
    text = f"Retrained models of different seeds are {floor:.1f} points apart"
    if before is not None and before <= floor:
        return [f"{text}: the original is no farther away, so this task cannot tell forgetting from doing nothing"]
    within = [line.label for line in ranked if line.mean(GAP) <= floor]
    return [f"{text}; as near as that: {', '.join(within) if within else 'no method'}"]


def _unsayable(summary: Summary) -> list[str]:
    """Methods whose outputs look retrained while the class is still in their features."""
    told = []
    for line in [*summary.controls, *summary.methods]:
        shares = line.over_seeds(RESIDUAL)
        low, high = t_interval(shares) or (line.mean(RESIDUAL),) * 2
        if shares and low > STILL_THERE and _looks_retrained(summary, line):
            interval = f", 95 % {low:.2f} to {high:.2f}" if len(shares) > 1 else ""
            told.append(f"{line.label} (residual share of the features {line.mean(RESIDUAL):.2f}{interval})")
    return [f"Unsayable, not forgotten: {', '.join(told)}"] if told else []


def _looks_retrained(summary: Summary, line: Line) -> bool:
    """By its outputs: the gap is within the floor, or the class is said no more often than by the retrained model."""
    floor = summary.line(FLOOR)
    within = [(line.mean(GAP), floor.mean(GAP) if floor else None)]
    said = summary.retrained.mean("forget_acc")
    within.append((line.mean("forget_acc"), said if said is None else said + (summary.margin("forget_acc") or 0)))
    return any(ours is not None and most is not None and ours <= most for ours, most in within)


def _attack(original: Line | None) -> list[str]:
    auc = original.mean("mia_auc") if original else None
    if auc is None or abs(auc - 0.5) > NEAR_CHANCE:
        return []
    return [f"The attack's AUC on the original is {auc:.2f}, close to chance (0.5): MIA is uninformative here"]
