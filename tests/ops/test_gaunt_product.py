"""geoeq.ops.gaunt_product against Clebsch-Gordan sums, on both kinds of grid, and under torch's transforms."""

import math
import threading
from importlib import import_module
from itertools import product as pairs
from shutil import which

import numpy as np
import pytest
import torch
from e3nn import o3

import geoeq.ops.sphere_transform as transform_module
from geoeq.groups import O
from geoeq.ops import gaunt_product, gaunt_product_many, product_route
from geoeq.ops.grid_product import CHUNK_BYTES
from geoeq.ops.product_route import product_plan
from geoeq.ops.sphere import quadrature, spherical_harmonics

F64 = torch.float64
NEEDS_COMPILER = pytest.mark.skipif(not (which("g++") or which("c++")), reason="inductor needs a C++ compiler")
grid_module = import_module("geoeq.ops.grid_product")
gaunt_module = import_module("geoeq.ops.gaunt_product")  # the package's attribute of this name is the function


@pytest.fixture(params=["default", "halved", "whole"])
def grid(request, monkeypatch):
    """Run the test on the grid that is chosen, on halved grids only, and on whole grids only."""
    limit = {"default": transform_module.LARGEST_WHOLE_GRID, "halved": 0, "whole": 10**9}[request.param]
    monkeypatch.setattr(transform_module, "LARGEST_WHOLE_GRID", limit)
    clear_tables()
    yield request.param
    clear_tables()


def clear_tables():
    transform_module.product_transforms.cache_clear()
    transform_module.bracket_transforms.cache_clear()


def features(lmax, *, rows=3, channels=2, dtype=F64, requires_grad=False):
    return torch.randn(rows, (lmax + 1) ** 2, channels, dtype=F64).to(dtype).requires_grad_(requires_grad)


def three_j(l1, l2, l3, m):
    """|(l1 l2 l3; m -m 0)|, from sums of integers: Racah's formula."""
    f = math.factorial
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        return 0.0
    total = sum(
        (-1) ** k
        / (f(k) * f(l1 + l2 - l3 - k) * f(l1 - m - k) * f(l2 - m - k) * f(l3 - l2 + m + k) * f(l3 - l1 + m + k))
        for k in range(max(0, l2 - l3 - m, l1 - l3 - m), min(l1 + l2 - l3, l1 - m, l2 - m) + 1)
    )
    triangle = f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(-l1 + l2 + l3) / f(l1 + l2 + l3 + 1)
    return abs(total) * math.sqrt(triangle * f(l1 + m) * f(l1 - m) * f(l2 + m) * f(l2 - m)) * f(l3)


def wigner_3j(l1, l2, l3):
    """e3nn's, once more through its own numbers but normalised in double precision."""
    w = o3.wigner_3j(l1, l2, l3, dtype=F64)
    return w / w.norm()


def path_factor(l1, l2, l3, normalization="integral"):
    factor = math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) / (4 * math.pi))
    if normalization == "component":
        factor *= math.sqrt(4 * math.pi)
    if (l1 + l2 + l3) % 2:
        return factor * math.sqrt(l1 * (l1 + 1) * l2 * (l2 + 1)) * three_j(l1, l2, l3, 1) if l1 and l2 else 0.0
    return factor * three_j(l1, l2, l3, 0)


def degree_slice(degree):
    return slice(degree**2, (degree + 1) ** 2)


def tensor_of(call, lmax1, lmax2):
    """The bilinear map on basis vectors: [K1, K2, K_out]."""
    k1, k2 = (lmax1 + 1) ** 2, (lmax2 + 1) ** 2
    x = torch.eye(k1, dtype=F64).repeat_interleave(k2, 0).unsqueeze(2)
    y = torch.eye(k2, dtype=F64).repeat(k1, 1).unsqueeze(2)
    return call(x, y).view(k1, k2, -1)


def bracket(x, y, *lmaxs, **options):
    return gaunt_product(x, y, *lmaxs, complete=True, **options).chunk(2, -1)[1]


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


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("lmaxs", [(1, 1, 1), (2, 1, 2)])
def test_gradients_and_second_gradients(lmaxs, complete, grid):
    inputs = [features(lmax, rows=2, channels=1, requires_grad=True) for lmax in lmaxs[:2]]

    def call(x, y):
        return gaunt_product(x, y, *lmaxs, complete=complete)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("n_factors", [1, 3])
