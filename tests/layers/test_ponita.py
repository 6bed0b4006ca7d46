"""PONITA: its invariants, its symmetry, the fast steps against the plain ones, and the authors' code."""

import os
import sys
import types
from importlib.util import find_spec

import pytest
import torch
from torch_geometric.data import Data

from geoeq.audit import orbit_error
from geoeq.groups import SO, C, E, T, Union
from geoeq.layers import (
    Ponita,
    PonitaConv,
    PonitaKernel,
    PonitaNet,
    ZonalConv,
    ZonalKernel,
    ponita_from_reference,
    ponita_step,
    ponita_sums,
    ponita_tiles,
)
from geoeq.layers.ponita_cloud import CloudKernel, lift_edges
from geoeq.layers.ponita_conv import DistanceKernel
from geoeq.layers.ponita_edges import Pairs, join_pairs
from geoeq.layers.ponita_kernel import (
    KernelBasis,
    OrientationGrid,
    invariants,
    lengths,
    monomials,
    polynomial_window,
    tensor_power_columns,
)
from geoeq.ops import scatter_mean, use_backend
from geoeq.ops.backends import interpreting
from geoeq.ops.sphere import directions, spherical_harmonics, zonal_polynomials

SMALL = {"hidden": 8, "basis": 12}
GRIDS = ["octahedron", "cube", "icosahedron", "dodecahedron", 16]


def complete(n: int) -> torch.Tensor:
    return torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j], dtype=torch.int64).reshape(-1, 2).T


def random_graph(n: int = 5, edges: torch.Tensor | None = None, dim: int = 3, dtype=torch.float64) -> dict:
    return {
        "pos": torch.randn(n, dim, dtype=dtype),
        "edge_index": complete(n) if edges is None else edges,
        "scalars": torch.randn(n, 2, dtype=dtype),
        "vectors": torch.randn(n, 3, dim, dtype=dtype),
    }


def network(kernel: torch.nn.Module, sizes=(2, 3, 2, 2), **options) -> PonitaNet:
    """Random weights without a layer scale, which would hide every fault."""
    net = PonitaNet(*sizes, kernel, hidden=8, n_layers=2, **options).double()
    with torch.no_grad():
        for block in net.trunk.blocks:
            block.conv.bias.normal_()
    return net


def rotation(dim: int = 3) -> torch.Tensor:
    return SO(dim).sample(1)[0]


def moved(graph: dict, r: torch.Tensor, shift: float = 0.0) -> dict:
    return {**graph, "pos": graph["pos"] @ r.T + shift, "vectors": graph["vectors"] @ r.T}


def assert_same(ours, theirs, tolerance=1e-10):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------------------------- what kernels see


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


# -------------------------------------------------------------------------------------------- pairs of an edge list


def test_pairs_of_an_undirected_graph():
    pairs = join_pairs(complete(5), None, 5, mirror=True, add_loops=True)
    assert len(pairs.sender) == 10
    assert pairs.mirrored
    assert torch.equal(pairs.loops, torch.ones(5, dtype=torch.int64))


@pytest.mark.parametrize("change", ["one way", "repeated"])
def test_other_graphs_keep_their_edges(change):
    edges = complete(4)
    edges = edges[:, 1:] if change == "one way" else torch.cat([edges, edges[:, :1]], 1)
    pairs = join_pairs(edges, None, 4, mirror=True, add_loops=False)
    assert not pairs.mirrored
    assert len(pairs.sender) == edges.shape[1]


