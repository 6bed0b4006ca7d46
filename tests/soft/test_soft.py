"""SoftEquivariance: attach, penalty, proximal step, levels, harden."""

import math

import pytest
import torch
from torch import nn

from geoeq.groups import GL, O2, SO, SO2, O, S, Scaling, T
from geoeq.layers import TypedLinear, TypedMPNN
from geoeq.layers.bilinear import Bilinear
from geoeq.reps import Positions, Sum, TensorRep
from geoeq.soft import Evidence, Fixed, OneShot, Resilient, Schedule, SoftEquivariance, ValidationGradient

REP = Sum("3x0e + 4x1o", Positions(2))
TYPES = {"rotation": O(3), "about z": O2("z"), "translation": T(3)}


def free_layer() -> TypedLinear:
    return TypedLinear(REP, "3x0e + 4x1o", mode="free").double()


def attached(tuner=None, types=TYPES, layer=None):
    layer = layer or free_layer()
    soft = SoftEquivariance(types, tuner or Fixed(0.7))
    soft.attach(layer)
    return layer, soft


def by_projectors(layer, groups):
    """Squared residuals of weight and bias, straight from the definition, [maps, groups]."""
    rows = []
    for typed in layer.typed_maps():
        weight = typed.parameter.reshape(len(typed.parameter), -1)
        rows.append(
            [g.projector(typed.rep_in, typed.rep_out).double().residual(weight).square().sum().item() for g in groups]
        )
    return torch.tensor(rows, dtype=torch.float64)


def test_penalty_is_the_sum_of_half_squared_residuals():
    layer, soft = attached()
    expected = 0.5 * 0.7 * by_projectors(layer, TYPES.values()).sum()
    assert soft.penalty().item() == pytest.approx(float(expected), rel=1e-10)


def test_gradient_of_the_penalty_is_the_residual():
    layer, soft = attached(Fixed(1.0), {"rotation": O(3)})
    soft.penalty().backward()
    assert torch.allclose(layer.weight.grad, O(3).projector(REP, layer.rep_out).double().residual(layer.weight))


def test_penalty_is_invariant_under_the_group_it_is_for():
    layer, soft = attached(Fixed(1.0), {"rotation": SO(3)}, TypedLinear("2x1o", "2x1o", mode="free").double())
    before = soft.penalty().item()
    turn = torch.block_diag(*[SO(3).sample(1)[0]] * 2)
    with torch.no_grad():
        layer.weight.copy_(turn @ layer.weight @ turn.T)
        layer.bias.copy_(turn @ layer.bias)
    assert soft.penalty().item() == pytest.approx(before, rel=1e-10)


@pytest.mark.parametrize("strength", [0.0, 0.3, 50.0, math.inf])
def test_prox_step_of_one_symmetry_is_the_closed_form(strength):
    layer, soft = attached(Fixed(strength), {"about z": SO2("z")})
    weight = layer.weight.detach().clone()
    allowed = SO2("z").projector(REP, layer.rep_out).double()(weight)
    soft.prox_step(torch.optim.SGD(layer.parameters(), lr=0.1))
    shrink = 0.0 if math.isinf(strength) else 1 / (1 + 0.1 * strength)
    assert torch.allclose(layer.weight, allowed + (weight - allowed) * shrink, atol=1e-12)
    if strength == 0:
        assert torch.equal(layer.weight, weight)


OBLIQUE = {"about x": O2("x"), "about y": O2("y"), "about z": O2("z"), "rotation": O(3)}


@pytest.mark.parametrize("types", [TYPES, OBLIQUE], ids=["commuting", "oblique"])
def test_prox_step_of_several_symmetries_solves_the_joint_problem(types):
    """(W' - W) / eta + sum_k lambda_k (W' - P_k W') = 0 at the new weight W'."""
    layer, soft = attached(Fixed(1.0), types)
    soft.strengths.copy_(torch.rand_like(soft.strengths) * 5)
    before = layer.weight.detach().clone()
    soft.prox_step(torch.optim.SGD(layer.parameters(), lr=0.2))
    after = layer.weight.detach()
    gradient = (after - before) / 0.2
    for k, group in enumerate(types.values()):
        gradient = gradient + soft.strengths[0, k] * group.projector(REP, layer.rep_out).double().residual(after)
    assert gradient.abs().max() < 1e-10