def test_gradients_of_many_factors(n_factors, grid):
    inputs = [features(1, rows=2, channels=1, requires_grad=True) for _ in range(n_factors)]

    def call(*factors):
        return gaunt_product_many(factors, [1] * n_factors, 2)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_third_derivative():
    """The cube of a scalar function has a third derivative that no longer depends on it."""
    x = features(1, rows=1, channels=1, requires_grad=True)
    z = gaunt_product_many([x, x, x], [1, 1, 1], 0).sum()
    first = torch.autograd.grad(z, x, create_graph=True)[0]
    second = torch.autograd.grad(first[0, 0, 0], x, create_graph=True)[0]
    third = torch.autograd.grad(second[0, 0, 0], x)[0]
    want = torch.zeros_like(third)
    want[0, 0, 0] = 6 / (4 * math.pi)  # of x_00^3 times the integral of Y_00^4, projected on Y_00
    torch.testing.assert_close(third, want, atol=1e-14, rtol=0)


def test_only_wanted_gradients(grid):
    x, y = features(2, requires_grad=True), features(2)
    gaunt_product(x, y, 2, 2, 2).square().sum().backward()
    assert y.grad is None
    z = gaunt_product(x.detach().requires_grad_(), y, 2, 2, 2)
    assert torch.isfinite(x.grad).all()
    assert z.requires_grad


def test_the_same_tensor_twice(grid):
    x = features(2, requires_grad=True)
    (got,) = torch.autograd.grad(gaunt_product(x, x, 2, 2, 2).square().sum(), x)
    a, b = x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    want = torch.autograd.grad(gaunt_product(a, b, 2, 2, 2).square().sum(), (a, b))
    torch.testing.assert_close(got, want[0] + want[1])


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_chunks_do_not_matter(rows, grid, monkeypatch):
    inputs = [features(2, rows=rows, channels=4, requires_grad=True) for _ in range(2)]

    def results():
        z = gaunt_product(*inputs, 2, 2, 2, complete=True)
        return z, *torch.autograd.grad(z.square().sum(), inputs)

    want = results()
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1 << 14)
    for got, value in zip(results(), want):
        torch.testing.assert_close(got, value, atol=1e-12, rtol=0)


def test_results_of_several_calls_do_not_share_memory(grid):
    """Buffers are kept between calls; results and gradients must not live in them."""
    x, y = features(2), features(2)
    first = gaunt_product(x, y, 2, 2, 2)
    copy = first.clone()
    gaunt_product(y, y, 2, 2, 2)
    assert torch.equal(first, copy)


def test_kept_buffers_serve_calls_of_any_size(grid, monkeypatch):
    """Small, large and small again, more sizes than are kept, and one too large to be kept."""
    monkeypatch.setattr(grid_module, "MOST_KEPT", 2)
    monkeypatch.setattr(grid_module, "MOST_BYTES_KEPT", 1 << 16)
    monkeypatch.setattr(grid_module, "_kept", threading.local())
    wanted = {rows: (features(2, rows=rows), features(2, rows=rows)) for rows in (1, 30, 1, 2, 3, 200, 1)}
    for rows in (1, 30, 1, 2, 3, 200, 1):
        x, y = wanted[rows]
        got = gaunt_product(x, y, 2, 2, 2)
        torch.testing.assert_close(got[-1:], gaunt_product(x[-1:], y[-1:], 2, 2, 2))
        assert len(grid_module._kept.spaces) <= 2
        assert all(space.n_bytes <= 1 << 16 for space in grid_module._kept.spaces.values())


@pytest.mark.parametrize(("rows", "channels"), [(0, 3), (3, 0), (0, 0)])
def test_empty(rows, channels, grid):
    x, y = (features(2, rows=rows, channels=channels, requires_grad=True) for _ in range(2))
    z = gaunt_product(x, y, 2, 2, 3, complete=True)
    assert z.shape == (rows, 16, 2 * channels)
    z.sum().backward()
    assert x.grad.shape == x.shape


