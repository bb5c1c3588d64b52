"""What methods share that change inputs: one of them, whether it can be changed, and within which range."""

import torch
from torch import Tensor

from ssd_bench.core.task import Images, Split

BATCH = 128  # images that are looked at together


def first_input(data: Split, method: str, done: str) -> Tensor:
    """The first input of D_f, as a batch. Raises ValueError, for `method`, where tokens would have to be `done`."""
    first, _ = data.images.batch(data.forget[:1])
    if not first.is_floating_point():
        raise ValueError(f"{method} needs inputs that are numbers to be {done}, not {first.dtype}")
    return first


def extremes(images: Images, rows: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """The least and the largest number in the inputs of these rows, which are looked at in batches."""
    ends = torch.stack([torch.stack(images.batch(part)[0].aminmax()) for part in rows.split(batch_size)])
    return ends[:, 0].min(), ends[:, 1].max()


def pixel_units(data: Split, method: str) -> tuple[Tensor, Tensor]:
    """Mean and std that take inputs to pixels from 0 to 1, inputs x std + mean: channels x 1 x 1, or single.

    Where images are no pixels, 0 and 1 are the ends of D_f's inputs. Raises ValueError, for `method`, for tokens.
    """
    first_input(data, method, "moved")
    images = data.images
    if images.mean is not None:
        return images.mean[:, None, None], images.std[:, None, None]
    low, high = extremes(images, data.forget, BATCH)
    wide = torch.where(high > low, high - low, 1)  # inputs that are all the same have no range
    return -low / wide, 1 / wide
