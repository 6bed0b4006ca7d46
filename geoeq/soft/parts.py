"""Soft parts: memberships of nodes that are learned, and what keeps them from the cheap answers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["membership_entropy", "part_concentration"]


def membership_entropy(memberships: Tensor) -> Tensor:
    r"""Mean entropy of the rows, :math:`-\tfrac1N\sum_{im} \pi_{im} \log \pi_{im}`, in nats; 0 for hard parts.

    Added to a loss it drives soft parts towards hard ones.

    Args:
        memberships: :math:`\pi` ``[N, parts]``, rows that sum to one.

    Source: arXiv 2402.08529 asks for parts that are certain.

    >>> membership_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor(0.3466)
    """
    _check(memberships)
    return torch.special.entr(memberships).sum(1).mean()


def part_concentration(memberships: Tensor) -> Tensor:
    r"""How unequal parts are in size, :math:`\sum_m (\tfrac1N\sum_i \pi_{im})^2`; 1/parts at best, 1 for a single part.

    Added to a loss it keeps parts from collapsing into one, where a piecewise penalty is least.

    Args:
        memberships: :math:`\pi` ``[N, parts]``, rows that sum to one.

    >>> part_concentration(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor(0.5000)
    """
    _check(memberships)
    return memberships.mean(0).square().sum()


def _check(memberships: Tensor) -> None:
    if memberships.dim() != 2 or not memberships.is_floating_point():
        came = f"{list(memberships.shape)} of {memberships.dtype}"
        raise ValueError(f"memberships must be [N, parts] of a float type, got {came}")
