"""ValidationGradient: strengths descend the loss on held-out data."""

import copy

import pytest
import torch

from geoeq.groups import O2, O
from geoeq.layers import TypedLinear
from geoeq.soft import SoftEquivariance, ValidationGradient

TYPES = {"rotation": O(3), "about z": O2("z")}
REP_IN, REP_OUT = "3x0e + 4x1o", "2x0e + 3x1o"


def attached(tuner, types=TYPES, *, mode="free"):
    layer = TypedLinear(REP_IN, REP_OUT, mode=mode).double()
    soft = SoftEquivariance(types, tuner)
    soft.attach(layer)
    return layer, soft


def loss_of(layer, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 15, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 11, generator=generator, dtype=torch.float64)
    return (layer(x) - y).square().mean()


def test_the_product_is_the_derivative_of_the_loss_after_the_proximal_step():
    """dL_val / dlambda = -eta <grad L_val, W - P W>, by finite differences through the step itself."""
    layer, soft = attached(ValidationGradient())
    loss_of(layer, 0).backward()
    soft.observe_validation()
    eta, eps = 0.1, 1e-6
    numeric = torch.zeros_like(soft.strengths)
    for index in (soft.bank.codim > 0).nonzero().tolist():
        twin = copy.deepcopy(layer)
        other = SoftEquivariance(TYPES, ValidationGradient())
        other.attach(twin)
        other.strengths.zero_()
        other.strengths[tuple(index)] = eps
        other.prox_step(torch.optim.SGD(twin.parameters(), lr=eta))
        numeric[tuple(index)] = (loss_of(twin, 0) - loss_of(layer, 0)).item() / eps
    assert torch.allclose(-eta * soft.tuner.pending, numeric, rtol=1e-4, atol=1e-8)


def test_strengths_move_against_the_derivative_by_the_rate():
    layer, soft = attached(ValidationGradient(0.3, window=1))
    loss_of(layer, 1).backward()
    soft.observe_validation()
    wanted = torch.where(soft.bank.codim > 0, (0.3 * soft.tuner.pending.sign()).exp(), 0.0)
    soft.tune(0.1, 100)
    assert torch.allclose(soft.strengths, wanted, rtol=1e-10)
    assert {1.35, 0.74} <= {round(value, 2) for value in soft.strengths.flatten().tolist()}


def test_batches_before_a_tuning_count_together():
    layer, one = attached(ValidationGradient(window=1))
    _, two = attached(ValidationGradient(window=1))
    two.attach(layer)
    for seed in (1, 2):
        layer.zero_grad()
        loss_of(layer, seed).backward()
        two.observe_validation()
    layer.zero_grad()
    (0.5 * (loss_of(layer, 1) + loss_of(layer, 2))).backward()
    one.observe_validation()
    assert torch.allclose(two.tuner.pending / 2, one.tuner.pending, rtol=1e-10)
    assert int(two.tuner.batches) == 2


def test_contradicting_gradients_cancel():
    layer, soft = attached(ValidationGradient(0.2, window=20))
    gradient = [torch.randn_like(p) for p in layer.parameters()]
    for step in range(80):
        for p, g in zip(layer.parameters(), gradient, strict=True):
            p.grad = g if step % 2 else -g
        soft.observe_validation()
        soft.tune(0.5, 100)
    acts = soft.bank.codim > 0
    assert soft.strengths[acts].log().abs().max() < 1.0  # steady gradients would have moved it by 16


def test_bounds():
    layer, soft = attached(ValidationGradient(5.0, window=1, floor=0.1, maximum=10.0))
    for _ in range(3):
        loss_of(layer, 1).backward()
        soft.observe_validation()
        soft.tune(0.1, 100)
    acts = soft.bank.codim > 0
    assert set(soft.strengths[acts].tolist()) == {0.1, 10.0}


def test_nothing_forbidden_in_the_weight_or_no_gradient_moves_nothing():
    layer, soft = attached(ValidationGradient())
    layer.zero_grad()
    soft.observe_validation()
    before = soft.strengths.clone()
    soft.tune(0.1, 100)
    assert torch.equal(before, soft.strengths)


def test_tuning_without_a_validation_gradient_is_an_error_only_until_the_first():
    layer, soft = attached(ValidationGradient())
    with pytest.raises(ValueError, match=r"no validation gradient: call soft\.observe_validation\(\)"):
        soft.tune(0.1, 100)
    loss_of(layer, 1).backward()
    soft.observe_validation()
    soft.tune(0.2, 100)
    before = soft.strengths.clone()
    soft.tune(0.3, 100)
    assert torch.equal(before, soft.strengths)


def fit(target, *, seed=0):
    """Linear regression with a soft layer, its strengths tuned on held-out data; returns levels and strengths."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    x = torch.randn(240, 15, generator=generator)
    y = target(x) + 0.5 * torch.randn(240, 9, generator=generator)
    train, held = slice(0, 120), slice(120, 240)
    layer = TypedLinear(REP_IN, "3x1o", mode="soft")
    soft = SoftEquivariance(TYPES, ValidationGradient(0.3, strength=10.0))
    soft.attach(layer)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for step in range(400):
        optimizer.zero_grad()
        (layer(x[train]) - y[train]).square().mean().backward()
        optimizer.step()
        soft.prox_step(optimizer)
        if step % 5 == 4:
            optimizer.zero_grad()
            (layer(x[held]) - y[held]).square().mean().backward()
            soft.observe_validation()
            soft.tune(step / 400, 120)
    strengths = dict(zip(TYPES, soft.strengths_of_symmetries()[0].tolist(), strict=True))
    return soft.levels().overall(), strengths


def test_a_symmetry_that_the_data_have_is_kept():
    for seed in range(3):
        levels, strengths = fit(lambda x: x[:, 3:12] - 0.5 * x[:, 6:15], seed=seed)
        assert max(levels.values()) < 0.1
        assert min(strengths.values()) > 1


def test_a_symmetry_that_the_data_break_is_given_up_alone():
    along_z = torch.tensor([0.0, 0.0, 1.0]).repeat(3)
    levels, strengths = fit(lambda x: x[:, 3:12] + along_z * x[:, :1])
    assert levels["rotation"] > 0.3
    assert levels["about z"] < 0.1
    assert strengths["rotation"] < 0.1 < 1 < strengths["about z"]


def test_state_round_trip_and_determinism():
    layer, soft = attached(ValidationGradient())
    loss_of(layer, 1).backward()
    soft.observe_validation()
    soft.tune(0.1, 100)
    soft.observe_validation()
    again = SoftEquivariance(TYPES, ValidationGradient())
    again.attach(layer)
    again.load_state_dict(soft.state_dict())
    for each in (soft, again):
        each.tune(0.2, 100)
        each.observe_validation()
        each.tune(0.3, 100)
    assert torch.equal(soft.strengths, again.strengths)
    for key, value in soft.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_its_numbers_stay_double():
    _, soft = attached(ValidationGradient())
    soft.to(torch.float32)
    assert {b.dtype for b in soft.tuner.buffers()} == {torch.float64, torch.int64}
    assert soft.strengths.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate must be greater than 0"),
        ({"window": 0}, "window must be at least 1"),
        ({"floor": 0.0}, "0 < floor"),
        ({"strength": 1e4}, "strength <= maximum"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ValidationGradient(**options)
