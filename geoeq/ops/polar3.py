"""The rotation nearest to a 3x3 matrix, in closed form."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from geoeq.ops.backends import transforms_active
from geoeq.ops.eigh3 import damped_inverse, eigen_across, isolated_axis
from geoeq.ops.matrix3 import (
    Components,
    apply,
    check_matrix,
    columns,
    combine,
    complement,
    cross,
    difference,
    dot,
    full,
    map_components,
    positive,
    rows,
    select,
    symmetric_part,
    times,
    transpose,
)

__all__ = ["polar3"]


def polar3(matrix: Tensor, *, proper: bool = True, gap: float | None = None) -> tuple[Tensor, Tensor]:
    r"""Polar decomposition of 3x3 matrices into a rotation and a symmetric stretch.

    .. math:: M = R\, S, \qquad R = \arg\max_{R}\ \mathrm{tr}(R^T M), \qquad S = S^T.

    The maximum is over rotations, or over all orthogonal matrices if not ``proper``. In singular values
    :math:`\sigma_0 \ge \sigma_1 \ge \sigma_2` and vectors of M, :math:`R = U\, \mathrm{diag}(1, 1, s)\, V^T` and
    :math:`S = V\, \mathrm{diag}(\sigma_0, \sigma_1, s\,\sigma_2)\, V^T`; s is 1 unless ``proper`` asks for the sign of
    :math:`\det U V^T`. The singular vectors of one value, first or last, come from the well-conditioned half of the
    eigenproblem of :math:`M^T M`; the polar rotation in the planes across them needs no square, so that small
    singular values keep their digits. Where R is not unique (rank below 2, or a reflection with
    :math:`\sigma_1 = \sigma_2`) it is one of the solutions, and the identity for M = 0.

    With :math:`\mathrm{d}R = R\,[\omega]_\times` the derivative solves
    :math:`(\mathrm{tr}(S) - S)\,\omega = \mathrm{axial}(R^T \mathrm{d}M - \mathrm{d}M^T R)`. It is exact where the
    eigenvalues :math:`\sigma_i + \sigma_j` of that system are at least ``gap`` times :math:`\max |\sigma|`; below,
    as in :func:`~geoeq.ops.eigh3.eigh3`, the undetermined direction of rotation fades to nothing.

    Args:
        matrix: M [..., 3, 3]; half precision is computed in float32.
        proper: whether R must be a rotation; False allows reflections, and S has no negative eigenvalue.
        gap: the relative size below which derivatives fade; the square root of the machine epsilon if None.

    Returns:
        R [..., 3, 3] and S [..., 3, 3].

    Symmetry: for rotations P and Q, P M Q^T has the rotation P R Q^T and the stretch Q S Q^T.

    Raises:
        ValueError: ``matrix`` is not [..., 3, 3] floating, is not finite (checked on a CPU, outside
            ``torch.compile``), or ``gap`` is not in (0, 1).

    >>> import torch
    >>> rotation, stretch = polar3(torch.tensor([[0.0, -3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> rotation.round(decimals=4).int().tolist()
    [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    >>> stretch.diagonal()
    tensor([2., 3., 1.])
    """
    check_matrix(matrix)
    if gap is not None and not 0 < gap < 1:
        raise ValueError(f"gap must be in (0, 1), got {gap}")
    wide = matrix.float() if matrix.element_size() < 4 else matrix
    gap = torch.finfo(wide.dtype).eps ** 0.5 if gap is None else gap
    function = _Polar3Transforms if transforms_active() else _Polar3
    rotation, stretch, _ = function.apply(wide.reshape(-1, 9), proper, gap)
    return rotation.reshape(matrix.shape).to(matrix.dtype), stretch.reshape(matrix.shape).to(matrix.dtype)


class _Polar3(torch.autograd.Function):
    """matrix [B, 9] -> rotation [B, 9], stretch [B, 9] and an eigenvector of it [B, 3], without a derivative."""

    @staticmethod
    def forward(matrix: Tensor, proper: bool, gap: float) -> tuple[Tensor, ...]:
        return map_components(lambda m: polar_components(m, proper), [matrix])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.gap = inputs[2]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(
        ctx: Any, g_rotation: Tensor | None, g_stretch: Tensor | None, _: None
    ) -> tuple[Tensor | None, None, None]:
        if g_rotation is None and g_stretch is None:
            return None, None, None
        inputs = [*ctx.saved_tensors, g_rotation, g_stretch]
        return map_components(partial(_backward, gap=ctx.gap), inputs)[0], None, None


class _Polar3Transforms(_Polar3):
    """The same with forward-mode differentiation and vmap, which torch.compile does not take."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Polar3.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*output)

    @staticmethod
    def jvp(ctx: Any, t_matrix: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        inputs = [*ctx.saved_tensors, t_matrix]
        return *map_components(partial(_forward_derivative, gap=ctx.gap), inputs), None


def polar_components(m: Components, proper: bool) -> tuple[Components, Components, Components]:
    """Rotation (9), stretch (9) and an eigenvector of it (3) of a matrix of nine components."""
    tiny = 16 * torch.finfo(m[0].dtype).tiny
    largest = m[0].abs()
    for component in m[1:]:
        largest = torch.maximum(largest, component.abs())
    inverse = largest.clamp(min=tiny).reciprocal()
    unit = tuple(component * inverse for component in m)

    # w is the first or last right singular vector. The adjugate takes the last to its image without the loss of
    # M w, which may be 0, and with the sign that makes a rotation.
    a, b, c = columns(unit)
    gram = (dot(a, a), dot(b, b), dot(c, c), dot(a, b), dot(a, c), dot(b, c))
    half = isolated_axis(gram)
    w = half.axis
    row_a, row_b, row_c = rows(unit)
    cofactor = cross(row_b, row_c) + cross(row_c, row_a) + cross(row_a, row_b)
    mw = apply(unit, w)
    image = select(half.top, apply(cofactor, w), mw)
    # Only M = 0 has no image: then w itself, for the identity.
    image = tuple(torch.add(p, q, alpha=1e-18) for p, q in zip(image, w, strict=True))
    inverse = dot(image, image).rsqrt()
    image = tuple(component * inverse for component in image)

    u, v = complement(w)
    p, q = complement(image)
    mu, mv = apply(unit, u), apply(unit, v)
    pu, pv, qu, qv = dot(p, mu), dot(p, mv), dot(q, mu), dot(q, mv)
    sign = torch.ones_like(pu)
    if not proper:
        # The last singular vector is in the plane if w is the first; it alone is reflected.
        in_plane = 2 * positive(difference(pu, qv, pv, qu)) - 1
        of_axis = 2 * positive(dot(image, mw)) - 1
        image = tuple(torch.lerp(of_axis, sign, half.top) * x for x in image)
        sign = torch.lerp(sign, in_plane, half.top)
    cos, sin = torch.addcmul(pu, sign, qv), torch.addcmul(qu, sign, pv, value=-1)
    cos = cos + 1e-18
    inverse = torch.addcmul(cos * cos, sin, sin).rsqrt()
    cos, sin = cos * inverse, sin * inverse
    to_u, to_v = combine(cos, p, sin, q), combine(sign * cos, q, -sign * sin, p)
    rotation = tuple(dot((image[i], to_u[i], to_v[i]), (w[j], u[j], v[j])) for i in range(3) for j in range(3))
    stretch = full(symmetric_part(times(transpose(rotation), m)))
    return rotation, stretch, w


def axial(m: Components) -> Components:
    """The vector a with M - M^T = [a]_x."""
    return m[7] - m[5], m[2] - m[6], m[3] - m[1]


def skew(a: Components) -> Components:
    """The matrix [a]_x of the product a x."""
    zero = torch.zeros_like(a[0])
    return zero, -a[2], a[1], a[2], zero, -a[0], -a[1], a[0], zero


def _solve(stretch: Components, w: Components, a: Components, gap: float) -> Components:
    """The solution z of (tr S - S) z = a, fading where the system is singular; w is an eigenvector of S."""
    constant = a
    if torch.is_grad_enabled():
        constant = tuple(x.detach() for x in a)
    s = symmetric_part(tuple(x.detach() for x in stretch))
    largest = s[0].abs()
    for component in s[1:]:
        largest = torch.maximum(largest, component.abs())
    unit = largest.clamp(min=16 * torch.finfo(largest.dtype).tiny).reciprocal()
    s = tuple(unit * component for component in s)
    value = dot(w, apply(full(s), w))
    middle = 0.5 * (s[0] + s[1] + s[2] - value)
    (low_value, high_value), low, high = eigen_across(s, w, middle)
    vectors = transpose((*low, *high, *w))
    size = torch.maximum(torch.maximum(low_value.abs(), high_value.abs()), value.abs()).clamp(min=0.5).reciprocal()
    sums = (value + high_value, value + low_value, 2 * middle)
    factors = tuple(size * unit * damped_inverse(x * size, gap) for x in sums)

    def inverse(x: Components) -> Components:
        along = apply(transpose(vectors), x)
        return apply(vectors, tuple(f * y for f, y in zip(factors, along, strict=True)))

    z = inverse(constant)
    if not torch.is_grad_enabled():
        return z
    # dz = K^-1 (da - dK z): exact also where S has equal eigenvalues and its eigenvectors no derivative.
    trace = stretch[0] + stretch[4] + stretch[8]
    rest = tuple(x - trace * y + sy for x, y, sy in zip(a, z, apply(stretch, z), strict=True))
    return tuple(y + dy for y, dy in zip(z, inverse(tuple(x - x.detach() for x in rest)), strict=True))


def _backward(
    rotation: Components,
    stretch: Components,
    w: Components,
    g_rotation: Components | None,
    g_stretch: Components | None,
    *,
    gap: float,
) -> tuple[Components]:
    """Gradient R ([z]_x + G_S), with z from the gradient of R at fixed M, which S = R^T M adds to."""
    pulled = None if g_rotation is None else times(transpose(rotation), g_rotation)
    if g_stretch is not None:
        symmetric = full(symmetric_part(g_stretch))
        through = times(stretch, symmetric)
        pulled = through if pulled is None else tuple(x + y for x, y in zip(pulled, through, strict=True))
    assert pulled is not None
    inner = skew(_solve(stretch, w, axial(pulled), gap))
    if g_stretch is not None:
        inner = tuple(x + y for x, y in zip(inner, symmetric, strict=True))
    return (times(rotation, inner),)


def _forward_derivative(
    rotation: Components, stretch: Components, w: Components, t_matrix: Components, *, gap: float
) -> tuple[Components, Components]:
    """Change of rotation and stretch with the matrix."""
    pulled = times(transpose(rotation), t_matrix)
    turn = skew(_solve(stretch, w, axial(pulled), gap))
    t_stretch = tuple(x - y for x, y in zip(pulled, times(turn, stretch), strict=True))
    return times(rotation, turn), full(symmetric_part(t_stretch))
