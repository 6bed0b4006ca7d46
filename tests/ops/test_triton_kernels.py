"""The Triton kernels: tile borders, half precision, offsets past 2^31, NaN; and that they compile for an H100."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from geoeq.ops import (
    EdgeMLPWeights,
    TensorProduct,
    edge_mlp_scatter,
    gather_mul_scatter,
    segment,
    tensor_product_scatter,
    use_backend,
)
from geoeq.ops.backends import interpreting
from geoeq.ops.neighbours import CSR

NEEDS_TRITON = pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
RUNS = pytest.mark.skipif(
    not find_spec("triton") or not (torch.cuda.is_available() or interpreting()),
    reason="needs triton and a GPU, or triton and TRITON_INTERPRET=1",
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _both(function):
    with use_backend("torch"):
        expected = function()
    with use_backend("triton"):
        return function(), expected


def _edges(n_nodes, n_edges):
    """Half of all edges end at node 0, many times a tile."""
    edge_index = torch.randint(0, n_nodes, (2, n_edges), device=DEVICE)
    edge_index[1, ::2] = 0
    return edge_index


@RUNS
@pytest.mark.parametrize("channels", [1, 5, 130])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_sums_of_products_at_tile_borders(channels, dtype):
    edge_index = _edges(7, 90)
    x = torch.randn(7, channels, device=DEVICE).to(dtype).requires_grad_()
    weight = torch.randn(90, channels, device=DEVICE).to(dtype).requires_grad_()

    def run():
        out = gather_mul_scatter(x, weight, edge_index)
        return [out, *torch.autograd.grad(out.square().sum(), (x, weight))]

    found, expected = _both(run)
    # The reference rounds every partial sum to half precision; the kernel rounds once.
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2}[dtype]
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).detach().abs().max()) <= limit * float(b.detach().abs().max())


@RUNS
@pytest.mark.parametrize(("hidden", "width", "n_attr"), [(16, 16, 0), (20, 7, 3), (64, 40, 16)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_messages_at_tile_borders(hidden, width, n_attr, dtype):
    n_nodes, n_edges = 37, 150
    edge_index = _edges(n_nodes - 2, n_edges)
    shapes = [(n_nodes, 3), (hidden, 3), (hidden, 3), (hidden, n_attr), (hidden,), (width, hidden), (width,)]
    tensors = [(0.5 * torch.randn(s, device=DEVICE)).to(dtype).requires_grad_() for s in [*shapes, (n_edges, n_attr)]]

    def run():
        out = edge_mlp_scatter(tensors[0], edge_index, EdgeMLPWeights(*tensors[1:-1]), tensors[-1])
        return [out, *torch.autograd.grad(out.square().mean(), tensors)]

    found, expected = _both(run)
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-2}[dtype]
    for a, b in zip(found, expected, strict=True):
        if b.numel():
            assert float((a - b).detach().abs().max()) <= limit * float(b.detach().abs().max())


@RUNS
@pytest.mark.parametrize("second", ["0e + 1o", "{0}x0e + {0}x1o"], ids=["harmonics", "as wide as x"])
@pytest.mark.parametrize("channels", [1, 5, 130])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_tensor_products_at_tile_borders(channels, dtype, second):
    irreps = f"{channels}x0e + {channels}x1o"
    product = TensorProduct(irreps, second.format(channels), irreps, "uvu" if "{" not in second else "uuu")
    edge_index = _edges(5, 20)
    shapes = [(5, 4 * channels), (20, product.irreps2.dim), (20, product.weight_numel)]
    tensors = [torch.randn(shape, device=DEVICE).to(dtype).requires_grad_() for shape in shapes]

    def run():
        out = tensor_product_scatter(product, *tensors, edge_index, 5)
        return [out, *torch.autograd.grad(out.square().mean(), tensors)]

    found, expected = _both(run)
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2}[dtype]
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).detach().abs().max()) <= limit * float(b.detach().abs().max())


@RUNS
@pytest.mark.parametrize("most", [1, 9, 64])
def test_tensor_products_in_parts(monkeypatch, most):
    """Outputs are cut into parts that fit the registers; senders may be other nodes than receivers."""
    monkeypatch.setattr("geoeq.ops.triton_kernels.tensor_product.MOST_SUMS", most)
    product = TensorProduct("2x0e + 2x1o", "0e + 1o", "2x0e + 2x1o + 2x1e + 2x2e", "uvu")
    edge_index = torch.stack([torch.randint(0, 7, (9,)), torch.randint(0, 3, (9,))]).to(DEVICE)
    shapes = [(7, 8), (9, 4), (product.weight_numel,)]
    tensors = [torch.randn(shape, dtype=torch.float64, device=DEVICE).requires_grad_() for shape in shapes]

    def run():
        out = tensor_product_scatter(product, *tensors, edge_index, 3)
        return [out, *torch.autograd.grad(out.square().sum(), tensors)]

    found, expected = _both(run)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@RUNS
@pytest.mark.parametrize("reduce", ["sum", "max", "min"])
def test_segments_with_nan(reduce):
    src = torch.randn(40, 3, device=DEVICE)
    src[5, 1] = float("nan")
    ptr = torch.tensor([0, 0, 30, 33, 40], device=DEVICE)
    found, expected = _both(lambda: segment(src, ptr, reduce))
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found.isnan().sum() == 1


@RUNS
def test_offsets_past_two_to_the_31():
    """Memory is only set aside: of the edge tensor two rows are ever touched."""
    from geoeq.ops.triton_kernels.gather_mul_scatter import sum_products

    channels = 64
    n_edges = 2**31 // channels + 8
    try:
        weight = torch.empty(n_edges, channels, dtype=torch.float16, device=DEVICE)
    except (RuntimeError, torch.OutOfMemoryError):
        pytest.skip("4 GB of address space are not to be had")
    weight[-1], weight[1] = 2, 3
    x = torch.ones(1, channels, dtype=torch.float16, device=DEVICE)
    index = lambda *values: torch.tensor(values, device=DEVICE)  # noqa: E731
    out = sum_products(x, weight, CSR(index(0, 2), index(1, n_edges - 1), index(0, 0)))
    assert torch.equal(out, torch.full_like(out, 5))


COMPILE = """
import re, subprocess, tempfile
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from geoeq.ops import TensorProduct
from geoeq.ops.prepared_product import prepare
from geoeq.ops.triton_kernels import edge_mlp_scatter as messages, gather_mul_scatter as products, segment
from geoeq.ops.triton_kernels import tensor_product

