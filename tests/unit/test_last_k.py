"""CF-k and EU-k: where the last part begins, that the rest stands still, and the released numbers."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import composed
from golden_data import FOLDER, Golden, in_order, same
from torch import nn

from ssd_bench.methods.cf_k import CFk
from ssd_bench.methods.eu_k import EUk
from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.forward_order import blocks, last_part
from ssd_bench.models.resnet import SmallImageResNet
from ssd_bench.train.loop import Pass, fit
from ssd_bench.train.recipe import Recipe, SameSteps


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


def trained(model, inputs, k, layers, head):
    part = last_part(model, inputs, k, layers, head)
    ours = {id(p) for p in part.parameters}
    return [name for name, p in model.named_parameters() if id(p) in ours]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_released_count_of_layers(golden, k):
    part = trained(golden.model, golden.data.images.pixels[:1], k, "layer", "fc")
    assert set(part) == set(golden.expected["last_k"][str(k)]["trainable"])
    assert part == trained(golden.model, golden.data.images.pixels[:1], k - 1, "block", "fc")  # it has no blocks


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_released_initialisation(golden, k):
    method = EUk(k=k, layers="layer", init="kaiming", epochs=1, lr=1e-30, weight_decay=0.0, batch_size=6)
    made = method(golden.model, golden.data, golden.context())
    new = {name.split(".")[0] for name, p in made.named_parameters() if not torch.equal(p, golden.original[name])}
    assert new == set(golden.expected["last_k"][str(k)]["reinitialised"])
    assert made.fc.bias.abs().max() < 1e-20  # but for the one step
    assert k < 2 or made.conv3.bias.abs().max() < 1e-20


def test_released_rates(golden):
    recipe = CFk(epochs=15, lr=0.01, lr_floor=0.0005, schedule="restarts").recipe(Recipe())
    assert recipe.lr_trace(3)[::3] == pytest.approx(golden.expected["goel_lr"])
    official = composed("method=cf_k", "fidelity=official").method
    assert (official.lr, official.lr_floor, official.schedule, official.epochs) == (0.1, 0.005, "restarts", 62)


def test_released_training_of_another_repository(golden, monkeypatch):
    """DeepUnlearn's: in eval mode, pulled to the start, a tenth of the rate in the third epoch."""

    class Falling(CFk):
        def recipe(self, original):
            return replace(super().recipe(original), schedule="multistep", milestones=[0.9], gamma=0.1)

    in_order(monkeypatch)
    settings = golden.expected["cfk_conv3_eval_l2"]
    method = Falling(
        k=2, layers="layer", mode="eval", epochs=3, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=6, penalty=0.1
    )
    assert method.recipe(Recipe()).lr_trace(1) == pytest.approx(settings["lr_by_epoch"])
    made = method(golden.model, golden.data, golden.context())
    expected = golden.under("cfk_conv3_eval_l2", golden.numbers("ascent_and_finetune"))
    same(made, expected, atol=1e-8)  # the pull alone is of the order of 1e-6
    without = replace(method, penalty=0.0)(golden.model, golden.data, golden.context())
    assert (without.fc.weight - expected["fc.weight"]).abs().max() > 1e-7


def test_blocks_of_residual_networks_are_counted_by_forward_position():
    model, x = SmallImageResNet(5, 3, 4), torch.zeros(1, 3, 8, 8)
    assert blocks(model) == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    of_model = {k: {name.rsplit(".", 1)[0] for name in trained(model, x, k, "block", "fc")} for k in (0, 1, 2, 8, 9)}
    assert of_model[0] == {"fc"}
    assert of_model[1] == {"fc", *(f"layer4.1.{part}" for part in ("conv1", "bn1", "conv2", "bn2"))}
    assert of_model[2] - of_model[1] == {
        *(f"layer4.0.{part}" for part in ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1"))
    }
    everything = {name.rsplit(".", 1)[0] for name, _ in model.named_parameters()}
    assert everything - of_model[8] == {"conv1", "bn1"}  # the stem is no block
    assert of_model[9] == everything


def timms(name, **more):
    import timm

    return timm.create_model(name, num_classes=3, **more)


def torchvisions(name, **more):
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=3, **more)


TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
ZOO = {  # model, head, blocks, what the last of them and the head hold
    "timm's ViT": (lambda: timms("vit_tiny_patch16_224", **TINY), "head", 2, ("blocks.1", "norm", "head")),
    "timm's ConvNeXt": (lambda: timms("convnext_atto"), "head.fc", 12, ("stages.3.blocks.1", "head")),
    "torchvision's ResNet": (lambda: torchvisions("resnet18"), "fc", 8, ("layer4.1", "fc")),
    "torchvision's MobileNet": (
        lambda: torchvisions("mobilenet_v3_small"), "classifier.3", 13, ("features.12", "classifier")
    ),
    "torchvision's VGG": (lambda: torchvisions("vgg11"), "classifier.6", 0, ("classifier.3", "classifier.6")),
}  # fmt: skip


