"""How many images a second a device trains on, alone and shared: the project's own training loop on made-up images.

    python scripts/throughput.py                                             # width 16, batches of 256, bfloat16
    python scripts/throughput.py --width 64 --precision float32 tf32 bfloat16
    python scripts/throughput.py --batch 64 --jobs 1 14                      # how much several jobs on one card give

A job is a process, as in a parallel sweep. All jobs begin together, after 20 steps that do not count, and end after
--seconds. Images are of CIFAR's shape and lie on the device, not augmented; speed does not depend on what is in them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from itertools import product
from typing import Any

import torch

from ssd_bench.core.errors import ConfigError
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Images
from ssd_bench.models.fresh import fresh
from ssd_bench.models.resnet import ResNet18
from ssd_bench.run.environment import commit, processor
from ssd_bench.train.devices import arithmetic, choose_device, keep_freed_memory, synchronise, use_threads
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import Recipe

STEPS = 1_000_000  # more than the time is enough for
WARM_UP = 20  # steps
CHECKED = 5  # steps between looks at the clock
CLASSES = 20


class Over(Exception):
    """The time is up."""


class Stopwatch:
    """After each step: the clock starts when all jobs are warm, and ends the training when the time is up."""

    def __init__(self, device: torch.device, seconds: float, together: Any) -> None:
        self.device, self.seconds, self.together = device, seconds, together
        self.steps, self.start, self.taken = 0, 0.0, 0.0

    def __call__(self, *_: Any) -> None:
        """Called after each step, with the model and the optimiser."""
        self.steps += 1
        if self.steps == WARM_UP:
            synchronise(self.device)
            self.together.wait()
            self.start = time.monotonic()
        elif self.steps > WARM_UP and self.steps % CHECKED == 0 and time.monotonic() - self.start > self.seconds:
            synchronise(self.device)
            self.taken = time.monotonic() - self.start
            raise Over


def job(args: argparse.Namespace, precision: str, together: Any, rates: Any) -> None:
    """One process: trains until the time is up, and says how many images a second that were."""
    device = choose_device(args.device)
    use_threads("auto", parallel=True)
    keep_freed_memory()
    draws = torch.Generator().manual_seed(0)
    n = max(1, args.images // args.batch) * args.batch  # every batch is full
    pixels = torch.randint(256, (n, 3, 32, 32), generator=draws, dtype=torch.uint8).to(device)
    labels = torch.randint(CLASSES, (n,), generator=draws).to(device)
    images = Images(pixels, labels, *torch.tensor([[0.5] * 3, [0.25] * 3]).to(device), 32)
    model = fresh(ResNet18(width=args.width), 0, CLASSES, 3, 32).to(device)
    watch = Stopwatch(device, args.seconds, together)
    recipe = Recipe.constant("sgd", 1 + STEPS * args.batch // n, args.batch, 0.01)
    with arithmetic(device, precision):
        try:
            fit(model, images, torch.arange(n), recipe, generator(0, "speed"), "speed", after_step=watch)
        except Over:
            rates.put((watch.steps - WARM_UP) * args.batch / watch.taken)


def measured(args: argparse.Namespace, precision: str, jobs: int) -> float:
    """Images a second of so many jobs together."""
    spawn = multiprocessing.get_context("spawn")
    together, rates = spawn.Barrier(jobs), spawn.Queue()
    processes = [spawn.Process(target=job, args=(args, precision, together, rates), daemon=True) for _ in range(jobs)]
    for process in processes:
        process.start()
    while rates.qsize() < jobs:
        time.sleep(0.1)
        if any(process.exitcode for process in processes):  # it has said why; the others would wait for it
            together.abort()
            sys.exit(1)
    return sum(rates.get() for _ in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=int, default=16, help="of a ResNet18; the paper's is 64")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--precision", nargs="+", default=["bfloat16"])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    device = choose_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{device} ({name}), PyTorch {torch.__version__}, commit {commit()}; ResNet18 of width {args.width}\n")
    print("| precision | batch | jobs | images a second |\n| --- | ---: | ---: | ---: |")
    for precision, jobs in product(args.precision, args.jobs):
        print(f"| {precision} | {args.batch} | {jobs} | {measured(args, precision, jobs):,.0f} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ConfigError as e:
        sys.exit(f"throughput: {e}")
