"""Groups of matrices that are not orthogonal: GL+(n), SL(n) and the Lorentz group."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from geoeq.groups.base import Group, close, expect_square
from geoeq.groups.rotations import SO

__all__ = ["GL", "SL", "Lorentz"]

PLANES = {"xy": (0, 1), "yz": (1, 2), "xz": (0, 2)}


class LinearGroup(Group):
    r"""A connected group of matrices that is not compact.

    :meth:`sample` draws :math:`\exp(\sum_a c_a A_a)` over the generators, each c from N(0, scale^2). There is no Haar
    probability: the projector is orthogonal in the Frobenius norm and not an average over elements. Features are a
    :class:`~geoeq.reps.TensorRep`, positions, or scalars; irreps other than scalars have no answer to matrices that
    are not orthogonal.
    """

    haar = False
    orthogonal = False
    scale: float

    def _set_scale(self, scale: float) -> None:
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = float(scale)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        draw = torch.randn(size, len(self.generators), generator=generator, dtype=torch.float64)
        return self.exp(self.scale * draw)


class GL(LinearGroup):
    """GL+(n): matrices of positive determinant, the identity component of the invertible ones.

    Args:
        n: number of dimensions that are mixed.
        plane: "xy", "yz" or "xz", for n = 2: the plane of three-dimensional space to act in, on matrices
            ``[3, 3]``. None acts on R^n.
        scale: standard deviation of the sampled coefficients of the generators.

    >>> from geoeq.reps import TensorRep
    >>> GL(3).projector(TensorRep({(1, 1): 1}), TensorRep({0: 1})).rank
    1
    """

    def __init__(self, n: int, plane: str | None = None, scale: float = 0.5) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if plane is not None and (plane not in PLANES or n != 2):
            raise ValueError(f"plane must be one of {list(PLANES)}, with n = 2, or None, got {plane!r} with n = {n}")
        self._set_scale(scale)
        self.size, self.plane = n, plane
        self.n = n if plane is None else 3
        self.within = torch.arange(n) if plane is None else torch.tensor(PLANES[plane])
        basis = self._algebra(n)
        self.generators = torch.zeros(len(basis), self.n, self.n, dtype=torch.float64)
        self.generators[:, self.within.unsqueeze(1), self.within] = basis
        self.discrete = torch.zeros(0, self.n, self.n, dtype=torch.float64)

    @staticmethod
    def _algebra(n: int) -> Tensor:
        return torch.eye(n * n, dtype=torch.float64).reshape(-1, n, n)

    def key(self) -> tuple[object, ...]:
        plane = () if self.plane is None else (self.plane,)
        return (self.size, *plane) if self.scale == 0.5 else (self.size, self.plane, self.scale)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, self.n)
        inside = matrix[..., self.within.unsqueeze(1), self.within]
        rest = torch.eye(self.n).to(matrix).expand_as(matrix).clone()
        rest[..., self.within.unsqueeze(1), self.within] = inside
        return close(matrix, rest, tolerance) & self._allows(torch.det(inside), tolerance)

    def _allows(self, determinant: Tensor, tolerance: float) -> Tensor:
        return determinant > 0


class SL(GL):
    """Matrices of determinant 1.

    >>> from geoeq.reps import TensorRep
    >>> SL(3).projector(TensorRep({3: 1}), TensorRep({0: 1})).rank
    1
    """

    @staticmethod
    def _algebra(n: int) -> Tensor:
        units = torch.eye(n * n, dtype=torch.float64).reshape(n, n, n, n)
        off = [units[i, j] for i in range(n) for j in range(n) if i != j]
        return (
            torch.stack([*off, *(units[i, i] - units[i + 1, i + 1] for i in range(n - 1))]) if n > 1 else units[0, :0]
        )

    def _allows(self, determinant: Tensor, tolerance: float) -> Tensor:
        return (determinant - 1).abs() <= tolerance


class Lorentz(LinearGroup):
    r"""SO+(1, 3): what keeps :math:`t^2 - x^2 - y^2 - z^2`, the direction of time and the handedness of space.

    Matrices ``[4, 4]`` on (t, x, y, z); generators are the rotations about x, y, z and the boosts along x, y, z.

    Args:
        scale: standard deviation of the sampled angles and rapidities.

    >>> from geoeq.reps import TensorRep
    >>> Lorentz().projector(TensorRep({2: 1}), TensorRep({0: 1})).rank
    1
    """

    def __init__(self, scale: float = 0.5) -> None:
        self._set_scale(scale)
        self.n = 4
        self.generators = torch.zeros(6, 4, 4, dtype=torch.float64)
        self.generators[:3, 1:, 1:] = SO(3).generators
        for axis in (1, 2, 3):
            self.generators[2 + axis, 0, axis] = self.generators[2 + axis, axis, 0] = 1.0
        self.discrete = torch.zeros(0, 4, 4, dtype=torch.float64)

    def key(self) -> tuple[object, ...]:
        return () if self.scale == 0.5 else (self.scale,)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, 4)
        metric = torch.diag(torch.tensor([1.0, -1.0, -1.0, -1.0])).to(matrix)
        return close(matrix.mT @ metric @ matrix, metric, tolerance) & (matrix[..., 0, 0] > 0) & (torch.det(matrix) > 0)
