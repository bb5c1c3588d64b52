"""Misspelt groups, options and keys on the command line, found from the YAML alone, before torch is loaded."""

from __future__ import annotations

import argparse
import itertools
import re
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.run.cases import SEPARATOR, setting
from ssd_bench.run.plan import CONF_DIR
from ssd_bench.run.plugins import config_folders
from ssd_bench.store.files import writable

HYDRA_KEYS = ("hydra", "experiment")
NAMES = ("scenario.target", "scenario.requests", "scenario.classes")  # of classes, which may look like numbers
UNDERSCORED = re.compile(r"(?:^|[\[,])\s*([-+]?\d+(?:_\d+)+)\s*(?=$|[\],])")
NOT_CHOSEN = {"hydra", "tuned", "search", "kinds"}  # groups and keys that are no choice of a run
READ_BESIDE = ("tuned", "search")  # groups of which --config-dir adds to what the package says
LAUNCHERS = {"joblib": "parallel", "submitit_local": "cluster", "submitit_slurm": "cluster", "ray": "ray"}  # and extras
LAUNCHER = re.compile(r"hydra[/.]launcher(\.|$)")  # begins what says how jobs are launched
WORKERS = "hydra.launcher.n_jobs", "hydra.launcher.array_parallelism", "hydra.sweeper.max_batch_size"


class InstalledPlugins(SearchPathPlugin):
    """Hydra looks into the folders of installed plug-ins, too: for runs, sweeps, `--help` and completion."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, folder in config_folders().items():
            search_path.append(name, f"file://{folder}")
        search_path.append("cases", "tuned://")


class Cases(ConfigSource):
    """`tuned/METHOD+DATA+MODEL+SCENARIO`: what the cases of tuned/METHOD.yaml set for this combination.

    The package's come first, then those of installed plug-ins and of --config-dir: the later win.
    """

    own: ClassVar[Path | None] = None  # --config-dir of this command

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.folders = [CONF_DIR, *config_folders().values(), *([Cases.own] if Cases.own else [])]

    @staticmethod
    def scheme() -> str:
        return "tuned"

    def load_config(self, config_path: str) -> ConfigResult:
        found = setting(self.folders, config_path.removesuffix(".yaml").removeprefix("tuned/"))
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(found), {"package": "_global_"})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        return config_path.startswith("tuned/") and SEPARATOR in config_path

    def list(self, config_path: str, results_filter: Any) -> list[str]:
        return []


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for the first override that names what does not exist, or that does not compose.

    args: what Hydra's own parser made of the command line.
    """
    if args.config_dir and not Path(args.config_dir).is_dir():
        raise ConfigError(f"--config-dir={args.config_dir} is not a folder; give one that holds method/, data/, ...")
    if args.config_dir:
        _check_hidden(Path(args.config_dir))
    overrides = [_parse(text) for text in args.overrides]
    search = [f"hydra.searchpath=[file://{Path(args.config_dir).absolute()}]"] if args.config_dir else []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        options = _options(loader, args.config_dir)
        choices: dict[str, list[str]] = {}  # per group, the options asked for
        settings = []
        for override in overrides:
            key = override.key_or_group
            if key in options and not override.is_delete():
                names = _values(override, options[key])
                for name in itertools.chain.from_iterable(n if isinstance(n, list) else [n] for n in names):
                    if name is not None or key != "experiment":
                        check_choice(key, _spell(name), options[key])
                choices[key] = [_spell(name) for name in names]
                if len(choices[key]) > 1 and not args.multirun:
                    raise ConfigError(f"{override.input_line}: several values make a sweep; add --multirun")
            elif key == "hydra/launcher":
                _check_launcher(override.value(), loader.get_group_options(key))
            elif re.split(r"[./]", key)[0] not in HYDRA_KEYS:
                settings.append(override)
            if key in NAMES and (number := UNDERSCORED.search(override.input_line.partition("=")[2])):
                as_read = number[1].replace("_", "")
                raise ConfigError(
                    f"{override.input_line}: Hydra reads {number[1]} as {as_read}; write \"'{number[1]}'\""
                )
        composed = {" ".join(chosen): compose_with(search, chosen) for chosen in _combinations(choices)}
    for override in settings:
        _check_setting(override, composed, options, args.multirun)
    for override in (o for o in settings if o.key_or_group == "out" and str(o.value()).startswith("~")):
        raise ConfigError(f"{override.input_line}: ~ stands for nothing here; write out=$HOME/... or the whole path")
    if args.multirun:  # Hydra writes there before the first job can say that it cannot
        for override in (o for o in settings if o.key_or_group == "out" and not o.is_sweep_override()):
            if not writable(Path(str(override.value()))):
                raise ConfigError(f"out={override.value()} cannot be written; choose a folder that can")


def sweep_of_experiment(args: argparse.Namespace) -> list[str]:
    """The overrides that the experiment on the command line stands for; what is given beside it wins.

    An experiment file holds its sweep as `hydra.sweeper.params`. Raises ConfigError for one without --multirun.
    """
    given = {override.key_or_group: override for override in map(_parse, args.overrides)}
    if (chosen := given.get("experiment")) is None or chosen.value() is None:
        return []
    search = [f"hydra.searchpath=[file://{Path(args.config_dir).absolute()}]"] if args.config_dir else []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        known = loader.get_group_options("experiment") + _beside(args.config_dir).get("experiment", [])
        check_choice("experiment", str(chosen.value()), known)
        cfg = compose_with(search, [f"experiment={chosen.value()}"], return_hydra_config=True)
    params = cfg.hydra.sweeper.params or {}
    if params and not args.multirun:
        raise ConfigError(f"experiment={chosen.value()} is a sweep; add --multirun")
    return [f"{key}={value}" for key, value in params.items() if key not in given]


