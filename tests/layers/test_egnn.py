"""EGNN: the equations, the authors' code, the symmetry, and what torch may ask of a module."""

import os
import sys
from shutil import which

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from geoeq.layers.egnn import EGNN, EGNNConv
from geoeq.ops import egnn_step


def complete_edges(n_nodes, n_graphs=1):
    """Complete graphs without self loops, sorted by receiver: row 0 sender, row 1 receiver."""
    pairs = [(j, i) for i in range(n_nodes) for j in range(n_nodes) if i != j]
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t()
    return torch.cat([edges + n_nodes * g for g in range(n_graphs)], 1)


def random_data(n_nodes=5, n_graphs=1, dtype=torch.float64, seed=0, edge_index=None):
    generator = torch.Generator().manual_seed(seed)
    n_total = n_nodes * n_graphs
    edge_index = complete_edges(n_nodes, n_graphs) if edge_index is None else edge_index
    pos, vel = torch.randn(2, n_total, 3, generator=generator, dtype=torch.float64).to(dtype)
    sign = torch.randint(0, 2, (n_total,), generator=generator) * 2 - 1
    edge_attr = (sign[edge_index[0]] * sign[edge_index[1]]).to(dtype).unsqueeze(1)
    return Data(pos=pos, vel=vel, edge_index=edge_index, edge_attr=edge_attr)


def lively(model, seed=0):
    """Weights large enough that every term counts; at the start the coordinate gate is almost 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model


def random_rotation(seed, dtype=torch.float64):
    """An element of O(3); odd seeds are reflections."""
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, _ = torch.linalg.qr(matrix)
    return (q * torch.sign(torch.det(q)) * (-1) ** seed).to(dtype)


def dense_reference(model, data):
    """The equations of the docstring with joined matrices and all pairs (i, j) at once."""

    def linear(x, layer):
        return F.linear(x, layer.weight, layer.bias)

    n = len(data.pos)
    adjacency = torch.zeros(n, n, 1, dtype=data.pos.dtype)
    adjacency[data.edge_index[1], data.edge_index[0]] = 1
    a = torch.zeros(n, n, 1, dtype=data.pos.dtype)
    a[data.edge_index[1], data.edge_index[0]] = data.edge_attr
    x, v = data.pos, data.vel
    h = linear(v.norm(dim=1, keepdim=True), model.embedding)
    start = ((x[:, None] - x[None]) ** 2).sum(-1, keepdim=True)
    for layer in model.layers:
        blocks = list(layer.node_in.weight.split(layer.hidden))
        difference = x[:, None] - x[None]
        distance2 = (difference**2).sum(-1, keepdim=True)
        pair = torch.cat([h[:, None].expand(n, n, -1), h[None].expand(n, n, -1), distance2, a, start], -1)
        w_e = torch.cat([*blocks[:2], layer.edge_in.weight], 1)
        m = F.silu(linear(F.silu(F.linear(pair, w_e, layer.edge_in.bias)), layer.edge_out))
        gate = linear(F.silu(linear(m, layer.coord_in)), layer.coord_out)
        shift = (adjacency * difference * gate).sum(1) / adjacency.sum(1).clamp(min=1)
        phi_v = linear(F.silu(F.linear(h, blocks[2], layer.vel_in_bias)), layer.vel_out)
        x = x + shift + phi_v * v
        if layer.update_nodes:
            w_h = torch.cat([blocks[3], layer.message_in.weight], 1)
            both = torch.cat([h, (adjacency * m).sum(1)], 1)
            h = h + linear(F.silu(F.linear(both, w_h, layer.message_in.bias)), layer.node_out)
    return x


def load_authors_weights(model, authors):
    """Copy the weights of the authors' EGNN_vel into ours."""
    model.embedding.load_state_dict(authors.embedding.state_dict())
    h = authors.hidden_nf
    with torch.no_grad():
        for i, layer in enumerate(model.layers):
            theirs = getattr(authors, f"gcl_{i}")
            first_e, first_v, first_h = theirs.edge_mlp[0], theirs.coord_mlp_vel[0], theirs.node_mlp[0]
            node_in = [
                first_e.weight[:, :h],
                first_e.weight[:, h : 2 * h],
                first_v.weight,
                first_h.weight[:, :h],
            ]
            layer.node_in.weight.copy_(torch.cat(node_in)[: layer.node_in.out_features])
            # Theirs: current distance, charges, start distance. Ours: the same.
            layer.edge_in.weight.copy_(first_e.weight[:, 2 * h :])
            layer.edge_in.bias.copy_(first_e.bias)
            layer.vel_in_bias.copy_(first_v.bias)
            layer.edge_out.load_state_dict(theirs.edge_mlp[2].state_dict())
            layer.coord_in.load_state_dict(theirs.coord_mlp[0].state_dict())
            layer.coord_out.load_state_dict(theirs.coord_mlp[2].state_dict())
            layer.vel_out.load_state_dict(theirs.coord_mlp_vel[2].state_dict())
            if layer.update_nodes:
                layer.message_in.weight.copy_(first_h.weight[:, h:])
                layer.message_in.bias.copy_(first_h.bias)
                layer.node_out.load_state_dict(theirs.node_mlp[2].state_dict())


