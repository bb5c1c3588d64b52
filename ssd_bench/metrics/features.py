"""Whether the features still hold a class that the outputs do not say: linear probes and prototypes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssd_bench.core.errors import check_range
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Cost, Outputs, Probed, Request
from ssd_bench.metrics import About
from ssd_bench.metrics.roc import auc
from ssd_bench.train.features import LAST, features

log = logging.getLogger(__name__)

SHOTS = (1, 5, 10, 50)
DRAWS = 5
VALID = "requests for a class"


@dataclass(frozen=True)
class Features:
    """What can be read off the numbers that the last layer sees, by somebody who has images of the class.

    The class is the finest that the request names: of a sub-class, the sub-class among all others. samples: training
    images, D_f included, that the probe is fitted to and the other classes' prototypes are the means of. ridge: of the
    probe, times half the squared weights, beside the mean loss. shots: how many images of D_f make a prototype.
    """

    samples: int = 5000
    ridge: float = 0.001
    shots: list[int] = field(default_factory=lambda: list(SHOTS))
    seed: int = 0
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("model",)
    about: ClassVar[dict[str, About]] = {
        "probe_recall": About("percent", "retrained", VALID, ("forget",), 20, "probe recall %", 1),
        "probe_auc": About("fraction", "retrained", VALID, ("forget",), 20, "probe AUC"),
        "prototype_recall": About("percent", "retrained", VALID, ("forget",), 20, "prototype recall %", 1),
        **{
            f"prototype_recall_{k}": About("percent", "retrained", VALID, ("forget",), 20, "", 1, "none") for k in SHOTS
        },
    }

    def __post_init__(self) -> None:
        check_range("samples", self.samples, 2)
        check_range("ridge", self.ridge, above=0)
        if not self.shots or min(self.shots) < 1:
            raise ValueError(f"shots must be numbers of images from 1 on, got {self.shots}")

    def cost(self, request: Request) -> Cost:
        if not told_by_images(request):
            return Cost()
        fitted_to = min(self.samples, len(torch.cat([request.train, request.forget]).unique()))
        shots = DRAWS * min(max(self.shots), len(request.forget))
        return Cost(forward=fitted_to + shots + sum(len(request.sets[name][1]) for name in ("forget", "retain")))

    def __call__(self, seen: Outputs, probed: Probed) -> dict[str, float | None]:
        if reason := why_not(probed):
            level = logging.DEBUG if probed.request.target_index is None else logging.INFO  # it is measured by default
            log.log(level, "features: no value, for %s", reason)
            return dict.fromkeys(self.about)
        request, draws = probed.request, generator(self.seed, "features")
        group = request.group
        rows = stratified(torch.cat([request.train, request.forget]).unique(), group, self.samples, draws)
        most = min(max(self.shots), len(request.forget))
        drawn = torch.stack([torch.randperm(len(request.forget), generator=draws)[:most] for _ in range(DRAWS)])
        train = last_features(probed, "train", rows)
        forget = last_features(probed, "train", request.forget[drawn.flatten()]).view(*drawn.shape, -1)
        unseen, others = (last_features(probed, "test", request.sets[name][1]) for name in ("forget", "retain"))
        wanted = int(group[request.forget[0]])
        recall, separable = probe(train, group[rows], unseen, others, wanted, self.ridge)
        means = class_means(train, group[rows], wanted)
        found = {k: prototype_recall(forget[:, :k], means, unseen) for k in self.shots if k <= most}
        values = dict.fromkeys(self.about) | {f"prototype_recall_{k}": recall for k, recall in found.items()}
        together = sum(found.values()) / len(found) if found else None
        return values | {"probe_recall": recall, "probe_auc": separable, "prototype_recall": together}


def told_by_images(request: Request) -> bool:
    """Whether a class is to be forgotten, and test images show it."""
    return request.forget_label is not None and request.unseen is not None


def why_not(probed: Probed) -> str | None:
    """Why the features of a model cannot be judged; None where they can."""
    if probed.request.target_index is None:
        return "what is to be forgotten is not one class"
    if probed.unseen is None:
        return "no test images show what is to be forgotten"
    head = dict(probed.model.named_modules()).get(probed.head)
    if not isinstance(head, nn.Linear) or head is probed.model:
        return f"the last layer ({probed.head or 'not found'}) is no Linear inside the model"
    try:
        last_features(probed, "test", probed.unseen[:2])
    except ValueError as e:
        return str(e)
    return None


def last_features(probed: Probed, part: str, rows: Tensor) -> Tensor:
    """What the last layer sees of these rows: n x d, float64."""
    return features(probed.model, probed.head, probed.images[part], rows, probed.batch_size)[LAST].double()


def stratified(rows: Tensor, group: Tensor, samples: int, draws: torch.Generator) -> Tensor:
    """About that many of the rows, the same share of each group and at least one of it: int64, ascending."""
    order = rows[torch.randperm(len(rows), generator=draws)]
    order = order[group[order].argsort(stable=True)]
    _, place, counts = group[order].unique(return_inverse=True, return_counts=True)
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[place]
    wanted = torch.ceil(counts.double() * min(1.0, samples / len(rows)))
    return order[rank < wanted[place]].sort().values


def probe(
    train: Tensor, labels: Tensor, unseen: Tensor, others: Tensor, wanted: int, ridge: float
) -> tuple[float, float]:
    """Recall (percent) and AUC of a class by a multinomial logistic regression on standardised features.

    train: n x d with n labels; unseen: images of the class `wanted`, others: images of the other classes, each m x d.
    The AUC is that of the log-odds of the class, one against the rest.
    """
    from sklearn.linear_model import LogisticRegression

    mean, std = train.mean(0), train.std(0)
    train, unseen, others = (((x - mean) / torch.where(std > 0, std, 1.0)).numpy() for x in (train, unseen, others))
    model = LogisticRegression(C=1 / (ridge * len(train)), max_iter=1000).fit(train, labels.numpy())
    column = model.classes_.tolist().index(wanted)
    scores = (torch.from_numpy(model.decision_function(x)) for x in (unseen, others))
    inside, outside = (_log_odds(each, column).numpy() for each in scores)
    return 100 * float((model.predict(unseen) == wanted).mean()), auc(inside, outside)


def _log_odds(scores: Tensor, column: int) -> Tensor:
    """ln(p / (1 - p)) of one class. scores: n x classes, or n of the second of two."""
    if scores.ndim == 1:
        return scores if column == 1 else -scores
    rest = torch.cat([scores[:, :column], scores[:, column + 1 :]], dim=1)
    return scores[:, column] - rest.logsumexp(1)


def class_means(x: Tensor, labels: Tensor, without: int) -> Tensor:
    """The mean direction of each class but one: classes x d, of length 1. x: n x d."""
    kept = labels != without
    names, place = labels[kept].unique(return_inverse=True)
    sums = x.new_zeros(len(names), x.shape[1]).index_add_(0, place, normalize(x[kept], dim=1))
    return normalize(sums, dim=1)


def prototype_recall(shots: Tensor, others: Tensor, unseen: Tensor) -> float:
    """Share (percent) of a class's images that are nearer by cosine to its prototype than to any other class's.

    shots: draws x k x d, images of the class, whose mean direction is a prototype (arXiv 2506.01318); others: classes x
    d, the other prototypes; unseen: n x d. The mean over draws.
    """
    own = normalize(normalize(shots, dim=2).sum(1), dim=1)
    unseen = normalize(unseen, dim=1)
    best = (unseen @ others.T).amax(1, keepdim=True)
    return 100 * (unseen @ own.T > best).double().mean().item()
