"""Projectors of bilinear maps."""

import time

import pytest
import torch
from e3nn import o3

from geoeq.groups import SL, SO, SO2, C, O, Product, S, Scaling, T
from geoeq.intertwiners import BilinearProjector, product_space, solve_pair
from geoeq.reps import Irreps, LogSizes, Nodes, Positions, TensorRep, kron, segments


def draw(projector):
    weight = torch.randn(*projector.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return projector.double()(weight)


def matrix_of(group, rep, g):
    return torch.block_diag(*[group.matrix(s.copy, g) for s in segments(rep, group.n) for _ in range(s.mul)])


@pytest.mark.parametrize(
    ("group", "reps", "rank"),
    [
        (SO(3), ("1x1o", "1x1o", "1x1o"), 1),  # cross product, parity aside
        (O(3), ("1x1o", "1x1o", "1x1o"), 0),
        (O(3), ("1x1o", "1x1o", "1x1e + 1x0e + 1x2e"), 3),
        (O(3), ("2x1o", "3x1o", "2x0e"), 12),
        (SO2("z"), ("1x1o", "1x1o", "1x0e"), 3),
        (SO(3), (TensorRep({1: 1}), TensorRep({1: 1}), TensorRep({1: 1})), 1),
        (SO(3), (TensorRep({1: 1}), TensorRep({1: 1}), TensorRep({2: 1})), 3),
        (SL(3), (TensorRep({1: 1}), TensorRep({1: 1}), TensorRep({(0, 1): 1})), 1),
        (SL(3), (TensorRep({(1, 1): 1}), TensorRep({(1, 1): 1}), TensorRep({0: 1})), 2),
        (S(4), (Nodes(4, "1x0e"), Nodes(4, "1x0e"), Nodes(4, "1x0e")), 5),
        (S(4), (TensorRep({1: 1}), TensorRep({1: 1}), TensorRep({1: 1})), 5),
        (Scaling(), (TensorRep({1: 1}), TensorRep({(0, 1): 1}), TensorRep({0: 1})), 9),
        (T(3), ("1x1o", "1x1o", "1x0e"), 9),
    ],
    ids=repr,
)
def test_known_dimensions(group, reps, rank):
    assert BilinearProjector(group, *reps).rank == rank


@pytest.mark.parametrize(
    ("group", "reps"),
    [
        (SO(3), ("2x0e + 1x1o + 1x2e", "1x1o + 1x4e", "1x0e + 1x1o + 1x2e + 1x3o")),
        (O(3), ("2x0e + 1x1o + 1x2e", "1x1o + 1x1e", "1x0e + 1x1o + 2x2e + 1x3o")),
        (SO2("x"), ("1x0e + 1x1o", "1x1o + 1x2e", "1x0e + 2x1o")),
        (C(3), ("1x0e + 1x1o", "1x1o", "1x0e + 2x1o")),
        (SL(3), (TensorRep({1: 1, (1, 1): 1}), TensorRep({(1, 1): 1}), TensorRep({1: 2, (1, 1): 1}))),
        (S(3), (Nodes(3, "1x0e + 1x1o"), "1x1o", Nodes(3, "1x0e"))),
        (Product(SO(3), S(3)), (Nodes(3, "1x1o"), Nodes(3, "1x1o"), Nodes(3, "1x0e"))),
    ],
    ids=repr,
)
def test_allowed_maps_commute_with_elements_and_projection_is_one(group, reps):
    projector = BilinearProjector(group, *reps)
    weight = draw(projector)
    assert projector.rank > 0
    assert (projector(weight) - weight).norm() < 1e-10
    a, b = torch.randn(2, *projector.shape, dtype=torch.float64)
    assert torch.allclose((projector(a) * b).sum(), (a * projector(b)).sum(), atol=1e-9)
    for g in group.sample(2, generator=torch.Generator().manual_seed(1)):
        first, second, out = (matrix_of(group, projector_rep, g) for projector_rep in map(parse_rep, reps))
        moved = torch.einsum("oij,ia,jb->oab", weight, first, second)
        assert torch.allclose(moved, torch.einsum("oc,cab->oab", out, weight), atol=1e-9)


def parse_rep(rep):
    return Irreps(rep) if isinstance(rep, str) else rep


@pytest.mark.parametrize("l", [(1, 1, 2), (2, 3, 4), (4, 4, 3)])
def test_three_j_symbols_span_the_null_space(l):  # noqa: E741
    first, second, out = (segments(Irreps([(1, (degree, 1))]))[0].copy for degree in l)
    group = SO(3)
    constraints = []
    for a in group.generators:
        x, y = group.algebra(first, a), group.algebra(second, a)
        pair = kron(x, torch.eye(len(y)).double()) + kron(torch.eye(len(x)).double(), y)
        constraints.append((group.algebra(out, a), pair))
    numeric = solve_pair(constraints, out.dim, first.dim * second.dim)
    space = product_space(group, out, first, second)
    assert numeric.rank == space.rank == 1
    assert torch.allclose(numeric.complement(), space.complement(), atol=1e-10)


def test_range_is_that_of_e3nn():
    reps = "2x0e + 1x1o", "1x1o + 1x2e", "1x0e + 2x1o + 1x2e"
    product = o3.FullyConnectedTensorProduct(*reps)
    eye = [torch.eye(Irreps(rep).dim) for rep in reps[:2]]
    rows = product(eye[0].repeat_interleave(len(eye[1]), 0), eye[1].repeat(len(eye[0]), 1))
    weight = rows.T.reshape(-1, len(eye[0]), len(eye[1]))
    projector = BilinearProjector(O(3), *reps)
    assert projector.rank == product.weight_numel
    assert projector.residual(weight).abs().max() < 1e-5


def test_several_groups_and_layout_of_mixed_tensors():
    both = BilinearProjector([SO2("x"), SO2("z")], "1x1o", "1x1o", "1x1o")
    assert both.rank == 1
    # a matrix times a matrix, T(1, 1) x T(1, 1) -> T(1, 1)
    eye = torch.eye(3, dtype=torch.float64)
    product = torch.einsum("ap,bq,rs->abprsq", eye, eye, eye).reshape(9, 9, 9)
    projector = BilinearProjector(SL(3), *[TensorRep({(1, 1): 1})] * 3).double()
    assert projector.residual(product).abs().max() < 1e-12


def test_dtype_gradient_and_errors():
    projector = BilinearProjector(SO(3), "2x1o", "1x1o", "1x1o")
    weight = torch.randn(3, 6, 3, requires_grad=True)
    (0.5 * projector.residual(weight).square().sum()).backward()
    assert torch.allclose(weight.grad, projector.residual(weight.detach()), atol=1e-6)
    with pytest.raises(ValueError, match=r"weight must be \[3, 6, 3\], got \[3, 3, 6\]"):
        projector(torch.zeros(3, 3, 6))
    for rep in (Positions(1), LogSizes(1)):
        with pytest.raises(ValueError, match="bilinear maps must be between"):
            BilinearProjector(T(3), rep, "1x0e", "1x0e")


def test_set_up_is_quick():
    product_space.cache_clear()
    start = time.process_time()
    rep = "2x0e + 2x1o + 1x2e + 1x3o + 1x4e"
    BilinearProjector(O(3), rep, rep, rep)
    assert time.process_time() - start < 3.0
