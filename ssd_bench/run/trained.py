"""What is trained from a random start: found in the store, or trained now."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.seeds import generator, initial_seed, seeded
from ssd_bench.core.task import Images
from ssd_bench.run.bench import Bench
from ssd_bench.run.identity import Trained
from ssd_bench.store.artefacts import Artefact
from ssd_bench.store.resume import checkpoints
from ssd_bench.train.loop import Checkpoint, Pass, fit
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

KIND = "trained"


class BestTest:
    """After each epoch, keeps the weights with the best accuracy on the test images, as the released code does.

    A leak, and there for comparison alone (recipe.select=best_test).
    """

    def __init__(self, model: nn.Module, test: Images) -> None:
        self.model, self.test = model, test
        self.state: dict[str, Tensor] = {}  # "accuracy" and the weights

    def __call__(self, epoch: int) -> None:
        logits = predict(self.model, self.test, torch.arange(len(self.test)), 128)
        accuracy = (logits.argmax(1) == self.test.labels.cpu()).double().mean()
        if "accuracy" not in self.state or accuracy > self.state["accuracy"]:
            self.state.update(copy.deepcopy(self.model.state_dict()), accuracy=accuracy)

    def restore(self) -> None:
        """Put the best weights into the model."""
        self.model.load_state_dict({name: t for name, t in self.state.items() if name != "accuracy"})


def initial(bench: Bench, seed: int) -> nn.Module:
    """The model that every training of this seed starts from: the original and the retrained one begin alike."""
    return bench.new_model(initial_seed(seed))


def train(bench: Bench, wanted: Trained, what: str, checkpoint: Checkpoint | None = None) -> nn.Module:
    """Train `wanted`; what: the name shown beside the progress."""
    model = bench.compiled(initial(bench, wanted.seed))
    test = bench.images["test"].take(torch.arange(len(bench.request.test_labels)))  # no copies of the scenario's
    best = BestTest(model, test) if wanted.recipe.select == "best_test" else None
    augment = wanted.augment if wanted.recipe.augment else None
    images, more = bench.images["train"], {"augment": augment, "after_epoch": best, "checkpoint": checkpoint}
    train_from(model, images, wanted.rows, wanted.recipe, wanted.seed, what, **more)
    if best:
        best.restore()
    return model


def train_from(
    model: nn.Module, images: Images, rows: Tensor, recipe: Recipe, seed: int, what: str, **more: Any
) -> nn.Module:
    """Train this initial model on these rows, in place; all that is drawn follows `seed`. more: as `fit` takes it."""

    def passes(epoch: int) -> list[Pass]:
        return [Pass(recipe.epoch_rows(rows, epoch, seed))]

    with seeded(seed, "trained"):
        return fit(model, images, passes, recipe, generator(seed, "trained", "batches"), what, **more)


def train_or_find(bench: Bench, wanted: Trained, what: str, anew: bool = False) -> Artefact:
    """The weights of `wanted`: found in the store, or trained now (always if `anew`)."""
    with checkpoints(bench.store, KIND, wanted.key) as resumed:

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            return train(bench, wanted, what, resumed("training")).state_dict(), {"parallel": bench.parallel}

        return bench.store.get_or_make(KIND, wanted.key, make, anew, clock=resumed.clock)
