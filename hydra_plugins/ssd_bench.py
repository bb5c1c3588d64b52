"""Where Hydra looks for plug-ins: a namespace that distributions share, without an __init__.py."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from ssd_bench.cli.overrides import Cases, InstalledPlugins
from ssd_bench.cli.sweeper import WithAgenda

__all__ = ["Cases", "InstalledPlugins", "Sweeper"]


class Sweeper(WithAgenda, BasicSweeper):
    """`hydra/sweeper=ssd_bench`: Hydra's own, with its params and its max_batch_size, and an agenda."""
