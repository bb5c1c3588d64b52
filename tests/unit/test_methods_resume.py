"""Methods that train and are killed in the middle of an epoch end with the bytes of one that was not."""

from dataclasses import replace

import pytest
import torch
from golden_data import FOLDER, Golden

from ssd_bench.methods.amun import Amun
from ssd_bench.methods.boundary_expand import BoundaryExpand
from ssd_bench.methods.boundary_shrink import BoundaryShrink
from ssd_bench.methods.cf_k import CFk
from ssd_bench.methods.ct import CT
from ssd_bench.methods.eu_k import EUk
from ssd_bench.methods.jit import JiT
from ssd_bench.methods.lotus import LoTUS
from ssd_bench.methods.msg import MSG
from ssd_bench.methods.mu_mis import MUMis
from ssd_bench.methods.prune_finetune import PruneFinetune
from ssd_bench.methods.scrub import Scrub
from ssd_bench.train.recipe import Recipe

METHODS = {
    "lotus": LoTUS(epochs=3, lr=0.01, batch_size=6),
    "amun": Amun(epochs=3, steps=3, batch_size=9, lr_step=2),
    "cf_k": CFk(k=1, epochs=2, batch_size=6, penalty=0.1),
    "eu_k": EUk(k=1),
    "boundary_shrink": BoundaryShrink(lr=0.01, epochs=3, batch_size=3),
    "boundary_expand": BoundaryExpand(lr=0.01, epochs=3, batch_size=3, mode="train"),
    "jit": JiT(n_samples=2, epochs=3, batch_size=3, accumulate=True),
    "msg": MSG(epochs=2, batch_size=6, score_mode="train"),
    "ct": CT(epochs=2, batch_size=6),
    "mu_mis": MUMis(epochs=3, batch_size=3),
    "scrub": Scrub(epochs=3, lr=0.05, forget_batch_size=3, retain_batch_size=6, rewind=True),
    "prune_finetune": PruneFinetune(rate=0.5, epochs=2, batch_size=6),
}


LATER = {"scrub": 9}  # killed after this step: in its second epoch, when a student is kept


class Killed(Exception):
    """The process is gone."""


class Kept:
    """Keeps what is saved after the third step, or a later one, and then the process is killed."""

    def __init__(self, after=3):
        self.saved, self.asked, self.after = None, 0, after

    def due(self):
        self.asked += 1
        return self.saved is None and self.asked == self.after

    def save(self, tensors, state):
        if self.asked >= self.after:
            self.saved = {name: t.clone() for name, t in tensors.items()}, state
            raise Killed

    def restore(self):
        return self.saved


class Uninterrupted(Kept):
    def due(self):
        return False

    def save(self, tensors, state):
        pass


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_was_killed_ends_with_the_same_bytes(name):
    golden, method = Golden(FOLDER / "ssd_family"), METHODS[name]
    left_out, forget = golden.data.forget.split([1, len(golden.data.forget) - 1])  # an image that nobody was trained on
    data = replace(golden.data, forget=forget, rows=golden.data.rows[golden.data.rows != left_out])

    def run(kept):
        torch.manual_seed(0)  # as whoever calls a method does
        context = replace(golden.context(), checkpoint=lambda phase: kept, recipe=Recipe(epochs=2, batch_size=6))
        return method(golden.model, data, context).state_dict()

    expected, kept = run(Uninterrupted()), Kept(LATER.get(name, 3))
    with pytest.raises(Killed):
        run(kept)
    resumed = Uninterrupted()
    resumed.saved = kept.saved
    assert kept.saved[1]["batches"] > 0 or kept.saved[1]["epoch"] > 1
    assert all(torch.equal(t, expected[key]) for key, t in run(resumed).items())
