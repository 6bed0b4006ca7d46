"""Answers that are known without training, and what must hold through it, under every way to run a model."""

import math
import subprocess
import sys
import textwrap

import pytest
import torch
from e3nn import o3
from torch import nn
from torch_geometric.data import Data

from geoeq.audit import orbit_error
from geoeq.groups import O2, SO, E, O, S, T
from geoeq.layers import EGNN, TypedLinear, TypedMPNN
from geoeq.reps import Nodes, Positions, Sum
from geoeq.soft import Fixed, SoftEquivariance, levels_of


def penalty_of(weight, bias, rep_in, rep_out, group):
    """The penalty of a dense map, read as a free layer."""
    layer = TypedLinear(rep_in, rep_out, bias=bias is not None, mode="free").double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    soft = SoftEquivariance({"symmetry": group}, Fixed(1.0))
    soft.attach(layer)
    return soft.penalty().item()


def dense(module, width):
    """Weight and bias of an affine map, from its values."""
    eye = torch.eye(width, dtype=torch.float64)
    bias = module(torch.zeros(1, width, dtype=torch.float64)).detach()
    return (module(eye).detach() - bias).T, bias.squeeze(0)


def e3nn_linear():
    linear = o3.Linear("3x0e + 4x1o + 2x2e", "2x0e + 3x1o + 2x2e", biases=True).double()
    nn.init.normal_(linear.bias)
    return *dense(linear, linear.irreps_in.dim), linear.irreps_in, linear.irreps_out


def deep_sets_linear():
    """x_i -> A x_i + B mean_j x_j + b on n = 5 nodes, channels slow and nodes fast."""
    n, a, b, c = 5, torch.randn(3, 4).double(), torch.randn(3, 4).double(), torch.randn(3).double()
    alone, together = torch.eye(n).double(), torch.ones(n, n).double() / n
    weight = torch.kron(a, alone) + torch.kron(b, together)
    return weight, c.repeat_interleave(n), Nodes(n, "4x0e"), Nodes(n, "3x0e")


def egnn_positions():
    """x_i -> x_i + sum_j a_ij (x_i - x_j) + b_i v_i: the vector map of an EGNN layer at given messages, 4 nodes."""
    n, a, b = 4, torch.randn(4, 4).double(), torch.randn(4).double()
    moves = torch.eye(n).double() + torch.diag(a.sum(1)) - a
    space = torch.eye(3).double()
    weight = torch.cat([torch.kron(moves, space), torch.kron(torch.diag(b), space)], 1)
    return weight, None, Sum(Positions(n), f"{n}x1o"), Positions(n)


def egnn_scalars():
    """The first map of the messages of a real EGNN, on scalars, beside vectors that it neither reads nor writes."""
    linear = next(m for m in EGNN(hidden=8, n_layers=1).double().modules() if isinstance(m, nn.Linear))
    weight = torch.block_diag(linear.weight.detach(), 0.7 * torch.eye(3).double())
    bias = torch.cat([linear.bias.detach(), torch.zeros(3).double()])
    width_out, width_in = linear.weight.shape
    return weight, bias, f"{width_in}x0e + 1x1o", f"{width_out}x0e + 1x1o"


KNOWN = [
    (e3nn_linear, O(3)),
    (e3nn_linear, SO(3)),
    (e3nn_linear, E(3)),
    (deep_sets_linear, S(5)),
    (egnn_positions, E(3)),
    (egnn_positions, T(3)),
    (egnn_scalars, E(3)),
]


@pytest.mark.parametrize(("make", "group"), KNOWN, ids=lambda x: getattr(x, "__name__", str(x)))
def test_equivariant_layers_have_no_penalty(make, group):
    weight, bias, rep_in, rep_out = make()
    assert penalty_of(weight, bias, rep_in, rep_out, group) < 1e-12
    broken = weight.clone()
    broken[-1, 0] += 0.1  # the last output reads the first input: allowed in none of them
    assert penalty_of(broken, bias, rep_in, rep_out, group) > 1e-4


