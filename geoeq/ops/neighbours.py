"""The edges of a batch, sorted by receiver and by sender: once, for every layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CSR", "Neighbours", "neighbours"]


class CSR(NamedTuple):
    """Compressed sparse rows: the edges of node i are ``order[ptr[i]:ptr[i + 1]]``."""

    ptr: Tensor  # [N + 1]
    order: Tensor  # [E], numbers of edges
    other: Tensor  # [E], the node at the far end of each of them


class Neighbours(NamedTuple):
    """The edges of a graph, sorted both ways.

    ``incoming`` lists, for each node, the edges that end there, with their senders; ``outgoing`` lists those that
    start there, with their receivers.
    """

    edge_index: Tensor  # [2, E], as it was given
    incoming: CSR
    outgoing: CSR

    @property
    def num_nodes(self) -> int:
        return self.incoming.ptr.shape[0] - 1


def neighbours(edge_index: Tensor, num_nodes: int, *, num_senders: int | None = None) -> Neighbours:
    """Sort the edges by receiver and by sender; edges of one node keep their order.

    Args:
        edge_index: [2, E] int64, row 0 the sender, row 1 the receiver, in any order.
        num_nodes: number of nodes N.
        num_senders: number of senders, if they are not the nodes that receive.

    Raises:
        ValueError: ``edge_index`` is not [2, E] of int64.

    >>> graph = neighbours(torch.tensor([[2, 0, 1], [1, 0, 0]]), 3)
    >>> graph.incoming.ptr, graph.incoming.order, graph.incoming.other
    (tensor([0, 2, 3, 3]), tensor([1, 2, 0]), tensor([0, 1, 2]))
    """
    check_edges(edge_index)
    sender, receiver = edge_index[0], edge_index[1]
    senders = num_nodes if num_senders is None else num_senders
    return Neighbours(edge_index, _rows(receiver, sender, num_nodes), _rows(sender, receiver, senders))


def check_edges(edge_index: Tensor) -> None:
    """Raise a ValueError unless ``edge_index`` is [2, E] of int64."""
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(f"edge_index must be [2, E] of int64, got {list(edge_index.shape)} of {edge_index.dtype}")


def _rows(own: Tensor, other: Tensor, num_nodes: int) -> CSR:
    in_order, order = own.sort(stable=True)
    ptr = torch.searchsorted(in_order, torch.arange(num_nodes + 1, device=own.device))
    return CSR(ptr, order, other.index_select(0, order))
