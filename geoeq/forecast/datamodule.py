"""Batches of graphs for training: a shuffling that depends on seed and epoch alone, and no Python per graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Batch

from geoeq.datasets.nbody import NBody, simulate

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

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs

    def __getitem__(self, index: Tensor) -> Batch:
        return self.graphs.fetch(index)


class GraphData(LightningDataModule):
    """Training, validation and test batches of one of geoeq's data sets.

    A subclass says how a split is opened (:meth:`open`).

    Args:
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training graphs.
    """

    def __init__(self, batch_size: int = 100, eval_batch_size: int = 1000, shuffle_seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size, self.shuffle_seed = batch_size, eval_batch_size, shuffle_seed
        self._splits: dict[str, Graphs] = {}

    def open(self, name: str) -> Graphs:
        """The data set of the split ``"train"``, ``"valid"`` or ``"test"``."""
        raise NotImplementedError

    def split(self, name: str) -> Graphs:
        """The data set of one split, made when it is first asked for."""
        if name not in self._splits:
            self._splits[name] = self.open(name)
        return self._splits[name]

    def prepare_data(self) -> None:
        for name in ("train", "valid", "test"):
            self.split(name)

    def _loader(self, name: str, batch_size: int, seed: int | None = None) -> DataLoader:
        graphs = self.split(name)
        return DataLoader(_Batches(graphs), sampler=EpochBatches(len(graphs), batch_size, seed), batch_size=None)

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
        batch = self.split("test").fetch(torch.arange(n))
        frames = batch.y if batch.y.dim() == 3 else batch.y.unsqueeze(1)
        paths = torch.cat([batch.pos.unsqueeze(1), frames], 1).transpose(0, 1)
        return list(paths.split(batch.ptr.diff().tolist(), dim=1))

    def horizon(self) -> float:
        """Time from input to the last target, in units of time of the velocities."""
        return 1.0


class NBodyData(GraphData):
    """Training, validation and test batches of :class:`geoeq.datasets.NBody`.

    Args:
        root: folder of the simulated data.
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training graphs.
        nbody: all other options of :class:`geoeq.datasets.NBody`.
    """

    def __init__(
        self,
        root: str = "data/nbody",
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        shuffle_seed: int = 0,
        **nbody: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle_seed)
        self.root = root
        self.nbody = nbody  # on a line of its own, where jsonargparse looks for what becomes of keyword arguments

    def open(self, name: str) -> NBody:
        return NBody(self.root, name, **self.nbody)

    def true_paths(self, n: int) -> list[Tensor]:
        """As the base class's, with some 10 positions per frame, simulated anew."""
        graphs = self.split("test")
        assert isinstance(graphs, NBody)
        finer = next(k for k in (10, 5, 4, 2, 1) if graphs.protocol.every % k == 0)
        protocol = replace(graphs.protocol, every=graphs.protocol.every // finer)
        paths = simulate(n, seed=(graphs.seed, 2), **asdict(protocol)).pos
        first, last = ((frame + 1) * finer - 1 for frame in (graphs.frames[0], graphs.frames[-1]))
        return list(paths[:, first : last + 1])

    def horizon(self) -> float:
        graphs = self.split("test")
        assert isinstance(graphs, NBody)
        return graphs.protocol.dt * graphs.protocol.every * (graphs.frames[-1] - graphs.frames[0])
