"""Checkpoints of others: safetensors or state dicts, never unpickled."""

from __future__ import annotations

import re
import warnings
from collections.abc import Set
from hashlib import file_digest
from pathlib import Path

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import ConfigError

_WRAPPED = re.compile(r"^(module|model|_orig_mod)\.")  # data-parallel, Lightning and the like, torch.compile

# The released code's parameter names -> ours. Its blocks call their parts residual_function and shortcut.
_RELEASED = (
    (r"^conv1\.0\.", "conv1."),
    (r"^conv1\.1\.", "bn1."),
    (r"^conv([2-5])_x\.", lambda m: f"layer{int(m[1]) - 1}."),
    (r"\.residual_function\.0\.", ".conv1."),
    (r"\.residual_function\.1\.", ".bn1."),
    (r"\.residual_function\.3\.", ".conv2."),
    (r"\.residual_function\.4\.", ".bn2."),
    (r"\.shortcut\.", ".downsample."),
)


def checkpoint_sha256(path: Path) -> str:
    """sha256 of a checkpoint file; raises ConfigError where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise ConfigError(f"model.checkpoint={path} cannot be read: {e.strerror}") from e


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file or one that `weights_only` can read; raises ConfigError otherwise."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # of a file that is none; the error below says it in a line
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise ConfigError(
            f"model.checkpoint={path} is not a checkpoint that can be read safely ({type(e).__name__}); allowed: a "
            "safetensors file (*.safetensors), or a state dict of tensors saved with torch.save"
        ) from e
    for wrapper in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(name, str) and isinstance(t, Tensor) for name, t in state.items())
    ):
        raise ConfigError(f"model.checkpoint={path} holds no state dict of tensors")
    return state


def renamed(state: dict[str, Tensor], own: Set[str]) -> dict[str, Tensor]:
    """The same under a model's own names: without what wrappers put before them, nor as the released code has them."""
    while not own & state.keys() and any(_WRAPPED.match(name) for name in state):
        state = {_WRAPPED.sub("", name): t for name, t in state.items()}
    if any(".residual_function." in name for name in state):
        for pattern, ours in _RELEASED:
            state = {re.sub(pattern, ours, name): t for name, t in state.items()}
    return state


def fit_checkpoint(model: nn.Module, path: Path) -> None:
    """Load the checkpoint at `path` into `model`; raises ConfigError that names the tensors that do not fit."""
    own = model.state_dict()
    state = renamed(read_checkpoint(path), own.keys())
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # absent from old checkpoints
    missing = sorted(own.keys() - state.keys() - counters)
    unknown = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    problems = [
        f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", sorted(shapes)))
        if names
    ]
    if shapes and not (missing or unknown):
        _check_classes(own, state, path)
    if problems:
        raise ConfigError(f"model.checkpoint={path} does not fit the model; tensors " + "; ".join(problems))
    model.load_state_dict(state, strict=False)


def _check_classes(own: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    """Raises ConfigError where all that differs is the number of classes: the first dimension of the last layer."""
    pairs = [(state[name].shape, t.shape) for name, t in own.items() if state[name].shape != t.shape]
    if len({(theirs[:1], ours[:1]) for theirs, ours in pairs}) > 1 or any(t[1:] != o[1:] for t, o in pairs):
        return
    (theirs, *_), (ours, *_) = pairs[0]
    raise ConfigError(
        f"model.checkpoint={path} was trained on {theirs} classes, and this task has {ours}; choose the data and the "
        "scenario that it was trained on, or leave model.checkpoint out to train a model here"
    )
