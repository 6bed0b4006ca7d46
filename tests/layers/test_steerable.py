"""Steerable convolutions: parity with e3nn, symmetry, smoothness, forces."""

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from e3nn import o3
from torch_geometric.data import Batch, Data

from geoeq.layers.checks import check_values
from geoeq.layers.steerable_conv import SteerableConv, edge_harmonics, reachable_irreps
from geoeq.layers.steerable_net import EnergyForces, GauntNet, SteerableMPNN, SteerableNet
from geoeq.ops import use_backend
from geoeq.ops.backends import interpreting
from geoeq.reps import Irreps

HIDDEN = "4x0e + 2x0o + 3x1o + 2x1e + 2x2e"


def graph(n=6, e=20, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype)
    return pos, torch.randint(0, n, (2, e), generator=generator)


def make(attention=False, **options):
    torch.manual_seed(0)
    conv = SteerableConv(HIDDEN, HIDDEN, cutoff=3.0, edge_dim=2, attention=attention, **options).double()
    return conv, torch.randn(6, Irreps(HIDDEN).dim, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)


def test_harmonics_are_e3nns_and_degree_zero_alone_where_nodes_coincide():
    pos, edges = graph()
    length, harmonics = edge_harmonics(pos, edges, 3)
    offset = pos[edges[0]] - pos[edges[1]]
    apart = edges[0] != edges[1]
    torch.testing.assert_close(length, offset.norm(dim=1))
    expected = o3.spherical_harmonics(list(range(4)), offset[apart], True, normalization="component")
    torch.testing.assert_close(harmonics[apart], expected)
    assert harmonics[~apart][:, 1:].eq(0).all()
    assert harmonics[:, 0].eq(1).all()


def test_equals_e3nns_tensor_product():
    conv, x, attr = make()
    pos, edges = graph()
    product = conv.product
    peer = o3.TensorProduct(
        product.irreps1,
        product.irreps2,
        product.irreps_out,
        [(p.i1, p.i2, p.i_out, p.mode, p.has_weight) for p in product.paths],
        shared_weights=False,
        internal_weights=False,
    ).double()
    length, harmonics = edge_harmonics(pos, edges, 2)
    weight = conv.radial(torch.cat([conv.basis(length), attr], 1))
    window = (1 - (length / 3).clamp(max=1) ** 6 * (28 - 48 * length / 3 + 21 * (length / 3) ** 2))[:, None]
    messages = peer(conv.linear_in(x)[edges[0]], harmonics, weight * window.where(length[:, None] < 3, 0))
    expected = conv.linear_out(messages.new_zeros(6, messages.shape[1]).index_add(0, edges[1], messages))
    # e3nn's constants are rounded to float32 on the way
    torch.testing.assert_close(conv(x, pos, edges, attr), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_commutes_with_rotations_about_and_reflections_along_axes(attention, dtype, limit):
    conv, x, attr = make(attention)
    conv, x, attr = conv.to(dtype), x.to(dtype), attr.to(dtype)
    pos, edges = graph(dtype=dtype)
    out = conv(x, pos, edges, attr)
    for angle in (0.3, 2.0):
        g = o3.matrix_y(torch.tensor(angle, dtype=torch.float64)) @ -o3.matrix_x(torch.tensor(1.0, dtype=torch.float64))
        d = Irreps(HIDDEN).D_from_matrix(g).to(dtype)
        moved = conv(x @ d.T, (pos.double() @ g.T + 0.5).to(dtype), edges, attr)
        assert (moved - out @ d.T).abs().max() < max(limit, 2e-7) * out.abs().max()  # e3nn's matrices are no better


@pytest.mark.parametrize("attention", [False, True])
def test_commutes_with_permutations_of_nodes_and_edges(attention):
    conv, x, attr = make(attention)
    pos, edges = graph()
    nodes, order = torch.randperm(6), torch.randperm(20)
    moved = conv(x[nodes], pos[nodes], torch.argsort(nodes)[edges][:, order], attr[order])
    torch.testing.assert_close(moved, conv(x, pos, edges, attr)[nodes])


@pytest.mark.parametrize("attention", [False, True])
def test_messages_end_smoothly(attention):
    conv, x, _ = make(attention)
    edges, attr = torch.tensor([[1, 2], [0, 0]]), torch.zeros(2, 2, dtype=torch.float64)
    places = [[[0, 0, 0], [0, 0, d], [1, 0, 0.0]] for d in (3 - 1e-4, 3 + 1e-4)]
    inside, outside = (conv(x[:3], torch.tensor(p, dtype=torch.float64), edges, attr) for p in places)
    assert (inside - outside).abs().max() < 1e-8
    assert outside.abs().max() > 1e-3


@pytest.mark.parametrize("attention", [False, True])
def test_first_and_second_gradients(attention):
    torch.manual_seed(0)
    conv = SteerableConv("2x0e + 1x1o", "1x0e + 1x1o", 1, cutoff=3.0, hidden=4, n_basis=3, attention=attention).double()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    pos, edges = graph(4, 5)
    assert torch.autograd.gradcheck(lambda x, p: conv(x, p, edges), (x, pos.requires_grad_()))
    assert torch.autograd.gradgradcheck(lambda x, p: conv(x, p, edges), (x, pos))


@pytest.mark.parametrize("attention", [False, True])
def test_empty_isolated_and_coincident(attention):
    conv, x, attr = make(attention)
    none = torch.zeros(2, 0, dtype=torch.long)
    assert conv(x[:0], x[:0, :3], none, attr[:0]).shape == (0, x.shape[1])
    assert conv(x, x[:, :3], none, attr[:0]).eq(0).all()
    pos = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    out = conv(x, pos, torch.tensor([[0, 1], [1, 1]]), attr[:2])
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(pos.grad).all()


@pytest.mark.parametrize("attention", [False, True])
def test_traces_without_graph_break(attention):
    conv, x, attr = make(attention)
    pos, edges = graph()
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, pos, edges, attr), conv(x, pos, edges, attr))


