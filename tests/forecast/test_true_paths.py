"""The true paths that pictures are drawn from."""

import shutil

import pytest
import torch

from geoeq.datasets import MotionCapture
from geoeq.forecast.datamodule import NBodyData
from geoeq.forecast.mocap_data import MotionCaptureData


def test_true_paths_of_motion_are_all_frames_of_it(runs, tmp_path):
    data = MotionCaptureData(runs, log=False)
    paths, batch = data.true_paths(3), data.fetch("test", torch.arange(3))
    trials = MotionCapture.recordings(runs)
    for k, path in enumerate(paths):
        start, trial = int(batch.start[k]), int(batch.trial[k])
        torch.testing.assert_close(path, trials[trial].pos[start : start + 31].float())
    assert torch.equal(torch.cat([path[-1] for path in paths]), batch.y)
    shutil.rmtree(f"{runs}/raw")
    again = MotionCaptureData(runs, log=False)  # what is stored is all there is
    assert torch.equal(again.true_paths(1)[0], paths[0])
    for stored in (tmp_path / "mocap" / "processed").glob("run-test-*"):
        if torch.load(stored, weights_only=True)["tensors"]["y"].dim() == 4:
            stored.unlink()
    assert [path.shape[0] for path in again.true_paths(2)] == [2, 2]  # straight lines, where frames cannot be had


def test_true_paths_need_no_folder_that_can_be_written(runs, monkeypatch):
    data = MotionCaptureData(runs, log=False)
    data.prepare_data()

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("geoeq.datasets.stored.save_tensors", refuse)
    assert [path.shape[0] for path in data.true_paths(2)] == [2, 2]


@pytest.mark.parametrize("frames", [[0, 2], [1, 2, 4]])
@pytest.mark.parametrize("objects", [None, [1, 1, 1]])
def test_true_paths_of_bodies_end_at_the_targets(tmp_path, objects, frames):
    data = NBodyData(str(tmp_path), frames=frames, sizes=[4, 4, 4], objects=objects, log=False)
    paths, batch = data.true_paths(3), data.fetch("test", torch.arange(3))
    last = batch.y if batch.y.dim() == 2 else batch.y[:, -1]
    assert torch.allclose(torch.cat([path[0] for path in paths]).float(), batch.pos, atol=1e-6)
    assert torch.allclose(torch.cat([path[-1] for path in paths]).float(), last, atol=1e-6)
    assert data.horizon() == pytest.approx(0.1 * (frames[-1] - frames[0]))
