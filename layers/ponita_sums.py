"""Sums over neighbours and over orientations, depthwise, without a tensor of messages.

Each sum exists twice with one meaning: in plain torch, and with passes written by hand. Each public function picks.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from geoeq.layers.ponita_edges import Pairs
from geoeq.layers.ponita_tiles import derivative, needs_derivative, needs_plain, tiles
from geoeq.ops.gather_mul_scatter import gather_mul_scatter
from geoeq.ops.neighbours import Neighbours
from geoeq.ops.scatter import scatter_sum

__all__ = ["fiber_sum", "pair_sum"]


def pair_sum(x: Tensor, kernel: Tensor, pairs: Pairs) -> Tensor:
    r"""Depthwise messages along pairs of nodes with a kernel k:

    .. math:: y_{im} = \sum_{p:\, j \to i} k_{pm}\, x_{jm} \quad
              \Big[ {} + \sum_{p:\, i \to j} k_{p\bar m}\, x_{jm} \Big] \quad
              \Big[ {} + n_i\, k_{Pm}\, x_{im} \Big]

    The second sum is there if the pairs are ``mirrored``: the kernel of the reversed edge at an orientation is that of
    the edge at the opposite one, :math:`\bar m = m \pm O/2` (and m itself if O = 1), so that each pair is evaluated
    once for both of its directions. The last term is there if they have ``loops``: all :math:`n_i` self loops of a node
    have one row of the kernel, the last. On a GPU the sums are those of :func:`geoeq.ops.gather_mul_scatter`.

    Args:
        x: features [N, O, C].
        kernel: [P, O, C] or, with loops, [P + 1, O, C].
        pairs: nodes j and i of each pair, and the above.

    Returns:
        [N, O, C].
    """
    if pairs.graph is not None:
        return _pairs_of_graph(x, kernel, pairs.graph, pairs.loops, pairs.mirrored)
    step = _plain_pairs if needs_plain(x) else _Pairs.apply
    return step(x, kernel, pairs.sender, pairs.receiver, pairs.loops, pairs.mirrored)


def fiber_sum(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    r"""Depthwise sum over orientations, :math:`y_{npc} = \sum_m k_{pmc}\, x_{nmc} + b_c`.

    Args:
        x: [N, O, C].
        kernel: [O, O, C], weights of the quadrature included.
        bias: [C].

    Returns:
        [N, O, C].
    """
    n, o, c = x.shape
    turn = (lambda t: t.t().contiguous()) if needs_plain(x) else _Transpose.apply
    turned = turn(x.reshape(n * o, c)).view(c, n, o)
    mixed = torch.baddbmm(bias.view(c, 1, 1), turned, kernel.permute(2, 1, 0).contiguous())  # [C, N, O]
    return turn(mixed.view(c, n * o)).view(n, o, c)


def _plain_pairs(
    x: Tensor, kernel: Tensor, sender: Tensor, receiver: Tensor, loops: Tensor | None, mirrored: bool
) -> Tensor:
    pair = kernel if loops is None else kernel[:-1]
    out = scatter_sum(pair * x.index_select(0, sender), receiver, x.shape[0])
    if mirrored:
        half = x.shape[1] // 2
        back = pair * x.roll(half, 1).index_select(0, receiver)
        out = out + scatter_sum(back, sender, x.shape[0]).roll(half, 1)
    return out if loops is None else out + _count(loops, x) * kernel[-1] * x


def _pairs_of_graph(x: Tensor, kernel: Tensor, graph: Neighbours, loops: Tensor | None, mirrored: bool) -> Tensor:
    pair = kernel if loops is None else kernel[:-1]
    out = gather_mul_scatter(x, pair, graph.edge_index, graph)
    if mirrored:
        half, back = x.shape[1] // 2, Neighbours(graph.edge_index.flip(0), graph.outgoing, graph.incoming)
        out = out + gather_mul_scatter(x.roll(half, 1), pair, back.edge_index, back).roll(half, 1)
    return out if loops is None else out + _count(loops, x) * kernel[-1] * x


def _count(loops: Tensor, like: Tensor) -> Tensor:
    return loops.to(like.dtype).view(-1, 1, 1)


def _routes(sender: Tensor, receiver: Tensor, n_parts: int, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Which part of a fiber each part of a row of the kernel reads and writes, [P, directions, parts] each."""
    part = torch.arange(n_parts, device=sender.device)
    source, target = (n_parts * node.unsqueeze(1) + part for node in (sender, receiver))
    if not mirrored:
        return source.unsqueeze(1), target.unsqueeze(1)
    return torch.stack([source, target.flip(1)], 1), torch.stack([target, source.flip(1)], 1)


class _Pairs(torch.autograd.Function):
    """:func:`_plain_pairs`; no message is ever stored."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, sender: Tensor, receiver: Tensor, loops: Tensor | None, mirrored: bool
    ) -> Tensor:
        x = x.contiguous()  # what is added to in parts must be a view
        ctx.save_for_backward(x, kernel, sender, receiver, loops)
        ctx.mirrored = mirrored
        y = torch.zeros_like(x) if loops is None else (x * kernel[-1]).mul_(_count(loops, x))
        parts = 2 if mirrored and x.shape[1] > 1 else 1  # the opposite of a half fiber is the other half
        source, target = _routes(sender, receiver, parts, mirrored)
        x, y_parts, kernel = _split(x, parts), _split(y, parts), kernel.unflatten(1, (parts, -1)).unsqueeze(1)
        for t in tiles(len(sender), y.shape[1]):
            message = x.index_select(0, source[t].flatten()).view(*source[t].shape, *x.shape[1:])
            y_parts.index_add_(0, target[t].flatten(), message.mul_(kernel[t]).flatten(0, 2))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if needs_derivative(grad):
            plain = partial(_plain_pairs, mirrored=ctx.mirrored)
            return *derivative(plain, inputs, ctx.needs_input_grad[:-1], grad), None
        x, kernel, sender, receiver, loops = inputs
        grad = grad.contiguous()
        g_kernel = torch.empty_like(kernel, memory_format=torch.contiguous_format)
        if loops is None:
            g_x = torch.zeros_like(x)
        else:
            g_x = grad * _count(loops, x)
            torch.sum(g_x * x, 0, out=g_kernel[-1])
            g_x *= kernel[-1]
        parts = 2 if ctx.mirrored and x.shape[1] > 1 else 1
        source, target = _routes(sender, receiver, parts, ctx.mirrored)
        width = x.shape[1]
        x, grad, g_x_parts = (_split(fibers, parts) for fibers in (x, grad, g_x))
        kernel, g_kernel_parts = kernel.unflatten(1, (parts, -1)).unsqueeze(1), g_kernel.unflatten(1, (parts, -1))
        for t in tiles(len(sender), width):
            shape = (*source[t].shape, *x.shape[1:])
            g = grad.index_select(0, target[t].flatten()).view(shape)
            message = x.index_select(0, source[t].flatten()).view(shape)
            torch.sum(message.mul_(g), 1, out=g_kernel_parts[t])
            g_x_parts.index_add_(0, source[t].flatten(), g.mul_(kernel[t]).flatten(0, 2))
        return g_x, g_kernel, None, None, None, None


def _split(fibers: Tensor, parts: int) -> Tensor:
    """[N, O, C] as [N parts, O / parts, C]."""
    return fibers.view(fibers.shape[0] * parts, fibers.shape[1] // parts, fibers.shape[2])


class _Transpose(torch.autograd.Function):
    """A matrix transposed in memory, in both passes: torch copies two axes by blocks, three of them one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.t().contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Transpose.apply(grad)
