"""The penalty weighed by what the data pass through a layer."""

import pytest
import torch

from geoeq.groups import O2, O
from geoeq.layers import TypedLinear, TypedMLP
from geoeq.soft import Fixed, SoftEquivariance

TYPES = {"rotation": O(3), "about z": O2("z")}


def attached(layer, **options):
    soft = SoftEquivariance(TYPES, Fixed(2.0), measure="data", **options)
    soft.attach(layer)
    return soft


def test_it_is_the_mean_square_of_what_the_forbidden_part_puts_out():
    torch.manual_seed(0)
    layer = TypedLinear("2x0e + 2x1o", "1x0e + 2x1o", mode="free").double()
    soft = attached(layer)
    x = torch.randn(40, 8, dtype=torch.float64) * torch.linspace(0.1, 3.0, 8).double() + 1.0
    layer(x)
    full = torch.cat([x, x.new_ones(40, 1)], 1)
    scale = 9 / full.square().sum(1).mean()
    expected = 0.0
    for group in TYPES.values():
        weight = group.projector(layer.rep_in, layer.rep_out).double().residual(layer.weight)
        bias = group.projector("1x0e", layer.rep_out).double().residual(layer.bias.unsqueeze(1))
        expected += scale * (full @ torch.cat([weight, bias], 1).T).square().sum(1).mean()
    assert torch.allclose(soft.penalty(), expected)  # twice a half


def test_inputs_of_equal_size_give_the_penalty_of_the_weights():
    layer = TypedLinear("2x0e + 2x1o", "2x1o", mode="free").double()
    plain = SoftEquivariance(TYPES, Fixed(2.0))
    plain.attach(layer)
    assert torch.allclose(attached(layer).penalty(), plain.penalty())


def test_a_dead_input_costs_nothing_and_gradients_know_it():
    layer = TypedLinear("1x0e + 1x1o", "1x1o", bias=False, mode="free").double()
    soft = attached(layer)
    x = torch.randn(50, 4, dtype=torch.float64)
    x[:, 0] = 0.0
    layer(x)
    soft.penalty().backward()
    assert not layer.weight.grad[:, 0].any()
    assert bool(layer.weight.grad[:, 1:].any())


def test_the_moment_runs_in_training_only_and_is_saved():
    layer = TypedLinear("2x0e", "1x1o", bias=False, mode="free")
    soft = attached(layer)
    layer(torch.full((3, 2), 2.0))
    layer(torch.zeros(5, 2))
    assert torch.allclose(soft.data.moment_0, torch.full((2, 2), 0.95 * 4.0))
    saved = {key: value.clone() for key, value in soft.state_dict().items()}
    layer.eval()
    layer(torch.ones(3, 2))
    layer.train()
    layer(torch.zeros(0, 2))
    assert all(torch.equal(value, saved[key]) for key, value in soft.state_dict().items())
    twin = attached(TypedLinear("2x0e", "1x1o", bias=False, mode="free"))
    twin.load_state_dict(saved)
    assert torch.equal(twin.data.moment_0, soft.data.moment_0)


def test_training_with_it_holds_what_is_forbidden():
    torch.manual_seed(0)
    model = TypedMLP("2x0e + 2x1o", "1x1o", "4x0e + 2x1o", 2, mode="free")
    soft = SoftEquivariance({"rotation": O(3)}, Fixed(10.0), measure="data")
    soft.attach(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = torch.randn(64, 8)
    before = soft.levels(x).overall()["rotation"]
    for _ in range(400):
        optimizer.zero_grad()
        ((model(x) - x[:, 2:5]).square().mean() + soft.penalty()).backward()
        optimizer.step()
    assert soft.levels(x).overall()["rotation"] < 0.1 * before


def test_attaching_again_takes_the_old_hooks_off():
    layer = TypedLinear("2x0e", "1x1o", mode="free")
    soft = attached(layer)
    soft.attach(layer)
    assert len(layer._forward_pre_hooks) == 1


def test_bad_options():
    with pytest.raises(ValueError, match="measure must be one of"):
        SoftEquivariance(TYPES, measure="lie")


def test_a_bias_has_its_own_strength():
    layer = TypedLinear("4x0o", "4x0o", mode="free")  # of which O(3) forbids the bias alone
    soft = SoftEquivariance({"O3": O(3)}, Fixed(1.0), measure="data")
    soft.attach(layer)
    layer(torch.randn(500, 4))
    expected = 0.5 * layer.bias.detach().square().sum()
    assert float(soft.penalty().detach()) == pytest.approx(float(expected), rel=0.2)
    soft.strengths.zero_()
    assert float(soft.penalty().detach()) == 0.0
