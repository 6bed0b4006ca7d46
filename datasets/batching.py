"""The parts of a batch that are the same for every batch of one size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data


def complete_graph(n_nodes: int) -> Tensor:
    """Edges of the complete graph, [2, n (n - 1)]: row 0 sender, row 1 receiver, sorted by receiver.

    Example:
        >>> complete_graph(3).tolist()
        [[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]]
    """
    receiver, sender = torch.nonzero(~torch.eye(n_nodes, dtype=torch.bool)).T
    return torch.stack([sender, receiver])


def batch_template(graph: Data, n_graphs: int) -> Batch:
    """Batch of ``n_graphs`` copies of a graph, equal to PyG's collation, without a loop over graphs."""
    values = graph.to_dict()
    lengths = {name: value.size(graph.__cat_dim__(name, value)) for name, value in values.items()}
    repeats = {name: value.repeat(n_graphs, *[1] * (value.dim() - 1)) for name, value in values.items()}
    repeats["edge_index"] = _shifted(graph.edge_index, n_graphs, graph.num_nodes)
    counts = torch.arange(n_graphs + 1)
    starts = counts * graph.num_nodes
    batch = Batch(
        **repeats,
        batch=counts[:-1].repeat_interleave(graph.num_nodes).to(graph.pos.device),
        ptr=starts.to(graph.pos.device),
    )
    # What PyG's Batch reads to take a batch apart again.
    batch._num_graphs = n_graphs
    batch._slice_dict = {name: counts * length for name, length in lengths.items()}
    batch._inc_dict = {name: torch.zeros(n_graphs, dtype=torch.int64) for name in repeats}
    batch._inc_dict["edge_index"] = starts[:-1]
    return batch


def _shifted(edge_index: Tensor, n_graphs: int, n_nodes: int) -> Tensor:
    shift = torch.arange(n_graphs, device=edge_index.device) * n_nodes
    return (edge_index[:, None] + shift[:, None]).flatten(1)
