"""ssd-bench: the benchmark for machine unlearning on images."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("ssd-bench")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["Diverged", "Recipe", "Unlearned", "evaluate", "list_methods", "list_metrics", "unlearn"]


def __getattr__(name: str) -> Any:
    """The library, on first use: the command line must answer a typo without waiting for PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
