"""The published recordings of pedestrians: rows, windows and the control that keeps the last velocity."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from geoeq.datasets import Pedestrians
from geoeq.datasets.pedestrians import read_tracks, recordings

# Rows, pedestrians, and distinct frames of the published files.
ROWS = {
    "biwi_eth": (5492, 360, 876),
    "biwi_hotel": (6543, 389, 1168),
    "students001": (21813, 415, 444),
    "students003": (17953, 434, 541),
    "uni_examples": (2747, 118, 734),
    "crowds_zara01": (5153, 148, 872),
    "crowds_zara02": (9722, 204, 1052),
    "crowds_zara03": (5005, 137, 754),
}


# Windows and pedestrians in them, of train, valid, test; with at least one pedestrian a window, and with at least two.
# The loader published with Social-GAN gives the same on the files of its split, with min_ped 0 and 1.
COUNTS = {
    ("eth", 1): [(3283, 30307), (733, 5422), (253, 364)],
    ("hotel", 1): [(3118, 29676), (688, 5203), (445, 1197)],
    ("univ", 1): [(2719, 9874), (622, 2800), (947, 24334)],
    ("zara1", 1): [(2889, 28577), (671, 5184), (705, 2356)],
    ("zara2", 1): [(2681, 26076), (590, 4262), (998, 5910)],
    ("eth", 2): [(2785, 29809), (660, 5349), (70, 181)],
    ("hotel", 2): [(2594, 29152), (621, 5136), (301, 1053)],
    ("univ", 2): [(2076, 9231), (530, 2708), (947, 24334)],
    ("zara1", 2): [(2322, 28010), (605, 5118), (602, 2253)],
    ("zara2", 2): [(2112, 25507), (501, 4173), (921, 5833)],
}


# Metres: average and final displacement error on the test windows if everyone keeps the last velocity.
CONSTANT_VELOCITY = {
    "eth": (1.075, 2.282),
    "hotel": (0.319, 0.614),
    "univ": (0.524, 1.165),
    "zara1": (0.427, 0.952),
    "zara2": (0.324, 0.724),
}


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    folder = shared_data / "eth-ucy"
    if not folder.is_dir():
        pytest.skip("the published recordings are not beside this checkout")
    root = tmp_path_factory.mktemp("pedestrians")
    shutil.copytree(folder, root / "raw")
    return root


def test_rows_of_the_published_files(published):
    for name, expected in ROWS.items():
        tracks = read_tracks(published / "raw" / f"{name}.txt")
        assert (len(tracks.ids), len(np.unique(tracks.ids)), len(np.unique(tracks.frame))) == expected, name
        assert tracks.step == 10
    for motion in recordings(published):
        assert motion.present.sum() == ROWS[motion.name][0]


@pytest.mark.parametrize(("scene", "least"), COUNTS)
def test_windows_of_the_published_protocol(published, scene, least):
    counts = []
    for split in ("train", "valid", "test"):
        data = Pedestrians(published, scene, split, min_pedestrians=least, log=False)
        counts.append((len(data), len(data.pos)))
        sizes = data.slices["pos"].diff()
        assert sizes.min() >= least
        assert data._data.edge_index.shape[1] == (sizes * (sizes - 1)).sum()
    assert counts == COUNTS[scene, least]


@pytest.mark.parametrize("scene", CONSTANT_VELOCITY)
def test_constant_velocity(published, scene):
    data = Pedestrians(published, scene, "test", log=False)
    times = 0.4 * torch.arange(1, 13)[:, None]
    distance = (data.pos[:, None] + times * data.vel[:, None] - data.y).norm(dim=2)
    assert (distance.mean().item(), distance[:, -1].mean().item()) == pytest.approx(CONSTANT_VELOCITY[scene], abs=5e-4)
