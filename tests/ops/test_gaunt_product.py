"""Values of geoeq.ops.gaunt_product against Clebsch-Gordan sums, and its symmetry, on both kinds of grid."""

import math
from itertools import product as pairs

import numpy as np
import pytest
import torch
from e3nn import o3
from helpers.gaunt import F64, bracket, degree_slice, features, path_factor, tensor_of, wigner_3j

from geoeq.groups import O
from geoeq.ops import gaunt_product, gaunt_product_many
from geoeq.ops.sphere import quadrature, spherical_harmonics


@pytest.mark.parametrize("normalization", ["integral", "component"])
def test_even_paths_up_to_degree_8(normalization):
    got = tensor_of(lambda x, y: gaunt_product(x, y, 8, 8, 8, normalization=normalization), 8, 8)
    for l1, l2, l3 in pairs(range(9), repeat=3):
        block = got[degree_slice(l1), degree_slice(l2), degree_slice(l3)]
        if (l1 + l2 + l3) % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
            assert block.abs().max() < 1e-14 * (1 if normalization == "integral" else 4)
        else:
            want = path_factor(l1, l2, l3, normalization) * wigner_3j(l1, l2, l3)
            torch.testing.assert_close(block, want, atol=1e-12, rtol=0)


def test_odd_paths_up_to_degree_5(grid):
    got = tensor_of(lambda x, y: bracket(x, y, 5, 5, 5), 5, 5)
    n_paths = 0
    for l1, l2, l3 in pairs(range(6), repeat=3):
        block = got[degree_slice(l1), degree_slice(l2), degree_slice(l3)]
        if (l1 + l2 + l3) % 2 and abs(l1 - l2) <= l3 <= l1 + l2:
            want = path_factor(l1, l2, l3) * wigner_3j(l1, l2, l3)
            torch.testing.assert_close(block, want, atol=1e-12, rtol=0)
            n_paths += bool(want.abs().max() > 0.01)
        else:
            assert block.abs().max() < 1e-13
    assert n_paths == 42


@pytest.mark.parametrize("lmaxs", [(0, 0, 0), (1, 2, 3), (2, 0, 2), (3, 1, 2), (2, 3, 0)])
def test_unequal_degrees(lmaxs, grid):
    l1, l2, l3 = lmaxs
    small = tensor_of(lambda x, y: gaunt_product(x, y, l1, l2, l3, complete=True), l1, l2)
    large = tensor_of(lambda x, y: gaunt_product(x, y, 3, 3, 3, complete=True), 3, 3)
    cut = large.view(16, 16, 16, 2)[: (l1 + 1) ** 2, : (l2 + 1) ** 2, : (l3 + 1) ** 2]
    torch.testing.assert_close(small.view_as(cut), cut, atol=1e-14, rtol=0)


def test_full_output_is_the_product_of_functions(grid):
    x, y = features(3), features(2)
    z = gaunt_product(x, y, 3, 2, 5)
    points, _ = quadrature(20)
    f, g, h = (torch.einsum("pk,nkc->npc", spherical_harmonics(d, points), v) for d, v in [(3, x), (2, y), (5, z)])
    torch.testing.assert_close(h, f * g)


def test_vectors(grid):
    """1 x 1: the dot product, no cross product, and the cross product from the bracket."""
    x, y = features(1), features(1)
    x[:, 0], y[:, 0] = 0, 0
    z = gaunt_product(x, y, 1, 1, 1)
    torch.testing.assert_close(z[:, 0], (x[:, 1:] * y[:, 1:]).sum(1) / math.sqrt(4 * math.pi))
    assert z[:, 1:].abs().max() < 1e-14
    cross = torch.linalg.cross(x[:, 1:], y[:, 1:], dim=1)
    torch.testing.assert_close(bracket(x, y, 1, 1, 1)[:, 1:], math.sqrt(3 / (4 * math.pi)) * cross)