def says(args: argparse.Namespace, key: str) -> bool:
    """Whether key=true is among the overrides."""
    return any(o.key_or_group == key and o.value() is True for o in map(_parse, args.overrides))


def take_launcher(args: argparse.Namespace) -> tuple[bool, int | None]:
    """Whether the launcher asked for is a parallel one and with how many workers; its overrides are taken out."""
    given = list(map(_parse, args.overrides))
    args.overrides = [o.input_line for o in given if not LAUNCHER.match(o.key_or_group)]
    said = {o.key_or_group: o.value() for o in given if LAUNCHER.match(o.key_or_group) or o.key_or_group in WORKERS}
    workers = next((said[key] for key in WORKERS if isinstance(said.get(key), int) and said[key] > 0), None)
    return said.get("hydra/launcher", "basic") != "basic", workers


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except (OverrideParseException, HydraException) as e:
        raise ConfigError(
            f"'{text}' is not of the form key=value (such as method=ssd or method.alpha=5; other letters and signs in "
            f"quotes of their own: \"data.root='Zoë, new'\"): {str(e).splitlines()[0]}"
        ) from e


def _options(loader: Any, config_dir: str | None) -> dict[str, list[str]]:
    """The options of every group of ours, those of --config-dir included."""
    groups = (group for group in loader.list_groups("") if group not in NOT_CHOSEN)
    options = {group: loader.repository.get_group_options(group) for group in groups}  # the loader's reads all anew
    for group, names in _beside(config_dir).items():
        options.setdefault(group, []).extend(names)
    return options


def _beside(config_dir: str | None) -> dict[str, list[str]]:
    """Per group, the options in --config-dir."""
    options: dict[str, list[str]] = {}
    for path in sorted(Path(config_dir).glob("*/*.yaml")) if config_dir else ():
        options.setdefault(path.parent.name, []).append(path.stem)
    return options


def _check_hidden(own: Path) -> None:
    """Raise ConfigError for a file in --config-dir that Hydra would not read, for another of its name comes first."""
    before = CONF_DIR, *config_folders().values()
    for path in sorted(own.glob("*/*.yaml")):
        name = path.relative_to(own)
        if path.parent.name in READ_BESIDE:
            continue
        for folder in before:
            if (folder / name).exists() and (folder / name).read_bytes() != path.read_bytes():
                raise ConfigError(
                    f"{path} would not be read: {folder / name} has its name and comes first; give it another name, "
                    f"such as {name.with_stem(f'my_{name.stem}')}"
                )


def _check_launcher(name: Any, installed: list[str]) -> None:
    """Raise ConfigError for a launcher that is known but not installed; what is not known, Hydra says itself."""
    if (extra := LAUNCHERS.get(str(name))) and name not in installed:
        raise ConfigError(f"hydra/launcher={name} is not installed: pip install 'ssd-bench[{extra}]'")


def _values(override: Override, options: list[str]) -> list[Any]:
    """The options that an override of a group asks for: one, or those of a sweep; a glob asks for what is there."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(options)
    if override.is_sweep_override():
        return [name.strip("'\"") if isinstance(name, str) else name for name in override.sweep_string_iterator()]
    return [value]


def _spell(name: Any) -> str:
    return "null" if name is None else f"[{','.join(name)}]" if isinstance(name, list) else str(name)


def _combinations(choices: dict[str, list[str]]) -> list[list[str]]:
    """Every option at least once, not every combination of them: beside the option, the first of the other groups."""
    first = {group: names[0] for group, names in choices.items() if names}
    chosen = [first] + [first | {group: name} for group, names in choices.items() for name in names[1:]]
    return [[f"{group}={name}" for group, name in each.items()] for each in chosen]


def compose_with(search: list[str], overrides: list[str], **how: bool) -> DictConfig:
    """The config that Hydra, once initialised, composes. Raises ConfigError."""
    try:
        return compose("config", search + overrides, **how)
    except MissingConfigException as e:
        group, _, name = str(e.missing_cfg_file).partition("/")
        if group != "train":
            raise ConfigError(f"{' '.join(overrides)}: {' '.join(str(e).split())}") from e
        raise ConfigError(
            f"model={name} has no recipe of its name (train/{name}.yaml); give one of train={','.join(e.options)}"
        ) from e
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as e:  # ValueError: wrong bytes, too
        raise ConfigError(f"{' '.join(overrides)}: {' '.join(str(e).split())}") from e


def _check_setting(
    override: Override, composed: dict[str, DictConfig], options: dict[str, list[str]], multirun: bool
) -> None:
    """The key must exist whatever is chosen: Hydra composes all jobs of a sweep before it starts the first."""
    key = override.key_or_group
    if override.is_sweep_override() and not multirun:
        raise ConfigError(f"{override.input_line}: several values make a sweep; add --multirun")
    for chosen, cfg in composed.items():
        node, walked = cfg, []
        for part in key.split("."):
            here = sorted(node.keys()) if isinstance(node, DictConfig) else []
            if part not in here:
                wrong = ".".join([*walked, part])
                allowed = {".".join([*walked, name]) for name in here} | (set() if walked else set(options))
                where = f"with {chosen}: " if len(composed) > 1 else ""
                check_choice("", wrong, allowed - NOT_CHOSEN, where)
            walked.append(part)
            node = OmegaConf.select(cfg, ".".join(walked), throw_on_resolution_failure=False)
