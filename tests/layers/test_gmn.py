"""GMN: the equations object by object, free motion, rods that stay, and what torch may ask of a module."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from geoeq.audit import orbit_error
from geoeq.datasets import NBody
from geoeq.groups import E, S
from geoeq.layers import GMN, GMNConv, rigid_parts
from geoeq.layers.rigid import rotate

FREE, STICK, HINGE, BODY = 1, 2, 3, 4  # nodes of each kind of part


def mechanisms(sizes=(FREE, STICK, HINGE, BODY), *, seed=0, dtype=torch.float64):
    """A complete graph of parts of the given sizes, on nodes numbered at random; hinges have their pivot anywhere."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    n = len(part)
    starts = torch.tensor([part.tolist().index(p) for p in range(len(sizes))], dtype=torch.int64)
    pivot = torch.isin(torch.arange(n), starts[torch.tensor(sizes) == HINGE])
    number = torch.randperm(n, generator=generator)
    part, pivot = part[number], pivot[number]
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j], dtype=torch.int64).reshape(-1, 2).T
    inside = part[edges[0]] == part[edges[1]]
    kind = torch.ones(edges.shape[1], dtype=dtype)
    kind[inside & (pivot[edges[0]] | pivot[edges[1]])] = 3
    kind[inside & (part.bincount(minlength=1)[part[edges[0]]] == STICK)] = 2
    charge = torch.randint(0, 2, (n, 1), generator=generator).to(dtype) * 2 - 1
    return Data(
        pos=torch.randn(n, 3, generator=generator, dtype=dtype),
        vel=torch.randn(n, 3, generator=generator, dtype=dtype),
        charge=charge,
        part=part,
        edge_index=edges,
        edge_attr=torch.cat([charge[edges[0]] * charge[edges[1]], kind.unsqueeze(1)], 1),
        num_nodes=n,
    )


