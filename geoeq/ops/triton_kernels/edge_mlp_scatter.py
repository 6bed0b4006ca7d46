"""The message network of a block of nodes, summed per node, and its gradients by running it again.

A program owns a block of nodes and walks through their edges in tiles. Matrix products run on tiles [EDGES, ...]; the
sum per node is one more product, with a matrix of zeros and ones that says which edge belongs to which node. Gradients
of the weights are summed in registers over all blocks of a program; the programs' parts are added at the end.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of kernels are pointers and numbers of the device, which have no types here.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from geoeq.ops.neighbours import CSR

__all__ = ["sum_messages", "sum_messages_backward"]

NODES = 16  # the least that a matrix product takes
PROGRAMS = 528  # four for each multiprocessor of the largest GPU


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        return z / (1 + tl.exp(-z))
    return tl.maximum(z, 0.0)


@triton.jit
def slope(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        gate = 1 / (1 + tl.exp(-z))
        return gate * (1 + z * (1 - gate))
    return tl.where(z > 0, 1.0, 0.0).to(z.dtype)


@triton.jit
def load_matrix(start, rows, columns, row, column):
    """Rows ``row`` of a matrix with that many columns; 0 outside."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(start + row[:, None].to(tl.int64) * columns + column[None, :], mask, 0.0)


@triton.jit
def edges_of_block(ptr, order, other, first, nodes, slot, used, NODES: tl.constexpr):
    """Edge, far end and own node of each slot, and the matrix [NODES, EDGES] of who owns what."""
    node = first + tl.arange(0, NODES)
    begin = tl.load(ptr + tl.minimum(node, nodes))
    end = tl.load(ptr + tl.minimum(node + 1, nodes))
    member = (slot[None, :] >= begin[:, None]) & (slot[None, :] < end[:, None])
    passed = tl.sum((slot[None, :] >= end[:, None]).to(tl.int64), 0)
    own = tl.minimum(first + passed, nodes - 1)
    return tl.load(order + slot, used, 0), tl.load(other + slot, used, 0), own, member


