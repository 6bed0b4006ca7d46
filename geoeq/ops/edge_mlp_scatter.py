"""Sum over incoming edges of a message network with two layers, in memory that does not grow with the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from geoeq.ops.backends import choose_backend, needs_plain_torch
from geoeq.ops.neighbours import CSR, Neighbours, check_edges, neighbours
from geoeq.ops.scatter import scatter_sum

__all__ = ["EdgeMLPWeights", "edge_mlp_scatter"]

# Numbers in one layer's values of a tile: a megabyte of float32, so that all layers stay in a core's cache.
TILE = 1 << 18
# Wider layers overflow the shared memory of a GPU; they run in tiles of plain torch.
WIDEST_KERNEL, MOST_EDGE_FEATURES = 256, 16  # bytes of one row of weights; columns of edge_attr

_aten = torch.ops.aten
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "silu": (F.silu, _aten.silu_backward),
    "relu": (F.relu, lambda grad, z: _aten.threshold_backward(grad, z, 0)),
}


class EdgeMLPWeights(NamedTuple):
    """Weights of a message network: F wide nodes, A edge features, H hidden, K out; matrices as in ``nn.Linear``."""

    w_receiver: Tensor  # [H, F]
    w_sender: Tensor  # [H, F]
    w_edge: Tensor | None  # [H, A]; None without edge features
    b_in: Tensor  # [H]
    w_out: Tensor  # [K, H]
    b_out: Tensor  # [K]


def edge_mlp_scatter(
    h: Tensor,
    edge_index: Tensor,
    weights: EdgeMLPWeights,
    edge_attr: Tensor | None = None,
    graph: Neighbours | None = None,
    activation: str = "silu",
) -> Tensor:
    r"""Sum over incoming edges of a message network of receiver, sender and edge features.

    .. math:: y_i = \sum_{e:\, j \to i} \sigma\big(W_2\,\sigma(W_r h_i + W_s h_j + W_e a_e + b_1) + b_2\big)

    The first layer's products with :math:`h` are made on nodes. The rest runs tile by tile, in a core's cache or a
    GPU's registers, and once more in the backward pass: what is kept is O(N), not O(E). The order of the sums is
    fixed, so equal inputs give equal bits. Second derivatives work and do keep O(E).

    Args:
        h: node features [N, F].
        edge_index: [2, E] int64, row 0 the sender j, row 1 the receiver i.
        weights: of both layers.
        edge_attr: :math:`a` [E, A], or None.
        graph: :func:`geoeq.ops.neighbours` of ``edge_index``; the GPU needs it and sorts anew where it is not given.
        activation: :math:`\sigma`, "silu" or "relu".

    Returns:
        [N, K]; nodes without incoming edges are 0.

    Raises:
        ValueError: shapes that do not fit, or an unknown activation.

    Symmetry: permutations of nodes and of edges; E(3) where ``h`` and ``edge_attr`` are invariant.

    Source: arXiv 2102.09844, equations 3 and 5.

    >>> weights = EdgeMLPWeights(*torch.ones(2, 4, 2), None, torch.zeros(4), torch.ones(3, 4), torch.zeros(3))
    >>> edge_mlp_scatter(torch.zeros(5, 2), torch.tensor([[0, 1], [1, 2]]), weights).shape
    torch.Size([5, 3])
    """
    _check(h, edge_index, weights, edge_attr, activation)
    from_receiver = F.linear(h, weights.w_receiver, weights.b_in)
    from_sender = F.linear(h, weights.w_sender)
    like = from_receiver  # autocast may have made it narrower than the weights
    if edge_attr is None or weights.w_edge is None:
        attr, w_attr = like.new_empty(edge_index.shape[1], 0), like.new_empty(like.shape[1], 0)
    else:
        attr, w_attr = edge_attr.to(like.dtype), weights.w_edge.to(like.dtype)
    tensors = (from_receiver, from_sender, attr, w_attr, weights.w_out.to(like.dtype), weights.b_out.to(like.dtype))
    sender, receiver = edge_index[0], edge_index[1]
    if needs_plain_torch():
        return _plain(*tensors, sender, receiver, activation)
    rows: list[Tensor | None] = [None] * 6
    fits = max(weights.w_out.shape) * like.itemsize <= WIDEST_KERNEL and attr.shape[1] <= MOST_EDGE_FEATURES
    if fits and choose_backend(h, "triton") == "triton":
        graph = neighbours(edge_index, h.shape[0]) if graph is None else graph
        rows = [*graph.incoming, *graph.outgoing]
    return _sum_messages(*tensors, sender, receiver, activation, *rows)


def _check(h: Tensor, edge_index: Tensor, weights: EdgeMLPWeights, edge_attr: Tensor | None, activation: str) -> None:
    check_edges(edge_index)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}")
    width = weights.w_receiver.shape[1]
    if h.dim() != 2 or h.shape[1] != width:
        raise ValueError(f"h must be [N, {width}], got {list(h.shape)}")
    columns = 0 if weights.w_edge is None else weights.w_edge.shape[1]
    expected = [edge_index.shape[1], columns]
    got = [edge_index.shape[1], 0] if edge_attr is None else list(edge_attr.shape)
    if got != expected:
        raise ValueError(f"edge_attr must be [E, A] = {expected}, got {got}")


def _plain(
    from_receiver: Tensor,
    from_sender: Tensor,
    attr: Tensor,
    w_attr: Tensor,
    w: Tensor,
    b: Tensor,
    sender: Tensor,
    receiver: Tensor,
    activation: str,
) -> Tensor:
    act = ACTIVATIONS[activation][0]
    inner = from_receiver.index_select(0, receiver) + from_sender.index_select(0, sender) + F.linear(attr, w_attr)
    return scatter_sum(act(F.linear(act(inner), w, b)), receiver, from_receiver.shape[0])


def _inner(p: Tensor, q: Tensor, attr: Tensor, w_attr: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
    z = p.index_select(0, receiver).add_(q.index_select(0, sender))
    return z.addmm_(attr, w_attr.t()) if attr.shape[1] else z


@torch.library.custom_op("geoeq::sum_messages", mutates_args=())
def _sum_messages(
    p: Tensor,
    q: Tensor,
    attr: Tensor,
    w_attr: Tensor,
    w: Tensor,
    b: Tensor,
    sender: Tensor,
    receiver: Tensor,
    activation: str,
    ptr: Tensor | None,
    order: Tensor | None,
    other: Tensor | None,
    sender_ptr: Tensor | None,
    sender_order: Tensor | None,
    sender_other: Tensor | None,
) -> Tensor:
    """[N, K]; p [N, H] and q [N, H] are the first layer's products with the receiver and with the sender."""
    if ptr is not None and order is not None and other is not None:
        from geoeq.ops.triton_kernels.edge_mlp_scatter import sum_messages

        return sum_messages(p, q, attr, w_attr, w, b, activation, CSR(ptr, order, other))
    act = ACTIVATIONS[activation][0]
    out = p.new_zeros(p.shape[0], w.shape[0])
    for tile in _tiles(attr.shape[0], w):
        s, r = sender[tile], receiver[tile]
        middle = act(_inner(p, q, attr[tile], w_attr, s, r))
        out.index_add_(0, r, act(torch.addmm(b, middle, w.t())))
    return out


