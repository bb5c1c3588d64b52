"""What methods share that change the last layer: finding it, and putting another one in its place."""

from torch import nn


def linear_head(model: nn.Module, name: str, method: str) -> nn.Linear:
    """The last layer. name: `context.head`. Raises ValueError, for `method`, unless it is a Linear inside the model."""
    head = model.get_submodule(name)
    if head is model or not isinstance(head, nn.Linear):
        found = "the model itself" if head is model else type(head).__name__
        raise ValueError(f"{method} needs a last layer that is a Linear inside the model, not {found}")
    return head


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Make `layer` the submodule of this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
