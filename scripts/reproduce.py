"""Make the small table of results/digits again and compare every number with the one that is kept, to the last digit.

    ./scripts/reproduce                # some minutes; exit code 0: all the same, 1: not
    ./scripts/reproduce --write        # keep what came out instead
    ./scripts/reproduce ssd scrub      # the leaderboard's rows of these methods on digits; 1: a gap is not reproduced
    ./scripts/reproduce --entries      # the same, of all methods whose rows lie in results/entries

Floating-point sums depend on PyTorch, on the number of threads (fixed here) and on the code that libraries choose for a
processor. All x86-64 processors with AVX2 are made to use the same (`ALIKE`); elsewhere, or with another PyTorch, the
numbers need not agree, and what differs between the machines is printed. The leaderboard's rows come from many
machines; there the mean gap counts (`apart`).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from math import sqrt
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import torch

from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.report.statistics import t_interval

RESULTS = Path(__file__).resolve().parent.parent / "results"
FOLDER = RESULTS / "digits"
ALWAYS = ("--multirun", "threads=1", "device=cpu", "seed=0,1,2")
METHODS = "original,retrain,finetune,teacher,amnesiac,unsir,fisher,ssd,dampen_random"
SWEEP = (*ALWAYS, "scenario=full_class,random", f"method={METHODS}")
ENTRIES = (*ALWAYS, "scenario=full_class", "protocol=tuned,published")  # and method=
BENCHMARK = "digits"  # of the leaderboard
ROW = ["scenario", "method", "tuned", "seed"]
NOT_NUMBERS = re.compile(  # what may differ from run to run, and addresses, which follow from settings and versions
    r".*_s(\..*)?|peak_memory_bytes|device|threads|parallel|deterministic|torch|git|started"
    r"|path|recipe|original|reference|evaluation"
)
MACHINE = ["device", "threads", "torch"]
NUMPYS = np.show_config(mode="dicts").get("SIMD Extensions", {})  # what NumPy has code for, on this processor or not
ALIKE = {  # with it, sums come out the same on every x86-64 processor with AVX2
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": " ".join(
        name
        for key in ("found", "not found")  # what the caller disabled already is not found
        for name in NUMPYS.get(key, [])
        if re.match("AVX512|X86_V4", name)
    ),
}


def sweep(out: Path, overrides: tuple[str, ...] = SWEEP) -> None:
    """Run the sweep, and write its rows and tables beside it."""
    environment = {**os.environ, **(ALIKE if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else {})}
    command = [sys.executable, "-m", "ssd_bench.cli", *overrides, f"out={out / 'runs'}"]
    subprocess.run(command, check=True, env=environment)
    report = [sys.executable, "-c", "from ssd_bench.cli.report import main; main()", str(out / "runs")]
    for form, name in (("csv", "rows.csv"), ("markdown", "tables.md")):
        subprocess.run([*report, "--format", form, "-o", str(out / name)], check=True, env=environment)


def read(path: Path) -> pd.DataFrame:
    """Rows as text, as they stand in the file."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def compare(kept: pd.DataFrame, made: pd.DataFrame) -> int:
    """Print what differs between rows; returns how many cells do."""
    old, new = kept.set_index(ROW), made.set_index(ROW)
    columns = [c for c in old.columns.union(new.columns, sort=False) if not NOT_NUMBERS.fullmatch(c)]
    rows = old.index.union(new.index, sort=False)
    old, new = (frame.reindex(index=rows, columns=columns, fill_value="(missing)") for frame in (old, new))
    different = old.ne(new)
    for *row, column in different.stack()[lambda d: d].index:
        row = tuple(row)
        print(f"{', '.join(filter(None, row))}: {column} was {old.loc[row, column]}, is {new.loc[row, column]}")
    count = int(different.to_numpy().sum())
    numbers = int(old.map(lambda text: bool(re.fullmatch(r"-?\d.*", text))).to_numpy().sum())
    verdict = f"{count} differ" if count else "all the same to the last digit"
    print(f"{len(rows)} rows, {numbers:,} numbers: {verdict}")
    return count


