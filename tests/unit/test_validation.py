"""data.validation: images that no model is trained on and nobody forgets, the same for every run of these data."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import SHORT, planned
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import row
from test_own_data import cache as cache_of_folders  # noqa: F401
from test_own_data import classes, folder, mapped
from test_scenarios import dataset

from ssd_bench.core.dataset import Part
from ssd_bench.core.errors import ConfigError
from ssd_bench.data.digits import Digits
from ssd_bench.data.mapped import joined
from ssd_bench.data.source import DataSettings
from ssd_bench.data.view import with_validation
from ssd_bench.methods.scrub import Scrub
from ssd_bench.methods.unseen import unseen
from ssd_bench.report.rows import across_seeds, by_task
from ssd_bench.report.summary import summarise
from ssd_bench.run import pipeline
from ssd_bench.scenarios.confusion import Confusion
from ssd_bench.scenarios.full_class import FullClass
from ssd_bench.scenarios.hard import Hard
from ssd_bench.scenarios.label_noise import LabelNoise
from ssd_bench.scenarios.listed import Listed
from ssd_bench.scenarios.poison import Poison
from ssd_bench.scenarios.random import Random
from ssd_bench.scenarios.sequence import Sequence
from ssd_bench.scenarios.sub_class import SubClass
from ssd_bench.store.address import address

SCENARIOS = [
    FullClass(target="vehicle2"), FullClass(target=["veg", "trees"], n_forget=7),
    FullClass(target="fish", placebo=True),
    SubClass(target="rocket"), SubClass(target="rocket", placebo=True),
    Random(n_forget=20), Random(n_forget=20, placebo=True),
    Sequence(requests=["rocket", "lamp"]), Sequence(requests=3, n_forget=20, of="random"),
    Confusion(), LabelNoise(), Poison(size=20, trigger_size=1),
]  # fmt: skip


@dataclass(frozen=True)
class Numbered(DataSettings):
    """CIFAR-20 in miniature, each image with a number of its own in place of its pixels; the last are for tests."""

    def load_all(self):
        whole = dataset(per_class=10)
        n = len(whole.train.fine)
        numbers = torch.arange(n + len(whole.test.fine))
        pixels = torch.stack([numbers // 256, numbers % 256, numbers * 0], 1).to(torch.uint8)[:, :, None, None]
        return replace(whole, train=Part(pixels[:n], whole.train.fine), test=Part(pixels[n:], whole.test.fine))


def numbers(pixels):
    return set((pixels[:, 0].long() * 256 + pixels[:, 1]).flatten().tolist())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SCENARIOS), st.sampled_from([0.1, 0.3, 0.6]), st.integers(0, 3), st.integers(0, 9))
def test_validation_images_are_of_no_request_and_no_test(scenario, share, subset_seed, seed):
    data = Numbered(validation=share, subset_seed=subset_seed).load()
    alone = scenario(data, {}, seed)
    whole, request = with_validation(data, alone)
    n = len(data.train.fine)
    train, test, validation = (numbers(part.pixels) for part in data.parts)
    assert not train & validation
    assert train | validation == set(range(1000))
    assert not test & (train | validation)
    assert torch.bincount(data.validation.fine).tolist() == [round(10 * share)] * 100
    assert torch.equal(whole.train.pixels[n:], data.validation.pixels)
    for step, before in zip((*request.earlier, request), (*alone.earlier, alone), strict=True):
        rows = [step.train, step.retain, step.forget, *(rows for part, rows in step.sets.values() if part == "train")]
        assert max(each.max() for each in rows) < n
        assert set(torch.cat([step.train, step.forget, step.gone]).tolist()) == set(range(n))  # all but validation
        assert torch.equal(step.forget, before.forget)
        assert torch.equal(step.train_labels[:n], before.train_labels)
        assert torch.equal(step.train_labels[n:], data.labelled(data.validation, "coarse"))
        if step.clean is None:
            level = "fine" if step.scenario == "sub_class" else "coarse"
            assert torch.equal(step.group, data.labelled(whole.train, level))


def test_it_is_the_same_for_all_methods_and_seeds():
    def made(*more):
        return pipeline.prepare(planned(*SHORT, "data.validation=0.1", *more))

    def seen(bench):
        images = bench.images["train"]
        return images.pixels[torch.arange(270, 300)]

    usual = made("method=scrub", "method.rewind=true")
    assert len(usual.images["train"]) == 300
    assert (usual.identity.task["n_train"], usual.skipped) == (270, None)
    for more in ("method=original", "method=retrain", "method=ssd"):
        other = made(more)
        assert torch.equal(seen(other), seen(usual))
        assert other.identity.original == usual.identity.original
    for more in ("seed=1", "seed_forget=3 scenario=random", "scenario=sub_class", "scenario=poison"):
        assert torch.equal(seen(made(*more.split())), seen(usual))
    others = made("data.subset_seed=1")
    assert not torch.equal(seen(others), seen(usual))


def test_zero_changes_nothing():
    usual, none = Digits().load(), Digits(validation=0).load()
    assert none is usual
    assert none.validation is None
    assert address(Digits(validation=0)) == address(Digits())
    assert "validation" not in address(Digits())["settings"]
    assert "validation" in address(Digits(validation=0.1))["settings"]
    request = FullClass(target="8")(usual, {}, 0)
    assert with_validation(usual, request) == (usual, request)


def test_subsets_and_holdout_come_first():
    whole = Digits().load()
    everything = {p.numpy().tobytes() for p in whole.train.pixels}
    tuning = Digits(holdout=0.2, validation=0.25).load()
    sizes = [len(part.fine) for part in tuning.parts]
    assert sum(sizes) == len(whole.train.fine)
    train, test, validation = ({p.numpy().tobytes() for p in part.pixels} for part in tuning.parts)
    assert train | test | validation == everything  # the test images stay unseen
    held = Digits(holdout=0.2).load()
    assert torch.equal(tuning.test.pixels, held.test.pixels)
    assert sizes[2] / len(held.train.fine) == pytest.approx(0.25, abs=0.01)
    few = Digits(train_per_class=20, validation=0.25).load()
    assert torch.bincount(few.train.fine).tolist() == [15] * 10
    assert torch.bincount(few.validation.fine).tolist() == [5] * 10
    assert few.fingerprint not in {tuning.fingerprint, held.fingerprint, Digits(train_per_class=15).load().fingerprint}


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_shares_out_of_range(share):
    with pytest.raises(ValueError, match="validation must be at least 0 and below 1"):
        Digits(validation=share)


def test_a_class_that_would_have_no_image_left_and_a_share_of_nothing_are_said():
    with pytest.raises(ConfigError, match=r"data.validation=0.99 leaves no training image of 0, which has 20; take"):
        Digits(train_per_class=20, validation=0.99).load()
    with pytest.raises(ConfigError, match=r"data.validation=0.01 of 20 images a class or fewer is none"):
        Digits(train_per_class=20, validation=0.01).load()


def test_files_keep_their_names_and_a_list_cannot_name_a_validation_image(tmp_path):
    root = classes(tmp_path / "set")
    data = folder(root, validation=0.4).load()
    assert [len(part.fine) for part in data.parts] == [6, 10, 4]
    assert sorted(data.train.files + data.validation.files) == sorted(folder(root).load().train.files)
    (tmp_path / "gone.txt").write_text(f"{data.train.files[1]}\n")
    assert Listed(str(tmp_path / "gone.txt"))(data, {}, 0).forget.tolist() == [1]
    (tmp_path / "gone.txt").write_text(f"{data.validation.files[1]}\n")
    with pytest.raises(ConfigError, match="is a validation image; no model was trained on it"):
        Listed(str(tmp_path / "gone.txt"))(data, {}, 0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not list what is mapped")
def test_many_images_are_mapped_and_the_same_as_few(tmp_path, monkeypatch):
    parts = folder(classes(tmp_path / "set"), validation=0.4).load().parts
    few = joined(parts)
    monkeypatch.setattr("ssd_bench.data.mapped.MANY_BYTES", 1)
    monkeypatch.setattr("ssd_bench.data.mapped.CHUNK", 3)
    many = joined(parts)
    assert torch.equal(many, few)
    assert ["tmp" in str(mapped(pixels)) for pixels in (few, many)] == [False, True]


def test_a_scenario_that_resizes_its_training_images_is_refused():
    data = Numbered(validation=0.1).load()
    request = FullClass(target="fish")(data, {}, 0)
    larger = Part(data.train.pixels.expand(-1, -1, 2, 2), data.train.fine)
    with pytest.raises(ConfigError, match="gives the training images another size"):
        with_validation(replace(data, train=larger), request)


def test_hard_images_go_by_a_pool_which_takes_none(tmp_path):
    with pytest.raises(ConfigError, match="takes no data"):
        Hard(pool=str(tmp_path))(Numbered(validation=0.1).load(), {}, 0)


def test_what_earlier_requests_forgot_is_no_validation():
    data = Numbered(validation=0.1).load()
    request = with_validation(data, Sequence(requests=3, n_forget=20, of="random")(data, {}, 0))[1]
    assert set(request.gone.tolist()) == set().union(*(set(each.forget.tolist()) for each in request.earlier))
    seen = torch.cat([request.train, request.gone])
    assert unseen(request, seen, request.train_labels).min() >= len(data.train.fine)
    assert Scrub(rewind=True).skip(request) is None
    for step in (*request.earlier, request):
        assert len(step.gone) == sum(len(each.forget) for each in step.earlier)


def test_compiled_runs_are_a_table_of_their_own_that_says_so():
    rows = [row("ssd", seed, 70.0) for seed in (0, 1)]
    rows[1]["config"] |= {"compile": True}
    assert len(by_task(rows)) == len(across_seeds(rows)) == 2
    titles = [summary.title for summary in summarise(rows, {each["path"]: {} for each in rows})]
    assert sorted(", compiled" in title for title in titles) == [False, True]


def test_no_table_and_no_placebo_of_the_one_stands_beside_the_other():
    rows = [row("ssd", 0, 70.0), row("ssd", 0, 70.0, task={"data_sha256": "less", "n_train": 450, "original": "other"})]
    assert len(by_task(rows)) == len(across_seeds(rows)) == 2
    rows[1] = row("ssd", 0, 70.0, task={"data_sha256": "less", "n_train": 450, "original": "other", "placebo": True})
    assert [summary.placebo for summary in summarise(rows, {each["path"]: {} for each in rows})] == [None, None]
