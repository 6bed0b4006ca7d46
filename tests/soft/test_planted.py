"""Known answers of whole trainings: what is planted is found, and nothing else."""

import pytest
import torch

from geoeq.bench.train import Budget, train
from geoeq.datasets.vectors import ModifiedInertia, Split
from geoeq.groups import SO
from geoeq.layers import TypedLinear
from geoeq.soft import Evidence, SoftEquivariance

AXES = ("O2(x)", "O2(y)", "O2(z)")
SHORT = Budget(epochs=200)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tune_from", [0.05, 0.25, 0.5])
def test_no_true_type_loses_to_another_whenever_tuning_starts(tune_from):
    outcome = train(ModifiedInertia(epsilon=0.0), "Evidence", budget=Budget(epochs=200, tune_from=tune_from))
    strengths = [outcome.strengths[name] for name in AXES]
    assert min(strengths) >= 0.5 * max(strengths)
    assert max(outcome.levels.values()) < 0.05


@pytest.mark.parametrize("tune_from", [0.05, 0.25, 0.5])
def test_both_false_types_are_let_go_whenever_tuning_starts(tune_from):
    outcome = train(ModifiedInertia(-1.0, "z"), "Evidence", budget=Budget(epochs=200, tune_from=tune_from))
    assert max(outcome.strengths["O2(x)"], outcome.strengths["O2(y)"]) < 0.5 * outcome.strengths["O2(z)"]


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_levels_order_the_types_as_planted(axis):
    levels = train(ModifiedInertia(-1.0, axis), "Evidence", budget=SHORT).levels
    true = levels.pop(f"O2({axis})")
    assert true < 0.05
    assert min(levels.values()) > 0.3


def test_levels_rise_with_the_planted_break():
    levels = [train(ModifiedInertia(-e, "z"), "Evidence", budget=SHORT).levels for e in (0.0, 0.1, 0.3, 1.0)]
    for name in ("O(3)", "O2(x)", "O2(y)"):
        assert [row[name] for row in levels] == sorted(row[name] for row in levels)
    assert max(row["O2(z)"] for row in levels) < 0.05


def fit(x, y):
    torch.manual_seed(0)
    layer = TypedLinear("2x0e + 4x1o", "1x0e + 2x1o", mode="soft")
    soft = SoftEquivariance({"rotation": SO(3)}, Evidence(every=1))
    soft.attach(layer)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    train_split, held = Split(x[:1000], y[:1000]), Split(x[1000:], y[1000:])
    for epoch in range(60):
        for index in torch.randperm(1000).split(100):
            loss = (layer(train_split.x[index]) - train_split.y[index]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            soft.observe(loss, 100, 7)
            optimizer.step()
            soft.prox_step(optimizer)
        soft.tune(epoch / 60, 1000)
    with torch.no_grad():
        skill = 1 - float((layer(held.x) - held.y).square().mean() / held.y.var())
    return soft, soft.levels(held.x), skill


def test_random_labels_declare_nothing_and_exact_labels_everything():
    x = torch.randn(2000, 14)
    _, levels, skill = fit(x, torch.randn(2000, 7))
    assert not any(levels.symmetric(0.05, {"rotation": 0.0}, skill=skill).values())
    soft, levels, skill = fit(x, TypedLinear("2x0e + 4x1o", "1x0e + 2x1o", group=SO(3))(x).detach())
    assert all(levels.symmetric(0.05, {"rotation": 0.0}, skill=skill).values())
    assert soft.strengths_of_symmetries().min() > 0.99 * Evidence().maximum
