"""What lies under a folder of runs, what of it is damaged, and what no run needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

from ssd_bench.core.errors import ConfigError
from ssd_bench.store.artefacts import read_artefact
from ssd_bench.store.files import PART, Damaged, find
from ssd_bench.store.locks import take
from ssd_bench.store.resume import Checkpoint
from ssd_bench.store.rows import ROW, every_row

TRAINING = "training"  # the checkpoints of trainings that have not come to their end
LIBRARY = ("library", "library_buffers")  # what `ssd_bench.unlearn` keeps: models, and what their state dicts leave out
NEEDS = "artefacts.json"  # names, in a folder of each pool and size, what its models and their margins are kept as


def artefacts(folder: Path, links: bool = True) -> list[Path]:
    """Where the tensors of every artefact under a folder lie, or should lie; checkpoints included."""
    files = find(folder, "artefacts/*/*.safetensors", "artefacts/*/*.json", links=links)
    return sorted({path.with_suffix(".safetensors") for path in files if not path.name.startswith(PART)})


def size_of(path: Path) -> int:
    """Bytes; 0 for what is not there (any more)."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def uses(folder: Path) -> Counter[tuple[str, ...]]:
    """How many rows and pools name an artefact, by its kind and file name: the folder may have been moved."""
    named = [path for row in every_row(folder) for path in set(row["artefacts"].values()) if path]
    named += [path for needs in _pools(folder) for path in json.loads(needs.read_text())]
    return Counter(Path(path).parts[-2:] for path in named)


def _pools(folder: Path) -> list[Path]:
    return find(folder, f"pools/*/*/{NEEDS}")


def unsound(folder: Path) -> list[Path]:
    """The rows under a folder that cannot be read."""
    sound = {folder / row["path"] for row in every_row(folder)}
    return [path for path in find(folder, ROW) if path not in sound]


def damage(path: Path) -> str | None:
    """What is wrong with the artefact or checkpoint at `path`; None where it is what was written."""
    try:
        if path.parent.name == TRAINING:
            Checkpoint(path).read()
        else:
            read_artefact(path)
    except (Damaged, FileNotFoundError) as e:
        return str(e)
    return None


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of killed processes, agendas of sweeps that were cut short, and what was set aside as damaged."""
    return find(folder, "sweeps/*/jobs-*/*", "sweeps/*/jobs-*/*/*", f"{PART}*", "*.damaged", links=False)


@contextmanager
def at_rest(folder: Path) -> Iterator[None]:
    """Hold the locks of all rows and models of pools under a folder. Raises ConfigError while a run is going on, or a
    sweep makes what its runs share; one that begins later is not kept from it."""
    with ExitStack() as locks:
        for lock in find(folder, "metrics.lock", "pools/*/locks/*.lock"):
            locks.callback(_taken(lock).release)
        for lock in find(folder, "artefacts/*/*.lock", "sweeps/*/jobs-*/locks/*"):
            _taken(lock).release()  # too many to be held at once
        yield


def _taken(path: Path) -> FileLock:
    if (lock := take(path)) is None:
        raise ConfigError(f"a run is going on in {path.parent}; try again when it is finished")
    return lock


def unfinished(folder: Path) -> list[Path]:
    """The folders of runs and pools that have begun and have not come to their end."""
    runs = [lock.parent for lock in find(folder, "metrics.lock") if not lock.with_suffix(".json").exists()]
    return runs + [needs.parent for needs in _pools(folder) if not needs.with_name("pool.json").exists()]


def not_needed(folder: Path, artefacts_too: bool) -> list[Path]:
    """The files that no run needs: what was left behind, and (`artefacts_too`) artefacts that no row or pool names.

    What the library made (`ssd_bench.unlearn(..., out=FOLDER)`) has no rows, and stays; so does what lies behind a link
    to a folder, which others may use as well.

    Raises ConfigError where a row is damaged: what it names would be made anew.
    """
    if bad := unsound(folder):
        raise ConfigError(f"{bad[0]} is damaged; run it again, or remove the row, before its artefacts are pruned")
    used = uses(folder)
    unused = [
        path
        for path in artefacts(folder, links=False)
        if artefacts_too and not (used[path.parts[-2:]] or path.parent.name in LIBRARY)
    ]
    return leftovers(folder) + [p for path in unused for p in (path, path.with_suffix(".json")) if p.exists()]
