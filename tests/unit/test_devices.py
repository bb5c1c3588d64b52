"""Devices: arithmetic as a setting, too little memory, and, without a GPU, that nothing lies on the wrong device.

PyTorch's fake tensors know their device and shape and nothing else: forward passes run on a CUDA device that is not
there, and an operation on tensors of two devices is refused.
"""

import copy
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SHORT
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ssd_bench.core.task import Context, Images, Split
from ssd_bench.methods import amnesiac, finetune, retrain, teacher, training, unsir
from ssd_bench.models.fresh import fresh
from ssd_bench.models.resnet import ResNet18
from ssd_bench.models.vit import ViT
from ssd_bench.train import devices, loop
from ssd_bench.train.augment import augmented
from ssd_bench.train.passes import pass_clock, predict
from ssd_bench.train.recipe import Recipe

CUDA = torch.device("cuda")
ROWS = torch.arange(40)
LABELS = ROWS % 4
RETAIN, FORGET = ROWS[LABELS != 2], ROWS[LABELS == 2]
MODELS = {"resnet": fresh(ResNet18(width=4), 0, 4, 3, 16), "vit": fresh(ViT(dim=8, depth=1, heads=2), 0, 4, 3, 16)}


@pytest.fixture
def elsewhere():
    """Real tensors are on the CPU, new ones on CUDA are fake."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            LABELS.to(CUDA)
        except RuntimeError as e:  # 2.6 does
            pytest.skip(f"PyTorch {torch.__version__} asks for a driver to fake CUDA: {str(e).splitlines()[0]}")
        yield


def moved(model):
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty_strided(p.shape, p.stride(), device=CUDA))
        for name, t in module._buffers.items():
            module._buffers[name] = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=CUDA)
    return model


@pytest.fixture(params=MODELS)
def built(request):
    return copy.deepcopy(MODELS[request.param])


@pytest.fixture
def model(built, elsewhere):
    return moved(built)


@pytest.fixture
def images(elsewhere):
    pixels = torch.zeros(40, 3, 16, 16, dtype=torch.uint8, device=CUDA)
    return Images(pixels, LABELS.to(CUDA), torch.zeros(3, device=CUDA), torch.ones(3, device=CUDA), 16)


def test_prediction_takes_rows_from_the_cpu_and_hands_logits_back_there(model, images):
    said = predict(model, images, torch.arange(40), batch_size=16)
    assert (said.shape, said.device.type) == ((40, 4), "cpu")


def test_images_are_prepared_where_they_lie(images):
    assert augmented(images.pixels, torch.zeros(40, 4, device=CUDA), crop=4, flip=True).device.type == "cuda"
    inputs, labels = images.batch(ROWS.to(CUDA))
    assert {inputs.device.type, labels.device.type} == {"cuda"}


def test_two_devices_are_refused(model, images):
    with pytest.raises(RuntimeError, match="device"):
        model(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("method", "module", "label"),
    [
        (finetune.Finetune(), training, 2),
        (finetune.Finetune(), training, None),
        (teacher.Teacher(), training, 2),
        (teacher.Teacher(), training, None),
        (amnesiac.Amnesiac(), training, 2),
        (amnesiac.Amnesiac(), training, None),
        (unsir.Unsir(), unsir, 2),
        (retrain.Retrain(mode="head_reset"), retrain, 2),
        (retrain.Retrain(mode="head_reset"), retrain, None),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "needs") else "",
)
def test_what_a_method_hands_to_the_training_loop_lies_on_the_device(method, module, label, model, images, monkeypatch):
    seen = []

    def one_forward_pass(model, images, rows, recipe, draws, what, objective=None, **rest):
        batch = rows[torch.randperm(len(rows), generator=draws)][:8].to(images.device)
        loss, logits = (objective or loop.mean_cross_entropy)(model, *images.batch(batch), batch)
        seen.append((loss.device.type, logits.device.type))
        return model

    monkeypatch.setattr(module, "fit", one_forward_pass)
    if module is unsir:
        noise = torch.zeros(32, 3, 16, 16, device=CUDA)
        monkeypatch.setattr(unsir.Unsir, "learn_noise", lambda *_: noise)
        monkeypatch.setattr(unsir, "first_of_each_class", lambda rows, group, most: rows)
    split = Split(images, ROWS, RETAIN, FORGET, LABELS, "full_class", label, 4)
    head = "head" if hasattr(model, "head") else "fc"
    context = Context(CUDA, 0, 0, Recipe(), lambda seed, pretrained=True: copy.deepcopy(model), head, cached=None)
    assert method(model, split, context) is not None
    assert seen
    assert set(seen) == {("cuda", "cuda")}


def test_too_little_memory_halves_the_batch_and_changes_no_answer(net, samples, caplog, monkeypatch):
    images = Images((samples[0] * 50 + 128).clamp(0, 255).byte(), samples[1], torch.zeros(1), torch.ones(1), 6)
    whole = predict(net, images, torch.arange(24), 24)
    forward = type(net).forward

    def small(self, x):
        if self is net and len(x) > 5:
            raise torch.OutOfMemoryError("not enough")
        return forward(self, x)

    monkeypatch.setattr(type(net), "forward", small)
    torch.testing.assert_close(predict(net, images, torch.arange(24), 24), whole)
    assert "evaluate.batch_size=3" in caplog.text
    monkeypatch.setattr(type(net), "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("not enough")))
    with pytest.raises(torch.OutOfMemoryError):
        predict(net, images, torch.arange(24), 24)


def test_bfloat16_is_used_inside_passes_and_recorded(command, tmp_path):
    precise = command(*SHORT, f"out={tmp_path}", "method=original").row
    coarse = command(*SHORT, f"out={tmp_path}", "method=original", "precision=bfloat16").row
    assert precise["artefacts"]["original"] != coarse["artefacts"]["original"]
    assert precise["metrics"]["test_loss"] != coarse["metrics"]["test_loss"]
    assert coarse["metrics"]["test_loss"] == pytest.approx(precise["metrics"]["test_loss"], rel=0.5)
    assert coarse["config"]["precision"] == "bfloat16"
    again = command(*SHORT, f"out={tmp_path}", "method=original", "force=true").row  # the setting does not stay
    assert again["metrics"] == precise["metrics"]


@pytest.mark.parametrize(
    ("kernels", "wide", "units", "device", "says"),
    [
        (False, False, False, "cpu", "take over ten times as long"),
        (True, True, False, "cpu", "take about twice as long"),
        (True, True, True, "cpu", None),
        (True, False, False, "cpu", None),  # another kind of processor, which oneDNN knows
        (False, False, False, "mps", None),
    ],
)
def test_bfloat16_that_would_take_longer_than_float32_is_said_once(
    kernels, wide, units, device, says, monkeypatch, caplog
):
    devices._warn_of_bfloat16.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: kernels))
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: wide)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units)
    for precision in ("float32", "bfloat16", "bfloat16"):
        devices.check_precision(precision, torch.device(device))
    assert [record.message.count(says or "long") for record in caplog.records] == ([1] if says else [])


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists what a processor has")
def test_how_long_bfloat16_takes_is_what_the_processor_says():
    said = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    if {"avx2"} <= set(said.split()):  # x86-64
        wide, units = ({name} <= set(said.split()) for name in ("avx512bw", "avx512_bf16"))
        assert devices.bfloat16_takes() == ("" if units else "about twice" if wide else "over ten times")


def test_a_pytorch_that_cannot_tell_warns_of_nothing(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    monkeypatch.setattr(torch, "cpu", object())
    assert devices.bfloat16_takes() == ""


def test_tf32_is_refused_where_it_means_nothing(command, tmp_path):
    ended = command(*SHORT, f"out={tmp_path}", "precision=tf32", "device=cpu")
    assert ended.code == 2
    assert "needs a CUDA device" in ended.err
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_no_arithmetic_behind():
    cpu, flags = torch.device("cpu"), torch.backends.cudnn
    before = flags.allow_tf32, torch.are_deterministic_algorithms_enabled(), pass_clock.precision
    with devices.arithmetic(cpu, "bfloat16"):
        assert not flags.allow_tf32
        assert torch.are_deterministic_algorithms_enabled()
        with pass_clock():
            assert torch.is_autocast_enabled("cpu")
        with pass_clock.backward():
            assert not torch.is_autocast_enabled("cpu")
    assert before == (flags.allow_tf32, torch.are_deterministic_algorithms_enabled(), pass_clock.precision)


def test_kernels_that_are_not_deterministic_are_recorded_and_other_warnings_shown(recwarn):
    with devices.arithmetic(torch.device("cpu"), "float32") as seen:
        for _ in range(2):
            warnings.warn("put does not have a deterministic implementation, but you set ...", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert seen == ["put does not have a deterministic implementation"]


STEPS = """
import resource, torch
from ssd_bench.train.devices import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10_000_000)  # and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
from_the_system = pages()
keep_freed_memory()
pages()
print(from_the_system, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc's")
def test_a_step_does_not_ask_the_system_for_what_the_last_one_freed():
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    from_the_system, kept = map(int, done.stdout.split())
    assert 10 * kept < from_the_system