@pytest.mark.parametrize("kind", ["complete", "directed", "repeated", "loops", "empty"])
@pytest.mark.parametrize("grid", [16, "lopsided"])
def test_convolution_equals_the_sum_over_edges(kind, grid):
    n, edges = 5, complete(5)
    edges = {
        "complete": edges,
        "directed": edges[:, ::3],
        "repeated": torch.cat([edges, edges[:, :4]], 1),
        "loops": torch.cat([edges, torch.tensor([[0, 2, 2], [0, 2, 2]])], 1),
        "empty": edges[:, :0],
    }[kind]
    if grid == "lopsided":
        grid = torch.nn.functional.normalize(torch.randn(7, 3).double(), dim=1)
    kernel = PonitaKernel(grid, **SMALL, radius=4.0).double()
    conv = PonitaConv(4, 12).double()
    conv.bias.data.normal_()
    o = kernel.grid.directions
    x, pos = torch.randn(n, len(o), 4).double(), torch.randn(n, 3).double()
    offset = pos[edges[0]] - pos[edges[1]]
    phi = kernel.spatial(invariants(offset, o)) * polynomial_window(offset.norm(dim=1), 4.0).view(-1, 1, 1)
    k1, k2 = conv.spatial(phi), conv.fiber(kernel.fiber((o @ o.T).unsqueeze(2)))
    full = torch.einsum("emc,pmc->epmc", k1, k2) / len(o)  # the kernel before it is separated
    expected = conv.bias.expand(n, len(o), 4).clone()
    for e in range(edges.shape[1]):
        expected[edges[1, e]] += torch.einsum("pmc,mc->pc", full[e], x[edges[0, e]])
    torch.testing.assert_close(conv(x, pos, edges, kernel), expected, rtol=1e-10, atol=1e-10)


# -------------------------------------------------------------------------------------- fast steps and plain steps


def pair_sum(x, kernel, sender, receiver, loops, mirrored):
    return ponita_sums.pair_sum(x, kernel, Pairs(sender, receiver, None, mirrored, loops, None))


def _arguments(step, requires_grad=True):
    n, o, c, p = 5, 4, 3, 6
    sender, receiver = torch.randint(0, n, (2, p))
    table = {
        "pairs": (
            pair_sum,
            ponita_sums._plain_pairs,
            [(n, o, c), (p, o, c)],
            (sender, receiver, None, False),
        ),
        "mirrored": (
            pair_sum,
            ponita_sums._plain_pairs,
            [(n, o, c), (p + 1, o, c)],
            (sender, receiver, torch.randint(0, 3, (n,)), True),
        ),
        "one orientation": (
            pair_sum,
            ponita_sums._plain_pairs,
            [(n, 1, c), (p, 1, c)],
            (sender, receiver, None, True),
        ),
        "mlp": (
            ponita_step.pointwise_mlp,
            ponita_step._plain_mlp,
            [(7, c), (7, 2), (c,), (c,), (5, c), (5,), (2, 5), (2,)],
            (1e-5,),
        ),
        "kernels": (
            lambda *a: torch.cat(ponita_step.spatial_kernels(*a[:6], a[6:]), 1),
            lambda *a: torch.cat(ponita_step._plain_kernels(*a), 1),
            [(7, 2), (5, 2), (5,), (4, 5), (4,), (7, 1), (3, 4), (2, 4)],
            (),
        ),
        "fiber": (
            ponita_sums.fiber_sum,
            lambda x, k, b: torch.einsum("pmc,nmc->npc", k, x) + b,
            [(n, o, c), (o, o, c), (c,)],
            (),
        ),
    }
    fast, plain, shapes, rest = table[step]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad) for shape in shapes]
    return fast, plain, tensors, rest


STEPS = ["pairs", "mirrored", "one orientation", "mlp", "kernels", "fiber"]


@pytest.mark.parametrize("tile", [1, 3, 512])
@pytest.mark.parametrize("step", STEPS)
def test_fast_step_equals_plain_step(step, tile, monkeypatch):
    monkeypatch.setattr(ponita_tiles, "TILE", tile)
    fast, plain, tensors, rest = _arguments(step)
    out, expected = fast(*tensors, *rest), plain(*tensors, *rest)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(out)
    assert_same(torch.autograd.grad(out, tensors, g), torch.autograd.grad(expected, tensors, g), 1e-11)


@pytest.mark.parametrize("step", STEPS)
def test_strides_do_not_matter(step):
    fast, _, tensors, rest = _arguments(step)
    strided = [t.detach().mT.contiguous().mT.requires_grad_() if t.dim() > 1 else t for t in tensors]
    out, expected = fast(*strided, *rest), fast(*tensors, *rest)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn(*out.shape[:-2], *out.shape[:-3:-1], dtype=torch.float64).mT
    assert_same(torch.autograd.grad(out, strided, g), torch.autograd.grad(expected, tensors, g.contiguous()), 1e-11)


