"""Correct a model that was trained on wrong labels: those of some training images were drawn anew."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Request
from ssd_bench.scenarios.corrective import Corrective, Manipulation, drawn_from


@dataclass(frozen=True)
class LabelNoise(Corrective):
    """Each image of S_m has a label drawn uniformly from those that are wrong.

    D'_f is S_m itself, judged by the true labels, D'_r all test images; `taught` is S_m, judged by the drawn labels.
    """

    share: float = 0.1
    own = ("taught",)

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        labels = dataset.labelled(dataset.train, dataset.labels)
        rows = drawn_from(torch.arange(len(labels)), self.count(len(labels), "training images"), seed)
        drawn = wrong(labels[rows], len(dataset.names(dataset.labels)), generator(seed, "noise"))
        done = Manipulation(
            rows=rows,
            labels=labels.index_copy(0, rows, drawn),
            sets={
                "forget": ("train", rows),
                "retain": ("test", torch.arange(len(dataset.test.fine))),
                "taught": ("train", rows),
            },
            judged_by={"taught": drawn},
        )
        return self.request("label_noise", dataset, done, seed)


def wrong(labels: Tensor, n_classes: int, draws_from: torch.Generator) -> Tensor:
    """For each label one of the others, uniformly."""
    return (labels + torch.randint(1, n_classes, labels.shape, generator=draws_from)) % n_classes
