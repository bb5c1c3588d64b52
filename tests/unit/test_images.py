"""Images that lie on the device, in host memory or in a mapped file, and images taken from others."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import SHORT, composed

from ssd_bench.core.images import HostPixels, Images
from ssd_bench.data import view
from ssd_bench.run import pipeline
from ssd_bench.run import plan as planning
from ssd_bench.train import devices
from ssd_bench.train.augment import Augment
from ssd_bench.train.loop import fit
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def images():
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 1, 6, 6), generator=draws, dtype=torch.uint8)
    labels = torch.randint(4, (40,), generator=draws)
    return Images(pixels, labels, torch.tensor([0.5]), torch.tensor([0.25]), 6)


@pytest.fixture
def mapped(images, tmp_path):
    """The same images in a file."""
    images.pixels.numpy().tofile(tmp_path / "pixels")
    pixels = torch.from_file(str(tmp_path / "pixels"), size=images.pixels.numel(), dtype=torch.uint8)
    return replace(images, pixels=HostPixels(pixels.view(images.pixels.shape), CPU))


def test_wherever_pixels_lie_training_and_prediction_are_the_same(net, images, mapped):
    recipe, rows, weights = Recipe(epochs=2, batch_size=16, lr=0.05), torch.arange(40), []
    for each in (images, mapped):
        draws = torch.Generator().manual_seed(1)
        model = fit(copy.deepcopy(net), each, rows, recipe, draws, "training", augment=Augment(crop=1))
        weights.append(predict(model, each, rows, 16))
    assert torch.equal(*weights)


def test_images_taken_from_others_copy_no_pixel(images, mapped):
    rows = torch.tensor([5, 5, 39, 0])
    for each in (images, mapped):
        taken = each.take(rows)
        assert taken.pixels is each.pixels
        assert len(taken) == 4
        assert torch.equal(taken.labels, images.labels[rows])
        assert torch.equal(taken.raw(torch.tensor([2, 0])), images.pixels[[39, 5]])
        assert torch.equal(taken.take(torch.tensor([3, 2])).raw(torch.tensor([0, 1])), images.pixels[[0, 39]])
        assert torch.equal(taken.batch(torch.tensor([1]))[0], images.batch(torch.tensor([5]))[0])


def test_changes_in_place_are_seen_wherever_pixels_lie(images, mapped):
    before = images.edits, mapped.edits
    images.pixels[0] = 0
    mapped.pixels.host[0] = 0
    assert (images.edits > before[0], mapped.edits > before[1]) == (True, True)


def test_what_a_model_takes_already_is_left_as_it_is():
    tokens = torch.randint(10, (7, 5))
    images = Images(tokens, torch.zeros(7, dtype=torch.int64))
    inputs, _ = images.batch(torch.tensor([6, 1]))
    assert torch.equal(inputs, tokens[[6, 1]])


def test_images_that_do_not_fit_the_device_stay_in_host_memory(monkeypatch):
    """As on a device of its own: the CPU's memory is the host's."""
    pixels = torch.zeros(100, 3, 8, 8, dtype=torch.uint8)
    free = {"bytes": 100 * 3 * 8 * 8 / view.SHARE}
    monkeypatch.setattr(devices, "free_bytes", lambda device: free["bytes"])
    device = torch.device("meta")  # stands for one: nothing is computed there
    assert view.placed(pixels, device).device == device
    free["bytes"] -= 1
    kept = view.placed(pixels, device)
    assert isinstance(kept, HostPixels)
    assert kept.host is pixels
    assert view.placed(pixels, CPU) is pixels


def test_a_run_on_streamed_images_has_the_same_identity(monkeypatch):
    cfg = composed(*SHORT)
    plan = planning.plan(cfg, dict.fromkeys(("data", "model", "scenario", "method", "train"), "x"))
    usual = pipeline.prepare(plan)
    monkeypatch.setattr(view, "placed", HostPixels)
    streamed = pipeline.prepare(plan)
    assert isinstance(streamed.images["train"].pixels, HostPixels)
    assert streamed.identity.row == usual.identity.row