@pytest.mark.parametrize("step", STEPS)
def test_fast_step_derivatives(step, monkeypatch):
    monkeypatch.setattr(ponita_tiles, "TILE", 3)
    fast, _, tensors, rest = _arguments(step)
    assert torch.autograd.gradcheck(lambda *t: fast(*t, *rest), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: fast(*t, *rest), tensors)


@pytest.mark.parametrize("step", STEPS)
def test_single_precision_is_as_exact(step):
    fast, plain, tensors, rest = _arguments(step, requires_grad=False)
    out = fast(*(t.float() for t in tensors), *rest)
    torch.testing.assert_close(out.double(), plain(*tensors, *rest), rtol=2e-5, atol=2e-5)


def test_kernels_without_window_and_without_all_layers():
    _fast, _, tensors, _ = _arguments("kernels")
    tensors[5] = None
    first, _ = ponita_step.spatial_kernels(*tensors[:6], tensors[6:])
    expected, _ = ponita_step._plain_kernels(*tensors)
    wanted = tensors[1:5]
    assert_same(torch.autograd.grad(first.sum(), wanted), torch.autograd.grad(expected.sum(), wanted), 1e-12)


@pytest.mark.skipif(
    not find_spec("triton") or not (torch.cuda.is_available() or interpreting()),
    reason="needs triton and a GPU, or triton and TRITON_INTERPRET=1",
)
@pytest.mark.parametrize("kernel", [PonitaKernel, CloudKernel, ZonalKernel, DistanceKernel])
@pytest.mark.parametrize("undirected", [True, False])
def test_kernels_of_a_gpu_give_the_same_network(kernel, undirected):
    options = {"grid": 4} if kernel is PonitaKernel else {"max_degree": 1} if kernel is ZonalKernel else {}
    net = PonitaNet(1, 0, 1, 0, kernel(**options, hidden=4, basis=4), hidden=2, n_layers=2).double()
    edges = complete(3)[:, slice(None) if undirected else slice(1, None)]
    pos, scalars, results = torch.randn(3, 3).double().requires_grad_(), torch.randn(3, 1).double(), []
    for backend in ("torch", "triton"):
        with use_backend(backend):
            out, _ = net(pos, edges, scalars)
            (force,) = torch.autograd.grad(out.square().sum(), pos, create_graph=True)
            weights = torch.autograd.grad(force.square().sum(), list(net.kernel.spatial.parameters()))
            results.append([out, force, *weights])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------- symmetry


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("grid", [16, "edges", "zonal"])
def test_equivariant_if_the_grid_moves_too(grid, dim):
    if grid == "zonal" and dim == 2:
        pytest.skip("zonal kernels are for three dimensions")
    if grid == "zonal":
        kernel = ZonalKernel(2, **SMALL)
    else:
        kernel = CloudKernel(dim=dim, **SMALL) if grid == "edges" else PonitaKernel(grid, dim=dim, **SMALL)
    net, graph, r = network(kernel), random_graph(dim=dim), rotation(dim)
    scalars, vectors = net(**graph)
    assert_same(net(**moved(graph, r, 3.0), rotation=r), (scalars, vectors @ r.T))
    assert vectors.abs().max() > 1e-3
    assert scalars.abs().max() > 1e-3


def test_each_graph_of_a_batch_may_have_its_own_rotation():
    net, graph = network(PonitaKernel(12, **SMALL)), random_graph(4, torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]))
    r = SO(3).sample(2).repeat_interleave(2, 0)  # [4, 3, 3]
    turned = {**graph, "pos": (r @ graph["pos"].unsqueeze(2)).squeeze(2), "vectors": graph["vectors"] @ r.mT}
    scalars, vectors = net(**graph)
    assert_same(net(**turned, rotation=r), (scalars, vectors @ r.mT))