def authors_forward(authors, data):
    receiver, sender = data.edge_index[1], data.edge_index[0]
    distance2 = ((data.pos[receiver] - data.pos[sender]) ** 2).sum(1, keepdim=True)
    edge_attr = torch.cat([data.edge_attr, distance2], 1)
    speed = data.vel.norm(dim=1, keepdim=True)
    return authors(speed, data.pos.clone(), [receiver, sender], data.vel, edge_attr)


@pytest.fixture
def authors_model():
    path = os.environ.get("GEOEQ_EGNN_PEER")
    if not path:
        pytest.skip("set GEOEQ_EGNN_PEER to a clone of vgsatorras/egnn to compare with the authors' code")
    sys.path.insert(0, path)
    try:
        from n_body_system.model import EGNN_vel
    finally:
        sys.path.remove(path)
    torch.manual_seed(0)
    return EGNN_vel(in_node_nf=1, in_edge_nf=2, hidden_nf=64, n_layers=4, recurrent=True)


def gradients(model, data, forward=None):
    forward = model if forward is None else forward
    model.zero_grad()
    pos = data.pos.clone().requires_grad_()
    vel = data.vel.clone().requires_grad_()
    out = forward(Data(pos=pos, vel=vel, edge_index=data.edge_index, edge_attr=data.edge_attr))
    (out * torch.linspace(0.5, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return out.detach(), [pos.grad, vel.grad, *(p.grad.clone() for p in model.parameters())]


def assert_all_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_same_as_authors(authors_model):
    data = random_data(n_graphs=7, dtype=torch.float32)
    with torch.no_grad():
        for i in range(4):  # so that the coordinate updates count; at the start they are nearly 0
            getattr(authors_model, f"gcl_{i}").coord_mlp[2].weight.mul_(300)
    model = EGNN()
    load_authors_weights(model, authors_model)
    torch.testing.assert_close(model(data), authors_forward(authors_model, data), rtol=1e-5, atol=1e-5)


def test_same_initial_distribution_as_authors(authors_model):
    torch.manual_seed(1)
    drawn, theirs = EGNN(), EGNN()
    load_authors_weights(theirs, authors_model)
    for (name, a), b in zip(drawn.named_parameters(), theirs.parameters(), strict=True):
        a, b = a.detach(), b.detach()
        if a.numel() >= 1000:
            assert a.std().item() == pytest.approx(b.std().item(), rel=0.05), name
            assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.02), name


@settings(max_examples=30, deadline=None)
@given(n_nodes=st.integers(1, 6), hidden=st.integers(1, 9), n_layers=st.integers(1, 3), seed=st.integers(0, 99))
def test_equals_dense_reference(n_nodes, hidden, n_layers, seed):
    edge_index = complete_edges(n_nodes)
    keep = torch.rand(edge_index.shape[1], generator=torch.Generator().manual_seed(seed)) < 0.6
    data = random_data(n_nodes, seed=seed, edge_index=edge_index[:, keep])
    model = lively(EGNN(hidden=hidden, n_layers=n_layers).double(), seed)
    out, grads = gradients(model, data)
    expected, expected_grads = gradients(model, data, lambda d: dense_reference(model, d))
    assert_all_close([out, *grads], [expected, *expected_grads], 1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@settings(max_examples=25, deadline=None)
@given(n_nodes=st.integers(1, 6), n_layers=st.integers(1, 4), seed=st.integers(0, 99))
def test_equivariant(dtype, tolerance, n_nodes, n_layers, seed):
    data = random_data(n_nodes, seed=seed)
    model = EGNN(hidden=16, n_layers=n_layers).double()
    model = lively(model, seed).to(dtype)
    rotation, shift = random_rotation(seed), torch.randn(3, dtype=torch.float64)
    order = torch.randperm(n_nodes)
    place = torch.argsort(order)

    def act(x, translate):
        return (x @ rotation.T + translate)[order]

    moved = Data(
        pos=act(data.pos, shift).to(dtype),
        vel=act(data.vel, 0).to(dtype),
        edge_index=place[data.edge_index],
        edge_attr=data.edge_attr.to(dtype),
    )
    data.pos, data.vel, data.edge_attr = data.pos.to(dtype), data.vel.to(dtype), data.edge_attr.to(dtype)
    expected = act(model(data).double(), shift)
    error = (model(moved).double() - expected).norm() / expected.norm()
    assert error < tolerance


@pytest.mark.parametrize("velocity", [True, False])
@pytest.mark.parametrize("update_nodes", [True, False])
def test_conv_is_equivariant(velocity, update_nodes):
    data = random_data(4)
    conv = lively(EGNNConv(8, edge_dim=1, velocity=velocity, update_nodes=update_nodes).double())
    h = torch.randn(4, 8, dtype=torch.float64)
    rotation = random_rotation(3)
    vel = data.vel if velocity else None
    h_out, pos_out = conv(h, data.pos, data.edge_index, data.edge_attr, vel)
    vel = data.vel @ rotation.T if velocity else None
    h_moved, pos_moved = conv(h, data.pos @ rotation.T + 1, data.edge_index, data.edge_attr, vel)
    torch.testing.assert_close(h_moved, h_out, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pos_moved, pos_out @ rotation.T + 1, rtol=1e-10, atol=1e-10)
    assert torch.equal(h_out, h) != update_nodes


@pytest.mark.parametrize("n_nodes", [0, 1, 3])
def test_no_edges(n_nodes):
    data = random_data(n_nodes, edge_index=torch.zeros(2, 0, dtype=torch.int64))
    out, grads = gradients(EGNN(hidden=8).double(), data)
    assert out.shape == (n_nodes, 3)
    assert all(torch.isfinite(g).all() for g in grads)


def test_coincident_bodies_at_rest():
    data = random_data(4)
    data.pos, data.vel = torch.ones_like(data.pos), torch.zeros_like(data.vel)
    out, grads = gradients(lively(EGNN(hidden=8).double()), data)
    torch.testing.assert_close(out, data.pos)
    assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("velocity", [True, False])
@pytest.mark.parametrize("update_nodes", [True, False])
def test_hand_written_gradients(velocity, update_nodes):
    """First and second derivatives, with respect to every input and weight."""
    conv = lively(EGNNConv(3, edge_dim=1, velocity=velocity, update_nodes=update_nodes).double())
    data = random_data(3, edge_index=torch.tensor([[1, 2, 0, 1], [0, 0, 1, 1]]))
    names, weights = zip(*conv.named_parameters(), strict=True)
    leaves = [torch.randn(3, 3, dtype=torch.float64), data.pos, data.edge_attr, *weights]
    leaves += [data.vel] if velocity else []
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]

    def run(h, pos, edge_attr, *rest):
        vel = rest[len(names)] if velocity else None
        named = dict(zip(names, rest[: len(names)], strict=True))
        out = torch.func.functional_call(conv, named, (h, pos, data.edge_index, edge_attr, vel))
        return out if update_nodes else out[1]

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def test_fast_step_equals_plain_step(monkeypatch):
    data = random_data(n_graphs=3)
    model = lively(EGNN(hidden=16).double())
    fast = gradients(model, data)
    monkeypatch.setattr(egnn_step, "_needs_plain", lambda pos: True)
    plain = gradients(model, data)
    assert_all_close([fast[0], *fast[1]], [plain[0], *plain[1]], 1e-10)


def test_second_gradients_of_the_whole_model():
    """The start distance depends on the positions, both enter the first step."""
    data = random_data(3)
    model = lively(EGNN(hidden=3, n_layers=2).double(), seed=1)

    def run(pos, vel):
        return model(Data(pos=pos, vel=vel, edge_index=data.edge_index, edge_attr=data.edge_attr))

    leaves = (data.pos.requires_grad_(), data.vel.requires_grad_())
    assert torch.autograd.gradcheck(run, leaves, rtol=1e-4)
    assert torch.autograd.gradgradcheck(run, leaves, rtol=1e-4)


def test_forward_mode():
    data = random_data(3)
    model = EGNN(hidden=8, n_layers=2).double()

    def run(pos):
        return model(Data(pos=pos, vel=data.vel, edge_index=data.edge_index, edge_attr=data.edge_attr))

    tangent = torch.randn_like(data.pos)
    _, derivative = torch.autograd.functional.jvp(run, data.pos, tangent)
    with torch.autograd.forward_ad.dual_level():
        dual = run(torch.autograd.forward_ad.make_dual(data.pos, tangent))
        forward = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(forward, derivative)


NEEDS_COMPILER = pytest.mark.skipif(not (which("g++") or which("c++")), reason="inductor needs a C++ compiler")


# Raised by torch itself whenever it traces an autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, NEEDS_COMPILER])])
def test_compiled_values_and_gradients(backend):
    data = random_data(n_graphs=3)
    model = lively(EGNN(hidden=8, n_layers=2).double())
    eager = gradients(model, data)
    compiled = gradients(model, data, torch.compile(model, fullgraph=True, backend=backend))
    assert_all_close([compiled[0], *compiled[1]], [eager[0], *eager[1]], 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_follows_input(dtype):
    out, grads = gradients(EGNN(hidden=8).to(dtype), random_data(dtype=dtype))
    assert out.dtype == dtype
    assert all(g.dtype == dtype for g in grads)


def test_autocast_keeps_positions_in_float32():
    data = random_data(dtype=torch.float32)
    model = EGNN(hidden=8)
    exact = model(data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(data)
    out.sum().backward()
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, exact, rtol=0.02, atol=0.02)


def test_deterministic_and_state_dict_round_trip():
    data = random_data()
    model, other = EGNN(hidden=8).double(), EGNN(hidden=8).double()
    other.load_state_dict(model.state_dict())
    first, second = gradients(model, data), gradients(other, data)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_input_is_not_changed_and_every_weight_is_used():
    data = random_data()
    before = data.pos.clone()
    _, grads = gradients(lively(EGNN(hidden=8).double()), data)
    assert torch.equal(data.pos, before)
    assert all(g.abs().sum() > 0 for g in grads)


def test_reset_parameters_and_repr():
    model = lively(EGNN(hidden=8))
    before = [p.clone() for p in model.parameters()]
    model.reset_parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.layers[0].edge_in.weight.abs().max() <= (2 * 8 + 3) ** -0.5
    assert model.layers[0].coord_out.weight.abs().max() < 1e-3
    assert "8, edge_dim=2, velocity=True, update_nodes=True" in repr(model)


def test_node_features_and_no_velocity():
    data = random_data()
    data.x = torch.randn(5, 2, dtype=torch.float64)
    assert EGNN(node_dim=2, hidden=8).double()(data).shape == (5, 3)
    still = Data(pos=data.pos, edge_index=data.edge_index)
    assert EGNN(edge_dim=0, velocity=False, hidden=8).double()(still).shape == (5, 3)
    with pytest.raises(ValueError, match=r"x must be \[N, 3\] with N = 5, got \[5, 2\]"):
        EGNN(node_dim=3, hidden=8).double()(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.zeros(5, 2)}, r"pos must be \[N, 3\], got \[5, 2\]"),
        ({"pos": torch.full((5, 3), torch.nan)}, r"pos must be finite"),
        ({"vel": torch.zeros(4, 3)}, r"vel must be \[N, 3\]"),
        ({"vel": None}, r"vel must be \[N, 3\]"),
        ({"edge_attr": torch.zeros(20, 2)}, r"edge_attr must be \[E, 1\]"),
        ({"edge_index": complete_edges(5) + 1}, r"edge_index must lie in \[0, 4\]"),
        ({"edge_index": complete_edges(5) - 1}, r"edge_index must lie in \[0, 4\]"),
    ],
)
def test_bad_input(change, message):
    data = random_data(dtype=torch.float32)
    for name, value in change.items():
        data[name] = value
    with pytest.raises(ValueError, match=message) as error:
        EGNN(hidden=8)(data)
    assert "\n" not in str(error.value)


def test_bad_sizes():
    with pytest.raises(ValueError, match="n_layers must be >= 1"):
        EGNN(n_layers=0)
    with pytest.raises(ValueError, match="hidden must be >= 1"):
        EGNNConv(0)
    with pytest.raises(ValueError, match="vel must be None, got a tensor"):
        EGNNConv(8, velocity=False)(torch.zeros(1, 8), torch.zeros(1, 3), complete_edges(1), vel=torch.zeros(1, 3))
