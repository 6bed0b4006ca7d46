"""Batches of graphs for training: a shuffling that depends on seed and epoch alone, and no Python per graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Batch

from geoeq.datasets.download import data_root
from geoeq.datasets.nbody import NBody, simulate
from geoeq.forecast.conservation import nbody_drifts
from geoeq.forecast.errors import as_path

__all__ = ["EpochBatches", "GraphData", "Graphs", "NBodyData"]


class Graphs(Protocol):
    """Any data set here: graphs by number, and batches of them without a loop."""

    def __len__(self) -> int: ...

    def fetch(self, index: Tensor) -> Batch:
        """Batch of the graphs ``index`` [B]."""
        ...


class EpochBatches(Sampler[Tensor]):
    """Index tensors of the batches of one epoch; the order is a pure function of ``(seed, epoch)``.

    A resumed run therefore sees the batches that the uninterrupted one would have seen.

    Args:
        n: number of samples.
        batch_size: samples in a batch; when shuffling, an incomplete last batch is left out.
        seed: of the shuffling; None keeps the order.
    """

    def __init__(self, n: int, batch_size: int, seed: int | None = None) -> None:
        if batch_size < 1 or (seed is not None and batch_size > n):
            raise ValueError(f"batch_size must lie in [1, {n}], got {batch_size}")
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        # A generator, so that the epoch is read at the first batch: a resumed run is told it after iter().
        if self.seed is None:
            order = torch.arange(self.n)
        else:
            order = torch.randperm(self.n, generator=torch.Generator().manual_seed((self.seed << 20) + self.epoch))
        yield from order.split(self.batch_size)[: len(self)]

    def __len__(self) -> int:
        return -(-self.n // self.batch_size) if self.seed is None else self.n // self.batch_size


class _Batches(Dataset[Batch]):
    """A data set whose items are whole batches."""

    def __init__(self, data: GraphData, split: str, order: EpochBatches) -> None:
        self.data, self.name, self.order = data, split, order

    def __getitem__(self, index: Tensor) -> Batch:
        self.data.epoch = self.order.epoch
        return self.data.fetch(self.name, index)


class GraphData(LightningDataModule, ABC):
    """Training, validation and test batches of one of geoeq's data sets.

    A subclass says how a split is opened (:meth:`open`), and in class attributes what its numbers are.

    Args:
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training graphs, in [0, 2**32).
        time_unit: the time, in units of the data set, in which ``vel`` is the way that is made. As long a one as is
            forecast gives velocities the size of what is to be predicted.
        jitter: size of the noise that :meth:`shaken` adds to every other training graph, for data that have it; a
            function of shuffle_seed, epoch and the graphs of the batch, so that a resumed run sees the same batches.

    Attributes:
        coordinates: how many of the three coordinates the data have; errors are taken of these.
        unit: of positions.
        up: the axis that points up in pictures.
        source: where to get files that are missing and which option takes them, the end of a sentence.
        epoch: that of the batch which is fetched.
    """

    coordinates: int = 3
    unit: str = "length units"
    up: str = "z"
    source: str = ""

    def __init__(
        self,
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        shuffle_seed: int = 0,
        time_unit: float = 1.0,
        jitter: float = 0.0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            sizes = f"{batch_size} and {eval_batch_size}"
            raise ValueError(f"batch_size and eval_batch_size must be at least 1, got {sizes}")
        if not 0 <= shuffle_seed < 2**32:
            raise ValueError(f"shuffle_seed must lie in [0, 2**32), got {shuffle_seed}")
        if not time_unit > 0:
            raise ValueError(f"time_unit must be positive, got {time_unit}")
        if not jitter >= 0:
            raise ValueError(f"jitter must be at least 0, got {jitter}")
        self.batch_size, self.eval_batch_size, self.shuffle_seed = batch_size, eval_batch_size, shuffle_seed
        self.time_unit, self.jitter = time_unit, jitter
        self.epoch = 0
        self._splits: dict[str, Graphs] = {}

    @abstractmethod
    def open(self, name: str) -> Graphs:
        """The data set of the split ``"train"``, ``"valid"`` or ``"test"``."""

    def split(self, name: str) -> Graphs:
        """The data set of one split, made when it is first asked for."""
        if name not in self._splits:
            try:
                self._splits[name] = self.open(name)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; {self.source}" if self.source else str(error)) from error
        return self._splits[name]

    def independent(self) -> float:
        """Share of the training graphs that tell something of their own, in (0, 1].

        Here 1. Data of windows that overlap count the frames that these cover, see :func:`share_of_frames`.
        """
        return 1.0

    def fetch(self, name: str, index: Tensor) -> Batch:
        """Batch of the graphs ``index`` [B] of a split, with all that networks are given."""
        batch = self.split(name).fetch(index)
        if name == "train" and self.jitter:
            # not torch's own generator, whose state is in no checkpoint
            pick = np.random.default_rng([self.shuffle_seed, self.epoch, *index.tolist()])
            batch = self.shaken(batch, self.jitter * (pick.random(batch.num_graphs) < 0.5), pick)
        return self.prepare(batch)

    def shaken(self, batch: Batch, size: np.ndarray, pick: np.random.Generator) -> Batch:
        """A training batch with noise of ``size`` [B] that is drawn from ``pick``; as it is, unless a subclass says."""
        return batch

    def prepare(self, batch: Batch) -> Batch:
        """What networks are given of a batch: velocities per time unit, and charges of 1 where it has none."""
        if self.time_unit != 1.0:
            batch.vel = batch.vel * self.time_unit
        return batch if "charge" in batch else with_field(batch, "charge", batch.pos.new_ones(len(batch.pos), 1))

    def drifts(self, batch: Batch, path: Tensor) -> dict[str, Tensor]:
        """How far a forecast fails to conserve what the true motion conserves: for each name one number per graph.

        Args:
            batch: inputs, as :meth:`fetch` gives them.
            path: [N, F, 3], positions at the target frames, forecast or true.
        """
        return {}

    def prepare_data(self) -> None:
        for name in ("train", "valid", "test"):
            self.split(name)

    def _loader(self, name: str, batch_size: int, seed: int | None = None) -> DataLoader:
        graphs = self.split(name)
        order = EpochBatches(len(graphs), batch_size, seed)
        return DataLoader(_Batches(self, name, order), sampler=order, batch_size=None)

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.batch_size, self.shuffle_seed)

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        return self._loader("test", self.eval_batch_size)

    def true_paths(self, n: int) -> list[Tensor]:
        """Positions of the nodes of the first ``n`` test graphs from input to target, each ``[T, nodes, 3]``."""
        batch = self.fetch("test", torch.arange(n))
        return paths_of(batch)

    def horizon(self) -> float:
        """Time from input to the last target, in units of time of the velocities."""
        return 1.0


def paths_of(batch: Batch) -> list[Tensor]:
    """Positions of each graph at the input and at all targets, ``[T, nodes, 3]``."""
    path = torch.cat([batch.pos.unsqueeze(1), as_path(batch.y)], 1)
    return list(path.transpose(0, 1).split(batch.ptr.diff().tolist(), dim=1))


def share_of_frames(recording: Tensor, start: Tensor, length: int) -> float:
    """Frames that windows cover, over those that they hold.

    Args:
        recording: [W], which recording each window is cut from.
        start: [W], its first frame.
        length: number of its frames.

    >>> share_of_frames(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 0]), 4)
    0.8333333333333334
    """
    frames = start.unsqueeze(1) + torch.arange(length, device=start.device)  # [W, length]
    owner = recording.unsqueeze(1).expand_as(frames)
    covered = torch.stack([owner, frames], 2).reshape(-1, 2).unique(dim=0)
    return len(covered) / frames.numel()


def with_field(batch: Batch, name: str, value: Tensor) -> Batch:
    """The batch with a further field of its nodes, in such a way that it can still be taken apart into graphs."""
    slices, increments = batch._slice_dict["pos"], batch._inc_dict["pos"]
    batch[name] = value
    # New dictionaries, since batches of one data set may share theirs.
    batch._slice_dict = batch._slice_dict | {name: slices}
    batch._inc_dict = batch._inc_dict | {name: increments}
    return batch


class NBodyData(GraphData):
    """Training, validation and test batches of :class:`geoeq.datasets.NBody`.

    Args:
        root: folder of the simulated data; None for ``nbody`` in the folder of the variable GEOEQ_DATA, or
            ``data/nbody``.
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training graphs.
        nbody: all other options of :class:`geoeq.datasets.NBody`.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        shuffle_seed: int = 0,
        **nbody: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle_seed)
        self.root = root
        self.nbody = nbody  # on a line of its own, where jsonargparse looks for what becomes of keyword arguments

    def open(self, name: str) -> NBody:
        return NBody(data_root(self.root, "nbody"), name, **self.nbody)

    def true_paths(self, n: int) -> list[Tensor]:
        """As the base class's, with some 10 positions per frame, simulated anew."""
        graphs = self.split("test")
        assert isinstance(graphs, NBody)
        finer = next(k for k in (10, 5, 4, 2, 1) if graphs.protocol.every % k == 0)
        protocol = replace(graphs.protocol, every=graphs.protocol.every // finer)
        paths = simulate(n, seed=(graphs.seed, 2), **asdict(protocol)).pos
        ends = (graphs.frames[0], graphs.frames[-1])
        # Of systems with objects the first stored frame is the first step, of others it is ``every`` steps on.
        first, last = (frame * finer if protocol.objects else (frame + 1) * finer - 1 for frame in ends)
        return list(paths[:, first : last + 1])

    def drifts(self, batch: Batch, path: Tensor) -> dict[str, Tensor]:
        """Drifts of energy and momentum, see :func:`~geoeq.forecast.conservation.nbody_drifts`."""
        graphs = self.split("test")
        assert isinstance(graphs, NBody)
        return nbody_drifts(graphs.protocol, graphs.frames, batch, path)

    def horizon(self) -> float:
        graphs = self.split("test")
        assert isinstance(graphs, NBody)
        return graphs.protocol.frame_time * (graphs.frames[-1] - graphs.frames[0])
