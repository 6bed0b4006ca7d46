"""What is logged of a forecast: errors by name, and drifts of what N-body motion conserves."""

import math

import pytest
import torch
from torch_geometric.data import Batch, Data

from geoeq.datasets import NBody
from geoeq.datasets.batching import complete_graph
from geoeq.datasets.nbody import Protocol, integrate
from geoeq.forecast.conservation import nbody_drifts, potential_energy
from geoeq.forecast.errors import path_errors, sample_errors
from geoeq.forecast.module import ForecastModule
from geoeq.forecast.trajectory_metrics import ade, average_mse, fde, final_mse, joint_min_ade, min_ade, min_fde
from geoeq.layers import EGNN


def test_errors_of_a_path_have_their_names():
    predicted, target = torch.randn(2, 7, 4, 3)
    errors = path_errors(predicted, target)
    expected = {"ade": ade, "fde": fde, "a_mse": average_mse, "f_mse": final_mse}
    assert {name: value.item() for name, value in errors.items()} == {
        name: function(predicted, target).item() for name, function in expected.items()
    }
    assert list(path_errors(predicted, target, squares=False)) == ["ade", "fde"]
    one = path_errors(predicted[:, 0], target[:, 0])
    assert list(one) == ["fde"]
    assert one["fde"].item() == pytest.approx((predicted[:, 0] - target[:, 0]).norm(dim=1).mean().item())


def test_errors_of_samples_carry_their_number():
    samples, target = torch.randn(5, 7, 4, 3), torch.randn(7, 4, 3)
    batch = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    errors = sample_errors(samples, target, batch)
    assert list(errors) == ["min_ade_5", "min_fde_5", "joint_min_ade_5", "joint_min_fde_5"]
    assert errors["min_ade_5"] == min_ade(samples, target)
    assert errors["joint_min_ade_5"] == joint_min_ade(samples, target, batch)
    frame = sample_errors(samples[:, :, 0], target[:, 0], batch)
    assert frame["min_ade_5"] == frame["min_fde_5"] == min_fde(samples[:, :, :1], target[:, :1])


def scene(protocol, seed=0):
    """A few trajectories of a protocol: inputs as a batch, the whole paths [N, T, 3]."""
    pick = torch.Generator().manual_seed(seed)
    n = protocol.n_bodies
    pos, vel = torch.randn(2, 3, n, 3, generator=pick, dtype=torch.float64)
    charge = torch.ones(3, n, 1, dtype=torch.float64)
    springs = torch.ones(3, n, n, dtype=torch.float64) - torch.eye(n) if protocol.system == "springs" else None
    result = integrate(3 * pos, vel, charge, protocol, coupling=springs)
    edge_index = complete_graph(n)
    coupling = result.coupling[:, edge_index[1], edge_index[0], None]
    graphs = [
        Data(pos=result.pos[k, 0], vel=result.vel[k, 0], edge_index=edge_index, edge_attr=coupling[k]) for k in range(3)
    ]
    return Batch.from_data_list(graphs), result.pos[:, 1:].transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("system", ["charged", "gravity", "springs"])
def test_true_motion_drifts_little_and_a_wrong_one_much(system):
    protocol = Protocol(system, 5, n_steps=300, every=10, clip="norm")
    batch, path = scene(protocol)
    frames = range(29)
    true = nbody_drifts(protocol, frames, batch, path)
    assert true["momentum_drift"].shape == true["energy_drift"].shape == (3,)
    assert true["momentum_drift"].max() < 1e-9
    assert true["energy_drift"].max() < 2e-3  # of finite differences
    centre = batch.pos.view(3, 5, 3).mean(1).repeat_interleave(5, 0)
    wrong = nbody_drifts(
        protocol, frames, batch, path + 0.02 * torch.arange(1, 29)[:, None] * (path[:, :1] - centre[:, None])
    )
    assert wrong["energy_drift"].min() > 0.05
    shifted = nbody_drifts(protocol, frames, batch, path + 0.1 * torch.arange(1.0, 29)[:, None])
    assert shifted["momentum_drift"].min() > 0.1


