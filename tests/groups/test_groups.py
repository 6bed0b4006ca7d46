"""Groups: elements obey their defining equation, generators generate them, text is read back."""

import pytest
import torch

from geoeq.groups import (
    GL,
    O2,
    SE,
    SL,
    SO,
    SO2,
    C,
    D,
    E,
    Lorentz,
    Mirror,
    O,
    Piecewise,
    Product,
    S,
    Scaling,
    T,
    Union,
    parse,
)
from geoeq.reps import IrrepCopy, NodeCopy, PositionCopy, TensorCopy

ALL = [
    SO(2),
    SO(3),
    SO(4),
    O(3),
    SO2("x"),
    SO2("y"),
    SO2("z"),
    O2("z"),
    T(3),
    SE(3),
    E(3),
    S(5),
    Piecewise(E(3)),
    Piecewise(SO2("z"), parts=[0, 0, 1]),
    SO2((1.0, 2.0, 2.0)),
    O2([0.0, -3.0, 4.0]),
    T(3, scale=2.0),
    Scaling(),
    Scaling(2, scale=0.1),
    GL(3),
    GL(2, plane="xz"),
    SL(3),
    SL(2, plane="yz", scale=0.2),
    Lorentz(),
    C(4, "x"),
    D(3, (1.0, 1.0, 1.0)),
    S(5, classes=[0, 0, 1, 1, 1]),
    Mirror([1, 0, 2]),
    Mirror([1, 0, 2], axis="y"),
    Product(SO(3), Scaling()),
    Product(S(5), O(3)),
    Union(O2("x"), O2("z")),
    Union(SO(3), T(3), Scaling()),
]
MATRICES = [group for group in ALL if not group.elements_per_part]
SPATIAL = [SO(3), O(3), SO2("x"), O2("z"), T(3), SE(3), E(3)]