def lively(module, seed=0):
    """Weights large enough that every term counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise * parameter.shape[-1] ** -0.5)
    return module


def kept_lengths(data):
    """Ends of everything that is rigid: rods, and all pairs of a body of four."""
    inside = data.part[data.edge_index[0]] == data.part[data.edge_index[1]]
    body = data.part.bincount(minlength=1)[data.part[data.edge_index[0]]] == BODY
    return data.edge_index[:, (data.edge_attr[:, 1] >= 2) | (inside & body)]


def lengths(pos, ends):
    return (pos[ends[0]] - pos[ends[1]]).norm(dim=-1)


def test_rods_are_kept_and_hinges_turn():
    data, model = mechanisms(), lively(GMN(hidden=16).double())
    moved, ends = model(data), kept_lengths(data)
    assert (moved - data.pos).norm(dim=1).min() > 1e-3
    assert torch.allclose(lengths(moved, ends), lengths(data.pos, ends), rtol=1e-13)
    hinge = torch.nonzero(data.part.bincount()[data.part] == HINGE).flatten()
    tips = hinge[torch.tensor([bool((kept_lengths(data)[0] == i).sum() == 1) for i in hinge])]
    assert (lengths(moved, tips) - lengths(data.pos, tips)).abs() > 1e-3


@given(sizes=st.lists(st.integers(1, 4), max_size=4), seed=st.integers(0, 1000))
def test_rods_are_kept_on_any_system(sizes, seed):
    data = mechanisms(sizes, seed=seed)
    ends, moved = kept_lengths(data), lively(GMN(hidden=8, n_layers=3, n_frames=2).double(), seed)(data)
    for frame in moved.unbind(1):
        assert torch.allclose(lengths(frame, ends), lengths(data.pos, ends), rtol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_rods_are_kept_in_single_precision(autocast):
    data = mechanisms(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        moved = lively(GMN(hidden=16))(data)
    ends = kept_lengths(data)
    assert moved.dtype == torch.float32
    assert torch.allclose(lengths(moved, ends), lengths(data.pos, ends), rtol=1e-5)


@given(sizes=st.lists(st.integers(1, 4), max_size=4), seed=st.integers(0, 1000))
def test_equivariance(sizes, seed):
    data, model = mechanisms(sizes, seed=seed), lively(GMN(hidden=8, n_layers=3, n_frames=2).double(), seed)
    assert orbit_error(model, data, E(3), n_samples=2, seed=seed) < 1e-10
    if len(data.pos):
        assert orbit_error(model, data, S(len(data.pos)), n_samples=2, seed=seed) < 1e-10


def coasting(conv):
    """Weights that exert no force and keep velocities and angular velocities."""
    with torch.no_grad():
        for out in (conv.messages.coord_out.weight, conv.force_out.weight, conv.force_out.bias):
            out.zero_()
        for gate in (conv.velocity_out, conv.rotation_out):
            gate.weight.zero_()
            gate.bias.fill_(1.0)
    return conv


def test_without_forces_a_free_stick_moves_as_newton_says():
    """Its centre goes straight, and it turns at a constant rate: after 5 steps as exp(5 omega) says."""
    conv = coasting(GMNConv(4).double())
    omega, drift = torch.randn(3).double(), torch.randn(3).double()
    half = torch.linalg.cross(omega, torch.randn(3).double())  # a stick at a right angle to its axis of rotation
    pos, turn = torch.stack([half, -half]) + 7, torch.stack([omega, omega])
    vel = drift + torch.linalg.cross(turn, torch.stack([half, -half]))
    edges, h = torch.tensor([[1, 0], [0, 1]]), torch.randn(2, 4).double()
    parts = rigid_parts(torch.zeros(2, dtype=torch.int64), edges, dtype=torch.float64)
    for _ in range(5):
        h, pos, vel = conv(h, pos, edges, vel=vel, parts=parts)
    turned = rotate(torch.stack([half, -half]), 5 * turn)
    assert torch.allclose(pos, 7 + 5 * drift + turned, atol=1e-12)
    assert torch.allclose(vel, drift + torch.linalg.cross(turn, turned), atol=1e-12)


def test_without_forces_bodies_go_straight_and_arms_turn_about_a_straight_pivot():
    conv, data = coasting(GMNConv(4, edge_dim=2).double()), mechanisms((FREE, HINGE))
    parts = rigid_parts(data.part, data.edge_index, data.edge_attr[:, 1] >= 2, dtype=torch.float64)
    _, pos, _ = conv(torch.randn(4, 4).double(), data.pos, data.edge_index, data.edge_attr, vel=data.vel, parts=parts)
    straight = (parts.arm == torch.arange(4)) & (parts.weight.flatten() == 1)
    assert straight.sum() == 2
    assert torch.allclose(pos[straight], (data.pos + data.vel)[straight])


def linear(x, layer):
    return F.linear(x, layer.weight, layer.bias)


def object_by_object(conv, h, pos, vel, force, parts):
    """The docstring's equations, one part after another."""
    pos, vel = pos.clone(), vel.clone()
    features = linear(h, conv.part_in)
    for leader in parts.leader.unique():
        nodes = torch.nonzero(parts.leader == leader).flatten()
        weight = parts.weight[nodes]
        c, w = (weight * pos[nodes]).sum(0), (weight * vel[nodes]).sum(0)
        r, u, f = pos[nodes] - c, vel[nodes] - w, force[nodes]
        products = torch.stack([(a * b).sum(1) for a, b in ((f, f), (f, r), (f, u), (r, r), (r, u), (u, u))], 1)
        products = products / (1 + sum(v.square().sum(1, keepdim=True) for v in (f, r, u)))
        alpha, beta, gamma = linear(
            F.silu(linear(h[nodes], conv.node_in) + linear(products, conv.products_in)), conv.force_out
        ).T.unsqueeze(2)
        a = ((1 + alpha) * f + beta * r + gamma * u).mean(0)
        mean = features[nodes].mean(0)
        w_new = linear(F.silu(mean), conv.velocity_out) * w + a
        for arm in parts.arm[nodes].unique():
            mine = parts.arm[nodes] == arm
            z = features[arm] if parts.hinged[arm] else mean
            inertia = r[mine].square().sum()
            spin = torch.linalg.cross(r[mine], u[mine]).sum(0)
            torque = torch.linalg.cross(r[mine], f[mine] - a).sum(0)
            omega = (linear(F.silu(z), conv.rotation_out) * spin + torque) / (inertia if inertia > 1e-12 else 1)
            omega = omega.expand(int(mine.sum()), 3)
            turned = rotate(r[mine], omega)
            pos[nodes[mine]] = c + w_new + turned
            vel[nodes[mine]] = w_new + torch.linalg.cross(omega, turned)
    return pos, vel