@pytest.mark.parametrize(("normalization", "one"), [("integral", math.sqrt(4 * math.pi)), ("component", 1.0)])
@pytest.mark.parametrize("lmax", [0, 2, 6])
def test_constant_function_changes_nothing(lmax, normalization, one, grid):
    y = features(lmax)
    constant = torch.full((3, 1, 2), one, dtype=F64)
    z = gaunt_product(constant, y, 0, lmax, lmax, normalization=normalization)
    torch.testing.assert_close(z, y, atol=1e-13, rtol=0)
    assert bracket(constant, y, 0, lmax, lmax).abs().max() < 1e-13


@pytest.mark.parametrize("lmax", [2, 6])
def test_product_commutes_and_bracket_anticommutes(lmax, grid):
    x, y = features(lmax), features(lmax)
    xy, yx = (gaunt_product(*v, lmax, lmax, lmax, complete=True).chunk(2, -1) for v in [(x, y), (y, x)])
    torch.testing.assert_close(xy[0], yx[0], atol=1e-13, rtol=0)
    torch.testing.assert_close(xy[1], -yx[1], atol=1e-12, rtol=0)
    assert xy[1].abs().max() > 0.1
    assert bracket(x, x, lmax, lmax, lmax).abs().max() < 1e-12


def wigner_matrix(lmax, rotation):
    """Of all degrees up to ``lmax``, as integrals: e3nn's own is less exact than double precision."""
    half, weights = quadrature(2 * lmax)
    points = torch.cat([half, -half])
    turned, still = (spherical_harmonics(lmax, p) for p in (points @ rotation.T, points))
    matrix = (weights.repeat(2)[:, None] / 2 * turned).T @ still
    irreps = o3.Irreps([(1, (n, 1)) for n in range(lmax + 1)])
    torch.testing.assert_close(matrix, irreps.D_from_matrix(rotation), atol=1e-5, rtol=0)
    return matrix


