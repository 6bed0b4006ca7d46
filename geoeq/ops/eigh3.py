"""Eigenvalues and eigenvectors of symmetric 3x3 matrices in closed form."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoeq.ops.backends import transforms_active
from geoeq.ops.matrix3 import (
    Components,
    apply,
    check_matrix,
    combine,
    complement,
    cross,
    difference,
    dot,
    full,
    map_components,
    positive,
    select,
    symmetric_part,
    times,
    transpose,
)

__all__ = ["eigh3"]


def eigh3(matrix: Tensor, *, vector_grad: bool = True, gap: float | None = None) -> tuple[Tensor, Tensor]:
    r"""Eigenvalues, ascending, and eigenvectors of the symmetric part of 3x3 matrices.

    .. math:: \tfrac12 (A + A^T) = V\, \mathrm{diag}(\lambda)\, V^T, \qquad \lambda_0 \le \lambda_1 \le \lambda_2,
        \qquad \det V = 1.

    The eigenvalue farthest from the other two is a root of :math:`4y^3 - 3y = r`, well conditioned for all r;
    its eigenvector is the largest column of the adjugate, and a rotation in the plane across it gives the rest.
    The relative error is a few units in the last place for every spectrum and scale, repeated values included;
    for these any basis of the eigenspace may come out.

    The gradient of the eigenvalues is exact. That of the eigenvectors has terms
    :math:`1 / (\lambda_j - \lambda_i)`. They are exact where the difference is at least
    :math:`c = \mathrm{gap} \cdot \max |\lambda|`; below, :math:`1/d` becomes :math:`d\,(2c^2 - d^2) / c^4`, which goes
    to 0 with d and meets :math:`1/d` at c with the same slope: directions that are free add nothing.

    Args:
        matrix: A [..., 3, 3]; half precision is computed in float32.
        vector_grad: False detaches the eigenvectors.
        gap: the relative difference below which derivatives fade; the square root of the machine epsilon if None.

    Returns:
        :math:`\lambda` [..., 3] and V [..., 3, 3] with eigenvectors in columns, right-handed; their signs are free.

    Symmetry: for a rotation R, A -> R A R^T leaves the eigenvalues as they are and moves the lines along the
    eigenvectors with R; relative error below 2e-6 in float32 where all differences are of the size of A.

    Raises:
        ValueError: ``matrix`` is not [..., 3, 3] floating, is not finite (checked on a CPU, outside
            ``torch.compile``), or ``gap`` is not in (0, 1).

    Source: the closed form of the eigenvalues by Smith (doi 10.1145/355578.366316).

    >>> import torch
    >>> values, vectors = eigh3(torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 5.0]]))
    >>> values.round(decimals=4)
    tensor([1., 3., 5.])
    >>> eigh3(torch.zeros(10, 4, 3, 3))[1].shape
    torch.Size([10, 4, 3, 3])
    """
    check_matrix(matrix)
    if gap is not None and not 0 < gap < 1:
        raise ValueError(f"gap must be in (0, 1), got {gap}")
    wide = matrix.float() if matrix.element_size() < 4 else matrix
    gap = torch.finfo(wide.dtype).eps ** 0.5 if gap is None else gap
    function = _Eigh3Transforms if transforms_active() else _Eigh3
    values, vectors = function.apply(wide.reshape(-1, 9), gap)
    values = values.reshape(matrix.shape[:-1]).to(matrix.dtype)
    vectors = vectors.reshape(matrix.shape).to(matrix.dtype)
    return values, vectors if vector_grad else vectors.detach()


class _Eigh3(torch.autograd.Function):
    """matrix [B, 9] -> values [B, 3], vectors [B, 9]."""

    @staticmethod
    def forward(matrix: Tensor, gap: float) -> tuple[Tensor, ...]:
        return map_components(lambda m: eigh_components(symmetric_part(m)), [matrix])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.gap = inputs[1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g_values: Tensor | None, g_vectors: Tensor | None) -> tuple[Tensor | None, None]:
        if g_values is None and g_vectors is None:
            return None, None
        values, vectors = ctx.saved_tensors
        inputs = [values, vectors, g_values, g_vectors]
        return map_components(partial(_backward, gap=ctx.gap), inputs)[0], None


class _Eigh3Transforms(_Eigh3):
    """The same with forward-mode differentiation and vmap, which torch.compile does not take."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Eigh3.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*output)

    @staticmethod
    def jvp(ctx: Any, t_matrix: Tensor, _: None) -> tuple[Tensor, ...]:
        values, vectors = ctx.saved_tensors
        inputs = [values, vectors, t_matrix]
        return map_components(partial(_forward_derivative, gap=ctx.gap), inputs)