def test_strided_inputs_and_gradients(grid):
    x, y = features(2, channels=4), features(2, channels=4)
    want = gaunt_product(x, y, 2, 2, 2)
    strided = torch.randn(3, 4, 9, 2, dtype=F64)[..., 0].mT.copy_(x).requires_grad_()
    assert not strided.is_contiguous()
    z = gaunt_product(strided, y, 2, 2, 2)
    torch.testing.assert_close(z, want)
    (got,) = torch.autograd.grad(z.sum(), strided)  # the gradient of a sum is expanded from one number
    torch.testing.assert_close(got, gaunt_product(torch.ones_like(z), y, 2, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    x, y = features(2, dtype=dtype), features(2, dtype=dtype)
    z = gaunt_product(x, y, 2, 2, 2)
    assert torch.equal(z, gaunt_product(x.float(), y.float(), 2, 2, 2).to(dtype))


def test_autocast_does_not_lower_the_precision(grid):
    x, y = (features(2, dtype=torch.float32, requires_grad=True) for _ in range(2))
    want = gaunt_product(x, y, 2, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = gaunt_product(x, y, 2, 2, 2)
        z.sum().backward()
    assert torch.equal(z, want)


def test_first_call_in_inference_mode_leaves_usable_tables():
    clear_tables()
    with torch.inference_mode():
        gaunt_product(features(2), features(2), 2, 2, 2, complete=True)
    x = features(2, requires_grad=True)
    (torch.func.grad(lambda v: gaunt_product(v, v, 2, 2, 2, complete=True).sum())(x)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_function_transforms(grid):
    x, y = features(2), features(2)
    call = lambda a, b: gaunt_product(a, b, 2, 2, 2, complete=True)  # noqa: E731
    want = call(x, y)
    batch = torch.func.vmap(call, (0, None))(torch.stack([x, 2 * x]), y)
    torch.testing.assert_close(batch, torch.stack([want, 2 * want]))
    value, tangent = torch.func.jvp(call, (x, y), (x, y))
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(tangent, 2 * want)
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    direct = torch.autograd.grad(call(a, b).square().sum(), (a, b))
    functional = torch.func.grad(lambda a, b: call(a, b).square().sum(), (0, 1))(x, y)
    for got, expected in zip(functional, direct):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("route", [None, "gaunt", "clebsch_gordan"])
@pytest.mark.parametrize("lmaxs", [(2, 1, 2), (1, 0, 2)])
def test_traces_without_graph_break(lmaxs, route, grid):
    torch.compiler.reset()
    call = lambda a, b: gaunt_product(a, b, *lmaxs, complete=True, route=route)  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for function in (call, compiled):
        torch.manual_seed(0)
        x, y = (features(lmax, requires_grad=True) for lmax in lmaxs[:2])
        z = function(x, y)
        results.append((z, *torch.autograd.grad(z.square().sum(), (x, y))))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("lmaxs", [(0, 0, 0), (1, 1, 1), (3, 2, 4), (4, 4, 4)])
@pytest.mark.parametrize("normalization", ["integral", "component"])
def test_both_routes_agree_to_second_order(lmaxs, normalization):
    results = []
    for route in ("gaunt", "clebsch_gordan"):
        torch.manual_seed(0)
        inputs = [features(lmax, requires_grad=True) for lmax in lmaxs[:2]]
        out = gaunt_product(*inputs, *lmaxs, complete=True, normalization=normalization, route=route)
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        results.append([out, *first, *second])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("compiled", "expected"), [(False, "grid"), (True, "sums")])
def test_the_route_is_chosen_by_measurement(compiled, expected, monkeypatch):
    """At degree 2: the grid as it is, sums inside a compiler; at degree 6 the grid in both."""
    taken = []
    grid, sums = gaunt_module.grid_product, gaunt_module._sums
    monkeypatch.setattr(gaunt_module, "grid_product", lambda *a: taken.append("grid") or grid(*a))
    monkeypatch.setattr(gaunt_module, "_sums", lambda *a: taken.append("sums") or sums(*a))
    torch.compiler.reset()
    for lmax in (2, 6):
        call = lambda a, b, lmax=lmax: gaunt_product(a, b, lmax, lmax, lmax)  # noqa: E731
        function = torch.compile(call, fullgraph=True, backend="eager") if compiled else call
        function(features(lmax), features(lmax))
    assert taken == [expected, "grid"]


def test_one_compiled_function_serves_several_degrees():
    torch.compiler.reset()
    compiled = torch.compile(
        lambda a, b, lmax: gaunt_product(a, b, lmax, lmax, lmax), fullgraph=True, backend="aot_eager"
    )
    for lmax in (1, 2, 3):
        x, y = features(lmax), features(lmax)
        torch.testing.assert_close(compiled(x, y, lmax), gaunt_product(x, y, lmax, lmax, lmax))


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("lmax", [2, 6])
def test_inductor_equals_eager(lmax):
    torch.compiler.reset()
    x, y = (features(lmax, rows=8, channels=16, dtype=torch.float32) for _ in range(2))
    compiled = torch.compile(lambda a, b: gaunt_product(a, b, lmax, lmax, lmax), fullgraph=True)
    want = gaunt_product(x, y, lmax, lmax, lmax)
    assert (compiled(x, y) - want).norm() < 1e-6 * want.norm()


def test_plans_hold_the_couplings_of_even_and_of_odd_sum():
    """Numbers of terms and of paths as counted by hand and in the literature."""
    counts = {}
    for lmax in (1, 2, 3, 4):
        plans = [product_plan(bracket, (lmax, lmax), lmax, "integral") for bracket in (False, True)]
        counts[lmax] = [*(plan.n_terms for plan in plans), *(len(plan.couplings) for plan in plans)]
    assert counts == {1: [10, 6, 4, 1], 2: [83, 54, 11, 4], 3: [353, 258, 23, 11], 4: [1158, 894, 42, 23]}
    (path,) = product_plan(True, (1, 1), 1, "integral").couplings
    assert path.factor == pytest.approx(path_factor(1, 1, 1), abs=1e-14)


@pytest.mark.parametrize(
    ("arguments", "compiled", "want"),
    [
        ((1,), False, "gaunt"),
        ((3,), True, "clebsch_gordan"),
        ((4,), True, "gaunt"),
        ((2, "all"), False, "clebsch_gordan"),
        ((3, "all"), False, "gaunt"),
        ((4, "all"), True, "clebsch_gordan"),
        ((5, "all"), True, "gaunt"),
        ((3, "odd"), True, "clebsch_gordan"),
    ],
)
def test_route(arguments, compiled, want):
    assert product_route(*arguments, compiled=compiled) == want
    assert product_route(*arguments, compiled=compiled, crossing=0) == "gaunt"
    assert product_route(*arguments, compiled=compiled, crossing=9) == "clebsch_gordan"


def test_unknown_route():
    with pytest.raises(ValueError, match=r"paths must be one of \['even', 'odd', 'all'\], got 'some'"):
        product_route(2, "some")
    with pytest.raises(ValueError, match=r"route must be one of \['clebsch_gordan', 'gaunt'\] or None, got 'fft'"):
        gaunt_product(features(1), features(1), 1, 1, 1, route="fft")


def test_same_values_on_every_call(grid):
    x, y = features(3, rows=40, dtype=torch.float32), features(3, rows=40, dtype=torch.float32)
    assert torch.equal(gaunt_product(x, y, 3, 3, 3), gaunt_product(x, y, 3, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gaunt_product(torch.zeros(3, 9, 2), torch.zeros(3, 4, 2), 2, 2, 2),
            r"factor y must be \[3, 9, 2\] for degree 2, got \[3, 4, 2\]",
        ),
        (
            lambda: gaunt_product(torch.zeros(3, 8, 2), torch.zeros(3, 4, 2), 2, 1, 2),
            r"factor x must be \[3, 9, 2\] for degree 2, got \[3, 8, 2\]",
        ),
        (
            lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(4, 4, 2), 1, 1, 2),
            r"factor y must be \[3, 4, 2\] for degree 1, got \[4, 4, 2\]",
        ),
        (lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), 1, 1, -1), "lmax_out must be at least 0"),
        (
            lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2).long(), 1, 1, 1),
            "factor y must be real on cpu, got torch.int64 on cpu",
        ),
        (
            lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), 1, 1, 1, normalization="norm"),
            "normalization must be 'integral' or 'component', got 'norm'",
        ),
        (lambda: gaunt_product_many([], [], 1), "factors and lmaxs must be of one length from 1, got 0 and 0"),
        (lambda: gaunt_product_many([torch.zeros(3, 4)], [1], 1), r"factor 0 must be"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