@pytest.mark.parametrize("kind", ZOO)
def test_where_the_last_block_of_known_networks_begins(kind):
    make, head, n, begins = ZOO[kind]
    model = make()
    assert len(blocks(model)) == n
    found = trained(model, torch.zeros(1, 3, 32, 32), 1, "block", head)
    assert found == [name for name, _ in model.named_parameters() if name.startswith(begins)]


class Tokens(nn.Module):
    """A transformer of PyTorch's own layers, whose attention is never called as a module, with a token of its own."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)  # registered first
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3))

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), 1, 8), x], 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


def test_the_order_is_that_of_the_forward_pass_and_a_models_own_parameters_come_first():
    model, x = Tokens(), torch.zeros(1, 4, 8)
    assert set(trained(model, x, 0, "block", "head")) == {"head.weight", "head.bias"}
    assert {name.split(".")[0] + name.split(".")[1] for name in trained(model, x, 1, "block", "head")} == {
        "headweight", "headbias", "layers2",
    }  # fmt: skip
    assert "token" not in trained(model, x, 3, "block", "head")
    assert "token" in trained(model, x, 4, "block", "head")


@pytest.mark.parametrize("method", [CFk(k=1, epochs=2, batch_size=6), EUk(k=1, epochs=2, batch_size=6)])
def test_no_tensor_before_the_cut_moves_and_all_after_it_do(golden, method):
    made = method(golden.model, golden.data, golden.context())
    for name, t in made.state_dict().items():
        assert torch.equal(t, golden.original[name]) != name.startswith(("conv3", "bn3", "fc")), name
    assert all(p.requires_grad and p.grad is None for p in made.parameters())


def test_released_mode_lets_the_statistics_before_the_cut_drift(golden):
    made = CFk(k=1, epochs=1, mode="train", batch_size=6)(golden.model, golden.data, golden.context()).state_dict()
    assert torch.equal(made["conv1.weight"], golden.original["conv1.weight"])
    assert not torch.equal(made["bn1.running_mean"], golden.original["bn1.running_mean"])


def test_dropout_before_the_cut_is_off():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    part = last_part(model, torch.zeros(1, 4), 1, "block", "4")
    CFk(k=1)._ready(part, model)
    assert [m.training for m in model] == [False, False, True, True, True]
    assert model.training


def test_all_of_it_is_fine_tuning_bit_for_bit(golden):
    settings = {"epochs": 2, "lr": 0.05, "batch_size": 6}
    ours = CFk(k=9, **settings)(golden.model, golden.data, golden.context())
    theirs = Finetune(**settings)(golden.model, golden.data, golden.context())
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())


def test_all_of_it_anew_is_training_from_scratch(golden):
    recipe = Recipe(epochs=2, batch_size=6)
    context = replace(golden.context(), recipe=recipe)
    ours = EUk(k=9)(golden.model, golden.data, context)
    start = context.fresh_model(context.seed_for("init"))
    theirs = fit(start, golden.data.images, golden.retain, recipe, context.generator("batches"), "scratch")
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())


def test_it_sees_as_many_images_an_epoch_as_the_original_where_its_recipe_says_so(golden):
    recipe = SameSteps(epochs=2, batch_size=6, images=31)
    context = replace(golden.context(), recipe=recipe)

    def passes(epoch):
        return [Pass(recipe.epoch_rows(golden.retain, epoch, context.seed))]

    ours = EUk(k=9)(golden.model, golden.data, context)
    start = context.fresh_model(context.seed_for("init"))
    theirs = fit(start, golden.data.images, passes, recipe, context.generator("batches"), "scratch")
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())


def test_what_the_user_froze_stays_frozen_and_as_it_was(golden):
    model = golden.model
    model.conv1.requires_grad_(False), model.conv3.requires_grad_(False)
    for method in (CFk(k=1, epochs=1, batch_size=6), EUk(k=1, epochs=1, batch_size=6)):
        made = method(copy.deepcopy(model), golden.data, golden.context())
        assert torch.equal(made.conv3.weight, golden.original["conv3.weight"])
        frozen = {name for name, p in made.named_parameters() if not p.requires_grad}
        assert frozen == {"conv1.weight", "conv3.weight", "conv3.bias"}


def test_nothing_to_train_is_one_line(golden):
    model = golden.model
    model.fc.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        CFk(k=0)(model, golden.data, golden.context())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": -1}, "k must be at least 0"),
        ({"k": 0, "layers": "layer"}, "k must be at least 1"),
        ({"layers": "stage"}, "layers"),
        ({"mode": "test"}, "mode"),
        ({"schedule": "cosine"}, "schedule"),
        ({"lr_floor": 1.0}, "lr_floor"),
        ({"penalty": -1.0}, "penalty"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": None}, "epochs"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(ValueError, match=said):
        CFk(**settings)
    with pytest.raises(ValueError, match="init"):
        EUk(init="old")