class Isolated(NamedTuple):
    """The eigenvalue farthest from the other two, and the matrix in units where it is between sqrt(3) and 2."""

    unit: Components  # S: the matrix less its mean eigenvalue over its size, so that trace S = 0, trace S^2 = 6
    mean: Tensor
    size: Tensor
    value: Tensor  # of S, signed
    top: Tensor  # 1 where it is the largest, 0 where it is the smallest
    axis: Components  # its unit eigenvector


def isolated_axis(s: Components) -> Isolated:
    """The well-conditioned half of the eigenproblem of a symmetric matrix of six components."""
    tiny = 16 * torch.finfo(s[0].dtype).tiny
    mean = (s[0] + s[1] + s[2]) / 3
    unit = [s[0] - mean, s[1] - mean, s[2] - mean, *s[3:]]
    largest = unit[0].abs()
    for component in unit[1:]:
        largest = torch.maximum(largest, component.abs())
    largest = largest.clamp(min=tiny)
    inverse = largest.reciprocal()
    unit = [component * inverse for component in unit]
    size2 = (dot(unit[:3], unit[:3]) + 2 * dot(unit[3:], unit[3:])) / 6
    inverse = size2.clamp(min=tiny).rsqrt()
    xx, yy, zz, xy, xz, yz = (component * inverse for component in unit)
    size = largest * size2 * inverse

    determinant = dot((xx, xy, xz), cross((xy, yy, yz), (xz, yz, zz)))
    top = positive(determinant)
    value = (4 * top - 2) * _cubic_root((0.5 * determinant).abs().clamp(max=1))

    # The adjugate of S - value is (6 to 9) times the projector on the axis: its largest column is safe.
    x, y, z = xx - value, yy - value, zz - value
    a_xx, a_yy, a_zz = difference(y, z, yz, yz), difference(x, z, xz, xz), difference(x, y, xy, xy)
    a_xy, a_xz, a_yz = difference(xz, yz, xy, z), difference(xy, yz, xz, y), difference(xy, xz, yz, x)
    column = select(positive(a_yy - a_xx), (a_xx, a_xy, a_xz), (a_xy, a_yy, a_yz))
    column = select(positive(a_zz - torch.maximum(a_xx, a_yy)), column, (a_xz, a_yz, a_zz))
    inverse = dot(column, column).rsqrt()
    axis = tuple(component * inverse for component in column)
    return Isolated((xx, yy, zz, xy, xz, yz), mean, size, value, top, axis)


def _cubic_root(r: Tensor) -> Tensor:
    """The root in [cos 30, 1] of 4 y^3 - 3 y = r, for r in [0, 1]: cos(acos(r) / 3) without loss near 1."""
    y = r * (0.16666667 - 0.0327 * r) + 0.86602540  # within 1e-3, so that each Newton step doubles the digits
    for _ in range(2 if r.dtype == torch.float32 else 3):
        y2 = y * y
        y = torch.add(r, y * y2, alpha=8) / (12 * y2 - 3)
    return y


def eigh_components(s: Components) -> tuple[Components, Components]:
    """Eigenvalues (3, ascending) and eigenvectors (9, in columns) of a symmetric matrix of six components."""
    unit, mean, size, value, top, w = isolated_axis(s)
    (low_value, high_value), low, high = eigen_across(unit, w, -0.5 * value)
    values = select(top, (value, low_value, high_value), (low_value, high_value, value))
    # w, low, high and low, high, w are both right-handed.
    vectors = select(top, (*w, *low, *high), (*low, *high, *w))
    return tuple(torch.addcmul(mean, size, x) for x in values), transpose(vectors)


