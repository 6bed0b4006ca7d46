"""Displacement errors and drifts: known answers, loops over nodes as the reference, symmetry, singular cases."""

from __future__ import annotations

import math

import pytest
import torch

from geoeq.forecast.trajectory_metrics import (
    ade,
    average_mse,
    energy_drift,
    fde,
    final_mse,
    joint_min_ade,
    joint_min_fde,
    kinetic_energy,
    min_ade,
    min_fde,
    momentum_drift,
)

PAIRWISE = [ade, fde, final_mse, average_mse]
SAMPLED = [min_ade, min_fde, joint_min_ade, joint_min_fde]


def motion(n=7, n_frames=4, d=2, samples=5):
    target = torch.randn(n, n_frames, d, dtype=torch.float64)
    return target + torch.randn(samples, n, n_frames, d, dtype=torch.float64), target


def test_known_answers():
    target = torch.zeros(2, 3, 2)
    pred = torch.zeros(2, 3, 2)
    pred[0, 0] = torch.tensor([3.0, 4.0])  # off by 5 at the first frame
    pred[1, 2] = torch.tensor([0.0, 2.0])  # off by 2 at the last
    assert ade(pred, target).item() == pytest.approx((5 + 2) / 6)
    assert fde(pred, target).item() == pytest.approx(2 / 2)
    assert average_mse(pred, target).item() == pytest.approx((25 + 4) / 12)
    assert final_mse(pred, target).item() == pytest.approx(4 / 4)


def test_minima_equal_loops_over_nodes_and_scenes():
    samples, target = motion()
    batch = torch.tensor([0, 0, 0, 2, 2, 3, 3])  # scene 1 is empty
    distance = [[[math.dist(p, t) for p, t in zip(s, node)] for s in samples[:, i]] for i, node in enumerate(target)]
    average = torch.tensor([[sum(path) / 4 for path in node] for node in distance])  # [N, K]
    final = torch.tensor([[path[-1] for path in node] for node in distance])
    for function, joint, error in ((min_ade, joint_min_ade, average), (min_fde, joint_min_fde, final)):
        assert function(samples, target).item() == pytest.approx(error.min(1).values.mean().item(), rel=1e-6)
        best = sum(error[batch == b].sum(0).min() for b in (0, 2, 3)) / 7
        assert joint(samples, target, batch).item() == pytest.approx(best.item(), rel=1e-6)
        assert joint(samples, target).item() == pytest.approx(error.mean(0).min().item(), rel=1e-6)
        each = joint(samples, target, torch.arange(7))
        assert each.item() == pytest.approx(function(samples, target).item())


def test_order_of_the_errors():
    samples, target = motion()
    batch = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    assert min_ade(samples, target) < joint_min_ade(samples, target, batch) < joint_min_ade(samples, target)
    assert joint_min_ade(samples, target).item() == pytest.approx(min(ade(one, target) for one in samples).item())
    assert joint_min_fde(samples, target).item() == pytest.approx(min(fde(one, target) for one in samples).item())
    one = samples[:1]
    for function in (min_ade, joint_min_ade):
        assert function(one, target).item() == pytest.approx(ade(samples[0], target).item())


def test_errors_are_invariant():
    samples, target = motion(d=3)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    shift = torch.randn(3, dtype=torch.float64)

    def moved(x):
        return x @ turn.T + shift

    for function in PAIRWISE:
        assert function(moved(samples[0]), moved(target)).item() == pytest.approx(function(samples[0], target).item())
    for function in SAMPLED:
        assert function(moved(samples), moved(target)).item() == pytest.approx(function(samples, target).item())


@pytest.mark.parametrize(("n", "n_frames"), [(0, 4), (3, 0), (0, 0)])
def test_nothing_to_measure_is_zero(n, n_frames):
    samples, target = motion(n, n_frames)
    assert all(function(samples[0], target) == 0 for function in PAIRWISE)
    assert all(function(samples, target) == 0 for function in SAMPLED)
    empty = torch.zeros(n, dtype=torch.int64)
    assert joint_min_ade(samples, target, empty) == joint_min_fde(samples, target, empty) == 0


def test_gradients_are_finite_where_the_forecast_is_perfect():
    target = torch.randn(3, 4, 2)
    for function in PAIRWISE:
        pred = target.clone().requires_grad_()
        function(pred, target).backward()
        assert pred.grad is not None
        assert (pred.grad == 0).all()


def test_a_prediction_that_is_not_finite_shows():
    samples, target = motion()
    samples[:, 2, 1] = torch.nan
    assert all(function(samples[0], target).isnan() for function in (ade, average_mse))
    assert min_ade(samples, target).isnan()


def test_wrong_shapes_are_named():
    samples, target = motion()
    for function in PAIRWISE:
        with pytest.raises(ValueError, match=r"pred and target must be \[N, F, d\], got \[7, 4, 2\] and \[7, 3, 2\]"):
            function(samples[0], target[:, :3])
        with pytest.raises(ValueError, match="pred and target must be"):
            function(target[:, 0], target[:, 0])
    for function in SAMPLED:
        with pytest.raises(ValueError, match=r"samples and target must be .*, got \[7, 4, 2\]"):
            function(samples[0], target)
        with pytest.raises(ValueError, match="samples and target must be"):
            function(samples[:0], target)
    with pytest.raises(ValueError, match=r"batch must be \[7\], got \[6\]"):
        joint_min_ade(samples, target, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"vel must be \[N, T, d\], got \[7, 2\]"):
        momentum_drift(target[:, 0])
    with pytest.raises(ValueError, match=r"mass must be \[7\], got \[7, 1\]"):
        kinetic_energy(target, torch.ones(7, 1))


def test_momentum_of_free_bodies_stays_and_a_kick_is_seen():
    vel = torch.tensor([[[3.0, 4.0]], [[-3.0, -4.0]], [[0.0, 2.0]]]).expand(3, 5, 2).clone()
    mass, batch = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0, 0, 1])
    assert momentum_drift(vel, mass, batch).tolist() == [0.0, 0.0]
    vel[1, 3] += torch.tensor([0.0, 1.5])
    assert momentum_drift(vel, mass, batch).tolist() == pytest.approx([2 * 1.5 / 15, 0.0])
    assert momentum_drift(vel, mass).tolist() == pytest.approx([2 * 1.5 / 17])
    assert momentum_drift(torch.zeros(2, 4, 3)).tolist() == [0.0]


def test_energy_drift_is_relative_to_the_start():
    assert energy_drift(torch.tensor([4.0, 4.4, 3.0, 4.0])).item() == pytest.approx(0.25)
    assert energy_drift(torch.tensor([-4.0, -5.0])).item() == pytest.approx(0.25)
    assert energy_drift(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
    assert energy_drift(torch.tensor([0.0, 1.0])).item() == math.inf


def test_kinetic_energy_of_each_scene():
    vel = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert kinetic_energy(vel, torch.tensor([2.0, 1.0])).tolist() == [[25.5, 0.5]]
    assert kinetic_energy(vel, batch=torch.tensor([1, 0])).tolist() == [[0.5, 0.5], [12.5, 0.0]]