@triton.jit
def forward_kernel(
    p,
    q,
    attr,
    w_attr,
    w,
    b,
    out,
    ptr,
    order,
    other,
    nodes,
    hidden,
    width,
    n_attr,
    NODES: tl.constexpr,
    EDGES: tl.constexpr,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    ATTR: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EXACT: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * NODES
    begin, end = tl.load(ptr + first), tl.load(ptr + tl.minimum(first + NODES, nodes))
    h, k, a = tl.arange(0, HIDDEN), tl.arange(0, WIDTH), tl.arange(0, max(ATTR, 1))
    w_tile = load_matrix(w, width, hidden, k, h)
    bias = tl.load(b + k, k < width, 0.0).to(SUM)
    total = tl.zeros([NODES, WIDTH], SUM)
    for start in range(begin, end, EDGES):
        slot = start + tl.arange(0, EDGES)
        used = slot < end
        edge, far, own, member = edges_of_block(ptr, order, other, first, nodes, slot, used, NODES)
        wide = used[:, None] & (h < hidden)[None, :]
        inner = tl.load(p + own[:, None] * hidden + h[None, :], wide, 0.0).to(SUM)
        inner += tl.load(q + far[:, None] * hidden + h[None, :], wide, 0.0).to(SUM)
        if ATTR > 0:
            edge_mask = used[:, None] & (a < n_attr)[None, :]
            features = tl.load(attr + edge[:, None] * n_attr + a[None, :], edge_mask, 0.0)
            w_features = load_matrix(w_attr, hidden, n_attr, h, a)
            inner += tl.dot(features, tl.trans(w_features), out_dtype=SUM, input_precision=EXACT)
        middle = activate(inner, ACTIVATION).to(w_tile.dtype)
        outer = tl.dot(middle, tl.trans(w_tile), out_dtype=SUM, input_precision=PRECISION) + bias[None, :]
        total += tl.dot(member.to(SUM), activate(outer, ACTIVATION), out_dtype=SUM, input_precision=EXACT)
    node = first + tl.arange(0, NODES)
    mask = (node < nodes)[:, None] & (k < width)[None, :]
    tl.store(out + node[:, None] * width + k[None, :], total.to(out.dtype.element_ty), mask)


@triton.jit
def backward_kernel(
    grad,
    own_side,
    far_side,
    attr,
    w_attr,
    w,
    b,
    g_own,
    g_attr,
    g_w_attr,
    g_w,
    g_b,
    ptr,
    order,
    other,
    nodes,
    blocks,
    hidden,
    width,
    n_attr,
    RECEIVERS: tl.constexpr,
    NODES: tl.constexpr,
    EDGES: tl.constexpr,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    ATTR: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Gradient of one side's first-layer products; with RECEIVERS also those of attr and of the weights."""
    program = tl.program_id(0).to(tl.int64)
    h, k, a = tl.arange(0, HIDDEN), tl.arange(0, WIDTH), tl.arange(0, max(ATTR, 1))
    w_tile = load_matrix(w, width, hidden, k, h)
    bias = tl.load(b + k, k < width, 0.0).to(SUM)
    g_w_sum = tl.zeros([WIDTH, HIDDEN], SUM)
    g_b_sum = tl.zeros([WIDTH], SUM)
    g_w_attr_sum = tl.zeros([max(ATTR, 1), HIDDEN], SUM)
    for block in range(program, blocks, tl.num_programs(0)):
        first = block * NODES  # int64, as program is
        begin, end = tl.load(ptr + first), tl.load(ptr + tl.minimum(first + NODES, nodes))
        total = tl.zeros([NODES, HIDDEN], SUM)
        for start in range(begin, end, EDGES):
            slot = start + tl.arange(0, EDGES)
            used = slot < end
            edge, far, own, member = edges_of_block(ptr, order, other, first, nodes, slot, used, NODES)
            wide = used[:, None] & (h < hidden)[None, :]
            inner = tl.load(own_side + own[:, None] * hidden + h[None, :], wide, 0.0).to(SUM)
            inner += tl.load(far_side + far[:, None] * hidden + h[None, :], wide, 0.0).to(SUM)
            edge_mask = used[:, None] & (a < n_attr)[None, :]
            if ATTR > 0:
                features = tl.load(attr + edge[:, None] * n_attr + a[None, :], edge_mask, 0.0)
                w_features = load_matrix(w_attr, hidden, n_attr, h, a)
                inner += tl.dot(features, tl.trans(w_features), out_dtype=SUM, input_precision=EXACT)
            middle = activate(inner, ACTIVATION).to(w_tile.dtype)
            outer = tl.dot(middle, tl.trans(w_tile), out_dtype=SUM, input_precision=PRECISION) + bias[None, :]
            receiver = own if RECEIVERS else far
            out_mask = used[:, None] & (k < width)[None, :]
            g_out = tl.load(grad + receiver[:, None] * width + k[None, :], out_mask, 0.0).to(SUM)
            g_outer = g_out * slope(outer, ACTIVATION)
            g_narrow = g_outer.to(w_tile.dtype)
            g_inner = tl.dot(g_narrow, w_tile, out_dtype=SUM, input_precision=PRECISION) * slope(inner, ACTIVATION)
            total += tl.dot(member.to(SUM), g_inner, out_dtype=SUM, input_precision=EXACT)
            if RECEIVERS:
                g_w_sum += tl.dot(tl.trans(g_narrow), middle, out_dtype=SUM, input_precision=PRECISION)
                g_b_sum += tl.sum(g_outer, 0)
                if ATTR > 0:
                    g_features = tl.dot(g_inner.to(w_features.dtype), w_features, out_dtype=SUM, input_precision=EXACT)
                    place = g_attr + edge[:, None] * n_attr + a[None, :]
                    tl.store(place, g_features.to(g_attr.dtype.element_ty), edge_mask)
                    narrow = g_inner.to(features.dtype)
                    g_w_attr_sum += tl.dot(tl.trans(features), narrow, out_dtype=SUM, input_precision=EXACT)
        node = first + tl.arange(0, NODES)
        mask = (node < nodes)[:, None] & (h < hidden)[None, :]
        tl.store(g_own + node[:, None] * hidden + h[None, :], total.to(g_own.dtype.element_ty), mask)
    if RECEIVERS:
        matrix = (k < width)[:, None] & (h < hidden)[None, :]
        tl.store(g_w + program * width * hidden + k[:, None] * hidden + h[None, :], g_w_sum, matrix)
        tl.store(g_b + program * width + k, g_b_sum, k < width)
        if ATTR > 0:
            matrix = (a < n_attr)[:, None] & (h < hidden)[None, :]
            place = g_w_attr + program * n_attr * hidden + a[:, None] * hidden + h[None, :]
            tl.store(place, g_w_attr_sum, matrix)


def _settings(dtype: torch.dtype, attr: Tensor, w: Tensor, activation: str) -> dict[str, Any]:
    pad = lambda size: max(triton.next_power_of_2(size), 16)  # noqa: E731
    wide, allow_tf32 = dtype == torch.float64, torch.backends.cuda.matmul.allow_tf32
    exact = "tf32x3" if dtype == torch.float32 else "ieee"
    return {
        "NODES": NODES,
        "EDGES": 32 if max(w.shape) <= 64 and not wide else 16,
        "HIDDEN": pad(w.shape[1]),
        "WIDTH": pad(w.shape[0]),
        "ATTR": pad(attr.shape[1]) if attr.shape[1] else 0,
        "ACTIVATION": activation,
        "SUM": tl.float64 if wide else tl.float32,
        "PRECISION": "tf32" if dtype == torch.float32 and allow_tf32 else exact,
        # Sums and geometry keep float32's digits; half-precision inputs are widened before they are summed.
        "EXACT": "ieee" if wide else "tf32x3",
    }


def sum_messages(
    p: Tensor, q: Tensor, attr: Tensor, w_attr: Tensor, w: Tensor, b: Tensor, activation: str, rows: CSR
) -> Tensor:
    """[N, K]; shapes as in :mod:`geoeq.ops.edge_mlp_scatter`, ``rows`` by receiver."""
    nodes = p.shape[0]
    out = p.new_empty(nodes, w.shape[0])
    if out.numel():
        inputs = [tensor.contiguous() for tensor in (p, q, attr, w_attr, w, b)]
        sizes = (nodes, w.shape[1], w.shape[0], attr.shape[1])
        settings = _settings(p.dtype, attr, w, activation)
        forward_kernel[(triton.cdiv(nodes, NODES),)](*inputs, out, *rows, *sizes, **settings)
    return out


def sum_messages_backward(
    grad: Tensor,
    p: Tensor,
    q: Tensor,
    attr: Tensor,
    w_attr: Tensor,
    w: Tensor,
    b: Tensor,
    activation: str,
    incoming: CSR,
    outgoing: CSR,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first six tensors after ``grad`` [N, K]: one pass by receiver, one by sender."""
    nodes = p.shape[0]
    grad, p, q, attr, w_attr, w, b = (tensor.contiguous() for tensor in (grad, p, q, attr, w_attr, w, b))
    if not nodes * w.numel():
        g_p, g_q, g_attr, g_w_attr, g_w, g_b = map(torch.zeros_like, (p, q, attr, w_attr, w, b))
        return g_p, g_q, g_attr, g_w_attr, g_w, g_b
    g_p, g_q, g_attr = map(torch.empty_like, (p, q, attr))
    blocks = triton.cdiv(nodes, NODES)
    programs = min(blocks, PROGRAMS)
    wide = torch.promote_types(p.dtype, torch.float32)
    parts = [p.new_empty(programs, *shape, dtype=wide) for shape in (w_attr.t().shape, w.shape, b.shape)]
    sizes = (nodes, blocks, w.shape[1], w.shape[0], attr.shape[1])
    settings = _settings(p.dtype, attr, w, activation)
    weights = (attr, w_attr, w, b)
    for receivers, own, far, g_own, rows in ((True, p, q, g_p, incoming), (False, q, p, g_q, outgoing)):
        backward_kernel[(programs,)](
            grad, own, far, *weights, g_own, g_attr, *parts, *rows, *sizes, RECEIVERS=receivers, **settings
        )
    g_w_attr, g_w, g_b = (part.sum(0).to(p.dtype) for part in parts)
    return g_p, g_q, g_attr, g_w_attr.t().contiguous(), g_w, g_b
