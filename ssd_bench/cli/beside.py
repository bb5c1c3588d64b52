"""What the commands beside `ssd-bench` share: settings of their own, and a run's plan composed without starting it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd_bench.cli import overrides
from ssd_bench.cli.run import find_modules
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.run import plan as planning


def own_settings(args: argparse.Namespace, name: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The overrides that are the command's own, and conf/NAME.yaml with what they say.

    They are taken out of `args.overrides`; the others are checked. Raises ConfigError.
    """
    known = OmegaConf.load(planning.CONF_DIR / f"{name}.yaml")
    own = [o for o in args.overrides if o.partition("=")[0].partition(".")[0] in known]
    args.overrides = [o for o in args.overrides if o not in own]
    args.multirun = False
    find_modules(args.config_dir)
    overrides.check(args)
    try:
        given = OmegaConf.from_dotlist(own)
    except OmegaConfBaseException as e:
        raise ConfigError(f"{' '.join(own)}: {e}") from e
    for group, values in given.items():
        if not OmegaConf.is_config(values):
            raise ConfigError(f"{group}={values} is no setting; allowed: {group}.{{{', '.join(known[group])}}}")
        for key in values:
            check_choice("", f"{group}.{key}", (f"{group}.{name}" for name in known[group]))
    return own, OmegaConf.to_container(OmegaConf.merge(known, given))


def composed(args: argparse.Namespace, more: list[str]) -> planning.Plan:
    """The plan of a run with the command line's settings and some more; those of its method are for that alone."""
    other = any(o.startswith("method=") and o not in args.overrides for o in more)
    given = [o for o in args.overrides if not (other and o.lstrip("+").startswith("method."))]
    search = [f"hydra.searchpath=[file://{Path(args.config_dir).absolute()}]"] if args.config_dir else []
    with initialize_config_dir(str(planning.CONF_DIR), version_base="1.3"):
        cfg = overrides.compose_with(search, [*given, *more], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    names = {group: str(cfg.hydra.runtime.choices[group]) for group in planning.GROUPS}
    del cfg.hydra
    return planning.plan(cfg, names)
