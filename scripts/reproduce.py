"""Make the small table of results/digits again and compare every number with the one that is kept, to the last digit.

    ./scripts/reproduce                # some minutes; exit code 0: all the same, 1: not
    ./scripts/reproduce --write        # keep what came out instead

Floating-point sums depend on the processor, on PyTorch and on the number of threads (fixed here): on another machine
the numbers need not agree, and what differs between the machines is printed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parent.parent / "results" / "digits"
SWEEP = (
    "--multirun", "threads=1", "device=cpu", "seed=0,1,2", "scenario=full_class,random",
    "method=original,retrain,finetune,teacher,amnesiac,unsir,fisher,ssd",
)  # fmt: skip
ROW = ["scenario", "method", "seed"]
NOT_NUMBERS = re.compile(  # what may differ from run to run, and addresses, which follow from settings and versions
    r".*_s(\..*)?|peak_memory_bytes|device|threads|parallel|deterministic|torch|git|started"
    r"|path|recipe|original|reference|evaluation"
)
MACHINE = ["device", "threads", "torch"]


def sweep(out: Path) -> None:
    """Run the sweep, and write its rows and tables beside it."""
    subprocess.run([sys.executable, "-m", "ssd_bench.cli", *SWEEP, f"out={out / 'runs'}"], check=True)
    report = [sys.executable, "-c", "from ssd_bench.cli.report import main; main()", str(out / "runs")]
    for form, name in (("csv", "rows.csv"), ("markdown", "tables.md")):
        subprocess.run([*report, "--format", form, "-o", str(out / name)], check=True)


def compare(kept: Path, made: Path) -> int:
    """Print what differs between two files of rows; returns how many cells do."""
    old, new = (pd.read_csv(path, dtype=str, keep_default_na=False).set_index(ROW) for path in (kept, made))
    columns = [c for c in old.columns.union(new.columns, sort=False) if not NOT_NUMBERS.fullmatch(c)]
    rows = old.index.union(new.index, sort=False)
    old, new = (frame.reindex(index=rows, columns=columns, fill_value="(missing)") for frame in (old, new))
    different = old.ne(new)
    for *row, column in different.stack()[lambda d: d].index:
        row = tuple(row)
        print(f"{', '.join(row)}: {column} was {old.loc[row, column]}, is {new.loc[row, column]}")
    count = int(different.to_numpy().sum())
    numbers = int(old.map(lambda text: bool(re.fullmatch(r"-?\d.*", text))).to_numpy().sum())
    verdict = f"{count} differ" if count else "all the same to the last digit"
    print(f"{len(rows)} rows, {numbers:,} numbers: {verdict}")
    return count


def machines(path: Path) -> list[tuple[str, ...]]:
    """Where the rows of this file were made."""
    return sorted(set(pd.read_csv(path, dtype=str)[MACHINE].itertuples(index=False, name=None)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep what comes out as the new results/digits")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        sweep(out)
        if write:
            for file in ("rows.csv", "tables.md"):
                (FOLDER / file).write_text((out / file).read_text())
            return
        differ = compare(FOLDER / "rows.csv", out / "rows.csv")
        if differ:
            print(f"kept: {machines(FOLDER / 'rows.csv')}\nmade: {machines(out / 'rows.csv')}")
        sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
