"""SSD's relatives: the authors' own importances, dampened weights and thresholds, and cases worked by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import composed
from golden_data import FOLDER, Golden, by_hand

from ssd_bench.importance import sensitivity
from ssd_bench.methods.assd import ASSD, percentile_of_ratios
from ssd_bench.methods.ssd import SSD, dampen

KINDS = {  # the fixture's name -> estimator, what is differentiated
    "ssd": ("batch_mean", "loss"),
    "lfssd": ("batch_mean", "output_sq"),
    "xalfssd": ("batch_mean", "output"),
    "ssd_det": ("per_sample", "loss"),
    "lfssd_det": ("per_sample", "output_sq"),
}


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


def batches(golden, which):
    full = torch.cat([golden.retain, golden.forget])
    rows, size = {"D": (full, 8), "Dr": (golden.retain, 8), "Df": (golden.forget, 6), "Df_b4": (golden.forget, 4)}[
        which
    ]
    return [golden.data.images.batch(part) for part in rows.split(size)]


@pytest.mark.parametrize("kind", KINDS)
def test_released_importances(golden, kind):
    numbers = golden.numbers("importances")
    for which in ("D", "Dr", "Df", "Df_b4"):
        ours = sensitivity(golden.model, batches(golden, which), *KINDS[kind])
        for name, expected in golden.under(f"{kind}/{which}", numbers).items():
            assert (ours[name] - expected).norm() <= 1e-4 * expected.norm(), (which, name)


@pytest.mark.parametrize("kind", ["lfssd", "ssd_det", "lfssd_det"])
@pytest.mark.parametrize(("alpha", "lam"), [(1, 1), (1.5, 1), (2.5, 1), (1.5, 0.1)])
def test_released_dampening(golden, kind, alpha, lam):
    case = f"{kind}/alpha={alpha}/lambda={lam}"
    numbers, expected = golden.numbers("importances"), golden.under(case, golden.numbers("dampened"))
    model = golden.model
    counts = dampen(model, golden.under(f"{kind}/D", numbers), golden.under(f"{kind}/Df", numbers), alpha, lam)
    assert sum(counts.values()) == golden.expected["dampened"][case]["selected"]
    torch.testing.assert_close({name: p.detach() for name, p in model.named_parameters()}, expected)


@pytest.mark.parametrize("kind", ["lfssd", "ssd_det", "lfssd_det"])
def test_the_method_as_a_whole_selects_what_the_released_code_does(golden, kind):
    estimator, of = KINDS[kind]
    context = golden.context()
    method = SSD(alpha=1.5, importance=estimator, sensitivity=of, order="request", batch_size=8)
    method(golden.model, golden.data, context)
    expected = golden.expected["dampened"][f"{kind}/alpha=1.5/lambda=1"]["selected"]
    assert abs(context.details["selected"] - expected) <= 1


@pytest.mark.parametrize(
    ("reference", "case", "beyond"),
    [("full", "reference_D_eval", False), ("retain", "notebook_reference_Dr_eval", True)],
)
def test_released_adaptive_alpha(golden, reference, case, beyond):
    context, expected = golden.context(), golden.expected["assd"][case]
    made = ASSD(order="request", batch_size=8, reference=reference)(golden.model, golden.data, context)
    assert context.details["percentile"] == pytest.approx(96.95547756)
    assert context.details["alpha"] == pytest.approx(expected["alpha"], rel=1e-3)
    assert abs(context.details["selected"] - expected["changed"]) <= 1
    assert (context.details["beyond"] > 0) == beyond  # what D_f alone excites is dampened beside the percentile's share
    torch.testing.assert_close(
        dict(made.state_dict()), golden.under(case, golden.numbers("assd")), rtol=1e-3, atol=1e-6
    )


def of_hand(rows, *how):
    model, data = by_hand()
    return sensitivity(model, [data.images.batch(torch.tensor(rows))], *how)["weight"]


HAND = {
    "all, in one batch": ([0, 1, 2, 3], ("batch_mean", "output_sq"), [[3, 0.5], [1, 3]]),
    "D_f, in one batch": ([2, 3], ("batch_mean", "output_sq"), [[5, 1], [2, 4]]),
    "all, each by itself": ([0, 1, 2, 3], ("per_sample", "output_sq"), [[3, 1.5], [3, 3]]),
    "D_f, each by itself": ([2, 3], ("per_sample", "output_sq"), [[5, 3], [6, 4]]),
    "one, squared": ([2], ("batch_mean", "output_sq"), [[2, 2], [4, 4]]),
    "one, not squared": ([2], ("batch_mean", "output"), [[0.447214, 0.447214], [0.894427, 0.894427]]),
}


@pytest.mark.parametrize("case", HAND)
def test_importances_by_hand(case):
    rows, how, expected = HAND[case]
    torch.testing.assert_close(of_hand(rows, *how), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("of", ["output_sq", "output"])
@pytest.mark.parametrize("estimator", ["batch_mean", "per_sample"])
def test_without_labels_means_without(golden, estimator, of):
    inputs, labels = golden.data.images.batch(golden.retain)
    ours, others = (sensitivity(golden.model, [(inputs, y)], estimator, of) for y in (labels, (labels + 1) % 5))
    assert all(torch.equal(t, others[name]) for name, t in ours.items())


def test_scaled_logits_select_the_same(golden):
    """c times the last layer: c^2 times the importances before it and c times its own, of D and of D_f alike."""
    scaled = golden.model
    for p in scaled.fc.parameters():
        p.data *= 3
    for which in ("D", "Df"):
        ours, others = (
            sensitivity(m, batches(golden, which), "batch_mean", "output_sq") for m in (golden.model, scaled)
        )
        for name, t in ours.items():
            torch.testing.assert_close(others[name], t * (3 if name.startswith("fc") else 9), rtol=1e-3, atol=1e-6)


def test_per_sample_importances_have_their_bound(golden):
    full, forget = (
        sensitivity(golden.model, batches(golden, which), "per_sample", "output_sq") for which in ("D", "Df")
    )
    assert all((forget[name] <= full[name] * 30 / 6 * 1.0001 + 1e-9).all() for name in full)


def ratios(*numbers):
    return {"weight": torch.ones(len(numbers))}, {"weight": torch.tensor(numbers)}


@pytest.mark.parametrize(("percentile", "alpha"), [(90, 8.1), (98.2082, 8.8387)])
def test_percentiles_by_hand(percentile, alpha):
    of = ratios(0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0)
    assert percentile_of_ratios(*of, percentile)[0] == pytest.approx(alpha, abs=1e-4)


def test_ratios_without_meaning_are_left_out_of_the_percentile():
    full, forget = ratios(1.0, 2.0, 3.0, 5.0, 0.0)
    full["weight"][3:] = 0  # 5/0 and 0/0
    assert percentile_of_ratios(full, forget, 50) == (2.0, 1)


@pytest.mark.parametrize("n_forget", [1, 3, 6])
def test_the_share_that_is_selected_follows_from_the_share_that_is_forgotten(golden, n_forget):
    data = replace(
        golden.data, forget=golden.forget[:n_forget], retain=torch.cat([golden.retain, golden.forget[n_forget:]])
    )
    context = golden.context()
    ASSD(order="request", batch_size=8)(golden.model, data, context)
    percentile = 100 - np.log1p(100 * n_forget / 30)
    full, _ = ASSD(order="request", batch_size=8).batches(data)
    of_full = sensitivity(golden.model, [data.images.batch(rows) for rows in full])
    n = sum(int((t > 0).sum()) for t in of_full.values())
    assert abs(context.details["selected"] - (n - 1 - int((n - 1) * percentile / 100))) <= 1


def test_the_scale_of_the_importances_of_what_is_forgotten_changes_nothing_but_alpha(golden):
    numbers = golden.numbers("importances")
    full, forget = (golden.under(f"ssd/{which}", numbers) for which in ("D", "Df"))
    scaled = {name: 7 * t for name, t in forget.items()}
    alphas = [percentile_of_ratios(full, each, 97)[0] for each in (forget, scaled)]
    assert alphas[1] == pytest.approx(7 * alphas[0], rel=1e-6)
    chosen = [dampen(copy.deepcopy(golden.model), full, f, a, 1) for f, a in zip((forget, scaled), alphas, strict=True)]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("chosen", "alpha", "order"),
    [
        ("data=cifar20 scenario=full_class", 5, "class_pure"),
        ("data=cifar100 scenario=full_class", 10, "class_pure"),
        ("data=cifar20 scenario=sub_class", 10, "class_pure"),
        ("data=digits scenario=sub_class", 5, "class_pure"),
        ("data=cifar10 scenario=random", 3.5, "mixed"),
        ("data=cifar10 scenario=random fidelity=official", 3.5, "request"),
    ],
)
def test_published_settings(chosen, alpha, order):
    method = composed("method=lfssd", *chosen.split()).method
    assert (method.alpha, method.order, method.sensitivity) == (alpha, order, "output_sq")
    assert composed("method=assd", *chosen.split()).method.order == order


@pytest.mark.parametrize("setting", ["sensitivity=gradient", "reference=forget"])
def test_settings_out_of_range(setting):
    key, value = setting.split("=")
    with pytest.raises(ValueError, match=key):
        ASSD(**{key: value})
