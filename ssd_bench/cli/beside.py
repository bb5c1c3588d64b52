"""What the commands beside `ssd-bench` share: how they end, settings of their own, and a run's plan composed without
starting it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd_bench.cli import overrides
from ssd_bench.cli.arguments import Parser
from ssd_bench.cli.interrupt import interruptible
from ssd_bench.cli.run import find_modules
from ssd_bench.core.console import log_handler
from ssd_bench.core.errors import NO_ROOM, CannotWrite, ConfigError, Diverged, check_choice
from ssd_bench.run import plan as planning


@interruptible()
def carry_out(parser: Parser, work: Callable[[argparse.Namespace], int | None], argv: list[str] | None) -> None:
    """Do a command's work on what its parser makes of these arguments (None: the command line), and exit with the code
    that it returns, 2 (input), 3 (diverged) or 130 (interrupted; the same command goes on) unless that is 0."""
    logging.basicConfig(level=logging.INFO, handlers=[log_handler()], force=True)
    said = ""
    try:
        code = work(parser.parse_intermixed_args(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        code, said = 130, "interrupted; what is finished is kept, and the same command goes on from there"
    except ConfigError as e:
        code, said = 2, str(e)
    except Diverged as e:
        code, said = 3, f"{e}; lower train.lr"
    except OSError as e:
        if e.errno not in NO_ROOM:
            raise
        code, said = 2, str(CannotWrite.at(e.filename or "a file", e))
    if said:
        print(f"ssd-bench: {said}", file=sys.stderr)
    if code:
        sys.exit(code)


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
    except (OmegaConfBaseException, yaml.YAMLError) as e:
        raise ConfigError(f"{' '.join(own)}: {str(e).splitlines()[0]}") from e
    for group, values in given.items():
        if not OmegaConf.is_config(values):
            raise ConfigError(f"{group}={values} is no setting; allowed: {group}.{{{', '.join(known[group])}}}")
        for key in values:
            check_choice("", f"{group}.{key}", (f"{group}.{name}" for name in known[group]))
    return own, OmegaConf.to_container(OmegaConf.merge(known, given))


def of_method(override: str) -> bool:
    """Whether this is a setting of the method."""
    return override.lstrip("+").startswith("method.")


def composed(args: argparse.Namespace, more: list[str]) -> planning.Plan:
    """The plan of a run with the command line's settings and some more; those of its method are for that alone."""
    other = any(o.startswith("method=") and o not in args.overrides for o in more)
    given = [o for o in args.overrides if not (other and of_method(o))]
    with initialize_config_dir(str(planning.CONF_DIR), version_base="1.3"):
        cfg = overrides.compose_with(_search(args), [*given, *more], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return plan_of(cfg, cfg.hydra.runtime.choices)


def plan_of(cfg: DictConfig, choices: Mapping[str, Any]) -> planning.Plan:
    """The plan of a config; choices: of each group the option, as Hydra knows them."""
    config = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    return planning.plan(config, {group: str(choices[group]) for group in planning.GROUPS})


def launch(args: argparse.Namespace, more: list[str], jobs: int, job: Callable[[DictConfig], None]) -> None:
    """So many jobs with the command line's settings and some more, by the Hydra launcher that it asks for.

    job: gets the config as `composed` made it; can be pickled. Raises what the first job that failed did.
    """
    with initialize_config_dir(str(planning.CONF_DIR), version_base="1.3"):
        cfg = overrides.compose_with(_search(args), [*args.overrides, *more], return_hydra_config=True)
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
        launcher = Plugins.instance().instantiate_launcher(context, job, cfg)
        ended = launcher.launch([list(cfg.hydra.overrides.task)] * jobs, 0)
    for of_job in ended:
        of_job.return_value  # noqa: B018  raises what the job raised


def _search(args: argparse.Namespace) -> list[str]:
    return [f"hydra.searchpath=[file://{Path(args.config_dir).absolute()}]"] if args.config_dir else []
