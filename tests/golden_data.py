"""The networks, data and numbers of `tests/golden`, which other people's code computed."""

import json
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssd_bench.core.task import Context, Images, Split
from ssd_bench.train.recipe import Recipe

FOLDER = Path(__file__).parent / "golden"


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def network(state: dict[str, Tensor]) -> nn.Sequential:
    """conv1, bn1, ReLU, ..., mean over positions, fc, with these weights."""
    layers, i = OrderedDict(), 1
    while (weight := state.get(f"conv{i}.weight")) is not None:
        outer, inner = weight.shape[:2]
        stride = 1 if i == 1 else 2
        layers[f"conv{i}"] = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=f"conv{i}.bias" in state)
        layers |= {f"bn{i}": nn.BatchNorm2d(outer), f"relu{i}": nn.ReLU()}
        i += 1
    layers |= {"mean": Mean(), "fc": nn.Linear(*state["fc.weight"].shape[::-1])}
    model = nn.Sequential(layers)
    model.load_state_dict(state)
    return model


@dataclass
class Golden:
    """One of the folders: `model` is a new copy each time."""

    folder: Path = FOLDER
    details: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.given = load_file(self.folder / "net_and_data.safetensors")
        self.expected = json.loads((self.folder / "expected.json").read_text())
        self.forget, self.retain = self.given["forget"], self.given["retain"]
        if self.forget.dtype != torch.int64:
            self.forget, self.retain = self.forget.long(), self.retain.long()
        images = Images(self.given["inputs"], self.given["labels"].long())
        rows = torch.cat([self.forget, self.retain]).sort().values
        label = int(images.labels[self.forget][0]) if len(images.labels[self.forget].unique()) == 1 else None
        scenario = "random" if label is None else "full_class"
        self.data = Split(images, rows, self.retain, self.forget, images.labels, scenario, label, 5)

    @property
    def original(self) -> dict[str, Tensor]:
        return self.under("original", self.given)

    @property
    def model(self) -> nn.Module:
        return network(self.original)

    def numbers(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    @staticmethod
    def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}

    def context(self, cached=lambda kind, key, make: make()) -> Context:
        return Context(
            torch.device("cpu"), 0, 0, Recipe(), lambda seed, pretrained=True: fresh(self, seed), "fc", cached
        )


def with_pixels() -> Golden:
    """The one of the SSD family whose images are pixels with a normalisation, so that true pixel units are known."""
    golden = Golden(FOLDER / "ssd_family")
    half = torch.full((3,), 0.5)
    images = Images(golden.given["pixels"], golden.data.images.labels, half, half, 8)
    golden.data = replace(golden.data, images=images)
    return golden


def fresh(golden: Golden, seed: int) -> nn.Module:
    """The golden network, initialised anew."""
    model = golden.model
    torch.manual_seed(seed % 1000)
    for module in model:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training loop take its rows as they come, as the numbers were computed."""
    monkeypatch.setattr("ssd_bench.train.loop.torch.randperm", lambda n, generator=None: torch.arange(n))


def same(model: nn.Module, expected: dict[str, Tensor], atol: float = 1e-5) -> None:
    """Every weight and buffer within `atol`."""
    torch.testing.assert_close(dict(model.state_dict()), dict(expected), rtol=0, atol=atol)


def by_hand() -> tuple[nn.Module, Split]:
    """f(x) = Wx with W = [[1, 0], [0, 2]]; D_r = {(1, 0): 0, (0, 1): 1}, D_f = {(1, 1): 0, (2, -1): 1}."""
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    images = Images(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]]), torch.tensor([0, 1, 0, 1]))
    rows = torch.arange(4)
    return model, Split(images, rows, rows[:2], rows[2:], images.labels, "random", None, 2)
