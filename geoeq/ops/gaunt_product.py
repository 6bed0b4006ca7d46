"""Gaunt products: channelwise products of functions on the sphere, taken on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from geoeq.ops.grid_product import grid_product
from geoeq.ops.sphere_transform import (
    Transform,
    bracket_transforms,
    evaluate,
    multiply,
    product_transforms,
    project,
)

__all__ = ["gaunt_product", "gaunt_product_many", "product_route"]

GAUNT_FROM = {"even": 5, "all": 6}  # degree from which the grid is the faster way, see product_route
# A compiler is given products of at most so many terms as sums: 83 at degree 2. It would take minutes over many more.
LARGEST_UNROLLED = 150


def gaunt_product(
    x: Tensor,
    y: Tensor,
    lmax1: int,
    lmax2: int,
    lmax_out: int,
    *,
    complete: bool = False,
    normalization: str = "integral",
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
    but x and y is kept for the backward pass. Under ``torch.compile`` products of low degree become plain sums.

    Args:
        x: [rows, (lmax1 + 1)^2, C], in e3nn's order.
        y: [rows, (lmax2 + 1)^2, C].
        lmax1: highest degree of ``x``.
        lmax2: highest degree of ``y``.
        lmax_out: highest degree that is kept of the product; ``lmax1 + lmax2`` keeps all.
        complete: also compute the bracket.
        normalization: of the spherical harmonics, ``"integral"`` or ``"component"``; with the latter the factor
            is :math:`\sqrt{4 \pi}` times larger, and a coefficient 1 of degree 0 is the constant function 1.

    Returns:
        [rows, (lmax_out + 1)^2, C], or [rows, (lmax_out + 1)^2, 2 C] if ``complete``: the product, then the bracket.

    Raises:
        ValueError: a shape does not fit its degree, or x and y differ in rows, channels or device.

    Symmetry: O(3). Inputs of parity (-1)^l give a product of parity (-1)^l and a bracket of parity -(-1)^l;
    relative error below 1e-14 in float64 and 2e-6 in float32 up to degree 8.

    Source: arXiv 2401.10216, on the grid of arXiv 2506.13523; the bracket is that of arXiv 2605.15073.

    >>> x, y = torch.randn(5, 9, 16), torch.randn(5, 4, 16)
    >>> gaunt_product(x, y, 2, 1, 3).shape
    torch.Size([5, 16, 16])
    >>> gaunt_product(x, y, 2, 1, 2, complete=True).shape
    torch.Size([5, 9, 32])
    """
    lmaxs = (lmax1, lmax2)
    product = _product((x, y), lmaxs, lmax_out, normalization)
    if not complete:
        return product
    return torch.cat([product, _product((x, y), lmaxs, lmax_out, normalization, bracket=True)], -1)


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


def product_route(lmax: int, paths: str = "even", *, crossing: int | None = None) -> str:
    """The faster way to a channelwise product of degrees up to ``lmax``: Clebsch-Gordan sums or the grid.

    Measured on one AVX-512 core in float32 with 64 channels, both ways written in C: unrolled sums, which allow a
    weight for each path, against the grid, ms for equal work.

    ====  ==================  ====  =================  =================
    lmax  even paths, sums    grid  all paths, sums    grid and bracket
    ====  ==================  ====  =================  =================
    2     0.04                0.14  0.09               0.43
    3     0.08                0.15  0.16               0.44
    4     0.30                0.38  0.57               1.1
    6     1.26                0.71  2.2                2.1
    ====  ==================  ====  =================  =================

    The last column is estimated as three times the grid's, which is how many transforms it takes.

    Args:
        lmax: highest degree of inputs and output.
        paths: ``"even"``, those of even l1 + l2 + l3, or ``"all"``, which takes the bracket.
        crossing: degree from which the grid is chosen, in place of the measured one.

    Returns:
        ``"clebsch_gordan"`` or ``"gaunt"``.

    Raises:
        ValueError: unknown ``paths``.

    >>> product_route(2), product_route(6), product_route(2, crossing=0)
    ('clebsch_gordan', 'gaunt', 'gaunt')
    """
    if paths not in GAUNT_FROM:
        raise ValueError(f"paths must be 'even' or 'all', got {paths!r}")
    return "gaunt" if lmax >= (GAUNT_FROM[paths] if crossing is None else crossing) else "clebsch_gordan"


