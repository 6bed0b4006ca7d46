"""The proximal step in coordinates: the same as the formula, of some weights alone, and where it is not needed."""

import math

import pytest
import torch

from geoeq.groups import O2, SO2, E, O, S, T
from geoeq.layers import TypedLinear, TypedMLP
from geoeq.reps import LogSizes, Nodes, Positions, Sum, TensorRep
from geoeq.soft import Fixed, SoftEquivariance
from geoeq.soft.bank import WeightBank

CASES = {
    "nested": (Sum("3x0e + 2x1o + 1x2e", Positions(1)), "2x0e + 3x1o", [O(3), O2("z"), T(3)]),
    "affine": (Sum("2x0e", Positions(3)), Positions(2), [E(3), T(3)]),
    "nodes": (Nodes(4, "2x0e"), Nodes(4, "1x0e"), [S(4), S(4, classes=[0, 0, 1, 1])]),
    "oblique": (TensorRep({1: 2}, d=3), TensorRep({1: 1, 2: 1}, d=3), [O(3), O2("x"), O2("y")]),
}


def bank_of(name, *, layers=2, split=True):
    rep_in, rep_out, groups = CASES[name]
    torch.manual_seed(0)
    maps = [TypedLinear(rep_in, rep_out, mode="free", group=groups[0]).double().typed_maps()[0] for _ in range(layers)]
    return WeightBank(maps, groups, split=split).double()


