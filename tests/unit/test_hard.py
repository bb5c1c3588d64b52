"""The hard scenario: which images a pool's scores choose, and what is said without a pool."""

import json

import pytest
from test_scenarios import assert_partition, dataset

from ssd_bench.core.errors import ConfigError
from ssd_bench.scenarios.hard import Hard

SCORES = {7: 3.0, 11: 2.0, 40: 1.0, 41: 0.5, 300: 0.1, 301: -0.5}  # by row; 300 was never learnt


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "pool.json").write_text(json.dumps({"data": "cifar20", "data_sha256": dataset().fingerprint}))
    lines = ["row,part,correct_in,margin_gain,margin_gain_0"]
    lines += [f"{row},single,{0.2 if row == 300 else 1.0},{score},{-score}" for row, score in SCORES.items()]
    (tmp_path / "samples.csv").write_text("\n".join([*lines, "400,block_0,1.0,9.0,9.0"]))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ({"group": "most"}, {7, 11}),
        ({"group": "least"}, {41, 301}),
        ({"group": "middle", "n_forget": 1}, {40}),
        ({"group": "most", "by": "margin_gain_0"}, {301, 300}),
        ({"group": "most", "n_forget": 6}, set(SCORES)),
    ],
)
def test_the_scores_choose(pool, asked, rows):
    task = Hard(pool=pool, **({"n_forget": 2} | asked))(dataset(), {}, 0)
    assert set(task.forget.tolist()) == rows
    assert_partition(task, 500)
    assert task.sets["forget"] == ("train", task.forget)
    assert task.target == f"{len(rows)} {asked['group']} memorised"
    assert (task.forget_label, task.drawn) == (None, False)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"pool": None}, "needs scenario.pool=FOLDER.*ssd-bench-pool"),
        ({"pool": "nowhere"}, "holds no pool.json.*ssd-bench-pool"),
        ({"n_forget": 7}, "the pool scores 6 images"),
        ({"by": "margin"}, "scenario.by=margin does not exist; did you mean 'margin_gain'"),
    ],
)
def test_what_cannot_be_chosen_is_said(pool, asked, message):
    with pytest.raises(ConfigError, match=message):
        Hard(**({"pool": pool} | asked))(dataset(), {}, 0)


def test_a_pool_of_other_images_is_refused(pool):
    other = dataset(per_class=6)
    object.__setattr__(other, "fingerprint", "y")
    with pytest.raises(ConfigError, match="a pool of other images"):
        Hard(pool=pool)(other, {}, 0)


@pytest.mark.parametrize("asked", [{"group": "hardest"}, {"n_forget": 0}])
def test_settings_out_of_range(asked):
    with pytest.raises((ConfigError, ValueError), match=next(iter(asked))):
        Hard(**asked)