def test_prox_step_agrees_with_the_penalty_in_the_loss_for_small_steps():
    layer, soft = attached(Fixed(0.5))
    before = layer.weight.detach().clone()
    soft.penalty().backward()
    soft.prox_step(torch.optim.SGD(layer.parameters(), lr=1e-6))
    assert torch.allclose((before - layer.weight) / 1e-6, layer.weight.grad, atol=1e-4)


def test_infinite_strength_projects_on_the_joint_symmetry_and_stays_there():
    model = TypedMPNN("4x0e + 3x1o", n_layers=1, mode="free")
    soft = SoftEquivariance(TYPES, Fixed(math.inf))
    soft.attach(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        sum((p - 1).square().sum() for p in model.parameters()).backward()
        optimizer.step()
        soft.prox_step(optimizer)
    assert max(soft.levels().overall().values()) < 1e-5
    with pytest.raises(ValueError, match="infinity"):
        soft.penalty()


def test_strength_zero_is_the_plain_optimizer_to_the_last_bit():
    torch.manual_seed(0)
    first, second = free_layer(), free_layer()
    second.load_state_dict(first.state_dict())
    soft = SoftEquivariance(TYPES, Fixed(0.0))
    soft.attach(second)
    x = torch.randn(16, REP.dim, dtype=torch.float64)
    for layer in (first, second):
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            optimizer.step()
            if layer is second:
                soft.prox_step(optimizer)
    assert torch.equal(first.weight, second.weight)


def test_optimizer_must_hold_the_weights():
    _layer, soft = attached()
    with pytest.raises(ValueError, match="optimizer must hold every attached weight"):
        soft.prox_step(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))


def test_level_is_one_for_random_and_zero_for_exact():
    torch.manual_seed(0)
    free = TypedLinear("32x0e + 32x1o", "32x0e + 32x1o", mode="free")
    soft = SoftEquivariance(TYPES, Fixed(0.0))
    soft.attach(free)
    assert all(abs(row.level - 1) < 0.05 for row in soft.levels())
    x = torch.randn(500, 128) * torch.rand(128) * 3
    assert all(abs(row.level - 1) < 0.1 for row in soft.levels(x))
    exact = TypedLinear("8x0e + 8x1o", "8x0e + 8x1o")
    soft.attach(exact)
    assert all(row.level < 1e-6 for row in soft.levels())


def test_level_ignores_the_scale_of_the_weights():
    layer, soft = attached()
    before = [row.level for row in soft.levels()]
    with torch.no_grad():
        layer.weight.mul_(10)
        layer.bias.mul_(10)
    assert [row.level for row in soft.levels()] == pytest.approx(before, rel=1e-9)


def test_level_on_data_weighs_inputs_by_their_size():
    """A small symmetry-breaking weight on a large feature is a large break, which the weights alone do not show."""
    layer = TypedLinear("1x0e + 1x1o", "1x1o", bias=False).double()
    layer.mode = "soft"
    with torch.no_grad():
        layer.weight[2, 0] = 1e-3
    _, soft = attached(layer=layer)
    x = torch.cat([torch.full((50, 1), 1e4), torch.randn(50, 3)], 1).double()
    assert {r.symmetry: r.level for r in soft.levels()}["rotation"] < 0.01
    on_data = {r.symmetry: r.level for r in soft.levels(x)}
    assert on_data["rotation"] > 0.9
    assert on_data["about z"] < 1e-6


