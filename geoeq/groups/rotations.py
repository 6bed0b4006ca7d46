"""Rotations and reflections: SO(n), O(n), and those about one axis, SO2 and O2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from geoeq.groups.axis import AXES, about_axis, perpendicular, read_axis, unit_vector
from geoeq.groups.base import Group, close, expect_square
from geoeq.intertwiners import PairSpace, nothing, schur
from geoeq.reps import Copy, IrrepCopy

__all__ = ["AXES", "O", "O2", "SO", "SO2"]


def skew_basis(n: int) -> Tensor:
    """The ``n(n-1)/2`` antisymmetric matrices E_ij - E_ji, ``[d, n, n]``; for n = 3 rotations about x, y, z."""
    pairs = [(2, 1), (0, 2), (1, 0)] if n == 3 else [(i, j) for j in range(n) for i in range(j + 1, n)]
    basis = torch.zeros(len(pairs), n, n, dtype=torch.float64)
    for k, (i, j) in enumerate(pairs):
        basis[k, i, j], basis[k, j, i] = 1.0, -1.0
    return basis


def haar_orthogonal(size: int, n: int, generator: Generator | None) -> Tensor:
    """Haar-distributed orthogonal matrices ``[size, n, n]``: QR of Gaussians with the signs of R fixed."""
    q, r = torch.linalg.qr(torch.randn(size, n, n, generator=generator, dtype=torch.float64))
    return q * torch.diagonal(r, dim1=1, dim2=2).sign().unsqueeze(1)


def is_orthogonal(matrix: Tensor, tolerance: float) -> Tensor:
    """Whether each of ``matrix [..., n, n]`` is orthogonal, ``[...]``."""
    return close(matrix @ matrix.mT, torch.eye(matrix.shape[-1]).to(matrix), tolerance)


class SO(Group):
    """Rotations of R^n, determinant +1.

    >>> SO(3).projector("1x1o", "1x1o").rank
    1
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n
        self.generators = skew_basis(n)
        self.discrete = torch.zeros(0, n, n, dtype=torch.float64)

    def key(self) -> tuple[object, ...]:
        return (self.n,)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        q = haar_orthogonal(size, self.n, generator)
        q[:, 0] *= torch.det(q).unsqueeze(1)  # a fixed reflection maps Haar on O(n) to Haar on SO(n)
        return q

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        if self.n == 3 and isinstance(copy_out, IrrepCopy) and isinstance(copy_in, IrrepCopy):
            return schur(copy_out.dim) if self._same(copy_out, copy_in) else nothing(copy_out, copy_in)
        return super().closed_form(copy_out, copy_in)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, self.n)
        return is_orthogonal(matrix, tolerance) & (torch.det(matrix) > 0)

    def _same(self, a: IrrepCopy, b: IrrepCopy) -> bool:
        return a.l == b.l


class O(SO):  # noqa: E742  the group's name
    """Rotations and reflections of R^n.

    >>> O(3).projector("1x1e + 1x1o", "1x1o").rank
    1
    """

    def __init__(self, n: int) -> None:
        super().__init__(n)
        mirror = torch.eye(n, dtype=torch.float64)
        mirror[0, 0] = -1.0
        self.discrete = mirror.unsqueeze(0)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        return haar_orthogonal(size, self.n, generator)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        return is_orthogonal(expect_square(matrix, self.n), tolerance)

    def _same(self, a: IrrepCopy, b: IrrepCopy) -> bool:
        return a == b


class SO2(Group):
    r"""Rotations of space about one axis.

    Between irreps, maps are of the form (a, b; -b, a) on the components m and -m about the axis: dimension
    :math:`1 + 2 \min(l_{out}, l_{in})`.

    Args:
        axis: "x", "y" or "z", or three numbers along it.

    >>> SO2("z").projector("1x1o", "1x1o").rank
    3
    >>> SO2([0, 0, 2.0]) == SO2("z")
    True
    """

    def __init__(self, axis: str | Sequence[float] = "z") -> None:
        self.n = 3
        self.axis = read_axis(axis)
        self.generators = torch.einsum("a,aij->ij", unit_vector(self.axis), skew_basis(3)).unsqueeze(0)
        self.discrete = torch.zeros(0, 3, 3, dtype=torch.float64)

    def key(self) -> tuple[object, ...]:
        return (self.axis,)

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        if isinstance(copy_out, IrrepCopy) and isinstance(copy_in, IrrepCopy):
            return about_axis(copy_out, copy_in, self.axis)
        return super().closed_form(copy_out, copy_in)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        angle = 2 * torch.pi * torch.rand(size, 1, 1, generator=generator, dtype=torch.float64)
        return torch.linalg.matrix_exp(angle * self.generators)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        return self._keeps_axis(matrix, tolerance) & (torch.det(matrix.double()) > 0)

    def _keeps_axis(self, matrix: Tensor, tolerance: float) -> Tensor:
        matrix, along = expect_square(matrix, 3), unit_vector(self.axis).to(matrix.device)
        return is_orthogonal(matrix, tolerance) & ((matrix @ along - along).abs().amax(-1) <= tolerance)


class O2(SO2):
    r"""Rotations about one axis and mirrors that contain it (a uniform field along the axis keeps exactly these).

    Between irreps, mirrors keep one of a and b of every m: dimension :math:`\min(l_{out}, l_{in})`, and one more
    where they do the same to both components m = 0.

    >>> O2("z").projector("1x1o", "1x1o").rank
    2
    """

    def __init__(self, axis: str | Sequence[float] = "z") -> None:
        super().__init__(axis)
        side = perpendicular(self.axis)
        self.discrete = (torch.eye(3, dtype=torch.float64) - 2 * torch.outer(side, side)).unsqueeze(0)

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        space = super().closed_form(copy_out, copy_in)
        if not isinstance(copy_out, IrrepCopy) or not isinstance(copy_in, IrrepCopy) or space is None:
            return space
        if space.basis is None:
            return space
        mirror_out, mirror_in = (self.matrix(copy, self.discrete[0]) for copy in (copy_out, copy_in))
        blocks = space.basis.T.reshape(-1, copy_out.dim, copy_in.dim)
        kept = ((mirror_out @ blocks @ mirror_in.mT) * blocks).sum((1, 2)) > 0  # each is kept or reversed
        return PairSpace(space.dim, space.basis[:, kept])

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        rotation = super().sample(size, generator=generator)
        flip = torch.rand(size, 1, 1, generator=generator, dtype=torch.float64) < 0.5
        return torch.where(flip, rotation @ self.discrete[0], rotation)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        return self._keeps_axis(matrix, tolerance)
