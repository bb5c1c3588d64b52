"""The control that masks a class: what it changes, what it must not, and where it makes no sense."""

import pytest
import torch
from golden_data import FOLDER, Golden
from torch import nn

import ssd_bench
from ssd_bench.methods.mask_head import MaskHead


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


def test_one_row_changes_and_the_class_is_never_said(golden):
    made = MaskHead()(golden.model, golden.data, golden.context())
    changed = {name for name, t in made.state_dict().items() if not torch.equal(t, golden.original[name])}
    assert changed == {"fc.weight", "fc.bias"}
    others = torch.arange(5) != 4
    assert torch.equal(made.fc.weight[others], golden.original["fc.weight"][others])
    inputs, _ = golden.data.images.batch(golden.data.rows)
    before, after = golden.model.eval()(inputs), made.eval()(inputs)
    assert (before.argmax(1) == 4).any()
    assert (after[:, 4] == -1e4).all()
    torch.testing.assert_close(after[:, others], before[:, others])


def samples(labels):
    draws = torch.Generator().manual_seed(0)
    return torch.randn(len(labels), 4, generator=draws), torch.tensor(labels)


@pytest.mark.parametrize(
    ("retain", "forget", "said"),
    [([0, 1, 2], [2, 2], "forgotten whole; some of 2 is to be kept"), ([0, 1, 2], [1, 2], "needs classes to forget")],
)
def test_it_makes_no_sense_where_no_class_goes_as_a_whole(retain, forget, said):
    kept, gone = samples(retain), samples(forget)
    with pytest.raises(ValueError, match=said):
        ssd_bench.unlearn(nn.Linear(4, 3), retain=kept, forget=(gone[0] + 1, gone[1]), method="mask_head")


def test_a_placebo_of_a_class_is_skipped(command, tmp_path):
    ended = command("method=mask_head", "scenario.placebo=true", "train.epochs=1", "model.width=4", f"out={tmp_path}")
    assert (ended.code, ended.row["status"]) == (0, "skipped")


def test_a_last_layer_without_a_bias_is_one_line():
    kept, gone = samples([0, 1, 1]), samples([2, 2])
    with pytest.raises(ValueError, match="needs a last layer with a bias"):
        ssd_bench.unlearn(
            nn.Linear(4, 3, bias=False), retain=kept, forget=(gone[0] + 1, gone[1]), method="mask_head"
        )  # fmt: skip


@pytest.mark.parametrize("bias", [0.0, 3.0, float("-inf"), float("nan")])
def test_settings_out_of_range(bias):
    with pytest.raises(ValueError, match="bias must be negative and finite"):
        MaskHead(bias=bias)
