"""What the fast steps of a position-orientation network share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geoeq.ops.backends import stands_for_many, transforms_active

__all__ = ["derivative", "linear", "needs_derivative", "needs_plain", "tiles"]

TILE = 4096  # rows: with fewer the calls cost more, with many more the intermediate values leave the cache


def needs_plain(x: Tensor) -> bool:
    """The hand-written passes serve neither a compiler, export, torch.func, dual numbers nor mixed precision."""
    return torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type) or transforms_active()


def needs_derivative(gradient: Tensor) -> bool:
    """Whether a backward pass must go through torch's own operations: a second derivative, or one for many at once."""
    return torch.is_grad_enabled() or stands_for_many(gradient)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``; oneDNN multiplies tall single-precision tiles about a fifth faster than the BLAS behind it."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and torch.backends.mkldnn.is_available() and len(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def tiles(n_rows: int, width: int = 1) -> Iterator[slice]:
    """Slices of about ``TILE / width`` rows each."""
    size = max(1, TILE // max(1, width))
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def derivative(
    plain: Callable[..., Any], inputs: tuple[Any, ...], needed: tuple[bool, ...], *grads: Tensor | None
) -> tuple[Tensor | None, ...]:
    again = torch.is_grad_enabled()
    # Views end the search at this step: one input may itself be computed from another.
    with torch.enable_grad():
        views = [x.view_as(x) if need else x for x, need in zip(inputs, needed, strict=True)]
        outs = plain(*views)
    outs = (outs,) if isinstance(outs, Tensor) else outs
    given = [(out, g) for out, g in zip(outs, grads, strict=True) if g is not None]
    outs, cotangents = zip(*given, strict=True)
    wanted = [view for view, need in zip(views, needed, strict=True) if need]
    found = iter(torch.autograd.grad(outs, wanted, cotangents, create_graph=again, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)
