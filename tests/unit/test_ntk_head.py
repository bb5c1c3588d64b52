"""NTK scrubbing of the last layer: the whole Jacobian's numbers, and what follows from its definition."""

from dataclasses import replace

import pytest
import torch
from golden_data import Golden
from torch import nn

from ssd_bench.core.seeds import initial_seed
from ssd_bench.methods.ntk_head import NtkHead, moments, weights


@pytest.fixture
def golden():
    return Golden()


def by_rows(w):
    """As the numbers are stored: the weight row by row, then the bias."""
    return torch.cat([w[:-1].T.reshape(-1), w[-1]])


def test_both_solutions_are_those_of_the_whole_jacobian(golden):
    numbers, model, method = golden.numbers("ntk_head"), golden.model, NtkHead(ridge=0.1)
    rows = {"w_of_D": torch.cat([golden.retain, golden.forget]), "w_of_D_r": golden.retain}
    for name, of in rows.items():
        w = method.solved(moments(model, model.fc, golden.data, of))
        torch.testing.assert_close(by_rows(w), numbers[name].double(), rtol=0, atol=1e-6)


def test_the_step_without_scaling_is_delta_and_in_the_last_layer_alone(golden):
    made = NtkHead(ridge=0.1, scale="none")(golden.model, golden.data, golden.context())
    moved = weights(made.fc) - weights(golden.model.fc)
    torch.testing.assert_close(by_rows(moved), golden.numbers("ntk_head")["delta"].double(), rtol=0, atol=1e-6)
    for name, t in made.state_dict().items():
        assert name.startswith("fc.") or torch.equal(t, golden.original[name]), name


@pytest.mark.parametrize("start", ["fresh", "original"])
def test_the_trapezium_makes_the_step_longer(golden, start):
    context = golden.context()
    made = NtkHead(start=start)(golden.model, golden.data, context)
    numbers = {name: t.double() for name, t in golden.numbers("ntk_head").items()}
    moved = by_rows(weights(made.fc) - weights(golden.model.fc))
    e = -numbers["w_of_D_r"]
    if start == "fresh":
        e = e + by_rows(weights(golden.model.fc) - weights(context.fresh_model(initial_seed(0)).fc))
    cosine = (numbers["delta"] @ e / numbers["delta"].norm() / e.norm()).item()
    expected = numbers["delta"].norm() + 2 * abs(cosine) * e.norm()
    torch.testing.assert_close(moved.norm(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(moved / moved.norm(), numbers["delta"] / numbers["delta"].norm(), rtol=0, atol=1e-4)


def test_a_placebo_is_taken_out_of_what_it_was_never_part_of(golden):
    context, data = golden.context(), replace(golden.data, rows=golden.retain)
    made = NtkHead(scale="none")(golden.model, data, context)
    moved = by_rows(weights(made.fc) - weights(golden.model.fc))
    torch.testing.assert_close(moved, golden.numbers("ntk_head")["delta"].double(), rtol=0, atol=1e-6)


def test_a_layer_without_bias_has_no_column_of_ones(golden):
    model = golden.model
    model.fc.bias = None
    assert moments(model, model.fc, golden.data, golden.retain)["square"].shape == (6, 6)
    made = NtkHead(start="original")(model, golden.data, golden.context())
    assert not torch.equal(made.fc.weight, golden.original["fc.weight"])


def test_a_compiled_model_is_looked_into_as_well(golden):
    model = golden.model.eval()
    model.compile(backend="eager")
    with torch.no_grad():
        model(golden.given["inputs"][golden.retain])
    plain = golden.model
    expected = moments(plain, plain.fc, golden.data, golden.retain)
    torch.testing.assert_close(moments(model, model.fc, golden.data, golden.retain), expected)


def test_it_wants_a_linear_last_layer(golden):
    model, context = golden.model, golden.context()
    model.fc = nn.Sequential(nn.Linear(6, 5))
    with pytest.raises(
        ValueError, match="ntk_head needs a last layer that is a Linear inside the model, not Sequential"
    ):
        NtkHead()(model, golden.data, context)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"ridge": 0.0}, "ridge must be positive, got 0"),
        ({"scale": "trapez"}, "did you mean 'trapezium'"),
        ({"start": "init"}, "start=init does not exist"),
    ],
)
def test_settings_out_of_range(setting, line):
    with pytest.raises(ValueError, match=line):
        NtkHead(**setting)
