"""Batches of human motion for training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from geoeq.datasets import MotionCapture
from geoeq.datasets.mocap.dataset import node_features
from geoeq.forecast.datamodule import GraphData, paths_of, share_of_frames

__all__ = ["MotionCaptureData"]


class MotionCaptureData(GraphData):
    """Training, validation and test batches of :class:`geoeq.datasets.MotionCapture`.

    Networks are given ``pos``, ``vel``, ``x`` (speed, and height if asked for), ``edge_attr`` [E, 1], ``part`` and
    ``charge``, which is 1.

    Args:
        root: folder with ``raw``, in which the files are; None for ``mocap`` in the folder of the variable GEOEQ_DATA,
            or ``data/mocap``.
        batch_size: graphs in a training batch; published with 12.
        eval_batch_size: graphs in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training graphs.
        time_unit: number of frames in which ``vel`` is the way that is made. Published with 1; as many as are forecast
            give velocities the size of what is to be predicted. The speed in ``x`` is per frame always.
        jitter: standard deviation, in units of positions, of what is added to the place of the whole body in each of
            the two frames that ``vel`` is taken from, in every other training window. Recordings have frames in which
            the body is out of place, and a network that has seen few of them takes one for a change of pace.
        mocap: all other options of :class:`geoeq.datasets.MotionCapture`.
    """

    unit = MotionCapture.unit
    up = MotionCapture.gravity
    source = "--data.root takes the folder that holds raw"

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 12,
        eval_batch_size: int = 1000,
        shuffle_seed: int = 0,
        time_unit: float = 1.0,
        jitter: float = 0.0,
        **mocap: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle_seed, time_unit, jitter)
        self.root = root
        self.mocap = mocap  # on a line of its own, where jsonargparse looks for what becomes of keyword arguments

    def open(self, name: str) -> MotionCapture:
        return MotionCapture(self.root, split=name, **self.mocap)

    def shaken(self, batch: Batch, size: np.ndarray, pick: np.random.Generator) -> Batch:
        noise = size[:, None] * pick.standard_normal((2, batch.num_graphs, 3))
        now, then = torch.from_numpy(noise).to(batch.pos)[:, batch.batch]
        batch.pos = batch.pos + now
        batch.vel = batch.vel + then - now
        batch.x = node_features(batch.pos, batch.vel, height=batch.x.shape[1] > 1)
        return batch

    def independent(self) -> float:
        graphs = self.split("train")
        assert isinstance(graphs, MotionCapture)
        windows = graphs.fetch(torch.arange(len(graphs)))
        return share_of_frames(windows.trial.flatten(), windows.start.flatten(), graphs.future[-1] + 1)

    def true_paths(self, n: int) -> list[Tensor]:
        """As the base class's, with all frames in between if they can still be read."""
        graphs = self.split("test")
        assert isinstance(graphs, MotionCapture)
        try:
            every = MotionCapture(self.root, split="test", **self.mocap | {"future": range(1, graphs.future[-1] + 1)})
        except (FileNotFoundError, ValueError):  # the recordings are gone, or the folder cannot be written
            return super().true_paths(n)
        return paths_of(every.fetch(torch.arange(n)))

    def horizon(self) -> float:
        graphs = self.split("test")
        assert isinstance(graphs, MotionCapture)
        return graphs.future[-1] / self.time_unit