@pytest.mark.parametrize(("dtype", "limit"), [(F64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("lmax", [1, 3, 6])
def test_equivariance_and_parity(lmax, dtype, limit, grid):
    """Under O(3). Inputs are natural, of parity (-1)^l; so is the product, and the bracket has the other parity."""
    x, y = features(lmax, dtype=dtype), features(lmax, dtype=dtype)
    still = gaunt_product(x, y, lmax, lmax, lmax, complete=True).chunk(2, -1)
    parity = torch.cat([torch.full((2 * n + 1,), (-1.0) ** n, dtype=F64) for n in range(lmax + 1)])
    for element in O(3).sample(4).to(F64):
        sign = torch.linalg.det(element).round()
        proper = wigner_matrix(lmax, sign * element)
        natural = (proper * parity if sign < 0 else proper).to(dtype)
        moved = gaunt_product(natural @ x, natural @ y, lmax, lmax, lmax, complete=True).chunk(2, -1)
        for got, want in [(moved[0], natural @ still[0]), (moved[1], sign.to(dtype) * natural @ still[1])]:
            assert (got - want).norm() < limit * want.norm()


@pytest.mark.parametrize(
    ("dtype", "limits"),
    [
        (F64, {1: 2e-15, 3: 4e-15, 6: 8e-15, 8: 1.4e-14}),
        (torch.float32, {1: 3e-7, 3: 6e-7, 6: 1.2e-6, 8: 2.6e-6}),
        (torch.bfloat16, dict.fromkeys((1, 3, 6, 8), 1e-2)),
    ],
    ids=["float64", "float32", "bfloat16"],
)
def test_rotation_errors_are_of_rounding_alone(dtype, limits):
    """In relative l2 norm; limits are about twice what rounding makes of each degree."""
    for lmax, limit in limits.items():
        x, y = features(lmax, channels=16, dtype=dtype), features(lmax, channels=16, dtype=dtype)
        rotation = O(3).sample(1)[0].to(F64)
        matrix = wigner_matrix(lmax, rotation * torch.linalg.det(rotation).round())
        still = gaunt_product(x, y, lmax, lmax, lmax).double()
        moved = gaunt_product((matrix @ x.double()).to(dtype), (matrix @ y.double()).to(dtype), lmax, lmax, lmax)
        assert (moved.double() - matrix @ still).norm() < limit * still.norm()


def torus(theta, alpha):
    """Points of the torus that covers the sphere twice; the polar axis is y."""
    height, around = theta.cos().expand_as(theta + alpha), theta.sin()
    return torch.stack([around * alpha.sin(), height, around * alpha.cos()], -1)


@pytest.mark.parametrize("lmax", [1, 2, 3, 4, 6, 8])
def test_the_fourier_route_gives_the_same(lmax):
    """Harmonics as 2D Fourier series, a convolution of coefficients, and integrals over the sphere."""
    size = 2 * lmax + 1
    angle = 2 * math.pi / size * torch.arange(size, dtype=F64)
    sampled = spherical_harmonics(lmax, torus(angle[:, None], angle)).permute(2, 0, 1)
    series = torch.fft.fftshift(torch.fft.fft2(sampled, norm="forward"), (1, 2))  # [K, u, v] from -lmax to lmax
    assert ((series.abs() > 1e-12).sum(2) <= 2).all()  # v = m and -m alone
    x, y = features(lmax), features(lmax)
    wide = 4 * lmax + 1
    factors = [
        torch.fft.fft2(torch.einsum("nkc,kuv->ncuv", v.to(series.dtype), series), s=(wide, wide)) for v in (x, y)
    ]
    product = torch.fft.ifft2(factors[0] * factors[1])  # [n, c, u, v] from -2 lmax to 2 lmax

    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(80))
    theta, around = (nodes + 1) * math.pi / 2, 2 * math.pi / (2 * wide) * torch.arange(2 * wide, dtype=F64)
    order = torch.arange(-2 * lmax, 2 * lmax + 1, dtype=F64)
    in_theta, in_alpha = (torch.exp(1j * order[:, None] * angles) for angles in (theta, around))
    harmonics = spherical_harmonics(lmax, torus(theta[:, None], around)).to(series.dtype)
    area = (weights * math.pi / 2 * theta.sin() * math.pi / wide).to(series.dtype)
    integrals = torch.einsum("ut,va,tak,t->uvk", in_theta, in_alpha, harmonics, area)
    expected = torch.einsum("ncuv,uvk->nkc", product, integrals)
    got = gaunt_product(x, y, lmax, lmax, lmax)
    assert expected.imag.abs().max() < 1e-13
    assert (got - expected.real).abs().max() < 2e-14 * got.abs().max()


@pytest.mark.parametrize(("lmax", "limit"), [(1, 3e-7), (2, 3e-7), (4, 6e-7), (8, 2e-6)])
def test_single_precision(lmax, limit, grid):
    x, y = features(lmax, channels=16), features(lmax, channels=16)
    exact = gaunt_product(x, y, lmax, lmax, lmax)
    single = gaunt_product(x.float(), y.float(), lmax, lmax, lmax)
    assert single.dtype == torch.float32
    assert (single - exact).norm() < limit * exact.norm()


@pytest.mark.parametrize("lmaxs", [(2,), (1, 2), (2, 1, 2), (1, 1, 1, 1)])
def test_many_factors(lmaxs, grid):
    factors = [features(lmax) for lmax in lmaxs]
    want, top = factors[0], lmaxs[0]
    for factor, lmax in zip(factors[1:], lmaxs[1:]):
        want, top = gaunt_product(want, factor, top, lmax, top + lmax), top + lmax
    got = gaunt_product_many(factors, lmaxs, 2)
    torch.testing.assert_close(got[:, : want.shape[1]], want[:, :9], atol=1e-12, rtol=0)