def test_potential_energy_is_that_of_the_forces():
    """Minus its gradient is the force of the simulator, seen in the first step of bodies at rest."""
    for system in ("charged", "gravity", "springs"):
        protocol = Protocol(system, 4, n_steps=2, every=1, dt=1e-4, clip="norm")
        batch, _ = scene(protocol)
        still = batch.pos.clone().requires_grad_()
        energy = potential_energy(system, batch, still.unsqueeze(1))
        assert energy.shape == (3, 1)
        (gradient,) = torch.autograd.grad(energy.sum(), still)
        coupling = torch.ones(3, 4, 4, dtype=torch.float64) - torch.eye(4) if system == "springs" else None
        start = batch.pos.view(3, 4, 3)
        end = integrate(start, 0 * start, torch.ones(3, 4, 1), protocol, coupling=coupling)
        kicks = 1.0 if system != "gravity" else 0.5  # the first kick is a whole or half step
        force = (end.pos[:, 0] - start).flatten(0, 1) / (kicks * 1e-8)
        torch.testing.assert_close(force, -gradient, rtol=1e-3, atol=1e-4)


def test_momentum_of_one_frame_ahead_is_that_of_the_mean_velocity():
    protocol = Protocol("charged", 5, n_steps=300, every=10, clip="norm")
    batch, path = scene(protocol)
    drifts = nbody_drifts(protocol, (0, 28), batch, path[:, -1:])
    assert list(drifts) == ["momentum_drift"]
    assert drifts["momentum_drift"].max() < 1e-9
    still = nbody_drifts(protocol, (0, 28), batch, batch.pos.unsqueeze(1))
    total = batch.vel.view(3, 5, 3).sum(1).norm(dim=1) / batch.vel.norm(dim=1).view(3, 5).sum(1)
    torch.testing.assert_close(still["momentum_drift"], total)


@pytest.mark.parametrize(
    ("knobs", "names"),
    [
        ({}, ["momentum_drift", "energy_drift"]),
        ({"rigid_parts": math.inf}, ["momentum_drift", "energy_drift"]),
        ({"rigid_parts": 3.0}, ["momentum_drift"]),
        ({"hidden_charges": 0.5}, ["momentum_drift"]),
        ({"anisotropy": 0.5}, ["momentum_drift"]),
        ({"field": 1.0}, []),
        ({"trap": 1.0}, []),
        ({"drag": 1.0}, []),
        ({"chiral": 1.0}, []),
    ],
)
def test_only_what_is_conserved_and_known_is_measured(knobs, names):
    protocol = Protocol("charged", 5, n_steps=300, every=10, clip="norm", **knobs)
    batch, path = scene(protocol)
    assert list(nbody_drifts(protocol, range(29), batch, path)) == names


def test_rods_and_hinges_conserve_energy_and_momentum(tmp_path):
    frames = (0, 1, 2, 3, 4)
    data = NBody(tmp_path, objects=(1, 2, 1), every=10, frames=frames, sizes=(20, 1, 1), dtype="float64", log=False)
    batch = data.fetch(torch.arange(20))
    drifts = nbody_drifts(data.protocol, frames, batch, batch.y)
    assert drifts["momentum_drift"].median() < 1e-9
    assert drifts["energy_drift"].median() < 1e-2


def test_losses():
    ahead, there = torch.zeros(2, 5, 3), torch.tensor([3.0, 4.0, 0.0]).expand(2, 5, 3)
    assert float(ForecastModule(EGNN(), loss="mse").loss(ahead, there)) == pytest.approx(25 / 3)
    assert float(ForecastModule(EGNN(), loss="distance").loss(ahead, there)) == pytest.approx(5.0)
    with pytest.raises(ValueError, match=r"loss must be one of \['mse', 'distance'\], got 'mae'"):
        ForecastModule(EGNN(), loss="mae")
