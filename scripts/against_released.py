"""Compare an SSD cell with the code that the paper's authors released, on the same checkpoint and the same images.

    git clone https://github.com/if-loops/selective-synaptic-dampening released
    python scripts/against_released.py --released released --checkpoint model.pth --target vehicle2

The checkpoint is a ResNet18 state dict (of any width) for CIFAR-20. Theirs is run as it is, but for three things:
modules that it imports and does not need for this (wandb, seaborn, matplotlib) are left out, its attack infers in
batches of 500 instead of 1, and an argument that scikit-learn dropped is not passed on. Ours is the row of
`ssd-bench fidelity=official method=ssd`. Prints both side by side; exits 1 if they differ by more than rounding.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

from ssd_bench.data.cifar import Cifar
from ssd_bench.models.checkpoint import read_checkpoint, renamed
from ssd_bench.scenarios.full_class import FullClass
from ssd_bench.scenarios.sub_class import SubClass

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--released", required=True, help="a clone of the released code")
parser.add_argument("--checkpoint", required=True, help="a state dict under the released parameter names")
parser.add_argument("--scenario", default="full_class", choices=["full_class", "sub_class"])
parser.add_argument("--target", default="vehicle2")
parser.add_argument("--train-per-class", type=int, default=100)
parser.add_argument("--test-per-class", type=int, default=20)
args = parser.parse_args()

for name in ("wandb", "seaborn", "matplotlib", "matplotlib.pyplot"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["matplotlib"].pyplot = sys.modules["matplotlib.pyplot"]
sys.path.insert(0, str(Path(args.released, "src")))
import metrics as released_metrics  # noqa: E402
import resnet as released_resnet  # noqa: E402
import ssd as released_ssd  # noqa: E402
import utils as released_utils  # noqa: E402

BATCH = 64
PARAMETERS = {"lower_bound": 1, "exponent": 1, "magnitude_diff": None, "min_layer": -1, "max_layer": -1}
PARAMETERS |= {"forget_threshold": 1, "dampening_constant": 1, "selection_weighting": 10}


def released_model(state: dict[str, torch.Tensor]) -> nn.Module:
    """Their ResNet18 at the checkpoint's width (their class knows 64 alone)."""
    width = state["conv1.0.weight"].shape[0]
    model = released_resnet.ResNet(released_resnet.BasicBlock, [2, 2, 2, 2], num_classes=20)
    model.in_channels = width
    model.conv1 = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )
    for i, stride in enumerate((1, 2, 2, 2)):
        layer = model._make_layer(released_resnet.BasicBlock, width * 2**i, 2, stride)
        setattr(model, f"conv{i + 2}_x", layer)
    model.fc = nn.Linear(8 * width, 20)
    model.load_state_dict(state)
    return model.eval()


def theirs() -> dict[str, float]:
    data = Cifar(
        name="cifar20",
        root=ROOT,
        train_per_class=args.train_per_class,
        test_per_class=args.test_per_class,
        norm="cifar100",
    ).load()
    task = (FullClass if args.scenario == "full_class" else SubClass)(target=args.target)(data, {}, 0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))

    def samples(part, labels, rows):
        pixels = part.pixels[rows].float().div(255).sub(mean).div(std)
        return [(x, 0, y) for x, y in zip(pixels, labels[rows].tolist(), strict=True)]

    parts = {"train": (data.train, task.train_labels), "test": (data.test, task.test_labels)}
    sets = {name: samples(*parts[part], rows) for name, (part, rows) in task.sets.items()}
    loaders = {name: DataLoader(each, BATCH) for name, each in sets.items()}
    model = released_model(torch.load(args.checkpoint, weights_only=True))
    perturber = released_ssd.ParameterPerturber(model, torch.optim.SGD(model.parameters(), lr=0.1), "cpu", PARAMETERS)
    forget = perturber.calc_importance(loaders["forget_train"])
    full = perturber.calc_importance(DataLoader(ConcatDataset((sets["retain_train"], sets["forget_train"])), BATCH))
    values = {"selected": sum(int((forget[name] > 10 * full[name]).sum()) for name in full)}
    perturber.modify_weight(full, forget)
    for name in ("retain", "forget", "test"):
        said = released_utils.evaluate(model, loaders[name], "cpu")
        values |= {f"{name}_acc": said["Acc"], f"{name}_loss": said["Loss"]}
    regression = released_metrics.LogisticRegression
    released_metrics.LogisticRegression = lambda multi_class, **settings: regression(**settings)
    released_metrics.collect_prob = lambda loader, model: torch.cat(
        [model(x).softmax(-1).detach() for x, _, _ in DataLoader(loader.dataset, 500)]
    )
    attacked = (loaders[name] for name in ("retain_train", "forget_train", "test"))
    return values | {"mia": 100 * released_metrics.get_membership_attack_prob(*attacked, model)}


def ours() -> dict[str, float]:
    width = renamed(read_checkpoint(Path(args.checkpoint)), set())["conv1.weight"].shape[0]
    with tempfile.TemporaryDirectory() as out:
        settings = [
            f"scenario={args.scenario}",
            f"scenario.target={args.target}",
            f"model.checkpoint={args.checkpoint}",
        ]
        settings += [f"data.train_per_class={args.train_per_class}", f"data.test_per_class={args.test_per_class}"]
        settings += [
            "fidelity=official",
            "method=ssd",
            "data=cifar20",
            "model=resnet18",
            f"model.width={width}",
            f"out={out}",
        ]
        command = [sys.executable, "-m", "ssd_bench.cli", *settings]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = json.loads(Path(said.splitlines()[-1].removeprefix("metrics: ")).read_text())
    return row["metrics"] | {"selected": row["details"]["selected"]}


if __name__ == "__main__":
    import os

    ROOT = os.environ.get("SSD_BENCH_DATA")
    released, own = theirs(), ours()
    print(f"{'':14} {'released':>14} {'ssd-bench':>14}")
    for name, value in released.items():
        print(f"{name:14} {value:14.6f} {own[name]:14.6f}")
    sys.exit(any(abs(value - own[name]) > 1e-3 * max(1, abs(value)) for name, value in released.items()))
