"""Scalings: what has a size is multiplied, its logarithm is shifted, directions stay."""

import pytest
import torch
from torch_geometric.data import Data

from geoeq.audit import orbit_error
from geoeq.groups import O2, SE, SO, E, Product, Scaling, T, Union
from geoeq.reps import LogSizes, Positions, Sum, TensorRep


def weight_of(projector, seed=0):
    draw = torch.randn(*projector.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return projector.double()(draw)


@pytest.mark.parametrize(("rank_in", "rank_out", "dimension"), [(1, 1, 9), (2, 2, 81), (1, 0, 0), (0, 1, 0)])
def test_maps_between_tensors(rank_in, rank_out, dimension):
    assert Scaling().projector(TensorRep({rank_in: 1}), TensorRep({rank_out: 1})).rank == dimension


def test_duals_undo_the_size():
    assert Scaling().projector(TensorRep({(1, 1): 1}), "1x0e").rank == 9
    assert Scaling().projector(TensorRep({(1, 2): 1}), TensorRep({(0, 1): 1})).rank == 81


def test_logarithms_of_lengths_are_shifted():
    projector = Scaling().projector(Sum("2x0e", LogSizes(3)), Sum("2x0e", LogSizes(2)))
    weight = weight_of(projector)
    x, shift = torch.randn(5, dtype=torch.float64), 0.7
    moved = weight @ (x + shift * torch.tensor([0.0, 0, 1, 1, 1], dtype=torch.float64))
    assert torch.allclose(moved - weight @ x, torch.tensor([0.0, 0, shift, shift], dtype=torch.float64))
    assert projector.rank == 2 * 2 + 2 * 2 + 2 * 2 + 2 * 2  # one of three coefficients is fixed per output


@pytest.mark.parametrize("group", [SO(3), O2("z"), T(3), E(3), SE(3)], ids=repr)
def test_others_see_logarithms_as_scalars(group):
    for rep in ("2x0e + 1x1o", TensorRep({0: 2, 1: 1}, d=group.n)):
        assert group.projector(LogSizes(3), rep).rank == group.projector("3x0e", rep).rank
        assert group.projector(rep, LogSizes(3)).rank == group.projector(rep, "3x0e").rank


def test_directions_and_sizes_do_not_mix():
    assert Scaling().projector("1x1o", "1x1o").rank == 9
    assert Scaling().projector(Positions(2), Positions(1)).rank == 18
    assert Scaling().projector(Positions(2), "1x1o + 1x0e").rank == 0
    assert Scaling().projector("1x1o + 1x0e", Positions(2)).rank == 0
    assert Scaling().projector(LogSizes(2), Positions(1)).rank == 0


def test_neighbours_are_shifted_together():
    apart, whole = Sum(LogSizes(1), LogSizes(2)), LogSizes(3)
    assert Scaling().projector(apart, whole).rank == Scaling().projector(whole, whole).rank == 6
    weight = weight_of(Scaling().projector(apart, LogSizes(1)))
    assert float(weight.sum()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="side by side"):
        Scaling().projector(Sum(LogSizes(1), "1x0e", LogSizes(1)), LogSizes(1))


def test_similarities():
    group = Union(SO(3), T(3), Scaling())
    assert group.projector(Positions(4), Positions(1)).rank == 3
    assert group.projector(Positions(4), "1x1o").rank == 0
    assert group.projector(Positions(4), LogSizes(1)).rank == 0
    assert Product(SO(3), Scaling()).projector(Positions(4), Positions(1)).rank == 4


def test_sizes_of_data_are_scaled():
    data = Data(pos=torch.randn(4, 3), vel=torch.randn(4, 3), edge_index=torch.zeros(2, 0, dtype=torch.long))
    assert orbit_error(lambda d: d.pos + 2 * d.vel, data, Scaling()) < 1e-5
    assert orbit_error(lambda d: d.pos + d.vel.square(), data, Scaling()) > 0.1


def test_sampled_logarithms_have_the_stated_scale():
    sizes = Scaling(scale=0.3).sample(4000, generator=torch.Generator().manual_seed(0))[:, 0, 0]
    assert float(sizes.log().std()) == pytest.approx(0.3, rel=0.05)
    with pytest.raises(ValueError, match=r"scale must be positive, got 0"):
        Scaling(scale=0)
