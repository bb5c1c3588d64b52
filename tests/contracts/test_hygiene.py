"""What every method leaves alone, the package's and a user's, on a small network through the library."""

import pytest
import torch
from conftest import network_of
from torch import nn

import ssd_bench
from ssd_bench.core.task import Method

METHODS = {name: cls for name, cls in ssd_bench.list_methods().items() if name != "clean"}  # nothing is manipulated
EVAL = [name for name, cls in METHODS.items() if getattr(cls, "mode", None) == "eval"]
WITHOUT_D_R = [name for name, cls in METHODS.items() if "retain" not in getattr(cls, "needs", ())]
QUICK = {"fisher": {"n_samples": 8}, "unsir": {"noise_steps": 2, "noise_batch": 4, "noise_images": 4, "copies": 2}}


class Own(Method):
    """As a user might write one."""

    needs = ()

    def __call__(self, model, data, context):
        inputs, labels = data.images.batch(data.forget)
        loss = nn.functional.cross_entropy(model.train()(inputs), labels)
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.data += 0.1 * g
        return model


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(36, 3)
    )
    model[0].bias.requires_grad_(False)
    return model.eval()


def request(retain_value=None):
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(36) % 3
    inputs = torch.randn(3, 1, 6, 6, generator=draws)[labels] + torch.randn(36, 1, 6, 6, generator=draws)
    kept = inputs[labels != 2] if retain_value is None else torch.full((24, 1, 6, 6), retain_value)
    return {"retain": (kept, labels[labels != 2]), "forget": (inputs[labels == 2], labels[labels == 2])}


def unlearned(method, retain_value=None, **settings):
    name = method if isinstance(method, str) else ""
    recipe = ssd_bench.Recipe(epochs=1, batch_size=16, lr=0.01)
    return ssd_bench.unlearn(
        network(), **request(retain_value), method=method, recipe=recipe, **(QUICK.get(name, {}) | settings)
    ).model


@pytest.mark.parametrize("method", [*METHODS, Own()], ids=[*METHODS, "own"])
def test_the_same_seed_gives_the_same_bytes_and_nothing_is_left_behind(method):
    before, once, again = network_of(method, network()), unlearned(method), unlearned(method)
    frozen = {name for name, p in before.named_parameters() if not p.requires_grad}
    for name, t in once.state_dict().items():
        assert torch.equal(t, again.state_dict()[name]), name
        assert t.shape == before.state_dict()[name].shape
    assert once.state_dict().keys() == before.state_dict().keys()
    for name, p in once.named_parameters():
        assert p.requires_grad == (name not in frozen), name
        assert p.grad is None, name
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in once.modules())
    assert [type(m) for m in once.modules()] == [type(m) for m in before.modules()]


@pytest.mark.parametrize("method", WITHOUT_D_R)
def test_a_method_that_needs_d_f_alone_never_looks_at_d_r(method):
    theirs = unlearned(method)
    for name, t in unlearned(method, retain_value=float("nan")).state_dict().items():
        assert torch.equal(t, theirs.state_dict()[name]), name


@pytest.mark.parametrize("method", EVAL)
def test_statistics_stay_as_they_are_in_eval_mode(method):
    model = unlearned(method, mode="eval")
    for name, t in model.named_buffers():
        assert torch.equal(t, dict(network().named_buffers())[name]), name