@pytest.mark.parametrize("group", ALL, ids=repr)
def test_samples_are_reproducible(group):
    draws = [group.sample(3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float64


@pytest.mark.parametrize("group", [SO(3), SO(4), O(3), SO2("y"), O2("x")], ids=repr)
def test_rotations_are_orthogonal(group):
    g = group.sample(50)
    identity = torch.eye(group.n, dtype=torch.float64).expand_as(g)
    assert torch.allclose(g @ g.transpose(1, 2), identity, atol=1e-12)
    determinants = torch.det(g)
    if len(group.discrete):
        assert determinants.min() < 0 < determinants.max()
    else:
        assert torch.allclose(determinants, torch.ones_like(determinants))


@pytest.mark.parametrize("group", [g for g in MATRICES if not isinstance(g, Union)], ids=repr)
def test_elements_are_recognised(group):
    a, b = group.sample(40, generator=torch.Generator().manual_seed(2)).chunk(2)
    for inside in (a, a @ b, torch.linalg.inv(a)):
        assert group.contains(inside, 1e-6 * float(inside.abs().max())).all()
    if len(group.generators):
        assert group.contains(group.exp(0.3 * torch.randn(9, len(group.generators))), 1e-8).all()
    assert group.contains(group.discrete).all()
    flipped = a.clone()
    flipped[:, 0] *= -2.0  # neither orthogonal, nor of determinant 1, nor of positive determinant
    assert not group.contains(flipped).any()


@pytest.mark.parametrize("group", MATRICES, ids=repr)
def test_exponentials_of_generators(group):
    d, n = len(group.generators), group.generators.shape[-1]
    g = group.exp(torch.zeros(3, d))
    assert torch.equal(g, torch.eye(n, dtype=torch.float64).expand(3, n, n))
    if d:
        units = group.exp(1e-6 * torch.eye(d))
        assert torch.allclose((units - torch.eye(n)) / 1e-6, group.generators, atol=1e-5)
    with pytest.raises(ValueError, match=rf"coefficients must be \[size, {d}\], got \[2, {d + 1}\]"):
        group.exp(torch.zeros(2, d + 1))


@pytest.mark.parametrize(
    "group", [T(3), SE(3), GL(3), SL(3), Lorentz(), Scaling(), Product(SO(3), Scaling())], ids=repr
)
def test_groups_that_are_not_compact_have_no_haar_measure(group):
    assert not group.haar


def test_haar_mean_of_rotations_vanishes():
    g = SO(3).sample(20000, generator=torch.Generator().manual_seed(0))
    assert g.mean(0).abs().max() < 0.02
    assert (g[:, 0, 0] ** 2).mean() == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_axis_is_kept(axis):
    unit = torch.eye(3, dtype=torch.float64)["xyz".index(axis)]
    for group in (SO2(axis), O2(axis)):
        assert torch.allclose(group.sample(20) @ unit, unit.expand(20, 3), atol=1e-12)


COPIES = {
    "vector": IrrepCopy(1, -1),
    "l = 2": IrrepCopy(2, 1),
    "positions": PositionCopy(2),
    "nodes": NodeCopy(IrrepCopy(1, 1), 2),
}


@pytest.mark.parametrize(
    "group",
    [SO(3), SO2("z"), SO2([1, 2, 2]), T(3), SE(3), Scaling(), Product(SO2("x"), Scaling()), Union(SO(3), T(3))],
    ids=repr,
)
@pytest.mark.parametrize("kind", COPIES)
def test_algebra_generates_the_group(group, kind):
    _check_algebra(group, COPIES[kind])


@pytest.mark.parametrize("group", [SO(2), SO(3), SE(3), Scaling(2), SL(3), GL(2, plane="xz"), Lorentz()], ids=repr)
@pytest.mark.parametrize("types", [(1, 0), (2, 0), (0, 1), (1, 1), (1, 2)])
def test_algebra_generates_the_group_on_tensors(group, types):
    _check_algebra(group, TensorCopy(types[0], group.n, types[1]))


def _check_algebra(group, copy):
    for a in group.generators:
        whole = group.matrix(copy, torch.matrix_exp(0.7 * a))
        assert torch.allclose(torch.matrix_exp(0.7 * group.algebra(copy, a)), whole, atol=1e-10)


@pytest.mark.parametrize("group", [SO(3), O(3)], ids=repr)
@pytest.mark.parametrize("copy", [IrrepCopy(0, -1), IrrepCopy(1, 1), IrrepCopy(3, -1)], ids=repr)
def test_matrices_multiply_like_elements(group, copy):
    a, b = group.sample(2)
    assert torch.allclose(group.matrix(copy, a) @ group.matrix(copy, b), group.matrix(copy, a @ b), atol=1e-10)


def test_vectors_are_cartesian():
    rotation = O(3).sample(1)[0]
    assert torch.allclose(O(3).matrix(IrrepCopy(1, -1), rotation), rotation, atol=1e-12)


@pytest.mark.parametrize("group", SPATIAL, ids=repr)
def test_action_on_points_is_homogeneous_coordinates(group):
    x, g = torch.randn(7, 3, dtype=torch.float64), group.sample(1)[0]
    moved = group.act(g, x, position=True)
    if group.n == 4:
        ones = torch.ones(7, 1, dtype=torch.float64)
        assert torch.allclose(moved, (torch.cat([x, ones], 1) @ g.T)[:, :3])
        assert torch.allclose(group.act(g, x, position=False), x @ g[:3, :3].T)
    else:
        assert torch.allclose(moved, x @ g.T)


def test_permutations_move_nodes_inside_their_graph():
    x, g = torch.arange(10.0).reshape(10, 1), S(5).sample(1)[0]
    moved = S(5).act(g, x, position=False)
    assert sorted(moved[:5, 0].tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(moved[5:] - 5, moved[:5])
    with pytest.raises(ValueError, match="graphs of 5 nodes"):
        S(5).act(g, x[:7], position=False)


def test_parts_move_on_their_own():
    group, x = Piecewise(E(3)), torch.randn(6, 3, dtype=torch.float64)
    part = torch.tensor([0, 0, 1, 0, 1, 2])
    g = group.sample(1)[0]
    moved = group.act(g, x, position=True, part=part)
    for p in range(3):
        assert torch.allclose(moved[part == p], E(3).act(g[p], x[part == p], position=True))
    with pytest.raises(ValueError, match="part must give"):
        group.act(g, x, position=True)


@pytest.mark.parametrize("group", ALL, ids=repr)
def test_text_is_read_back(group):
    again = parse(repr(group))
    assert again == group
    assert hash(again) == hash(group)


@pytest.mark.parametrize(
    "text", ["SO(", "Foo(3)", "SO(0)", "SO2(w)", "3", "__import__('os')", "S(0)", "Piecewise(3)", "Group()", "parse(3)"]
)
def test_bad_text_is_one_clear_line(text):
    with pytest.raises(ValueError, match="symmetry must be a group"):
        parse(text)


def test_different_groups_differ():
    assert SO(3) != O(3)
    assert SO2("x") != SO2("y")
    assert T(3) != T(3, scale=2.0)
    assert Piecewise(E(3)) != Piecewise(SE(3))