def test_table_prints_and_finds_the_worst_layer():
    _, soft = attached()
    table = soft.levels()
    lines = str(table).splitlines()
    assert lines[0].split() == ["layer", "symmetry", "level", "strength"]
    assert len(lines) == 2 + len(table)
    assert table.overall()["rotation"] == max(r.level for r in table if r.symmetry == "rotation")


def test_attach_tells_what_it_cannot_cover():
    model = nn.ModuleDict({"typed": TypedLinear("1o", "1o"), "plain": nn.Linear(3, 3)})
    report = SoftEquivariance({"rotation": "SO(3)", "nodes": "S(4)"}).attach(model)
    assert report.covered == ["typed.weight", "typed.bias"]
    assert report.uncovered == ["plain.weight", "plain.bias"]
    assert report.unconstrained == ["nodes"]
    assert "not covered (not typed): plain.weight, plain.bias" in str(report)


def test_the_weights_belong_to_the_model_alone():
    _layer, soft = attached()
    assert not list(soft.parameters())
    assert not any("weight" in key for key in soft.state_dict())


@pytest.mark.parametrize("tuner", [Fixed(1.0), OneShot(), Evidence()], ids=lambda t: type(t).__name__)
def test_state_round_trip(tuner):
    layer, soft = attached(tuner)
    layer(torch.randn(4, REP.dim).double()).sum().backward()
    for _ in range(3):
        soft.observe(0.5, 4, 3)
    soft.strengths.mul_(0.5)
    again = SoftEquivariance(TYPES, type(tuner)())
    again.attach(layer)
    again.load_state_dict(soft.state_dict())
    assert torch.equal(again.strengths, soft.strengths)
    for key, value in soft.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_harden_makes_exact_what_is_exact():
    torch.manual_seed(0)
    model = TypedMPNN("4x0e + 3x1o", n_layers=1, mode="soft").double()
    with torch.no_grad():
        model.readout.bias[2] += 0.5  # a push along z: rotations about z and translations remain
    soft = SoftEquivariance(TYPES, Fixed(1.0))
    soft.attach(model)
    before = [p.detach().clone() for p in model.parameters()]
    assert soft.harden(1e-3) is model
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.allclose(p, q, atol=1e-6)
    assert {m.mode for m in model.modules() if isinstance(m, TypedLinear)} == {"exact"}
    assert model.readout.groups == (O2("z"), T(3))
    assert model.readout.effective()[1][2] != 0


def test_harden_trusts_the_data_it_was_shown():
    layer = TypedLinear("1x0e + 1x1o", "1x1o", mode="soft").double()
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight[2, 0] = 1e-3
    x = torch.cat([torch.full((50, 1), 1e4), torch.randn(50, 3)], 1).double()
    _, soft = attached(layer=layer)
    soft.levels(x)
    before = layer(x)
    soft.harden(0.01)
    assert layer.groups == (O2("z"),)
    assert torch.allclose(layer(x), before, atol=1e-6)


def test_harden_leaves_a_broken_model_alone():
    layer, soft = attached()
    soft.harden(0.05)
    assert layer.mode == "free"


def test_errors_are_one_clear_line():
    with pytest.raises(ValueError, match="call attach"):
        SoftEquivariance(TYPES).levels()
    with pytest.raises(ValueError, match="typed linear maps"):
        SoftEquivariance(TYPES).attach(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="at least one group"):
        SoftEquivariance({})
    with pytest.raises(ValueError, match="symmetry must be a group"):
        SoftEquivariance({"rotation": "turn"})


def test_several_layers_are_kept_apart():
    torch.manual_seed(0)
    model = nn.Sequential(
        TypedLinear("2x0e + 1x1o", "2x0e + 2x1o", mode="soft"),
        TypedLinear("2x0e + 2x1o", "1x1o", mode="soft"),
    )
    with torch.no_grad():
        model[1].bias[0] = 1.0
    soft = SoftEquivariance({"rotation": SO(3), "nodes": S(3)})
    soft.attach(model)
    assert [(r.layer, r.level > 0.1) for r in soft.levels()] == [("0", False), ("1", True)]


