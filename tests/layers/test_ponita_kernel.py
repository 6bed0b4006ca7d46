"""What the kernels of PONITA see: invariants, windows, bases and grids."""

import pytest
import torch
from helpers.ponita import GRIDS, SMALL, rotation

from geoeq.layers import (
    PonitaConv,
    PonitaKernel,
)
from geoeq.layers.ponita_kernel import (
    KernelBasis,
    OrientationGrid,
    invariants,
    lengths,
    monomials,
    polynomial_window,
    tensor_power_columns,
)
from geoeq.ops.sphere import directions, zonal_polynomials


@pytest.mark.parametrize("dim", [2, 3])
def test_invariants_are_invariant(dim):
    offset, grid, r = torch.randn(20, dim).double(), directions(16, dim), rotation(dim)
    torch.testing.assert_close(invariants(offset @ r.T, grid @ r.T), invariants(offset, grid), rtol=1e-9, atol=1e-9)


def test_invariants_are_invariant_in_single_precision():
    """Positions and orientations moved, one offset for each pair: relative change below 1e-6."""
    pos, grid, r = torch.randn(20, 3), directions(16).float(), rotation().float()
    before = invariants(pos[:10] - pos[10:], grid)
    moved_pos = pos @ r.T + 2.0
    change = invariants(moved_pos[:10] - moved_pos[10:], grid @ r.T) - before
    assert change.norm() < 1e-6 * before.norm()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_kernel_of_a_reversed_edge_is_that_of_the_opposite_orientation(grid):
    kernel, conv = PonitaKernel(grid, **SMALL).double(), PonitaConv(4, 12).double()
    edges, pos = torch.tensor([[0], [1]]), torch.randn(2, 3).double()
    there, back = (kernel(pos, e) for e in (edges, edges.flip(0)))
    assert there.fiber is not None
    k_there, k_back = (s.kernels([conv.spatial.weight])[0] for s in (there, back))
    half = len(kernel.grid) // 2
    torch.testing.assert_close(k_back, k_there.roll(half, 1), rtol=1e-13, atol=1e-13)
    assert (k_back - k_there).abs().max() > 1e-3


def test_lengths():
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1e-9, 0.0, 0.0]], dtype=torch.float64)
    whole = torch.tensor([5.0, 1.0, 1e9], dtype=torch.float64).view(3, 1).expand(3, 3)
    assert lengths(vectors).tolist() == [5.0, 0.0, 1e-9]
    assert lengths(vectors, of=whole).tolist() == [5.0, 0.0, 0.0]
    vectors.requires_grad_()
    (first,) = torch.autograd.grad(lengths(vectors).sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), vectors)
    torch.testing.assert_close(first[0], vectors[0] / 5)
    assert first[1].eq(0).all()
    assert second[1].eq(0).all()


def test_reflections_are_seen_in_the_plane_alone():
    mirror = lambda dim: torch.diag(torch.tensor([-1.0] + [1.0] * (dim - 1))).double()  # noqa: E731
    for dim, seen in ((2, True), (3, False)):
        offset, grid = torch.randn(20, dim).double(), directions(16, dim)
        change = invariants(offset @ mirror(dim), grid @ mirror(dim)) - invariants(offset, grid)
        assert (change.abs().max() > 0.1) == seen


@pytest.mark.parametrize("dim", [2, 3])
def test_a_reversed_offset_is_the_opposite_orientation(dim):
    offset, grid = torch.randn(20, dim).double(), directions(16, dim)
    torch.testing.assert_close(invariants(-offset, grid), invariants(offset, grid).roll(8, 1), rtol=1e-12, atol=1e-12)


def test_merged_columns_are_the_tensor_powers():
    a = torch.randn(7, 3).double()
    square = torch.einsum("ri,rj->rij", a, a).flatten(1)
    full = torch.cat([a, square, torch.einsum("ri,rj->rij", square, a).flatten(1)], 1)
    torch.testing.assert_close(monomials(a, 3)[:, tensor_power_columns(3, 3)], full)
    assert monomials(a[:, :2], 3).shape[1] == 9
    assert len(tensor_power_columns(2, 3)) == 14


def test_basis_starts_like_unmerged_columns():
    """Over the attributes 1, 1 each merged column counts as often as it occurs: 14 columns, each of variance 1/42."""
    weight = torch.cat([KernelBasis(2, 400, 4).inner.weight.detach() for _ in range(20)])
    counts = torch.bincount(tensor_power_columns(2, 3)).float()
    torch.testing.assert_close(weight.var(0), counts / (3 * 14), rtol=0.1, atol=0)


def test_window_and_its_derivatives():
    d = torch.tensor([0.0, 0.7, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    w = polynomial_window(d, 2.0)
    (first,) = torch.autograd.grad(w.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), d)
    assert w[0] == 1
    assert w[2].abs() < 1e-12
    assert w[3] == 0
    assert 0 < w[1] < 1
    assert first[[0, 2, 3]].abs().max() < 1e-10
    assert second[[0, 2, 3]].abs().max() < 1e-9


def test_zonal_polynomials_are_legendre():
    r, o = torch.randn(6, 3).double(), directions(12)
    cosine = (r / r.norm(dim=1, keepdim=True)) @ o.T
    length = r.norm(dim=1).view(-1, 1)
    legendre = [torch.ones_like(cosine), cosine, (3 * cosine**2 - 1) / 2, (5 * cosine**3 - 3 * cosine) / 2]
    expected = torch.stack([p * length**n for n, p in enumerate(legendre)], 2)
    torch.testing.assert_close(zonal_polynomials(r, o, 3), expected)
    assert torch.equal(zonal_polynomials(torch.zeros(1, 3).double(), o, 3)[0, 0], torch.eye(4).double()[0])


def test_given_grid_is_sorted_into_opposite_halves():
    shuffled = directions(16)[torch.randperm(16)]
    grid = OrientationGrid(shuffled)
    assert grid.symmetric
    assert torch.equal(grid.directions[:8], -grid.directions[8:])
    lopsided = shuffled @ torch.diag(torch.tensor([1.0, 1.0, -1.0])).double()
    lopsided[0] = rotation()[0]
    assert not OrientationGrid(lopsided).symmetric
    with pytest.raises(ValueError, match=r"grid must be unit vectors \[O, 3\]"):
        OrientationGrid(2 * shuffled)


def test_loading_another_grid_is_noticed():
    kernel, other = PonitaKernel(12, **SMALL), directions(12).clone()
    other[0] = directions(16)[3]
    kernel.load_state_dict({**kernel.state_dict(), "grid.directions": other})
    assert not kernel.grid.symmetric
