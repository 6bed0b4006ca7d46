"""soften: exact to soft and back, without changing an output."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from geoeq.groups import O2, SO2, E, O, S, T
from geoeq.layers import TypedLinear, TypedMPNN
from geoeq.soft import Fixed, SoftEquivariance, soften

TYPES = {"rotation": O(3), "about z": O2("z"), "translation": T(3)}


def graph(n=4):
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j]).T
    pos, vel = torch.randn(2, n, 3, dtype=torch.float64)
    charge = torch.ones(n, 1, dtype=torch.float64)
    return Data(pos=pos, vel=vel, charge=charge, edge_index=edges, edge_attr=torch.ones(len(edges.T), 1).double())


def exact_model():
    """An exact network whose parameters have drifted off their projections, as an optimizer leaves them."""
    model = TypedMPNN("4x0e + 3x1o", n_layers=1, mode="exact", n_nodes=4).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def modes(model):
    return {m.mode for m in model.modules() if isinstance(m, TypedLinear)}


def test_soften_keeps_outputs_and_frees_the_weights():
    model, data = exact_model(), graph()
    before = model(data)
    assert soften(model) is model
    assert modes(model) == {"soft"}
    assert torch.allclose(model(data), before, atol=1e-12)
    soft = SoftEquivariance({**TYPES, "nodes": S(4)}, Fixed(1.0))
    soft.attach(model)
    assert max(soft.levels().overall().values()) < 1e-10
    model(data).square().sum().backward()
    outside = model.readout.weight_projector.residual(model.readout.weight.grad)
    assert outside.norm() > 0.01  # an exact map would have no gradient there


def test_soften_can_stay_exact_for_some():
    model, data = exact_model(), graph()
    before = model(data)
    soften(model, keep=["SO2(z)", T(3)])
    assert torch.allclose(model(data), before, atol=1e-12)
    assert modes(model) == {"exact"}
    assert model.readout.groups == (SO2("z"), T(3))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    soft = SoftEquivariance(TYPES, Fixed(1.0))
    soft.attach(model)
    levels = soft.levels().overall()
    assert levels["translation"] < 1e-10
    assert levels["rotation"] > 0.1


def test_what_cannot_be_kept_is_an_error_and_changes_nothing():
    model = exact_model()
    with torch.no_grad():
        model.readout.relax()
        model.readout.bias[0] += 1.0
    before, kept = copy.deepcopy(model.state_dict()), modes(model)
    with pytest.raises(ValueError, match=r"keep must hold symmetries of every layer, got O\(3\) .* in 'readout'"):
        soften(model, keep=["O(3)"])
    assert modes(model) == kept
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    with pytest.raises(ValueError, match="typed linear maps"):
        soften(nn.Linear(3, 3))


def test_soft_hard_soft_hard_round_trips():
    model, data = TypedMPNN("4x0e + 3x1o", n_layers=1, mode="soft").double(), graph()
    with torch.no_grad():
        model.readout.bias[2] += 0.5  # a push along z
    before = model(data)
    for _ in range(2):
        soft = SoftEquivariance(TYPES, Fixed(1.0))
        soft.attach(model)
        soft.harden(1e-4)
        assert modes(model) == {"exact"}
        assert model.readout.groups == (O2("z"), T(3))
        assert torch.allclose(model(data), before, atol=1e-6)
        hard = model(data)
        soften(model)
        assert modes(model) == {"soft"}
        assert torch.allclose(model(data), hard, atol=1e-12)
    assert model.readout.bias[2].abs() > 0.4


def test_saved_weights_fit_either_form():
    """A state that was saved hard is read soft, and the other way round, by models that compute the same."""
    data, first = graph(), exact_model()
    soften(first)
    hard = copy.deepcopy(first)
    for module in hard.modules():
        if isinstance(module, TypedLinear) and module is not hard.identity:
            module.constrain([E(3)])
    again = soften(exact_model())
    again.load_state_dict(hard.state_dict())
    assert torch.allclose(again(data), first(data), atol=1e-12)
    hard_again = exact_model()
    hard_again.load_state_dict(first.state_dict())
    assert torch.allclose(hard_again(data), first(data), atol=1e-12)
