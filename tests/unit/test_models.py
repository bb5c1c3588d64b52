"""Sizes and names of the architectures, seeded initialisation, and checkpoints trained elsewhere."""

import copy
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ssd_bench.core.errors import ConfigError
from ssd_bench.models.checkpoint import fit_checkpoint, read_checkpoint
from ssd_bench.models.fresh import fresh
from ssd_bench.models.resnet import ResNet18
from ssd_bench.models.vit import ViT


def size(model):
    return sum(p.numel() for p in model.parameters())


def test_resnet18_is_the_papers():
    model = ResNet18().build(20, 3, 32)
    assert size(model) == 11_179_092
    assert size(model.fc) == 10_260
    assert model.conv1.stride == (1, 1)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 20)


def released_names(state):
    """Our state dict under the released code's parameter names."""
    pairs = [
        (r"^layer(\d)", lambda m: f"conv{int(m[1]) + 1}_x"),
        (r"_x\.(\d)\.conv1", r"_x.\1.residual_function.0"),
        (r"_x\.(\d)\.bn1", r"_x.\1.residual_function.1"),
        (r"_x\.(\d)\.conv2", r"_x.\1.residual_function.3"),
        (r"_x\.(\d)\.bn2", r"_x.\1.residual_function.4"),
        (r"downsample", "shortcut"),
        (r"^conv1\.", "conv1.0."),
        (r"^bn1\.", "conv1.1."),
    ]
    for pattern, theirs in pairs:
        state = {re.sub(pattern, theirs, name): t for name, t in state.items()}
    return state


WRAPPERS = ("module.", "model.", "_orig_mod.", "module.model.", "model._orig_mod.", "model.model.")
FORMS = ("released.pth", "own.safetensors", "own.pth", "wrapped.pth", *(f"{wrapper}pth" for wrapper in WRAPPERS))


@pytest.mark.parametrize("form", [*FORMS, "module.released.pth"])
def test_checkpoints_trained_elsewhere(tmp_path, form):
    trained, model = (fresh(ResNet18(width=4), seed, 20, 3, 32) for seed in (1, 2))
    state, path = trained.state_dict(), tmp_path / form
    if form.endswith("released.pth"):
        state = released_names(state)
        assert "conv3_x.0.residual_function.3.weight" in state
        assert "conv3_x.0.shortcut.1.running_var" in state
    wrapper = re.match(r"((module|model|_orig_mod)\.)*", form)[0]
    state = {f"{wrapper}{name}": t for name, t in state.items()}
    if form.endswith("safetensors"):
        save_file({name: t.contiguous() for name, t in state.items()}, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if form == "wrapped.pth" else state, path)
    fit_checkpoint(model, path)
    for name, t in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], t), name


