"""The Lie derivative of a model: the commutator on linear maps, zero on equivariant ones, finite differences else."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from geoeq.audit import lie_error
from geoeq.groups import SE, SO, SO2, E, O, Piecewise, S, T
from geoeq.reps import Positions, TensorRep
from geoeq.soft.action import flow, velocity


def white(dim):
    """Rows whose second moment is exactly that of N(0, I)."""
    return torch.eye(dim, dtype=torch.float64) * dim**0.5


@pytest.mark.parametrize("group", [SO(3), SO2("x"), SO2("z")], ids=repr)
def test_on_a_linear_map_it_is_the_commutator(group):
    weight, x = torch.randn(3, 3, dtype=torch.float64), white(3)
    error = lie_error(lambda x: x @ weight.T, x, group, rep_in="1x1o", rep_out="1x1o")
    commutators = weight @ group.generators - group.generators @ weight
    assert error**2 * weight.square().sum() == pytest.approx(commutators.square().sum().item(), rel=1e-12)


def test_on_a_rectangular_map_between_tensors():
    group, rep_in, rep_out = SO(3), TensorRep({1: 2}, d=3), TensorRep({2: 1}, d=3)
    weight = torch.randn(9, 6, dtype=torch.float64)
    error = lie_error(lambda x: x @ weight.T, white(6), group, rep_in=rep_in, rep_out=rep_out)
    basis = torch.eye(3, dtype=torch.float64)
    total = 0.0
    for c in basis:
        own = [velocity(group, rep, torch.eye(rep.dim).double(), c).T for rep in (rep_in, rep_out)]
        total += (weight @ own[0] - own[1] @ weight).square().sum().item()
    assert error**2 * weight.square().sum().item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_it_agrees_with_central_differences(mode):
    group, rep = SE(3), Positions(2)
    net = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 6)).double()
    x, h, total = torch.randn(5, 6, dtype=torch.float64), 1e-5, 0.0
    centred = x - x.reshape(-1, 3).mean(0).repeat(2)  # rotations are about the mean of the positions
    shifted = lambda z: net(z + (x - centred)[0]) - (x - centred)[0]  # noqa: E731
    for c in torch.eye(6, dtype=torch.float64):
        there, back = (shifted(flow(group, rep, centred, s * h * c)) for s in (1, -1))
        total += ((there - back) / (2 * h) - velocity(group, rep, shifted(centred), c)).square().sum().item()
    columns = net(x).detach()
    size = (columns - columns.mean(0)).square().sum().item()
    error = lie_error(net, x, group, rep_in=rep, rep_out=rep, mode=mode)
    assert error == pytest.approx((total / size) ** 0.5, rel=1e-6)


def cloud(n=6):
    pos, vel = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Data(pos=pos, vel=vel, edge_index=torch.zeros(2, 0, dtype=torch.long), part=torch.arange(n) % 2)


@pytest.mark.parametrize("group", [O(3), E(3), SO2("x"), T(3), Piecewise(E(3))], ids=repr)
def test_free_flight_has_every_symmetry(group):
    assert lie_error(lambda data: data.pos + data.vel, cloud(), group) < 1e-12


def test_a_push_along_z_keeps_what_it_should():
    push = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    model = lambda data: data.pos + push  # noqa: E731
    assert lie_error(model, cloud(), "SO2(z)") < 1e-12
    assert lie_error(model, cloud(), T(3)) < 1e-12
    # rotations about x and y tilt the push, by its own length each
    assert lie_error(model, cloud(), SO(3)) == pytest.approx(2**0.5)


def test_the_origin_does_not_matter():
    model = lambda data: data.pos + data.vel.abs()  # noqa: E731
    near, far = cloud(), cloud()
    far.pos = far.pos + 1000.0
    assert lie_error(model, far, SE(3)) == pytest.approx(lie_error(model, near, SE(3)), rel=1e-6)


def test_parts_that_feel_each_other_break_piecewise_motions():
    pull = lambda data: data.pos + 0.1 * (data.pos.mean(0) - data.pos)  # noqa: E731
    assert lie_error(pull, cloud(), E(3)) < 1e-12
    assert lie_error(pull, cloud(), Piecewise(E(3))) > 0.1


def test_bad_input_is_one_clear_line():
    with pytest.raises(ValueError, match=r"x must be \[..., 3\]"):
        lie_error(lambda x: x, torch.randn(4, 5), "SO(3)", rep_in="1x1o", rep_out="1x1o")
    with pytest.raises(ValueError, match="group must have generators"):
        lie_error(lambda x: x, torch.randn(4, 5), S(5), rep_in=TensorRep({1: 1}), rep_out=TensorRep({1: 1}))
    with pytest.raises(ValueError, match="mode must be one of"):
        lie_error(lambda x: x, torch.randn(4, 3), "SO(3)", rep_in="1x1o", rep_out="1x1o", mode="sideways")
