"""What methods share that change the last layer: finding it, and putting another one in its place."""

from torch import nn

LISTS = nn.ModuleList, tuple, list  # what holds several last layers


def not_linear(model: nn.Module, name: str | None, method: str) -> str | None:
    """Why `method` cannot change the last layer, unless that is a Linear inside the model. name: `context.head`."""
    head = model.get_submodule(name) if name else model
    own = {key for key, _ in head.named_parameters(recurse=False)}
    if head is not model and isinstance(head, nn.Linear) and own <= {"weight", "bias"} and "weight" in own:
        return None
    found = "the model itself" if head is model else type(head).__name__
    return f"{method} needs a last layer that is a Linear inside the model, not {found}"


def linear_head(model: nn.Module, name: str, method: str) -> nn.Linear:
    """The last layer. Raises ValueError, for `method`, unless it is a Linear inside the model."""
    if reason := not_linear(model, name, method):
        raise ValueError(reason)
    return model.get_submodule(name)


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Make `layer` the submodule of this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def has_several(model: nn.Module, head: str | None, method: str) -> str | None:
    """Why `method` cannot work where several last layers answer together, as some of timm's networks have them."""
    found = model.get_classifier() if not head and hasattr(model, "get_classifier") else None
    return f"{method} needs one last layer, not several" if isinstance(found, LISTS) else None