def test_a_checkpoint_that_does_not_fit_names_the_tensors(tmp_path):
    model = fresh(ResNet18(width=4), 0, 20, 3, 32)
    before = copy.deepcopy(model.state_dict())
    torch.save(fresh(ResNet18(width=4), 0, 10, 3, 32).state_dict(), tmp_path / "ten.pth")
    with pytest.raises(ConfigError, match=r"was trained on 10 classes, and this task has 20; choose the data"):
        fit_checkpoint(model, tmp_path / "ten.pth")
    torch.save(fresh(ResNet18(width=2), 0, 20, 3, 32).state_dict(), tmp_path / "thin.pth")
    with pytest.raises(ConfigError, match=r"another shape: bn1.bias \(2,\) instead of \(4,\), bn1.running_mean"):
        fit_checkpoint(model, tmp_path / "thin.pth")
    state = model.state_dict()
    del state["fc.bias"]
    state["head.bias"] = torch.zeros(20)
    torch.save(state, tmp_path / "names.pth")
    with pytest.raises(ConfigError, match=r"missing: fc.bias; unknown: head.bias"):
        fit_checkpoint(model, tmp_path / "names.pth")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Wrapping(nn.Module):
    """A network of whose own names `model` is a part."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 2)


@pytest.mark.parametrize("wrapper", ["", "model.", "module.", "module.model."])
def test_a_network_s_own_name_is_no_wrapper(tmp_path, wrapper):
    trained, model = Wrapping(), Wrapping()
    torch.save({f"{wrapper}{name}": t for name, t in trained.state_dict().items()}, tmp_path / "own.pth")
    fit_checkpoint(model, tmp_path / "own.pth")
    assert torch.equal(model.model.weight, trained.model.weight)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_what_is_no_checkpoint_is_refused_and_nothing_is_executed(tmp_path):
    (tmp_path / "noise.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "noise.safetensors").write_bytes(b"not a checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"lr": 0.1}, tmp_path / "numbers.pth")
    (tmp_path / "trap.pth").write_bytes(pickle.dumps({"a": Trap(tmp_path / "sprung")}))
    for name in ("noise.pth", "noise.safetensors", "list.pth", "numbers.pth", "trap.pth", "absent.pth", "."):
        with pytest.raises(ConfigError, match=r"model\.checkpoint="):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_initialisation_follows_its_seed_alone():
    torch.manual_seed(7)
    one = fresh(ResNet18(width=4), 1, 10, 1, 8)
    state = torch.get_rng_state()
    torch.manual_seed(8)
    same, other = (fresh(ResNet18(width=4), seed, 10, 1, 8) for seed in (1, 2))
    assert torch.equal(one.conv1.weight, same.conv1.weight)
    assert not torch.equal(one.conv1.weight, other.conv1.weight)
    torch.manual_seed(7)
    assert torch.equal(torch.get_rng_state(), state)  # the global state is left alone


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_vit_tiny_fits_small_images(channels, side):
    model = ViT(dim=24, depth=2, heads=2).build(10, channels, side)
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 10)
    assert isinstance(model.get_submodule(ViT.head), nn.Linear)


def test_vit_base_is_a_vit_b_16():
    settings = ViT(
        architecture="vit_base_patch16_224.orig_in21k_ft_in1k", side=224, patch=16, dim=768, depth=12, heads=12
    )
    assert settings.norm() == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert size(settings.build(20, 3, 32)) == 85_798_656 + 768 * 20 + 20


def test_weights_that_cannot_be_had_are_a_line_that_says_how_to_go_on(monkeypatch):
    import timm

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError, match=r"model\.pretrained=false"):
        ViT(architecture="vit_base_patch16_224.orig_in21k_ft_in1k", pretrained=True, side=224).build(20, 3, 32)


def test_an_architecture_of_other_sizes_is_refused_before_anything_is_trained(monkeypatch):
    small = {"side": 32, "patch": 8, "dim": 24, "depth": 2, "heads": 2}
    theirs = ViT(**small).build(10, 3, 32)
    monkeypatch.setattr("ssd_bench.models.vit.pretrained", lambda *_, **__: theirs)
    settings = {"architecture": "vit_base_patch16_224.orig_in21k_ft_in1k", "pretrained": True}
    assert ViT(**settings, **small).build(10, 3, 32) is theirs
    with pytest.raises(ConfigError, match=r"model\.architecture=vit_base.* is no ViT of side 32.*model=timm"):
        ViT(**settings, **small | {"depth": 3}).build(10, 3, 32)


@pytest.mark.parametrize("wrong", [{"dim": 130}, {"depth": 0}, {"pretrained": True}])
def test_vit_settings_that_make_no_model(wrong):
    with pytest.raises(ValueError, match=r"dim|depth|pretrained"):
        ViT(**wrong)


def watched(model):
    """The same model, its modules called one by one: hooks are to see what goes in and out."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *_: None)
    return model


def test_folding_the_normalisation_changes_neither_outputs_nor_gradients():
    model = fresh(ResNet18(width=4), 0, 5, 3, 16).double()
    draws = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(8, 3, 16, 16, generator=draws).double(), torch.arange(8) % 5
    with torch.no_grad():
        model(inputs)  # running statistics away from their start
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.copy_(torch.randn(norm.weight.shape, generator=draws))
            norm.bias.copy_(torch.randn(norm.bias.shape, generator=draws))
    ours, plain = model.eval(), watched(model.eval())
    said = ours(inputs), plain(inputs)
    assert not torch.equal(*said), "nothing was folded"
    torch.testing.assert_close(*said, rtol=1e-10, atol=1e-10)
    for logits in said:
        torch.nn.functional.cross_entropy(logits, labels).backward()
    for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_a_hook_sees_every_convolution_and_normalisation():
    model = fresh(ResNet18(width=4), 0, 5, 3, 16).eval()
    seen = []
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: seen.append(module))
    model(torch.randn(2, 3, 16, 16))
    assert set(seen) == set(layers)


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_a_hook_on_all_modules_sees_every_convolution_and_normalisation(register):
    model = fresh(ResNet18(width=4), 0, 5, 3, 16).eval()
    seen = []
    handle = getattr(nn.modules.module, register)(lambda module, *_: seen.append(module))
    try:
        model(torch.randn(2, 3, 16, 16))
    finally:
        handle.remove()
    assert {m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)} <= set(seen)


def test_nothing_is_folded_where_a_compiler_reads_along():
    model = fresh(ResNet18(width=4), 0, 5, 3, 16).eval()
    inputs, layers = torch.randn(2, 3, 16, 16), []

    def read(graph, _):
        layers.extend(node for node in graph.graph.nodes if "batch_norm" in str(node.target))
        return graph.forward

    said = torch.compile(model, backend=read)(inputs)
    assert len(layers) == 20
    torch.testing.assert_close(said, model(inputs), rtol=1e-4, atol=1e-5)
