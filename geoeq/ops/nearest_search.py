"""The k nearest neighbours by cell lists: a radius that grows for the nodes that have not found enough."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geoeq.ops.cell_list import Pairs, cell_keys, cell_list, grid_of, pairs_near
from geoeq.ops.periodic_box import images, wrap
from geoeq.ops.radius_search import image_positions, ordered_edges

__all__ = ["nearest"]

DISTANCES = 2**21  # looked at to choose a radius
GROWTH = 1.5


class Crowd(NamedTuple):
    """Nodes and then their images: positions, graph, the node each is a copy of, and how it was moved."""

    points: Tensor
    graph: Tensor
    name: Tensor
    shift: Tensor


class Box(NamedTuple):
    """Of each node: lattice vectors and their inverse, place in units of them, whole ones taken off."""

    vectors: Tensor
    inverse: Tensor
    fraction: Tensor
    whole: Tensor


def nearest(points: Tensor, graph: Tensor, k: int, boxes: Tensor | None, loop: bool) -> tuple[Tensor, Tensor | None]:
    """Edges of :func:`~geoeq.ops.neighbour_graph.knn_graph`, and shifts [E, d] if there is a box.

    Args:
        points: [N, d], float64.
        graph: [N] int64, sorted.
        k: edges to each node.
        boxes: [1 or G, d, d], or None.
        loop: count each node among its own neighbours.
    """
    n, d = points.shape
    if n == 0:
        return graph.new_empty(2, 0), None if boxes is None else graph.new_empty(0, d)
    box = None
    wanted = (torch.bincount(graph)[graph] - (0 if loop else 1)).clamp(max=k)
    if boxes is not None:
        own = boxes.expand(int(graph[-1]) + 1, d, d)[graph] if len(boxes) == 1 else boxes[graph]
        fraction, whole, inverse = wrap(points, own)
        box = Box(own, inverse, fraction, whole)
        points = (fraction.unsqueeze(1) @ own).squeeze(1)
        wanted = torch.full_like(wanted, k)
    sender, receiver, moved = _search(points, graph, wanted, box, loop)
    if box is None:
        return ordered_edges(sender, receiver, n, None)
    edge_index, shift = ordered_edges(sender, receiver, n, moved)
    assert shift is not None
    return edge_index, shift + box.whole[edge_index[1]] - box.whole[edge_index[0]]


def _search(
    points: Tensor, graph: Tensor, wanted: Tensor, box: Box | None, loop: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sender [E], receiver [E] and shift [E, d], in any order."""
    missing = (wanted > 0).nonzero().squeeze(1)
    none = wanted[:0]
    parts = [(none, none, none.new_empty(0, points.shape[1]))]
    radius = -1.0
    while len(missing):
        radius = _next_radius(points, graph, wanted, missing, box, loop, radius)
        crowd = _crowd(points, graph, box, radius)
        found = _round(crowd, missing, wanted, radius, loop)
        parts += found
        done = torch.zeros_like(wanted, dtype=torch.bool)
        done[torch.cat([none, *(receiver for _, receiver, _ in found)])] = True
        missing = missing[~done[missing]]
    sender, receiver, shift = (torch.cat(part) for part in zip(*parts, strict=True))
    return sender, receiver, shift


