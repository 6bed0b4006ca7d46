"""What is held stays held: whenever the hold begins, with any optimizer, and in step sizes that mean the same."""

import math

import pytest
import torch
from torch import nn

from geoeq.groups import SO, SO2
from geoeq.layers import TypedLinear
from geoeq.soft import Evidence, Fixed, Schedule, SoftEquivariance

OPTIMIZERS = {
    "SGD": lambda weights: torch.optim.SGD(weights, lr=1e-2, momentum=0.9),
    "Adam": lambda weights: torch.optim.Adam(weights, lr=1e-2),
    "AMSGrad": lambda weights: torch.optim.Adam(weights, lr=1e-2, amsgrad=True),
    "RMSprop": lambda weights: torch.optim.RMSprop(weights, lr=1e-2),
    "Adagrad": lambda weights: torch.optim.Adagrad(weights, lr=1e-2),
    "Adamax": lambda weights: torch.optim.Adamax(weights, lr=1e-2),
}


def steps(net, optimizer, soft, n, *, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        x = torch.randn(32, 24, generator=generator)
        loss = (net(x) - x[:, :3] * torch.tensor([1.0, 2.0, 3.0])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if soft is not None:
            soft.observe(loss, 32, 3)
        optimizer.step()
        if soft is not None:
            soft.prox_step(optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_hold_that_begins_late_is_kept_in_every_step(name):
    """What the optimizer remembers from before would carry a held weight away between two sweeps."""
    torch.manual_seed(0)
    net = TypedLinear("8x1o", "1x1o", mode="free", bias=False)
    soft = SoftEquivariance({"rotation": SO(3)}, Schedule(1e-3, 1e-3, knots=((0.0, 1.0), (0.5, 0.0))))
    soft.attach(net)
    optimizer = OPTIMIZERS[name](net.parameters())
    steps(net, optimizer, soft, 40, seed=0)
    assert soft.levels()[0].level > 0.1
    soft.tune(1.0, 256)
    for k in range(25):
        steps(net, optimizer, soft, 1, seed=k + 1)
        assert soft.levels()[0].level < 1e-6


def test_an_optimizer_with_a_past_is_noticed():
    torch.manual_seed(0)
    net = TypedLinear("8x1o", "1x1o", mode="free", bias=False)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    steps(net, optimizer, None, 20, seed=0)
    soft = SoftEquivariance({"rotation": SO(3)}, Fixed(math.inf))
    soft.attach(net)
    for k in range(25):
        steps(net, optimizer, soft, 1, seed=k + 1)
        assert soft.levels()[0].level < 1e-6


def test_weights_that_were_always_held_are_swept_now_and_then():
    net = TypedLinear("8x1o", "1x1o", mode="soft", bias=False)
    soft = SoftEquivariance({"rotation": SO(3)}, Evidence())
    soft.attach(net)
    steps(net, torch.optim.Adam(net.parameters()), soft, 3, seed=0)
    assert not soft.loose.any()
    assert "loose" in soft.state_dict()


@pytest.mark.parametrize("rate", [1e-2, 1e-5, 1e-7])
def test_infinity_projects_whatever_the_step_where_types_are_oblique(rate):
    net = TypedLinear("4x1o", "2x1o", mode="free", bias=False).double()
    soft = SoftEquivariance({"about x": SO2("x"), "about z": SO2("z")}, Fixed(math.inf))
    soft.attach(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    net(torch.randn(5, 12, dtype=torch.float64)).square().mean().backward()
    optimizer.step()
    soft.prox_step(optimizer)
    assert max(soft.levels().overall().values()) < 1e-8


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adamax"])
def test_step_and_penalty_hold_back_alike(name):
    found = []
    for proximal in (True, False):
        torch.manual_seed(1)
        net = TypedLinear("4x1o", "4x1o", mode="free", bias=False)
        soft = SoftEquivariance({"rotation": SO(3)}, Fixed(1.0))
        soft.attach(net)
        optimizer = OPTIMIZERS[name](net.parameters())
        optimizer.param_groups[0]["lr"] = 1e-3
        x, y = torch.randn(64, 12), torch.randn(64, 12)
        for _ in range(300):
            loss = (net(x) - y).square().mean() + (0.0 if proximal else soft.penalty())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if proximal:
                soft.prox_step(optimizer)
        found.append(float(soft.bank.squared_residuals(soft.bank.flat().detach()).sum()))
    assert 0.2 < found[0] / found[1] < 2.0


def test_a_weight_without_gradient_has_the_learning_rate():
    layers = nn.ModuleList([TypedLinear("2x1o", "2x1o", mode="free", bias=False) for _ in range(2)])
    soft = SoftEquivariance({"rotation": SO(3)}, Fixed(10.0))
    soft.attach(layers)
    for used in (0, 1):
        optimizer = torch.optim.Adam(layers.parameters(), lr=0.01)
        layers.zero_grad()
        loss = layers[used](torch.randn(5, 6)).square().mean()
        loss.backward()
        optimizer.step()
        soft.step_sizes.age = 0
        soft.prox_step(optimizer)
        assert float(soft.step_sizes.steps[1 - used]) == pytest.approx(0.01)
        assert float(soft.step_sizes.steps[used]) > 0.011