REP_IN, REP_OUT = Sum("3x0e + 2x1o", Positions(2)), Sum("2x0e + 2x1o")


@pytest.mark.parametrize("group", [O(3), O2("z"), T(3), E(3)], ids=str)
def test_gradient_of_the_penalty_is_the_residual_by_finite_differences(group):
    layer = TypedLinear(REP_IN, REP_OUT, bias=False, mode="free").double()
    soft = SoftEquivariance({"symmetry": group}, Fixed(1.0))
    soft.attach(layer)
    residual = group.projector(REP_IN, REP_OUT).double().residual(layer.weight.detach())
    eps = 1e-4
    for index in torch.randint(layer.weight.numel(), (20,)).tolist():
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                layer.weight.view(-1)[index] += sign * eps
            values.append(soft.penalty().item())
            with torch.no_grad():
                layer.weight.view(-1)[index] -= sign * eps
        assert (values[0] - values[1]) / (2 * eps) == pytest.approx(residual.view(-1)[index].item(), abs=1e-8)


@pytest.mark.parametrize("group", [O(3), O2("z"), T(3)], ids=str)
def test_detaching_the_projection_leaves_the_gradient_as_it_is(group):
    projector = group.projector(REP_IN, REP_OUT).double()
    weight = torch.randn(projector.shape, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(0.5 * (weight - projector(weight)).square().sum(), weight)
    (detached,) = torch.autograd.grad(0.5 * (weight - projector(weight).detach()).square().sum(), weight)
    assert torch.allclose(whole, detached, atol=1e-12)


# Through training


def graph(n=5, dtype=torch.float32):
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j]).T
    pos, vel, y = torch.randn(3, n, 3, dtype=dtype)
    charge = torch.ones(n, 1, dtype=dtype)
    return Data(pos=pos, vel=vel, y=y, charge=charge, edge_index=edges, edge_attr=charge[edges[0]])


def train(model, soft, data, *, steps=10, forward=None, autocast=False):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = (model if forward is None else forward)(data).float().sub(data.y).square().mean()
        loss.backward()
        optimizer.step()
        soft.prox_step(optimizer)
        yield float(loss.detach())


def test_infinite_strength_stays_equivariant_through_training_in_single_precision():
    model, data = TypedMPNN("8x0e + 4x1o", n_layers=2, mode="soft"), graph()
    soft = SoftEquivariance({"rotation": O(3), "translation": T(3)}, Fixed(math.inf))
    soft.attach(model)
    losses = []
    for loss in train(model, soft, data, steps=30):
        losses.append(loss)
        assert orbit_error(model, data, E(3), n_samples=2) < 1e-5
    assert losses[-1] < 0.9 * losses[0]


def test_levels_do_not_see_a_scale_that_a_norm_takes_away():
    """Ten times the weights before a norm layer: the same network, the same levels, a hundred times the penalty."""

    class Norm(nn.Module):
        def forward(self, x):
            return x / x.square().mean(-1, keepdim=True).sqrt()

    types = {"rotation": O(3), "about z": O2("z")}
    layers = [TypedLinear("4x0e + 4x1o", "4x0e + 4x1o", mode="free"), TypedLinear("4x0e + 4x1o", "1x1o", mode="free")]
    model, x = nn.Sequential(layers[0], Norm(), layers[1]).double(), torch.randn(50, 16, dtype=torch.float64)
    soft = SoftEquivariance(types, Fixed(1.0))
    soft.attach(model[0])
    tables, outputs, penalties = [], [], []
    for scale in (1.0, 10.0):
        with torch.no_grad():
            model[0].weight.mul_(scale)
            model[0].bias.mul_(scale)
        outputs.append(model(x))
        penalties.append(soft.penalty().item())
        tables.append([(row.level, row.low, row.high) for row in levels_of(model, types, x)])
        tables.append([(row.level, 0.0, 0.0) for row in levels_of(model, types)])
    assert torch.allclose(*outputs, atol=1e-10)
    assert penalties[1] == pytest.approx(100 * penalties[0])
    for first, second in ((tables[0], tables[2]), (tables[1], tables[3])):
        assert torch.allclose(torch.tensor(first), torch.tensor(second), atol=1e-9)
        assert min(level for level, _, _ in first) > 0.1


