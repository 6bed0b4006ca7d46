"""Reductions over the edges that share an index: sum, mean, maximum, minimum, standard deviation, softmax.

Plain torch, so that forward-mode derivatives, double backward, ``torch.func`` and ``torch.compile`` all work. For an
index in any order no kernel without a sort does better; where edges are sorted, :mod:`geoeq.ops.segment` has them.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["scatter", "scatter_sum", "scatter_mean", "scatter_max", "scatter_min", "scatter_std", "scatter_softmax"]


def _check(src: Tensor, index: Tensor) -> None:
    if src.dim() == 0 or index.dim() != 1 or index.shape[0] != src.shape[0]:
        raise ValueError(f"index must be [E] and src [E, ...], got {list(index.shape)} and {list(src.shape)}")


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Give ``values`` [E] as many trailing axes of size 1 as ``like`` [E, ...] has."""
    return values.view(-1, *[1] * (like.dim() - 1))


def scatter_sum(src: Tensor, index: Tensor, num_nodes: int) -> Tensor:
    r"""Sum of the rows with the same index: :math:`y_i = \sum_{e:\, \mathrm{index}_e = i} \mathrm{src}_e`.

    Args:
        src: values [E, ...], any floating dtype.
        index: target of each row, int64 [E], values in ``[0, num_nodes)``.
        num_nodes: number of targets.

    Returns:
        [num_nodes, ...]; targets that no row points at are 0.

    Raises:
        ValueError: the shapes of ``src`` and ``index`` do not fit.

    >>> import torch
    >>> scatter_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([3., 0., 4.])
    """
    _check(src, index)
    out = src.new_zeros(num_nodes, *src.shape[1:])
    if torch.compiler.is_compiling():  # index_add_ would be compiled into atomic additions, number by number
        return out.scatter_add_(0, _column(index, src).expand_as(src), src)
    return out.index_add_(0, index, src)


def scatter_mean(src: Tensor, index: Tensor, num_nodes: int) -> Tensor:
    r"""Mean of the rows with the same index.

    .. math:: y_i = \frac{1}{n_i} \sum_{e:\, \mathrm{index}_e = i} \mathrm{src}_e

    with :math:`n_i` the number of those rows.

    Args:
        src: values [E, ...], any floating dtype.
        index: target of each row, int64 [E], values in ``[0, num_nodes)``.
        num_nodes: number of targets.

    Returns:
        [num_nodes, ...]; targets that no row points at are 0.

    Raises:
        ValueError: the shapes of ``src`` and ``index`` do not fit.

    >>> import torch
    >>> scatter_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([1.5000, 0.0000, 4.0000])
    """
    total = scatter_sum(src, index, num_nodes)
    # Counted as integers: half precision cannot count past 2048.
    count = scatter_sum(torch.ones_like(index), index, num_nodes).clamp(min=1)
    return total / _column(count, total).to(src.dtype)


def scatter_max(src: Tensor, index: Tensor, num_nodes: int) -> Tensor:
    r"""Largest of the rows with the same index.

    .. math:: y_i = \max_{e:\, \mathrm{index}_e = i} \mathrm{src}_e

    Rows that tie share the gradient equally.

    Args:
        src: values [E, ...], any floating dtype.
        index: target of each row, int64 [E], values in ``[0, num_nodes)``.
        num_nodes: number of targets.

    Returns:
        [num_nodes, ...]; targets that no row points at are 0.

    Raises:
        ValueError: the shapes of ``src`` and ``index`` do not fit.

    >>> import torch
    >>> scatter_max(torch.tensor([-1.0, -2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([-1.,  0.,  4.])
    """
    return _extreme(src, index, num_nodes, "amax")


def scatter_min(src: Tensor, index: Tensor, num_nodes: int) -> Tensor:
    r"""Smallest of the rows with the same index.

    .. math:: y_i = \min_{e:\, \mathrm{index}_e = i} \mathrm{src}_e

    Arguments, ties and errors as in :func:`scatter_max`; targets that no row points at are 0.

    >>> import torch
    >>> scatter_min(torch.tensor([-1.0, -2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([-2.,  0.,  4.])
    """
    return _extreme(src, index, num_nodes, "amin")


