"""The recipe's schedule, the loop, the random transform, and the inference loop."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import ConfigError, Diverged
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Images
from ssd_bench.run.trained import BestTest, train_from
from ssd_bench.train.augment import Augment, augmented, draw_augmentation
from ssd_bench.train.loop import Pass, batch_ends, fit, mean_cross_entropy
from ssd_bench.train.passes import predict, statistics_for
from ssd_bench.train.recipe import HeadReset, Recipe, SameSteps


def images(n=40, side=6, channels=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, channels, side, side), generator=g, dtype=torch.uint8)
    labels = torch.randint(4, (n,), generator=g)
    return Images(pixels, labels, torch.full((channels,), 0.5), torch.full((channels,), 0.25), side)


def weights(model):
    return torch.cat([t.flatten().double() for t in model.state_dict().values()])


def test_the_original_recipe_warms_up_for_one_epoch_and_steps_at_the_milestones():
    recipe = Recipe(epochs=40, milestones=[0.375, 0.75, 0.875])
    assert recipe.milestone_epochs() == [15, 30, 35]
    rates = recipe.lr_trace(10)
    assert len(rates) == 400
    assert rates[:10] == pytest.approx([0.01 * i for i in range(10)])  # epoch 1: from 0
    for epoch, rate in (
        (2, 0.1),
        (14, 0.1),
        (15, 0.02),
        (29, 0.02),
        (30, 0.004),
        (34, 0.004),
        (35, 0.0008),
        (40, 0.0008),
    ):
        assert rates[(epoch - 1) * 10 : epoch * 10] == pytest.approx([rate] * 10)


@pytest.mark.parametrize(
    ("epochs", "milestones", "expected"),
    [(8, [0.375, 0.75, 0.875], [3, 6, 7]), (20, [0.4, 0.6, 0.8], [8, 12, 16]), (200, [0.3, 0.6, 0.8], [60, 120, 160])],
)
def test_milestones_scale_with_the_epochs(epochs, milestones, expected):
    assert Recipe(epochs=epochs, milestones=milestones).milestone_epochs() == expected


def test_the_released_retrain_warms_up_twice_too_far_and_counts_epochs_from_zero():
    rates = HeadReset(epochs=40, milestones=[0.375, 0.75, 0.875], lr=0.01).lr_trace(10)
    assert len(rates) == 400
    assert rates[:20] == pytest.approx([0.001 * i for i in range(20)])  # to 0.02
    for epoch, rate in ((2, 0.01), (14, 0.01), (15, 0.002), (30, 0.0004), (35, 0.00008), (39, 0.00008)):
        assert rates[epoch * 10 : epoch * 10 + 10] == pytest.approx([rate] * 10)
    assert len(HeadReset(epochs=1, lr=0.01).lr_trace(10)) == 10


def test_one_cycle_rises_for_a_fifth_and_falls_to_zero():
    rates = Recipe(epochs=5, schedule="one_cycle", lr=1.0).lr_trace(10)
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)])
    assert rates[10:] == pytest.approx([(50 - i) / 40 for i in range(10, 50)])


def test_decay_can_spare_norms_and_biases(net):
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    Recipe(lr=0.1, weight_decay=0.5, nesterov=True, decay_all=False).make_optimizer(net).step()
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in before.items() if p.ndim > 1}


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_step_is_the_same_however_a_parameter_lies_in_memory(optimizer):
    value, gradient = torch.arange(24.0).view(2, 3, 2, 2), torch.linspace(-1, 1, 24).view(2, 3, 2, 2)
    wider = torch.zeros(2, 3, 2, 5)[..., :2].copy_(value)  # with gaps
    stepped = []
    for lying in (value.clone(), value.to(memory_format=torch.channels_last), wider):
        holder = nn.ParameterList([nn.Parameter(lying)])
        holder[0].grad = torch.empty_like(lying).copy_(gradient) if lying is not wider else gradient
        Recipe(optimizer=optimizer, lr=0.1).make_optimizer(holder).step()
        stepped.append(holder[0].detach())
    for each in stepped[1:]:
        torch.testing.assert_close(each, stepped[0], check_stride=False)


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match="nesterov=true needs"):
        Recipe(nesterov=True, momentum=0.0)


def test_cosine_ends_near_zero():
    rates = Recipe(epochs=4, schedule="cosine", lr=1.0).lr_trace(10)
    assert rates[10] == 1
    assert 0 < rates[-1] < 0.01
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": math.inf},
        {"milestones": [15]},
        {"milestones": [0.8, 0.4]},
        {"weight_decay": -1},
    ],
)
def test_recipes_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_unknown_choices_of_a_recipe():
    with pytest.raises(ConfigError, match="did you mean 'sgd'"):
        Recipe(optimizer="sdg")


@pytest.mark.parametrize(
    ("n", "ends"), [(128, [64, 128]), (130, [64, 128, 130]), (129, [64, 129]), (1, [1]), (65, [65])]
)
def test_no_batch_of_one(n, ends):
    assert batch_ends(n, 64) == ends


def test_training_is_the_plain_loop(net):
    """Against the plainest PyTorch loop, on the same order of the same images."""
    data, recipe, rows = images(), Recipe(epochs=2, batch_size=16, milestones=[0.5]), torch.arange(33)
    plain = copy.deepcopy(net).train()
    draws, rates = generator(5, "x"), recipe.lr_trace(2)  # 33 = 16 + 17
    optimizer = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(2):
        for i, batch in enumerate(rows[torch.randperm(33, generator=draws)].tensor_split([16])):
            x, y = data.batch(batch)
            optimizer.param_groups[0]["lr"] = rates[epoch * 2 + i]
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(x), y).backward()
            optimizer.step()
    fit(net, data, rows, recipe, generator(5, "x"), "test")
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=0)


def test_same_seed_same_bytes_and_other_seed_other_bytes(net):
    data, augment = images(), Augment(crop=1, flip=True, rotation=15)
    trained = [
        weights(
            fit(copy.deepcopy(net), data, torch.arange(40), Recipe(epochs=1), generator(s), "test", augment=augment)
        )
        for s in (1, 1, 2)
    ]
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_loss_that_is_not_finite_stops_the_training(net):
    with pytest.raises(Diverged, match=r"test: the loss is nan in epoch 1 .step 3, lr 1e\+30"):
        fit(
            net,
            images(),
            torch.arange(40),
            Recipe(epochs=5, batch_size=16, lr=1e30, warmup_epochs=0),
            generator(0),
            "test",
        )


def test_best_test_keeps_the_best_epoch(net):
    train, test, seen = images(), images(seed=1), []

    def accuracy():
        return (predict(net, test, torch.arange(40), 500).argmax(1) == test.labels).double().mean().item()

    class Watched(BestTest):
        def __call__(self, epoch):
            super().__call__(epoch)
            seen.append(accuracy())

    best = Watched(net, test)
    fit(net, train, torch.arange(40), Recipe(epochs=6, lr=0.3), generator(0), "test", after_epoch=best)
    best.restore()
    assert len(set(seen)) > 1, "the epochs do not differ, and nothing is tested"
    assert accuracy() == max(seen)


def test_prediction_is_in_eval_mode_whatever_the_batches(net):
    data = images()
    net.train()
    whole, parts = (predict(net, data, torch.arange(40), size) for size in (40, 7))
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)
    assert net.training
    torch.testing.assert_close(whole, net.eval()(data.batch(torch.arange(40))[0]).detach(), rtol=1e-5, atol=1e-6)


def test_normalisation_is_to_tensor_then_normalize():
    from torchvision.transforms.v2 import functional as tv

    data = images(n=3, channels=3)
    ours, _ = data.batch(torch.arange(3))
    theirs = tv.normalize(tv.to_dtype(data.pixels, torch.float32, scale=True), data.mean.tolist(), data.std.tolist())
    torch.testing.assert_close(ours, theirs)


def test_images_are_resized_after_normalisation():
    from dataclasses import replace

    data = images(n=2, channels=3, side=8)
    large, _ = replace(data, side=16).batch(torch.arange(2))
    assert large.shape == (2, 3, 16, 16)
    expected = nn.functional.interpolate(data.batch(torch.arange(2))[0], size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(large, expected)


def still(n, shift=(0, 0), flip=1.0, angle=0.0):
    return torch.tensor([[*shift, flip, angle]]).repeat(n, 1)


def test_no_draw_no_change():
    pixels = images(n=4, side=8, channels=3).pixels
    assert torch.equal(augmented(pixels, still(4), crop=2, flip=True), pixels)


def test_flip_crop_and_rotation_each_do_what_they_say():
    pixels = images(n=4, side=8, channels=3).pixels
    assert torch.equal(augmented(pixels, still(4, flip=0.0), crop=2, flip=True), pixels.flip(3))
    assert torch.equal(augmented(pixels, still(4, flip=0.0), crop=2, flip=False), pixels)
    shifted = augmented(pixels, still(4, shift=(0.99, -0.99)), crop=2, flip=True)  # 2 down in the source, 2 left
    padded = nn.functional.pad(pixels, (2, 2, 2, 2))
    assert torch.equal(shifted, padded[:, :, 4:12, 0:8])
    quarter = augmented(pixels, still(4, angle=90.0), crop=0, flip=False)
    assert torch.equal(quarter, torch.rot90(pixels, -1, (2, 3))) or torch.equal(quarter, torch.rot90(pixels, 1, (2, 3)))


def test_all_three_at_once_are_crop_then_flip_then_rotation():
    pixels = images(n=4, side=8, channels=1).pixels
    at_once = augmented(pixels, still(4, shift=(0.5, 0.99), flip=0.0, angle=10.0), crop=2, flip=True)
    in_turn = augmented(pixels, still(4, shift=(0.5, 0.99)), crop=2, flip=True)
    in_turn = augmented(in_turn, still(4, flip=0.0), crop=2, flip=True)
    in_turn = augmented(in_turn, still(4, angle=10.0), crop=2, flip=True)
    assert torch.equal(at_once, in_turn)


def test_rotation_agrees_with_torchvision():
    from torchvision.transforms.v2 import functional as tv

    pixels = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    pixels[..., 8:24, 4:28] = 200  # a bar, so that a turn the wrong way would show
    ours = augmented(pixels, still(1, angle=12.0), crop=0, flip=False)
    theirs = [tv.rotate(pixels, sign * 12.0) for sign in (1, -1)]
    agree = max((ours == t).float().mean().item() for t in theirs)
    assert agree > 0.995  # nearest neighbour: borders may round differently


def test_draws_are_spread_evenly():
    draws = draw_augmentation(20_000, 15.0, torch.Generator().manual_seed(0))
    shifts = (draws[:, 0] * 4.5).round().clamp(-4, 4)
    counts = torch.bincount((shifts + 4).long(), minlength=9) / 20_000
    assert (counts - 1 / 9).abs().max() < 0.01
    assert draws[:, 3].abs().max() <= 15
    assert abs((draws[:, 2] < 0.5).float().mean() - 0.5) < 0.02


def test_several_passes_are_one_loop_after_the_other_under_one_optimiser(net):
    """Against the plain loop: two passes, other labels and sizes, a batch beside, and a change after a step."""
    data, twin, seen = images(n=24), copy.deepcopy(net), []
    first, second, beside = torch.arange(10), torch.arange(10, 24), torch.arange(5)
    other = (data.labels + 1) % 4

    def with_beside(model, inputs, labels, rows, more):
        seen.append((rows, more[1]))
        logits = model(inputs)
        return cross_entropy(logits, labels) - 0.1 * cross_entropy(model(more[0]), more[1]), logits

    def passes(epoch):
        ascending = [Pass(first, batch_size=5, labels=other)] if epoch == 1 else []
        return [*ascending, Pass(second, with_beside, 7, beside=beside, beside_size=3)]

    def halve(model, optimizer):
        with torch.no_grad():
            model[0].weight.mul_(0.5)

    recipe = Recipe.constant("sgd", 2, 64, 0.1)
    fit(net, data, passes, recipe, torch.Generator().manual_seed(3), "x", ready=nn.Module.eval, after_step=halve)

    draws, optimizer = torch.Generator().manual_seed(3), torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    twin.eval()

    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        halve(twin, optimizer)

    for epoch in (1, 2):
        for rows in first[torch.randperm(10, generator=draws)].split(5) if epoch == 1 else ():
            step(cross_entropy(twin(data.batch(rows)[0]), other[rows]))
        order, near = second[torch.randperm(14, generator=draws)], beside[torch.randperm(5, generator=draws)]
        for rows, more in zip(order.split(7), near.split([3, 2]), strict=True):
            (x, y), (x2, y2) = data.batch(rows), data.batch(more)
            step(cross_entropy(twin(x), y) - 0.1 * cross_entropy(twin(x2), y2))
    torch.testing.assert_close(net.state_dict(), twin.state_dict())
    assert len(seen) == 4
    assert not net.training


def test_passes_of_which_some_are_not_in_every_epoch_follow_the_schedule_by_epochs(net):
    rates = []

    def note(model, optimizer):
        rates.append(optimizer.param_groups[0]["lr"])

    def passes(epoch):
        return [Pass(torch.arange(16), batch_size=8), *([Pass(torch.arange(8))] if epoch == 2 else [])]

    recipe = Recipe(epochs=3, batch_size=8, lr=1.0, warmup_epochs=0, milestones=[2 / 3], gamma=0.1)
    fit(net, images(n=24), passes, recipe, torch.Generator().manual_seed(0), "x", after_step=note)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])


class InMemory:
    """A checkpoint after every step; `stop` of them end the training."""

    def __init__(self, kept=None, stop=math.inf):
        self.kept, self.left = kept, stop

    def due(self):
        return True

    def save(self, tensors, state):
        self.kept = {name: t.detach().clone() for name, t in tensors.items()}, state
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt

    def restore(self):
        return self.kept


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6, 9])
def test_several_passes_go_on_wherever_they_were_stopped(net, stop):
    data, other = images(n=24), copy.deepcopy(net)

    def passes(epoch):
        drawn = torch.randint(4, (24,), generator=torch.Generator().manual_seed(epoch))
        return [Pass(torch.arange(10), batch_size=5, labels=drawn), Pass(torch.arange(10, 24), batch_size=7)]

    def train(model, checkpoint):
        draws, recipe = torch.Generator().manual_seed(3), Recipe.constant("sgd", 2, 64, 0.1)
        return fit(model, data, passes, recipe, draws, "x", augment=Augment(crop=1), checkpoint=checkpoint)

    whole, stopped = copy.deepcopy(net), InMemory(stop=stop)
    train(whole, InMemory())
    with pytest.raises(KeyboardInterrupt):
        train(net, stopped)
    train(other, InMemory(stopped.kept))
    assert torch.equal(weights(other), weights(whole))


@pytest.mark.parametrize("n", [20, 33, 36, 50, 64])
def test_as_many_steps_whatever_the_number_of_images(net, n):
    recipe, steps, rates = SameSteps(epochs=2, batch_size=16, milestones=[0.5], images=33), [], []

    def note(model, optimizer):
        steps.append(0)
        rates.append(optimizer.param_groups[0]["lr"])

    train_from(net, images(70), torch.arange(n), recipe, 5, "test", after_step=note)
    assert len(steps) == 4  # 33 = 16 + 17, twice
    assert rates == recipe.lr_trace(2)


def test_what_an_epoch_of_so_many_images_holds():
    rows, recipe = torch.arange(100, 110), SameSteps(images=7)
    fewer = [recipe.epoch_rows(rows, epoch, 0) for epoch in (1, 2)]
    assert [len(of.unique()) for of in fewer] == [7, 7]
    assert set(fewer[0].tolist()) != set(fewer[1].tolist())
    assert torch.equal(recipe.epoch_rows(rows, 1, 0), fewer[0])
    assert not torch.equal(recipe.epoch_rows(rows, 1, 1), fewer[0])
    more, counts = SameSteps(images=23).epoch_rows(rows, 1, 0).unique(return_counts=True)
    assert torch.equal(more, rows)
    assert sorted(counts.tolist()) == [2] * 7 + [3] * 3
    seen = torch.cat([recipe.epoch_rows(rows, epoch, 0) for epoch in range(1, 301)]).unique(return_counts=True)[1]
    assert (seen - 210).abs().max() < 4.5 * (300 * 0.7 * 0.3) ** 0.5  # each alike often
    assert torch.equal(SameSteps(images=10).epoch_rows(rows, 1, 0).sort().values, rows)
    assert Recipe().epoch_rows(rows, 1, 0) is rows


def test_a_training_of_average_size_is_the_same_with_and_without(net):
    other, data, recipe = copy.deepcopy(net), images(40), Recipe(epochs=2, batch_size=16)
    train_from(net, data, torch.arange(33), recipe, 5, "test")
    fit(other, data, torch.arange(33), recipe, generator(5, "trained", "batches"), "test")
    torch.testing.assert_close(weights(net), weights(other), rtol=0, atol=0)


@pytest.mark.parametrize("side", [1, 3])
def test_a_single_number_in_a_channel_is_normalised_by_the_statistics_that_are_kept(side):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * side**2, 3))
    plain = copy.deepcopy(net).train(side > 1)  # with several numbers it is as PyTorch does it
    images = Images(torch.rand(1, 1, side, side), torch.tensor([1]))
    fit(net, images, torch.arange(1), Recipe.constant("sgd", 1, 4, 0.1), torch.Generator().manual_seed(0), "one")
    cross_entropy(plain(images.pixels), images.labels).backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs - 0.1 * theirs.grad)
    kept = plain[1].state_dict()
    assert all(torch.equal(t, kept[name]) for name, t in net[1].state_dict().items() if "running" in name)
    assert net[1].training
    assert not net[1]._forward_pre_hooks


def test_several_images_have_statistics_of_their_own(net):
    with statistics_for(net.train(), 2):
        assert all(module.training for module in net.modules())


def test_a_pass_that_is_not_shuffled_goes_through_its_rows_as_they_are(net):
    seen, rows = [], torch.tensor([7, 3, 11, 0, 5])

    def objective(model, inputs, labels, of):
        seen.extend(of.tolist())
        return mean_cross_entropy(model, inputs, labels, of)

    passes = [Pass(rows, objective, batch_size=2, shuffle=False), Pass(rows[:2])]
    fit(net, images(), lambda epoch: passes, Recipe.constant("sgd", 2, 4, 0.1), generator(0, "x"), "t")
    assert seen == 2 * rows.tolist()
