"""Batches of 3x3 matrices as nine separate arrays, so that closed forms run as long vector operations.

A vector is a tuple of 3 tensors, a matrix one of 9 in row order, a symmetric matrix one of 6 in the order
xx, yy, zz, xy, xz, yz; all have one shape [B].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from geoeq.ops.backends import readable, transforms_active

__all__ = ["check_finite", "check_matrix", "check_not_negative", "map_components"]

Components: TypeAlias = tuple[Tensor, ...]

# Bytes of one component array of a piece: the few dozen temporaries of a closed form then stay in the cache,
# and are still long enough to hide the cost of a call.
PIECE_BYTES = 65536


def check_matrix(matrix: Tensor) -> None:
    """Raise a ValueError unless ``matrix`` is [..., 3, 3] of a floating dtype and, where that is cheap, finite."""
    if matrix.dim() < 2 or matrix.shape[-2:] != (3, 3) or not matrix.is_floating_point():
        raise ValueError(f"matrix must be [..., 3, 3] of a floating dtype, got {list(matrix.shape)} of {matrix.dtype}")
    check_finite("matrix", matrix)


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ValueError for NaN or infinity; not inside a compiled graph, a transform of torch.func or on a GPU."""
    if not readable(values):
        return
    # A sum passes NaN and infinity on and is far quicker than a test of each number; it may overflow by itself.
    values = values.detach()
    if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} must be finite, got {int((~torch.isfinite(values)).sum())} values NaN or infinite")


def check_not_negative(name: str, values: Tensor) -> None:
    """:func:`check_finite`, and raise a ValueError for a negative number."""
    check_finite(name, values)
    if readable(values) and values.numel() and (least := float(values.detach().amin())) < 0:
        raise ValueError(f"{name} must not be negative, got {least}")


def map_components(
    function: Callable[..., tuple[Components, ...]], inputs: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Apply a function of component tuples to tensors [B, k]; None is passed on as it is.

    On a CPU, where nothing needs derivatives of the single operations, the batch is taken in pieces that fit the cache.

    Args:
        function: takes one tuple per input, returns one tuple per output.
        inputs: [B, k] each, or None; the first is a tensor.

    Returns:
        One [B, number of components] per output.
    """
    first = inputs[0]
    assert first is not None
    if torch.compiler.is_compiling() and not first.is_cuda:
        # Each stack is a buffer of its own: inductor vectorises no loop with many loads or stores of large stride.
        outputs = function(*(None if x is None else torch.stack(x.unbind(-1)).unbind(0) for x in inputs))
        return tuple(torch.stack(components).t().contiguous() for components in outputs)
    if first.is_cuda or torch.is_grad_enabled() or transforms_active():
        outputs = function(*(None if x is None else x.unbind(-1) for x in inputs))
        return tuple(torch.stack(components, -1) for components in outputs)
    size = max(PIECE_BYTES // first.element_size(), 1)
    pieces: list[tuple[Tensor, ...]] = []
    for start in range(0, max(first.shape[0], 1), size):
        piece = slice(start, start + size)
        outputs = function(*(None if x is None else x[piece].t().contiguous().unbind(0) for x in inputs))
        pieces.append(tuple(torch.stack(components).t() for components in outputs))
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def cross(a: Sequence[Tensor], b: Sequence[Tensor]) -> Components:
    return difference(a[1], b[2], a[2], b[1]), difference(a[2], b[0], a[0], b[2]), difference(a[0], b[1], a[1], b[0])


def difference(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """a b - c d"""
    return torch.addcmul(a * b, c, d, value=-1)


def combine(a: Tensor, x: Components, b: Tensor, y: Components) -> Components:
    """a x + b y"""
    return tuple(torch.addcmul(a * p, b, q) for p, q in zip(x, y, strict=True))


def select(flag: Tensor, no: Components, yes: Components) -> Components:
    """``yes`` where ``flag`` is 1, ``no`` where it is 0: exact, and several times faster than ``torch.where``."""
    return tuple(torch.lerp(p, q, flag) for p, q in zip(no, yes, strict=True))


def positive(x: Tensor) -> Tensor:
    """1 where x > 0 or x is +0, else 0."""
    return 0.5 + torch.copysign(torch.full_like(x, 0.5), x)


def rows(m: Components) -> tuple[Components, Components, Components]:
    return m[0:3], m[3:6], m[6:9]


def columns(m: Components) -> tuple[Components, Components, Components]:
    return m[0::3], m[1::3], m[2::3]


def transpose(m: Components) -> Components:
    return m[0::3] + m[1::3] + m[2::3]


def times(a: Components, b: Components) -> Components:
    """Matrix product a b."""
    return tuple(dot(row, column) for row in rows(a) for column in columns(b))


def apply(m: Components, v: Sequence[Tensor]) -> Components:
    return tuple(dot(row, v) for row in rows(m))


def full(s: Components) -> Components:
    """The nine components of a symmetric matrix."""
    xx, yy, zz, xy, xz, yz = s
    return xx, xy, xz, xy, yy, yz, xz, yz, zz


def symmetric_part(m: Components) -> Components:
    return m[0], m[4], m[8], 0.5 * (m[1] + m[3]), 0.5 * (m[2] + m[6]), 0.5 * (m[5] + m[7])


def complement(w: Components) -> tuple[Components, Components]:
    """Unit vectors u, v with u, v, w orthonormal and right-handed, for a unit vector w; no branch, no cancellation."""
    x, y, z = w
    sign = torch.copysign(torch.ones_like(z), z)
    a = -(sign + z).reciprocal()
    ax = a * x
    b = ax * y
    return (torch.addcmul(torch.ones_like(z), sign * x, ax), sign * b, -sign * x), (
        b,
        torch.addcmul(sign, a * y, y),
        -y,
    )