def dense_step(bank, strengths, steps, flat):
    """Every block solved by itself: (I + eta sum_t lambda_t C_t)^-1 on what differs from the offset."""
    expected = flat.clone()
    for kind in bank.kinds:
        for index, owner in zip(kind.index, kind.owner.tolist()):
            total = (strengths[owner] @ kind.forbidden) * steps[owner]
            matrix = torch.eye(len(index), dtype=torch.float64) + (kind.frame * total) @ kind.frame.T
            expected[index] = kind.offset + torch.linalg.solve(matrix, flat[index] - kind.offset)
    return expected


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_step_is_the_formula_block_by_block(name, split):
    bank = bank_of(name, split=split)
    strengths = torch.rand(bank.codim.shape, dtype=torch.float64) * 5
    strengths[0, 0] = 0.0
    steps = torch.tensor([0.1, 2.0], dtype=torch.float64)
    before = bank.flat().detach().clone()
    bank.prox(bank.prepare(strengths, steps))
    assert torch.allclose(bank.flat(), dense_step(bank, strengths, steps, before), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_infinity_leaves_nothing_and_zero_everything(name):
    bank = bank_of(name)
    before, steps = bank.flat().detach().clone(), torch.ones(2, dtype=torch.float64)
    bank.prox(bank.prepare(torch.zeros_like(bank.codim), steps))
    assert torch.equal(bank.flat(), before)
    bank.prox(bank.prepare(torch.full_like(bank.codim, math.inf), steps))
    assert float(bank.squared_residuals(bank.flat().detach()).max()) < 1e-15


@pytest.mark.parametrize("name", CASES)
def test_sums_over_terms_are_those_of_the_coordinates(name):
    bank = bank_of(name)
    a, b = torch.randn(2, len(bank.flat()), dtype=torch.float64)
    residuals, inner = torch.zeros_like(bank.codim), torch.zeros_like(bank.codim)
    for kind in bank.kinds:
        own, grad = (b[kind.index] - kind.offset) @ kind.frame, a[kind.index] @ kind.frame
        residuals.index_add_(0, kind.owner, own.square() @ kind.forbidden.T)
        inner.index_add_(0, kind.owner, (grad * own) @ kind.forbidden.T)
    assert torch.allclose(bank.squared_residuals(b), residuals)
    assert torch.allclose(bank.inner(a, b), inner)


@pytest.mark.parametrize("name", CASES)
def test_the_step_of_some_weights_leaves_the_others(name):
    bank = bank_of(name, layers=3)
    strengths, steps = torch.full_like(bank.codim, 3.0), torch.ones(3, dtype=torch.float64)
    before = bank.flat().detach().clone()
    whole = bank.prepare(strengths, steps)
    bank.prox(bank.restrict(whole, torch.tensor([False, True, False])))
    size = bank.sizes[0]
    expected = before.clone()
    expected[size : 2 * size] = bank.shrink(before.clone(), whole)[size : 2 * size]
    after = bank.flat().detach().clone()
    torch.testing.assert_close(after, expected)
    assert torch.equal(after[:size], before[:size])
    assert torch.equal(after[2 * size :], before[2 * size :])
    bank.prox(bank.restrict(whole, torch.zeros(3, dtype=torch.bool)))
    assert torch.equal(bank.flat(), after)


@pytest.mark.parametrize(
    ("name", "settled"), [("nested", True), ("nodes", True), ("affine", False), ("oblique", False)]
)
def test_what_elementwise_optimizers_keep_is_known(name, settled):
    bank = bank_of(name)
    held = torch.full_like(bank.codim, math.inf)
    assert bank.unsettled(held).tolist() == [not settled] * 2
    held[1] = torch.where(bank.codim[1] > 0, 2.0, 0.0)
    assert bank.unsettled(held).tolist() == [not settled, True]
    if name != "oblique":  # projected gradients, then an odd function of each entry
        steps = torch.ones(2, dtype=torch.float64)
        project = bank.prepare(torch.full_like(bank.codim, math.inf), steps)
        grads = bank.shrink(torch.randn(len(bank.flat()), dtype=torch.float64), project, centred=False)
        bank.prox(project)
        with torch.no_grad():
            for parameter, grad in zip(bank.parameters_, grads.split(bank.sizes)):
                parameter -= (grad / (grad.abs() + 1e-3)).view_as(parameter)
        leak = float(bank.squared_residuals(bank.flat().detach()).max())
        assert (leak < 1e-20) == settled


def test_single_entries_are_scaled_by_themselves():
    bank = bank_of("nested")
    tied = {tuple(kind.frame.shape): None if kind.tied is None else len(kind.tied.offset) for kind in bank.kinds}
    assert tied[9, 8] == 3  # of a multiple of the identity only the diagonal hangs together
    assert tied[3, 3] is None


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_what_is_held_trains_as_an_exact_network(optimizer):
    """The noise of gradients along what is forbidden must not reach the optimizer."""
    torch.manual_seed(0)
    soft_model, exact = (
        TypedMLP("2x0e + 2x1o", "1x1o", "6x0e + 3x1o", 3, mode=m, group=O(3)) for m in ("soft", "exact")
    )
    exact.load_state_dict(soft_model.state_dict())
    soft = SoftEquivariance({"rotation": O(3), "about z": SO2("z")}, Fixed(math.inf))
    soft.attach(soft_model)
    optimizers = [optimizer(model.parameters(), lr=1e-2) for model in (soft_model, exact)]
    for _ in range(25):
        x, y = torch.randn(20, 8), torch.randn(20, 3)
        for model, own in zip((soft_model, exact), optimizers):
            own.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            if model is soft_model:
                soft.observe(loss, 20, 3)
            own.step()
        soft.prox_step(optimizers[0])
    assert max(soft.levels().overall().values()) < 1e-6
    x = torch.randn(50, 8)
    assert torch.allclose(soft_model(x), exact(x), atol=2e-5)


def test_a_stack_of_log_sizes_is_held_at_every_step():
    """Coefficients that sum to zero are no fixed point of Adam, so their step is never left out."""
    torch.manual_seed(0)
    layer = TypedLinear(LogSizes(4), "3x0e", mode="soft")
    soft = SoftEquivariance({"scale": "Scaling()"}, Fixed(math.inf))
    soft.attach(layer)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(13):
        optimizer.zero_grad()
        loss = (layer(torch.randn(20, 4)) - torch.randn(20, 3)).square().mean()
        loss.backward()
        soft.observe(loss, 20, 3)
        optimizer.step()
        soft.prox_step(optimizer)
        assert float(layer.weight.detach().sum(1).abs().max()) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_the_part_of_a_gradient_is_that_of_a_difference_of_weights(name):
    """What is fixed, as the place of positions, is part of weights and not of steps."""
    bank = bank_of(name)
    a, b = (torch.randn(len(bank.flat()), dtype=torch.float64) for _ in range(2))
    for term in range(len(bank.terms)):
        expected = bank.part(a, term) - bank.part(b, term)
        assert torch.allclose(bank.part(a - b, term, centred=False), expected, atol=1e-12)


@pytest.mark.parametrize(("scale", "share"), [(0.25, 1.0), (1.5, 0.5), (100.0, 2.0**-7), (1e5, 0.0), (-1.0, 0.0)])
def test_a_descent_goes_as_far_as_serves_the_loss(scale, share):
    bank = bank_of("nodes")
    before = [p.detach().clone() for p in bank.parameters_]
    target = before[1] + 1.0
    step = torch.full_like(target, scale)  # 1 / scale of it would be best
    bank.descend(1, step, lambda: float((bank.parameters_[1] - target).square().sum()))
    assert torch.equal(bank.parameters_[0], before[0])
    assert torch.allclose(bank.parameters_[1], before[1] + share * step)


def test_a_descent_that_is_broken_off_leaves_the_weight_as_it_was():
    bank = bank_of("nodes")
    before = bank.parameters_[0].detach().clone()
    losses = iter([3.0, 4.0, 2.0])

    def loss():
        found = next(losses, None)
        if found is None:
            raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt):
        bank.descend(0, torch.ones_like(before), loss)
    assert torch.equal(bank.parameters_[0], before)
