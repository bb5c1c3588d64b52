"""RUM: its parts, their order, and that its steps are the methods themselves."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from golden_data import FOLDER, Golden

from ssd_bench.core.task import Cost, Method
from ssd_bench.methods.finetune import Finetune
from ssd_bench.methods.mask_head import MaskHead
from ssd_bench.methods.neggrad_plus import NegGradPlus
from ssd_bench.methods.original import Original
from ssd_bench.methods.retrain import Retrain
from ssd_bench.methods.rum import RUM
from ssd_bench.methods.ssd import SSD

NEGGRAD = NegGradPlus(epochs=2, lr=0.01, forget_batch_size=4, retain_batch_size=8)


@pytest.fixture
def golden():
    """Twelve single images of all classes are forgotten."""
    golden = Golden(FOLDER / "ssd_family")
    rows = torch.arange(30)
    golden.data = replace(
        golden.data,
        rows=rows,
        retain=rows[12:],
        forget=rows[:12],
        scenario="random",
        forget_label=None,
        forget_labels=(),
    )
    return golden


@dataclass(frozen=True)
class Watched(Method):
    """Remembers what it is handed, and changes a weight."""

    seen: ClassVar[list] = []
    by: float = 1.0

    def cost(self, data, recipe):
        return Cost(
            forward=len(data.forget), backward=len(data.retain), shared={"importance_full": ("key", Cost(backward=7))}
        )

    def __call__(self, model, data, context):
        context.cached("importance_full", "key", lambda: self.seen.append("made") or {"a": torch.zeros(1)})
        self.seen.append((data.forget, data.retain, model.fc.bias.detach().clone(), context.details))
        with torch.no_grad():
            model.fc.bias += self.by
        context.details["mine"] = self.by
        return model


@pytest.fixture
def seen():
    Watched.seen.clear()
    return Watched.seen


def margins(golden):
    logits, labels = golden.given["logits_eval"].double(), golden.data.images.labels[:, None]
    return (logits.gather(1, labels) - logits.scatter(1, labels, -torch.inf).logsumexp(1, keepdim=True))[:, 0]


@pytest.mark.parametrize("order", ["memorised", "reversed", "shuffled"])
def test_parts_are_disjoint_and_come_in_order(golden, seen, order):
    context = golden.context()
    made = RUM(steps=[Watched(), Watched(by=2.0), Watched()], order=order)(golden.model, golden.data, context)
    steps = [each for each in seen if each != "made"]
    assert seen.count("made") == 3  # nothing is kept between the steps
    parts = [forget for forget, *_ in steps]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert torch.cat(parts).sort().values.tolist() == list(range(12))
    assert all(torch.equal(retain, golden.data.retain) for _, retain, *_ in steps)
    in_turn = margins(golden)[torch.cat(parts)]
    assert (in_turn.diff() <= 1e-6).all() == (order == "memorised")
    assert (in_turn.diff() >= -1e-6).all() == (order == "reversed")
    bias = golden.original["fc.bias"]
    for (_, _, before, _), moved in zip(steps, (0.0, 1.0, 3.0), strict=True):
        torch.testing.assert_close(before, bias + moved)
    torch.testing.assert_close(made.fc.bias.detach(), bias + 4)
    assert context.details["step1"] == {"method": "watched", "images": 4, "mine": 2.0}


def test_as_released_what_is_to_be_forgotten_later_is_trained_on_before(golden, seen):
    RUM(steps=[Watched(), Watched()], retain="cumulative")(golden.model, golden.data, golden.context())
    (first, retain, *_), (second, last, *_) = (each for each in seen if each != "made")
    assert set(retain.tolist()) == {*golden.data.retain.tolist(), *second.tolist()}
    assert set(last.tolist()) == set(golden.data.retain.tolist())
    assert not set(first.tolist()) & set(retain.tolist())


def test_one_step_is_the_method_and_no_step_changes_nothing(golden):
    alone = NEGGRAD(golden.model, golden.data, golden.context()).state_dict()
    as_step = RUM(steps=[NEGGRAD], order="shuffled")
    ordered = replace(
        golden.data, forget=golden.data.forget[as_step.ranked(golden.model, golden.data, golden.context())]
    )
    same_order = NEGGRAD(golden.model, ordered, golden.context()).state_dict()
    made = as_step(golden.model, golden.data, golden.context()).state_dict()
    assert all(torch.equal(made[name], t) for name, t in same_order.items())
    assert not all(torch.equal(made[name], golden.original[name]) for name in alone)
    nothing = RUM(steps=[Original(), Original(), Original()])(golden.model, golden.data, golden.context()).state_dict()
    assert all(torch.equal(nothing[name], t) for name, t in golden.original.items())


def test_importances_of_later_steps_are_those_of_the_model_that_they_get(golden):
    calls = []
    context = golden.context(cached=lambda kind, key, make: calls.append(kind) or make())
    RUM(steps=[Finetune(epochs=1), SSD(alpha=1.0)])(golden.model, golden.data, context)
    assert calls == ["forget_logits"]  # of the original; I_D of step 2 is not the original's


def test_fewer_images_than_steps(golden, seen):
    data = replace(golden.data, forget=golden.data.forget[:2])
    context = golden.context()
    RUM(steps=[Watched()] * 3)(golden.model, data, context)
    assert [len(each[0]) for each in seen if each != "made"] == [1, 1]
    assert context.details["step2"] == {"method": "watched", "images": 0}


def test_it_costs_what_its_steps_do(golden):
    cost = RUM(steps=[Original(), Watched(), Watched()]).cost(golden.data, golden.context().recipe)
    assert (cost.forward, cost.backward) == (4 + 4, 2 * (18 + 7))
    assert [made.forward for _, made in cost.shared.values()] == [12]


def test_what_a_step_cannot_do_nor_can_it(golden):
    assert "mask_head needs" in RUM(steps=[Original(), MaskHead()]).unfit(golden.model, "")
    nodes = [{"_target_": "ssd_bench.methods.finetune.Finetune", "epochs": 3}]
    assert RUM(steps=nodes).steps == (Finetune(epochs=3),)
    for wrong, said in (
        ({}, "steps must name a method"),
        ({"steps": [Retrain()]}, "retrain forgets all of D_f at once"),
        ({"steps": [Original()], "order": "memorized"}, "did you mean 'memorised'"),
        ({"steps": [Original()], "retain": "some"}, "retain=some"),
        ({"steps": [{"_target_": "ssd_bench.methods.finetune.Finetune", "epoch": 3}]}, "method.steps.epoch"),
    ):
        with pytest.raises(ValueError, match=said):
            RUM(**wrong)


class Killed(Exception):
    """The process is gone."""


class Disk:
    """Keeps what each phase saves last, and kills the process when it has saved so often."""

    def __init__(self, saves):
        self.saves, self.kept = saves, {}

    def __call__(self, name):
        disk = self

        class Checkpoint:
            def due(self):
                return True

            def save(self, tensors, state):
                disk.kept[name] = {key: t.clone() for key, t in tensors.items()}, state
                disk.saves -= 1
                if not disk.saves:
                    raise Killed

            def restore(self):
                return disk.kept.get(name)

        return Checkpoint()


@pytest.mark.parametrize("saves", [3, 9])  # in the first step, and in the second
def test_a_step_that_was_killed_goes_on_with_the_same_bytes(golden, saves):
    method = RUM(steps=[Finetune(epochs=2, batch_size=6), Finetune(epochs=2, lr=0.05, batch_size=6)])
    expected = method(golden.model, golden.data, golden.context()).state_dict()
    disk = Disk(saves)
    with pytest.raises(Killed):
        method(golden.model, golden.data, replace(golden.context(), checkpoint=disk))
    assert len(disk.kept) == (1 if saves == 3 else 2)
    resumed = method(golden.model, golden.data, replace(golden.context(), checkpoint=disk)).state_dict()
    assert all(torch.equal(resumed[name], t) for name, t in expected.items())
