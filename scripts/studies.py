"""What studies found, a line each: python scripts/studies.py runs/tuning [--output FILE.csv]

Objectives are in floors: 1 is as far from the retrained model as one of another seed. `untuned` is the first trial, the
published settings; both on requests, seeds and images of the study.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd


def table(folder: Path) -> pd.DataFrame:
    """Of every result.json below the folder."""
    lines = []
    for path in sorted(folder.rglob("result.json")):
        about = json.loads(path.read_text())
        settings = ", ".join(
            f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in about["settings"].items()
        )
        lines.append(
            {
                **{key: about[key] for key in ("name", "budget", "pruned", "untuned", "objective")},
                "second": about["runner_up"] and about["runner_up"]["objective"],
                "settings": settings,
                **{key: about[key] for key in ("passes", "cost_s", "trials_s", "references_s", "commit", "command")},
            }
        )
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write all columns to this csv")
    args = parser.parse_args()
    found = table(args.folder)
    if args.output:
        found.to_csv(args.output, index=False)
    shown = found[["name", "budget", "pruned", "untuned", "objective", "settings"]]
    rows = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in shown.to_numpy()]
    for row in ([*shown.columns], ["---"] * shown.shape[1], *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
