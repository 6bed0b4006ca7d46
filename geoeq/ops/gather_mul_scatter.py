"""Depthwise message passing: gather, multiply by a weight of the edge, sum; the product never exists as a whole.

Two operations are each other's derivatives, to any order: the sum of products of a node tensor with an edge tensor,
and the product of two node tensors on every edge.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geoeq.ops.backends import choose_backend, needs_plain_torch
from geoeq.ops.neighbours import CSR, Neighbours, check_edges, neighbours
from geoeq.ops.scatter import scatter_sum

__all__ = ["gather_mul_scatter"]

# Numbers of a product that are in flight: 2 MB of float32, so that they stay in the cache of a core.
TILE = 1 << 19


def gather_mul_scatter(x: Tensor, weight: Tensor, edge_index: Tensor, graph: Neighbours | None = None) -> Tensor:
    r"""Sum over incoming edges of the sender's features times the edge's weights, channel by channel.

    .. math:: y_{ic} = \sum_{e:\, j \to i} w_{ec}\, x_{jc}

    Neither the gathered features nor the products are ever stored for all edges, forward or backward: on a CPU they
    pass through the cache in pieces, on a GPU they stay in registers, and the backward pass computes them again. The
    order of the sums is fixed, so equal inputs give equal bits.

    Args:
        x: node features [N, ...].
        weight: one weight per edge and channel [E, ...].
        edge_index: [2, E] int64, row 0 the sender j, row 1 the receiver i.
        graph: :func:`geoeq.ops.neighbours` of ``edge_index``; the GPU needs it and sorts anew where it is not given.

    Returns:
        [N, ...] in the wider of the two dtypes; nodes without incoming edges are 0.

    Raises:
        ValueError: the shapes of ``x``, ``weight`` and ``edge_index`` do not fit.

    Source: continuous-filter convolution, arXiv 1706.08566, equation 2; spatial step of arXiv 2310.02970.

    >>> x, weight = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [100.0]])
    >>> gather_mul_scatter(x, weight, torch.tensor([[1, 2], [0, 0]])).flatten()
    tensor([320.,   0.,   0.])
    """
    _check(x, weight, edge_index)
    sender, receiver = edge_index[0], edge_index[1]
    if needs_plain_torch():
        return scatter_sum(x.index_select(0, sender) * weight, receiver, x.shape[0])
    dtype = torch.promote_types(x.dtype, weight.dtype)
    rows: list[Tensor | None] = [None] * 6
    if choose_backend(x, "triton") == "triton":
        graph = neighbours(edge_index, x.shape[0]) if graph is None else graph
        rows = [*graph.incoming, *graph.outgoing]
    # Not -1 for the channels: it is ambiguous where there are no edges.
    channels = x.shape[1:].numel()
    flat_x, flat_weight = x.to(dtype).reshape(x.shape[0], channels), weight.to(dtype).reshape(weight.shape[0], channels)
    return _sum_products(flat_x, flat_weight, sender, receiver, x.shape[0], *rows).reshape(x.shape)


def _check(x: Tensor, weight: Tensor, edge_index: Tensor) -> None:
    check_edges(edge_index)
    if x.dim() == 0 or weight.shape != (edge_index.shape[1], *x.shape[1:]):
        expected = [edge_index.shape[1], *x.shape[1:]]
        raise ValueError(f"weight must be [E, ...] = {expected} for x [N, ...], got {list(weight.shape)}")


# Both operations take the edges and, for Triton, the six tensors of the rows by receiver (out_) and by sender (in_).


@torch.library.custom_op("geoeq::sum_products", mutates_args=())
def _sum_products(
    x: Tensor,
    weight: Tensor,
    sender: Tensor,
    receiver: Tensor,
    num_nodes: int,
    ptr: Tensor | None,
    order: Tensor | None,
    other: Tensor | None,
    sender_ptr: Tensor | None,
    sender_order: Tensor | None,
    sender_other: Tensor | None,
) -> Tensor:
    """[num_nodes, C] from x [N, C] and weight [E, C]."""
    if ptr is not None and order is not None and other is not None:
        from geoeq.ops.triton_kernels.gather_mul_scatter import sum_products

        return sum_products(x, weight, CSR(ptr, order, other))
    out = x.new_zeros(num_nodes, x.shape[1])
    step = max(TILE // max(x.shape[1], 1), 1)
    product = x.new_empty(min(step, weight.shape[0]), x.shape[1])
    for start in range(0, weight.shape[0], step):
        tile = slice(start, start + step)
        rows = product[: weight.shape[0] - start]
        torch.index_select(x, 0, sender[tile], out=rows)
        out.index_add_(0, receiver[tile], rows.mul_(weight[tile]))
    return out


@torch.library.custom_op("geoeq::edge_products", mutates_args=())
def _edge_products(
    a: Tensor,
    b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    a_ptr: Tensor | None,
    a_order: Tensor | None,
    a_other: Tensor | None,
    b_ptr: Tensor | None,
    b_order: Tensor | None,
    b_other: Tensor | None,
) -> Tensor:
    """[E, C], the product of a [N, C] at one end of each edge and b [M, C] at the other."""
    if a_ptr is not None:
        from geoeq.ops.triton_kernels.gather_mul_scatter import edge_products

        return edge_products(a, b, index_a, index_b)
    out = a.index_select(0, index_a)
    step = max(TILE // max(a.shape[1], 1), 1)
    for start in range(0, out.shape[0], step):
        tile = slice(start, start + step)
        out[tile].mul_(b.index_select(0, index_b[tile]))
    return out


@_sum_products.register_fake
def _(x: Tensor, weight: Tensor, sender: Tensor, receiver: Tensor, num_nodes: int, *rows: Tensor | None) -> Tensor:
    return x.new_empty(num_nodes, x.shape[1])


@_edge_products.register_fake
def _(a: Tensor, b: Tensor, index_a: Tensor, index_b: Tensor, *rows: Tensor | None) -> Tensor:
    return a.new_empty(index_a.shape[0], a.shape[1])


def _keep_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, sender, receiver, _, *rows = inputs
    ctx.save_for_backward(x, weight, sender, receiver, *rows)


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, sender, receiver, *rows = ctx.saved_tensors
    g_x = g_weight = None
    grad = grad.contiguous()
    if ctx.needs_input_grad[0]:
        g_x = _sum_products(grad, weight, receiver, sender, x.shape[0], *rows[3:], *rows[:3])
    if ctx.needs_input_grad[1]:
        g_weight = _edge_products(grad, x, receiver, sender, *rows)
    return g_x, g_weight, *[None] * 9


def _keep_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b, index_a, index_b, *rows = ctx.saved_tensors
    g_a = g_b = None
    grad = grad.contiguous()
    if ctx.needs_input_grad[0]:
        g_a = _sum_products(b, grad, index_b, index_a, a.shape[0], *rows)
    if ctx.needs_input_grad[1]:
        g_b = _sum_products(a, grad, index_a, index_b, b.shape[0], *rows[3:], *rows[:3])
    return g_a, g_b, *[None] * 8


_sum_products.register_autograd(_sum_backward, setup_context=_keep_sum)
_edge_products.register_autograd(_product_backward, setup_context=_keep_product)
