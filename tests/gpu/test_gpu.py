"""What must hold on a CUDA device: a CPU's numbers, the same bytes twice, memory that is measured."""

import copy

import pytest
import torch

import ssd_bench
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Images
from ssd_bench.importance import diagonal_fisher
from ssd_bench.models.fresh import fresh
from ssd_bench.models.resnet import ResNet18
from ssd_bench.models.vit import ViT
from ssd_bench.train.augment import augmented, draw_augmentation
from ssd_bench.train.devices import arithmetic, measured
from ssd_bench.train.loop import fit
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

if not torch.cuda.is_available():
    pytest.skip("no CUDA device here: tests/gpu checks a GPU against the CPU", allow_module_level=True)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODELS = {"resnet": ResNet18(width=16), "vit": ViT(dim=32, depth=2, heads=2)}


@pytest.fixture(autouse=True, scope="module")
def _as_a_run_sets_the_device_up():
    """Deterministic kernels and float32 proper."""
    with arithmetic(GPU, "float32"):
        yield


@pytest.fixture(params=MODELS)
def model(request):
    return fresh(MODELS[request.param], 0, 4, 3, 16)


def images(device):
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (96, 3, 16, 16), generator=draws, dtype=torch.uint8)
    labels = torch.randint(4, (96,), generator=draws)
    return Images(pixels.to(device), labels.to(device), *torch.tensor([[0.5] * 3, [0.25] * 3]).to(device), 16)


def importances(model, device, estimator):
    data = images(device)
    batches = [data.batch(rows.to(device)) for rows in torch.arange(96).split(40)]
    return diagonal_fisher(copy.deepcopy(model).to(device), batches, estimator)


def trained(model, device):
    recipe = Recipe.constant("sgd", 2, 32, 0.01)
    return fit(copy.deepcopy(model).to(device), images(device), torch.arange(96), recipe, generator(0, "gpu"), "gpu")


@pytest.mark.parametrize("estimator", ["batch_mean", "per_sample"])
def test_importances_are_those_of_the_cpu(model, estimator):
    ours, theirs = (importances(model, device, estimator) for device in (GPU, CPU))
    for name, value in theirs.items():
        assert ours[name].device.type == "cuda"
        off = (ours[name].cpu().sqrt() - value.sqrt()).norm()
        assert off <= 1e-3 * value.sqrt().norm() + 1e-7, name


def test_random_transforms_are_those_of_the_cpu():
    draws = draw_augmentation(96, 15.0, torch.Generator().manual_seed(0))
    ours, theirs = (augmented(images(d).pixels, draws.to(d), 2, True).cpu() for d in (GPU, CPU))
    assert (ours != theirs).float().mean() < 0.01  # a rotated pixel half-way between two may fall to either


def test_predictions_are_those_of_the_cpu(model):
    ours, theirs = (predict(copy.deepcopy(model).to(d), images(d), torch.arange(96), 40) for d in (GPU, CPU))
    assert ours.device.type == "cpu"
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_training_is_as_near_that_of_the_cpu_as_rounding_allows(model):
    def away(one, other):
        return sum((one[name].cpu() - other[name]).double().square().sum() for name in one).sqrt()

    ours, theirs = (trained(model, device).state_dict() for device in (GPU, CPU))
    moved = copy.deepcopy(model)
    for weights in moved.parameters():
        weights.data *= 1 + 1e-6 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    rounding = away(trained(moved, CPU).state_dict(), theirs)
    assert away(ours, theirs) <= 5 * rounding < away(model.state_dict(), theirs), (away(ours, theirs), rounding)


def test_the_same_bytes_twice(model):
    one, other = (trained(model, GPU).state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    one, other = (importances(model, GPU, "per_sample") for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_memory_is_measured():
    with measured(GPU) as taken:
        torch.ones(2**26, device=GPU).sum()
    assert 2**28 <= taken.peak_bytes < 2**29
    assert "GPU" in taken.what


METHODS = sorted(ssd_bench.list_methods().keys() - {"clean"})  # which nothing here is manipulated for
SHORT = {"noise_steps": 2, "noise_batch": 4, "noise_images": 4, "copies": 2, "n_samples": 4, "iterations": 2}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_model_on_the_device_and_the_same_bytes_twice(method):
    draws = torch.Generator().manual_seed(0)
    pixels, labels = torch.randn(96, 3, 16, 16, generator=draws), torch.randint(4, (96,), generator=draws)
    parts = {"forget": labels == 3, "retain": labels != 3}
    asked = {name: (pixels[rows], labels[rows]) for name, rows in parts.items()}
    cls = ssd_bench.list_methods()[method]
    settings = {name: value for name, value in {**SHORT, "epochs": 1}.items() if name in cls.__dataclass_fields__}
    kept = torch.cuda.get_rng_state()

    def made():
        model = fresh(MODELS["resnet"], 0, 4, 3, 16).to(GPU)
        return ssd_bench.unlearn(model, **asked, method=method, recipe=Recipe(epochs=1), **settings).model

    one, other = (made().state_dict() for _ in range(2))
    assert all(t.device.type == "cuda" for t in one.values())
    assert all(torch.equal(t, other[name]) for name, t in one.items())
    assert torch.equal(torch.cuda.get_rng_state(), kept)


def test_what_is_said_about_a_model_on_the_device_is_what_is_said_on_the_cpu():
    draws = torch.Generator().manual_seed(0)
    pixels, labels = torch.randn(96, 3, 16, 16, generator=draws), torch.randint(4, (96,), generator=draws)
    asked = {"retain": (pixels[24:72], labels[24:72]), "forget": (pixels[:24], labels[:24])}
    asked |= {"test": (pixels[72:], labels[72:]), "metrics": [*ssd_bench.list_metrics().keys() - {"relearn"}]}
    said = []
    for device in (CPU, GPU):
        model, reference, original = (fresh(MODELS["resnet"], seed, 4, 3, 16).to(device) for seed in range(3))
        said.append(ssd_bench.evaluate(model, **asked, reference=reference, original=original))
    assert said[0].keys() == said[1].keys()
    for name, value in said[0].items():
        assert said[1][name] == pytest.approx(value, rel=1e-2, abs=1e-3), name
