"""Coefficients of spherical harmonics to and from values on a grid of the sphere.

Because :math:`Y_l(-r) = (-1)^l Y_l(r)`, the even and the odd part of a function, kept apart, say on half of the points
all there is to know: the transforms cost half as much. Where the grid is small, the transforms are so cheap that
values on all of its points, in one part, are faster: no sorting, and a product is one multiplication.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from geoeq.ops.constants import constants
from geoeq.ops.sphere import quadrature, spherical_harmonics, whole_quadrature

__all__ = ["Transform", "Values", "bracket_transforms", "evaluate", "multiply", "product_transforms", "project"]

# Grids with more pairs of opposite points than this are halved: measured on a CPU, from degree 4 (37 pairs) on.
LARGEST_WHOLE_GRID = 36

Values: TypeAlias = tuple[Tensor, ...]  # [rows, G, C]: on all points, or the even and the odd part on half of them


class Transform(NamedTuple):
    """A linear map from coefficients to grid values; :func:`project` applies its transpose."""

    dim: int  # number of coefficients K
    order: Tensor | None  # [K] coefficients by grade, even first; None on a whole grid
    inverse: Tensor | None  # [K] the inverse permutation
    tables: tuple[Tensor, ...]  # [G, K], or [G, K_even] and [G, K_odd]


def evaluate(transform: Transform, x: Tensor) -> Values:
    """Grid values of the functions with coefficients ``x`` [rows, K, C]."""
    if transform.order is None:
        return (torch.matmul(transform.tables[0], x),)
    parts = x.index_select(1, transform.order).split([table.shape[1] for table in transform.tables], 1)
    return tuple(torch.matmul(table, part) for table, part in zip(transform.tables, parts))


def project(transform: Transform, values: Values) -> Tensor:
    """The transpose of :func:`evaluate`, [rows, K, C]."""
    parts = [torch.matmul(table.T, value) for table, value in zip(transform.tables, values)]
    return parts[0] if transform.inverse is None else torch.cat(parts, 1).index_select(1, transform.inverse)


def multiply(f: Values, g: Values) -> Values:
    """Pointwise product: grades add modulo 2."""
    if len(f) == 1:
        return (f[0] * g[0],)
    return f[0] * g[0] + f[1] * g[1], f[0] * g[1] + f[1] * g[0]


@constants
def product_transforms(
    lmaxs: tuple[int, ...], lmax_out: int, normalization: str, dtype: torch.dtype, device: torch.device
) -> tuple[Transform, ...]:
    """Transforms of the product of functions: the output's first (weights inside), then one for each factor."""
    points, weights, halved = _grid(sum(lmaxs) + lmax_out)
    harmonics = spherical_harmonics(max(*lmaxs, lmax_out), points, normalization)
    tables = [_scaled(weights, normalization) * harmonics, *[harmonics] * len(lmaxs)]
    return tuple(
        _transform(table[:, : (lmax + 1) ** 2], halved, dtype, device)
        for table, lmax in zip(tables, (lmax_out, *lmaxs))
    )


@constants
def bracket_transforms(
    lmaxs: tuple[int, int], lmax_out: int, normalization: str, dtype: torch.dtype, device: torch.device
) -> tuple[Transform, ...]:
    r"""Transforms whose product is the bracket :math:`\{f, g\} = r \cdot (\nabla f \times \nabla g)`.

    With tangents :math:`e_1 \times e_2 = r` it is :math:`\partial_1 f\, \partial_2 g - \partial_2 f\, \partial_1 g`: a
    product on two copies of the grid, one for each term. The bracket is odd where the product is even, so the grades
    of the first factor are exchanged.
    """
    points, weights, halved = _grid(sum(lmaxs) + lmax_out)
    axis = torch.eye(3, dtype=points.dtype, device=points.device)[points.abs().argmin(1)]
    first = torch.linalg.cross(axis, points)
    first = first / first.norm(dim=1, keepdim=True)
    second = torch.linalg.cross(points, first)

    def slope(lmax: int, tangent: Tensor) -> Tensor:
        return torch.func.jvp(lambda p: spherical_harmonics(lmax, p, normalization), (points,), (tangent,))[1]

    lmax_x, lmax_y = lmaxs
    x_table = torch.cat([slope(lmax_x, first), slope(lmax_x, second)])
    y_table = torch.cat([slope(lmax_y, second), -slope(lmax_y, first)])
    out_table = _scaled(weights, normalization) * spherical_harmonics(lmax_out, points, normalization)
    return (
        _transform(out_table.repeat(2, 1), halved, dtype, device),
        _transform(x_table, halved, dtype, device, swap=True),
        _transform(y_table, halved, dtype, device),
    )


def _grid(degree: int) -> tuple[Tensor, Tensor, bool]:
    """Points, weights, and whether there is one point of each opposite pair only."""
    half, weights = quadrature(degree)
    if len(half) > LARGEST_WHOLE_GRID:
        return half, weights, True
    return *whole_quadrature(degree), False


def _scaled(weights: Tensor, normalization: str) -> Tensor:
    """Weights [G, 1] such that projecting undoes evaluating."""
    return (weights / weights.sum() if normalization == "component" else weights)[:, None]


def _transform(
    table: Tensor, halved: bool, dtype: torch.dtype, device: torch.device, *, swap: bool = False
) -> Transform:
    """From ``table`` [G, K]; the grade of a column is the parity of its degree, or not so to ``swap`` them."""
    if not halved:
        return Transform(table.shape[1], None, None, (table.to(device, dtype).contiguous(),))
    degree = torch.arange(table.shape[1], dtype=torch.float64, device=table.device).sqrt().floor().long()
    grade = (degree + swap) % 2
    order = torch.argsort(grade, stable=True)
    even, odd = (table[:, grade == g].to(device, dtype).contiguous() for g in (0, 1))
    return Transform(table.shape[1], order.to(device), order.argsort().to(device), (even, odd))