def _next_radius(
    points: Tensor, graph: Tensor, wanted: Tensor, missing: Tensor, box: Box | None, loop: bool, last: float
) -> float:
    """A radius in which a good part of the ``missing`` nodes find enough, and the densest few not far too much."""
    n, d = points.shape
    n_samples = min(max(DISTANCES // n, 8), 64, len(missing))
    sample = missing[torch.linspace(0, len(missing) - 1, n_samples, device=missing.device).long()]
    distance2 = points.new_zeros(n_samples, n)
    for column in points.unbind(1):
        step = column - column[sample].unsqueeze(1)
        distance2.addcmul_(step, step)
    distance2.masked_fill_(graph[sample].unsqueeze(1) != graph, torch.inf)
    if not loop:
        distance2[torch.arange(n_samples, device=sample.device), sample] = torch.inf
    most = wanted[sample]
    smallest = distance2.topk(min(int(most.amax()), n), dim=1, largest=False).values
    last_place = (most - 1).clamp(max=smallest.shape[1] - 1)
    reach = smallest.gather(1, last_place.unsqueeze(1)).squeeze(1).sqrt()
    roomy = 0.0
    if box is not None:  # where a box has too few nodes, so large that it holds enough of their images
        count = torch.bincount(graph)[graph[sample]]
        volume = torch.linalg.det(box.vectors[sample]).abs()
        enough = (volume * (most + 1) / count) ** (1 / d)
        reach, roomy = torch.minimum(reach, enough), float(enough.amax())
    reach = reach.sort().values * (1 + 1e-12)
    if n_samples == len(missing):
        radius = float(reach[-1])
    else:
        radius = min(float(reach[n_samples * 9 // 10]), float(reach[n_samples // 10]) * 2.2 ** (1 / d))
    if radius > last:
        return radius
    return GROWTH * last if last > 0 else roomy  # 0 finds what lies on a node, such as itself, and grows to nothing


def _crowd(points: Tensor, graph: Tensor, box: Box | None, radius: float) -> Crowd:
    name = torch.arange(len(points), device=graph.device)
    shift = graph.new_zeros(points.shape)
    if box is None:
        return Crowd(points, graph, name, shift)
    copies = images(box.fraction, box.inverse, radius, half=False)
    moved = image_positions(points, box.vectors, copies)
    return Crowd(
        torch.cat([points, moved]),
        torch.cat([graph, graph[copies.point]]),
        torch.cat([name, copies.point]),
        torch.cat([shift, copies.shift]),
    )


def _round(
    crowd: Crowd, missing: Tensor, wanted: Tensor, radius: float, loop: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Sender, receiver and shift of the nearest neighbours of those nodes that find enough of them in the radius."""
    grid = grid_of(crowd.points, int(crowd.graph[-1]) + 1 if len(crowd.graph) else 1, radius)
    cells = cell_list(grid, crowd.points, crowd.graph)
    key, order = cell_keys(grid, crowd.points[missing], crowd.graph[missing]).sort(stable=True)
    queries = missing[order]
    columns = [column.contiguous() for column in crowd.points[queries].unbind(1)]
    result = []
    for found in pairs_near(cells, key, columns, radius):
        receiver, point = queries.index_select(0, found.query), cells.order.index_select(0, found.point)
        pairs = Pairs(receiver, point, found.distance2)
        if not loop:
            # The first of the crowd are the nodes themselves.
            pairs = _chosen(pairs, (receiver != point).nonzero().squeeze(1))
        near = _nearest_of(pairs, crowd, wanted)
        result.append((crowd.name[near.point], near.query, crowd.shift[near.point]))
    return result


def _nearest_of(pairs: Pairs, crowd: Crowd, wanted: Tensor) -> Pairs:
    """The ``wanted`` nearest of each query, of the queries that have as many; their pairs are consecutive."""
    query, count = pairs.query.unique_consecutive(return_counts=True)
    most = wanted.index_select(0, query)
    enough = count >= most
    begin = count.cumsum(0) - count
    row = torch.arange(len(query), device=query.device).repeat_interleave(count)
    # By row, and by distance inside each.
    order = pairs.distance2.sort().indices
    order = order.index_select(0, row.index_select(0, order).sort(stable=True).indices)
    place = (begin + most - 1).clamp(max=max(len(row) - 1, 0))
    limit = pairs.distance2.index_select(0, order.index_select(0, place))
    limit = torch.where(enough, limit, -1.0).index_select(0, row)
    chosen = pairs.distance2 <= limit
    surplus = torch.zeros_like(count).index_add_(0, row, chosen.long()) - most
    tie = ((pairs.distance2 == limit) & (surplus > 0).index_select(0, row)).nonzero().squeeze(1)
    if len(tie):
        chosen[_last_ties(pairs, crowd, row, surplus, tie)] = False
    return _chosen(pairs, chosen.nonzero().squeeze(1))


def _last_ties(pairs: Pairs, crowd: Crowd, row: Tensor, surplus: Tensor, tie: Tensor) -> Tensor:
    """Those of the ties, as many in each row as are too many, that come last by name and then by shift."""
    point = pairs.point[tie]
    for column in (*crowd.shift.unbind(1)[::-1], crowd.name):
        order = column[point].sort(stable=True, descending=True).indices
        tie, point = tie[order], point[order]
    tie = tie[row[tie].sort(stable=True).indices]
    _, count = row[tie].unique_consecutive(return_counts=True)
    rank = torch.arange(len(tie), device=tie.device) - (count.cumsum(0) - count).repeat_interleave(count)
    return tie[rank < surplus[row[tie]]]


def _chosen(pairs: Pairs, index: Tensor) -> Pairs:
    return Pairs(*(values.index_select(0, index) for values in pairs))