def test_reflections_too_in_space():
    net, graph = network(PonitaKernel(16, **SMALL)), random_graph()
    r = -rotation()
    scalars, vectors = net(**graph)
    assert_same(net(**moved(graph, r), rotation=r), (scalars, vectors @ r.T))


@pytest.mark.parametrize("name", ["octahedron", "cube"])
def test_rotations_of_the_polyhedron_are_exact(name):
    net, graph = network(PonitaKernel(name, **SMALL)), random_graph()
    for group in (C(4, "x"), C(4, "y"), C(3, [1.0, 1.0, 1.0])):
        r = group.elements[1]
        scalars, vectors = net(**graph)
        assert_same(net(**moved(graph, r)), (scalars, vectors @ r.T), 1e-9)


@pytest.mark.parametrize("name", ["icosahedron", "dodecahedron"])
def test_rotations_of_the_icosahedron_are_exact(name):
    net, graph = network(PonitaKernel(name, **SMALL)), random_graph()
    axis = [0.0, 1.0, (1 + 5**0.5) / 2]  # a vertex of the icosahedron
    r = C(5, axis).elements[1]
    scalars, vectors = net(**graph)
    assert_same(net(**moved(graph, r)), (scalars, vectors @ r.T), 1e-9)


@pytest.mark.parametrize("order", [1, 3])
def test_rotations_of_the_circle_grid_are_exact(order):
    net, graph = network(PonitaKernel(8, dim=2, **SMALL)), random_graph(dim=2)
    angle = torch.tensor(order * torch.pi / 4, dtype=torch.float64)
    r = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    scalars, vectors = net(**graph)
    assert_same(net(**moved(graph, r)), (scalars, vectors @ r.T))


def test_other_rotations_are_approximate_and_finer_grids_are_better():
    graph, errors = random_graph(), []
    for n in (8, 64):
        torch.manual_seed(3)
        net = network(PonitaKernel(n, **SMALL))
        found = []
        for r in SO(3).sample(4):
            _, vectors = net(**graph)
            found.append((net(**moved(graph, r))[1] - vectors @ r.T).norm() / vectors.norm())
        errors.append(torch.stack(found).mean().item())
    assert errors[0] > 1e-4
    assert errors[1] < errors[0] / 2


def test_errors_of_the_fixed_grid_are_no_larger_than_those_of_the_authors():
    """A property of the method, in relative l2 norm of vectors; nothing is left where the grid turns with the input."""
    published = {8: 0.20, 16: 0.14, 20: 0.07, 32: 0.07, 64: 0.012}
    for n, expected in published.items():
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            net = PonitaNet(2, 3, 0, 2, PonitaKernel(n, hidden=64, basis=64), hidden=64, n_layers=3)
            graph = random_graph(dtype=torch.float32)
            net.calibrate(**graph)
            with torch.no_grad():
                _, vectors = net(**graph)
                for r in SO(3).sample(4).float():
                    fixed, turned = net(**moved(graph, r))[1], net(**moved(graph, r), rotation=r)[1]
                    found.append(float((fixed - vectors @ r.T).norm() / vectors.norm()))
                    assert (turned - vectors @ r.T).norm() < 3e-6 * vectors.norm()
        assert 0.002 < sum(found) / len(found) < 2 * expected


