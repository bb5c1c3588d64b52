"""Images of what is forgotten that the original was not trained on: what methods hold its errors on D_f against."""

import torch
from torch import Tensor, nn

from ssd_bench.core.task import Images, Request, Split
from ssd_bench.methods.teaching import BATCH
from ssd_bench.train.passes import predict


def unseen(asked: Request | Split, train: Tensor, labels: Tensor) -> Tensor:
    """Images of what D_f is of that are neither among those trained on (`train`) nor in D_f: rows, ascending.

    Of its sub-classes where some are forgotten; of one that has no such images, and else, of its class.
    """
    outside = torch.ones(len(labels), dtype=torch.bool)
    outside[train] = outside[asked.forget] = False
    group = asked.group.cpu()
    of_group = outside & torch.isin(group, group[asked.forget])
    without = asked.forget[~torch.isin(group[asked.forget], group[of_group])]
    return (of_group | outside & torch.isin(labels, labels[without])).nonzero().flatten()


def share_of(labels: Tensor, others: Tensor) -> Tensor:
    """A weight for each of `others` (labels), so that their classes weigh as in `labels`."""
    n = 1 + int(labels.max())
    return (torch.bincount(labels, minlength=n) / torch.bincount(others, minlength=n).clamp(min=1))[others]


def error(model: nn.Module, images: Images, rows: Tensor, weights: Tensor) -> float:
    """The weighted share of these rows that the model tells wrong, 0 to 1."""
    wrong = predict(model, images, rows, BATCH).argmax(1) != images.labels.cpu()[rows]
    weights = weights.double()
    return ((wrong * weights).sum() / weights.sum()).item()


def of_split(data: Split) -> tuple[Tensor, Tensor]:
    """These images of a split, and a weight for each, so that their classes weigh as in D_f."""
    labels = data.images.labels.cpu()
    others = unseen(data, torch.cat([data.rows, data.gone]), labels)
    return others, share_of(labels[data.forget], labels[others])


def lacking(request: Request, who: str) -> str | None:
    """Why a method, or a mode of it, that needs such images cannot serve the request."""
    if len(unseen(request, torch.cat([request.train, request.gone]), request.train_labels)):
        return None
    return (
        f"{who} needs images of the forgotten classes that the original was not trained on: on the command line "
        "data.validation=0.1 takes them out of D, and the models of a pool have them"
    )