def _product(
    factors: tuple[Tensor, ...],
    lmaxs: tuple[int, ...],
    lmax_out: int,
    normalization: str,
    *,
    bracket: bool = False,
) -> Tensor:
    # A degree that changed between calls reaches a compiler as a symbol; tables need the number, which range asks for.
    lmaxs, lmax_out = tuple(range(lmax).stop for lmax in lmaxs), range(lmax_out).stop
    _check(factors, lmaxs, lmax_out)
    dtype = reduce(torch.promote_types, (factor.dtype for factor in factors))
    # Half precision would lose digits in every sum.
    inner = dtype if dtype == torch.float64 else torch.float32
    factors = tuple(factor.to(inner) for factor in factors)
    if len(factors) == 2 and torch.compiler.is_compiling():
        terms = _terms(bracket, lmaxs, lmax_out, normalization)
        if len(terms) <= LARGEST_UNROLLED:
            return _unrolled(terms, (lmax_out + 1) ** 2, *factors).to(dtype)
    transforms = _transforms(bracket, lmaxs, lmax_out, normalization, inner, factors[0].device)
    if torch.is_autocast_enabled(factors[0].device.type):
        with torch.autocast(factors[0].device.type, enabled=False):
            return grid_product(transforms, *factors).to(dtype)
    return grid_product(transforms, *factors).to(dtype)


@torch.compiler.assume_constant_result
def _transforms(bracket: bool, *arguments: Any) -> tuple[Transform, ...]:
    """Tables that the compiler takes as they are rather than trace how they are made."""
    return bracket_transforms(*arguments) if bracket else product_transforms(*arguments)


@torch.compiler.assume_constant_result
def _terms(
    bracket: bool, lmaxs: tuple[int, int], lmax_out: int, normalization: str
) -> tuple[tuple[int, int, int, float], ...]:
    """The non-zero coefficients as (k, i, j, c): the output is z_k = sum of c x_i y_j."""
    transforms = _transforms(bracket, lmaxs, lmax_out, normalization, torch.float64, torch.device("cpu"))
    if sum((lmax + 1) ** 2 for lmax in (*lmaxs, lmax_out)) > 40:  # certain to be too many; do not count them
        return ((0, 0, 0, 0.0),) * (LARGEST_UNROLLED + 1)
    one_hot = [torch.eye((lmax + 1) ** 2, dtype=torch.float64)[..., None] for lmax in lmaxs]
    f, g = (evaluate(transform, x) for transform, x in zip(transforms[1:], one_hot))
    columns = [project(transforms[0], multiply(f, tuple(part[j : j + 1] for part in g))) for j in range(len(g[0]))]
    table = torch.cat(columns, 2)  # [K1, K_out, K2]
    return tuple((k, i, j, table[i, k, j].item()) for i, k, j in (table.abs() > 1e-12).nonzero().tolist())


def _unrolled(terms: tuple[tuple[int, int, int, float], ...], n_out: int, x: Tensor, y: Tensor) -> Tensor:
    """The product as one sum for each coefficient, which a compiler fuses into one loop."""
    xs, ys = x.unbind(1), y.unbind(1)
    sums: list[Tensor | None] = [None] * n_out
    for k, i, j, c in terms:
        term, so_far = c * (xs[i] * ys[j]), sums[k]
        sums[k] = term if so_far is None else so_far + term
    return torch.stack([torch.zeros_like(xs[0]) if total is None else total for total in sums], 1)


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
