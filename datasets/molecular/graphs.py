"""Who is joined to whom in a molecule: bonds and paths along them, or all atoms within a radius."""

from __future__ import annotations

import torch
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from geoeq.datasets.ragged_graphs import RaggedEdges, pointer
from geoeq.ops import radius_graph

BOND_LENGTH = 1.6  # Angstrom, as published for molecules of H, C, N and O


def bonds(pos: Tensor) -> Tensor:
    """Pairs of atoms at most 1.6 Angstrom apart, [2, E], both ways, sorted by receiver."""
    edges = radius_graph(pos, BOND_LENGTH)
    assert isinstance(edges, Tensor)
    return edges


def paths(edge_index: Tensor, n_nodes: int, hops: int) -> tuple[Tensor, Tensor]:
    """Pairs joined by a path of at most ``hops`` edges, and the length of the shortest.

    Returns:
        Edges [2, E], sorted by receiver, and lengths [E].

    Example:
        >>> chain = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])
        >>> edge_index, length = paths(chain, 3, 2)
        >>> edge_index.tolist(), length.tolist()
        ([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]], [1, 2, 1, 1, 2, 1])
    """
    sender, receiver = edge_index.numpy()
    step = csr_array((torch.ones(len(sender)).numpy(), (receiver, sender)), shape=(n_nodes, n_nodes)) != 0
    known = (step + eye_array(n_nodes, format="csr")) != 0
    new, length = step, step.astype("int64")
    for number in range(2, hops + 1):
        new = (new @ step).astype(bool) > known
        known = known + new
        length = length + number * new.astype("int64")
    length = csr_array(length)
    length.eliminate_zeros()
    length.sort_indices()
    found = length.tocoo()
    edges = torch.stack([torch.from_numpy(found.col.astype("int64")), torch.from_numpy(found.row.astype("int64"))])
    return edges, torch.from_numpy(found.data)


def repeated(edge_index: Tensor, n_graphs: int) -> RaggedEdges:
    """The same edges for each of many graphs."""
    n_edges = edge_index.shape[1]
    return RaggedEdges(edge_index.repeat(1, n_graphs), torch.arange(n_graphs + 1) * n_edges)


def radius_graphs(pos: Tensor, radius: float) -> RaggedEdges:
    """Pairs within the radius in each of many graphs of positions [S, n, 3]."""
    n_graphs, n_nodes, _ = pos.shape
    graph = torch.arange(n_graphs).repeat_interleave(n_nodes)
    edges = radius_graph(pos.flatten(0, 1), radius, graph)
    assert isinstance(edges, Tensor)
    own = edges[1] // n_nodes
    return RaggedEdges(edges - own * n_nodes, pointer(own.bincount(minlength=n_graphs)))
