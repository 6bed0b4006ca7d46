"""edge_mlp_scatter against the message network written out on edges."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from geoeq.ops import EdgeMLPWeights, edge_mlp_scatter, neighbours, scatter_sum

module = importlib.import_module("geoeq.ops.edge_mlp_scatter")
ACTIVATIONS = {"silu": F.silu, "relu": F.relu}


def _case(n_edges=9, n_attr=2, dtype=torch.float64):
    shapes = [(5, 3), (7, 3), (7, 3), (7, n_attr), (7,), (4, 7), (4,), (n_edges, n_attr)]
    tensors = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    return tensors, torch.randint(0, 4, (2, n_edges))  # node 4 has no edges


def _run(edge_index, activation="silu", graph=None):
    return lambda h, *w: edge_mlp_scatter(
        h, edge_index, EdgeMLPWeights(*w[:-1]), w[-1], graph=graph, activation=activation
    )


def _reference(edge_index, activation="silu"):
    def run(h, w_receiver, w_sender, w_edge, b_in, w_out, b_out, edge_attr):
        inputs = torch.cat([h[edge_index[1]], h[edge_index[0]], edge_attr], 1)
        act = ACTIVATIONS[activation]
        message = act(F.linear(act(F.linear(inputs, torch.cat([w_receiver, w_sender, w_edge], 1), b_in)), w_out, b_out))
        return scatter_sum(message, edge_index[1], len(h))

    return run


@pytest.mark.parametrize("tile", [1, 20, 1 << 17])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("n_edges", "n_attr"), [(0, 2), (1, 2), (9, 0), (9, 3), (40, 1)])
def test_equals_the_network_written_out(monkeypatch, tile, activation, n_edges, n_attr):
    monkeypatch.setattr(module, "TILE", tile)
    tensors, edge_index = _case(n_edges, n_attr)
    found, expected = _run(edge_index, activation)(*tensors), _reference(edge_index, activation)(*tensors)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sin().sum(), tensors), torch.autograd.grad(expected.sin().sum(), tensors)
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_both_orders_in_tiles(monkeypatch, activation):
    monkeypatch.setattr(module, "TILE", 20)
    tensors, edge_index = _case()
    assert torch.autograd.gradcheck(_run(edge_index, activation), tensors)
    assert torch.autograd.gradgradcheck(_run(edge_index, activation), tensors)


def test_second_gradient_of_some_inputs():
    """A force is the gradient with respect to one input; its loss has gradients with respect to the others."""
    tensors, edge_index = _case()
    for frozen in (1, 5):
        tensors[frozen].requires_grad_(False)
    results = []
    for function in (_run(edge_index), _reference(edge_index)):
        (force,) = torch.autograd.grad(function(*tensors).sum(), tensors[-1], create_graph=True)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        results.append(torch.autograd.grad(force.square().sum(), wanted, allow_unused=True))
    torch.testing.assert_close(
        [g for g in results[0] if g is not None and g.any()], [g for g in results[1] if g is not None and g.any()]
    )


def test_no_edge_features():
    tensors, edge_index = _case(n_attr=0)
    h, w_receiver, w_sender, _, *rest, _ = tensors
    found = edge_mlp_scatter(h, edge_index, EdgeMLPWeights(w_receiver, w_sender, None, *rest))
    torch.testing.assert_close(found, _reference(edge_index)(*tensors))


def test_isolated_and_absent_nodes():
    tensors, edge_index = _case()
    assert torch.equal(_run(edge_index)(*tensors)[4], torch.zeros(4, dtype=torch.float64))
    empty, no_edges = _case(n_edges=0)
    assert _run(no_edges)(empty[0][:0], *empty[1:]).shape == (0, 4)


def test_keeps_nothing_as_long_as_the_edges():
    tensors, edge_index = _case(n_edges=500)
    inputs = {tensor.untyped_storage().data_ptr() for tensor in (*tensors, edge_index)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        _run(edge_index)(*tensors)
    made = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in inputs]
    assert made
    assert max(tensor.numel() for tensor in made) <= 5 * 7


def test_given_neighbours_change_nothing():
    tensors, edge_index = _case()
    graph = neighbours(edge_index, 5)
    assert torch.equal(_run(edge_index, graph=graph)(*tensors), _run(edge_index)(*tensors))


def test_autocast():
    tensors, edge_index = _case(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = _run(edge_index)(*tensors)
    gradients = torch.autograd.grad(out.float().square().sum(), tensors)
    assert out.dtype == torch.bfloat16
    exact = _run(edge_index)(*tensors)
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.1 * float(exact.detach().abs().max()))
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)


def test_transforms_take_the_plain_form():
    tensors, edge_index = _case()
    one = lambda h: _run(edge_index)(h, *tensors[1:])  # noqa: E731
    found = torch.func.vmap(one)(torch.stack([tensors[0], 2 * tensors[0]]))
    torch.testing.assert_close(found[1], one(2 * tensors[0]))


def test_wrong_arguments():
    (h, *weights, attr), edge_index = _case()
    weights = EdgeMLPWeights(*weights)
    with pytest.raises(ValueError, match=r"h must be \[N, 3\], got \[5, 2\]"):
        edge_mlp_scatter(h[:, :2], edge_index, weights, attr)
    with pytest.raises(ValueError, match=r"edge_attr must be \[E, A\] = \[9, 2\], got \[9, 0\]"):
        edge_mlp_scatter(h, edge_index, weights)
    with pytest.raises(ValueError, match=r"activation must be one of \['silu', 'relu'\], got 'gelu'"):
        edge_mlp_scatter(h, edge_index, weights, attr, activation="gelu")