@pytest.mark.parametrize("places", ["coincident", "along the grid"])
@pytest.mark.parametrize("kernel", [PonitaKernel, CloudKernel, ZonalKernel, DistanceKernel])
def test_second_derivatives_exist_where_a_length_is_zero(kernel, places):
    """A loss on forces differentiates twice: at r = 0, at r parallel to an orientation, and with self loops."""
    options = {} if kernel is CloudKernel else {"radius": 4.0}
    extra = {"grid": "octahedron"} if kernel is PonitaKernel else {}
    net = network(kernel(**extra, **options, **SMALL), (2, 0, 2, 0))
    edges = torch.tensor([[0, 1, 2, 0, 1], [1, 0, 1, 2, 1]])
    pos = torch.zeros(3, 3).double() if places == "coincident" else torch.diag(torch.tensor([1.0, 0, 0])).double()
    pos.requires_grad_()
    scalars, _ = net(pos, edges, torch.randn(3, 2).double())
    (force,) = torch.autograd.grad(scalars.square().sum(), pos, create_graph=True)
    gradients = torch.autograd.grad(force.square().sum(), [pos, *net.kernel.parameters()], allow_unused=True)
    assert torch.isfinite(force).all()
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_no_handedness_in_space():
    """Known limit of the three invariants: a mirror image of the whole input gives the mirror image of the output."""
    net, graph = network(PonitaKernel("octahedron", **SMALL)), random_graph()
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0])).double()
    scalars, vectors = net(**graph)
    assert_same(net(**moved(graph, mirror)), (scalars, vectors @ mirror.T))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_zonal_convolution_is_exact_on_functions_of_limited_degree(degree):
    kernel = ZonalKernel(degree, **SMALL, radius=5.0).double()
    conv = ZonalConv(4, 12, degree).double()
    conv.bias.data.normal_()
    o, weights = kernel.grid.directions, kernel.grid.weights
    y = spherical_harmonics(degree, o)  # [O, (L + 1)^2]
    coefficients, graph, r = torch.randn(5, y.shape[1], 4).double(), random_graph(), rotation()
    x = torch.einsum("ok,nkc->noc", y, coefficients)
    x_turned = torch.einsum("ok,nkc->noc", spherical_harmonics(degree, o @ r), coefficients)  # (R f)(o) = f(R^-1 o)
    out = conv(x, graph["pos"], graph["edge_index"], kernel)
    turned = conv(x_turned, graph["pos"] @ r.T, graph["edge_index"], kernel)
    found = torch.einsum("ok,o,noc->nkc", y, 4 * torch.pi * weights, out)
    torch.testing.assert_close(torch.einsum("ok,nkc->noc", y, found), out)  # no degree above L
    expected = torch.einsum("ok,nkc->noc", spherical_harmonics(degree, o @ r), found)
    torch.testing.assert_close(turned, expected, rtol=1e-10, atol=1e-10)
    if degree:
        assert (out - x).norm() > 0.1
        assert (expected - out).norm() > 0.01 * out.norm()


def test_lift_and_read_out_of_identity():
    """v -> v / 3 and s -> s on any grid whose second moments are equal."""
    for grid in GRIDS:
        net = PonitaNet(1, 1, 1, 1, PonitaKernel(grid, **SMALL)).double()
        axes = net.kernel.grid.directions.expand(5, -1, -1)
        s, v = torch.randn(5, 1).double(), torch.randn(5, 1, 3).double()
        scalars, vectors = net._read(net._lift(s, v, axes), axes, net.kernel.grid.weights)
        torch.testing.assert_close(scalars, s)
        torch.testing.assert_close(vectors, v / 3)


def test_permutations_of_nodes_and_edges():
    net, graph = network(PonitaKernel(12, **SMALL)), random_graph()
    order, shuffle = torch.randperm(5), torch.randperm(20)
    place = order.argsort()
    other = {k: v[order] for k, v in graph.items() if k != "edge_index"}
    scalars, vectors = net(**graph)
    assert_same(
        net(**other, edge_index=place[graph["edge_index"]][:, shuffle]), (scalars[order], vectors[order]), 1e-11
    )


# ------------------------------------------------------------------------------------------------------------ models


def test_edge_features_are_seen_and_loops_have_none():
    net, graph = network(PonitaKernel(6, **SMALL, edge_dim=1)), random_graph()
    one, two = (net(**graph, edge_attr=torch.randn(20, 1).double())[1] for _ in range(2))
    assert (one - two).abs().max() > 1e-6


def test_self_loops_given_make_no_difference():
    net, graph = network(PonitaKernel(6, **SMALL)), random_graph()
    looped = torch.cat([graph["edge_index"], torch.tensor([[1, 3], [1, 3]])], 1)
    assert_same(net(**{**graph, "edge_index": looped}), net(**graph), 1e-12)


