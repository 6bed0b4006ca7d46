"""Data sets of graphs that share their edges: one block of tensors instead of thousands of objects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from geoeq.datasets.batching import batch_template
from geoeq.datasets.held import HeldGraphs, Parts
from geoeq.datasets.pre_transform import stacked, transformed, unstacked


class EqualGraphs(HeldGraphs):
    """Base of data sets in which every graph has the same nodes and edges.

    What all graphs share (``edge_index``, ``part``, ...) is kept once, the rest as [S, n or E, ...]. A subclass
    calls :meth:`_take` at the end of its ``__init__``, or is :class:`~geoeq.datasets.stored.Stored` besides.
    """

    def _transformed(self, shared: dict[str, Tensor], block: dict[str, Tensor]) -> dict[str, Tensor]:
        """What ``pre_transform`` makes of the graphs, for :func:`~geoeq.datasets.pre_transform.unstacked`."""
        assert self.pre_transform is not None
        n_graphs = len(next(iter(block.values())))
        graphs = (_graph(shared, block, row) for row in range(n_graphs))
        return stacked(transformed(self.pre_transform, graphs), shared)

    def _restored(self, stored: dict[str, Tensor]) -> Parts:
        return unstacked(stored)

    def _take(self, shared: dict[str, Tensor], block: dict[str, Tensor]) -> None:
        """Take over the tensors: ``shared`` of one graph, ``edge_index`` among them; ``block`` with a row per graph."""
        self._shared, self._block = shared, block
        self._templates: dict[int, Batch] = {}
        self._rows: tuple[Sequence[int], Tensor] | None = None
        # The base class reads this for ``dataset.pos`` and the like.
        self._data = Data(**{name: value.flatten(0, 1) for name, value in block.items()})

    def len(self) -> int:
        return next(iter(self._block.values())).shape[0]

    def get(self, idx: int) -> Data:
        return _graph(self._shared, self._block, idx)

    def fetch(self, index: Tensor) -> Batch:
        """Batch of the graphs ``index``, the same as PyG's collation of them, without a loop over graphs.

        Args:
            index: [B] int64, positions in this (sub)set, each in [0, len(self)). Repeats are allowed.

        Returns:
            Batch of B graphs. What graphs share, ``batch`` and ``ptr`` are shared with other batches of the same
            size: do not change them in place. No ``transform`` is applied.

        Raises:
            ValueError: if index is not a 1-D int64 tensor.
            IndexError: if an entry is out of range.
        """
        if index.dim() != 1 or index.dtype != torch.int64:
            raise ValueError(f"index must be a 1-D int64 tensor, got {index.dtype} {list(index.shape)}")
        if self._indices is not None:
            index = self._subset_rows().index_select(0, index)
        template = self._templates.get(index.numel())
        if template is None:
            template = self._new_template(index.numel())
        batch = copy.copy(template)
        store = batch._store
        for name, value in self._block.items():
            store[name] = value.index_select(0, index).flatten(0, 1)
        return batch

    def _subset_rows(self) -> Tensor:
        # PyG makes a subset by a shallow copy with other indices, so these rows may be those of another set.
        if self._rows is None or self._rows[0] is not self._indices:
            rows = torch.as_tensor(self._indices, dtype=torch.int64, device=self._shared["edge_index"].device)
            self._rows = self._indices, rows
        return self._rows[1]

    def _new_template(self, n_graphs: int) -> Batch:
        if len(self._templates) >= 8:
            self._templates.clear()
        template = self._templates[n_graphs] = batch_template(self.get(0), n_graphs)
        return template

    def copy(self, idx: Any = None) -> EqualGraphs:
        """Copy of the data set, or of the graphs ``idx`` only, with tensors of its own."""
        chosen = self if idx is None else self.index_select(idx)
        rows = torch.as_tensor(list(chosen.indices()), dtype=torch.int64)
        result = copy.copy(self)
        result._indices = None
        result._take(
            {name: value.clone() for name, value in self._shared.items()},
            {name: value[rows] for name, value in self._block.items()},
        )
        return result

    def to(self, device: int | str | torch.device) -> EqualGraphs:
        """Move all tensors: :meth:`fetch` then takes an index on that device and returns batches there."""
        self._take(
            {name: value.to(device) for name, value in self._shared.items()},
            {name: value.to(device) for name, value in self._block.items()},
        )
        return self


def _graph(shared: dict[str, Tensor], block: dict[str, Tensor], row: int) -> Data:
    return Data(**shared, **{name: value[row] for name, value in block.items()})
