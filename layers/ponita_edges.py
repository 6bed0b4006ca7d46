"""Which pairs of nodes a kernel has to be evaluated for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geoeq.ops.backends import choose_backend, needs_plain_torch
from geoeq.ops.neighbours import Neighbours, neighbours
from geoeq.ops.scatter import scatter_sum

__all__ = ["Pairs", "join_pairs"]


class Pairs(NamedTuple):
    """Rows of the kernel: one for each pair of nodes or each edge, and one more for all self loops if there are any."""

    sender: Tensor  # [P]
    receiver: Tensor  # [P]
    edge_attr: Tensor | None  # [P, A]
    mirrored: bool  # the row also serves the reversed edge, at the opposite orientation
    loops: Tensor | None  # [N]: self loops of each node, whose row is the last
    keep: Tensor | None  # [P]: False where a row must not count; None: all count
    graph: Neighbours | None = None  # the pairs sorted both ways, where the kernels of a GPU want them

    def with_graph(self, num_nodes: int) -> Pairs:
        """With ``graph``, if the sums run on Triton: sorted once, for all layers."""
        if choose_backend(self.sender, "triton") != "triton" or needs_plain_torch():
            return self
        return self._replace(graph=neighbours(torch.stack([self.sender, self.receiver]), num_nodes))


def join_pairs(
    edge_index: Tensor,
    edge_attr: Tensor | None,
    num_nodes: int,
    *,
    mirror: bool,
    add_loops: bool,
) -> Pairs:
    """Sort edges into pairs, where that is exact: an undirected graph and no edge features.

    Args:
        edge_index: [2, E], sender and receiver.
        edge_attr: [E, A] or None. Self loops that are added have features 0.
        num_nodes: N.
        mirror: whether the kernel of a reversed edge is that of the edge at the opposite orientation.
        add_loops: give every node exactly one self loop, whatever loops are among the edges.

    >>> pairs = join_pairs(torch.tensor([[0, 1, 1], [1, 0, 1]]), None, 2, mirror=True, add_loops=False)
    >>> pairs.sender, pairs.receiver, pairs.loops
    (tensor([0]), tensor([1]), tensor([0, 1]))
    """
    return _join(edge_index, edge_attr, num_nodes, mirror=mirror, add_loops=add_loops).with_graph(num_nodes)


def _join(edge_index: Tensor, edge_attr: Tensor | None, num_nodes: int, *, mirror: bool, add_loops: bool) -> Pairs:
    sender, receiver = edge_index[0], edge_index[1]
    ones = torch.ones(num_nodes, dtype=torch.int64, device=edge_index.device)
    apart = sender != receiver
    if torch.compiler.is_compiling():  # the number of pairs would depend on values
        return Pairs(sender, receiver, edge_attr, False, *((ones, apart) if add_loops else (None, None)))
    if edge_attr is not None:
        if not add_loops:
            return Pairs(sender, receiver, edge_attr, False, None, None)
        return Pairs(sender[apart], receiver[apart], edge_attr[apart], False, ones, None)
    loops = ones if add_loops else scatter_sum((~apart).to(torch.int64), receiver, num_nodes)
    stride = max(num_nodes, 1)
    up, down = receiver > sender, receiver < sender
    there = (receiver[up] * stride + sender[up]).sort().values
    back = (sender[down] * stride + receiver[down]).sort().values
    undirected = torch.equal(there, back) and not bool((there[1:] == there[:-1]).any())
    if not mirror or not undirected:
        return Pairs(sender[apart], receiver[apart], None, False, loops, None)
    return Pairs(there % stride, there // stride, None, True, loops, None)
