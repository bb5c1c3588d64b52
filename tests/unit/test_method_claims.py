"""One test for each claim that a method makes, on a small model and images without the pipeline."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from ssd_bench.core.task import Context, Images, Split
from ssd_bench.methods.amnesiac import Amnesiac, wrong_labels
from ssd_bench.methods.boundary_shrink import BoundaryShrink
from ssd_bench.methods.fisher import Fisher, label_expected_fisher
from ssd_bench.methods.teacher import Teacher
from ssd_bench.methods.unsir import Unsir, first_of_each_class
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import Recipe

CLASSES = 4


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (160,), generator=generator)
    patterns = torch.rand(CLASSES, 1, 6, 6, generator=generator)  # classes overlap, so gradients do not vanish
    pixels = (128 * patterns[labels] + 127 * torch.rand(160, 1, 6, 6, generator=generator)).to(torch.uint8)
    return Images(pixels, labels, torch.tensor([0.5]), torch.tensor([0.25]), 6)


def split(images, scenario):
    rows = torch.arange(160)
    if scenario == "random":
        return Split(images, rows, rows[20:], rows[:20], images.labels, scenario, None, CLASSES)
    forget, retain = (images.labels == 2).nonzero().flatten(), (images.labels != 2).nonzero().flatten()
    retain = retain[images.labels[retain].argsort(stable=True)]
    return Split(images, rows, retain, forget, images.labels, scenario, 2, CLASSES)


def network(seed, pretrained=True):
    torch.manual_seed(seed % 1000)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES)
    )


@pytest.fixture
def context():
    def cached(kind, key, make):
        return make()

    return Context(torch.device("cpu"), 0, 0, Recipe(epochs=2), network, "5", cached)


@pytest.fixture
def original(images):
    draws = torch.Generator().manual_seed(1)
    return fit(network(0), images, torch.arange(160), Recipe(epochs=8, batch_size=16, lr=0.05), draws, "original")


def says(model, images, rows):
    with torch.no_grad():
        return softmax(model.eval()(images.batch(rows)[0]), dim=1)


def distance(p, q):
    return (p - q).norm(dim=1).mean().item()


# amnesiac


@pytest.mark.parametrize("scenario", ["full_class", "sub_class", "random"])
def test_amnesiac_never_draws_the_excluded_label(images, context, scenario):
    data = split(images, scenario)
    drawn = torch.stack([wrong_labels(data, context.generator("labels", i)) for i in range(50)])
    assert (drawn[:, data.retain] == images.labels[data.retain]).all()
    assert (drawn[:, data.forget] != images.labels[data.forget]).all()
    counts = torch.bincount(drawn[:, data.forget].flatten(), minlength=CLASSES).double()
    if scenario != "random":
        assert counts[2] == 0
        assert (counts[counts > 0] / counts.sum() - 1 / 3).abs().max() < 0.05
    else:
        own = images.labels[data.forget]
        for label in own.unique():
            others = torch.bincount(drawn[:, data.forget][:, own == label].flatten(), minlength=CLASSES).double()
            assert others[label] == 0
            assert (others[others > 0] / others.sum() - 1 / 3).abs().max() < 0.12


def test_amnesiac_draws_none_of_several_forgotten_labels(images, context):
    data = replace(split(images, "random"), forget_labels=(0, 2))
    drawn = torch.stack([wrong_labels(data, context.generator("labels", i)) for i in range(50)])
    own = images.labels[data.forget].expand(50, -1)
    assert set(drawn[:, data.forget].unique().tolist()) == {1, 3}
    assert (drawn[:, data.forget] != own).all()


def test_what_was_forgotten_before_is_not_taught_again(images, context, original):
    """Of a sequence of classes: D_r has no image of 0 any more, and 2 is to go."""
    data = split(images, "full_class")
    before = images.labels[data.retain] == 0
    after = replace(data, retain=data.retain[~before], gone=data.retain[before])
    assert [each.unsaid.nonzero().flatten().tolist() for each in (data, after)] == [[2], [0, 2]]
    drawn = torch.stack([wrong_labels(after, context.generator("labels", i)) for i in range(50)])
    assert set(drawn[:, after.forget].unique().tolist()) == {1, 3}
    shrink = BoundaryShrink(bound=1.0)
    nearest = [shrink.nearest(original, each)["labels"] for each in (data, after)]
    assert 0 in nearest[0]
    assert set(nearest[1].tolist()) <= {1, 3}
    assert shrink._key(data) != shrink._key(after)


def test_amnesiac_unlearns_what_it_relabels(images, context, original):
    data = split(images, "full_class")
    before = says(original, images, data.forget)[:, 2].mean()
    after = says(Amnesiac(lr=0.01)(copy.deepcopy(original), data, context), images, data.forget)[:, 2].mean()
    assert after < before - 0.2


# teacher


@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
def test_the_student_moves_to_its_teachers(images, context, original, reduction):
    data = split(images, "full_class")
    method = Teacher(epochs=30, lr=0.01, batch_size=32, reduction=reduction)
    bad = context.fresh_model(context.seed_for("incompetent"))
    student = method(copy.deepcopy(original), data, context)
    on_forget = [says(m, images, data.forget) for m in (original, student, bad)]
    assert distance(on_forget[1], on_forget[2]) < 0.5 * distance(on_forget[0], on_forget[2])
    on_retain = [says(m, images, data.retain) for m in (original, student, bad)]
    assert distance(on_retain[1], on_retain[0]) < 0.5 * distance(on_retain[2], on_retain[0])


def test_teachers_reductions_differ_by_the_number_of_classes(images, context, original):
    data, gradients = split(images, "full_class"), {}

    def record(model, images, rows, recipe, draws, what, *, objective, **more):
        model.train()
        loss, _ = objective(model, *images.batch(rows[:40]), rows[:40])
        return loss.item()

    import ssd_bench.methods.training as module

    for reduction in ("batchmean", "mean"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "fit", record)
            gradients[reduction] = Teacher(reduction=reduction)(copy.deepcopy(original), data, context)
    assert gradients["batchmean"] == pytest.approx(CLASSES * gradients["mean"], rel=1e-5)


def test_teacher_takes_the_share_of_retained_data_that_it_says(images, context, original, monkeypatch):
    import ssd_bench.methods.training as module

    seen = []
    monkeypatch.setattr(module, "fit", lambda model, images, rows, *args, **kwargs: seen.append(rows) or model)
    data = split(images, "full_class")
    Teacher(retain_share=0.3)(original, data, context)
    [rows] = seen
    assert set(data.forget.tolist()) <= set(rows.tolist())
    assert len(rows) == len(data.forget) + int(0.3 * len(data.retain))
    assert len(set(rows.tolist())) == len(rows)


# UNSIR


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_noise_steps_leave_the_model_untouched(images, context, original):
    data, before = split(images, "full_class"), state(original)
    noise = Unsir().learn_noise(original, data, context)
    assert noise.shape == (32, 1, 6, 6)
    for name, t in original.state_dict().items():
        assert torch.equal(t, before[name]), name
    assert all(p.grad is None for p in original.parameters())


def test_released_noise_steps_leave_statistics_and_gradients_behind(images, context, original):
    data, before = split(images, "full_class"), state(original)
    Unsir(noise_mode="train").learn_noise(original, data, context)
    assert not torch.equal(original.state_dict()["1.running_mean"], before["1.running_mean"])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in original.parameters())
    assert torch.equal(original.state_dict()["5.weight"], before["5.weight"])


def test_noise_raises_the_loss_of_its_class(images, context, original):
    data, label = split(images, "full_class"), torch.full((32,), 2)

    def loss(noise):
        with torch.no_grad():
            return cross_entropy(original.eval()(noise), label).item()

    few, many = (Unsir(noise_steps=n, noise_penalty=0.0).learn_noise(original, data, context) for n in (1, 60))
    assert loss(many) > loss(few) + 1


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_noise_follows_its_gradient_whatever_the_order_of_memory(images, context, mode):
    colours = replace(images, pixels=images.pixels.expand(-1, 3, -1, -1).contiguous())
    model = network(0)
    model[0] = nn.Conv2d(3, 4, 3)
    model = model.to(memory_format=torch.channels_last).train(mode == "train")
    alike = copy.deepcopy(model)
    learner = Unsir(noise_steps=1, noise_penalty=0.0, noise_mode=mode)
    after = learner.learn_noise(model, split(colours, "full_class"), context)
    before = torch.randn(after.shape, generator=context.generator("noise")).requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(alike(before), torch.full((32,), 2)), before)
    along = (after - before) * gradient
    assert (along[gradient.abs() > 1e-5] > 0).all()


def test_impair_gets_the_noise_and_repair_the_retained_images_alone(images, context, original, monkeypatch):
    import ssd_bench.methods.unsir as module

    seen = []

    def watch(model, images, rows, recipe, draws, what, objective=None, checkpoint=None):
        seen.append((images.labels[rows], recipe.batch_size))
        return model

    monkeypatch.setattr(module, "fit", watch)
    Unsir(copies=3, noise_images=5, samples_per_class=7)(original, split(images, "full_class"), context)
    (impair, impair_batch), (repair, repair_batch) = seen
    assert torch.bincount(impair, minlength=CLASSES).tolist() == [7, 7, 15, 7]
    assert torch.bincount(repair, minlength=CLASSES).tolist() == [7, 7, 0, 7]
    assert (impair_batch, repair_batch) == (32, 128)


def test_first_of_each_class():
    group = torch.tensor([1, 0, 1, 1, 2, 0, 0])
    assert first_of_each_class(torch.tensor([6, 5, 3, 2, 0]), group, 2).tolist() == [5, 6, 0, 2]


# Fisher forgetting


def test_label_expected_fisher_is_the_slow_sum(images, original):
    data, rows = split(images, "full_class"), torch.arange(10)
    expected = {name: torch.zeros_like(p) for name, p in original.named_parameters()}
    model = copy.deepcopy(original).eval()
    for row in rows:
        x, _ = images.batch(row[None])
        probs = softmax(model(x), dim=1)[0].detach()
        for label in range(CLASSES):
            model.zero_grad()
            cross_entropy(model(x), torch.tensor([label])).backward()
            for name, p in model.named_parameters():
                expected[name] += probs[label] * p.grad**2 / len(rows)
    ours = label_expected_fisher(original, data, rows)
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-3, atol=1e-7)


def test_fisher_noise_has_the_variance_it_says(images, original):
    data = split(images, "full_class")
    weight, information = torch.zeros(6, 500, 10), torch.rand(6, 500, 10) + 0.5
    _, variance = Fisher(alpha=1e-3).distribution("0.weight", weight, information, data, "5")
    expected = (1e-3 / (information + 1e-8)).mean(dim=1, keepdim=True).expand_as(weight)
    torch.testing.assert_close(variance, expected)
    draws = variance.sqrt() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.var(dim=(1,)), variance[:, 0], rtol=0.2, atol=0)


@pytest.mark.parametrize("variant", ["corrected", "official"])
@pytest.mark.parametrize("scenario", ["full_class", "random"])
def test_fisher_in_the_last_layer(images, variant, scenario):
    data, method = split(images, scenario), Fisher(alpha=1e-6, variant=variant)
    tiny = torch.full((CLASSES, 3), 1e-12)
    mean, variance = method.distribution("5.weight", torch.ones(CLASSES, 3), tiny, data, "5")
    factor = 10 if variant == "corrected" or scenario == "full_class" else 1
    torch.testing.assert_close(variance[0], torch.full((3,), 1e-6 * 1e2 * factor))
    if scenario == "full_class":
        assert not mean[2].any()
        torch.testing.assert_close(variance[2], torch.full((3,), 1e-4 * 10))
    else:
        assert mean.all()
    _, bn_variance = method.distribution("1.weight", torch.ones(7), torch.full((7,), 1e-12), data, "5")
    torch.testing.assert_close(bn_variance, torch.full((7,), 1e-6 * 1e3 * 10))
    look_alike = method.distribution("0.weight", torch.ones(CLASSES, 3), tiny, data, "5")[1]
    expected = variance if variant == "official" else torch.full((CLASSES, 3), 1e-6 * 1e3)
    torch.testing.assert_close(look_alike, expected)


def test_fisher_takes_the_samples_that_it_says(images, context, original):
    Fisher(n_samples=12)(original, split(images, "full_class"), context)
    assert context.details["n_samples"] == 12


def test_fisher_makes_its_information_once_for_every_alpha_and_seed(images, context, original):
    data, kept = split(images, "full_class"), {}

    def cached(kind, key, make):
        at = kind, str(key)
        if at not in kept:
            kept[at] = make()
        return kept[at]

    for alpha, seed in ((1e-9, 0), (1e-7, 1)):
        Fisher(alpha=alpha)(copy.deepcopy(original), data, replace(context, cached=cached, seed_unlearn=seed))
    assert len(kept) == 1
    Fisher(n_samples=12)(copy.deepcopy(original), data, replace(context, cached=cached))
    assert len(kept) == 2
