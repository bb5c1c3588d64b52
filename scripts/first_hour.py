"""The first hour on a GPU: what is most worth knowing, the most valuable first, every step bounded in time.

    ./scripts/first_hour --dry-run                          # the plan, with its bounds
    ./scripts/first_hour                                    # 40 minutes; the same command again goes on from there
    ./scripts/first_hour --device cpu --tiny --minutes 10   # a try-out

A step may take that share of the time left which its minutes are of those of all steps still to do, so what one leaves
over, the later ones have. A step that is out of time gets SIGINT, as by Ctrl-C. Cells then go on from their checkpoints
(docs/reliability.md); tests and benchmark begin again, and benchmark.md keeps the sections that are through. Neither
that nor a step that fails stops the later ones. What was done with the same device, PyTorch and commit is not repeated.
The folder --out holds summary.md, summary.json, benchmark.md, logs/, and the rows in runs/.

Cells run at the defaults, float32 proper (no TF32) and deterministic kernels, as every table so far: precision=tf32,
precision=bfloat16 and compile=true make other models, with rows of their own.

Exit code: 0 all done; 1 a step failed, or --out cannot be written; 2 wrong input, no such device; 130 a step was
stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ssd_bench.core.console import clock
from ssd_bench.core.errors import ConfigError
from ssd_bench.store.files import to_json, write_atomically

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 30.0  # for a step to end after SIGINT
METHODS = "method=original,ssd,finetune,retrain"  # retrain takes longest: the others have left their rows by then
CELLS = (  # name, minutes of 40, settings at full width, settings of its tiny twin, methods
    ("digits", 1, "data=digits", "data=digits model.width=4", METHODS),
    (
        "cifar20_full_class", 13, "experiment=cifar20_full_class model=resnet18 scenario.target=vehicle2",
        "experiment=cifar20_full_class_slim model.width=4", METHODS,
    ),
    (
        "cifar20_sub_class", 6, "experiment=cifar20_sub_class model=resnet18 scenario.target=rocket",
        "experiment=cifar20_sub_class_slim model.width=4", METHODS,
    ),
    (
        "cifar100_full_class", 4, "experiment=cifar100_full_class model=resnet18 scenario.target=rocket",
        "experiment=cifar100_full_class_slim model.width=4", METHODS,
    ),
    (
        "cifar10_random", 3, "experiment=cifar10_random model=resnet18",
        "experiment=cifar10_random_slim model.width=4 scenario.n_forget=10", METHODS,
    ),
    (
        "vit", 2, "experiment=cifar20_full_class model=vit_base scenario.target=vehicle2",
        "experiment=cifar20_full_class_slim model=vit_tiny model.dim=16 model.depth=1 model.heads=2",
        "method=original,ssd",
    ),
)  # fmt: skip
THROUGHPUT = "--width 64 --precision float32 tf32 bfloat16".split()
TINY = ("data.train_per_class=5", "data.test_per_class=2", "train.epochs=1", "threads=1")
ASK = """
import json, sys
import torch
from ssd_bench.core.errors import ConfigError
from ssd_bench.run.environment import commit, processor
from ssd_bench.train.devices import choose_device
try:
    device = choose_device(sys.argv[1])
except ConfigError as e:
    sys.exit(f"first_hour: {e}")
name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
print(json.dumps({"device": f"{device} ({name})", "torch": torch.__version__, "commit": commit()}))
"""


@dataclass(frozen=True)
class Step:
    """A command, and how many minutes of 40 are its share; resumes: whether it goes on when it is started again."""

    name: str
    minutes: float
    command: list[str]
    resumes: bool = True


@dataclass
class Outcome:
    """What became of a step: not begun, done, out of time, interrupted or failed; seconds of all calls together."""

    status: str = "not begun"
    seconds: float = 0.0
    reason: str = ""


def planned(device: str, tiny: bool, out: Path) -> list[Step]:
    """All steps, the most valuable first."""
    tests = "tests/gpu" if device.startswith("cuda") else "tests/unit/test_devices.py"
    speed = ["scripts/benchmark.py", "--device", device, "--output", str(out / "benchmark.md")]
    speed += ["--only", "loops", "--width", "4"] if tiny else ["--width", "64"]
    rates = ["scripts/throughput.py", "--device", device]
    rates += "--width 4 --images 200 --seconds 0.5".split() if tiny else THROUGHPUT
    steps = [
        Step("tests", 3, [sys.executable, "-m", "pytest", "-q", tests], resumes=False),
        Step("throughput", 1, [sys.executable, *rates], resumes=False),
        Step("benchmark", 7, [sys.executable, *speed], resumes=False),
    ]
    for name, minutes, full, twin, methods in CELLS:
        cell = [*twin.split(), *TINY] if tiny else full.split()
        cell += ["seed=0", methods, f"device={device}", f"out={out / 'runs'}"]
        steps.append(Step(name, minutes, [sys.executable, "-m", "ssd_bench.cli", "--multirun", *cell]))
    return steps


def where(device: str) -> dict[str, str | None]:
    """Device, PyTorch and commit, asked for in a process of its own: this one is to take nothing of the card."""
    asked = subprocess.run([sys.executable, "-c", ASK, device], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if asked.returncode:  # it has said why
        sys.exit(2)
    return json.loads(asked.stdout)


def known(steps: list[Step], here: dict[str, str | None], out: Path) -> list[Outcome]:
    """What became of these steps in earlier calls with the same device, PyTorch and commit."""
    try:
        kept = json.loads((out / "summary.json").read_text())
    except FileNotFoundError:
        kept = {"where": here, "steps": []}
    same = [each for each in kept["steps"] if kept["where"] == here]
    earlier = {tuple(each["command"]): Outcome(each["status"], each["seconds"], each["reason"]) for each in same}
    return [earlier.get(tuple(step.command), Outcome()) for step in steps]


def bounds(steps: list[Step], outcomes: list[Outcome], left: float) -> list[float]:
    """How many of these seconds each step may take; none where it is done."""
    minutes = [step.minutes * (outcome.status != "done") for step, outcome in zip(steps, outcomes, strict=True)]
    return [max(0.0, left) * own / (sum(minutes) or 1) for own in minutes]


def carry_out(step: Step, outcome: Outcome, bound_s: float, log: Path) -> None:
    """Run a step for at most so many seconds (and GRACE_S, if it does not end at once), its words into the log."""
    start, length, stopped = time.monotonic(), log.stat().st_size if log.exists() else 0, ""
    with log.open("ab") as words:
        process = subprocess.Popen(
            step.command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, cwd=ROOT, start_new_session=True
        )
    try:
        process.wait(bound_s)
    except subprocess.TimeoutExpired:
        stopped = "out of time"
    except KeyboardInterrupt:
        stopped = "interrupted"
    if stopped:
        _stop(process)
    outcome.seconds += time.monotonic() - start
    outcome.status = "done" if process.returncode == 0 else stopped or "failed"
    outcome.reason = _reason(log.read_bytes()[length:].decode(errors="replace")) if outcome.status == "failed" else ""


def _stop(process: subprocess.Popen) -> None:
    """End a step and what it has started: SIGINT, and after a while, or on a second Ctrl-C, SIGKILL."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(words: str) -> str:
    """The first line in which ssd-bench says what is wrong, else the last line."""
    lines = [line.strip() for line in words.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if line.startswith("ssd-bench: ")), lines[-1])


