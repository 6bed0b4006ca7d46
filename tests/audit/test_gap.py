"""The gap of data: nothing where the labels have the symmetry, the planted share where they do not."""

from functools import lru_cache

import pytest
import torch

from geoeq.audit import SymmetryGap, symmetry_gap
from geoeq.datasets.vectors import ModifiedInertia
from geoeq.groups import SO, SO2, E, O, Product, S, Scaling, T
from geoeq.reps import Nodes, Positions, TensorRep

REP_IN, REP_OUT = TensorRep({1: 2}, d=3), TensorRep({1: 1}, d=3)
SMALL = {"landmarks": 96, "n_elements": 6}


def vectors(n=300, seed=0):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(x):
    a, b = x.split(3, 1)
    return a * a.square().sum(1, keepdim=True).sqrt() + torch.linalg.cross(a, b)


def planted(epsilon, n=300):
    """A rotation-equivariant map of pairs of vectors and a push along z whose size depends on one of them."""
    x = vectors(n)
    f = symmetric(x)
    push = torch.zeros_like(f)
    push[:, 2] = 1.0 + 0.5 * x[:, 0]
    scale = (f.square().sum() / push.square().sum()).sqrt()
    return x, f + epsilon * scale * push


def fresh_gap(epsilon, seed=0):
    return symmetry_gap(*planted(epsilon), SO(3), REP_IN, REP_OUT, **SMALL, seed=seed)


gap_of = lru_cache(fresh_gap)


def test_the_gap_follows_the_planted_break():
    found = [gap_of(epsilon) for epsilon in (0.0, 0.1, 0.3, 1.0)]
    gaps = [result.gap for result in found]
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.01
    assert not found[0].broken
    assert found[2].broken
    assert found[3].broken
    # the push has the size of f, but for what a symmetric map could say of it: none of the constant, which is 4/5
    assert 0.3 < gaps[3] <= 0.55


def test_it_is_a_lower_bound_with_a_ceiling_above():
    for epsilon in (0.3, 1.0):
        share = epsilon**2 / (1 + epsilon**2)  # all of the push is asymmetric
        result = gap_of(epsilon)
        assert result.low <= result.gap <= result.high
        assert result.low < share
        assert result.ceiling > result.gap


def test_each_axis_is_told_from_the_others():
    x = vectors()
    y = symmetric(x)
    y[:, 2] += 2.0  # a push along z keeps rotations about z and breaks those about x
    options = {"rep_in": REP_IN, "rep_out": REP_OUT, **SMALL}
    assert not symmetry_gap(x, y, "SO2(z)", **options).broken
    assert symmetry_gap(x, y, "SO2(x)", **options).broken
    assert symmetry_gap(x, y, "SO(3)", **options).broken


