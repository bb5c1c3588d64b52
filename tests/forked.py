"""`ssd-bench` in forked processes, which find all imported: many can be started, and a kill can hit any moment."""

import itertools
import multiprocessing
import os
import signal
import sys
import traceback

from ssd_bench.cli import run as cli
from ssd_bench.store import artefacts, resume

FORK = multiprocessing.get_context("fork")


def child(arguments, log, every_s, checkpoints=None):
    """`ssd-bench` in a process of its own, its words in a file; killed when it has written so many checkpoints."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout = sys.stderr = os.fdopen(out, "w", buffering=1)
    artefacts._recent.clear()
    resume.EVERY_S = every_s
    if checkpoints:
        _die_after(checkpoints)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    sys.argv = ["ssd-bench", *arguments]
    try:
        cli.main()
    except SystemExit as e:
        os._exit(e.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def _die_after(checkpoints):
    save, written = resume.Checkpoint.save, itertools.count(1)

    def fatal(*given):
        save(*given)
        if next(written) == checkpoints:
            os.kill(os.getpid(), signal.SIGKILL)

    resume.Checkpoint.save = fatal


def start(arguments, log, every_s=120.0, checkpoints=None):
    process = FORK.Process(target=child, args=(arguments, log, every_s, checkpoints))
    process.start()
    return process
