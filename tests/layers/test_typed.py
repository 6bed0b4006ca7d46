"""TypedLinear, TypedConv, TypedMPNN: one switch, one code path."""

import pytest
import torch
from e3nn import o3
from e3nn.o3 import Irreps
from torch import nn

from geoeq.groups import O2, SO, SO2, E, O, Piecewise, S
from geoeq.layers import TypedConv, TypedLinear, TypedMPNN
from geoeq.layers.gate import NormGate
from geoeq.layers.identities import Identities
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


def drifted(*args, **options):
    """A layer whose parameters have left their projections, as an optimizer leaves them."""
    layer = TypedLinear(*args, **options).double()
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.3 * torch.randn_like(p)
    return layer


def test_relax_undoes_constrain():
    layer = drifted(REP, "2x0e + 2x1o")
    x = torch.randn(9, REP.dim, dtype=torch.float64)
    before = layer(x)
    layer.relax()
    assert layer.mode == "soft"
    assert torch.allclose(layer(x), before, atol=1e-12)
    layer.constrain([E(3)])
    assert torch.allclose(layer(x), before, atol=1e-12)


def test_relax_may_stay_exact_for_a_subgroup():
    layer = drifted(REP, "2x0e + 2x1o")
    x = torch.randn(9, REP.dim, dtype=torch.float64)
    before = layer(x)
    layer.relax(keep=[SO2("z"), SO2("z")])
    assert (layer.mode, layer.groups) == ("exact", (SO2("z"),))
    assert torch.allclose(layer(x), before, atol=1e-12)
    with torch.no_grad():
        layer.weight += torch.randn_like(layer.weight)
    assert layer.level([SO2("z")]) < 1e-10 < 0.1 < layer.level([SO(3)])
    with pytest.raises(ValueError, match=r"keep must hold symmetries that the layer has, got O\(3\) at level"):
        layer.relax(keep=[O(3)])


def test_relax_leaves_soft_and_free_layers_alone():
    for mode in ("soft", "free"):
        layer = TypedLinear(REP, "2x0e + 2x1o", mode=mode)
        before = layer.weight.detach().clone()
        layer.relax()
        assert layer.mode == mode
        assert torch.equal(layer.weight, before)


def test_level_of_a_layer():
    free = TypedLinear("32x0e + 32x1o", "32x0e + 32x1o", mode="free")
    assert free.level([O(3)]) == pytest.approx(1.0, abs=0.05)
    assert TypedLinear("8x0e + 8x1o", "8x0e + 8x1o").level([SO(3), SO2("z")]) < 1e-6
    assert TypedLinear("8x0e", "8x0e", mode="free").level([SO(3)]) == 0.0


E3NN = [
    ("4x0e + 3x1o + 2x2e", "2x0e + 5x1o + 1x2e", {"biases": True}),
    ("4x0e + 3x1o", "2x0e + 5x1o", {"biases": False, "path_normalization": "path"}),
    ("2x1o + 3x0e + 3x1o", "0e + 2x1o + 1x0e + 1x1o", {"biases": [True, False, False, False]}),
    ("3x0e + 2x1o", "3x0e + 2x1o + 1x1e", {"instructions": [(0, 0)]}),
    ("0e", "2x1o", {"biases": True}),
]


@pytest.mark.parametrize(("irreps_in", "irreps_out", "options"), E3NN)
def test_e3nn_and_back(irreps_in, irreps_out, options):
    linear = o3.Linear(irreps_in, irreps_out, **options).double()
    with torch.no_grad():
        linear.bias.normal_()
    x = torch.randn(6, linear.irreps_in.dim, dtype=torch.float64)
    layer = TypedLinear.from_e3nn(linear)
    assert (layer.bias is None) == (linear.bias_numel == 0)
    assert torch.allclose(layer(x), linear(x), atol=1e-10, rtol=0)
    assert layer.level([O(3)]) < 1e-12
    back = layer.to_e3nn()
    assert (back.irreps_in, back.irreps_out) == (linear.irreps_in, linear.irreps_out)
    assert torch.allclose(back(x), linear(x), atol=1e-10, rtol=0)
    assert back.weight.dtype == torch.float64


