"""geoeq.ops.segment and geoeq.ops.neighbours against loops and against scatter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.ops import neighbours, scatter, scatter_softmax, segment, segment_softmax
from geoeq.ops.segment import segment_index

REDUCTIONS = ["sum", "mean", "max", "min", "std"]
lengths = st.lists(st.integers(0, 4), min_size=1, max_size=6)


def _case(counts, shape=(3,)):
    ptr = torch.tensor([0, *counts]).cumsum(0)
    index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return torch.randn(int(ptr[-1]), *shape, dtype=torch.float64), ptr, index


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(counts=lengths, shape=st.sampled_from([(), (3,), (2, 3), (0,)]))
def test_equals_scatter(reduce, counts, shape):
    src, ptr, index = _case(counts, shape)
    torch.testing.assert_close(segment(src, ptr, reduce), scatter(src, index, len(counts), reduce))
    torch.testing.assert_close(segment_softmax(src, ptr), scatter_softmax(src, index, len(counts)))
    assert torch.equal(segment_index(ptr, len(src)), index)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradients(reduce):
    src, ptr, _ = _case([2, 0, 3, 1], (2,))
    src.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: segment(s, ptr, reduce), src)
    assert torch.autograd.gradgradcheck(lambda s: segment(s, ptr, reduce), src)


def test_ties_share_the_gradient():
    src = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    segment(src, torch.tensor([0, 3]), "max").sum().backward()
    assert torch.equal(src.grad, torch.tensor([0.5, 0.5, 0.0]))


def test_no_segments():
    assert segment(torch.zeros(0, 3), torch.zeros(1, dtype=torch.int64)).shape == (0, 3)


def test_under_vmap():
    src, ptr, _ = _case([2, 0, 3])
    batch = torch.stack([src, 2 * src])
    found = torch.func.vmap(lambda s: segment(s, ptr, "mean"))(batch)
    torch.testing.assert_close(found, torch.stack([segment(s, ptr, "mean") for s in batch]))


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"ptr must be \[N \+ 1\] of int64 and src \[E, \.\.\.\], got \[0\] and \[2\]"):
        segment(torch.zeros(2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="got 'mul'"):
        segment(torch.zeros(2), torch.tensor([0, 2]), "mul")


@given(edges=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_neighbours_list_every_edge_at_both_ends(edges):
    edge_index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
    graph = neighbours(edge_index, 6)
    assert graph.num_nodes == 6
    for rows, own, other in ((graph.incoming, edge_index[1], edge_index[0]), (graph.outgoing, *edge_index)):
        assert rows.order.sort().values.tolist() == list(range(len(edges)))
        assert torch.equal(rows.other, other[rows.order])
        for node in range(6):
            mine = rows.order[rows.ptr[node] : rows.ptr[node + 1]]
            assert mine.tolist() == (own == node).nonzero().flatten().tolist()


@pytest.mark.parametrize("edge_index", [torch.zeros(3, 2, dtype=torch.int64), torch.zeros(2, 2)])
def test_neighbours_of_wrong_edges(edge_index):
    with pytest.raises(ValueError, match=r"edge_index must be \[2, E\] of int64"):
        neighbours(edge_index, 3)
