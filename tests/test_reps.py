"""Representations: what they declare, the copies they are made of, and their matrices."""

import pytest
import torch
from e3nn import o3

from geoeq.groups import SE, SL, SO, Lorentz, O
from geoeq.reps import (
    Crossing,
    IrrepCopy,
    Irreps,
    LogSizeCopy,
    LogSizes,
    Nodes,
    PositionCopy,
    Positions,
    Sum,
    TensorCopy,
    TensorRep,
    as_rep,
    dual,
    irrep_generators,
    irrep_matrix,
    rep_dim,
    rep_key,
    segments,
    tensor_matrix,
    tensor_product,
)


@pytest.mark.parametrize(
    ("rep", "dim"),
    [
        (TensorRep({0: 2, 1: 1, (1, 1): 2, (0, 2): 1}, d=3), 2 + 3 + 18 + 9),
        (Positions(4), 12),
        (LogSizes(4), 4),
        (Crossing(Sum("2x0e", LogSizes(1))), 3),
        (Nodes(5, "1x0e + 1x1o"), 20),
        (Sum("1x1o", LogSizes(2), Positions(1)), 8),
    ],
    ids=repr,
)
def test_segments_cover_all_components(rep, dim):
    found = segments(rep)
    assert rep_dim(rep) == dim
    assert [s.start for s in found[1:]] == [s.stop for s in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, dim)


def test_types_have_one_spelling():
    assert TensorRep({(2, 0): 1}) == TensorRep({2: 1})
    assert hash(TensorRep({(2, 0): 1})) == hash(TensorRep({2: 1}))
    assert rep_key(TensorRep({(2, 0): 1})) == rep_key(TensorRep({2: 1}))
    assert TensorRep({0: 1, 1: 1}) != TensorRep({1: 1, 0: 1})  # another layout


def test_stacks_that_touch_are_one_stack():
    assert [s.copy for s in segments(Sum(Positions(2), Positions(1)))] == [PositionCopy(3)]
    assert [s.copy for s in segments(Sum(LogSizes(2), "1x0e", LogSizes(1)))] == [
        LogSizeCopy(2),
        IrrepCopy(0, 1),
        LogSizeCopy(1),
    ]


@pytest.mark.parametrize("group", [SL(3), SE(3), Lorentz(), O(3)], ids=repr)
def test_duals_pair_with_vectors_to_invariants(group):
    g = group.sample(1)[0]
    vector, form = (tensor_matrix(TensorCopy(p, group.n, q), g) for p, q in ((1, 0), (0, 1)))
    assert torch.allclose(form.T @ vector, torch.eye(group.n, dtype=torch.float64), atol=1e-10)
    mixed = tensor_matrix(TensorCopy(1, group.n, 1), g)
    identity = torch.eye(group.n, dtype=torch.float64).reshape(-1)
    assert torch.allclose(mixed @ identity, identity, atol=1e-10)


def test_duals_and_products():
    rep = TensorRep({1: 2, (0, 2): 3}, d=3)
    assert dual(dual(rep)) == rep
    assert dual(Sum("2x1o", rep)) == Sum("2x1o", dual(rep))
    assert dual("1x1o") == Irreps("1x1o")
    product = tensor_product(rep, dual(rep))
    assert product.dim == rep.dim**2
    assert product == TensorRep({(1, 1): 4, (3, 0): 6, (0, 3): 6, (2, 2): 9}, d=3)


def test_matrix_of_a_product_is_the_product_of_matrices():
    g = SL(3).sample(1)[0]
    both = torch.kron(tensor_matrix(TensorCopy(2, 3), g), tensor_matrix(TensorCopy(0, 3, 1), g))
    assert torch.allclose(tensor_matrix(TensorCopy(2, 3, 1), g), both)


@pytest.mark.parametrize("l", range(7))
def test_irreps_are_those_of_e3nn(l):  # noqa: E741
    rotation = O(3).sample(1)[0]
    for p in (1, -1):
        expected = o3.Irrep(l, p).D_from_matrix(rotation)
        assert torch.allclose(irrep_matrix(IrrepCopy(l, p), rotation), expected, atol=2e-5)


@pytest.mark.parametrize("l", range(9))
def test_generators_obey_the_rotation_algebra(l):  # noqa: E741
    x, y, z = irrep_generators(l)
    for a, b, c in ((x, y, z), (y, z, x), (z, x, y)):
        assert torch.allclose(a @ b - b @ a, c, atol=1e-12)


def test_irreps_need_orthogonal_matrices():
    assert torch.equal(irrep_matrix(IrrepCopy(0, 1), 2 * torch.eye(3)), torch.ones(1, 1))
    with pytest.raises(ValueError, match="use a TensorRep"):
        irrep_matrix(IrrepCopy(1, -1), 2 * torch.eye(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorRep({-1: 1}), "ranks must map ranks >= 0"),
        (lambda: TensorRep({(1, -1): 1}), "ranks must map ranks >= 0"),
        (lambda: TensorRep({1: 1, (1, 0): 2}), "ranks must name each type once"),
        (lambda: TensorRep({1: 1}).dim, "pass d"),
        (lambda: dual(Positions(2)), r"rep must not be shifted .* got Positions\(mul=2\)"),
        (lambda: tensor_product(TensorRep({1: 1}, 3), TensorRep({1: 1}, 4)), "over one space, got d=3 and d=4"),
        (lambda: tensor_product("1x1o", TensorRep({1: 1})), "two TensorReps, got str"),
        (lambda: as_rep(3), "rep must be irreps"),
        (lambda: SO(3).projector(TensorRep({1: 1}, d=4), "1x0e"), "dimension 4 cannot take"),
        (lambda: SO(2).projector(Positions(1), "1x0e"), "three-dimensional space, got SO"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