def machines(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Where these rows were made."""
    return sorted(set(rows[MACHINE].itertuples(index=False, name=None)))


def on_board() -> pd.DataFrame:
    """The leaderboard's lines that are neither references nor controls."""
    board = read(RESULTS / "leaderboard.csv")
    return board[board["control"].eq("")]


def entered(methods: list[str]) -> pd.DataFrame:
    """The rows that the leaderboard's lines of these methods on digits are made from. Raises ConfigError."""
    board = on_board()
    board = board[board["benchmark"].eq(BENCHMARK)]
    for name in methods:
        check_choice("method", name, board["method"], "the leaderboard's digits: ")
    files = board.loc[board["method"].isin(methods), "rows"].unique()
    rows = pd.concat([read(RESULTS / name) for name in files], join="inner")
    return rows[rows["method"].isin(methods)]


def apart(kept: pd.DataFrame, made: pd.DataFrame) -> int:
    """Print the mean gap of each method, tuned and not, as kept and as made; returns how many are not reproduced.

    Reproduced: no farther than one floor (what retrained models of two seeds differ by) from where the kept gaps put
    the mean of the new ones (Student's 95 % prediction interval); and of the seeds that both have, the same diverged.
    """
    old, new = (dict(list(frame.groupby(["method", "tuned"]))) for frame in (kept, made))
    count = 0
    for (method, tuned), rows in old.items():
        gaps, again = (_numbers(each, "average_gap") for each in (rows, new.get((method, tuned), rows[:0])))
        same = _ended(rows, new.get((method, tuned), rows[:0]))
        if gaps and again:
            low, high = t_interval(gaps) or (gaps[0], gaps[0])
            floors = _numbers(rows, "floor.average_gap") or [0.0]  # of one seed: none
            wide = sqrt(1 + len(gaps) / len(again)) * (high - low) / 2 + mean(floors)
            same &= abs(mean(again) - mean(gaps)) <= wide
        was, now = (f"{mean(each):.2f}" if each else "none" for each in (gaps, again))
        print(f"{method}{f' ({tuned})' * bool(tuned)}: gap {was}, now {now}: {'' if same else 'not '}reproduced")
        count += not same
    return count


def _ended(kept: pd.DataFrame, made: pd.DataFrame) -> bool:
    """Whether there are seeds that both have, and each of them ended, or did not, in both."""
    was, now = ({seed: bool(gap) for seed, gap in zip(f["seed"], f["average_gap"], strict=True)} for f in (kept, made))
    both = was.keys() & now.keys()
    return bool(both) and all(was[seed] == now[seed] for seed in both)


def _numbers(rows: pd.DataFrame, column: str) -> list[float]:
    return [float(text) for text in rows[column] if text]


def reproduce_entries(methods: list[str]) -> int:
    """Run these methods on digits as the leaderboard has them; returns how many gaps are not reproduced."""
    kept = entered(methods)
    with tempfile.TemporaryDirectory() as name:
        sweep(Path(name), (*ENTRIES, f"method=retrain,{','.join(methods)}"))
        made = read(Path(name, "rows.csv"))
    made = made[made["method"].isin(methods)]
    known = {*ROW, *kept.columns[kept.ne("").any()]}
    both = [name for name in kept.columns if name in known and name in made.columns]  # what both looked at
    frames = kept.loc[kept["seed"].isin(made["seed"]), both], made[both]
    if compare(*(frame.replace(r"\.0$", "", regex=True) for frame in frames)):  # 64.0 in a column with empty cells
        print(f"kept: {machines(kept)}\nmade: {machines(made)}")
    return apart(kept, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="*", help="make the leaderboard's rows of these methods on digits again")
    parser.add_argument("--entries", action="store_true", help="of all methods whose rows lie in results/entries")
    parser.add_argument("--write", action="store_true", help="keep what comes out as the new results/digits")
    args = parser.parse_args()
    if args.method or args.entries:
        board = on_board()
        handed_in = board.loc[board["rows"].str.startswith("entries/"), "method"] if args.entries else []
        methods = sorted({*args.method, *handed_in})
        if not methods:
            print("no rows in results/entries yet")
        try:
            sys.exit(1 if methods and reproduce_entries(methods) else 0)
        except ConfigError as e:
            print(f"reproduce: {e}", file=sys.stderr)
            sys.exit(2)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        sweep(out)
        if args.write:
            for file in ("rows.csv", "tables.md"):
                (FOLDER / file).write_text((out / file).read_text())
            return
        kept, made = read(FOLDER / "rows.csv"), read(out / "rows.csv")
        differ = compare(kept, made)
        if differ:
            print(f"kept: {machines(kept)}\nmade: {machines(made)}")
        sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