@pytest.mark.parametrize("kernel", ["grid", "distance", "cloud", "zonal"])
def test_calibration_keeps_standard_deviations(kernel):
    made = {"grid": PonitaKernel, "distance": DistanceKernel, "cloud": CloudKernel, "zonal": ZonalKernel}[kernel]
    sizes = (2, 0, 1, 0) if kernel == "distance" else (2, 3, 2, 2)
    net, graph = network(made(**SMALL), sizes).float(), random_graph(dtype=torch.float32)
    if kernel == "distance":
        graph["vectors"] = None
    net.calibrate(**graph)
    seen = []
    for block in net.trunk.blocks:
        over_positions, over_orientations = block.conv._over_positions, block.conv._over_orientations
        block.conv._over_positions = lambda x, *a, f=over_positions: _watch(seen, x, f(x, *a))
        if block.conv.fiber is not None:
            bias = block.conv.bias
            block.conv._over_orientations = lambda x, *a, f=over_orientations, b=bias: _watch(seen, x, f(x, *a), b)
    net(**graph)
    assert len(seen) >= 2
    for before, after in seen:
        assert after == pytest.approx(before, rel=1e-3)


def _watch(seen, x, y, bias=0.0):
    seen.append((x.std().item(), (y - bias).std().item()))
    return y


def test_calibration_survives_an_empty_graph():
    net = network(PonitaKernel(6, **SMALL))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.calibrate(**random_graph(0, torch.zeros(2, 0, dtype=torch.int64)))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_cloud_edges_are_those_of_the_definition():
    edges = torch.tensor([[1, 2, 0, 3, 1], [0, 0, 1, 1, 1]])  # one self loop; node 2 and 3 receive nothing
    pos = torch.randn(4, 3).double()
    cloud = lift_edges(pos, edges)
    assert cloud.receiver.tolist() == [0, 0, 1, 1]
    base = {(int(j), int(i)) for j, i in edges.T} | {(k, k) for k in range(4)}
    expected = sorted(
        (a, b) for a in range(4) for b in range(4) if (int(cloud.receiver[a]), int(cloud.receiver[b])) in base
    )
    assert sorted(map(tuple, cloud.edge_index.T.tolist())) == expected
    torch.testing.assert_close(cloud.orientation.norm(dim=1), torch.ones(4).double())


def test_coincident_points_of_a_cloud_have_no_direction():
    pos = torch.zeros(3, 3).double().requires_grad_()
    lift_edges(pos, complete(3)).orientation.sum().backward()
    assert torch.isfinite(pos.grad).all()


def test_distance_kernel_refuses_vectors():
    with pytest.raises(ValueError, match="vectors need a grid of orientations, got 1 in and 0 out"):
        PonitaNet(1, 1, 1, 0, DistanceKernel(**SMALL))


def test_positions_alone_are_invariant():
    net, graph, r = network(DistanceKernel(**SMALL), (2, 0, 2, 0)), random_graph(), rotation()
    graph["vectors"] = None
    turned = {**graph, "pos": graph["pos"] @ r.T + 1.0}
    assert_same(net(**turned), net(**graph))


@pytest.mark.parametrize("readouts", ["all", "last"])
@pytest.mark.parametrize("layer_scale", [None, 1.0])
def test_trunk_is_its_blocks_one_by_one(readouts, layer_scale):
    net, graph = network(PonitaKernel(6, **SMALL), readouts=readouts, layer_scale=layer_scale), random_graph()
    axes = net.kernel.grid.directions.expand(5, -1, -1)
    sampled = net.kernel(graph["pos"], graph["edge_index"], add_loops=True)
    x = net.trunk.embedding(net._lift(graph["scalars"], graph["vectors"], axes))
    outs = []
    for block in net.trunk.blocks:
        y = block.narrow(torch.nn.functional.gelu(block.widen(block.norm(block.conv.step(x, sampled)))))
        x = x + (y if layer_scale is None else block.layer_scale * y)
        outs.append(x)
    read = [f(x) for f, x in zip(net.trunk.readouts, outs[-len(net.trunk.readouts) :], strict=True)]
    expected = torch.stack(read).mean(0)
    actual = net.trunk(net._lift(graph["scalars"], graph["vectors"], axes), sampled)
    torch.testing.assert_close(actual, expected)