def test_same_as_one_object_after_another():
    data, conv = mechanisms((1, 2, 3, 4, 3, 1)), lively(GMNConv(8, edge_dim=2).double())
    parts = rigid_parts(data.part, data.edge_index, data.edge_attr[:, 1] >= 2, dtype=torch.float64)
    h, force = torch.randn(14, 8).double(), torch.randn(14, 3).double()
    found = conv.move(h, data.pos, data.vel, force, parts)
    wanted = object_by_object(conv, h, data.pos, data.vel, force, parts)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_force_is_the_shift_of_an_egnn_step():
    """Free nodes, velocities kept: positions move by velocity, force and its learned factor."""
    data, conv = mechanisms((1, 1, 1)), lively(GMNConv(8, edge_dim=2).double())
    with torch.no_grad():
        for out in (conv.force_out.weight, conv.force_out.bias, conv.velocity_out.weight):
            out.zero_()
        conv.velocity_out.bias.fill_(1.0)
    parts = rigid_parts(data.part, data.edge_index, dtype=torch.float64)
    h = torch.randn(3, 8).double()
    h_new, pos, vel = conv(h, data.pos, data.edge_index, data.edge_attr, vel=data.vel, parts=parts)
    h_egnn, pushed = conv.messages(h, data.pos, data.edge_index, data.edge_attr)
    assert torch.equal(h_new, h_egnn)
    assert torch.allclose(pos, pushed + data.vel)
    assert torch.allclose(vel, pushed - data.pos + data.vel)


def test_frames_are_the_last_steps():
    data = mechanisms()
    torch.manual_seed(0)
    one, three = GMN(hidden=8).double(), GMN(hidden=8, n_frames=3).double()
    three.load_state_dict(one.state_dict())
    assert torch.equal(three(data)[:, -1], one(data))
    assert torch.equal(three(data)[:, 0], GMN.forward(shortened(one, 2), data))


def shortened(model, n_layers):
    model.layers = model.layers[:n_layers]
    return model


def test_graphs_of_a_batch_do_not_mix():
    """Labels of parts start anew in every graph."""
    graphs, model = [mechanisms(seed=s) for s in range(3)], lively(GMN(hidden=8).double())
    together = model(Batch.from_data_list(graphs))
    assert torch.allclose(together, torch.cat([model(g) for g in graphs]), atol=1e-12)


def test_gradients_and_second_gradients():
    data, model = mechanisms((2, 3)), lively(GMN(hidden=3, n_layers=2).double(), seed=1)
    names, weights = zip(*model.named_parameters(), strict=True)

    def run(pos, vel, *values):
        moved = data.clone()
        moved.pos, moved.vel = pos, vel
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (moved,))

    leaves = [x.detach().clone().requires_grad_() for x in (data.pos, data.vel, *weights)]
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(lambda pos, vel: run(pos, vel, *weights), leaves[:2], rtol=1e-4)


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled_with_hinges(backend):
    torch.compiler.reset()
    data, model = mechanisms(), lively(GMN(hidden=8, n_layers=2).double())
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    assert torch.allclose(compiled(data), model(data), atol=1e-10)


def test_coincident_nodes_of_a_part_have_finite_gradients():
    data, model = mechanisms(), lively(GMN(hidden=8).double())
    data.pos = torch.full_like(data.pos, 0.1).requires_grad_()
    model(data).square().sum().backward()
    assert torch.isfinite(data.pos.grad).all()


def test_state_dict_and_reset():
    data, a, b = mechanisms(), lively(GMN(hidden=8).double()), GMN(hidden=8).double()
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(data), b(data))
    before = [p.clone() for p in b.parameters()]
    b.reset_parameters()
    assert all(not torch.equal(x, y) for x, y in zip(before, b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_follows_input(dtype):
    assert GMN(hidden=8).to(dtype)(mechanisms(dtype=dtype)).dtype == dtype


def test_published_systems(tmp_path):
    """The rods that the data set marks are kept to single precision."""
    data = NBody(tmp_path, "train", objects=(3, 2, 1), frames=(0, 1), sizes=(4, 1, 1), log=False)
    batch = data.fetch(torch.arange(4))
    moved = lively(GMN(hidden=16))(batch)
    rods = batch.edge_index[:, batch.edge_attr[:, 1] >= 2]
    assert rods.shape[1] == 4 * (2 * 2 + 2 * 2)
    assert torch.allclose(lengths(moved, rods), lengths(batch.pos, rods), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 0}, r"n_frames must lie in \[1, n_layers = 0\], got 1"),
        ({"n_frames": 5}, r"n_frames must lie in \[1, n_layers = 4\], got 5"),
        ({"rods": 2}, "rods must be None or a column of edge_attr below edge_dim = 2, got 2"),
        ({"edge_dim": 0}, "rods must be None or a column"),
    ],
)
def test_unusable_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        GMN(**options)


def test_missing_part():
    data = mechanisms()
    del data.part
    with pytest.raises(ValueError, match=r"part must be \[N\], got None"):
        GMN(hidden=8).double()(data)
