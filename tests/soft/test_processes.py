"""What the processes of a distributed training agree on; two real ones train in test_known_answers.py."""

import pytest
import torch
from torch import nn

from geoeq.soft import DualAscent, FunctionalEquivariance, processes
from geoeq.soft.processes import mean_over_processes, over_processes


class Pair:
    """A second process that has three times whatever this one has."""

    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    get_world_size = staticmethod(lambda: 2)

    @staticmethod
    def all_reduce(values):
        values.mul_(4)


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(processes, "distributed", Pair)


def test_alone_nothing_changes():
    loss = torch.tensor(2.0)
    assert mean_over_processes(loss) is loss
    assert over_processes(loss, 5) == (loss, 5)


@pytest.mark.usefixtures("pair")
def test_losses_are_averaged_and_samples_counted():
    values = torch.tensor([1.0, 2.0])
    assert mean_over_processes(values).tolist() == [2.0, 4.0]
    assert values.tolist() == [1.0, 2.0]
    loss, seen = over_processes(torch.tensor(1.5), 5)
    assert (float(loss), seen) == (3.0, 20)


@pytest.mark.usefixtures("pair")
def test_dual_ascent_follows_the_mean_of_the_levels():
    soft = FunctionalEquivariance({"rotation": "SO(3)"}, "1o", "1o", strength=0.0, tuner=DualAscent())
    soft.attach(nn.Linear(3, 3))
    soft.running.fill_(0.25)
    expected = soft.tuner(soft.strengths, torch.full_like(soft.running, 0.5))
    soft.tune()
    assert torch.equal(soft.strengths, expected)
