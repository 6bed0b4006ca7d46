"""Schedule: strengths as a function of the progress alone."""

import math

import pytest
import torch

from geoeq.groups import O2, O
from geoeq.layers import TypedLinear
from geoeq.soft import Schedule, SoftEquivariance

TYPES = {"rotation": O(3), "about z": O2("z")}


def attached(tuner, *, mode="soft"):
    layer = TypedLinear("2x0e + 2x1o", "1x1o", mode=mode).double()
    soft = SoftEquivariance(TYPES, tuner)
    soft.attach(layer)
    return layer, soft


def test_triangle_is_tight_then_loose_then_tight_then_exact():
    plan = Schedule(100.0, 0.01)
    assert plan.at(0.0) == 100.0
    assert plan.at(0.25) == pytest.approx(1.0)
    assert plan.at(0.5) == pytest.approx(0.01)
    assert plan.at(0.725) == pytest.approx(1.0)
    assert plan.at(0.9499) < 100.01
    assert plan.at(0.95) == math.inf == plan.at(1.0)


def test_equal_steps_of_progress_are_equal_factors():
    plan = Schedule(1e4, 1e-2)
    ratios = [plan.at(0.1 * (i + 1)) / plan.at(0.1 * i) for i in range(5)]
    assert ratios == pytest.approx([ratios[0]] * 5)


@pytest.mark.parametrize(
    ("knots", "exact", "wanted"),
    [
        (((0, 1), (0.8, 0)), True, {0.0: 1e-2, 0.4: 1.0, 0.8: math.inf, 1.0: math.inf}),
        (((0, 1), (0.8, 0)), False, {0.0: 1e-2, 0.4: 1.0, 0.8: 1e2, 1.0: 1e2}),
        (((0, 0), (0.2, 1), (0.6, 1), (0.8, 0)), False, {0.1: 1.0, 0.2: 1e-2, 0.5: 1e-2, 0.7: 1.0, 0.9: 1e2}),
        (((0.5, 0.5),), True, {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
        (((0.2, 0), (0.6, 1)), True, {0.0: 1e2, 0.4: 1.0, 0.6: 1e-2, 1.0: 1e-2}),
    ],
    ids=["tighten", "tighten, finite", "trapezoid", "constant", "only relax"],
)
def test_shapes(knots, exact, wanted):
    plan = Schedule(1e2, 1e-2, knots=knots, exact=exact)
    assert {p: plan.at(p) for p in wanted} == pytest.approx(wanted)


def test_strengths_follow_the_progress_whatever_came_before():
    _, soft = attached(Schedule(100.0, 0.01))
    assert soft.strengths[soft.bank.codim > 0].eq(100.0).all()
    for progress in (0.9, 0.25):
        soft.tune(progress, 10)
    acts = soft.bank.codim > 0
    assert torch.allclose(soft.strengths[acts], torch.ones(int(acts.sum()), dtype=torch.float64))
    assert not soft.strengths[~acts].any()


def test_training_leaves_the_symmetry_and_comes_back_to_it():
    torch.manual_seed(0)
    layer, soft = attached(Schedule(1e4, 1e-4))
    x = torch.randn(64, 8, dtype=torch.float64)
    y = x[:, 2:5] + torch.tensor([0.5, 0.2, 0.0], dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    seen = []
    for step in range(200):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
        soft.prox_step(optimizer)
        soft.tune((step + 1) / 200, 64)
        seen.append(soft.levels().overall()["rotation"])
    assert seen[1] < 0.05 < 0.2 < seen[120]
    assert seen[-1] < 1e-10


def test_state_round_trip():
    layer, soft = attached(Schedule())
    soft.tune(0.3, 10)
    again = SoftEquivariance(TYPES, Schedule())
    again.attach(layer)
    again.load_state_dict(soft.state_dict())
    assert torch.equal(soft.strengths, again.strengths)
    assert soft.strengths.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tight": 0.1, "loose": 1.0}, "loose <= tight"),
        ({"loose": 0.0}, "0 < loose"),
        ({"tight": math.inf}, "tight < infinity"),
        ({"knots": ()}, "knots must be given in ascending order"),
        ({"knots": ((0.5, 0), (0.5, 1))}, "knots must be given in ascending order"),
        ({"knots": ((0.0, 0), (1.5, 1))}, r"knots must be pairs of numbers in \[0, 1\]"),
        ({"knots": ((0.0, -1), (0.5, 1))}, r"knots must be pairs of numbers in \[0, 1\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**options)
