"""Command lines of the commands beside `ssd-bench`."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ssd_bench.core.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """What argparse cannot parse is a ConfigError instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)
