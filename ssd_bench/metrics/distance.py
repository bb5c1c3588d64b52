"""Distances between what two models say."""

import torch
from torch import Tensor


def activation_distance(probs: Tensor, other_probs: Tensor) -> float:
    """Mean L2 distance of the rows of two n x classes tensors of probabilities (arXiv 2205.08096); 0 to sqrt(2)."""
    return torch.linalg.vector_norm(probs.double() - other_probs.double(), dim=1).mean().item()
