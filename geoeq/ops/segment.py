"""Reductions of consecutive rows, given where each segment begins (compressed sparse rows).

Values come from the fastest backend there is; derivatives, to any order, from torch's own operations. Unlike
:mod:`geoeq.ops.scatter` this needs rows sorted by target, and in return has no atomic additions on a GPU: equal
inputs give equal bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geoeq.ops.backends import choose_backend, needs_plain_torch
from geoeq.ops.scatter import _REDUCTIONS, _column, _root, scatter, scatter_sum

__all__ = ["segment", "segment_softmax", "segment_index"]


def segment(src: Tensor, ptr: Tensor, reduce: str = "sum") -> Tensor:
    r"""Reduce the rows of each segment.

    .. math:: y_i = \operatorname{reduce}_{\mathrm{ptr}_i \le e < \mathrm{ptr}_{i + 1}} \mathrm{src}_e

    Args:
        src: values [E, ...], any floating dtype.
        ptr: int64 [N + 1], not decreasing, from 0 to E.
        reduce: "sum", "mean", "max", "min" (rows that tie share the gradient equally) or "std" (unbiased; 0 where
            rows are equal or single).

    Returns:
        [N, ...]; empty segments are 0.

    Raises:
        ValueError: ``reduce`` is unknown, or ``src`` or ``ptr`` has a wrong shape.

    >>> import torch
    >>> segment(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 2, 2, 3]), "mean")
    tensor([2., 0., 4.])
    """
    _check(src, ptr)
    if reduce not in _REDUCTIONS:
        raise ValueError(f"reduce must be one of {list(_REDUCTIONS)}, got {reduce!r}")
    backend = "torch" if needs_plain_torch() else choose_backend(src, "triton", "torch_scatter")
    if backend == "torch":
        return scatter(src, segment_index(ptr, src.shape[0]), ptr.shape[0] - 1, reduce)
    flat = src.reshape(src.shape[0], src.shape[1:].numel())
    return _on_backend(flat, ptr, reduce, backend).reshape(-1, *src.shape[1:])


def segment_softmax(src: Tensor, ptr: Tensor) -> Tensor:
    r"""Softmax among the rows of each segment.

    .. math:: y_e = \exp(s_e) \Big/ \sum_{f \in \mathrm{segment}(e)} \exp(s_f)

    Stable for any finite values: the largest value of each segment is subtracted first.

    Args:
        src: scores [E, ...], any floating dtype.
        ptr: int64 [N + 1], not decreasing, from 0 to E.

    Returns:
        [E, ...], positive; the rows of one segment sum to 1.

    Raises:
        ValueError: ``src`` or ``ptr`` has a wrong shape.

    >>> import torch
    >>> segment_softmax(torch.tensor([7.0, 7.0, 4.0]), torch.tensor([0, 2, 2, 3]))
    tensor([0.5000, 0.5000, 1.0000])
    """
    _check(src, ptr)
    index = segment_index(ptr, src.shape[0])
    # The shift cancels in the quotient, so it carries no gradient.
    weight = (src - segment(src.detach(), ptr, "max").index_select(0, index)).exp()
    return weight / segment(weight, ptr, "sum").index_select(0, index)


def segment_index(ptr: Tensor, length: int) -> Tensor:
    """The segment of each row, int64 [length].

    >>> import torch
    >>> segment_index(torch.tensor([0, 2, 2, 3]), 3)
    tensor([0, 0, 2])
    """
    segments = torch.arange(ptr.shape[0] - 1, device=ptr.device)
    return segments.repeat_interleave(ptr.diff(), output_size=length)


def _check(src: Tensor, ptr: Tensor) -> None:
    if src.dim() == 0 or ptr.dim() != 1 or ptr.shape[0] == 0 or ptr.dtype != torch.int64:
        raise ValueError(f"ptr must be [N + 1] of int64 and src [E, ...], got {list(ptr.shape)} and {list(src.shape)}")


def _on_backend(src: Tensor, ptr: Tensor, reduce: str, backend: str) -> Tensor:
    if reduce in ("sum", "max", "min"):
        return _reduce(src, ptr, reduce, backend)
    count, correction = ptr.diff(), int(reduce == "std")
    mean = _reduce(src, ptr, "sum", backend) / _column(count.clamp(min=1), src).to(src.dtype)
    if reduce == "mean":
        return mean
    offset = src - mean.index_select(0, segment_index(ptr, src.shape[0]))
    total = _reduce(offset.square(), ptr, "sum", backend)
    return _root(total / _column((count - correction).clamp(min=1), src).to(src.dtype))


@torch.library.custom_op("geoeq::reduce_segments", mutates_args=())
def _reduce(src: Tensor, ptr: Tensor, reduce: str, backend: str) -> Tensor:
    """[N, C] from [E, C], without torch's kernels."""
    if backend == "triton":
        from geoeq.ops.triton_kernels.segment import reduce_segments

        return reduce_segments(src, ptr, reduce)
    from torch_scatter import segment_csr

    return segment_csr(src, ptr, reduce=reduce)


@_reduce.register_fake
def _(src: Tensor, ptr: Tensor, reduce: str, backend: str) -> Tensor:
    return src.new_empty(ptr.shape[0] - 1, src.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    src, ptr, ctx.reduce, _ = inputs
    ctx.length = src.shape[0]
    ctx.save_for_backward(*((ptr,) if ctx.reduce == "sum" else (ptr, src, output)))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    ptr, *values = ctx.saved_tensors
    index = segment_index(ptr, ctx.length)
    if ctx.reduce != "sum":
        src, extreme = values
        winner = (src == extreme.index_select(0, index)).to(src.dtype)
        grad = grad / scatter_sum(winner, index, grad.shape[0]).clamp(min=1)
        return grad.index_select(0, index) * winner, None, None, None
    return grad.index_select(0, index), None, None, None


_reduce.register_autograd(_backward, setup_context=_keep)
