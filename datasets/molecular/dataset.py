"""The data set of molecular dynamics: later positions, or energies and forces, from positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_choice, require_count, require_counts
from geoeq.datasets.molecular.graphs import bonds, paths, radius_graphs, repeated
from geoeq.datasets.molecular.npz import MolecularFrames, read_npz
from geoeq.datasets.molecular.protocols import PROTOCOLS, SPLITS, MolecularProtocol
from geoeq.datasets.pre_transform import unjoined
from geoeq.datasets.ragged_graphs import RaggedGraphs
from geoeq.datasets.trajectory import Trajectory

FRAME_STEP = 0.5  # femtoseconds between two frames of MD17
LABEL_SIZES = (950, 50, 1000)  # train, valid and test graphs with energies


class MolecularDynamics(RaggedGraphs):
    r"""Molecular dynamics, to forecast positions or to predict energies and forces.

    **Forecasting** (``target="forecast"``). A graph has ``pos`` [n, 3] (the last frame given), ``vel`` [n, 3]
    (Angstrom per frame that is used, not per unit of time), ``history`` [n, P, 3], ``y`` [n, 3] or [n, F, 3] for F > 1
    target frames. The protocols, see :class:`~geoeq.datasets.molecular.MolecularProtocol`:

    =========== ============================== ===== ====== ====================================================
    protocol    source                         given target train, valid, test
    =========== ============================== ===== ====== ====================================================
    ``gmn``     arXiv 2203.06442, MD17         1     3000   500, 2000, 2000 drawn at random, heavy atoms only
    ``geotdm``  arXiv 2410.13027, MD17 / 10    10    1..20  5000, 1000, 1000 in 60, 20, 20 % of the simulation
    ``protein`` arXiv 2202.10643, AdK          1     15     all windows in 60, 20, 20 % of the simulation
    =========== ============================== ===== ====== ====================================================

    With one frame given, the velocity is the difference to the file's frame *after* it, as published, times ``every``.
    Inputs drawn at random from one simulation lie close to each other in time: the errors of ``gmn`` say how well a
    network interpolates.

    **Energies** (``target="energy"``, npz files only). A graph has ``pos`` [n, 3], ``y`` [1], the energy less
    :attr:`energy_mean`, and ``force`` [n, 3]. Energies of molecules are so large (-4e5 kcal/mol for aspirin) that
    float32 would round them by 0.03: their mean over the training graphs is taken off in float64.

    In both, ``z`` [n] has the atomic numbers (0 for unknown), ``start`` [1] the first frame, counted in the file, and
    ``part`` [n] the residues, where they are known. Edges join atoms at most ``hops`` bonds apart, and ``edge_attr``
    [E, 1] is the number of bonds; bonds are those of the topology, else the pairs within 1.6 Angstrom at the first
    frame. With ``radius`` edges join all atoms within it at ``pos``, without ``edge_attr``. One atom alone is a graph
    without edges. Nothing is stored: graphs are cut from the file at hand, and the edges of all of them are in memory.

    Symmetry: E(3) acts on ``pos``, ``history`` and ``y`` of a forecast, its linear part on ``vel`` and ``force``;
    energies are invariant. Equal atoms may change places.

    MD17 and rMD17 are not downloaded, since their publishers state no checksums: give the path of the npz file.

    Args:
        recording: path of an npz file, see :func:`~geoeq.datasets.molecular.read_npz`, or a trajectory, such as
            :func:`~geoeq.datasets.molecular.read_trajectory` gives.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        target: ``"forecast"`` or ``"energy"``.
        protocol: a name from the table or one's own :class:`~geoeq.datasets.molecular.MolecularProtocol`; for energies
            only its ``hops`` count.
        sizes: of train, valid and test; None for the protocol's, or for 950, 50 and 1000 with energies.
        seed: of what is drawn at random; 100 gives the published inputs of ``gmn``.
        radius: of the edges, in Angstrom; None for bonds.
        dtype: ``"float32"`` or ``"float64"``.
        transform: applied to each graph on access (not by :meth:`fetch`).
        pre_transform: applied to each graph once, here.

    Attributes:
        trajectory: the frames and atoms that windows are cut from, every so many of the file's, with bonds as edges;
            cut it in other ways with :class:`~geoeq.datasets.ForecastWindows`. Its time step is in femtoseconds. With
            energies it holds the first frame only.
        energy_mean: mean energy of the training graphs, as a float64 number; 0 for forecasts.
        unit, energy_unit, force_unit: those of MD17 and rMD17.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line for a wrong argument, a damaged file, a simulation that is too short, or frames that do not
            follow each other and cannot be forecast, as those of rMD17.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "methanol.npz")
        >>> place = [[0, 0, 0], [1.4, 0, 0], [1.7, 0.9, 0], [-0.4, 1, 0], [-0.4, -0.5, 0.9], [-0.4, -0.5, -0.9]]
        >>> np.savez(path, R=np.array(place) + 0.01 * np.random.randn(50, 6, 3), z=np.array([6, 8, 1, 1, 1, 1]))
        >>> own = MolecularProtocol(past=4, future=(1, 2), hydrogen=True, split="time", sizes=(10, 5, 5))
        >>> data = MolecularDynamics(path, "train", protocol=own)
        >>> len(data), data[0].history.shape, data[0].y.shape, data[0].z.tolist()
        (10, torch.Size([6, 4, 3]), torch.Size([6, 2, 3]), [6, 8, 1, 1, 1, 1])
        >>> MolecularDynamics("md17_aspirin.npz", "train")[0]  # doctest: +SKIP
        Data(edge_attr=[62, 1], edge_index=[2, 62], pos=[13, 3], vel=[13, 3], history=[13, 1, 3], y=[13, 3], ...)
    """

    unit = "Angstrom"
    energy_unit = "kcal/mol"
    force_unit = "kcal/mol/Angstrom"
    energy_mean: float = 0.0

    def __init__(
        self,
        recording: str | Path | Trajectory,
        split: str = "train",
        *,
        target: str = "forecast",
        protocol: str | MolecularProtocol = "gmn",
        sizes: Sequence[int] | None = None,
        seed: int = 100,
        radius: float | None = None,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
    ) -> None:
        require_choice("split", split, SPLITS)
        require_choice("target", target, ("forecast", "energy"))
        if not isinstance(protocol, MolecularProtocol):
            require_choice("protocol", protocol, PROTOCOLS)
            protocol = PROTOCOLS[protocol]
        if sizes is not None:
            require_counts("sizes", sizes, 3, minimum=1)
            protocol = replace(protocol, sizes=tuple(sizes))
        require_count("seed", seed, 0)
        require(radius is None or (radius > 0 and math.isfinite(radius)), "radius", "positive or None", radius)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        super().__init__(None, transform, pre_transform)
        self.split, self.target, self.protocol = split, target, protocol
        self.seed, self.radius, self.dtype = int(seed), radius, getattr(torch, dtype_name)
        if target == "forecast":
            self._set_windows(recording if isinstance(recording, Trajectory) else _opened(recording))
        elif isinstance(recording, Trajectory):
            raise ValueError(f"recording must be the path of an npz file for energies, got {recording}")
        else:
            self._set_energies(read_npz(recording, labels=True), sizes or LABEL_SIZES, Path(recording))

    def _set_windows(self, recording: Trajectory) -> None:
        protocol = self.protocol
        require(recording.present is None, "recording", "without absent nodes", recording)
        n_atoms, d = recording.pos.shape[1:]
        require(n_atoms > 0 and d == 3, "recording", "of positions [T, n, 3], n > 0", list(recording.pos.shape))
        if recording.x is not None:
            require(recording.x.shape[1] == 1, "recording", "of atomic numbers x [n, 1]", list(recording.x.shape))
        start = torch.from_numpy(protocol.starts(len(recording.pos), self.split, self.seed))
        kept = _without_hydrogen(recording) if not protocol.hydrogen else recording
        self.trajectory = replace(
            kept,
            pos=kept.pos[:-1][:: protocol.every],
            time_step=kept.time_step * protocol.every,
            edge_index=bonds(kept.pos[0]) if kept.edge_index is None else kept.edge_index,
        )
        windows = self.trajectory.windows(protocol.past, protocol.future[-1])
        history = windows.past[start].transpose(1, 2)  # [S, n, P, 3]
        pos = history[:, :, -1]
        future = windows.future[start[:, None], torch.tensor(protocol.future) - 1].transpose(1, 2)  # [S, n, F, 3]
        if protocol.past > 1:
            vel = pos - history[:, :, -2]
        else:
            vel = protocol.every * (kept.pos[start * protocol.every + 1] - pos)
        motion = {
            "pos": pos,
            "vel": vel,
            "history": history,
            "y": future[:, :, 0] if len(protocol.future) == 1 else future,
        }
        self._set_all({name: value.flatten(0, 1) for name, value in motion.items()}, {}, pos, start * protocol.every)

    def _set_energies(self, frames: MolecularFrames, sizes: Sequence[int], path: Path) -> None:
        n_frames = len(frames.pos)
        require(sum(sizes) <= n_frames, "sizes", f"at most {n_frames} together, the frames of {path}", tuple(sizes))
        order = np.random.default_rng(self.seed).permutation(n_frames)
        chosen = np.split(order, np.cumsum(sizes))[SPLITS.index(self.split)]
        assert frames.energy is not None
        assert frames.force is not None
        self.energy_mean = float(frames.energy[order[: sizes[0]]].mean())
        self.trajectory = _trajectory(frames._replace(pos=frames.pos[:1]), path)
        pos, force = (torch.from_numpy(values[chosen]) for values in (frames.pos, frames.force))
        energy = torch.from_numpy(frames.energy[chosen] - self.energy_mean)
        nodes = {"pos": pos.flatten(0, 1), "force": force.flatten(0, 1)}
        self._set_all(nodes, {"y": energy}, pos, torch.from_numpy(chosen))

    def _set_all(self, nodes: dict[str, Tensor], graphs: dict[str, Tensor], pos: Tensor, start: Tensor) -> None:
        """Take over fields of the nodes [S n, ...] and of the graphs [S, ...], and join atoms at ``pos`` [S, n, 3]."""
        n_graphs, n_nodes, _ = pos.shape
        edges = {}
        if self.radius is None:
            assert self.trajectory.edge_index is not None
            joined, length = paths(self.trajectory.edge_index, n_nodes, self.protocol.hops)
            edge_index, edge_ptr = repeated(joined, n_graphs)
            edges["edge_attr"] = length.repeat(n_graphs)[:, None].to(self.dtype)
        else:
            edge_index, edge_ptr = radius_graphs(pos, self.radius)
        edges["edge_index"] = edge_index
        node_ptr, graph_ptr = torch.arange(n_graphs + 1) * n_nodes, torch.arange(n_graphs + 1)
        nodes = {name: value.to(self.dtype).contiguous() for name, value in nodes.items()}
        if self.trajectory.x is not None:
            nodes["z"] = self.trajectory.x[:, 0].to(torch.int64).repeat(n_graphs)
        if self.trajectory.part is not None:
            nodes["part"] = self.trajectory.part.repeat(n_graphs)
        graphs = {name: value.to(self.dtype) for name, value in graphs.items()} | {"start": start}
        values = edges | nodes | graphs
        slices = dict.fromkeys(edges, edge_ptr) | dict.fromkeys(nodes, node_ptr) | dict.fromkeys(graphs, graph_ptr)
        if self.pre_transform is not None:
            values, slices = unjoined(self._transformed(values, slices))
        self._take(values, slices)


def _opened(path: str | Path) -> Trajectory:
    frames = read_npz(path)
    if frames.order is not None:
        raise ValueError(f"{path} must hold frames that follow each other to be forecast, got old_indices that jump")
    return _trajectory(frames, Path(path))


def _trajectory(frames: MolecularFrames, path: Path) -> Trajectory:
    pos = torch.from_numpy(frames.pos)
    features = torch.from_numpy(frames.z)[:, None].to(pos.dtype)
    return Trajectory(pos, FRAME_STEP, "Angstrom", x=features, edge_index=bonds(pos[0]), name=path.stem)


def _without_hydrogen(recording: Trajectory) -> Trajectory:
    """The atoms that are not hydrogen, and the edges between them."""
    if recording.x is None:
        raise ValueError("recording must have atomic numbers x [n, 1] to leave hydrogen out, got none")
    kept = torch.nonzero(recording.x[:, 0] != 1)[:, 0]
    require(kept.numel() > 0, "protocol", "one with hydrogen=True for a molecule of hydrogen only", str(recording))
    known = {name: getattr(recording, name) for name in ("x", "part", "ids")}
    known = {name: None if value is None else value[kept] for name, value in known.items()}
    edge_index = edge_attr = None
    if recording.edge_index is not None:
        place = torch.full((recording.pos.shape[1],), -1)
        place[kept] = torch.arange(kept.numel())
        ends = place[recording.edge_index]
        inside = (ends >= 0).all(0)
        edge_index = ends[:, inside]
        edge_attr = None if recording.edge_attr is None else recording.edge_attr[inside]
    return replace(recording, pos=recording.pos[:, kept], edge_index=edge_index, edge_attr=edge_attr, **known)
