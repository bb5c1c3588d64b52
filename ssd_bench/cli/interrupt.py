"""Ctrl-C and SIGTERM end a command in the same way, whatever it is doing."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_S = 0.1


@contextmanager
def interruptible() -> Iterator[None]:
    """While it lasts, SIGTERM, a cluster's way to say Ctrl-C, raises KeyboardInterrupt, too; and none gets lost.

    Python drops what is raised in a callback (of a weak reference, of the garbage collector, in a finalizer). Where
    that is an interrupt, it is raised once more a little later, when the callback is over.
    """
    before = sys.unraisablehook

    def raise_again(dropped) -> None:  # `sys.UnraisableHookArgs`, which exists for type checkers alone
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        main = threading.main_thread().ident  # which wakes from what it waits for
        later = threading.Timer(AGAIN_S, signal.pthread_kill, [main, signal.SIGTERM])
        later.daemon = True
        later.start()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = before
