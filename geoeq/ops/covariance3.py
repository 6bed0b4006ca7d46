"""Covariance of pairs of small point sets, the sums that superposition and principal axes start from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geoeq.ops.backends import transforms_active

__all__ = ["covariance3"]

# Numbers of one piece of the batch: it stays in the cache, and its rows are long enough to hide the cost of a call.
PIECE_NUMBERS = 1 << 16
# Above this many points a matrix product per set is faster than sums along the batch.
MOST_POINTS = 64


def covariance3(x: Tensor, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    r"""Weighted sums over the points of each set.

    .. math:: C = \sum_i w_i\, (y_i - \bar y)(x_i - \bar x)^T, \qquad \bar x = \sum_i w_i x_i \Big/ \sum_i w_i.

    Both sets are centred first, so that nothing is lost far from the origin.

    Args:
        x: points [..., n, 3].
        y: their partners [..., n, 3].
        weights: w [..., n]; ones if None.

    Returns:
        C [..., 3, 3], and the means of x and y [..., 3], which are 0 without points or weight.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    >>> covariance3(x, x)[0].diagonal()
    tensor([2., 0., 0.])
    """
    in_pieces = not (x.is_cuda or torch.compiler.is_compiling() or transforms_active())
    if not in_pieces or weights is not None or not 0 < x.shape[-2] <= MOST_POINTS:
        return _plain(x, y, weights)
    batch, n = x.shape[:-2], x.shape[-2]
    c, x_mean, y_mean = _Covariance3.apply(x.reshape(-1, n, 3), y.reshape(-1, n, 3))
    return c.reshape(*batch, 3, 3), x_mean.reshape(*batch, 3), y_mean.reshape(*batch, 3)


def _plain(x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    x_mean, y_mean = weighted_mean(x, weights), weighted_mean(y, weights)
    x_centred, y_centred = x - x_mean.unsqueeze(-2), y - y_mean.unsqueeze(-2)
    if weights is not None:
        y_centred = y_centred * weights.unsqueeze(-1)
    return y_centred.mT @ x_centred, x_mean, y_mean


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """[..., n, k] -> [..., k]; 0 without points or weight."""
    if weights is None:
        return values.sum(-2) / max(values.shape[-2], 1)
    total = weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights.unsqueeze(-2) @ values).squeeze(-2) / total


class _Covariance3(torch.autograd.Function):
    """x [B, n, 3], y [B, n, 3] -> C [B, 3, 3] and means [B, 3], in pieces with the batch last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        pieces = []
        for piece in _pieces(x):
            x_last, y_last = _batch_last(x[piece]), _batch_last(y[piece])
            x_mean, y_mean = x_last.sum(0) / x.shape[1], y_last.sum(0) / x.shape[1]
            x_last, y_last = x_last - x_mean, y_last - y_mean
            c = x_mean.new_zeros(3, *x_mean.shape)
            for x_i, y_i in zip(x_last.unbind(0), y_last.unbind(0), strict=True):
                c.addcmul_(y_i.unsqueeze(1), x_i)
            pieces.append((c.flatten(0, 1).t(), x_mean.t(), y_mean.t()))
        c, x_mean, y_mean = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        ctx.save_for_backward(x, y, x_mean, y_mean)
        ctx.set_materialize_grads(False)
        return c.view(-1, 3, 3), x_mean, y_mean

    @staticmethod
    def backward(
        ctx: Any, g_c: Tensor | None, g_x_mean: Tensor | None, g_y_mean: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        x, y, x_mean, y_mean = ctx.saved_tensors
        g_ct = None if g_c is None else g_c.mT
        g_x = _point_gradient(y, y_mean, g_c, g_x_mean) if ctx.needs_input_grad[0] else None
        g_y = _point_gradient(x, x_mean, g_ct, g_y_mean) if ctx.needs_input_grad[1] else None
        return g_x, g_y


def _point_gradient(partner: Tensor, mean: Tensor, g_c: Tensor | None, g_mean: Tensor | None) -> Tensor | None:
    """Gradient [B, n, 3] of the points: (partner - mean) C' + mean' / n, with C' and mean' the given gradients."""
    n = partner.shape[1]
    if g_c is None:
        return None if g_mean is None else (g_mean / n).unsqueeze(1).expand_as(partner)
    if torch.is_grad_enabled():  # a second derivative follows, for which the mean is a function of the points
        g = (partner - partner.mean(1, keepdim=True)) @ g_c
        return g if g_mean is None else g + (g_mean / n).unsqueeze(1)
    pieces = []
    for piece in _pieces(partner):
        centred = _batch_last(partner[piece]) - mean[piece].t()
        rows = _batch_last(g_c[piece])
        g = centred[:, 0, None] * rows[0]
        g = g.addcmul_(centred[:, 1, None], rows[1]).addcmul_(centred[:, 2, None], rows[2])
        if g_mean is not None:
            g += g_mean[piece].t() / n
        pieces.append(g.view(3 * n, g.shape[-1]).t())
    return torch.cat(pieces).reshape(partner.shape)


def _pieces(x: Tensor) -> list[slice]:
    size = max(PIECE_NUMBERS // x.shape[1], 1)
    return [slice(start, start + size) for start in range(0, max(x.shape[0], 1), size)]


def _batch_last(x: Tensor) -> Tensor:
    """[B, n, 3] -> [n, 3, B], contiguous."""
    # The operations that torch.autograd's own vmap, for batches of gradients, knows.
    return x.reshape(x.shape[0], x.shape[1] * 3).t().contiguous().view(x.shape[1], 3, x.shape[0])