INDICES, SIZES = ("ptr", "order", "other", "index_a", "index_b"), (
    "channels", "edges", "nodes", "blocks", "hidden", "width", "n_attr", "w_row")
stack = []
irreps = "128x0e + 128x1o + 128x2e"
(group,) = prepare(TensorProduct(irreps, "0e + 1o + 2e", irreps, "uvu")._recipe).groups

def shared_memory(kernel, constants, pointer, num_warps=4):
    parts = {"g_w": "*fp32", "g_b": "*fp32", "g_w_attr": "*fp32"} if pointer == "*bf16" else {}
    kind = lambda n: "constexpr" if n in constants else "*i64" if n in INDICES else (
        "i32" if n in SIZES else parts.get(n, pointer))
    source = ASTSource(fn=kernel, signature={n: kind(n) for n in kernel.arg_names}, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    with tempfile.NamedTemporaryFile() as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        show = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(show, check=True, capture_output=True, text=True)
    stack.append(int(re.search(r"STACK:(\\d+)", usage.stdout + usage.stderr)[1]))
    return compiled.metadata.shared

for pointer, dtype, width in (
    ("*fp32", torch.float32, 64), ("*bf16", torch.bfloat16, 128), ("*fp64", torch.float64, 32)):
    acc = tl.float64 if pointer == "*fp64" else tl.float32
    shared_memory(products.sum_products_kernel, dict(EDGES=16, CHANNELS=64, SUM=acc), pointer, 1)
    shared_memory(products.edge_products_kernel, dict(EDGES=64, CHANNELS=64), pointer)
    for kernel in tensor_product._kernels(group.product.plan, True, 11):
        shared_memory(kernel, dict(CHANNELS=128, SUM=acc), pointer)
        assert stack[-1] == 0, (kernel, stack)  # every component in a register
    for reduce in ("sum", "max", "min"):
        shared_memory(segment.segment_kernel, dict(ROWS=16, CHANNELS=64, ACCUMULATE=acc, REDUCE=reduce), pointer, 1)
    for n_attr in (0, 16):
        constants = messages._settings(dtype, torch.zeros(1, n_attr), torch.zeros(width, width), "silu")
        used = [shared_memory(messages.forward_kernel, constants, pointer)]
        for receivers in (True, False):
            used += [shared_memory(messages.backward_kernel, {**constants, "RECEIVERS": receivers}, pointer)]
        assert max(used) <= 227 * 1024, (pointer, n_attr, used)
        print(pointer, n_attr, used)
"""


@NEEDS_TRITON
@pytest.mark.slow
def test_kernels_compile_for_an_h100_and_fit_its_shared_memory(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
