"""Neighbours in small graphs: all distances of a graph at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["dense_knn", "dense_radius", "is_dense"]

NODES = 400  # in the largest graph: beyond, cell lists are quicker
DISTANCES = 2**20  # held at once


class Block(NamedTuple):
    """Graphs of a batch side by side, with room for the largest."""

    distance2: Tensor  # [G, n, n] from receiver to sender, NaN where a graph has no such node
    first: Tensor  # [G] first node of each


def is_dense(graph: Tensor) -> bool:
    """Whether all distances of each graph are found sooner than the near ones."""
    if len(graph) <= NODES:
        return True
    return int(torch.bincount(graph).amax()) <= NODES


def dense_radius(points: Tensor, graph: Tensor, radius: float, loop: bool) -> Tensor:
    """Edges [2, E] of :func:`~geoeq.ops.neighbour_graph.radius_graph` without a box."""
    edges = []
    for block in _blocks(points, graph):
        near = block.distance2 <= radius * radius
        if not loop:
            near.diagonal(dim1=1, dim2=2).fill_(False)
        which, receiver, sender = near.nonzero().unbind(1)
        start = block.first.index_select(0, which)
        edges.append(torch.stack([sender + start, receiver + start]))
    return _joined(edges, graph)


def dense_knn(points: Tensor, graph: Tensor, k: int, loop: bool) -> Tensor:
    """Edges [2, E] of :func:`~geoeq.ops.neighbour_graph.knn_graph` without a box."""
    edges = []
    for block in _blocks(points, graph):
        size = block.distance2.shape[1]
        distance2 = block.distance2.nan_to_num_(torch.inf)
        if not loop:
            distance2.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        # Stable: of two at one distance the first node is first.
        distance2, sender = distance2.sort(dim=2, stable=True)
        sender = sender[..., :k].masked_fill(distance2[..., :k].isinf(), size).sort(dim=2).values
        which, receiver, rank = (sender < size).nonzero().unbind(1)
        start = block.first.index_select(0, which)
        edges.append(torch.stack([sender[which, receiver, rank] + start, receiver + start]))
    return _joined(edges, graph)


def _blocks(points: Tensor, graph: Tensor) -> Iterator[Block]:
    n, d = points.shape
    if n == 0:
        return
    if n == 1 or bool(graph[0] == graph[-1]):
        yield Block(_distance2(points.unsqueeze(0)), graph.new_zeros(1))
        return
    count = torch.bincount(graph)
    first = count.cumsum(0) - count
    size = int(count.amax())
    place = torch.arange(n, device=graph.device) - first.index_select(0, graph)
    padded = points.new_full((len(count), size, d), torch.nan)
    padded[graph, place] = points
    step = max(DISTANCES // size**2, 1)
    for begin in range(0, len(count), step):
        yield Block(_distance2(padded[begin : begin + step]), first[begin : begin + step])


def _distance2(points: Tensor) -> Tensor:
    """[G, n, n] from [G, n, d]."""
    total = None
    for column in points.unbind(2):
        step = column.unsqueeze(1) - column.unsqueeze(2)
        total = step.square_() if total is None else total.addcmul_(step, step)
    assert total is not None
    return total


def _joined(edges: list[Tensor], graph: Tensor) -> Tensor:
    if len(edges) == 1:
        return edges[0]
    return torch.cat([graph.new_empty(2, 0), *edges], 1)