def eigen_across(s: Components, w: Components, middle: Tensor) -> tuple[Components, Components, Components]:
    """The other two eigenvalues, ascending, and their vectors, right-handed before w.

    Args:
        s: symmetric matrix of six components, the largest of order 1.
        w: a unit eigenvector of it.
        middle: mean of the other two eigenvalues.
    """
    u, v = complement(w)
    across = apply(full(s), u)
    # In the plane of u and v the matrix is [[middle + h, b], [b, middle - h]].
    h, b = dot(u, across) - middle, dot(v, across)
    radius = torch.addcmul(h * h, b, b).sqrt()
    long = h.abs() + radius + 1e-18  # with b = 0 this side is never 0, and its square does not underflow
    inverse = torch.addcmul(long * long, b, b).rsqrt()
    long, short = long * inverse, b * inverse
    cos, sin = select(positive(h), (short, long), (long, short))
    return (middle - radius, middle + radius), combine(sin, u, -cos, v), combine(cos, u, sin, v)


def _inverse_gaps(values: Components, gap: float) -> Components:
    """1 / (l_1 - l_0), 1 / (l_2 - l_0), 1 / (l_2 - l_1), fading where the difference is below gap * max |l|."""
    tiny = 16 * torch.finfo(values[0].dtype).tiny
    scale = torch.maximum(values[0].detach().abs(), values[2].detach().abs()).clamp(min=tiny).reciprocal()
    pairs = ((1, 0), (2, 0), (2, 1))
    return tuple(scale * damped_inverse((values[i] - values[j]) * scale, gap) for i, j in pairs)


def damped_inverse(d: Tensor, gap: float) -> Tensor:
    """1 / d where |d| >= gap, d (2 gap^2 - d^2) / gap^4 below: once continuously differentiable, 0 at 0."""
    d2 = d * d
    return d * (d2.clamp(min=gap**2).reciprocal() + (gap**2 - d2).clamp(min=0) / gap**4)


def _backward(
    values: Components, vectors: Components, g_values: Components | None, g_vectors: Components | None, *, gap: float
) -> tuple[Components]:
    """Gradient V D V^T of the matrix, D the gradient in the eigenbasis."""
    xx, yy, zz = g_values if g_values is not None else (torch.zeros_like(values[0]),) * 3
    xy = xz = yz = torch.zeros_like(xx)
    if g_vectors is not None:
        v, g = (transpose(vectors), transpose(g_vectors))
        v0, v1, v2, g0, g1, g2 = v[:3], v[3:6], v[6:], g[:3], g[3:6], g[6:]
        f10, f20, f21 = _inverse_gaps(values, gap)
        xy = 0.5 * f10 * (dot(v0, g1) - dot(v1, g0))
        xz = 0.5 * f20 * (dot(v0, g2) - dot(v2, g0))
        yz = 0.5 * f21 * (dot(v1, g2) - dot(v2, g1))
    return (conjugate(vectors, (xx, yy, zz, xy, xz, yz)),)


def conjugate(v: Components, s: Components) -> Components:
    """V S V^T of nine components, for S of six."""
    vs = times(v, full(s))
    upper = {(i, j): dot(vs[3 * i : 3 * i + 3], v[3 * j : 3 * j + 3]) for i in range(3) for j in range(i, 3)}
    return tuple(upper[min(i, j), max(i, j)] for i in range(3) for j in range(3))


def _forward_derivative(
    values: Components, vectors: Components, t_matrix: Components, *, gap: float
) -> tuple[Components, Components]:
    """Change of values and vectors with the matrix."""
    xx, yy, zz, xy, xz, yz = symmetric_part(conjugate(transpose(vectors), symmetric_part(t_matrix)))
    f10, f20, f21 = _inverse_gaps(values, gap)
    xy, xz, yz = f10 * xy, f20 * xz, f21 * yz
    zero = torch.zeros_like(xx)
    return (xx, yy, zz), times(vectors, (zero, xy, xz, -xy, zero, yz, -xz, -yz, zero))
