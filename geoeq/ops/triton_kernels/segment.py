"""Sum, maximum and minimum of each segment of consecutive rows."""

# mypy: disable-error-code="no-untyped-def"
# Arguments of kernels are pointers and numbers of the device, which have no types here.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["reduce_segments"]

TILE = 1024


@triton.jit
def segment_kernel(
    src,
    out,
    ptr,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    REDUCE: tl.constexpr,
):
    """One program: one segment, one tile of channels. The minimum is the negated maximum of the negated rows."""
    segment = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    begin, end = tl.load(ptr + segment), tl.load(ptr + segment + 1)
    sign = -1.0 if REDUCE == "min" else 1.0
    total = tl.full([CHANNELS], 0.0 if REDUCE == "sum" else float("-inf"), ACCUMULATE)
    nans = tl.zeros([CHANNELS], tl.int32)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        value = tl.load(src + row[:, None] * channels + channel[None, :], mask, 0.0).to(ACCUMULATE)
        if REDUCE == "sum":
            total += tl.sum(value, 0)
        else:
            total = tl.maximum(total, tl.max(tl.where(mask, value * sign, float("-inf")), 0))
            nans += tl.sum((value != value).to(tl.int32), 0)
    total = tl.where(end > begin, total * sign, 0.0)
    # The hardware's maximum passes over NaN, torch's does not.
    total = tl.where(nans > 0, float("nan"), total)
    tl.store(out + segment * channels + channel, total.to(out.dtype.element_ty), inside)


def reduce_segments(src: Tensor, ptr: Tensor, reduce: str) -> Tensor:
    """[N, C] from ``src`` [E, C] and ``ptr`` [N + 1]; ``reduce`` is "sum", "max" or "min"."""
    segments, channels = ptr.shape[0] - 1, src.shape[1]
    out = src.new_empty(segments, channels)
    if out.numel():
        n_channels = min(triton.next_power_of_2(channels), 128)
        mean_length = max(src.shape[0] // segments, 1)
        n_rows = min(triton.next_power_of_2(mean_length), max(TILE // n_channels, 1))
        segment_kernel[(segments, triton.cdiv(channels, n_channels))](
            src.contiguous(),
            out,
            ptr,
            channels,
            ROWS=n_rows,
            CHANNELS=n_channels,
            ACCUMULATE=tl.float64 if src.dtype == torch.float64 else tl.float32,
            REDUCE=reduce,
            num_warps=1,
        )
    return out
