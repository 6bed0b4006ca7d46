"""Rigid parts of a graph and their rotation: which nodes move as one, and which turn about a pivot."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geoeq.ops.scatter import scatter_sum

__all__ = ["RigidParts", "rigid_parts", "rotate"]


class RigidParts(NamedTuple):
    """How the nodes of a batch hang together; a part, or an arm, is named by the number of one of its nodes."""

    leader: Tensor  # [N] first node of the part
    arm: Tensor  # [N] name of the arm, what turns as one: the part itself, or a single node beside its pivot
    hinged: Tensor  # [N, 1] bool, whether the part turns about a pivot
    weight: Tensor  # [N, 1] share of the node in the centre of its part; the centre of a hinge is its pivot
    inv_size: Tensor  # [N, 1] 1 / number of nodes of the part


def rigid_parts(
    part: Tensor,
    edge_index: Tensor,
    rod: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> RigidParts:
    """Sort the nodes of a batch into isolated ones, rigid bodies (sticks are the smallest) and hinges.

    A part is a hinge if exactly one of its nodes, the pivot, receives a rod from every other node of the part: its rods
    turn about the pivot, one by one. Any other part is a rigid body. A body of one node is free. Rods that join two
    parts hold nothing.

    Args:
        part: part of its own graph that a node belongs to, int64 [N].
        edge_index: [2, E] (sender, receiver).
        rod: which edges are rods, bool [E]; each ordered pair at most once. None: there are no hinges.
        batch: graph of each node, int64 [N]; None for one graph.
        dtype: of the weights; torch's default if None.

    Raises:
        ValueError: ``part``, ``rod`` or ``batch`` of the wrong shape.

    >>> edges = torch.tensor([[3, 4, 2, 2, 0, 1], [2, 2, 3, 4, 1, 0]])  # node 2 is the pivot of 3 and 4
    >>> parts = rigid_parts(torch.tensor([0, 0, 1, 1, 1]), edges, torch.ones(6, dtype=torch.bool))
    >>> parts.leader.tolist(), parts.arm.tolist(), parts.weight.flatten().tolist()
    ([0, 0, 2, 2, 2], [0, 0, 2, 3, 4], [0.5, 0.5, 1.0, 0.0, 0.0])
    """
    n, (sender, receiver) = len(part), edge_index
    shapes = {"part": (part, (n,)), "batch": (batch, (n,)), "rod": (rod, sender.shape)}
    for name, (value, shape) in shapes.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(value.shape)}")
    leader = _leaders(part, batch)

    def count(chosen: Tensor, index: Tensor) -> Tensor:
        return scatter_sum(chosen.long(), index, n)

    size = count(torch.ones_like(leader), leader).index_select(0, leader)
    one = torch.ones(n, 1, dtype=dtype, device=part.device)
    inv_size = one / size.unsqueeze(1).to(one.dtype)
    if rod is None:
        return RigidParts(leader, leader, torch.zeros_like(one, dtype=torch.bool), inv_size, inv_size)
    inside = rod & (leader.index_select(0, sender) == leader.index_select(0, receiver)) & (sender != receiver)
    pivot = (size > 2) & (count(inside, receiver) == size - 1)
    hinged = count(pivot, leader).index_select(0, leader) == 1
    arm = torch.where(hinged, torch.arange(n, device=part.device), leader)
    hinged, pivot = hinged.unsqueeze(1), pivot.unsqueeze(1)
    return RigidParts(leader, arm, hinged, torch.where(hinged, pivot.to(one.dtype), inv_size), inv_size)


def _leaders(part: Tensor, batch: Tensor | None) -> Tensor:
    """Lowest number of a node in the same part of the same graph, [N], whatever the labels and their order."""
    labels = part.unsqueeze(0) if batch is None else torch.stack([part, batch])
    order = torch.arange(len(part), device=part.device)
    for label in labels:
        order = order.index_select(0, label.index_select(0, order).argsort(stable=True))
    ordered, place = labels.index_select(1, order), torch.arange(len(part), device=part.device)
    begins = (ordered[:, 1:] != ordered[:, :-1]).any(0)
    start = torch.cat([place[:1], torch.where(begins, place[1:], 0)]).cummax(0).values
    return torch.empty_like(order).scatter_(0, order, order.index_select(0, start))


def rotate(arms: Tensor, angles: Tensor) -> Tensor:
    r"""Vectors turned about an axis, by as many radians as the axis is long (the exponential map, Rodrigues).

    .. math:: R(\omega)\, r = r + \frac{\sin\theta}{\theta}\, \omega \times r
        + \frac{1 - \cos\theta}{\theta^2}\, \omega \times (\omega \times r), \qquad \theta = |\omega|

    Args:
        arms: r [..., 3].
        angles: :math:`\omega` [..., 3].

    Returns:
        [..., 3], of the lengths of r to rounding; smooth, also at angle 0.

    >>> quarter = torch.tensor([0.0, 0.0, torch.pi / 2])
    >>> rotate(torch.tensor([1.0, 0.0, 0.0]), quarter).round(decimals=4).abs()
    tensor([0., 1., 0.])
    """
    angle2 = angles.square().sum(-1, keepdim=True)
    once = torch.linalg.cross(angles, arms)
    # (1 - cos a) / a^2 as half a square of sin(a / 2) / (a / 2): no digits cancel.
    return arms + _sinc(angle2) * once + 0.5 * _sinc(angle2 / 4).square() * torch.linalg.cross(angles, once)


def _sinc(square: Tensor) -> Tensor:
    """sin(a) / a of a^2, with all derivatives at 0."""
    small = square < 0.01
    s = torch.where(small, square, 0)  # what is not used must stay finite, for its gradient is multiplied by 0
    series = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72)))
    angle = torch.where(small, 1, square).sqrt()
    return torch.where(small, series, angle.sin() / angle)
