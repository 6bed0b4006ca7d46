"""Who is near whom: graphs of all pairs within a radius, or of the k nearest nodes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geoeq.ops.dense_neighbours import dense_knn, dense_radius, is_dense
from geoeq.ops.nearest_search import nearest
from geoeq.ops.periodic_box import box_matrices
from geoeq.ops.radius_search import within_radius

__all__ = ["edge_vectors", "knn_graph", "radius_graph"]


def radius_graph(
    pos: Tensor,
    radius: float,
    batch: Tensor | None = None,
    *,
    box: Tensor | None = None,
    loop: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""All pairs of nodes of one graph at distance up to ``radius``: every one of them, without a limit per node.

    .. math:: (j, i, s) \text{ is an edge} \iff |x_j + s B - x_i| \le r

    with B the lattice vectors of the box as rows and s integers; without a box s = 0. In a box all images of a node
    count, also where the radius exceeds half the box, so that a pair may be joined more than once and a node may be
    joined to its own images.

    Distances are computed in float64. Points at one place are neighbours. Edges (j, i, s) and (i, j, -s) come
    together. The result has no gradient: take it from :func:`edge_vectors`. Memory grows with the number of edges,
    time with N log N + E for points of even density.

    Args:
        pos: [N, d] positions, d >= 1, floating, on any device. In a box they may lie outside of it.
        radius: r >= 0, in the unit of ``pos``.
        batch: graph of each node, int64 [N], not decreasing; one graph if None.
        box: [d] edge lengths, or [d, d] lattice vectors as rows, of all graphs; [G, d, d] of each of G graphs.
        loop: also join each node to itself, with s = 0.

    Returns:
        ``edge_index`` [2, E] int64: row 0 the sender j, row 1 the receiver i, sorted by receiver, then sender (then
        s). With a box also s, int64 [E, d].

    Symmetry: rigid motions leave the graph as it is (in a box with the box turned along), up to pairs whose distance
    is the radius to rounding; a permutation of the nodes permutes it.

    Raises:
        ValueError: a wrong shape or type, positions that are not finite, a radius that is negative or not finite, a
            batch that is not sorted, a box without volume.

    >>> import torch
    >>> radius_graph(torch.tensor([[0.0], [1.0], [5.0], [6.5]]), 1.5).tolist()
    [[1, 0, 3, 2], [0, 1, 2, 3]]
    >>> edge_index, shift = radius_graph(torch.tensor([[0.5], [9.5]]), 1.5, box=torch.tensor([10.0]))
    >>> edge_index.tolist(), shift.tolist()
    ([[1, 0], [0, 1]], [[-1], [1]])
    """
    points, graph, boxes = _checked(pos, batch, box)
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius must be a finite number >= 0, got {radius!r}")
    if boxes is None and is_dense(graph):
        return dense_radius(points, graph, float(radius), loop)
    edge_index, shift = within_radius(points, graph, float(radius), boxes, loop)
    return edge_index if shift is None else (edge_index, shift)


def knn_graph(
    pos: Tensor,
    k: int,
    batch: Tensor | None = None,
    *,
    box: Tensor | None = None,
    loop: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Edges to each node from the k nearest nodes of its graph; of two at one distance the first comes first.

    A node whose graph has fewer than k others gets all of them. In a box the images of a node are candidates of their
    own, those of the receiver too, so that every node gets k edges.

    Args:
        pos, batch, box: as in :func:`radius_graph`.
        k: number of edges to each node, >= 1.
        loop: count each node among its own neighbours; it is the nearest, with other points at its place.

    Returns:
        As :func:`radius_graph`.

    Symmetry: as :func:`radius_graph`, up to neighbours whose distances are equal to rounding.

    Raises:
        ValueError: as :func:`radius_graph`, or k below 1.

    >>> import torch
    >>> knn_graph(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 1).tolist()
    [[1, 0, 1, 2], [0, 1, 2, 3]]
    """
    points, graph, boxes = _checked(pos, batch, box)
    if k != int(k) or k < 1:
        raise ValueError(f"k must be an integer >= 1, got {k!r}")
    if boxes is None and is_dense(graph):
        return dense_knn(points, graph, int(k), loop)
    edge_index, shift = nearest(points, graph, int(k), boxes, loop)
    return edge_index if shift is None else (edge_index, shift)


def edge_vectors(
    pos: Tensor,
    edge_index: Tensor,
    shift: Tensor | None = None,
    box: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    r"""From each receiver to its sender: :math:`x_j + s B - x_i`, [E, d], differentiable in ``pos`` and ``box``.

    Args:
        pos, box, batch: as in :func:`radius_graph`.
        edge_index, shift: what :func:`radius_graph` or :func:`knn_graph` returned.

    Raises:
        ValueError: one of ``shift`` and ``box`` without the other, or a box of a wrong shape.

    >>> import torch
    >>> pos, box = torch.tensor([[0.5], [9.5]]), torch.tensor([10.0])
    >>> edge_vectors(pos, *radius_graph(pos, 1.5, box=box), box)
    tensor([[-1.],
            [ 1.]])
    """
    if (shift is None) != (box is None):
        raise ValueError(f"shift and box must come together, got {'no shift' if shift is None else 'no box'}")
    sender, receiver = edge_index[0], edge_index[1]
    vectors = pos.index_select(0, sender) - pos.index_select(0, receiver)
    if shift is None or box is None:
        return vectors
    boxes = box_matrices(box.to(pos), pos.shape[1])
    if boxes.shape[0] == 1:
        return vectors + shift.to(pos.dtype) @ boxes[0]
    if batch is None:
        raise ValueError("batch must be given with a box of each graph, got None")
    own = boxes.index_select(0, batch.index_select(0, receiver))
    return vectors + (shift.to(pos.dtype).unsqueeze(1) @ own).squeeze(1)


def _checked(pos: Tensor, batch: Tensor | None, box: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Positions in float64, graph of each node, boxes [1 or G, d, d] in float64."""
    if pos.dim() != 2 or pos.shape[1] == 0 or not pos.is_floating_point():
        raise ValueError(f"pos must be floating [N, d], got {list(pos.shape)} of {pos.dtype}")
    points = pos.detach().double()
    if not bool(points.isfinite().all()):
        raise ValueError(f"pos must be finite, got {int((~points.isfinite()).sum())} values NaN or infinite")
    if batch is None:
        graph = torch.zeros(len(pos), dtype=torch.int64, device=pos.device)
    else:
        if batch.shape != pos.shape[:1] or batch.dtype != torch.int64:
            raise ValueError(f"batch must be int64 [{len(pos)}], got {batch.dtype} {list(batch.shape)}")
        if bool((batch.diff() < 0).any()) or bool((batch[:1] < 0).any()):
            raise ValueError("batch must be numbers from 0 that do not decrease, got another order")
        graph = batch
    if box is None:
        return points, graph, None
    boxes = box_matrices(box.detach().to(points), pos.shape[1])
    n_graphs = int(graph[-1]) + 1 if len(graph) else 0
    if boxes.shape[0] != 1 and boxes.shape[0] < n_graphs:
        raise ValueError(f"box must be one, or one for each of {n_graphs} graphs, got {list(box.shape)}")
    return points, graph, boxes