# Ways to run a model


def soft_model():
    torch.manual_seed(0)
    model = TypedMPNN("4x0e + 3x1o", n_layers=1, mode="free")
    soft = SoftEquivariance({"rotation": O(3), "about z": O2("z"), "translation": T(3)}, Fixed(0.5))
    return model, soft


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_and_plain_training_agree(backend):
    data, (plain, soft), (inner, twin) = graph(), soft_model(), soft_model()
    compiled = torch.compile(inner, backend=backend)
    soft.attach(plain)
    assert any("_orig_mod" in name for name in twin.attach(compiled).covered)
    first = list(train(plain, soft, data))
    second = list(train(inner, twin, data, forward=compiled))
    assert first == pytest.approx(second, rel=1e-5)
    for p, q in zip(plain.parameters(), inner.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-4)
    levels = [table.levels(data).overall() for table in (soft, twin)]
    assert levels[0] == pytest.approx(levels[1], rel=1e-3, abs=1e-5)


def test_autocast_does_not_blur_penalty_or_step():
    data, (model, soft) = graph(), soft_model()
    soft.attach(model)
    exact = soft.penalty()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert soft.penalty().item() == pytest.approx(exact.item(), rel=1e-5)
    soft.strengths.fill_(math.inf)
    list(train(model, soft, data, autocast=True))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert max(soft.levels().overall().values()) < 1e-5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # a whole step under autocast
        soft.prox_step(optimizer)
    assert max(soft.levels().overall().values()) < 1e-5


RANKS = """
    import sys
    import torch
    from torch import distributed, nn
    from geoeq.groups import O, O2
    from geoeq.layers import TypedLinear
    from geoeq.soft import Evidence, Fixed, SoftEquivariance

    rank, world, folder, tuner = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    store = distributed.FileStore(f"{folder}/store", world)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(0)
    net = nn.Sequential(TypedLinear("4x0e + 3x1o", "4x0e + 3x1o", mode="soft"), TypedLinear("4x0e + 3x1o", "1x1o"))
    net[1].relax()
    model = nn.parallel.DistributedDataParallel(net)
    tuner = Fixed(0.5) if tuner == "Fixed" else Evidence(window=8, every=1, patience=0.0)
    soft = SoftEquivariance({"rotation": O(3), "about z": O2("z")}, tuner)
    assert soft.attach(model).covered[0] == "module.0.weight"
    x = torch.randn(64, 13)
    y = x[:, 4:7] * torch.tensor([1.0, 1.0, 2.0]) + 0.1 * torch.randn(64, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(12):
        for index in torch.arange(64).split(8):
            own = index[rank::world]
            loss = (model(x[own]) - y[own]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            soft.observe(loss, len(own), 3)
            optimizer.step()
            soft.prox_step(optimizer)
        soft.tune(epoch / 12, 64, lambda: (net(x[own]) - y[own]).square().mean())
    torch.save({**net.state_dict(), "strengths": soft.strengths}, f"{folder}/{rank}-of-{world}.pt")
    del model  # its threads must end before those of the group
    distributed.barrier()
    distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["Fixed", "Evidence"])
def test_two_processes_train_the_same_model_as_one(tmp_path, tuner):
    """DDP averages the gradients, and all else is a function of what the processes share, so replicas stay equal."""
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(RANKS))
    states = {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        ranks = [
            subprocess.Popen([sys.executable, str(script), str(rank), str(world), str(folder), tuner])
            for rank in range(world)
        ]
        assert [rank.wait(timeout=300) for rank in ranks] == [0] * world
        for rank in range(world):
            states[rank, world] = torch.load(folder / f"{rank}-of-{world}.pt")
    for name, value in states[0, 2].items():
        assert torch.equal(value, states[1, 2][name])
        assert torch.allclose(value, states[0, 1][name], rtol=1e-3, atol=1e-4)
    if tuner == "Evidence":
        assert states[0, 2]["strengths"].min() < 500  # something was let go
