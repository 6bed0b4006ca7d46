"""Every backend of an operation gives the same values, first and second derivatives, bit for bit the same each time."""

from contextlib import suppress
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from geoeq.ops import (
    EdgeMLPWeights,
    TensorProduct,
    edge_mlp_scatter,
    gather_mul_scatter,
    segment,
    segment_softmax,
    tensor_product_scatter,
    use_backend,
)
from geoeq.ops.backends import _INSTALLED, choose_backend, interpreting

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_TORCH_SCATTER = pytest.mark.skipif(not find_spec("torch_scatter"), reason="torch-scatter is not installed")
NEEDS_TRITON = pytest.mark.skipif(
    not find_spec("triton") or not (torch.cuda.is_available() or interpreting()),
    reason="needs triton and a GPU, or triton and TRITON_INTERPRET=1",
)
BACKENDS = [
    pytest.param("torch_scatter", marks=NEEDS_TORCH_SCATTER),
    pytest.param("triton", marks=NEEDS_TRITON),
]
# The last node has no edges; the first of the second graph neither.
EDGES = {
    "some": torch.tensor([[0, 1, 2, 2, 4, 0, 1], [1, 1, 0, 3, 3, 0, 1]]),
    "none": torch.zeros(2, 0, dtype=torch.int64),
}
PTR = {"some": torch.tensor([0, 0, 3, 3, 6, 7, 7]), "none": torch.zeros(7, dtype=torch.int64)}
NODES = 6


def _randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()


def _message_weights(edges: Tensor) -> list[Tensor]:
    shapes = [(NODES, 3), (5, 3), (5, 3), (5, 2), (5,), (4, 5), (4,), (edges.shape[1], 2)]
    return [_randn(*shape) for shape in shapes]


SECOND = {"one harmonic": "0e + 1o", "many": "2x0e + 2x1o", "as x": "2x0e + 2x1o"}
# Of entries of two multiplicities, with and without weights, and one output that no path reaches.
INSTRUCTIONS = [(0, 0, 0, "uvu", True), (1, 1, 2, "uvu", True), (1, 1, 0, "uvu", False), (0, 1, 1, "uvu", True, 2.0)]


def _product(name: str, n_edges: int):
    """A product summed at receivers, or of rows, and its arguments."""
    kind, weights = name.split(", ")
    mode = "uuu" if kind == "as x" else "uvu"
    product = TensorProduct("2x0e + 2x1o", SECOND[kind], "2x0e + 2x1o + 2x1e + 3x0o", mode)
    if weights == "of some paths":
        product = TensorProduct("2x0e + 2x1o", "0e + 1o", "2x0e + 2x1o + 2x1e + 3x0o", instructions=INSTRUCTIONS)
    rows = () if weights == "shared" else (n_edges,)
    return product, [_randn(n_edges, product.irreps2.dim), _randn(*rows, product.weight_numel)]


def _case(name: str, which: str):
    edges, ptr = EDGES[which].to(DEVICE), PTR[which].to(DEVICE)
    n_edges = edges.shape[1]
    if name == "gather_mul_scatter":
        return lambda x, w: gather_mul_scatter(x, w, edges), [_randn(NODES, 2, 3), _randn(n_edges, 2, 3)]
    if name.startswith("edge_mlp_scatter"):
        activation = name.split()[1]
        return (
            lambda h, *w: edge_mlp_scatter(h, edges, EdgeMLPWeights(*w[:-1]), w[-1], activation=activation),
            _message_weights(edges),
        )
    if name.startswith("tensor_product_scatter"):
        product, rest = _product(name.removeprefix("tensor_product_scatter "), n_edges)
        return lambda x, y, w: tensor_product_scatter(product, x, y, w, edges, NODES), [_randn(NODES, 8), *rest]
    if name.startswith("tensor_product"):
        product, rest = _product(name.removeprefix("tensor_product "), n_edges)
        return product, [_randn(n_edges, 8), *rest]
    if name == "segment_softmax":
        return lambda src: segment_softmax(src, ptr), [_randn(n_edges, 2)]
    return lambda src: segment(src, ptr, name.split()[1]), [_randn(n_edges, 2, 3)]


OPERATIONS = [
    "gather_mul_scatter",
    "edge_mlp_scatter silu",
    "edge_mlp_scatter relu",
    "tensor_product_scatter one harmonic, per edge",
    "tensor_product_scatter one harmonic, shared",
    "tensor_product_scatter one harmonic, of some paths",
    "tensor_product_scatter many, per edge",
    "tensor_product_scatter as x, per edge",
    "tensor_product as x, shared",
    "segment sum",
    "segment mean",
    "segment max",
    "segment min",
    "segment std",
    "segment_softmax",
]


def _value_and_derivatives(function, inputs: list[Tensor]) -> list[Tensor]:
    """The value, and gradients of one number made from it and of another made from the first gradients."""
    out = function(*inputs)
    mix = lambda tensors: sum((t * torch.linspace(-1, 2, t.numel()).view(t.shape).to(t)).sin().sum() for t in tensors)  # noqa: E731
    first = torch.autograd.grad(mix([out]), inputs, create_graph=True)
    second = torch.autograd.grad(mix(first), inputs, allow_unused=True)
    return [out, *first, *(torch.zeros_like(x) if g is None else g for g, x in zip(second, inputs, strict=True))]


@pytest.mark.parametrize("which", EDGES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_backends_agree(backend, name, which):
    function, inputs = _case(name, which)
    with use_backend("torch"):
        expected = _value_and_derivatives(function, inputs)
    with use_backend(backend):
        found = _value_and_derivatives(function, inputs)
        again = _value_and_derivatives(function, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("which", EDGES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_plain_torch_repeats_itself_and_keeps_shapes(name, which):
    function, inputs = _case(name, which)
    with use_backend("torch"):
        found, again = (_value_and_derivatives(function, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    for gradient, tensor in zip(found[1:], [*inputs, *inputs], strict=True):
        assert gradient.shape == tensor.shape
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_compiles_without_graph_break(name):
    function, inputs = _case(name, "some")
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, found = function(*inputs), compiled(*inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), inputs), torch.autograd.grad(expected.square().sum(), inputs)
    )


@pytest.mark.parametrize("name", ["triton", "torch_scatter"])
def test_backend_that_is_not_there(name, monkeypatch):
    monkeypatch.setitem(_INSTALLED, name, False)
    with pytest.raises(ValueError, match=rf"backend must be one of those installed, \['torch'.*\], got '{name}'"):
        use_backend(name).__enter__()
    assert choose_backend(torch.zeros(1), name) == "torch"


def test_override_ends_with_its_block():
    x = torch.zeros(1)
    before = choose_backend(x, "triton", "torch_scatter")
    with suppress(RuntimeError), use_backend("torch"):
        assert choose_backend(x, "torch_scatter") == "torch"
        raise RuntimeError
    assert choose_backend(x, "triton", "torch_scatter") == before


def test_unknown_backend():
    with pytest.raises(ValueError, match="got 'cuda'"), use_backend("cuda"):
        pass
