"""gather_mul_scatter against gather, product and sum, whole and in tiles."""

import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.ops import gather_mul_scatter, neighbours, scatter_sum

module = importlib.import_module("geoeq.ops.gather_mul_scatter")


def _case(n_nodes=5, n_edges=9, shape=(3,), dtype=torch.float64):
    x = torch.randn(n_nodes, *shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(n_edges, *shape, dtype=dtype, requires_grad=True)
    return x, weight, torch.randint(0, n_nodes, (2, n_edges))


def _reference(x, weight, edge_index):
    return scatter_sum(x[edge_index[0]] * weight, edge_index[1], len(x))


@pytest.mark.parametrize("tile", [1, 8, 1 << 19])
@given(n_edges=st.integers(0, 9), shape=st.sampled_from([(), (1,), (3,), (2, 3), (0,)]))
def test_equals_its_parts(tile, n_edges, shape):
    x, weight, edge_index = _case(n_edges=n_edges, shape=shape)
    before, module.TILE = module.TILE, tile
    try:
        found = gather_mul_scatter(x, weight, edge_index)
        found_gradients = torch.autograd.grad(found.square().sum(), (x, weight))
    finally:
        module.TILE = before
    expected = _reference(x, weight, edge_index)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradients, torch.autograd.grad(expected.square().sum(), (x, weight)))


def test_given_neighbours_change_nothing():
    x, weight, edge_index = _case()
    graph = neighbours(edge_index, 5)
    assert torch.equal(gather_mul_scatter(x, weight, edge_index, graph), gather_mul_scatter(x, weight, edge_index))


def test_gradients_of_both_orders_in_tiles(monkeypatch):
    monkeypatch.setattr(module, "TILE", 8)
    x, weight, edge_index = _case()
    function = lambda x, weight: gather_mul_scatter(x, weight, edge_index)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


def test_keeps_nothing_but_its_inputs():
    x, weight, edge_index = _case(n_nodes=5, n_edges=40)
    inputs = {tensor.untyped_storage().data_ptr() for tensor in (x, weight, edge_index)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gather_mul_scatter(x, weight, edge_index)
    assert len(kept) == 4
    assert all(tensor.untyped_storage().data_ptr() in inputs for tensor in kept)


def test_transforms_take_the_plain_form():
    x, weight, edge_index = _case()
    _, tangent = torch.func.jvp(lambda x: gather_mul_scatter(x, weight, edge_index), (x,), (x,))
    torch.testing.assert_close(tangent, _reference(x, weight, edge_index))
    rows = torch.func.vmap(lambda x: gather_mul_scatter(x, weight, edge_index))(torch.stack([x, x]))
    torch.testing.assert_close(rows[1], _reference(x, weight, edge_index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    x, weight, edge_index = _case(dtype=dtype)
    assert gather_mul_scatter(x, weight, edge_index).dtype == dtype
    assert gather_mul_scatter(x, weight.double(), edge_index).dtype == torch.float64
    exact = _reference(x.double(), weight.double(), edge_index)
    found = gather_mul_scatter(x, weight, edge_index).double()
    torch.testing.assert_close(
        found, exact, rtol=0, atol=8 * torch.finfo(dtype).eps * float(exact.abs().max().detach())
    )


def test_wrong_shapes():
    x, weight, edge_index = _case()
    with pytest.raises(ValueError, match=r"weight must be \[E, \.\.\.\] = \[9, 3\] for x \[N, \.\.\.\], got \[9, 2\]"):
        gather_mul_scatter(x, weight[:, :2], edge_index)
    with pytest.raises(ValueError, match=r"edge_index must be \[2, E\] of int64, got \[9\]"):
        gather_mul_scatter(x, weight, edge_index[0])