def test_pure_noise_breaks_nothing():
    x = vectors()
    y = torch.randn(300, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    result = symmetry_gap(x, y, O(3), REP_IN, REP_OUT, **SMALL)
    assert not result.broken
    assert result.gap < 0.02
    assert result.verdict() == "undecided"  # nothing was explained, so nothing is known


def test_permutations_of_numbered_nodes():
    x = vectors(400).double()  # 6 nodes with a scalar each
    rep = Nodes(6, "1x0e")
    sums = x + x.sin().mean(1, keepdim=True)
    assert not symmetry_gap(x, sums, S(6), rep, rep, **SMALL).broken
    order = sums + torch.arange(6.0, dtype=torch.float64) * 0.3
    assert symmetry_gap(x, order, S(6), rep, rep, **SMALL).broken


def test_groups_that_are_products_or_finite_reflections():
    x = vectors(200)
    y = x[:, :3]
    assert not symmetry_gap(x, y, Product(O(3), Scaling()), "2x1o", "1x1o", **SMALL).broken
    assert symmetry_gap(x, y.abs(), "O(3)", "2x1o", "1x1o", **SMALL).broken


@pytest.mark.parametrize("group", [T(3), E(3, scale=0.01)], ids=repr)
def test_a_pull_that_is_linear_in_the_position_breaks_translations(group):
    x = vectors(150)  # two points each
    centre = x.unflatten(1, (2, 3)).mean(1)
    away = x[:, :3] - centre
    assert not symmetry_gap(x, away, group, Positions(2), "1o", **SMALL).broken
    assert symmetry_gap(x, away - centre, group, Positions(2), "1o", **SMALL).broken
    # the same as positions: what turns about the pair and what turns about the origin
    assert not symmetry_gap(x, centre + 2 * away, group, Positions(2), Positions(1), **SMALL).broken
    assert symmetry_gap(x, 2 * centre + away, group, Positions(2), Positions(1), **SMALL).broken


def test_features_of_nodes_have_units_of_their_own():
    x = torch.cat([vectors(), 1000 * vectors(seed=1)], 1)  # of 2 nodes, 6 scalars each
    y = x[:, :2].sin()
    assert symmetry_gap(x, y, S(2), Nodes(2, "6x0e"), Nodes(2, "1x0e"), **SMALL).ceiling < 0.3


def test_the_same_seed_gives_the_same_numbers():
    assert fresh_gap(0.3) == gap_of(0.3)
    assert fresh_gap(0.3, seed=4) != gap_of(0.3)


def test_single_precision_is_enough():
    x, y = planted(0.3)
    single = symmetry_gap(x.float(), y.float(), "SO(3)", REP_IN, REP_OUT, **SMALL)
    assert single.gap == pytest.approx(gap_of(0.3).gap, rel=0.05)


def test_the_verdict_needs_evidence_on_either_side():
    assert SymmetryGap(0.1, 0.05, 0.15, floor=0.01, ceiling=0.2).verdict() == "broken"
    assert SymmetryGap(0.001, -0.001, 0.002, floor=0.01, ceiling=0.02).verdict() == "symmetric"
    assert SymmetryGap(0.001, -0.001, 0.002, floor=0.01, ceiling=0.2).verdict() == "undecided"
    assert SymmetryGap(0.001, -0.001, 0.002, floor=0.01, ceiling=0.2).verdict(tolerance=0.3) == "symmetric"
    assert "floor 0.0100" in str(SymmetryGap(0.1, 0.05, 0.15, floor=0.01, ceiling=0.2))


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_modified_inertia_keeps_one_axis(axis):
    task = ModifiedInertia(epsilon=-1.0, axis=axis)
    for name, group in task.symmetries.items():
        result = symmetry_gap(*task.train, group, task.rep_in, task.rep_out, landmarks=256, n_elements=4)
        assert result.broken == (name not in task.residual), name


@pytest.mark.slow
def test_modified_inertia_without_change_keeps_all():
    task = ModifiedInertia(epsilon=0.0)
    for name, group in task.symmetries.items():
        result = symmetry_gap(*task.train, group, task.rep_in, task.rep_out, landmarks=256, n_elements=4)
        assert not result.broken, name
        assert result.gap < 0.005


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(20, 5)}, r"x must be \[n, 6\], got \[20, 5\]"),
        ({"y": torch.randn(20)}, r"y must be \[n, 3\], got \[20\]"),
        ({"y": torch.randn(19, 3)}, "y must have as many rows as x, 20, got 19"),
        ({"x": torch.full((20, 6), torch.nan)}, "x must be finite"),
        ({"folds": 10}, r"x must have at least 4 \* folds = 40 samples, got 20"),
        ({"n_elements": 0}, "landmarks and n_elements must be at least 1"),
        ({"group": "Foo(3)"}, "symmetry must be a group"),
    ],
)
def test_wrong_input_is_one_clear_line(change, message):
    arguments = {"x": torch.randn(20, 6), "y": torch.randn(20, 3), "group": SO2("z"), "rep_in": "2x1o", "rep_out": "1o"}
    with pytest.raises(ValueError, match=message):
        symmetry_gap(**{**arguments, **change})


@pytest.mark.parametrize(
    ("data", "named", "found"),
    [
        ((), {}, ""),
        (([],), {}, "list"),
        (([], "O(3)"), {"rep_in": "1o"}, "list, str, rep_in="),
        (([], "O(3)", "1o", "1o"), {}, "list, str, str, str"),
        ((torch.zeros(20, 3), "O(3)"), {}, "Tensor, str"),
        ((torch.zeros(20, 3),), {"dataset": []}, "Tensor, dataset="),
        (([], "O(3)"), {"group": "O(3)"}, "list, str, group="),
        ((torch.zeros(20, 3), torch.zeros(20, 3), "O(3)", "1o", "1o"), {"max_samples": 9}, ".*, max_samples="),
        (([], "O(3)"), {"landmark": 9}, "list, str, landmark="),
    ],
)
def test_the_two_forms_do_not_mix(data, named, found):
    expected = rf"symmetry_gap must be given \(dataset, group\) or \(x, y, group, rep_in, rep_out\), got \({found}\)$"
    with pytest.raises(TypeError, match=expected):
        symmetry_gap(*data, **named)
