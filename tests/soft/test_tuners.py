"""Tuners: the published rule, and the evidence on problems whose answer is known."""

import pytest
import torch

from geoeq.groups import SO, SO2, O, T
from geoeq.layers import TypedLinear
from geoeq.reps import Positions, Sum
from geoeq.soft import Evidence, Fixed, OneShot, SoftEquivariance

REP = Sum("4x0e + 6x1o", Positions(1))
TYPES = {"rotation": O(3), "about z": SO2("z"), "translation": T(3)}


def fit(target, **options):
    """Linear regression of ``target`` on random features with a soft layer; returns its levels and strengths."""
    soft = train(TypedLinear(REP, "4x1o", mode="soft"), target, **options)
    strengths = dict(zip(TYPES, soft.strengths_of_symmetries()[0].tolist(), strict=True))  # of the weight
    return soft.levels().overall(), strengths


def train(model, target, *, tuner=None, noise=0.1, n=600, steps=300, seed=0):
    """Fit ``model`` to ``target`` on random features; returns its soft symmetry."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    x = torch.randn(n, REP.dim, generator=generator)
    y = target(x) + noise * torch.randn(n, 12, generator=generator)
    soft = SoftEquivariance(TYPES, tuner or Evidence(window=60, every=1))
    soft.attach(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        index = torch.randperm(n, generator=generator)[:100]
        loss = (model(x[index]) - y[index]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        soft.observe(loss, 100, 12)
        optimizer.step()
        soft.prox_step(optimizer)
        if step % 6 == 5:
            soft.tune(step / steps, n)
    return soft


def exact_target(x):
    return x[:, 4:16] * 0.5 - x[:, 10:22] * 0.2


def along_z(size):
    return lambda x: exact_target(x) + size * torch.tensor([0.0, 0.0, 1.0]).repeat(4) * (1 + x[:, :1])


def weighed_along_z(x):
    return exact_target(x) + 0.5 * torch.tensor([0.0, 0.0, 1.0]).repeat(4) * x[:, :1]


def across(x):
    return exact_target(x) + 0.3 * torch.tensor([1.0, 0.0, 0.0]).repeat(4)


def absolute(x):
    return exact_target(x) - 0.3 * x[:, 22:25].repeat(1, 4)


def test_nothing_is_given_up_on_symmetric_data():
    for seed in range(3):
        levels, strengths = fit(exact_target, seed=seed)
        assert max(levels.values()) < 0.05
        assert min(strengths.values()) > 100


def test_a_field_along_z_breaks_rotations_but_not_those_about_z():
    levels, strengths = fit(along_z(0.3))
    assert levels["rotation"] > 0.3
    assert levels["about z"] < 0.05
    assert levels["translation"] < 0.05
    assert strengths["rotation"] < 1 < strengths["about z"]


def correlated():
    """Eight inputs that are nearly one, whose weights carry one break together, and its targets."""
    torch.manual_seed(0)
    x = torch.randn(3000, 1) + 0.1 * torch.randn(3000, 8)
    y = x[:, :1] * torch.tensor([0.0, 0.0, 0.5]) + 0.1 * torch.randn(3000, 3)
    layer = TypedLinear("8x0e", "1x1o", bias=False, mode="soft")
    with torch.no_grad():
        layer.weight[2] = 0.5 / 8
    return layer, x, y


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("needed", [True, False])
def test_a_weight_is_called_back_only_if_nothing_is_lost(told, needed):
    """Whatever the pull says: entries that act together look small one by one."""
    layer, x, y = correlated()
    if not needed:
        with torch.no_grad():
            layer.weight.copy_(1e-4 * torch.randn(3, 8))
        y = 0.1 * torch.randn(3000, 3)
    tuner = Evidence(window=100, every=1)
    soft = SoftEquivariance({"rotation": O(3)}, tuner)
    soft.attach(layer)
    soft.strengths.fill_(1e-3)
    for index in torch.randperm(3000).split(30):
        tuner.observe(soft.bank, 0.01 * torch.randn(24), (layer(x[index]) - y[index]).detach().square().mean(), 30, 3)
        tuner.calls += 1  # noise alone, so that the pull is that of noise
    before = layer.weight.detach().clone()
    loss = (lambda: (layer(x) - y).detach().square().mean()) if told else None
    soft.tune(1.0, 3000, loss)
    assert torch.equal(layer.weight, before)
    held = float(soft.strengths[0, 0]) > 1.0
    assert held == (told and not needed)


@pytest.mark.parametrize("told", [True, False])
def test_what_is_let_go_sets_off_along_what_it_was_denied(told):
    """A push along z: the bias learns it at once, and nothing else of the layer moves."""
    torch.manual_seed(0)
    x = torch.randn(3000, 11)
    y = torch.tensor([0.0, 0.0, 0.7]) + 0.1 * torch.randn(3000, 3)
    layer = TypedLinear("2x0e + 3x1o", "1x1o", mode="soft")
    with torch.no_grad():
        layer.weight.zero_()
    soft = SoftEquivariance({"rotation": O(3), "about z": SO2("z")}, Evidence(window=50, every=1, patience=0.0))
    soft.attach(layer)
    for index in torch.randperm(3000).split(30):
        loss = (layer(x[index]) - y[index]).square().mean()
        layer.zero_grad()
        loss.backward()
        soft.observe(loss, 30, 3)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}

    def error():
        return (layer(x) - y).detach().square().mean()

    start = error()
    soft.tune(0.5, 3000, error if told else None)
    free = soft.strengths < 500
    assert free.sum() == 1  # rotation without rotation about z, in the bias
    if not told:
        assert all(torch.equal(value, before[name]) for name, value in layer.named_parameters())
        return
    assert error() < 0.2 * start
    assert torch.equal(layer.weight, before["weight"])
    assert torch.allclose(layer.bias[:2], torch.zeros(2), atol=1e-6)


def test_levels_of_terms_are_those_of_the_weights():
    layer = TypedLinear(REP, "4x1o", mode="free")
    soft = SoftEquivariance({"rotation": O(3)}, Evidence())
    soft.attach(layer)
    level = float(soft.bank.levels(soft.bank.flat().detach())[0, 0])
    assert level == pytest.approx(layer.level([O(3)]), rel=0.1)  # which counts the bias, too


def test_a_push_across_breaks_both_rotations():
    levels, _ = fit(across)
    assert levels["rotation"] > 0.2
    assert levels["about z"] > 0.2
    assert levels["translation"] < 0.05


def test_a_push_that_samples_share_by_chance_is_not_believed():
    levels, _ = fit(across, tuner=Evidence(window=60, every=1, independent=1e-6))
    assert max(levels.values()) < 1e-6


@pytest.mark.parametrize(("independent", "let_go"), [(1.0, True), (0.1, False)])
def test_what_samples_that_resemble_each_other_gain_is_less_by_as_much(independent, let_go):
    """144 coordinates at 17 times the noise: 940 nats of independent samples, 12 of windows that overlap tenfold."""
    layer = TypedLinear("48x0e", "1x1o", bias=False, mode="soft")
    tuner = Evidence(independent=independent)
    soft = SoftEquivariance({"rotation": O(3)}, tuner)
    soft.attach(layer)
    early = tuner._let_go(soft.bank, torch.full_like(soft.bank.codim, 17.0), soft.strengths, 0.09)
    assert bool(early) == let_go


def test_absolute_positions_break_translations_alone():
    levels, _ = fit(absolute)
    assert levels["translation"] > 0.3
    assert levels["rotation"] < 0.05


def test_levels_rise_with_the_planted_break():
    found = [fit(along_z(size))[0]["rotation"] for size in (0.0, 0.03, 0.1, 0.3, 1.0)]
    assert found == sorted(found)
    assert found[0] < 0.05 < found[2]


def test_wrong_types_cost_nothing_and_pure_noise_gives_nothing_up():
    _levels, strengths = fit(lambda x: torch.zeros(len(x), 12), noise=1.0)
    assert min(strengths.values()) > 100


@pytest.mark.parametrize(
    ("target", "symmetry", "layer"),
    [(weighed_along_z, "rotation", "1"), (absolute, "translation", "0")],
    ids=["either layer can: the last one goes", "only the first one can"],
)
def test_one_layer_is_let_go_the_other_stays_exact(target, symmetry, layer):
    hidden = "8x0e + 8x1o"
    torch.manual_seed(0)
    model = torch.nn.Sequential(TypedLinear(REP, hidden, mode="soft"), TypedLinear(hidden, "4x1o", mode="soft"))
    levels = {(row.layer, row.symmetry): row.level for row in train(model, target).levels()}
    assert levels[layer, symmetry] > 0.05
    assert max(level for (name, kind), level in levels.items() if (name, kind) != (layer, symmetry)) < 0.01


def test_evidence_waits_for_its_window_and_keeps_its_bounds():
    layer = TypedLinear(REP, "4x1o", mode="soft")
    soft = SoftEquivariance(TYPES, Evidence(window=50, maximum=7.0))
    soft.attach(layer)
    assert soft.strengths.max() == 7.0
    before = soft.strengths.clone()
    with pytest.raises(ValueError, match=r"call soft\.observe"):
        soft.tune(0.1, 100)
    for _ in range(10):
        soft.observe(1.0, 10)
    soft.tune(0.1, 100)
    assert torch.equal(before, soft.strengths)


def one_shot(residuals, **options):
    """Strengths of OneShot after its adjustment for residuals planted in the three kinds of block."""
    layer = TypedLinear(REP, "4x1o", bias=False, mode="soft")
    soft = SoftEquivariance(TYPES, OneShot(100.0, **options))
    soft.attach(layer)
    with torch.no_grad():
        layer.weight[0, 0] = residuals[0]  # scalar to x: breaks both rotations
        layer.weight[2, 1] = residuals[1]  # scalar to z: breaks the full rotations only
        layer.weight[:3, 22:25] = residuals[2] * torch.eye(3)  # isotropic in the position: breaks translations only
    for progress in (0.1, 0.2, 0.3, 0.4):
        soft.tune(progress, 100)
    return soft, layer


def test_one_shot_is_the_published_formula():
    soft, _ = one_shot((0.1, 0.3, 0.2), gamma=2.0, at=0.25)
    r = torch.tensor([0.01 + 0.09, 0.01, 3 * 0.04], dtype=torch.float64)
    expected = 100.0 / (r / r.min()) ** 2
    assert torch.allclose(soft.strengths[0], expected, rtol=1e-4)


def test_one_shot_updates_once():
    soft, layer = one_shot((0.1, 0.3, 0.2))
    before = soft.strengths.clone()
    with torch.no_grad():
        layer.weight.mul_(3)
    soft.tune(0.9, 100)
    assert torch.equal(before, soft.strengths)


def test_one_shot_leaves_the_largest_group_to_the_others():
    soft, _ = one_shot((0.1, 0.3, 0.2), largest="rotation")
    assert soft.strengths[0, 0] == 0
    assert soft.strengths[0, 1] == pytest.approx(100.0)
    with pytest.raises(ValueError, match="largest must be one of"):
        SoftEquivariance(TYPES, OneShot(largest="none")).attach(TypedLinear("1o", "1o"))


def test_one_shot_does_not_divide_by_zero():
    soft, _ = one_shot((0.0, 0.0, 0.0))
    assert torch.isfinite(soft.strengths).all()


@pytest.mark.parametrize(
    ("tuner", "message"),
    [
        (lambda: Fixed(-1.0), "strength must be >= 0"),
        (lambda: OneShot(at=1.5), "at must lie"),
        (lambda: OneShot(window=0.0), "window must lie"),
        (lambda: Evidence(margin=0.5), "margin must be greater than 1"),
        (lambda: Evidence(every=0), "every must be at least 1"),
        (lambda: Evidence(window=1), "window must be at least 2"),
        (lambda: Evidence(rate=0.0), "rate must lie"),
        (lambda: Evidence(independent=0.0), r"independent must lie in \(0, 1\], got 0.0"),
    ],
)
def test_bad_options(tuner, message):
    with pytest.raises(ValueError, match=message):
        tuner()


def test_a_weak_break_is_found_beside_a_strong_one():
    """Translations are broken by a thirtieth of what the field breaks of rotations."""
    levels, strengths = fit(lambda x: along_z(3.0)(x) - 0.1 * x[:, 22:25].repeat(1, 4))
    assert levels["rotation"] > 0.3
    assert strengths["translation"] < 100
    assert strengths["about z"] > 100


def test_a_loss_of_zero_lets_nothing_go():
    layer = TypedLinear("2x1o", "1x1o", mode="soft")
    soft = SoftEquivariance({"rotation": SO(3)}, Evidence(window=2, every=1))
    soft.attach(layer)
    for _ in range(4):
        x = torch.randn(8, 6)
        loss = (layer(x) - layer(x).detach()).square().mean()
        loss.backward()
        soft.observe(loss, 8, 3)
    soft.tune(0.5, 100)
    assert float(soft.strengths.min()) == pytest.approx(1000.0)