@pytest.mark.skipif(
    not find_spec("triton") or not (torch.cuda.is_available() or interpreting()),
    reason="needs triton and a GPU, or triton and TRITON_INTERPRET=1",
)
@pytest.mark.parametrize("kind", ["steerable", "gaunt"])
def test_kernels_of_a_gpu_give_the_same_network_and_sort_once(kind, monkeypatch):
    if kind == "steerable":
        net = SteerableNet("2x0e + 1x1o", "1x1o", "3x0e + 2x1o", n_layers=2, cutoff=3.0, lmax=1).double()
    else:
        net = GauntNet("2x0e + 1x1o", "1x1o", channels=2, n_layers=2, cutoff=3.0, lmax=1).double()
    pos, edges = graph()
    x, sorted_again = torch.randn(6, 5, dtype=torch.float64), []
    for name in ("tensor_product", "gather_mul_scatter"):
        module = import_module(f"geoeq.ops.{name}")
        monkeypatch.setattr(module, "neighbours", lambda *_, **__: sorted_again.append(1))
    results = []
    for backend in ("torch", "triton"):
        with use_backend(backend):
            out = net(x, pos.requires_grad_(), edges)
            (force,) = torch.autograd.grad(out.square().sum(), pos, create_graph=True)
            weights = torch.autograd.grad(force.square().sum(), list(net.convs[0].radial.parameters()))
            results.append([out, force, *weights])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    assert not sorted_again


def test_every_linear_map_can_be_softened():
    from geoeq.groups import SO
    from geoeq.soft import Fixed, SoftEquivariance

    net = SteerableNet("2x0e + 1x1o", "1x1o", "4x0e + 2x1o", n_layers=1, cutoff=2.0)
    covered = SoftEquivariance({"rotation": SO(3)}, Fixed(1.0)).attach(net).covered
    assert len(covered) >= 6


def molecule(batch=2):
    torch.manual_seed(0)
    edges = torch.tensor([(j, i) for i in range(4) for j in range(4) if i != j]).T
    graphs = [
        Data(x=torch.randn(4, 2).double(), pos=torch.randn(4, 3).double(), edge_index=edges) for _ in range(batch)
    ]
    return Batch.from_data_list(graphs)


@pytest.mark.parametrize(
    "net",
    [
        lambda: SteerableNet("2x0e", "1x0e", "4x0e + 2x1o", n_layers=2, cutoff=4.0),
        lambda: GauntNet("2x0e", "1x0e", channels=4, n_layers=2, cutoff=4.0),
    ],
    ids=["steerable", "gaunt"],
)
def test_forces_are_the_slope_of_the_energy_and_add_up_to_nothing(net):
    model, data = EnergyForces(net().double()), molecule()
    energy, forces = model(data)
    assert energy.shape == (2,)
    step = torch.randn_like(data.pos)
    ends = []
    for sign in (1, -1):
        moved = data.clone()
        moved.pos = data.pos + sign * 1e-5 * step
        ends.append(model(moved)[0].sum())
    slope = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close(slope, -(forces * step).sum(), rtol=1e-5, atol=1e-7)
    assert forces[:4].sum(0).abs().max() < 1e-10


def test_a_loss_on_forces_reaches_the_weights():
    model = EnergyForces(SteerableNet("2x0e", "1x0e", "4x0e + 2x1o", n_layers=1, cutoff=4.0).double())
    _, forces = model.train()(molecule())
    forces.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert sum(p.grad is not None and bool(p.grad.ne(0).any()) for p in model.parameters()) > 5
    with torch.no_grad():
        _, quiet = model.eval()(molecule())
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, forces.detach())


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_energies_and_forces_where_gradients_are_off(off):
    model = EnergyForces(SteerableNet("2x0e", "1x0e", "4x0e + 2x1o", n_layers=1, cutoff=4.0).double())
    energy, forces = model(molecule())
    with off():
        quiet = model(molecule())
    assert not any(result.requires_grad for result in quiet)
    torch.testing.assert_close(quiet, (energy.detach(), forces.detach()))


