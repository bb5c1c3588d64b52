"""ssd-bench: the benchmark for machine unlearning on images."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ssd-bench")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