def summary(steps: list[Step], outcomes: list[Outcome], here: dict[str, str | None]) -> str:
    """What each step did, in markdown."""
    lines = [f"# The first hour\n\n{here['device']}, PyTorch {here['torch']}, commit {here['commit']}\n"]
    lines += ["| step | outcome | seconds | what it said |", "| --- | --- | --- | --- |"]
    for step, outcome in zip(steps, outcomes, strict=True):
        status = outcome.status
        if status in ("out of time", "interrupted"):
            status += ", resumes" if step.resumes else ", begins again"
        reason = outcome.reason.replace("|", "\\|")
        lines.append(f"| {step.name} | {status} | {outcome.seconds:.0f} | {reason} |")
    return "\n".join(lines) + "\n"


def keep(steps: list[Step], outcomes: list[Outcome], here: dict[str, str | None], out: Path) -> None:
    """Write down how far it is. Raises CannotWrite."""
    each = [asdict(step) | asdict(outcome) for step, outcome in zip(steps, outcomes, strict=True)]
    text = to_json({"where": here, "steps": each})
    write_atomically(out / "summary.json", lambda part: part.write_text(text))


def report(runs: Path) -> str:
    """The tables of all rows, in markdown; or why there are none."""
    command = [sys.executable, "-c", "from ssd_bench.cli.report import main; main()", str(runs), "--format", "markdown"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return made.stdout if made.returncode == 0 else _reason(made.stderr) + "\n"


def carry_out_all(steps: list[Step], here: dict[str, str | None], minutes: float, out: Path) -> int:
    """Every step that is not done, one after the other, and then the summary; returns the exit code."""
    end, outcomes = time.monotonic() + 60 * minutes, known(steps, here, out)
    keep(steps, outcomes, here, out)
    (out / "logs").mkdir(exist_ok=True)
    for place, (step, outcome) in enumerate(zip(steps, outcomes, strict=True)):
        if outcome.status == "done":
            continue
        bound_s = bounds(steps[place:], outcomes[place:], end - time.monotonic())[0]
        log = out / "logs" / f"{step.name}.log"
        print(f"{step.name}: at most {clock(bound_s)}; {log}", flush=True)
        carry_out(step, outcome, bound_s, log)
        keep(steps, outcomes, here, out)
        print(f"{step.name}: {outcome.status} {outcome.reason}".rstrip(), flush=True)
        if outcome.status == "interrupted":
            break
    text = f"{summary(steps, outcomes, here)}\n{report(out / 'runs')}"
    (out / "summary.md").write_text(text)
    print(f"\n{text}\n{out / 'summary.md'}")
    statuses = {outcome.status for outcome in outcomes}
    return 1 if "failed" in statuses else 0 if statuses == {"done"} else 130


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in a background job, whose steps would ignore it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; or cpu, for a try-out")
    parser.add_argument("--minutes", type=float, default=40, help="for all steps together; the tables come after them")
    parser.add_argument("--tiny", action="store_true", help="small networks, few images, one epoch: does it all work?")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/first_hour", help="the folder for all that is written")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
    args = parser.parse_args()
    here, out = where(args.device), args.out.absolute()
    steps = planned(here["device"].split()[0], args.tiny, out)
    outcomes = known(steps, here, out)
    print(f"{here['device']}, PyTorch {here['torch']}, commit {here['commit']}; at most {args.minutes:g} minutes")
    for step, outcome, bound_s in zip(steps, outcomes, bounds(steps, outcomes, 60 * args.minutes), strict=True):
        print(f"{'done' if outcome.status == 'done' else clock(bound_s):>8}  {step.name}: {' '.join(step.command[1:])}")
    if not args.dry_run:
        sys.exit(carry_out_all(steps, here, args.minutes, out))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as e:
        sys.exit(f"first_hour: {e}")
