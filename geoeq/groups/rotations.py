"""Rotations and reflections: SO(n), O(n), and those about one axis, SO2 and O2."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from geoeq.groups.base import Group, restricted
from geoeq.intertwiners import PairSpace, nothing, schur
from geoeq.reps import Copy, IrrepCopy

__all__ = ["AXES", "O", "O2", "SO", "SO2"]

AXES = {"x": 0, "y": 1, "z": 2}


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
        if isinstance(copy_out, IrrepCopy) and isinstance(copy_in, IrrepCopy):
            return schur(copy_out.dim) if self._same(copy_out, copy_in) else nothing(copy_out, copy_in)
        return restricted(self, copy_out, copy_in)

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

    def _same(self, a: IrrepCopy, b: IrrepCopy) -> bool:
        return a == b


class SO2(Group):
    """Rotations of space about one axis.

    Args:
        axis: "x", "y" or "z".

    >>> SO2("z").projector("1x1o", "1x1o").rank
    3
    """

    def __init__(self, axis: str = "z") -> None:
        if axis not in AXES:
            raise ValueError(f"axis must be one of {list(AXES)}, got {axis!r}")
        self.n = 3
        self.axis = axis
        self.generators = skew_basis(3)[AXES[axis]].unsqueeze(0)
        self.discrete = torch.zeros(0, 3, 3, dtype=torch.float64)

    def key(self) -> tuple[object, ...]:
        return (self.axis,)

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        return restricted(self, copy_out, copy_in)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        angle = 2 * torch.pi * torch.rand(size, 1, 1, generator=generator, dtype=torch.float64)
        return torch.linalg.matrix_exp(angle * self.generators)


class O2(SO2):
    """Rotations about one axis and mirrors that contain it (a uniform field along the axis keeps exactly these).

    >>> O2("z").projector("1x1o", "1x1o").rank
    2
    """

    def __init__(self, axis: str = "z") -> None:
        super().__init__(axis)
        mirror = torch.eye(3, dtype=torch.float64)
        side = (AXES[axis] + 1) % 3
        mirror[side, side] = -1.0
        self.discrete = mirror.unsqueeze(0)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        rotation = super().sample(size, generator=generator)
        flip = torch.rand(size, 1, 1, generator=generator, dtype=torch.float64) < 0.5
        return torch.where(flip, rotation @ self.discrete[0], rotation)
