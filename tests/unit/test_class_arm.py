"""A whole class, forgotten by some models of a pool: on simulated answers, where the truth is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssd_bench.cli import class_table
from ssd_bench.metrics.bootstrap import mean_of
from ssd_bench.run import class_arm
from ssd_bench.run.class_arm import TWIN, ClassArm, Seen, among, beyond_floor, tow_of_means
from ssd_bench.run.forgetting import Said
from ssd_bench.run.requests import Target
from ssd_bench.store.files import to_json

TRAIN, TEST = torch.arange(40) % 4, torch.arange(80) % 4  # labels of audited samples, of test images


class Made:
    """Models whose answers are right with a chance that depends on whether the image is of class 1."""

    def __init__(self, models=16, seed=0):
        self.n, self.rng = models, np.random.default_rng(seed)
        first = self.rng.random((models // 2, len(TRAIN))) < 0.5
        self.member = np.stack([first, ~first], axis=1).reshape(models, -1)
        self.pool = SimpleNamespace(
            labels=lambda part: {"train": TRAIN, "test": TEST}[part],
            asked=SimpleNamespace(draws=100, seed=0),
            margins=lambda m: SimpleNamespace(tensors={"of": m}),
        )
        self.said = {TWIN: self.answers(0.0, 0.8), "ssd": self.answers(0.0, 0.8), "finetune": self.answers(0.7, 0.8)}

    def answers(self, of_class, of_others):
        test = np.where(TEST == 1, of_class, of_others)
        argmax = np.where(self.rng.random((self.n, len(TEST))) < test, TEST, (TEST + 1) % 4)
        right = self.rng.random((self.n, len(TRAIN))) < np.where(TRAIN == 1, of_class, of_others)
        margin = np.zeros((self.n, len(TRAIN)))
        return Said(margin, right, margin, argmax == TEST.numpy(), 0.5, argmax)

    def arm(self, monkeypatch):
        before = self.answers(0.9, 0.9)
        monkeypatch.setattr(class_arm, "said_of", lambda pool, tensors: before)
        forgetting = SimpleNamespace(
            pool=self.pool,
            holders={"sea": list(range(self.n))},
            skipped={("mask", "sea"): "mask makes no sense"},
            methods_on=lambda target: ["ssd", "finetune", "mask", "retrain"],
            said=lambda method, target: self.said[method],
        )
        originals = SimpleNamespace(pool=self.pool, member=self.member)
        return ClassArm(originals, forgetting, Target("sea", (torch.arange(5),), 1))


def test_what_has_forgotten_lies_beside_its_twin_and_what_has_not_does_not(monkeypatch):
    report = Made().arm(monkeypatch).report()
    numbers = report["numbers"]
    assert list(numbers) == ["retrained", "original", "ssd", "finetune", "another retrained"]
    assert report["missing"] == ["mask makes no sense"]
    gap = numbers["ssd"]["gap_forget"]
    assert gap["value"] == gap["low"] == gap["high"] == 0
    assert numbers["finetune"]["gap_forget"]["low"] > 50
    assert numbers["original"]["gap_forget_train"]["low"] > 50
    assert numbers["ssd"]["tow"]["value"] > 0.9 > 0.5 > numbers["finetune"]["tow"]["value"]
    assert numbers["ssd"]["tow_mean"]["value"] < numbers["ssd"]["tow"]["value"]  # the noise of seeds counts there
    for label in ("ssd", "another retrained"):
        for name in ("gap_retain", "beyond_floor_retain"):
            number = numbers[label][name]
            assert number["low"] <= 0 <= number["high"]
            assert number["low"] < number["high"]
    assert (numbers["another retrained"]["tow"]["models"], numbers["ssd"]["tow"]["models"]) == (8, 16)
    assert numbers["another retrained"]["tow"]["value"] > 0.9
    assert "tow" not in numbers["retrained"]
    sheet = class_table.sheet_of("sea", report)
    assert sheet.title == "sea: a class, 16 models"
    assert "not in the table: mask makes no sense" in sheet.notes


def test_accuracies_are_of_what_each_model_holds(monkeypatch):
    made = Made()
    arm, said = made.arm(monkeypatch), made.said["finetune"]
    seen = arm.seen(said)
    m, of_class = 3, TRAIN.numpy() == 1
    held = made.member[m]
    assert seen.accuracy["forget_train"][m] == pytest.approx(100 * said.correct[m, held & of_class].mean())
    assert seen.accuracy["retain_train"][m] == pytest.approx(100 * said.correct[m, held & ~of_class].mean())
    assert seen.accuracy["forget"][m] == pytest.approx(100 * said.test_correct[m, TEST.numpy() == 1].mean())


@pytest.mark.parametrize("part", ["TRAIN", "TEST"])
def test_a_class_that_no_model_holds_or_that_is_not_tested_on_has_no_numbers_and_says_why(monkeypatch, part):
    labels = torch.arange(len(globals()[part])) % 3  # 0, 2, 3
    monkeypatch.setitem(globals(), part, labels + (labels > 0))
    report = Made().arm(monkeypatch).report()
    to_json(report)  # no number that is none
    missing = {name for name, number in report["numbers"]["ssd"].items() if number["value"] is None}
    of_part = {"TRAIN": {"gap_forget_train", "tow"}, "TEST": {"gap_forget", "agreement_forget", "beyond_floor_forget"}}
    assert of_part[part] <= missing
    assert all("no such image" in report["numbers"]["ssd"][name]["reason"] for name in of_part[part])
    assert report["numbers"]["ssd"]["gap_retain"]["value"] is not None


def test_retraining_s_own_seconds_are_there_to_compare_with(monkeypatch):
    assert set(Made().arm(monkeypatch).report()["seconds"]) == {"retrained", "ssd", "finetune"}


def test_by_hand():
    gaps = np.array([[20.0, -10.0, 0.0], [0.0, 0.0, 0.0]])
    tow = tow_of_means(gaps)(np.array([[1.0, 1.0], [2.0, 0.0]]))
    assert tow.ravel() == pytest.approx([0.9 * 0.95, 0.8 * 0.9])
    assert tow_of_means(np.array([[10.0, -5.0, 0.0]]))(np.ones((1, 1)))[0, 0] == pytest.approx(0.855)
    of_floor, halfway = np.array([0.8, 0.8]), np.array([0.9, 0.9])
    assert beyond_floor(of_floor, of_floor)(np.ones((1, 2)))[0, 0] == pytest.approx(0)
    assert beyond_floor(halfway, of_floor)(np.ones((1, 2)))[0, 0] == pytest.approx(0.5)
    assert np.isnan(beyond_floor(halfway, np.ones(2))(np.ones((1, 2)))[0, 0])


def test_the_floor_of_agreement_is_that_of_all_other_retrained_models():
    said = np.array([[0, 0, 1, 1], [0, 0, 1, 2], [0, 3, 3, 3]])
    assert among(said) == pytest.approx([(3 / 4 + 1 / 4) / 2, (3 / 4 + 1 / 4) / 2, 1 / 4])
    assert np.isnan(among(said[:, :0])).all()


def test_the_interval_is_students_over_pairs(monkeypatch):
    arm = Made().arm(monkeypatch)
    number = arm._mean(np.array([0.0, 2.0, 2.0, 4.0, 1.0, 3.0, 3.0, 5.0]))  # pairs 1, 3, 2, 4: mean 2.5, sd 1.291
    assert number["value"] == 2.5
    assert number["high"] - number["value"] == pytest.approx(3.1824 * 1.29099 / 2, rel=1e-4)
    assert number["models"] == 8


def test_of_a_mean_leaving_out_pairs_gives_students_interval_and_nothing_passes_the_ideal(monkeypatch):
    arm, values = Made().arm(monkeypatch), np.array([0.0, 0.2, 0.2, 0.4, 0.1, 0.3, 0.3, 0.5])
    assert arm._jackknifed(mean_of(values), 8, True) == pytest.approx(arm._mean(values))
    assert arm._jackknifed(mean_of(values + 0.6), 8, True)["high"] == 1.0


def test_no_number_without_enough_models_floor_or_twins(monkeypatch):
    few = Made(8).arm(monkeypatch).report()["numbers"]
    assert few["ssd"]["tow"]["models"] == 8
    assert all("accuracy needs 8 models, there are 4" in of["reason"] for of in few["another retrained"].values())
    made = Made(8)
    arm = made.arm(monkeypatch)
    alike = Seen(arm.seen(made.said["ssd"]).accuracy, np.zeros((8, len(TEST)), dtype=int))
    assert "no floor to be beyond" in arm.beside(alike, alike)["beyond_floor_forget"]["reason"]
    made.said[TWIN] = "retrain diverged on 1 of 8 models"
    without = arm.report()
    assert without["numbers"] == {}
    assert without["missing"] == ["retrain diverged on 1 of 8 models"]
