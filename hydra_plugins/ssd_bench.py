"""Where Hydra looks for plug-ins: a namespace that distributions share, without an __init__.py."""

from ssd_bench.cli.sweeper import AgendaSweeper


class Sweeper(AgendaSweeper):
    """`hydra/sweeper=ssd_bench`: Hydra makes sweepers of this package alone."""
