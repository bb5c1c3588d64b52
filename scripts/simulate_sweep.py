"""How long a large sweep takes on many workers: the ideal, plain grid order with locks, and the order of tickets.

    python scripts/simulate_sweep.py [--workers 64] [--seeds 10] [--targets 20]

No model is trained. Costs are seconds of one thread, medians of three seeds of resnet18_slim on a fifth of CIFAR-20
(results/earlier/cifar_slim/rows.csv, scenario full_class): an original for each seed, a retrained model for each seed
and target, SSD's importances of D for each seed, and the methods' own seconds for each run. The tickets' order is
computed by the code that tickets run. In plain grid order a worker takes the next run of the grid and makes what it
needs on the way; what another worker is making, it waits for.
"""

from __future__ import annotations

import argparse
import heapq
from itertools import product
from pathlib import Path

from ssd_bench.core.task import Cost
from ssd_bench.run.agenda import Wanted, schedule
from ssd_bench.run.estimate import Work

METHODS = ("original", "retrain", "ssd", "finetune", "teacher")
SECONDS = {  # a run's evaluation is of two models, the original and its own: `outputs` is one of them
    "trained": 212.5,
    "retrained": 226.3,
    "importance_full": 26.8,
    "ssd": 1.9,
    "finetune": 241.7,
    "teacher": 25.5,
    "outputs": 8.7,
}


def runs_of(seeds: int, targets: int) -> list[Wanted]:
    """The grid `seed=... scenario.target=... method=...`, and what each run needs, in the order in which it asks."""
    runs = []
    for seed, target, method in product(range(seeds), range(targets), METHODS):
        request = f"{seed}-{target}"
        works = [_work("trained", f"original-{seed}", "original")]
        if method == "retrain":
            works.append(_work("retrained", f"retrained-{request}", "retrained"))
        if method == "ssd":
            works.append(_work("importance_full", f"importances-{seed}"))
        if method in ("ssd", "finetune", "teacher"):
            works.append(_work(method, f"{method}-{request}"))
        works.append(_work("outputs", f"outputs-{seed}", "outputs"))
        if method != "original":
            works.append(_work("outputs", f"outputs-{method}-{request}"))
        runs.append(Wanted(Path(f"{request}-{method}"), f"seed={seed} target={target} method={method}", works))
    return runs


def _work(kind: str, name: str, alone: str = "") -> Work:
    return Work(kind, Path(name), Cost(forward=SECONDS[kind]), 0, alone=alone)


def in_grid_order(runs: list[Wanted], workers: int) -> tuple[float, float]:
    """Makespan where workers take runs as they stand and wait for what others make; and the seconds waited in all."""
    there: dict[Path, float] = {}  # when it is made
    waited = now = 0.0
    steps = [iter(()) for _ in range(workers)]
    waiting, agenda = iter(runs), [(0.0, worker) for worker in range(workers)]
    while agenda:
        now, worker = heapq.heappop(agenda)
        work = next(steps[worker], None)
        if work is None:
            if run := next(waiting, None):
                steps[worker] = iter(run.works)
                heapq.heappush(agenda, (now, worker))
            continue
        if work.path in there:
            waited += max(0.0, there[work.path] - now)
        else:
            there[work.path] = now + work.cost.forward
        heapq.heappush(agenda, (max(now, there[work.path]), worker))
    return now, waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--targets", type=int, default=20)
    args = parser.parse_args()
    runs = runs_of(args.seeds, args.targets)
    planned, _ = schedule(runs, lambda work: work.cost.forward)
    ideal, ours = planned.ideal(args.workers), planned.makespan(args.workers)
    plain, waited = in_grid_order(runs, args.workers)
    print("seconds:", ", ".join(f"{name} {value:.1f}" for name, value in SECONDS.items()))
    print(f"{len(runs)} runs, {args.workers} workers, {planned.cost() / 3600:.1f} hours of work")
    print(f"ideal       {ideal:8.0f} s   all the work shared out evenly, or the dearest chain")
    print(
        f"grid order  {plain:8.0f} s   {100 * ideal / plain:5.1f} % of the ideal; {waited / 3600:.1f} hours of waiting"
    )
    print(f"tickets     {ours:8.0f} s   {100 * ideal / ours:5.1f} % of the ideal")


if __name__ == "__main__":
    main()
