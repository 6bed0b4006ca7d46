"""The published recordings of human motion: frames, windows, controls and mirror."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mocap import FRAMES, load

from geoeq.datasets import MotionCapture
from geoeq.datasets.mocap import read_amc, read_asf
from geoeq.datasets.mocap.protocols import CMU, PROTOCOLS, SPLITS


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    folder = shared_data / "cmu-mocap"
    if not folder.is_dir():
        pytest.skip("the published recordings are not beside this checkout")
    root = tmp_path_factory.mktemp("mocap")
    (root / "raw").mkdir()
    shutil.copy(folder / "subject09_run.npz", root / "raw")
    return root, folder


def test_frames_of_the_published_runs(published):
    runs = MotionCapture.recordings(published[0])
    assert tuple(len(run.pos) for run in runs) == FRAMES
    joint, parent = torch.tensor(CMU.edges).T
    for run in runs:
        assert run.pos.shape[1:] == (31, 3)
        length = (run.pos[:, joint] - run.pos[:, parent]).norm(dim=2)
        assert (length - length[0]).abs().max() < 1e-6  # bones are rigid: joints and edges belong together


@pytest.mark.parametrize(("split", "size"), [("train", 200), ("valid", 240), ("test", 240)])
def test_windows_of_the_published_run_protocol(published, split, size):
    """240 of the 600 asked for: 80 of each trial were drawn."""
    data = load(published[0], split=split)
    assert len(data) == size
    with np.load(published[1] / "subject09_run.npz") as stored:
        for trial in data.trial.unique().tolist():
            name = f"split_run_{split.removesuffix('id')}_{trial:02d}"
            drawn = data.start[data.trial == trial].numpy()
            assert np.array_equal(drawn, stored[name][: len(drawn)])


def test_input_frames_of_the_published_walk_protocol(published):
    protocol = PROTOCOLS["walk"]
    with np.load(published[1] / "subject35_walk_split.npz") as stored:
        found = {}
        for split in SPLITS:
            for trial, frames in protocol.inputs(split, 10**6).items():
                found[f"split_{split.removesuffix('id')}_{trial:02d}"] = frames
        assert sorted(found) == sorted(stored.files)
        for name, frames in found.items():
            assert np.array_equal(frames, stored[name]), name


@pytest.mark.parametrize("height", [True, False])
def test_controls_of_the_published_run_protocol(published, height):
    data = load(published[0], split="test", height=height, dtype="float64")
    pos, vel, y = (data._data[name] for name in ("pos", "vel", "y"))
    assert 100 * (pos - y).square().mean().item() == pytest.approx(8980, abs=1)
    assert 100 * (pos + 30 * vel - y).square().mean().item() == pytest.approx(1980, abs=1)
    assert data._data.x.shape == (240 * 31, 1 + height)


def test_a_mirrored_runner_is_nearly_a_runner(published):
    """Left and right exchanged and x reversed, the mean pose nearly stays; with one of the two alone it does not."""
    pos = torch.cat([run.pos - run.pos[:, :1] for run in MotionCapture.recordings(published[0])]).mean(0)
    flipped = pos * torch.tensor([-1.0, 1.0, 1.0])
    mirrored, reversed_, exchanged = (
        (other - pos).norm(dim=1).mean() for other in (flipped[CMU.mirror], flipped, pos[CMU.mirror])
    )
    assert mirrored < 0.5 * min(reversed_, exchanged)


def test_acclaim_samples_as_a_walking_set(published, tmp_path):
    """The recording of another subject in the place of all walks: what the protocol makes of it is the recording."""
    raw: Path = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(published[1] / "02.asf", raw / "35.asf")
    for number in PROTOCOLS["walk"].files:
        (raw / f"35_{number:02d}.amc").symlink_to(published[1] / "02_01.amc")
    data = load(tmp_path, "walk", "test", dtype="float64")
    motion = read_amc(published[1] / "02_01.amc", read_asf(published[1] / "02.asf")).pos
    assert len(data) == 600
    start = data.start
    assert torch.equal(data._data.pos.view(-1, 31, 3), motion[start])
    assert torch.equal(data._data.y.view(-1, 31, 3), motion[start + 30])
