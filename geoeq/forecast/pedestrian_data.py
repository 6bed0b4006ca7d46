"""Batches of pedestrians for training."""

from __future__ import annotations

from typing import Any

from geoeq.datasets import Pedestrians
from geoeq.forecast.datamodule import GraphData

__all__ = ["PedestrianData"]


class PedestrianData(GraphData):
    """Training, validation and test batches of :class:`geoeq.datasets.Pedestrians`, one scene left out.

    The ground stands in space at z = 0, and errors are of x and y alone. Networks are given ``pos``, ``vel`` (m/s),
    ``history`` [n, P, 3], and ``charge``, which is 1; there is no ``edge_attr``.

    Args:
        root: folder of the data; None for ``pedestrians`` in the folder of the variable GEOEQ_DATA, or in ``data``.
        batch_size: windows in a training batch.
        eval_batch_size: windows in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training windows.
        pedestrians: all other options of :class:`geoeq.datasets.Pedestrians`, the scene that is left out among them.
    """

    coordinates = 2
    unit = "m"

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 100,
        shuffle_seed: int = 0,
        **pedestrians: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle_seed)
        self.root = root
        self.pedestrians = pedestrians  # on a line of its own, where jsonargparse looks for it

    def open(self, name: str) -> Pedestrians:
        return Pedestrians(self.root, split=name, space=3, **self.pedestrians)

    def horizon(self) -> float:
        graphs = self.split("test")
        assert isinstance(graphs, Pedestrians)
        return 0.4 * graphs.steps[-1]
