"""Forecasting from one's own recordings: windows of trajectories as graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from geoeq.datasets.batching import complete_graph
from geoeq.datasets.checks import require, require_count, require_steps
from geoeq.datasets.equal_graphs import EqualGraphs
from geoeq.datasets.pre_transform import unstacked
from geoeq.datasets.trajectory import Trajectory


class ForecastWindows(EqualGraphs):
    """Windows of recordings of the same body: the past in, the future out.

    A graph has ``pos`` [n, d] (the last past frame), ``vel`` [n, d] (difference to the frame before over the time
    step), ``history`` [n, P, d] (all past frames), ``y`` ([n, d], or [n, F, d] for F > 1 future frames), ``start`` [1]
    (its first frame), ``recording`` [1] (its place in :attr:`trajectories`), and what the trajectories know: ``x``,
    ``edge_attr``, ``part``, ``edge_index``. Without edges the graph is complete.

    Windows of one recording resemble each other. With ``graphs = self.split("train")`` the method ``independent`` of
    one's own :class:`~geoeq.forecast.datamodule.GraphData` returns ``share_of_frames(graphs.recording, graphs.start,
    graphs.past + graphs.steps[-1])``.

    Args:
        trajectories: recordings with the same nodes, edges, time step and unit, each without absent nodes.
        past: number of frames given, at least 2 (a velocity needs two).
        future: the steps after the last past frame that are to be forecast; a number F is short for 1, ..., F.
        stride: frames between the starts of two windows.
        transform: applied to each graph on access (not by :meth:`fetch`).
        pre_transform: applied to each graph once, here.

    Raises:
        ValueError: one line for a wrong argument, for recordings that differ, or if none is long enough.

    Example:
        >>> walks = [Trajectory(torch.randn(20, 5, 3).cumsum(0), 0.1) for _ in range(3)]
        >>> data = ForecastWindows(walks, past=4, future=[10])
        >>> len(data), data[0].history.shape, data[0].y.shape
        (21, torch.Size([5, 4, 3]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        past: int = 2,
        future: int | Sequence[int] = 1,
        stride: int = 1,
        *,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
    ) -> None:
        require(isinstance(trajectories, Sequence), "trajectories", "a sequence of Trajectory", trajectories)
        require(len(trajectories) > 0, "trajectories", "at least one", trajectories)
        for trajectory in trajectories:
            require(isinstance(trajectory, Trajectory), "trajectories", "a sequence of Trajectory", trajectory)
        require_count("past", past, 2)
        steps = require_steps("future", future)
        super().__init__(None, transform, pre_transform)
        self.trajectories, self.past, self.steps = list(trajectories), past, steps
        shared = _shared(self.trajectories)
        blocks = [_block(trajectory, past, steps, stride) for trajectory in self.trajectories]
        block = {name: torch.cat([one[name] for one in blocks]) for name in blocks[0]}
        sizes = torch.tensor([len(one["pos"]) for one in blocks])
        block["recording"] = torch.arange(len(blocks)).repeat_interleave(sizes)[:, None]
        frames = past + steps[-1]
        require(len(block["pos"]) > 0, "trajectories", f"at least {frames} frames long", self.trajectories)
        if pre_transform is not None:
            shared, block = unstacked(self._transformed(shared, block))
        self._take(shared, block)


def _shared(trajectories: list[Trajectory]) -> dict[str, Tensor]:
    """What all recordings know of the nodes and edges."""
    first = trajectories[0]
    for other in trajectories:
        require(other.present is None, "trajectories", "without absent nodes", other)
        same = _frame(other) == _frame(first)
        require(same, "trajectories", f"alike, as {first}", other)
        for name in ("x", "edge_index", "edge_attr", "part"):
            ours, theirs = getattr(first, name), getattr(other, name)
            equal = theirs is None if ours is None else theirs is not None and torch.equal(ours, theirs)
            require(equal, "trajectories", f"of one {name}", other)
    known = {name: getattr(first, name) for name in ("x", "edge_index", "edge_attr", "part")}
    if first.edge_index is None:
        known["edge_index"] = complete_graph(first.pos.shape[1])
    return {name: value for name, value in known.items() if value is not None}


def _frame(trajectory: Trajectory) -> tuple[torch.Size, float, str]:
    """Nodes and dimension, time step, unit."""
    return trajectory.pos.shape[1:], trajectory.time_step, trajectory.unit


def _block(trajectory: Trajectory, past: int, steps: list[int], stride: int) -> dict[str, Any]:
    windows = trajectory.windows(past, steps[-1], stride)
    history = windows.past.transpose(1, 2)
    target = windows.future[:, [step - 1 for step in steps]].transpose(1, 2)
    return {
        "pos": history[:, :, -1].contiguous(),
        "vel": (history[:, :, -1] - history[:, :, -2]) / trajectory.time_step,
        "history": history.contiguous(),
        "y": (target[:, :, 0] if len(steps) == 1 else target).contiguous(),
        "start": windows.start[:, None],
    }
