"""PONITA's models, and the authors' code."""

import os
import sys
import types

import pytest
import torch
from helpers.ponita import SMALL, assert_same, complete, network, random_graph, rotation
from torch_geometric.data import Data

from geoeq.audit import orbit_error
from geoeq.groups import SO, C, E, T, Union
from geoeq.layers import (
    Ponita,
    PonitaKernel,
    PonitaNet,
    ZonalKernel,
    ponita_from_reference,
)
from geoeq.layers.ponita_cloud import CloudKernel, lift_edges
from geoeq.layers.ponita_conv import DistanceKernel
from geoeq.ops import scatter_mean
from geoeq.ops.sphere import directions

# --------------------------------------------------------------------------------------------------------------- models


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


# ---------------------------------------------------------------------------------------------------- the authors' code


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
