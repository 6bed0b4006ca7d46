"""The kernels and the pointwise part of a position-orientation network, in tiles of rows that stay in the cache.

Each step exists twice with one meaning: in plain torch, and as an autograd function that keeps little of what the first
pass computes. Each public function picks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geoeq.layers.ponita_tiles import derivative, linear, needs_derivative, needs_plain, tiles

__all__ = ["pointwise_mlp", "spatial_kernels"]

gelu_backward = torch.ops.aten.gelu_backward


def spatial_kernels(
    columns: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, window: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    r"""Kernels of several layers on one basis,
    :math:`k_l = w \cdot \mathrm{GELU}(W_2\,\mathrm{GELU}(W_1\,p + b_1) + b_2)\,V_l^\top`.

    All layers at once, so that neither the basis nor its gradient is ever stored for all rows.

    Args:
        columns: polynomials p of the invariants [R, F].
        w1, b1, w2, b2: two linear layers, [H, F], [H], [B, H], [B].
        window: a factor w for each row [R, 1], or None.
        weights: V of each layer [C, B].

    Returns:
        [R, C] for each layer.
    """
    step = _plain_kernels if needs_plain(columns) else _Kernels.apply
    return step(columns, w1, b1, w2, b2, window, *weights)


def pointwise_mlp(
    x: Tensor, residual: Tensor, gain: Tensor, shift: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, eps: float
) -> Tensor:
    r"""Rows through :math:`z + W_2\,\mathrm{GELU}(W_1\,\mathrm{LayerNorm}(x) + b_1) + b_2`.

    Args:
        x, residual: x and z [R, C].
        gain, shift, eps: of the layer norm, [C].
        w1, b1, w2, b2: two linear layers, [H, C], [H], [C, H], [C].

    Returns:
        [R, C].
    """
    step = _plain_mlp if needs_plain(x) else _MLP.apply
    return step(x, residual, gain, shift, w1, b1, w2, b2, eps)


def _plain_kernels(
    columns: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, window: Tensor | None, *weights: Tensor
) -> tuple[Tensor, ...]:
    basis = F.gelu(F.linear(F.gelu(F.linear(columns, w1, b1)), w2, b2))
    basis = basis if window is None else basis * window
    return tuple(F.linear(basis, weight) for weight in weights)


class _Kernels(torch.autograd.Function):
    """:func:`_plain_kernels`; of the basis only the values before its last GELU are kept."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, *args: Any) -> tuple[Tensor, ...]:
        w1, b1, w2, b2, window, *weights = args
        joint = torch.cat(weights)
        outer, out = [], columns.new_empty(len(columns), len(joint))
        for t in tiles(len(columns)):
            outer.append(linear(F.gelu(torch.addmm(b1, columns[t], w1.t())), w2, b2))
            basis = F.gelu(outer[-1])
            torch.mm(basis if window is None else basis.mul_(window[t]), joint.t(), out=out[t])
        ctx.save_for_backward(columns, *args, *outer)
        return out.split([len(weight) for weight in weights], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n_inputs = len(ctx.needs_input_grad)
        inputs, outer = ctx.saved_tensors[:n_inputs], ctx.saved_tensors[n_inputs:]
        if needs_derivative(grads[0]):  # a second derivative follows: let autograd see every operation
            return derivative(_plain_kernels, inputs, ctx.needs_input_grad, *grads)
        columns, w1, b1, w2, b2, window, *weights = inputs
        joint = torch.cat(weights)
        g_columns = torch.empty_like(columns) if ctx.needs_input_grad[0] else None
        g_window = torch.empty_like(window) if ctx.needs_input_grad[5] else None
        g_w1, g_b1, g_w2, g_b2, g_joint = (torch.zeros_like(w) for w in (w1, b1, w2, b2, joint))
        for t, outer_in in zip(tiles(len(columns)), outer, strict=True):
            inner_in = torch.addmm(b1, columns[t], w1.t())
            basis = F.gelu(outer_in)
            g_out = torch.cat([g[t] for g in grads], 1)
            g = linear(g_out, joint.t())
            if g_window is not None:
                torch.sum(g * basis, 1, keepdim=True, out=g_window[t])
            if window is not None:
                basis, g = basis.mul_(window[t]), g.mul_(window[t])
            g_joint.addmm_(g_out.t(), basis)
            g = gelu_backward(g, outer_in)
            g_w2.addmm_(g.t(), F.gelu(inner_in))
            g_b2 += g.sum(0)
            g = gelu_backward(linear(g, w2.t()), inner_in)
            g_w1.addmm_(g.t(), columns[t])
            g_b1 += g.sum(0)
            if g_columns is not None:
                torch.mm(g, w1, out=g_columns[t])
        return g_columns, g_w1, g_b1, g_w2, g_b2, g_window, *g_joint.split([len(w) for w in weights])


def _plain_mlp(
    x: Tensor, residual: Tensor, gain: Tensor, shift: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, eps: float
) -> Tensor:
    normed = F.layer_norm(x, gain.shape, gain, shift, eps)
    return residual + F.linear(F.gelu(F.linear(normed, w1, b1)), w2, b2)


class _MLP(torch.autograd.Function):
    """:func:`_plain_mlp`; of the wide layer only the values before its GELU are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, *args: Any) -> Tensor:
        gain, shift, w1, b1, w2, b2, ctx.eps = args
        out, wide = torch.empty_like(residual), []
        for t in tiles(len(x)):
            wide.append(linear(F.layer_norm(x[t], gain.shape, gain, shift, ctx.eps), w1, b1))
            torch.add(linear(F.gelu(wide[-1]), w2, b2), residual[t], out=out[t])
        ctx.save_for_backward(x, residual, *args[:-1], *wide)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wide = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
        if needs_derivative(grad):
            plain = partial(_plain_mlp, eps=ctx.eps)
            return *derivative(plain, inputs, ctx.needs_input_grad[:-1], grad), None
        x, _, gain, shift, w1, _, w2, _ = inputs
        g_x = torch.empty_like(x)
        g_gain, g_shift, g_w1, g_b1, g_w2 = (torch.zeros_like(w) for w in (gain, shift, w1, w1[:, 0], w2))
        for t, u in zip(tiles(len(x)), wide, strict=True):
            normed, mean, rstd = torch.native_layer_norm(x[t], gain.shape, gain, shift, ctx.eps)
            g = grad[t]
            g_w2.addmm_(g.t(), F.gelu(u))
            g = gelu_backward(linear(g, w2.t()), u)
            g_w1.addmm_(g.t(), normed)
            g_b1 += g.sum(0)
            g_x[t], g_gain_t, g_shift_t = torch.ops.aten.native_layer_norm_backward(
                linear(g, w1.t()), x[t], gain.shape, mean, rstd, gain, shift, [True, True, True]
            )
            g_gain += g_gain_t
            g_shift += g_shift_t
        return g_x, grad, g_gain, g_shift, g_w1, g_b1, g_w2, grad.sum(0), None
