"""Resilient: dual ascent on levels, with slack."""

import math

import pytest
import torch

from geoeq.groups import O2, O
from geoeq.layers import TypedLinear
from geoeq.soft import Resilient, SoftEquivariance

TYPES = {"rotation": O(3), "about z": O2("z")}
REP_IN, REP_OUT = "3x0e + 4x1o", "2x0e + 3x1o"


def attached(tuner, types=TYPES, *, mode="free"):
    layer = TypedLinear(REP_IN, REP_OUT, mode=mode).double()
    soft = SoftEquivariance(types, tuner)
    soft.attach(layer)
    return layer, soft


def squared_level(parameter, group, rep_in, rep_out):
    """r / f of one weight, straight from the definition."""
    weight = parameter.detach().reshape(len(parameter), -1)
    projector = group.projector(rep_in, rep_out).double()
    share = 1 - projector.rank / projector.dim
    return float(projector.residual(weight).square().sum() / weight.square().sum() / share)


def test_one_step_of_dual_ascent_is_the_formula():
    layer, soft = attached(Resilient(2.0, rate=0.5, strength=0.3), {"rotation": O(3)})
    soft.tune(0.1, 100)
    for row, typed in zip(soft.strengths, layer.typed_maps(), strict=True):
        level = squared_level(typed.parameter, O(3), typed.rep_in, typed.rep_out)
        assert row.item() == pytest.approx(0.3 + 0.5 * (level - 0.3 / 2.0), rel=1e-10)


def test_at_rest_the_strength_is_the_price_times_the_squared_level():
    layer, soft = attached(Resilient(5.0, rate=1.0), {"rotation": O(3)})
    for _ in range(200):
        soft.tune(0.5, 100)
    expected = 5.0 * squared_level(layer.weight, O(3), REP_IN, REP_OUT)
    assert soft.strengths[0, 0].item() == pytest.approx(expected, rel=1e-9)


def test_each_increment_is_pressed_for_its_own_violation():
    layer, soft = attached(Resilient(), mode="soft")
    with torch.no_grad():
        layer.weight[4, 0] = 0.5  # a scalar that feeds z: only the full rotations forbid it
    for _ in range(50):
        soft.tune(0.5, 100)
    least = dict(zip(TYPES, soft.strengths_of_symmetries()[0].tolist(), strict=True))
    terms = dict(zip(soft.bank.terms, soft.strengths[0].tolist(), strict=True))
    assert terms[frozenset({0})] > 0.01
    assert terms[frozenset({0, 1})] < 1e-10
    assert least["about z"] < 1e-10


def test_no_slack_grows_until_the_cap_and_slack_returns_when_nothing_is_violated():
    _layer, soft = attached(Resilient(math.inf, rate=10.0, maximum=50.0), {"rotation": O(3)})
    for _ in range(100):
        soft.tune(0.5, 100)
    assert soft.strengths[0, 0] == 50.0
    _layer, soft = attached(Resilient(1.0, rate=0.5, strength=3.0), {"rotation": O(3)}, mode="soft")
    for _ in range(60):
        soft.tune(0.5, 100)
    assert 0 <= soft.strengths[0, 0] < 1e-9


def test_a_weight_of_zeros_is_no_violation():
    layer, soft = attached(Resilient(), {"rotation": O(3)})
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    soft.tune(0.5, 100)
    assert torch.equal(soft.strengths, torch.zeros_like(soft.strengths))


def test_it_ignores_the_scale_of_the_weights():
    layer, soft = attached(Resilient())
    soft.tune(0.5, 100)
    before = soft.strengths.clone()
    soft.strengths.zero_()
    with torch.no_grad():
        layer.weight.mul_(10)
        layer.bias.mul_(10)
    soft.tune(0.5, 100)
    assert torch.allclose(soft.strengths, before, rtol=1e-12)


def train(rho):
    """Fit targets with a field along x; returns the level of the weight and the error."""
    torch.manual_seed(0)
    x = torch.randn(400, 3)
    y = 0.5 * x + 0.3 * torch.tensor([1.0, 0.0, 0.0]) * x[:, :1]
    layer = TypedLinear("1o", "1o", mode="soft", bias=False)
    soft = SoftEquivariance({"rotation": O(3)}, Resilient(rho, rate=rho / 50))
    soft.attach(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(400):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        soft.prox_step(optimizer)
        soft.tune(step / 400, 400)
    return soft.levels().overall()["rotation"], float(loss.detach()), float(soft.strengths)


def test_training_settles_at_a_compromise_that_the_price_decides():
    cheap, dear = train(0.1), train(100.0)
    assert cheap[0] > 2 * dear[0] > 0
    assert cheap[1] < dear[1]
    for rho, (level, _, strength) in ((0.1, cheap), (100.0, dear)):
        assert strength == pytest.approx(rho * level**2, rel=0.05)


def test_state_round_trip_and_determinism():
    layer, soft = attached(Resilient())
    soft.tune(0.1, 100)
    again = SoftEquivariance(TYPES, Resilient())
    again.attach(layer)
    again.load_state_dict(soft.state_dict())
    for each in (soft, again):
        each.tune(0.2, 100)
    assert torch.equal(soft.strengths, again.strengths)
    assert soft.strengths.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.0}, "rho must be greater than 0"),
        ({"rate": 0.0}, "rate must be finite and lie in"),
        ({"rho": 0.5, "rate": 0.6}, "rate must be finite and lie in"),
        ({"rho": math.inf, "rate": math.inf}, "rate must be finite and lie in"),
        ({"strength": -1.0}, "strength must lie in"),
        ({"strength": 10.0, "maximum": 1.0}, "strength must lie in"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Resilient(**options)