@pytest.mark.parametrize("mode", ["exact", "soft"])
def test_a_trained_layer_becomes_an_e3nn_layer(mode):
    layer = TypedLinear(Sum("2x0e + 1x1o", "3x1o"), "4x0e + 2x1o", mode=mode).double()
    with torch.no_grad():
        layer.bias[:4] += 1.0
        if mode == "exact":
            layer.weight += torch.randn_like(layer.weight)
    x = torch.randn(6, 14, dtype=torch.float64)
    linear = layer.to_e3nn()
    assert linear.irreps_in == Irreps("2x0e + 1x1o + 3x1o")
    assert torch.allclose(linear(x), layer(x), atol=1e-6 if mode == "soft" else 1e-10, rtol=0)


def test_a_layer_that_mixes_parities_becomes_an_even_e3nn_layer():
    layer = drifted("2x0e + 2x0o + 2x1o", "1x0o + 2x1e + 1x1o", group=SO(3))
    linear = layer.to_e3nn()
    assert linear.irreps_in == Irreps("2x0e + 2x0e + 2x1e")
    x = torch.randn(6, 10, dtype=torch.float64)
    assert torch.allclose(linear(x), layer(x), atol=1e-10, rtol=0)


def test_what_cannot_become_an_e3nn_layer_tells_its_level():
    layer = TypedLinear("2x0e + 2x1o", "2x1o", mode="soft").double()
    with torch.no_grad():
        layer.weight[0, 0] += 0.1
    level = layer.level([SO(3)])
    with pytest.raises(ValueError, match=f"must respect rotations within level 1e-05, got level {level:.2g}"):
        layer.to_e3nn()
    assert layer.to_e3nn(tolerance=1.0).irreps_out == Irreps("2x1o")
    with pytest.raises(ValueError, match="rep_in must be made of irreps"):
        TypedLinear(Positions(2), "1o").to_e3nn()
    for other in (o3.Linear("1o", "1o", f_in=2, f_out=2), o3.Linear("1o", "1o", internal_weights=False)):
        with pytest.raises(ValueError, match=r"linear must be an o3\.Linear with weights of its own"):
            TypedLinear.from_e3nn(other)


def test_an_e3nn_layer_can_be_softened():
    layer = TypedLinear.from_e3nn(o3.Linear("2x0e + 2x1o", "2x1o"), mode="soft")
    assert layer.mode == "soft"
    assert layer.level([O(3)]) < 1e-6


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
    irreps, nodes = Irreps("6x0e + 2x1o"), torch.arange(6).unsqueeze(0)
    table = Identities(3, irreps, mode="free")
    assert not table(nodes, 6).any()
    nn.init.normal_(table.table.weight)
    rows = table(nodes, 6)
    assert torch.equal(rows[:3], rows[3:])
    assert not torch.allclose(rows[0], rows[1])
    assert torch.equal(rows[:, 6:], torch.zeros(6, 6))
    table.table.constrain([S(3)])
    exact = table(nodes, 6)
    assert torch.allclose(exact[0], exact[1])
    with pytest.raises(ValueError, match="n_nodes=3"):
        table(nodes, 4)


def test_identities_of_pairs_tell_sender_from_receiver():
    table = Identities(3, Irreps("2x0e"), order=2, mode="free")
    nn.init.normal_(table.table.weight)
    rows = table(torch.tensor([[0, 1, 3, 4], [1, 0, 4, 3]]), 6)
    assert torch.equal(rows[:2], rows[2:])
    assert not torch.allclose(rows[0], rows[1])
    assert torch.equal(rows[0], table.table.weight.reshape(2, 3, 3)[:, 0, 1])
    table.table.constrain([S(3)])
    exact = table(torch.tensor([[0, 1, 2, 1], [1, 0, 1, 1]]), 3)
    assert torch.allclose(exact[:3], exact[:1].expand(3, -1))
    assert not torch.allclose(exact[0], exact[3])


def test_pairs_of_nodes_need_numbers():
    with pytest.raises(ValueError, match="n_nodes must be given"):
        TypedMPNN("4x0e + 2x1o", pairs=True)
    model = TypedMPNN("4x0e + 2x1o", n_layers=1, n_nodes=2, pairs=True, mode="soft")
    assert "convs.0.pairs.table.weight" in dict(model.named_parameters())


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
