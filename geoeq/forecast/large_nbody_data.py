"""Batches of N-body systems of many bodies for training."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.data import Batch

from geoeq.datasets import LargeNBody
from geoeq.datasets.download import data_root
from geoeq.forecast.conservation import nbody_drifts
from geoeq.forecast.datamodule import GraphData

__all__ = ["LargeNBodyData"]


class LargeNBodyData(GraphData):
    """Training, validation and test batches of :class:`geoeq.datasets.LargeNBody`, 100 bodies and more.

    Args:
        root: folder of the simulated data; None for ``nbody`` in the folder of the variable GEOEQ_DATA, or
            ``data/nbody``.
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training graphs.
        nbody: all other options of :class:`geoeq.datasets.LargeNBody`.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 20,
        eval_batch_size: int = 100,
        shuffle_seed: int = 0,
        **nbody: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle_seed)
        self.root = root
        self.nbody = nbody  # on a line of its own, where jsonargparse looks for what becomes of keyword arguments

    def open(self, name: str) -> LargeNBody:
        return LargeNBody(data_root(self.root, "nbody"), name, **self.nbody)

    def drifts(self, batch: Batch, path: Tensor) -> dict[str, Tensor]:
        """Drift of the momentum; the energy would need all pairs."""
        graphs = self.split("test")
        assert isinstance(graphs, LargeNBody)
        drifts = nbody_drifts(graphs.protocol, graphs.frames, batch, path)
        return {name: value for name, value in drifts.items() if name == "momentum_drift"}

    def horizon(self) -> float:
        graphs = self.split("test")
        assert isinstance(graphs, LargeNBody)
        return graphs.protocol.frame_time * (graphs.frames[-1] - graphs.frames[0])