@torch.library.custom_op("geoeq::sum_messages_backward", mutates_args=())
def _sum_messages_backward(
    grad: Tensor,
    p: Tensor,
    q: Tensor,
    attr: Tensor,
    w_attr: Tensor,
    w: Tensor,
    b: Tensor,
    sender: Tensor,
    receiver: Tensor,
    activation: str,
    ptr: Tensor | None,
    order: Tensor | None,
    other: Tensor | None,
    sender_ptr: Tensor | None,
    sender_order: Tensor | None,
    sender_other: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of p, q, attr, w_attr, w and b."""
    if ptr is not None and order is not None and other is not None:
        assert sender_ptr is not None
        assert sender_order is not None
        assert sender_other is not None
        from geoeq.ops.triton_kernels.edge_mlp_scatter import sum_messages_backward

        incoming, outgoing = CSR(ptr, order, other), CSR(sender_ptr, sender_order, sender_other)
        return sum_messages_backward(grad, p, q, attr, w_attr, w, b, activation, incoming, outgoing)
    act, act_backward = ACTIVATIONS[activation]
    g_p, g_q, g_attr, g_w_attr, g_w, g_b = map(torch.zeros_like, (p, q, attr, w_attr, w, b))
    for tile in _tiles(attr.shape[0], w):
        s, r = sender[tile], receiver[tile]
        inner = _inner(p, q, attr[tile], w_attr, s, r)
        middle = act(inner)
        g_outer = act_backward(grad.index_select(0, r), torch.addmm(b, middle, w.t()))
        g_w.addmm_(g_outer.t(), middle)
        g_b.add_(g_outer.sum(0))
        g_inner = act_backward(g_outer @ w, inner)
        g_p.index_add_(0, r, g_inner)
        g_q.index_add_(0, s, g_inner)
        if attr.shape[1]:
            torch.mm(g_inner, w_attr, out=g_attr[tile])
            # Short side first: the transposed product is several times slower.
            g_w_attr.add_((attr[tile].t() @ g_inner).t())
    return g_p, g_q, g_attr, g_w_attr, g_w, g_b


def _tiles(edges: int, w: Tensor) -> list[slice]:
    step = max(TILE // max(*w.shape, 1), 1)
    return [slice(start, start + step) for start in range(0, edges, step)]


@_sum_messages.register_fake
def _(p: Tensor, q: Tensor, attr: Tensor, w_attr: Tensor, w: Tensor, *rest: Any) -> Tensor:
    return p.new_empty(p.shape[0], w.shape[0])


@_sum_messages_backward.register_fake
def _(grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in rest[:6])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.activation = next(value for value in inputs if isinstance(value, str))
    ctx.save_for_backward(*(value for value in inputs if not isinstance(value, str)))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, sender, receiver, a, b, c, d, e, f = ctx.saved_tensors
    grads = _sum_messages_backward(grad.contiguous(), *tensors, sender, receiver, ctx.activation, a, b, c, d, e, f)
    return *(g if need else None for g, need in zip(grads, ctx.needs_input_grad)), *[None] * 9


def _second_backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    """Through the plain form, since only there autograd sees every operation."""
    again = torch.is_grad_enabled()
    sender, receiver = ctx.saved_tensors[7:9]
    with torch.enable_grad():
        # Views end the search here: one input may itself be computed from another.
        grad, *inputs = [
            t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in ctx.saved_tensors[:7]
        ]
        p, q, attr, w_attr, w, b = inputs
        out = _plain(p, q, attr, w_attr, w, b, sender, receiver, ctx.activation)
        first = torch.autograd.grad(out, inputs, grad, create_graph=True)
        pairs = [(g, c) for g, c in zip(first, cotangents, strict=True) if g.requires_grad]
        outs, given = zip(*pairs, strict=True)
        found = torch.autograd.grad(outs, [grad, *inputs], given, create_graph=again, allow_unused=True)
    return *(g if need else None for g, need in zip(found, ctx.needs_input_grad)), *[None] * 9


_sum_messages.register_autograd(_backward, setup_context=_keep)
_sum_messages_backward.register_autograd(_second_backward, setup_context=_keep)