def test_attach_names_what_it_does_not_know():
    model = nn.Sequential(
        TypedLinear("2x0e + 8x1o", "8x1o", mode="soft"),
        nn.ReLU(),
        nn.Identity(),
        TypedLinear("8x1o", "1x1o", mode="soft"),
    )
    found = SoftEquivariance({"rotation": SO(3)}).attach(model)
    assert found.unknown == ["1 (ReLU)"]
    assert "not known to be equivariant: 1 (ReLU)" in str(found)
    assert not SoftEquivariance({"rotation": SO(3)}).attach(TypedMPNN("4x0e + 2x1o", 2, mode="soft")).unknown


@pytest.mark.parametrize(("group", "exact"), [(SO(3), True), (GL(3), False), (Scaling(), False)])
def test_couplings_of_tensors_are_exact_under_orthogonal_groups_alone(group, exact):
    rep = TensorRep({0: 2, 1: 2}, 3)
    model = nn.Sequential(TypedLinear(rep, rep, mode="soft", group=SO(3)), Bilinear(rep))
    found = SoftEquivariance({"some": group}).attach(model)
    assert bool(found.exact) == exact
    assert bool(found.uncovered) != exact


def test_positions_that_stay_where_they_are_told_have_no_level_and_zero_has_one():
    layer = TypedLinear(Positions(4), Positions(4), mode="free", bias=False, group=SO(3)).double()
    _, soft = attached(types={"translation": T(3)}, layer=layer)
    weight = layer.weight.detach().clone()
    levels = []
    for scale in (1.0, 0.1, 0.01, 0.0):
        layer.weight.data = scale * weight
        levels.append(soft.levels()[0].level)
    # a quarter of the entries are forbidden, so that a random weight is no measure
    assert levels[-1] == pytest.approx(2**0.5)
    assert max(levels) < 1.5
    assert min(levels) > 0.5
    x = torch.randn(5, 12, dtype=torch.float64)
    before = layer(x)
    soft.harden(0.0)
    assert torch.equal(layer(x), before)
    layer.weight.data = T(3).projector(Positions(4), Positions(4)).double()(weight)
    assert soft.levels()[0].level < 1e-12


def test_levels_leave_the_training_alone():
    model = nn.Sequential(TypedLinear("4x1o", "4x1o", mode="soft"), nn.BatchNorm1d(12))
    soft = SoftEquivariance({"rotation": SO(3)}, Fixed(1.0), measure="data")
    soft.attach(model)
    before = {name: value.clone() for name, value in [*model.state_dict().items(), *soft.state_dict().items()]}
    soft.levels(10 + torch.randn(20, 12))
    assert model.training
    for name, value in [*model.state_dict().items(), *soft.state_dict().items()]:
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("measure", ["weight", "data"])
@pytest.mark.parametrize("tuner", [Fixed, lambda: Evidence(window=2, every=1), Resilient, ValidationGradient, Schedule])
def test_a_model_that_becomes_precise_later_is_followed(tuner, measure):
    tuner = tuner()
    model = TypedLinear("4x0e + 3x1o", "4x0e + 3x1o", mode="soft")
    soft = SoftEquivariance({"rotation": O(3), "about z": O2("z")}, tuner, measure=measure)
    soft.attach(model)
    model.double()
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(8, 13, dtype=torch.float64)
    for _ in range(4):
        loss = (model(x) - x).square().mean()
        optimizer.zero_grad()
        (loss + soft.penalty()).backward()
        soft.observe(loss, 8, 13)
        optimizer.step()
        soft.prox_step(optimizer)
    if isinstance(tuner, ValidationGradient):
        soft.observe_validation()
    soft.tune(0.5, 100, lambda: 1.0)
    assert model.weight.dtype == soft.bank.patterns.dtype == torch.float64
    assert max(soft.levels(x).overall().values()) < 0.1
