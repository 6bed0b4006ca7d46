"""Permutations inside classes."""

from collections import Counter

import pytest
import torch

from geoeq.groups import S
from geoeq.intertwiners import solve_pair
from geoeq.reps import IrrepCopy, Irreps, NodeCopy, Nodes, TensorCopy, TensorRep


def test_nodes_stay_in_their_class():
    group = S(5, classes=[0, 1, 0, 1, 1])
    x = torch.tensor([[0.0], [1.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    for g in group.sample(20):
        assert torch.equal(group.act(g, x, position=False), x)
    assert group.contains(group.sample(20)).all()
    assert not group.contains(S(5).sample(100)).all()
    assert S(5).contains(group.sample(20)).all()


@pytest.mark.parametrize("group", [S(3), S(4, classes=[0, 1, 0, 1])], ids=repr)
def test_all_permutations_come_with_equal_chances(group):
    drawn = Counter(tuple(g.argmax(1).tolist()) for g in group.sample(6000, generator=torch.Generator().manual_seed(0)))
    order = {3: 6, 4: 4}[group.n]
    assert len(drawn) == order
    assert max(abs(count * order / 6000 - 1) for count in drawn.values()) < 0.15


@pytest.mark.parametrize(
    ("ranks", "dimension"),
    [((1, 0), 2), ((1, 1), 2 + 2 + 2), ((2, 1), 22)],
)
def test_orbits_of_two_classes(ranks, dimension):
    """Classes of 3 nodes each: by inclusion of Bell numbers, sum over the splits of indices among the classes."""
    group = S(6, classes=[0, 0, 0, 1, 1, 1])
    assert group.projector(TensorRep({ranks[1]: 1}), TensorRep({ranks[0]: 1})).rank == dimension


@pytest.mark.parametrize("classes", [None, [0, 0, 1, 2], [0, 1, 1, 0]])
@pytest.mark.parametrize(
    "copies",
    [
        (TensorCopy(1, 4), TensorCopy(2, 4)),
        (NodeCopy(IrrepCopy(1, 1), 4),) * 2,
        (NodeCopy(IrrepCopy(0, 1), 4, 2), NodeCopy(IrrepCopy(1, 1), 4)),
    ],
    ids=repr,
)
def test_orbits_equal_null_space(classes, copies):
    group = S(4, classes=classes)
    numeric = solve_pair([[group.matrix(copy, h) for copy in copies] for h in group.discrete], *(c.dim for c in copies))
    if isinstance(copies[0], NodeCopy):
        out, into = (Nodes(4, Irreps([(1, (copy.inner.l, 1))]), copy.order) for copy in copies)
        space = group.projector(into, out).blocks[0][0].space
    else:
        space = group.projector(TensorRep({2: 1}), TensorRep({1: 1})).blocks[0][0].space
    assert torch.allclose(space.complement(), numeric.complement(), atol=1e-10)


def test_classes_have_one_name():
    assert S(3, classes=[7, 7, 7]) == S(3)
    assert S(3, classes=[2, 0, 2]) == S(3, classes=[0, 1, 0])
    assert S(3, classes=[0, 1, 0]) != S(3)
    with pytest.raises(ValueError, match="class of each of 3 nodes, got 2"):
        S(3, classes=[0, 1])
