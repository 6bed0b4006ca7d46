"""Rigid superposition of point sets: the rotation and translation of least squares (Kabsch, Procrustes)."""

from __future__ import annotations

import torch
from torch import Tensor

from geoeq.ops.covariance3 import covariance3, weighted_mean
from geoeq.ops.matrix3 import check_finite, check_not_negative
from geoeq.ops.polar3 import polar3
from geoeq.ops.scatter import scatter_sum

__all__ = ["kabsch", "kabsch_graphs", "superposed_rmsd"]


def kabsch(
    x: Tensor, y: Tensor, weights: Tensor | None = None, *, proper: bool = True, gap: float | None = None
) -> tuple[Tensor, Tensor]:
    r"""The rigid motion that brings the points x closest to their partners y.

    .. math:: \min_{R,\, t} \sum_i w_i\, |R x_i + t - y_i|^2: \qquad
        R = \mathrm{polar}\Big(\sum_i w_i\, (y_i - \bar y)(x_i - \bar x)^T\Big), \qquad t = \bar y - R \bar x.

    Moved points are ``x @ rotation.mT + translation.unsqueeze(-2)``. For points on a line, or fewer than three, the
    rotation about the line is free: one solution comes out and derivatives ignore that direction
    (:func:`~geoeq.ops.polar3.polar3`). Without points or weight the motion is the identity.

    Args:
        x: points [..., n, 3]; half precision is computed in float32.
        y: their partners [..., n, 3].
        weights: w [..., n], not negative; ones if None.
        proper: whether R must be a rotation; False allows reflections.
        gap: as in :func:`~geoeq.ops.polar3.polar3`.

    Returns:
        R [..., 3, 3] and t [..., 3].

    Symmetry: if y moves by a rigid motion the result is followed by that motion, if x does, preceded by its inverse.

    Raises:
        ValueError: shapes do not fit, or a value is not finite or a weight negative (checked on a CPU, outside
            ``torch.compile``).

    Source: Kabsch 1976 (doi 10.1107/S0567739476001873), with the polar form of the solution.

    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    >>> rotation, translation = kabsch(x, x[:, [1, 2, 0]] + 5)
    >>> rotation.round(decimals=4).abs().int().tolist()
    [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    >>> translation.round(decimals=3)
    tensor([5., 5., 5.])
    """
    _check_pairs(x, y, weights)
    dtype = x.dtype
    x, y, weights = _wide(x), _wide(y), None if weights is None else _wide(weights.to(dtype))
    with torch.autocast(x.device.type, enabled=False):  # a matrix product in half precision would cost digits
        covariance, x_mean, y_mean = covariance3(x, y, weights)
        rotation, _ = polar3(covariance, proper=proper, gap=gap)
        translation = y_mean - (rotation @ x_mean.unsqueeze(-1)).squeeze(-1)
    return rotation.to(dtype), translation.to(dtype)


def superposed_rmsd(x: Tensor, y: Tensor, weights: Tensor | None = None, *, proper: bool = True) -> Tensor:
    r"""Root of the mean squared distance of x and y after the best superposition by :func:`kabsch`.

    .. math:: \Big(\sum_i w_i\, |R x_i + t - y_i|^2 \Big/ \sum_i w_i\Big)^{1/2}

    Args:
        x, y, weights, proper: as in :func:`kabsch`.

    Returns:
        [...]; its gradient is 0 where it is 0.

    Symmetry: rigid motions of x and of y leave it as it is.

    Raises:
        ValueError: as :func:`kabsch`.

    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> superposed_rmsd(x, torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])).round(decimals=4)
    tensor(1.)
    """
    _check_pairs(x, y, weights)
    dtype = x.dtype
    x, y, weights = _wide(x), _wide(y), None if weights is None else _wide(weights.to(dtype))
    with torch.autocast(x.device.type, enabled=False):
        rotation, translation = kabsch(x, y, weights, proper=proper)
        distance = x @ rotation.mT + translation.unsqueeze(-2) - y
        mean2 = weighted_mean(distance.square().sum(-1, keepdim=True), weights).squeeze(-1)
        some = mean2 > 0
        return torch.where(some, torch.where(some, mean2, 1.0).sqrt(), 0.0).to(dtype)


def kabsch_graphs(
    x: Tensor,
    y: Tensor,
    batch: Tensor,
    num_graphs: int,
    weights: Tensor | None = None,
    *,
    proper: bool = True,
    gap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`kabsch` for point sets of different sizes, one after another or mixed.

    Args:
        x: points [N, 3]; half precision is computed in float32.
        y: their partners [N, 3].
        batch: number of the set of each point, int64 [N], values in ``[0, num_graphs)``.
        num_graphs: number G of sets; one without points gets the identity.
        weights: w [N], not negative; ones if None.
        proper, gap: as in :func:`kabsch`.

    Returns:
        R [G, 3, 3] and t [G, 3]; moved points are
        ``torch.einsum("nij,nj->ni", rotation[batch], x) + translation[batch]``.

    Symmetry: as :func:`kabsch`, with one motion for each set.

    Raises:
        ValueError: as :func:`kabsch`, or ``batch`` is not int64 [N].

    >>> import torch
    >>> x = torch.randn(7, 3)
    >>> rotation, translation = kabsch_graphs(x, x + 1, torch.tensor([0, 0, 0, 0, 2, 2, 2]), 3)
    >>> translation[1], rotation.shape
    (tensor([0., 0., 0.]), torch.Size([3, 3, 3]))
    """
    _check_pairs(x, y, weights)
    if x.dim() != 2 or batch.shape != x.shape[:1] or batch.dtype != torch.int64:
        raise ValueError(
            f"batch must be int64 [N] and x [N, 3], got {list(batch.shape)} of {batch.dtype} and {list(x.shape)}"
        )
    dtype = x.dtype
    x, y = _wide(x), _wide(y)
    w = x.new_ones(len(x), 1) if weights is None else _wide(weights.to(dtype)).unsqueeze(1)
    total = scatter_sum(torch.cat([w, w * x, w * y], 1), batch, num_graphs)
    x_mean, y_mean = (total[:, 1:] / total[:, :1].clamp(min=torch.finfo(x.dtype).tiny)).split(3, 1)
    x_centred, y_centred = x - x_mean.index_select(0, batch), w * (y - y_mean.index_select(0, batch))
    products = (y_centred.unsqueeze(2) * x_centred.unsqueeze(1)).flatten(1)
    matrix = scatter_sum(products, batch, num_graphs).reshape(num_graphs, 3, 3)
    rotation, _ = polar3(matrix, proper=proper, gap=gap)
    translation = y_mean - (rotation * x_mean.unsqueeze(1)).sum(2)
    return rotation.to(dtype), translation.to(dtype)


def _check_pairs(x: Tensor, y: Tensor, weights: Tensor | None) -> None:
    if x.dim() < 2 or x.shape[-1] != 3 or not x.is_floating_point():
        raise ValueError(f"x must be [..., n, 3] of a floating dtype, got {list(x.shape)} of {x.dtype}")
    if y.shape != x.shape or y.dtype != x.dtype:
        raise ValueError(f"y must be {list(x.shape)} of {x.dtype} as x, got {list(y.shape)} of {y.dtype}")
    check_finite("x", x)
    check_finite("y", y)
    if weights is not None:
        if weights.shape != x.shape[:-1]:
            raise ValueError(f"weights must be [..., n] = {list(x.shape[:-1])}, got {list(weights.shape)}")
        check_not_negative("weights", weights)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x
