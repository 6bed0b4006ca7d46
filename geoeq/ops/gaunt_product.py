"""Gaunt products: channelwise products of functions on the sphere, taken on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from geoeq.ops.channelwise_product import ChannelwiseProduct
from geoeq.ops.grid_product import grid_product
from geoeq.ops.product_route import ROUTES, product_plan, product_route
from geoeq.ops.sphere_transform import Transform, bracket_transforms, product_transforms
from geoeq.ops.tensor_product_code import parse_plan

__all__ = ["gaunt_product", "gaunt_product_many"]


def gaunt_product(
    x: Tensor,
    y: Tensor,
    lmax1: int,
    lmax2: int,
    lmax_out: int,
    *,
    complete: bool = False,
    normalization: str = "integral",
    route: str | None = None,
) -> Tensor:
    r"""Product of functions on the sphere, channel by channel, in spherical harmonics.

    .. math::
        f(r) = \sum_{lm} x_{lm} Y_{lm}(r), \quad g(r) = \sum_{lm} y_{lm} Y_{lm}(r), \quad
        z_{lm} = \int Y_{lm}\, f\, g \, d\Omega .

    In terms of e3nn's ``wigner_3j`` it is the sum of all paths (l1, l2) -> l3 with even l1 + l2 + l3, each times

    .. math:: \sqrt{\tfrac{(2l_1+1)(2l_2+1)(2l_3+1)}{4\pi}}\ \left|\begin{pmatrix} l_1 & l_2 & l_3 \\ 0 & 0 & 0
        \end{pmatrix}\right| .

    Paths with odd sum, the cross product among them, come from the bracket
    :math:`\{f, g\} = r \cdot (\nabla f \times \nabla g)`, which ``complete`` adds. There the path's factor holds
    :math:`\sqrt{l_1(l_1+1)\, l_2(l_2+1)}` and the 3j symbol :math:`(l_1\ l_2\ l_3;\ 1\ {-1}\ 0)`.

    The functions are sampled on an exact quadrature rule, on large ones at one point of each opposite pair; nothing
    but x and y is kept for the backward pass. Where :func:`~geoeq.ops.product_route` finds them faster, sums over
    the Clebsch-Gordan constants take the place of the grid: under ``torch.compile`` up to degree 3.

    Args:
        x: [rows, (lmax1 + 1)^2, C], in e3nn's order.
        y: [rows, (lmax2 + 1)^2, C].
        lmax1: highest degree of ``x``.
        lmax2: highest degree of ``y``.
        lmax_out: highest degree that is kept of the product; ``lmax1 + lmax2`` keeps all.
        complete: also compute the bracket.
        normalization: of the spherical harmonics, ``"integral"`` or ``"component"``; with the latter the factor
            is :math:`\sqrt{4 \pi}` times larger, and a coefficient 1 of degree 0 is the constant function 1.
        route: ``"gaunt"``, the grid, or ``"clebsch_gordan"``, sums; None: the faster one by measurement.

    Returns:
        [rows, (lmax_out + 1)^2, C], or [rows, (lmax_out + 1)^2, 2 C] if ``complete``: the product, then the bracket.

    Raises:
        ValueError: a shape does not fit its degree, x and y differ in rows, channels or device, or an unknown route.

    Symmetry: O(3). Inputs of parity (-1)^l give a product of parity (-1)^l and a bracket of parity -(-1)^l;
    relative error below 1e-14 in float64 and 2e-6 in float32 up to degree 8.

    Source: arXiv 2401.10216, on the grid of arXiv 2506.13523; the bracket is that of arXiv 2605.15073.

    >>> x, y = torch.randn(5, 9, 16), torch.randn(5, 4, 16)
    >>> gaunt_product(x, y, 2, 1, 3).shape
    torch.Size([5, 16, 16])
    >>> gaunt_product(x, y, 2, 1, 2, complete=True).shape
    torch.Size([5, 9, 32])
    """
    if route not in (None, *ROUTES):
        raise ValueError(f"route must be one of {list(ROUTES)} or None, got {route!r}")
    lmaxs = (lmax1, lmax2)
    product = _product((x, y), lmaxs, lmax_out, normalization, route=route)
    if not complete:
        return product
    return torch.cat([product, _product((x, y), lmaxs, lmax_out, normalization, route=route, bracket=True)], -1)


def gaunt_product_many(
    factors: Sequence[Tensor], lmaxs: Sequence[int], lmax_out: int, *, normalization: str = "integral"
) -> Tensor:
    r"""Product of several functions on the sphere: each is sampled once, and their product projected once.

    Args:
        factors: at least one tensor, the i-th [rows, (lmaxs[i] + 1)^2, C].
        lmaxs: highest degree of each factor.
        lmax_out: highest degree that is kept of the product; nothing is truncated before.
        normalization: as for :func:`gaunt_product`.

    Returns:
        [rows, (lmax_out + 1)^2, C].

    Raises:
        ValueError: no factor, as many degrees as factors are not given, or shapes that do not fit.

    Symmetry: as for :func:`gaunt_product`.

    Source: arXiv 2401.10216, section 3.3.

    >>> x = torch.randn(5, 9, 16)
    >>> gaunt_product_many([x, x, x], [2, 2, 2], 2).shape
    torch.Size([5, 9, 16])
    """
    if not factors or len(factors) != len(lmaxs):
        raise ValueError(f"factors and lmaxs must be of one length from 1, got {len(factors)} and {len(lmaxs)}")
    return _product(tuple(factors), tuple(lmaxs), lmax_out, normalization)


def _product(
    factors: tuple[Tensor, ...],
    lmaxs: tuple[int, ...],
    lmax_out: int,
    normalization: str,
    *,
    route: str | None = None,
    bracket: bool = False,
) -> Tensor:
    # A degree that changed between calls reaches a compiler as a symbol; tables need the number, which range asks for.
    lmaxs, lmax_out = tuple(range(lmax).stop for lmax in lmaxs), range(lmax_out).stop
    _check(factors, lmaxs, lmax_out)
    dtype = reduce(torch.promote_types, (factor.dtype for factor in factors))
    # Half precision would lose digits in every sum.
    inner = dtype if dtype == torch.float64 else torch.float32
    factors = tuple(factor.to(inner) for factor in factors)
    if route is None:
        compiled = torch.compiler.is_compiling()
        route = product_route(max(*lmaxs, lmax_out), "odd" if bracket else "even", compiled=compiled)
    with _full_precision(factors[0]):
        if len(factors) == 2 and route == "clebsch_gordan":
            return _sums(_plan(bracket, lmaxs, lmax_out, normalization), *factors).to(dtype)
        transforms = _transforms(bracket, lmaxs, lmax_out, normalization, inner, factors[0].device)
        return grid_product(transforms, *factors).to(dtype)


@torch.compiler.assume_constant_result
def _transforms(bracket: bool, *arguments: Any) -> tuple[Transform, ...]:
    """Tables that the compiler takes as they are rather than trace how they are made."""
    return bracket_transforms(*arguments) if bracket else product_transforms(*arguments)


@torch.compiler.assume_constant_result
def _plan(bracket: bool, lmaxs: tuple[int, int], lmax_out: int, normalization: str) -> str:
    plan = product_plan(bracket, lmaxs, lmax_out, normalization).text
    _channelwise(plan)  # while no tracer is at work
    return plan


def _sums(plan: str, x: Tensor, y: Tensor) -> Tensor:
    return _traced(plan, x, y) if torch.compiler.is_compiling() else _channelwise(plan)(x, y, None, unroll=False)


@torch.compiler.allow_in_graph
def _traced(plan: str, x: Tensor, y: Tensor) -> Tensor:
    return _channelwise(plan)(x, y, None, unroll=True)


@cache
def _channelwise(plan: str) -> ChannelwiseProduct:
    return ChannelwiseProduct(parse_plan(plan))


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast would lose digits in every sum."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _check(factors: tuple[Tensor, ...], lmaxs: tuple[int, ...], lmax_out: int) -> None:
    if lmax_out < 0:
        raise ValueError(f"lmax_out must be at least 0, got {lmax_out}")
    rows, channels = (factors[0].shape[0], factors[0].shape[-1]) if factors[0].dim() == 3 else (0, 0)
    for factor, lmax, name in zip(factors, lmaxs, "xy" if len(factors) == 2 else map(str, range(len(factors)))):
        if lmax < 0 or factor.dim() != 3 or factor.shape != (rows, (lmax + 1) ** 2, channels):
            expected = f"[{rows}, {(lmax + 1) ** 2}, {channels}] for degree {lmax}"
            raise ValueError(f"factor {name} must be {expected}, got {list(factor.shape)}")
        if not factor.is_floating_point() or factor.device != factors[0].device:
            raise ValueError(
                f"factor {name} must be real on {factors[0].device}, got {factor.dtype} on {factor.device}"
            )
