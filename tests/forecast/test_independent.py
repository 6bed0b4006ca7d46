"""How many of the training graphs tell something of their own, and that the tuner is told."""

from types import SimpleNamespace

import pytest
import torch

from geoeq.datasets import MotionCapture, Pedestrians
from geoeq.forecast.datamodule import share_of_frames
from geoeq.forecast.module import ForecastModule
from geoeq.forecast.pedestrian_data import PedestrianData
from geoeq.layers import TypedMPNN
from geoeq.soft import Evidence


def test_windows_count_by_the_frames_that_they_cover():
    recording, start = torch.tensor([0, 0, 0, 4]), torch.tensor([7, 8, 100, 8])
    assert share_of_frames(recording, start, 5) == pytest.approx((6 + 5 + 5) / 20)


def test_shares_of_independent_graphs(module, runs, streets):
    assert module["charged"]().independent() == module["molecular"]().independent() == 1.0
    graphs = MotionCapture(runs, split="train", log=False)
    frames = {(g.trial.item(), g.start.item() + k) for g in graphs for k in range(31)}
    assert module["mocap"]().independent() == pytest.approx(len(frames) / (31 * len(graphs)))


@pytest.mark.parametrize("stride", [1, 4])
def test_share_of_independent_windows_of_pedestrians(streets, stride):
    data = PedestrianData(streets, scene="eth", stride=stride, log=False)
    graphs = Pedestrians(streets, scene="eth", split="train", stride=stride, log=False)
    frames = {(g.recording.item(), g.start.item() // 10 + k) for g in graphs for k in range(20)}
    assert data.independent() == pytest.approx(len(frames) / (20 * len(graphs)))


def test_evidence_is_told_how_many_graphs_are_independent(module):
    data = module["mocap"]()
    trainer = SimpleNamespace(datamodule=data)
    for given, expected in ((None, data.independent()), (0.5, 0.5)):
        tuner = Evidence(independent=given)
        network = ForecastModule(TypedMPNN("4x0e + 2x1o", 1, mode="soft", node_dim=2), {"shift": "T(3)"}, tuner)
        network.trainer, network.audit_batch = trainer, None
        network.on_train_start()
        assert tuner.independent == expected
