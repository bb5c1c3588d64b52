"""Classifiers of timm's: built for any data, their last layer found, and what does not work in one line."""

import pytest
import timm
import torch
from torch import nn

from ssd_bench.core.errors import ConfigError
from ssd_bench.methods.boundary_expand import BoundaryExpand
from ssd_bench.methods.cf_k import CFk
from ssd_bench.methods.eu_k import EUk
from ssd_bench.methods.fisher import Fisher
from ssd_bench.methods.mask_head import MaskHead
from ssd_bench.methods.ntk_head import NtkHead
from ssd_bench.methods.retrain import Retrain
from ssd_bench.models.fresh import fresh
from ssd_bench.models.timm import Timm
from ssd_bench.store.address import address

SMALL = {  # what timm itself says that the last layer is called
    "resnet18": "fc",
    "mobilenetv3_small_050": "classifier",
    "convnext_atto": "head.fc",
    "vit_tiny_patch16_224": "head",
    "ghostnet_050": "classifier",
    "regnetx_002": "head.fc",
}


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_of_them_is_built_for_the_task(architecture, channels):
    settings = Timm(architecture=architecture, side=32)
    model = fresh(settings, 0, 5, channels, 20)
    assert model.training
    assert model.eval()(torch.zeros(2, channels, 32, 32)).shape == (2, 5)
    assert settings.head == SMALL[architecture]
    head = model.get_submodule(settings.head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 5
    same = fresh(settings, 0, 5, channels, 20).state_dict()
    assert all(torch.equal(t, same[name]) for name, t in model.state_dict().items())


def test_the_input_is_the_architecture_s_where_it_takes_one_size_alone():
    assert Timm(architecture="resnet18").input_side(8) == 8
    assert Timm(architecture="vit_tiny_patch16_224").input_side(8) == 224
    assert Timm(architecture="vit_tiny_patch16_224", side=64).input_side(8) == 64
    assert Timm(architecture="vit_tiny_patch16_384").input_side(8) == 384
    assert Timm(architecture="resnet18").norm() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert Timm(architecture="vit_tiny_patch16_224").norm() == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("convnext_atto", r"does not take 3 x 8 x 8 pixels \(RuntimeError"),
        ("vgg11", "does not take 3 x 8 x 8 pixels"),
    ],
)
def test_what_does_not_work_is_one_line(architecture, said):
    with pytest.raises(ConfigError, match=said) as e:
        Timm(architecture=architecture, side=8).build(5, 3, 8)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 350


@pytest.mark.parametrize("architecture", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_where_several_last_layers_answer_together_none_is_named(architecture):
    settings = Timm(architecture=architecture, side=32 if architecture.startswith("deit") else None)
    model = settings.build(5, 3, 32)
    assert settings.head == ""
    for ready in (model.train(), model.eval()):
        assert ready(torch.zeros(2, 3, *2 * (settings.input_side(32),))).shape == (2, 5)
    heads = model.get_classifier()
    assert len(heads) == 2
    for method in (MaskHead(), NtkHead(), BoundaryExpand()):
        assert "needs a last layer" in method.unfit(model, settings.head)
    for method in (Retrain(mode="head_reset"), CFk(), EUk(), Fisher()):
        assert "needs one last layer, not several" in method.unfit(model, settings.head)
    assert Retrain().unfit(model, settings.head) is None
    assert CFk().unfit(Timm(architecture="resnet18").build(5, 3, 32), "") is None


def test_what_is_no_classifier_is_refused(monkeypatch):
    class Features(nn.Linear):
        def get_classifier(self):
            return self

        def forward(self, x):
            return [x]

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Features(2, 2))
    with pytest.raises(ConfigError, match="no last layer"):
        Timm(architecture="resnet18").build(5, 3, 8)
    monkeypatch.setattr(Features, "get_classifier", lambda self: self.last)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: with_last(Features(2, 2)))
    with pytest.raises(ConfigError, match="does not give one number a class"):
        Timm(architecture="resnet18").build(5, 3, 8)


def with_last(model):
    model.last = nn.Linear(2, 2)
    return model


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "architecture must name"),
        ({"architecture": "resnet18", "side": 0}, "side"),
        ({"architecture": "efficientnet_b6", "pretrained": True}, "timm has no weights of efficientnet_b6"),
    ],
)
def test_settings_that_make_no_model(wrong, said):
    with pytest.raises(ValueError, match=said):
        Timm(**wrong)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "resnet18"),
        ("vit_tiny_patch16_22", "vit_tiny_patch16_224"),
        ("resnet18.a1in1k", "resnet18.a1_in1k"),
    ],
)
def test_an_unknown_name_has_a_nearest_match(name, near):
    with pytest.raises(ConfigError, match=rf"architecture={name} does not exist; did you mean '{near}'"):
        Timm(architecture=name)


def test_pretrained_weights_go_under_a_new_last_layer_or_are_one_line(monkeypatch):
    asked = []

    def offline(*args, **kwargs):
        asked.append((args, kwargs))
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError, match=r"the weights of resnet18 cannot be had.*model\.pretrained=false"):
        Timm(architecture="resnet18", pretrained=True).build(5, 1, 32)
    assert asked == [(("resnet18",), {"pretrained": True, "num_classes": 5, "in_chans": 1})]
    assert Timm(architecture="resnet18", pretrained=True).untrained() == Timm(architecture="resnet18")


def test_another_architecture_is_another_address():
    one, other = (address(Timm(architecture=name)) for name in ("resnet18", "resnet34"))
    assert one != other
    assert one["libraries"] == {"timm": timm.__version__}
