"""geoeq.ops.sphere: direction grids, quadrature and spherical harmonics against known answers and e3nn."""

import math

import pytest
import torch
from e3nn import o3

from geoeq.groups import SO
from geoeq.ops.sphere import POLYHEDRA, antipode, directions, quadrature, spherical_harmonics, whole_quadrature

EYE = torch.eye(3, dtype=torch.float64)
# Smallest angle between two vertices of each polyhedron.
ANGLES = {
    "octahedron": math.pi / 2,
    "cube": math.acos(1 / 3),
    "icosahedron": math.acos(1 / math.sqrt(5)),
    "dodecahedron": math.acos(math.sqrt(5) / 3),
}


@pytest.mark.parametrize("count", [6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64])
def test_grids_on_the_sphere_are_tight_frames_of_opposite_pairs(count):
    grid = directions(count)
    assert grid.shape == (count, 3)
    assert grid.dtype == torch.float64
    torch.testing.assert_close(grid.norm(dim=1), torch.ones(count, dtype=torch.float64), atol=1e-14, rtol=0)
    torch.testing.assert_close(grid.T @ grid / count, EYE / 3, atol=1e-12, rtol=0)
    assert torch.equal(grid[antipode(grid)], -grid)
    assert torch.equal(antipode(grid), (torch.arange(count) + count // 2) % count)


@pytest.mark.parametrize("name", POLYHEDRA)
def test_polyhedra(name):
    grid = directions(name)
    assert torch.equal(grid, directions(POLYHEDRA[name]))
    cosine = (grid @ grid.T - 2 * torch.eye(len(grid))).amax(1)  # of the angle to the nearest neighbour
    torch.testing.assert_close(cosine, torch.full_like(cosine, math.cos(ANGLES[name])), atol=1e-14, rtol=0)


def test_polyhedra_are_invariant_under_their_rotations():
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    axis = directions("icosahedron")[0]
    fifth = torch.linalg.matrix_exp(2 * math.pi / 5 * torch.linalg.cross(EYE, axis.expand(3, 3)))
    for name, rotation in [
        ("octahedron", quarter),
        ("cube", quarter),
        ("icosahedron", fifth),
        ("dodecahedron", fifth),
    ]:
        distance = torch.cdist(directions(name) @ rotation.T, directions(name)).amin(1)
        assert distance.max() < 1e-7, name


@pytest.mark.parametrize("count", [10, 24, 64])
def test_other_grids_are_nearly_uniform(count):
    grid = directions(count)
    nearest = (grid @ grid.T - 2 * torch.eye(count)).amax(1).acos()
    # A cap of this radius around every point would tile the sphere.
    assert nearest.min() > 0.75 * 2 * math.acos(1 - 2 / count)


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_grids_on_the_circle(count):
    grid = directions(count, dim=2)
    angle = torch.atan2(grid[:, 1], grid[:, 0]) % (2 * math.pi)
    torch.testing.assert_close(angle, torch.arange(count, dtype=torch.float64) * 2 * math.pi / count)
    assert torch.equal(grid[antipode(grid)], -grid)


def test_grids_may_be_changed_by_their_owner():
    directions(24).zero_()
    assert directions(24).abs().sum() > 1


def test_a_grid_without_opposites_has_no_antipode():
    with pytest.raises(ValueError, match="directions must hold the opposite"):
        antipode(directions(6)[:5])


@pytest.mark.parametrize(
    ("name_or_count", "dim", "message"),
    [
        ("sphere", 3, "name_or_count must be one of octahedron, cube, icosahedron, dodecahedron, got 'sphere'"),
        ("cube", 2, "name_or_count must be a number of directions in two dimensions, got 'cube'"),
        (7, 3, "name_or_count must be even and at least 2, got 7"),
        (0, 2, "name_or_count must be even and at least 2, got 0"),
        (6, 4, "dim must be 2 or 3, got 4"),
    ],
)
def test_wrong_grids(name_or_count, dim, message):
    with pytest.raises(ValueError, match=message):
        directions(name_or_count, dim)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 6, 9, 12, 18, 24, 25, 33, 131, 132])