def test_energies_of_a_batch_that_is_numbered_by_hand():
    model = EnergyForces(SteerableNet("2x0e", "1x0e", "4x0e + 2x1o", n_layers=1, cutoff=4.0).double()).eval()
    batch = molecule()
    data = Data(x=batch.x, pos=batch.pos, edge_index=batch.edge_index, batch=batch.batch)
    torch.testing.assert_close(model(data), model(batch))
    none = Data(x=data.x[:0], pos=data.pos[:0], edge_index=data.edge_index[:, :0], batch=data.batch[:0])
    energy, forces = model(none)
    assert (energy.shape, forces.shape) == ((0,), (0, 3))


def test_energies_are_summed_in_single_precision_under_autocast():
    def ones(x, pos, edge_index, edge_attr):
        return (torch.ones(len(pos), 1) + 0 * pos[:, :1]).bfloat16()

    data = Data(x=None, pos=torch.zeros(1001, 3), edge_index=torch.zeros(2, 0, dtype=torch.long))
    assert EnergyForces(ones)(data)[0].tolist() == [1001]  # bfloat16 has no such number
    model = EnergyForces(SteerableNet("2x0e", "1x0e", "4x0e + 2x1o", n_layers=1, cutoff=4.0))
    with torch.autocast("cpu", torch.bfloat16):
        energy, forces = model(molecule().apply(lambda v: v.float() if v.is_floating_point() else v))
    assert energy.dtype == forces.dtype == torch.float32


def test_radial_functions_may_be_gaussians():
    net = SteerableNet("2x0e", "1x0e", "4x0e + 2x1o", n_layers=2, cutoff=4.0, radial="gaussian").double()
    assert [conv.basis.kind for conv in net.convs] == ["gaussian"] * 2
    assert SteerableMPNN("4x0e + 2x1o", 1, radial="gaussian").net.convs[0].basis.kind == "gaussian"
    data = molecule()
    g = o3.matrix_y(torch.tensor(0.3, dtype=torch.float64))
    out = net(data.x, data.pos, data.edge_index)
    torch.testing.assert_close(net(data.x, data.pos @ g.T, data.edge_index), out)


def test_another_layer_reaches_what_one_cannot():
    pos, edges = graph()
    net = SteerableNet("2x0e", "1x1e", "4x0e + 2x1o + 2x1e", n_layers=2, cutoff=9.0).double()
    assert net(torch.randn(6, 2).double(), pos, edges).abs().max() > 1e-8


def test_values_are_not_read_inside_a_transform():
    pos, edges = graph()

    def checked(pos):
        check_values(pos, edges)
        return edge_harmonics(pos, edges, 1)[0]

    torch.testing.assert_close(torch.func.vmap(checked)(torch.stack([pos, 2 * pos]))[0], checked(pos))
    with pytest.raises(ValueError, match="pos must be finite"):
        checked(pos * float("nan"))


def test_reachable_irreps():
    assert str(reachable_irreps("4x0e", 2)) == "1x0e+1x1o+1x2e"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SteerableConv("2x0e", "1x1e", cutoff=1.0), "irreps_out must be reached"),
        (lambda: SteerableNet("2x0e", "1x1o", "8x0e", cutoff=1.0), "irreps_out must be reached .* got 1o in 1x1o"),
        (lambda: SteerableNet("1x1o", "1x0e + 1x2e", "8x0e + 1x1o", cutoff=1.0), "got 2e in 1x0e"),
        (lambda: SteerableNet("2x0e", "1x1e", "8x0e + 2x1o + 2x1e", 1, cutoff=1.0), "through 1 layers .* got 1e"),
        (lambda: GauntNet("2x0e", "1x1e", 4, cutoff=1.0), "irreps_out must be reached .* got 1e in 1x1e"),
        (lambda: SteerableConv("2x0e", "1x0e", cutoff=1.0, radial="sine"), "radial must be one of .* got 'sine'"),
        (lambda: SteerableConv("2x0e", "1x0e", -1, cutoff=1.0), "lmax and edge_dim must be >= 0"),
        (lambda: SteerableConv("2x0e", "1x0e", cutoff=0.0), "cutoff positive"),
        (lambda: SteerableMPNN(n_layers=0), "n_layers must be at least 1"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_inputs():
    conv, x, attr = make()
    pos, edges = graph()
    with pytest.raises(ValueError, match=r"h must be \[N,"):
        conv(x[:, 1:], pos, edges, attr)
    with pytest.raises(ValueError, match="pos must be finite"):
        conv(x, pos * float("nan"), edges, attr)
    with pytest.raises(ValueError, match=r"net must give \[N, 1\]"):
        EnergyForces(SteerableNet("2x0e", "2x0e", "4x0e", n_layers=1, cutoff=1.0).double())(molecule())