def _extreme(src: Tensor, index: Tensor, num_nodes: int, reduce: str) -> Tensor:
    _check(src, index)
    out = src.new_zeros(num_nodes, *src.shape[1:])
    return out.scatter_reduce(0, _column(index, src).expand_as(src), src, reduce, include_self=False)


def scatter_std(src: Tensor, index: Tensor, num_nodes: int, correction: int = 1) -> Tensor:
    r"""Standard deviation of the rows with the same index.

    .. math:: y_i = \sqrt{\frac{1}{\max(n_i - c, 1)} \sum_{e:\, \mathrm{index}_e = i} (\mathrm{src}_e - \mu_i)^2}

    with :math:`n_i` the number of those rows, :math:`\mu_i` their mean and :math:`c` the correction. The mean is
    subtracted before squaring, so that large means cost no digits.

    Args:
        src: values [E, ...], any floating dtype.
        index: target of each row, int64 [E], values in ``[0, num_nodes)``.
        num_nodes: number of targets.
        correction: 1 for the unbiased variance, as in ``torch.std``; 0 for that of the rows themselves.

    Returns:
        [num_nodes, ...]; 0, with gradient 0, where rows are equal, single or absent.

    Raises:
        ValueError: the shapes of ``src`` and ``index`` do not fit.

    >>> import torch
    >>> scatter_std(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 0, 2]), 3, correction=0)
    tensor([1., 0., 0.])
    """
    offset = src - scatter_mean(src, index, num_nodes).index_select(0, index)
    total = scatter_sum(offset.square(), index, num_nodes)
    count = scatter_sum(torch.ones_like(index), index, num_nodes)
    return _root(total / _column((count - correction).clamp(min=1), total).to(src.dtype))


def _root(square: Tensor) -> Tensor:
    """Square root with gradient 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def scatter_softmax(src: Tensor, index: Tensor, num_nodes: int) -> Tensor:
    r"""Softmax among the rows with the same index.

    .. math:: y_e = \exp(s_e) \Big/ \sum_{f:\, \mathrm{index}_f = \mathrm{index}_e} \exp(s_f)

    Stable for any finite values: the largest value of each target is subtracted first.

    Args:
        src: scores [E, ...], any floating dtype.
        index: target of each row, int64 [E], values in ``[0, num_nodes)``.
        num_nodes: number of targets.

    Returns:
        [E, ...], positive; the rows of one target sum to 1.

    Raises:
        ValueError: the shapes of ``src`` and ``index`` do not fit.

    >>> import torch
    >>> scatter_softmax(torch.tensor([7.0, 7.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([0.5000, 0.5000, 1.0000])
    """
    # The shift cancels in the quotient, so it carries no gradient.
    largest = scatter_max(src.detach(), index, num_nodes)
    weight = (src - largest.index_select(0, index)).exp()
    return weight / scatter_sum(weight, index, num_nodes).index_select(0, index)


def scatter(src: Tensor, index: Tensor, num_nodes: int, reduce: str = "sum") -> Tensor:
    """Reduce the rows with the same index; ``reduce`` is "sum", "mean", "max", "min" or "std".

    Arguments and result as in :func:`scatter_sum`.

    Raises:
        ValueError: ``reduce`` is unknown, or the shapes of ``src`` and ``index`` do not fit.

    >>> import torch
    >>> scatter(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 0, 2]), 3, "mean")
    tensor([2., 0., 4.])
    """
    if reduce not in _REDUCTIONS:
        raise ValueError(f"reduce must be one of {list(_REDUCTIONS)}, got {reduce!r}")
    return _REDUCTIONS[reduce](src, index, num_nodes)


_REDUCTIONS = {"sum": scatter_sum, "mean": scatter_mean, "max": scatter_max, "min": scatter_min, "std": scatter_std}
