"""Sums of products over the edges of each node, and products on every edge."""

# mypy: disable-error-code="no-untyped-def"
# Arguments of kernels are pointers and numbers of the device, which have no types here.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from geoeq.ops.neighbours import CSR

__all__ = ["edge_products", "sum_products"]

# Numbers of one tile: 32 for each lane of a warp, enough loads in flight to hide the memory.
TILE = 1024


@triton.jit
def sum_products_kernel(
    x,
    weight,
    out,
    ptr,
    order,
    other,
    channels,
    EDGES: tl.constexpr,
    CHANNELS: tl.constexpr,
    SUM: tl.constexpr,
):
    """One program: one node, one tile of channels, all edges of the node."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    begin, end = tl.load(ptr + row), tl.load(ptr + row + 1)
    total = tl.zeros([CHANNELS], SUM)
    for start in range(begin, end, EDGES):
        slot = start + tl.arange(0, EDGES)
        used = slot < end
        edge = tl.load(order + slot, used, 0)
        node = tl.load(other + slot, used, 0)
        mask = used[:, None] & inside[None, :]
        w = tl.load(weight + edge[:, None] * channels + channel[None, :], mask, 0.0)
        value = tl.load(x + node[:, None] * channels + channel[None, :], mask, 0.0)
        total += tl.sum(w.to(SUM) * value.to(SUM), 0)
    tl.store(out + row * channels + channel, total.to(out.dtype.element_ty), inside)


@triton.jit
def edge_products_kernel(
    a,
    b,
    out,
    index_a,
    index_b,
    edges,
    channels,
    EDGES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: one tile of edges and channels."""
    edge = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    used = edge < edges
    mask = used[:, None] & (channel < channels)[None, :]
    node_a = tl.load(index_a + edge, used, 0)
    node_b = tl.load(index_b + edge, used, 0)
    left = tl.load(a + node_a[:, None] * channels + channel[None, :], mask, 0.0)
    right = tl.load(b + node_b[:, None] * channels + channel[None, :], mask, 0.0)
    tl.store(out + edge[:, None] * channels + channel[None, :], left * right, mask)


def sum_products(x: Tensor, weight: Tensor, rows: CSR) -> Tensor:
    """[N, C]: for each node the sum over its edges of ``weight`` [E, C] times ``x`` [M, C] at the far end."""
    nodes, channels = rows.ptr.shape[0] - 1, x.shape[1]
    out = x.new_empty(nodes, channels)
    if out.numel():
        n_channels = min(triton.next_power_of_2(channels), 128)
        mean_degree = max(weight.shape[0] // nodes, 1)
        n_edges = min(triton.next_power_of_2(mean_degree), max(TILE // n_channels, 1))
        sum_products_kernel[(nodes, triton.cdiv(channels, n_channels))](
            x.contiguous(),
            weight.contiguous(),
            out,
            *rows,
            channels,
            EDGES=n_edges,
            CHANNELS=n_channels,
            SUM=tl.float64 if x.dtype == torch.float64 else tl.float32,
            num_warps=1,
        )
    return out


def edge_products(a: Tensor, b: Tensor, index_a: Tensor, index_b: Tensor) -> Tensor:
    """[E, C]: ``a`` [N, C] at one end of each edge times ``b`` [M, C] at the other."""
    edges, channels = index_a.shape[0], a.shape[1]
    out = a.new_empty(edges, channels)
    if out.numel():
        n_channels = min(triton.next_power_of_2(channels), 128)
        n_edges = 4 * TILE // n_channels
        edge_products_kernel[(triton.cdiv(edges, n_edges), triton.cdiv(channels, n_channels))](
            a.contiguous(),
            b.contiguous(),
            out,
            index_a,
            index_b,
            edges,
            channels,
            EDGES=n_edges,
            CHANNELS=n_channels,
            num_warps=4,
        )
    return out
