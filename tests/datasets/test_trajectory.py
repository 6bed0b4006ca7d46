"""Recorded motion and the windows cut from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from geoeq.datasets import ForecastWindows, Trajectory
from geoeq.datasets.batching import complete_graph
from geoeq.forecast.datamodule import share_of_frames


def line(n_frames=12, n_nodes=3, **known):
    """Node n at frame t is at (t, n, t n)."""
    t, n = torch.meshgrid(torch.arange(n_frames), torch.arange(n_nodes), indexing="ij")
    return Trajectory(torch.stack([t, n, t * n], 2).double(), time_step=0.5, **known)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_windows_hold_the_frames_that_follow_their_start(stride):
    motion = line()
    windows = motion.windows(3, 4, stride)
    assert windows.start.tolist() == list(range(0, 12 - 7 + 1, stride))
    for row, start in enumerate(windows.start.tolist()):
        assert torch.equal(windows.past[row], motion.pos[start : start + 3])
        assert torch.equal(windows.future[row], motion.pos[start + 3 : start + 7])
    assert windows.past.untyped_storage().data_ptr() == motion.pos.untyped_storage().data_ptr()


def test_a_short_trajectory_has_no_windows():
    windows = line(6).windows(3, 4)
    assert windows.past.shape == (0, 3, 3, 3)
    assert windows.future.shape == (0, 4, 3, 3)
    assert windows.start.shape == (0,)


def test_velocity_is_the_difference_to_the_frame_before():
    assert torch.equal(line().velocity()[:, 2], torch.tensor([2.0, 0.0, 4.0]).double().expand(11, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.zeros(4, 3)}, r"pos must be floating \[T, N, d\], got torch.float32 \[4, 3\]"),
        ({"pos": torch.zeros(4, 3, 2, dtype=torch.int64)}, "pos must be floating"),
        ({"pos": np.zeros((20, 4, 3))}, "pos must be a tensor, got 'ndarray'"),
        ({"pos": None}, "pos must be a tensor, got 'NoneType'"),
        ({"time_step": 0.0}, "time_step must be positive, got 0.0"),
        ({"x": torch.zeros(4, 2)}, r"x must be \[3, any\], got \[4, 2\]"),
        ({"x": [[1.0]] * 3}, "x must be a tensor, got 'list'"),
        ({"x": torch.tensor([[0.0], [1.0], [torch.nan]])}, r"x must be finite, got \[nan\] at node 2"),
        ({"part": torch.zeros(4)}, r"part must be \[3\], got \[4\]"),
        ({"edge_index": torch.tensor([[0], [3]])}, r"edge_index must be in \[0, 3\)"),
        ({"edge_index": torch.tensor([[0, 0], [2, 1]])}, "edge_index must be sorted by receiver"),
        ({"edge_index": torch.tensor(3)}, r"edge_index must be \[2, 0\], got \[\]"),
        ({"edge_index": torch.tensor([[0.0], [1.0]])}, "edge_index must be int64"),
        ({"edge_attr": torch.zeros(1, 1)}, r"edge_attr must be \[0, any\], got \[1, 1\]"),
        ({"present": torch.ones(3, 4, dtype=torch.bool)}, r"present must be \[4, 3\], got \[3, 4\]"),
        ({"present": torch.ones(4, 3)}, "present must be bool, got torch.float32"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Trajectory(**({"pos": torch.zeros(4, 3, 2), "time_step": 1.0} | change))


def test_nan_is_refused_unless_the_node_is_absent():
    pos = torch.zeros(4, 3, 2)
    pos[2, 1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"pos must be finite, got \[nan, 0.0\] at frame 2, node 1"):
        Trajectory(pos, 1.0)
    present = torch.ones(4, 3, dtype=torch.bool)
    present[2, 1] = False
    assert Trajectory(pos, 1.0, present=present).windows(1, 1).past.isnan().sum() == 1


def test_forecast_windows_are_graphs_at_the_last_past_frame():
    motion = line(x=torch.ones(3, 2))
    data = ForecastWindows([motion, line(20, x=torch.ones(3, 2))], past=3, future=[2, 4], stride=2)
    assert len(data) == 3 + 7
    graph = data[1]  # starts at frame 2 of the first
    assert torch.equal(graph.pos, motion.pos[4])
    assert torch.equal(graph.vel, motion.velocity()[3])
    assert torch.equal(graph.history, motion.pos[2:5].transpose(0, 1))
    assert torch.equal(graph.y, motion.pos[[6, 8]].transpose(0, 1))
    assert torch.equal(graph.edge_index, complete_graph(3))
    assert torch.equal(graph.x, motion.x)
    assert ForecastWindows([motion], future=1)[0].y.shape == (3, 3)


def test_windows_know_where_they_are_from():
    motions = [line(12), line(5), line(20)]
    data = ForecastWindows(motions, past=3, future=[2, 4], stride=2)  # the second is too short
    assert data.recording.tolist() == [0] * 3 + [2] * 7
    assert data.start.tolist() == [0, 2, 4, *range(0, 14, 2)]
    for graph in data:
        first = graph.history[:, 0]
        assert torch.equal(first, motions[int(graph.recording)].pos[int(graph.start)])
    length = data.past + data.steps[-1]
    assert share_of_frames(data.recording, data.start, length) == (11 + 19) / (10 * 7)
    assert share_of_frames(data[:3].recording.flatten(), data[:3].start.flatten(), length) == 11 / 21


def test_fetch_equals_collation():
    data = ForecastWindows([line(20, edge_index=complete_graph(3), edge_attr=torch.rand(6, 1))], 2, 3)
    index = torch.tensor([4, 0, 4])
    ours, theirs = data.fetch(index), Batch.from_data_list([data[int(i)] for i in index])
    assert sorted(ours.keys()) == sorted(theirs.keys())
    for name in ours.keys():  # noqa: SIM118 (a Batch iterates over values)
        assert torch.equal(ours[name], theirs[name]), name


def test_forecast_windows_name_what_does_not_fit():
    for arguments, message in [
        (([],), "trajectories must be at least one"),
        (([line()], 1), "past must be an integer >= 2"),
        (([line()], 2, 0), "future must be a number from 1, or rising steps from 1, got 0"),
        (([line()], 2, [3, 2]), "future must be a number from 1"),
        (([line()], 2, 1.5), "future must be a number from 1, or rising steps from 1, got 1.5"),
        (([line()], 2, None), "future must be a number from 1"),
        (([line()], 2, 1, 0), "stride must be an integer >= 1"),
        ((line(),), "trajectories must be a sequence of Trajectory, got Trajectory"),
        (([line(), "walk"],), "trajectories must be a sequence of Trajectory, got 'walk'"),
        (([line(), line(n_nodes=4)],), "trajectories must be alike"),
        (([line(unit="m"), line(unit="km")],), "trajectories must be alike, as .*unit='m'.*, got .*unit='km'"),
        (([line(), line(x=torch.ones(3, 1))],), "trajectories must be of one x"),
        (([line(4)], 2, 3), "trajectories must be at least 5 frames long"),
    ]:
        with pytest.raises(ValueError, match=message):
            ForecastWindows(*arguments)
