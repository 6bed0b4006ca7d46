"""All neighbours within a radius by cell lists, with the images of a periodic box."""

from __future__ import annotations

import torch
from torch import Tensor

from geoeq.ops.cell_list import Pairs, cell_list, grid_of, pairs_near
from geoeq.ops.periodic_box import Images, images, wrap

__all__ = ["image_positions", "ordered_edges", "within_radius"]


def within_radius(
    points: Tensor, graph: Tensor, radius: float, boxes: Tensor | None, loop: bool
) -> tuple[Tensor, Tensor | None]:
    """Edges of :func:`~geoeq.ops.neighbour_graph.radius_graph`, and shifts [E, d] if there is a box.

    Args:
        points: [N, d], float64.
        graph: [N] int64, sorted.
        radius: r >= 0.
        boxes: [1 or G, d, d], or None.
        loop: with edges from each node to itself.
    """
    n, d = points.shape
    if n == 0:
        empty = graph.new_empty(2, 0)
        return empty, None if boxes is None else graph.new_empty(0, d)
    if boxes is None:
        first, second = _inner_pairs(points, graph, radius)
        return ordered_edges(*_both_ways(first, second, n, loop), n, None)
    own = boxes if len(boxes) == 1 else boxes.index_select(0, graph)
    fraction, whole, inverse = wrap(points, own)
    inside = (fraction.unsqueeze(1) @ own).squeeze(1)
    receiver, image = _outer_pairs(inside, graph, fraction, own, inverse, radius)
    first, second = _inner_pairs(inside, graph, radius)
    between = image.shift
    sender, target = _both_ways(first, second, n, loop)
    sender = torch.cat([sender, image.point, receiver])
    target = torch.cat([target, receiver, image.point])
    zero = between.new_zeros(len(sender) - 2 * len(between), d)
    shift = torch.cat([zero, between, -between])
    edge_index, moved = ordered_edges(sender, target, n, shift)
    assert moved is not None
    return edge_index, moved + whole.index_select(0, edge_index[1]) - whole.index_select(0, edge_index[0])


def _inner_pairs(points: Tensor, graph: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Each pair of points within the radius once, [P] and [P]."""
    cells = cell_list(grid_of(points, int(graph[-1]) + 1, radius), points, graph)
    found = list(pairs_near(cells, cells.key, cells.columns, radius, half=True))
    return _names(cells.order, found, "query"), _names(cells.order, found, "point")


def _outer_pairs(
    inside: Tensor, graph: Tensor, fraction: Tensor, boxes: Tensor, inverse: Tensor, radius: float
) -> tuple[Tensor, Images]:
    """Points of the box within the radius of an image, [P], and which image; each pair with an image once."""
    copies = images(fraction, inverse, radius, half=True)
    moved = image_positions(inside, boxes, copies)
    of_image = graph.index_select(0, copies.point)
    grid = grid_of(torch.cat([inside, moved]), int(graph[-1]) + 1, radius)
    cells = cell_list(grid, moved, of_image)
    queries = cell_list(grid, inside, graph)
    found = list(pairs_near(cells, queries.key, queries.columns, radius))
    image = _names(cells.order, found, "point")
    chosen = Images(copies.point.index_select(0, image), copies.shift.index_select(0, image))
    return _names(queries.order, found, "query"), chosen


def image_positions(inside: Tensor, boxes: Tensor, copies: Images) -> Tensor:
    """Where the images are, [M, d]."""
    own = boxes if len(boxes) == 1 else boxes.index_select(0, copies.point)
    return inside.index_select(0, copies.point) + (copies.shift.to(inside.dtype).unsqueeze(1) @ own).squeeze(1)


def _names(order: Tensor, found: list[Pairs], side: str) -> Tensor:
    """Names of the points at the positions that the pairs hold."""
    return torch.cat([order[:0], *(order.index_select(0, getattr(pairs, side)) for pairs in found)])


def _both_ways(first: Tensor, second: Tensor, n: int, loop: bool) -> tuple[Tensor, Tensor]:
    """Sender and receiver of both edges of each pair."""
    itself = torch.arange(n if loop else 0, device=first.device)
    return torch.cat([first, second, itself]), torch.cat([second, first, itself])


def ordered_edges(sender: Tensor, receiver: Tensor, n: int, shift: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Edges sorted by receiver, sender and shift."""
    bits = max(n - 1, 1).bit_length()
    key = (receiver << bits).bitwise_or_(sender)
    if shift is None:
        key = key.sort().values
    else:
        key, shift = _sorted_by_shift(key, shift)
    return torch.stack([key & ((1 << bits) - 1), key >> bits]), shift


def _sorted_by_shift(key: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    low, high = shift.aminmax(dim=0) if len(shift) else (shift.new_zeros(shift.shape[1]),) * 2
    code = torch.zeros_like(key)
    for axis, size in enumerate((high - low + 1).tolist()):
        code = code * size + (shift[:, axis] - low[axis])
    order = code.sort(stable=True).indices
    key, then = key.index_select(0, order).sort(stable=True)
    return key, shift.index_select(0, order.index_select(0, then))
