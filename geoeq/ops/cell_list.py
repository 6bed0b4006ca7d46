"""Points sorted into cells of a grid, so that those near a place are found without looking at all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CellList", "Grid", "Pairs", "cell_list", "grid_of", "pairs_near"]

AXES = 3  # at most so many coordinates are gridded: a distance in three of them is no longer than in all
MARGIN = 1e-6  # by which cells are wider than the radius: rounding must not lose a neighbour
CANDIDATES = 2**17  # pairs looked at together on a CPU: their numbers stay in the cache
CANDIDATES_CUDA = 2**24


class Grid(NamedTuple):
    """Cells of one width for all graphs; a cell is numbered by graph, then by its coordinates."""

    low: Tensor  # [a], where the first cell begins
    width: Tensor  # [a]
    sizes: list[int]  # of each axis, with an empty cell at either end


class CellList(NamedTuple):
    """Points in the order of their cells."""

    grid: Grid
    key: Tensor  # [M] number of the cell of each point, not decreasing
    order: Tensor  # [M] which point it is
    columns: list[Tensor]  # coordinates, each [M]


class Pairs(NamedTuple):
    """Positions in a list of queries and in a cell list, with squared distances; all [P]."""

    query: Tensor
    point: Tensor
    distance2: Tensor


def grid_of(points: Tensor, n_graphs: int, radius: float) -> Grid:
    """Grid over the points [M, d], M > 0, with cells not narrower than the radius."""
    low, high = points[:, :AXES].aminmax(dim=0)
    most = int((2**61 / max(n_graphs, 1)) ** (1 / len(low))) - 3  # numbers of cells must fit 64 bits
    width = torch.clamp((high - low) / most, min=radius * (1 + MARGIN))
    width = torch.where(width > 0, width, 1.0)
    sizes = ((high - low) / width).long() + 3
    return Grid(low, width, sizes.tolist())


def cell_keys(grid: Grid, points: Tensor, graph: Tensor) -> Tensor:
    """Number of the cell of each point [M, d]."""
    cell = ((points[:, : len(grid.low)] - grid.low) / grid.width).long() + 1
    key = graph
    for axis, size in enumerate(grid.sizes):
        key = key * size + cell[:, axis]
    return key


def cell_list(grid: Grid, points: Tensor, graph: Tensor) -> CellList:
    """Sort points [M, d] of graphs [M] into the cells of a grid."""
    key, order = cell_keys(grid, points, graph).sort(stable=True)
    return CellList(grid, key, order, [column.contiguous() for column in points.index_select(0, order).unbind(1)])


def pairs_near(
    cells: CellList, key: Tensor, columns: list[Tensor], radius: float, *, half: bool = False
) -> Iterator[Pairs]:
    """Pairs of a query and a point within the radius, in pieces; all pairs of a query are in one piece.

    Args:
        cells: the points, in cells not narrower than the radius.
        key: [Q], cell of each query, not decreasing.
        columns: coordinates of the queries, each [Q].
        radius: r; pairs at that distance count.
        half: the queries are the points of the list themselves, and each pair is wanted once, without the point
            itself.
    """
    begin, length = _runs(cells, key, half)
    total = length.sum(1)
    for first, last in _pieces(total, CANDIDATES_CUDA if total.is_cuda else CANDIDATES):
        query, point = _expand(begin[first:last], length[first:last], total[first:last])
        query += first
        distance2 = None
        for own, other in zip(columns, cells.columns, strict=True):
            step = other.index_select(0, point).sub_(own.index_select(0, query))
            distance2 = step.square_() if distance2 is None else distance2.addcmul_(step, step)
        assert distance2 is not None
        found = (distance2 <= radius * radius).nonzero().squeeze(1)
        yield Pairs(query.index_select(0, found), point.index_select(0, found), distance2.index_select(0, found))


def _runs(cells: CellList, key: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """First point and number of points of each run of cells around each query, both [Q, R].

    Cells that differ in the last coordinate only are consecutive, so three of them are one run.
    """
    *outer, _ = cells.grid.sizes
    strides = [1]
    for size in reversed(cells.grid.sizes[1:]):
        strides.insert(0, strides[0] * size)
    steps = [step for step in product((-1, 0, 1), repeat=len(outer)) if not half or step >= (0,) * len(outer)]
    offset = [sum(a * b for a, b in zip(step, strides)) for step in steps]
    # Many points share a cell, and looking a cell up costs a binary search.
    cell, which = torch.unique_consecutive(key, return_inverse=True)
    centre = cell.unsqueeze(1) + torch.tensor(offset, device=key.device)
    begin = torch.searchsorted(cells.key, centre - 1).index_select(0, which)
    end = torch.searchsorted(cells.key, centre + 1, right=True).index_select(0, which)
    if half:  # the first run holds the query itself: what comes before it has seen it already
        begin[:, 0] = torch.arange(1, len(key) + 1, device=key.device)
    return begin, end - begin


def _pieces(total: Tensor, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of queries with about ``most`` candidates together, or one query with more."""
    if not len(total):
        return
    before = total.cumsum(0) - total
    n_pieces = int(before[-1]) // most + 1
    marks = torch.arange(n_pieces, device=total.device) * most
    bounds = [*torch.searchsorted(before, marks).tolist(), len(total)]
    yield from ((first, last) for first, last in pairwise(bounds) if last > first)


def _expand(begin: Tensor, length: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Query and point of each candidate, from runs [q, R]."""
    n_queries, n_runs = begin.shape
    flat = length.reshape(-1)
    n_candidates = int(total.sum())
    run = torch.arange(n_queries * n_runs, device=flat.device).repeat_interleave(flat, output_size=n_candidates)
    start = begin.reshape(-1) - (flat.cumsum(0) - flat)
    point = torch.arange(n_candidates, device=flat.device).add_(start.index_select(0, run))
    return run.div_(n_runs, rounding_mode="floor"), point
