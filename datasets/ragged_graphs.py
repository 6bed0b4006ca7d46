"""Data sets of graphs that differ in size: one tensor per field, and batches without a loop over graphs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from geoeq.datasets.held import HeldGraphs, Parts
from geoeq.datasets.pre_transform import joined, transformed, unjoined


class RaggedEdges(NamedTuple):
    """Edges of many graphs: ``edge_index`` [2, E] counts the nodes of each graph from 0, ``ptr`` [S + 1] its edges."""

    edge_index: Tensor
    ptr: Tensor


def ragged_complete_graphs(ptr: Tensor, pos: Tensor | None = None, radius: float | None = None) -> RaggedEdges:
    """Edges of complete graphs of several sizes, row 0 sender, row 1 receiver, sorted by graph and receiver.

    Args:
        ptr: [S + 1] int64, first node of each graph and the number of all nodes.
        pos: [N, d] positions; needed with ``radius``.
        radius: keep the edges between nodes at most this far apart; None keeps all.

    Example:
        >>> edges = ragged_complete_graphs(torch.tensor([0, 2, 3, 6]))
        >>> edges.edge_index.tolist()
        [[1, 0, 1, 2, 0, 2, 0, 1], [0, 1, 0, 0, 1, 1, 2, 2]]
        >>> edges.ptr.tolist()
        [0, 2, 2, 8]
    """
    size = ptr.diff()
    graph = torch.arange(size.numel(), device=ptr.device).repeat_interleave(size)  # [N], of each node
    first = ptr[graph]
    receiver = torch.arange(graph.numel(), device=ptr.device).repeat_interleave(size[graph])
    # Every node receives from all nodes of its graph, itself for now among them.
    before = size[graph].cumsum(0) - size[graph]
    sender = torch.arange(receiver.numel(), device=ptr.device) - before[receiver] + first[receiver]
    keep = sender != receiver
    if radius is not None:
        if pos is None:
            raise ValueError("pos must be given with radius, got None")
        keep &= (pos[sender] - pos[receiver]).square().sum(1) <= radius**2
    sender, receiver = sender[keep], receiver[keep]
    shift = first[receiver]
    return RaggedEdges(torch.stack([sender, receiver]) - shift, pointer(graph[receiver].bincount(minlength=len(size))))


def pointer(counts: Tensor) -> Tensor:
    """Sums of the counts before each entry and of all of them, [S] to [S + 1].

    Example:
        >>> pointer(torch.tensor([2, 1, 3])).tolist()
        [0, 2, 3, 6]
    """
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


class RaggedGraphs(HeldGraphs):
    """Base of data sets whose graphs differ in size.

    Every field of all graphs is one tensor, and its ``slices`` say which rows belong to which graph, as in PyG's
    InMemoryDataset. A subclass calls :meth:`_take` at the end of its ``__init__``, or is
    :class:`~geoeq.datasets.stored.Stored` besides. Fields whose name contains "index" count the nodes of their own
    graph from 0 and are shifted in a batch; the field ``pos`` tells the nodes.
    """

    def _transformed(self, values: dict[str, Tensor], slices: dict[str, Tensor]) -> dict[str, Tensor]:
        """What ``pre_transform`` makes of the graphs, for :func:`~geoeq.datasets.pre_transform.unjoined`."""
        assert self.pre_transform is not None
        fields = Data(**values)
        graphs = (_graph(fields, slices, row) for row in range(slices["pos"].numel() - 1))
        return joined(transformed(self.pre_transform, graphs))

    def _restored(self, stored: dict[str, Tensor]) -> Parts:
        return unjoined(stored)

    def _take(self, values: dict[str, Tensor], slices: dict[str, Tensor]) -> None:
        """Take over the tensors: one per field, and for each of them the pointer [S + 1] to the rows of the graphs."""
        self._data, self.slices = Data(**values), slices
        self._rows: tuple[Sequence[int], Tensor] | None = None

    def len(self) -> int:
        return self.slices["pos"].numel() - 1

    def get(self, idx: int) -> Data:
        return _graph(self._data, self.slices, idx)

    def fetch(self, index: Tensor) -> Batch:
        """Batch of the graphs ``index``, the same as PyG's collation of them, without a loop over graphs.

        Args:
            index: [B] int64, positions in this (sub)set, each in [0, len(self)). Repeats are allowed.

        Returns:
            Batch of B graphs, with tensors of its own. No ``transform`` is applied.

        Raises:
            ValueError: if index is not a 1-D int64 tensor.
            IndexError: if an entry is out of range.
        """
        if index.dim() != 1 or index.dtype != torch.int64:
            raise ValueError(f"index must be a 1-D int64 tensor, got {index.dtype} {list(index.shape)}")
        if self._indices is not None:
            index = self._subset_rows().index_select(0, index)
        values, slices = self._gathered(index)
        ptr = slices["pos"]
        increments = {name: torch.zeros_like(index) for name in values}
        for name in values:
            if "index" in name:
                increments[name] = ptr[:-1]
                values[name] += ptr[:-1].repeat_interleave(slices[name].diff())
        graph = torch.arange(index.numel(), device=index.device).repeat_interleave(ptr.diff())
        batch = Batch(**values, batch=graph, ptr=ptr)
        # What PyG's Batch reads to take a batch apart again.
        batch._num_graphs = index.numel()
        batch._slice_dict, batch._inc_dict = slices, increments
        return batch

    def _gathered(self, index: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Fields and slices of the graphs ``index`` of the whole set."""
        values, slices = {}, {}
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for name, ptr in self.slices.items():
            if id(ptr) not in rows:  # fields of the nodes share one pointer, and so do those of the edges
                rows[id(ptr)] = _rows(ptr, index)
            value = self._data[name]
            row, slices[name] = rows[id(ptr)]
            values[name] = value.index_select(self._data.__cat_dim__(name, value), row)
        return values, slices

    def _subset_rows(self) -> Tensor:
        # PyG makes a subset by a shallow copy with other indices, so these rows may be those of another set.
        if self._rows is None or self._rows[0] is not self._indices:
            rows = torch.as_tensor(self._indices, dtype=torch.int64, device=self.slices["pos"].device)
            self._rows = self._indices, rows
        return self._rows[1]

    def copy(self, idx: Any = None) -> RaggedGraphs:
        """Copy of the data set, or of the graphs ``idx`` only, with tensors of its own."""
        chosen = self if idx is None else self.index_select(idx)
        result = copy.copy(self)
        result._indices = None
        rows = torch.as_tensor(list(chosen.indices()), dtype=torch.int64, device=self.slices["pos"].device)
        result._take(*self._gathered(rows))
        return result

    def to(self, device: int | str | torch.device) -> RaggedGraphs:
        """Move all tensors: :meth:`fetch` then takes an index on that device and returns batches there."""
        moved = {id(ptr): ptr.to(device) for ptr in self.slices.values()}
        self._take(
            {name: self._data[name].to(device) for name in self.slices},
            {name: moved[id(ptr)] for name, ptr in self.slices.items()},
        )
        return self


def _rows(ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the graphs ``index`` one after another, and the pointer to those of each."""
    start = ptr.index_select(0, index)
    taken = pointer(ptr.index_select(0, index + 1) - start)
    rows = torch.arange(int(taken[-1]), device=ptr.device)
    return rows + (start - taken[:-1]).repeat_interleave(taken.diff()), taken


def _graph(fields: Data, slices: dict[str, Tensor], row: int) -> Data:
    graph = Data()
    for name, ptr in slices.items():
        start, stop = ptr[row : row + 2].tolist()
        value = fields[name]
        graph[name] = value.narrow(fields.__cat_dim__(name, value), start, stop - start)
    return graph
