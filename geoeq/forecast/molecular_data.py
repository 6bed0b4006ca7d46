"""Batches of molecular motion for training."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch_geometric.data import Batch

from geoeq.datasets import MolecularDynamics, Trajectory
from geoeq.datasets.download import data_root
from geoeq.datasets.molecular import read_trajectory
from geoeq.forecast.datamodule import GraphData, with_field

__all__ = ["MolecularData"]

ATOMIC_SCALE = 10.0


class MolecularData(GraphData):
    """Training, validation and test batches of :class:`geoeq.datasets.MolecularDynamics`, to forecast positions.

    Networks are given ``pos``, ``vel``, ``history``, ``edge_attr`` [E, 1] (number of bonds; none with ``radius``),
    ``part`` where residues are known, and ``charge`` and ``x`` [n, 1], both of them the atomic number / 10.

    Args:
        path: an npz file such as those of MD17, or frames in any format that MDAnalysis opens; None for
            ``md17/md17_aspirin.npz`` in the folder of the variable GEOEQ_DATA, or in ``data``, and with a topology for
            the frames in that file.
        topology: file of the atoms for frames of the second kind, such as a PSF or PDB; None for npz files.
        select: which atoms of a topology, in MDAnalysis' language, such as ``"backbone"``.
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation, test and prediction.
        shuffle_seed: seed of the order of the training graphs.
        time_unit: number of frames in which ``vel`` is the way that is made. Published with 1.
        molecular: all other options of :class:`geoeq.datasets.MolecularDynamics`, the protocol among them.
    """

    unit = MolecularDynamics.unit
    source = "MD17 is at quantum-machine.org/gdml (md17_aspirin.npz, ...), --data.path takes the file"

    def __init__(
        self,
        path: str | None = None,
        topology: str | None = None,
        select: str = "all",
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        shuffle_seed: int = 0,
        time_unit: float = 1.0,
        **molecular: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle_seed, time_unit)
        self.path, self.topology, self.select = path, topology, select
        self.molecular = molecular  # on a line of its own, where jsonargparse looks for what becomes of it

    @cached_property
    def recording(self) -> str | Trajectory:
        """What the splits are cut from."""
        if self.topology is None:
            path = data_root(None, "md17") / "md17_aspirin.npz" if self.path is None else Path(self.path).expanduser()
            return str(path)
        return read_trajectory(self.topology, None if self.path == self.topology else self.path, self.select)

    def open(self, name: str) -> MolecularDynamics:
        return MolecularDynamics(self.recording, name, target="forecast", **self.molecular)

    def prepare(self, batch: Batch) -> Batch:
        if "z" in batch:
            number = (batch.z / ATOMIC_SCALE).to(batch.pos.dtype).unsqueeze(1)
            batch = with_field(with_field(batch, "charge", number), "x", number)
        return super().prepare(batch)

    def horizon(self) -> float:
        graphs = self.split("test")
        assert isinstance(graphs, MolecularDynamics)
        return graphs.protocol.future[-1] / self.time_unit