def body_data(n=5, dtype=torch.float64):
    return Data(
        pos=torch.randn(n, 3, dtype=dtype),
        vel=torch.randn(n, 3, dtype=dtype),
        charge=torch.ones(n, 1, dtype=dtype),
        edge_index=complete(n),
    )


def test_forecast_is_exact_for_the_cloud_and_for_the_grid_of_the_octahedron():
    data, options = body_data(), {**SMALL, "n_layers": 2, "layer_scale": 1.0}
    assert orbit_error(Ponita("edges", **options).double(), data, E(3)) < 1e-10
    octahedral = Union(T(3), C(4, "x"), C(4, "z"))
    assert orbit_error(Ponita("octahedron", **options).double(), data, octahedral) < 1e-10
    assert orbit_error(Ponita("octahedron", **options).double(), data, SO(3)) > 1e-4


def test_forecast_turns_its_grid_with_the_data():
    model, data, r = Ponita(8, **SMALL, n_layers=2, layer_scale=1.0).double(), body_data(), rotation()
    other = Data(pos=data.pos @ r.T, vel=data.vel @ r.T, charge=data.charge, edge_index=data.edge_index, rotation=r)
    torch.testing.assert_close(model(other), model(data) @ r.T)


@pytest.mark.parametrize("kernel", [PonitaKernel, ZonalKernel, DistanceKernel])
def test_traces_without_graph_break(kernel):
    torch.compiler.reset()
    sizes = (2, 0, 2, 0) if kernel is DistanceKernel else (2, 3, 2, 2)
    net, graph = network(kernel(**SMALL, radius=3.0), sizes), random_graph()
    graph["edge_index"] = torch.cat([graph["edge_index"], torch.tensor([[1], [1]])], 1)
    graph["vectors"] = graph["vectors"] if sizes[1] else None
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert_same(compiled(**graph), net(**graph))


def test_forecast_needs_what_it_names():
    model = Ponita(6, **SMALL, n_layers=1, node_dim=2).double()
    with pytest.raises(ValueError, match=r"x must be \[5, 2\], got None"):
        model(body_data())
    with pytest.raises(ValueError, match=r"charge must be \[5, 1\], got None"):
        Ponita(6, **SMALL).double()(Data(pos=torch.zeros(5, 3), vel=torch.zeros(5, 3), edge_index=complete(5)))


def test_grid_is_in_the_state_dict():
    net = network(PonitaKernel(10, **SMALL))
    other = network(PonitaKernel(directions(10) @ rotation().T, **SMALL))
    graph = random_graph()
    other.load_state_dict(net.state_dict())
    assert_same(other(**graph), net(**graph), 1e-14)


@pytest.mark.parametrize(("sizes", "message"), [((0, 0, 1, 1), "channels must be"), ((1, 1, 0, 0), "channels must be")])
def test_nothing_in_or_out_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        PonitaNet(*sizes, PonitaKernel(6, **SMALL))