def test_quadrature_is_exact(degree):
    """Even and odd degrees: integrals of monomials x^2a y^2b z^2c are products of gamma functions."""
    points, weights = quadrature(degree)
    both, shared = torch.cat([points, -points]), torch.cat([weights, weights]) / 2
    assert len(torch.unique(both.mul(1e8).round(), dim=0)) == len(both)
    for a, b, c in [(0, 0, degree // 2), (degree // 6, degree // 6, degree // 6), (degree // 2, 0, 0)]:
        got = (shared * both[:, 0] ** (2 * a) * both[:, 1] ** (2 * b) * both[:, 2] ** (2 * c)).sum().item()
        halves = [a + 0.5, b + 0.5, c + 0.5]
        want = 2 * math.exp(sum(map(math.lgamma, halves)) - math.lgamma(sum(halves)))
        assert got == pytest.approx(want, rel=1e-11)
    if degree >= 3:
        assert abs((shared * both[:, 0] ** 3).sum().item()) < 1e-14


@pytest.mark.parametrize(
    ("degree", "count"), [(0, 6), (3, 6), (4, 12), (5, 12), (6, 18), (7, 26), (9, 38), (12, 74), (132, None)]
)
def test_whole_quadrature_is_exact(degree, count):
    points, weights = whole_quadrature(degree)
    if count is not None:
        assert len(points) == count
    assert (weights > 0).all() or degree == 12  # Lebedev's rule of degree 13 holds negative weights
    torch.testing.assert_close(points.norm(dim=1), torch.ones(len(points), dtype=torch.float64), atol=1e-14, rtol=0)
    means = (weights[:, None] * spherical_harmonics(min(degree, 40), points, "component")).sum(0) / (4 * math.pi)
    means[0] -= 1
    assert means.abs().max() < 1e-13


def test_eighteen_points_are_not_exact_for_the_next_degree():
    points, weights = whole_quadrature(6)
    assert ((weights[:, None] * spherical_harmonics(7, points)).sum(0)[49:].abs() > 1e-3).any()


def test_the_next_degree_is_not_exact():
    points, weights = quadrature(7)
    y = spherical_harmonics(8, points)
    assert ((weights[:, None] * y).sum(0)[64:].abs() > 1e-3).any()


@pytest.mark.parametrize("normalization", ["integral", "component"])
def test_harmonics_equal_those_of_e3nn(normalization):
    points = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    want = o3.spherical_harmonics(list(range(12)), points, False, normalization)
    torch.testing.assert_close(spherical_harmonics(11, points, normalization), want, atol=3e-14, rtol=0)


def test_harmonics_are_orthonormal_far_beyond_e3nn():
    points, weights = quadrature(40)
    both, shared = torch.cat([points, -points]), torch.cat([weights, weights]) / 2
    y = spherical_harmonics(20, both)
    torch.testing.assert_close(y.T * shared @ y, torch.eye(441, dtype=torch.float64), atol=2e-14, rtol=0)


def test_harmonics_turn_with_wigner_matrices():
    rotation = SO(3).sample(1)[0].double()
    points = torch.nn.functional.normalize(torch.randn(10, 3, dtype=torch.float64), dim=1)
    irreps = o3.Irreps("0e + 1o + 2e + 3o + 4e")
    wigner = irreps.D_from_matrix(rotation)
    torch.testing.assert_close(
        spherical_harmonics(4, points @ rotation.T),
        spherical_harmonics(4, points) @ wigner.T,
        atol=1e-6,  # the rotation of e3nn's Wigner matrices is computed from single precision angles
        rtol=0,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadrature(-1), "degree must be at least 0, got -1"),
        (lambda: whole_quadrature(-1), "degree must be at least 0, got -1"),
        (lambda: spherical_harmonics(-1, torch.zeros(1, 3)), "lmax must be at least 0, got -1"),
        (lambda: spherical_harmonics(1, torch.zeros(3, 2)), r"points must be \[\.\.\., 3\], got \[3, 2\]"),
        (lambda: spherical_harmonics(1, torch.zeros(3), "norm"), "normalization must be 'integral' or 'component'"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
