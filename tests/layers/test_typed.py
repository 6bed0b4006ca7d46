"""TypedLinear, TypedConv, TypedMPNN: one switch, one code path."""

import pytest
import torch
from e3nn.o3 import Irreps

from geoeq.groups import O2, SO, E, O, Piecewise, S
from geoeq.layers import TypedConv, TypedLinear, TypedMPNN
from geoeq.layers.gate import NormGate
from geoeq.layers.typed_mpnn import node_identities
from geoeq.reps import Nodes, Positions, Sum, TensorRep

REP = Sum("4x0e + 3x1o", Positions(2))


@pytest.mark.parametrize("mode", ["exact", "soft", "free"])
def test_shapes_and_modes(mode):
    layer = TypedLinear(REP, "2x0e + 2x1o", mode=mode)
    assert layer(torch.randn(2, 5, REP.dim)).shape == (2, 5, 8)
    assert f"mode={mode}" in repr(layer)


def test_exact_and_soft_start_as_the_same_map():
    torch.manual_seed(0)
    soft = TypedLinear(REP, "2x0e + 2x1o", mode="soft").double()
    exact = TypedLinear(REP, "2x0e + 2x1o", mode="exact").double()
    exact.load_state_dict(soft.state_dict())
    x = torch.randn(9, REP.dim, dtype=torch.float64)
    assert torch.allclose(exact(x), soft(x), atol=1e-6)


def test_free_starts_outside_the_symmetry():
    layer = TypedLinear(REP, "2x0e + 2x1o", mode="free")
    assert layer.weight_projector.residual(layer.weight).norm() > 0.5 * layer.weight.norm()


def test_outputs_start_at_the_size_of_their_inputs():
    layer = TypedLinear("64x0e + 64x1o", "64x0e + 64x1o", bias=False)
    y = layer(torch.randn(4000, 256)).detach().square().mean(0).sqrt()
    assert y[:64].mean() == pytest.approx(3**-0.5, rel=0.1)
    assert y[64:].mean() == pytest.approx(3**-0.5, rel=0.1)


def test_optimizer_cannot_leave_the_exact_maps():
    layer = TypedLinear("4x0e + 4x1o", "4x0e + 4x1o", group=O2("z"))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (layer(torch.randn(32, 16)) - 1).square().mean().backward()
        optimizer.step()
    weight, bias = layer.effective()
    assert layer.weight_projector.residual(weight).abs().max() < 1e-6
    assert layer.bias_projector.residual(bias.unsqueeze(1)).abs().max() < 1e-6
    assert bias.abs().max() > 0.1


def test_constrain_projects_and_keeps_symmetric_outputs():
    layer = TypedLinear("4x0e + 4x1o", "4x0e + 4x1o", mode="soft").double()
    x = torch.randn(7, 16, dtype=torch.float64)
    before = layer(x)
    layer.constrain([SO(3), O(3)])
    assert layer.mode == "exact"
    assert torch.allclose(layer(x), before, atol=1e-6)
    assert layer.weight_projector.groups == (SO(3), O(3))


def test_tensor_representations():
    layer = TypedLinear(TensorRep({0: 5, 1: 5}), TensorRep({2: 1}), group=O(3)).double()
    x, g = torch.randn(20, dtype=torch.float64), O(3).sample(1)[0]
    vectors = x[5:].reshape(5, 3) @ g.T
    moved = layer(torch.cat([x[:5], vectors.reshape(-1)])).reshape(3, 3)
    assert torch.allclose(moved, g @ layer(x).reshape(3, 3) @ g.T, atol=1e-10)


def test_gate_reads_sizes_and_keeps_directions():
    gate = NormGate("3x0e + 2x1o + 1x2e")
    assert gate.irreps_in == Irreps("6x0e + 2x1o + 1x2e")
    y = gate(torch.randn(4, gate.irreps_in.dim))
    assert y.shape == (4, gate.irreps_out.dim)
    zero = gate(torch.zeros(1, gate.irreps_in.dim))
    assert torch.equal(zero, torch.zeros_like(zero))


def test_identities_are_shared_out_by_node_number():
    model = TypedMPNN("6x0e + 2x1o", n_layers=1, n_nodes=3, mode="free")
    table = node_identities(model.identity, 3, torch.zeros(6, 12))
    assert torch.equal(table[:3], table[3:])
    assert not torch.allclose(table[0], table[1])
    exact = TypedMPNN("6x0e + 2x1o", n_layers=1, n_nodes=3, mode="exact")
    rows = node_identities(exact.identity, 3, torch.zeros(3, 12))
    assert torch.allclose(rows[0], rows[1])
    with pytest.raises(ValueError, match="n_nodes=3"):
        node_identities(model.identity, 3, torch.zeros(4, 12))


def test_nodes_rep_matches_the_group():
    layer = TypedLinear("0e", Nodes(4, "2x0e"), bias=False, group=S(4))
    assert torch.allclose(layer.effective()[0].reshape(2, 4).std(1), torch.zeros(2), atol=1e-6)


def test_parts_shut_out_what_joins_them():
    conv = TypedConv("3x0e + 2x1o", parts=True, group=Piecewise(E(3)))
    assert conv.crossing.effective()[0][:, 3:].abs().max() == 0
    with pytest.raises(ValueError, match="part must be"):
        conv(torch.randn(2, 9), torch.randn(2, 3), torch.tensor([[1], [0]]), torch.ones(1, 1))


def test_bad_options():
    with pytest.raises(ValueError, match="mode must be one of"):
        TypedLinear("1o", "1o", mode="hard")
    with pytest.raises(ValueError, match="n_layers must be at least 1"):
        TypedMPNN(n_layers=0)
