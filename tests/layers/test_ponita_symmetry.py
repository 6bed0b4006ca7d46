"""The symmetry of PONITA: exact where its grid moves too, approximate where it does not."""

import pytest
import torch
from helpers.ponita import GRIDS, SMALL, assert_same, moved, network, random_graph, rotation

from geoeq.groups import SO, C
from geoeq.layers import (
    PonitaKernel,
    PonitaNet,
    ZonalConv,
    ZonalKernel,
)
from geoeq.layers.ponita_cloud import CloudKernel
from geoeq.layers.ponita_conv import DistanceKernel
from geoeq.ops.sphere import spherical_harmonics


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


def test_a_rotation_of_another_shape_is_refused():
    net, graph = network(PonitaKernel(12, **SMALL)), random_graph()
    for shape in ([6, 3], [4, 3, 3], [2, 2]):
        with pytest.raises(ValueError, match=rf"rotation must be \[3, 3\] or \[N, 3, 3\] with N = 5, got \{shape}"):
            net(**graph, rotation=torch.ones(shape).double())


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
