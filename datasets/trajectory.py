"""Recorded motion: what every loader gives and every forecast is cut from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_count


class Windows(NamedTuple):
    """Pieces of a trajectory: ``past`` [S, P, N, d], ``future`` [S, F, N, d], first frame of each ``start`` [S]."""

    past: Tensor
    future: Tensor
    start: Tensor


@dataclass(frozen=True)
class Trajectory:
    """Positions of N nodes at T equal steps of time, and what is known of the nodes.

    Args:
        pos: [T, N, d], floating; NaN at frames in which a node is absent, if ``present`` says so.
        time_step: time between two frames, in seconds unless the source has no such unit.
        unit: unit of the positions.
        x: [N, F] features of the nodes.
        edge_index: [2, E] int64, row 0 sender, row 1 receiver, sorted by receiver.
        edge_attr: [E, A] features of the edges.
        part: [N] int64, part of the body that a node belongs to.
        ids: [N] int64, names of the nodes in the source.
        present: [T, N] bool; None if all nodes are there at all frames.
        name: of the recording.

    Raises:
        ValueError: one line for a wrong shape or type, an edge to a node that is not there, or positions or features
            that are not finite.

    Example:
        >>> walk = Trajectory(torch.randn(20, 5, 3).cumsum(0), time_step=0.1, unit="m")
        >>> walk
        Trajectory(T=20, N=5, d=3, time_step=0.1, unit='m')
        >>> past, future, start = walk.windows(past=4, future=8, stride=2)
        >>> past.shape, future.shape, start.tolist()
        (torch.Size([5, 4, 5, 3]), torch.Size([5, 8, 5, 3]), [0, 2, 4, 6, 8])
    """

    pos: Tensor
    time_step: float
    unit: str = ""
    x: Tensor | None = None
    edge_index: Tensor | None = None
    edge_attr: Tensor | None = None
    part: Tensor | None = None
    ids: Tensor | None = None
    present: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self._check_types()
        if self.pos.dim() != 3 or not self.pos.is_floating_point():
            raise ValueError(f"pos must be floating [T, N, d], got {self.pos.dtype} {list(self.pos.shape)}")
        require(self.time_step > 0 and math.isfinite(self.time_step), "time_step", "positive", self.time_step)
        n_frames, n_nodes, _ = self.pos.shape
        self._check_shapes(n_frames, n_nodes)
        self._check_edges(n_nodes)
        if self.x is not None and not self.x.isfinite().all():
            node = int(torch.nonzero(~self.x.isfinite())[0, 0])
            raise ValueError(f"x must be finite, got {self.x[node].tolist()} at node {node}")
        finite = self.pos.isfinite().all(2)
        lost = torch.nonzero(~finite if self.present is None else ~finite & self.present)
        if lost.numel():
            frame, node = lost[0].tolist()
            raise ValueError(f"pos must be finite, got {self.pos[frame, node].tolist()} at frame {frame}, node {node}")

    def _check_types(self) -> None:
        for name in ("pos", "x", "edge_index", "edge_attr", "part", "ids", "present"):
            value = getattr(self, name)
            known = isinstance(value, Tensor) or (value is None and name != "pos")
            require(known, name, "a tensor", type(value).__name__)
        if self.present is not None:
            require(self.present.dtype == torch.bool, "present", "bool", self.present.dtype)

    def _check_shapes(self, n_frames: int, n_nodes: int) -> None:
        n_edges = 0 if self.edge_index is None else self.edge_index.numel() // 2
        shapes = {
            "x": (self.x, (n_nodes, None)),
            "edge_index": (self.edge_index, (2, n_edges)),
            "edge_attr": (self.edge_attr, (n_edges, None)),
            "part": (self.part, (n_nodes,)),
            "ids": (self.ids, (n_nodes,)),
            "present": (self.present, (n_frames, n_nodes)),
        }
        for name, (value, shape) in shapes.items():
            if value is None:
                continue
            fits = value.dim() == len(shape) and all(
                b is None or a == b for a, b in zip(value.shape, shape, strict=True)
            )
            if not fits:
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise ValueError(f"{name} must be [{wanted}], got {list(value.shape)}")

    def _check_edges(self, n_nodes: int) -> None:
        if self.edge_index is None:
            return
        require(self.edge_index.dtype == torch.int64, "edge_index", "int64", self.edge_index.dtype)
        inside = (self.edge_index >= 0).all() and (self.edge_index < n_nodes).all()
        require(bool(inside), "edge_index", f"in [0, {n_nodes})", self.edge_index.flatten().tolist()[:8])
        receiver = self.edge_index[1]
        require(bool((receiver[1:] >= receiver[:-1]).all()), "edge_index", "sorted by receiver", "another order")

    def __repr__(self) -> str:
        n_frames, n_nodes, d = self.pos.shape
        known = f"T={n_frames}, N={n_nodes}, d={d}, time_step={self.time_step}, unit={self.unit!r}"
        return f"Trajectory({known}, name={self.name!r})" if self.name else f"Trajectory({known})"

    def velocity(self) -> Tensor:
        """Difference of a frame and the one before it over the time step, [T - 1, N, d]: that of frames 1 to T - 1."""
        return self.pos.diff(dim=0) / self.time_step

    def windows(self, past: int, future: int, stride: int = 1) -> Windows:
        """All pieces of ``past`` and then ``future`` frames whose first frames are ``stride`` apart.

        The tensors are views of ``pos``: nothing is copied. Absent nodes are NaN there. A trajectory shorter than
        past + future frames has no windows.

        Raises:
            ValueError: past or stride below 1, future below 0.
        """
        require_count("past", past, 1)
        require_count("future", future, 0)
        require_count("stride", stride, 1)
        n_frames, n_nodes, d = self.pos.shape
        if n_frames < past + future:
            pieces = self.pos.new_empty(0, past + future, n_nodes, d)
        else:
            pieces = self.pos.unfold(0, past + future, stride).movedim(3, 1)
        return Windows(pieces[:, :past], pieces[:, past:], torch.arange(pieces.shape[0]) * stride)
