"""Whether the features still hold a class that the outputs do not say: linear probes and prototypes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ssd_bench.core.errors import check_range
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Outputs, Probed, Request
from ssd_bench.metrics import About
from ssd_bench.metrics.roc import auc
from ssd_bench.train.features import LAST, features

log = logging.getLogger(__name__)

SHOTS = (1, 5, 10, 50)
DRAWS = 5
VALID = "requests for a class"
MOST_ITERATIONS = 1000  # of the probe's fit
FLAT = 1e-4  # the largest slope at which it ends


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
    version: ClassVar[int] = 2  # 1: fitted by scikit-learn, to the same slope; two classes by another objective
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

    def reads(self, request: Request) -> dict[str, Tensor]:
        """Training and test images, whose features are handed over where they are evaluated anyhow."""
        if not told_by_images(request):
            return {}
        rows, drawn = self._drawn(request)
        unseen = [request.sets[name][1] for name in ("forget", "retain")]
        return {"train": torch.cat([rows, drawn.flatten()]).unique(), "test": torch.cat(unseen).unique()}

    def _drawn(self, request: Request) -> tuple[Tensor, Tensor]:
        """Rows of training images: what the probe is fitted to, ascending; draws x k of D_f."""
        draws = generator(self.seed, "features")
        rows = stratified(torch.cat([request.train, request.forget]).unique(), request.group, self.samples, draws)
        most = min(max(self.shots), len(request.forget))
        places = torch.stack([torch.randperm(len(request.forget), generator=draws)[:most] for _ in range(DRAWS)])
        return rows, request.forget[places]

    def __call__(self, seen: Outputs, probed: Probed) -> dict[str, float | None]:
        if reason := why_not(probed):
            level = logging.DEBUG if probed.request.forget_label is None else logging.INFO  # it is measured by default
            log.log(level, "features: no value, for %s", reason)
            return dict.fromkeys(self.about)
        request, group = probed.request, probed.request.group
        rows, drawn = self._drawn(request)
        together = read_features(probed, "train", torch.cat([rows, drawn.flatten()]))
        train, forget = together[: len(rows)], together[len(rows) :].view(*drawn.shape, -1)
        sets = [request.sets[name][1] for name in ("forget", "retain")]
        unseen, others = read_features(probed, "test", torch.cat(sets)).split([len(each) for each in sets])
        wanted = int(group[request.forget[0]])
        place = probed.images["train"].device
        at = torch.device("cpu") if place.type == "mps" else place  # which has no float64
        told = probe(*(each.to(at) for each in (train, group[rows], unseen, others)), wanted, self.ridge)
        means = class_means(train, group[rows], wanted)
        found = {k: prototype_recall(forget[:, :k], means, unseen) for k in self.shots if k <= drawn.shape[1]}
        values = dict.fromkeys(self.about) | {f"prototype_recall_{k}": recall for k, recall in found.items()}
        mean = sum(found.values()) / len(found) if found else None
        return values | {"probe_recall": told[0], "probe_auc": told[1], "prototype_recall": mean}


def told_by_images(request: Request) -> bool:
    """Whether a class is to be forgotten, and test images show it and others."""
    return request.forget_label is not None and request.unseen is not None and "retain" in request.sets


def why_not(probed: Probed) -> str | None:
    """Why the features of a model cannot be judged; None where they can."""
    if probed.request.forget_label is None:
        return "what is to be forgotten is not one class"
    if not len(probed.request.retain):
        return "no images that are to be kept are known"
    if probed.unseen is None:
        return "no test images show what is to be forgotten"
    if "retain" not in probed.request.sets:
        return "no test images show what is to be kept"
    head = dict(probed.model.named_modules()).get(probed.head)
    if not isinstance(head, nn.Linear) or head is probed.model:
        return f"the last layer ({probed.head or 'not found'}) is no Linear inside the model"
    try:
        last_features(probed, "test", probed.unseen[:2])
    except ValueError as e:
        return str(e)
    return None


def last_features(probed: Probed, part: str, rows: Tensor) -> Tensor:
    """What the last layer sees of these rows: n x d, float64. Raises ValueError as `train.features.features`."""
    return features(probed.model, probed.head, probed.images[part], rows, probed.batch_size)[LAST].double()


def read_features(probed: Probed, part: str, wanted: Tensor) -> Tensor:
    """The same, no image passed twice, and none that the model was asked about before."""
    asked, back = wanted.unique(return_inverse=True)
    there = probed.passed and probed.passed(part)
    if there is None:
        return last_features(probed, part, asked)[back]
    rows, seen = there
    known = torch.isin(asked, rows)
    of_known = seen[torch.searchsorted(rows, asked[known])].double()
    found = of_known.new_empty(len(asked), of_known.shape[1])
    found[known] = of_known
    if not known.all():
        found[~known] = last_features(probed, part, asked[~known])
    return found[back]


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

    train: n x d, float64, with n labels; unseen: images of the class `wanted`, others: images of the other classes,
    each m x d; all on one device, where the regression is fitted. The AUC is that of the log-odds of the class, one
    against the rest.
    """
    mean, std = train.mean(0), train.std(0)
    train, unseen, others = ((x - mean) / torch.where(std > 0, std, 1.0) for x in (train, unseen, others))
    classes, place = labels.to(train.device).unique(return_inverse=True)
    weight, bias = regression(train, place, len(classes), ridge)
    column = classes.tolist().index(wanted)
    inside, outside = (torch.addmm(bias, x, weight) for x in (unseen, others))
    recall = 100 * (inside.argmax(1) == column).double().mean().item()
    return recall, auc(*(_log_odds(each, column).cpu().numpy() for each in (inside, outside)))


def regression(x: Tensor, place: Tensor, n_classes: int, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights (d x classes) and biases that minimise the mean cross-entropy + ridge / 2 |weights|^2; x: n x d."""
    weight, bias = x.new_zeros(x.shape[1], n_classes), x.new_zeros(n_classes)
    found = [weight.requires_grad_(), bias.requires_grad_()]
    until = {
        "max_iter": MOST_ITERATIONS,
        "max_eval": 2 * MOST_ITERATIONS,
        "tolerance_grad": FLAT,
        "tolerance_change": 0,
    }
    optimizer = torch.optim.LBFGS(found, history_size=10, line_search_fn="strong_wolfe", **until)

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(torch.addmm(bias, x, weight), place) + ridge / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(objective)
    if optimizer.state[weight]["n_iter"] >= MOST_ITERATIONS:
        log.warning("features: the probe's fit ended after %d steps, before it was flat", MOST_ITERATIONS)
    return weight.detach(), bias.detach()


def _log_odds(scores: Tensor, column: int) -> Tensor:
    """ln(p / (1 - p)) of one class. scores: n x classes."""
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
