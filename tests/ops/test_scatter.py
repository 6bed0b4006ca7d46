"""geoeq.ops.scatter against loops, at its edges, and under torch's transforms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoeq.ops import (
    scatter,
    scatter_max,
    scatter_mean,
    scatter_min,
    scatter_softmax,
    scatter_std,
    scatter_sum,
)

REDUCTIONS = {
    scatter_sum: lambda rows: rows.sum(0),
    scatter_mean: lambda rows: rows.mean(0),
    scatter_max: lambda rows: rows.amax(0),
    scatter_min: lambda rows: rows.amin(0),
    scatter_std: lambda rows: rows.std(0) if len(rows) > 1 else torch.zeros_like(rows[0]),
}
ALL = [*REDUCTIONS, scatter_softmax]
SMOOTH = [scatter_sum, scatter_mean, scatter_softmax]


def _case(n_edges=7, n_nodes=4, shape=(3,), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    src = torch.randn(n_edges, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return src, torch.randint(0, n_nodes, (n_edges,), generator=generator)


@pytest.mark.parametrize("reduce", REDUCTIONS, ids=lambda f: f.__name__)
@settings(max_examples=25, deadline=None)
@given(
    n_edges=st.integers(0, 9),
    n_nodes=st.integers(1, 5),
    shape=st.sampled_from([(), (1,), (3,), (2, 3)]),
    seed=st.integers(0, 99),
)
def test_equals_a_loop(reduce, n_edges, n_nodes, shape, seed):
    src, index = _case(n_edges, n_nodes, shape, seed=seed)
    out = reduce(src, index, n_nodes)
    assert out.shape == (n_nodes, *shape)
    for i in range(n_nodes):
        rows = src[index == i]
        expected = REDUCTIONS[reduce](rows) if len(rows) else torch.zeros(shape, dtype=src.dtype)
        torch.testing.assert_close(out[i], expected)


@settings(max_examples=25, deadline=None)
@given(n_edges=st.integers(0, 9), shape=st.sampled_from([(), (3,), (2, 3)]), seed=st.integers(0, 99))
def test_softmax_equals_a_loop(n_edges, shape, seed):
    src, index = _case(n_edges, 4, shape, seed=seed)
    out = scatter_softmax(src, index, 4)
    assert out.shape == src.shape
    for i in range(4):
        torch.testing.assert_close(out[index == i], src[index == i].softmax(0))


def test_softmax_is_stable():
    src = torch.tensor([1e4, 1e4, -1e4, 300.0])
    out = scatter_softmax(src, torch.tensor([0, 0, 1, 1]), 3)
    torch.testing.assert_close(out, torch.tensor([0.5, 0.5, 0.0, 1.0]))


@pytest.mark.parametrize("reduce", ALL, ids=lambda f: f.__name__)
def test_no_nodes(reduce):
    assert reduce(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 0).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduce", ALL, ids=lambda f: f.__name__)
def test_dtype_is_kept(reduce, dtype):
    src, index = _case(dtype=dtype)
    out = reduce(src, index, 4)
    assert out.dtype == dtype
    exact = reduce(src.double(), index, 4)
    torch.testing.assert_close(out.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_mean_counts_far_in_half_precision():
    n_edges = 5000
    mean = scatter_mean(torch.ones(n_edges, dtype=torch.float64), torch.zeros(n_edges, dtype=torch.int64), 1)
    half = scatter_mean(torch.full((n_edges,), 2.0**-8).half(), torch.zeros(n_edges, dtype=torch.int64), 1)
    assert mean.item() == 1.0
    assert half.item() <= 2.0**-8


@pytest.mark.parametrize("reduce", ALL, ids=lambda f: f.__name__)
def test_gradients(reduce):
    src, index = _case()
    assert torch.autograd.gradcheck(lambda s: reduce(s, index, 4), src.requires_grad_())


@pytest.mark.parametrize("reduce", SMOOTH, ids=lambda f: f.__name__)
def test_second_gradients(reduce):
    src, index = _case()
    assert torch.autograd.gradgradcheck(lambda s: reduce(s, index, 4), src.requires_grad_())


def test_sum_under_vmap_and_jvp():
    src, index = _case()
    batch = torch.stack([src, 2 * src])
    torch.testing.assert_close(
        torch.func.vmap(lambda s: scatter_sum(s, index, 4))(batch),
        torch.stack([scatter_sum(s, index, 4) for s in batch]),
    )
    _, tangent = torch.func.jvp(lambda s: scatter_sum(s, index, 4), (src,), (src,))
    torch.testing.assert_close(tangent, scatter_sum(src, index, 4))


@pytest.mark.parametrize("reduce", ALL, ids=lambda f: f.__name__)
def test_traces_without_graph_break(reduce):
    src, index = _case()
    compiled = torch.compile(reduce, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(src, index, 4), reduce(src, index, 4))


@pytest.mark.parametrize("reduce", ALL, ids=lambda f: f.__name__)
def test_wrong_shapes(reduce):
    with pytest.raises(ValueError, match=r"index must be \[E\] and src \[E, \.\.\.\], got \[2\] and \[3, 1\]"):
        reduce(torch.zeros(3, 1), torch.zeros(2, dtype=torch.int64), 4)


def test_scatter_picks_by_name():
    src, index = _case()
    for function in REDUCTIONS:
        name = function.__name__.removeprefix("scatter_")
        assert torch.equal(scatter(src, index, 4, name), function(src, index, 4))
    with pytest.raises(ValueError, match=r"reduce must be one of \['sum', 'mean', 'max', 'min', 'std'\], got 'mul'"):
        scatter(src, index, 4, "mul")


def test_std_of_rows_far_from_zero():
    src = torch.tensor([1e6, 1e6 + 1, 1e6 + 2])
    index = torch.zeros(3, dtype=torch.int64)
    assert scatter_std(src, index, 1).item() == pytest.approx(1.0, abs=1e-6)
    assert scatter_std(src, index, 1, correction=0).item() == pytest.approx((2 / 3) ** 0.5, abs=1e-6)


def test_std_of_equal_rows_has_gradient_zero():
    src = torch.ones(3, requires_grad=True)
    scatter_std(src, torch.tensor([0, 0, 1]), 3).sum().backward()
    assert torch.equal(src.grad, torch.zeros(3))
