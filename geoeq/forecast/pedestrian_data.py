"""Batches of pedestrians for training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch

from geoeq.datasets import Pedestrians
from geoeq.datasets.pedestrians.tracks import TIME_STEP
from geoeq.forecast.datamodule import GraphData, share_of_frames

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
        jitter: standard deviation, in metres, of noise that is added to the past positions of every other training
            window. Some recordings are rougher than others, and a network that has seen only smooth ones takes every
            wobble for a turn.
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
        jitter: float = 0.0,
        **pedestrians: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle_seed, jitter=jitter)
        self.root = root
        self.pedestrians = pedestrians  # on a line of its own, where jsonargparse looks for it

    def open(self, name: str) -> Pedestrians:
        return Pedestrians(self.root, split=name, space=3, **self.pedestrians)

    def shaken(self, batch: Batch, size: np.ndarray, pick: np.random.Generator) -> Batch:
        noise = size[batch.batch, None, None] * pick.standard_normal(batch.history.shape)
        noise = torch.from_numpy(noise).to(batch.history)
        noise[..., self.coordinates :] = 0.0
        batch.history = batch.history + noise
        batch.pos = batch.history[:, -1]
        batch.vel = (batch.history[:, -1] - batch.history[:, -2]) / TIME_STEP
        return batch

    def independent(self) -> float:
        graphs = self.split("train")
        assert isinstance(graphs, Pedestrians)
        windows = graphs.fetch(torch.arange(len(graphs)))
        recording, start = windows.recording.flatten(), windows.start.flatten()
        for own in (recording == number for number in recording.unique()):  # frames are numbered in steps of their own
            steps = start[own].unique().diff()
            start[own] = start[own] // (int(steps.min()) // graphs.stride if len(steps) else 1)
        return share_of_frames(recording, start, graphs.past + graphs.steps[-1])

    def horizon(self) -> float:
        graphs = self.split("test")
        assert isinstance(graphs, Pedestrians)
        return TIME_STEP * graphs.steps[-1]