def test_wrong_shapes_are_one_clear_line():
    net, graph = network(PonitaKernel(6, **SMALL)), random_graph()
    for change, message in [
        ({"pos": graph["pos"][:, :2]}, r"pos must be \[N, 3\], got \[5, 2\]"),
        ({"scalars": None}, r"scalars must be \[5, 2\], got None"),
        ({"vectors": graph["vectors"][:, :2]}, r"vectors must be \[5, 3, 3\], got \[5, 2, 3\]"),
        ({"edge_attr": torch.ones(20, 1)}, "edge_attr must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            net(**{**graph, **change})
    with pytest.raises(ValueError, match="radius must be positive or None, got 0"):
        PonitaKernel(6, radius=0)


# ------------------------------------------------------------------------------------------------- the authors' code


@pytest.fixture
def authors(monkeypatch):
    """The package ebekkers/ponita; its transforms predate an abstract method of torch_geometric."""
    path = os.environ.get("GEOEQ_PONITA_PEER")
    if not path:
        pytest.skip("set GEOEQ_PONITA_PEER to a clone of ebekkers/ponita to compare with the authors' code")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    if "torch_scatter" not in sys.modules:
        stub = types.ModuleType("torch_scatter")
        stub.scatter_mean = lambda src, index, dim=0: scatter_mean(src, index, int(index.max()) + 1)
        monkeypatch.setitem(sys.modules, "torch_scatter", stub)
    monkeypatch.syspath_prepend(path)
    from ponita import transforms
    from ponita.models.ponita import Ponita as Theirs

    for transform in (transforms.PositionOrientationGraph, transforms.SEnInvariantAttributes):
        transform.__abstractmethods__ = frozenset()
    return Theirs


@pytest.mark.parametrize("radius", [None, 3.0])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("readouts", "scale"), [(True, 1.0), (False, None)])
def test_same_as_authors(authors, dim, radius, readouts, scale):
    theirs = authors(
        5, 16, 2, 3, output_dim_vec=2, num_ori=12, basis_dim=24, degree=3, radius=radius,
        layer_scale=scale, task_level="node", multiple_readouts=readouts,
    ).double()  # fmt: skip
    if radius is not None:  # their window ends the kernel; their transform must not rebuild the graph
        theirs.transform.transforms[0].radius = None
    graph = random_graph(6, dim=dim)
    data = Data(
        pos=graph["pos"], x=graph["scalars"], vec=graph["vectors"], edge_index=graph["edge_index"],
        batch=torch.zeros(6, dtype=torch.int64),
    )  # fmt: skip
    theirs.eval()
    theirs(data.clone())  # their lazy layers learn their sizes
    lifting = theirs.transform.transforms[0]
    grid = (lifting.ori_grid_s1 if dim == 2 else lifting.ori_grid_s2).double()
    net = ponita_from_reference(theirs.state_dict(), grid, vectors_in=3, vectors_out=2, dim=dim)
    scalars, vectors = theirs(data.clone())
    assert_same(net(**graph), (scalars, vectors), 1e-7)  # their grid is single precision


def test_same_as_authors_without_orientations(authors):
    theirs = authors(2, 16, 2, 3, num_ori=0, basis_dim=24, task_level="node", layer_scale=1.0, lift_graph=True).double()
    graph = random_graph(6)
    data = Data(pos=graph["pos"], x=graph["scalars"], edge_index=graph["edge_index"], batch=torch.zeros(6).long())
    theirs.eval()
    scalars, _ = theirs(data.clone())
    net = ponita_from_reference(theirs.state_dict(), 0, vectors_in=0, vectors_out=0)
    assert_same(net(graph["pos"], graph["edge_index"], graph["scalars"])[:1], (scalars,))


def test_same_as_authors_on_a_cloud(authors):
    """Their lift needs a package for sparse tensors, so that their network is given ours."""
    from ponita.geometry.invariants import invariant_attr_r3s2_point_cloud

    theirs = authors(5, 16, 2, 3, output_dim_vec=2, num_ori=-1, basis_dim=24, task_level="node", layer_scale=1.0)
    theirs, graph = theirs.double().eval(), random_graph(5)
    cloud = lift_edges(graph["pos"], graph["edge_index"])
    place = torch.cat([cloud.pos, cloud.orientation], 1)
    along = torch.einsum("evd,ed->ev", graph["vectors"][cloud.receiver], cloud.orientation)
    data = Data(
        pos=place, x=torch.cat([graph["scalars"][cloud.receiver], along], 1), edge_index=cloud.edge_index,
        attr=invariant_attr_r3s2_point_cloud(place, cloud.edge_index), dists=torch.zeros(cloud.edge_index.shape[1], 1),
        scatter_projection_index=cloud.receiver, batch=torch.zeros(len(place)).long(),
    )  # fmt: skip
    scalars, vectors = theirs(data)
    net = ponita_from_reference(theirs.state_dict(), "edges", vectors_in=3, vectors_out=2)
    assert_same(net(**graph), (scalars, vectors))


def test_another_state_dict_is_refused():
    with pytest.raises(ValueError, match="state_dict must be that of a ponita network"):
        ponita_from_reference({"weight": torch.zeros(2)}, 6)
