"""Membership inference: does the model give away that a sample was in its training data?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssd_bench.task import Outputs


@dataclass(frozen=True)
class EntropyAttack:
    """`mia`: the paper's attack, see `entropy_attack`. The ideal is the retrained model's value, not 0."""

    def __call__(self, seen: Outputs) -> dict[str, float]:
        sets = ("retain_train", "test", "forget_train")
        return {"mia": entropy_attack(*map(seen.probs, sets))} if seen.has(*sets) else {}


def entropy(probs: Tensor) -> Tensor:
    """-sum_k p_k ln p_k of each row, in nats; 0 ln 0 is 0."""
    import torch

    return -torch.xlogy(probs, probs).sum(dim=1)


def entropy_attack(retain_probs: Tensor, test_probs: Tensor, forget_probs: Tensor) -> float:
    """Percent of D_f that the paper's attack calls a member of the training data.

    A class-balanced logistic regression on the entropy of the prediction (one feature) learns D_r (member) against all
    of D' (non-member) and then judges D_f. Arguments: n x classes probabilities. Source: the released code's
    get_membership_attack_prob, after Chundawat et al. 2023 (arXiv 2205.08096). Raises ValueError for an empty set or
    probabilities that are not finite.
    """
    from sklearn.linear_model import LogisticRegression

    member, other, forget = (_feature(p) for p in (retain_probs, test_probs, forget_probs))
    attack = LogisticRegression(class_weight="balanced", solver="lbfgs")
    attack.fit(np.concatenate([member, other]), np.repeat([1, 0], [len(member), len(other)]))
    return 100 * float(attack.predict(forget).mean())


def _feature(probs: Tensor) -> np.ndarray:
    feature = entropy(probs).reshape(-1, 1).cpu().numpy()
    if not len(feature) or not np.isfinite(feature).all():
        raise ValueError("the attack needs at least one row in each set, all of finite probabilities")
    return feature
