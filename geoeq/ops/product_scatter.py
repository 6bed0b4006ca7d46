r"""Channelwise tensor products of senders with edges, summed at receivers, without a tensor of messages.

.. math:: z_i = \sum_{e:\, j \to i} x_j \otimes_{w_e} y_e

Three operations are each other's derivatives, to any order: this sum, its gradient at the senders, which is the same
sum along reversed edges, and its gradients on the edges. They run on Triton only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from geoeq.ops.neighbours import CSR, Neighbours
from geoeq.ops.tensor_product_code import Plan, parse_plan, starts

__all__ = ["product_scatter"]


def product_scatter(plan: Plan, x: Tensor, y: Tensor, w: Tensor | None, graph: Neighbours) -> Tensor:
    """Sum at each receiver of the products that ``plan`` lists, channels last.

    Args:
        plan: degrees and couplings.
        x: features of the senders [N, K1, C].
        y: features of the edges [E, K2, C] or [E, K2, 1].
        w: weights [P, C], [E, P, C], or None where no coupling has one.
        graph: the edges, sorted both ways.

    Returns:
        [N, K3, C]; the order of the sums is fixed, so equal inputs give equal bits.
    """
    return _at_receivers(x, y, w, plan.text, *graph.incoming, *graph.outgoing)


# All take the rows by receiver, then those by sender. Plans travel as text, so that a compiled graph can be stored.


@torch.library.custom_op("geoeq::product_at_receivers", mutates_args=())
def _at_receivers(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    plan: str,
    ptr: Tensor,
    order: Tensor,
    other: Tensor,
    sender_ptr: Tensor,
    sender_order: Tensor,
    sender_other: Tensor,
) -> Tensor:
    from geoeq.ops.triton_kernels.tensor_product import sum_at_receivers

    return sum_at_receivers(parse_plan(plan), x, y, w, CSR(ptr, order, other))


@torch.library.custom_op("geoeq::product_at_senders", mutates_args=())
def _at_senders(
    y: Tensor,
    w: Tensor | None,
    g: Tensor,
    plan: str,
    ptr: Tensor,
    order: Tensor,
    other: Tensor,
    sender_ptr: Tensor,
    sender_order: Tensor,
    sender_other: Tensor,
) -> Tensor:
    """Gradient of x."""
    from geoeq.ops.triton_kernels.tensor_product import sum_at_senders

    return sum_at_senders(parse_plan(plan), y, w, g, CSR(sender_ptr, sender_order, sender_other))


@torch.library.custom_op("geoeq::product_at_edges", mutates_args=())
def _at_edges(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    g: Tensor,
    plan: str,
    ptr: Tensor,
    order: Tensor,
    other: Tensor,
    sender_ptr: Tensor,
    sender_order: Tensor,
    sender_other: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of y and of the weights of each edge [E, P, C]."""
    from geoeq.ops.triton_kernels.tensor_product import edge_gradients

    return edge_gradients(parse_plan(plan), x, y, w, g, CSR(ptr, order, other))


@_at_receivers.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, plan: str, *rows: Tensor) -> Tensor:
    return x.new_empty(rows[0].shape[0] - 1, _components(plan)[2], x.shape[2])


@_at_senders.register_fake
def _(y: Tensor, w: Tensor | None, g: Tensor, plan: str, *rows: Tensor) -> Tensor:
    return g.new_empty(rows[3].shape[0] - 1, _components(plan)[0], g.shape[2])


@_at_edges.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, g: Tensor, plan: str, *rows: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), x.new_empty(y.shape[0], _components(plan)[3], x.shape[2])


def _components(plan: str) -> tuple[int, int, int, int]:
    """Components of x, y and the output, and rows of the weights."""
    parsed = parse_plan(plan)
    return starts(parsed.x)[-1], starts(parsed.y)[-1], starts(parsed.out)[-1], parsed.n_weights


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.plan = next(value for value in inputs if isinstance(value, str))
    ctx.save_for_backward(*(value for value in inputs if not isinstance(value, str)))


def _like(w: Tensor, g_w: Tensor) -> Tensor:
    """The gradients of the weights of every edge [E, P, C], summed if all edges share the weights w."""
    return g_w.sum(0) if w.dim() == 2 else g_w


@cache
def _weighted(plan: str) -> str:
    """Only the couplings that have a weight: in all of it, the sum is linear in the weights."""
    parsed = parse_plan(plan)
    return parsed._replace(couplings=tuple(c for c in parsed.couplings if c.weight >= 0)).text


# Below, F(x, y, w, g) is the number that the sum at receivers makes with g; each operation is one of its derivatives.
ROWS_AND_PLAN = (None,) * 7


def _receivers_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, y, w, *rows = ctx.saved_tensors
    need, g_x, g_y, g_w = ctx.needs_input_grad, None, None, None
    if need[0]:
        g_x = _at_senders(y, w, g, ctx.plan, *rows)
    if need[1] or need[2]:
        g_y, per_edge = _at_edges(x, y, w, g, ctx.plan, *rows)
        g_w = _like(w, per_edge) if need[2] else None
    return g_x, g_y, g_w, *ROWS_AND_PLAN


def _senders_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of F(v, y, w, g)."""
    y, w, g, *rows = ctx.saved_tensors
    need, g_y, g_w, g_g = ctx.needs_input_grad, None, None, None
    if need[0] or need[1]:
        g_y, per_edge = _at_edges(v, y, w, g, ctx.plan, *rows)
        g_w = _like(w, per_edge) if need[1] else None
    if need[2]:
        g_g = _at_receivers(v, y, w, ctx.plan, *rows)
    return g_y, g_w, g_g, *ROWS_AND_PLAN


def _edges_backward(ctx: Any, v_y: Tensor, v_w: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of F(x, v_y, w, g), and of the part of F(x, y, v_w, g) that has weights."""
    x, y, w, g, *rows = ctx.saved_tensors
    need, plan = ctx.needs_input_grad, ctx.plan
    terms = [(v_y, w, plan)] if w is None else [(v_y, w, plan), (y, v_w, _weighted(plan))]
    g_x = g_y = g_w = g_g = None
    if need[0]:
        g_x = sum(_at_senders(a, b, g, p, *rows) for a, b, p in terms)
    if need[1] and w is not None:
        g_y, _ = _at_edges(x, y, v_w, g, _weighted(plan), *rows)
    if need[2]:
        _, per_edge = _at_edges(x, v_y, w, g, plan, *rows)
        g_w = _like(w, per_edge)
    if need[3]:
        g_g = sum(_at_receivers(x, a, b, p, *rows) for a, b, p in terms)
    return g_x, g_y, g_w, g_g, *ROWS_AND_PLAN


_at_receivers.register_autograd(_receivers_backward, setup_context=_keep)
_at_senders.register_autograd(_senders_backward, setup_context=_keep)
_at_edges.register_autograd(_edges_backward, setup_context=_keep)
