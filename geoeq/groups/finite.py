"""Finite groups: everything is a sum over their elements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.spatial.transform import Rotation
from torch import Generator, Tensor

from geoeq.groups.axis import perpendicular, read_axis, unit_vector
from geoeq.groups.base import Group, close, expect_square
from geoeq.intertwiners import PairSpace, null_space
from geoeq.reps import Copy, kron

__all__ = ["C", "D", "Finite"]


class Finite(Group):
    r"""A finite group of orthogonal matrices, drawn with equal chances.

    The projector is the Reynolds average :math:`P(W) = \frac{1}{|G|} \sum_g \rho_{out}(g) W \rho_{in}(g)^{-1}`.

    Attributes:
        elements: all of them, ``[order, n, n]``, float64.
    """

    elements: Tensor

    def __init__(self, elements: Tensor, discrete: Tensor) -> None:
        self.n = elements.shape[-1]
        self.elements = elements
        self.generators = torch.zeros(0, self.n, self.n, dtype=torch.float64)
        self.discrete = discrete

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        return self.elements[torch.randint(len(self.elements), (size,), generator=generator)]

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, self.elements.shape[-1])
        return close(matrix.unsqueeze(-3), self.elements.to(matrix.device), tolerance).any(-1)

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace:
        inner = super().closed_form(copy_out, copy_in)
        return self._reynolds(copy_out, copy_in) if inner is None else inner

    def _reynolds(self, copy_out: Copy, copy_in: Copy) -> PairSpace:
        dim = copy_out.dim * copy_in.dim
        average = torch.zeros(dim, dim, dtype=torch.float64)
        for g in self.elements:
            average += kron(self.matrix(copy_out, g), self.matrix(copy_in, g)) / len(self.elements)
        return PairSpace(dim, null_space(torch.eye(dim, dtype=torch.float64) - (average + average.mT) / 2, 1.0))


class C(Finite):
    """The n rotations by multiples of 360/n degrees about one axis.

    Args:
        n: order of the axis.
        axis: "x", "y" or "z", or three numbers along it.

    >>> [C(n).projector("1x1o", "1x1o").rank for n in (1, 2, 3)]
    [9, 5, 3]
    """

    def __init__(self, n: int, axis: str | Sequence[float] = "z") -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.order, self.axis = n, read_axis(axis)
        turns = rotations_about(unit_vector(self.axis), torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n))
        super().__init__(turns, turns[1:2])

    def key(self) -> tuple[object, ...]:
        return (self.order, self.axis)


class D(C):
    """The rotations of :class:`C` and half turns about n axes at right angles to it: 2n elements.

    The first of the half turns is about the next coordinate axis in the order x, y, z, x.

    >>> [D(n).projector("1x1o", "1x1o").rank for n in (1, 2, 3)]
    [5, 3, 2]
    """

    def __init__(self, n: int, axis: str | Sequence[float] = "z") -> None:
        super().__init__(n, axis)
        flip = rotations_about(perpendicular(self.axis), torch.tensor([torch.pi], dtype=torch.float64))
        self.elements = torch.cat([self.elements, self.elements @ flip])
        self.discrete = torch.cat([self.discrete, flip])


def rotations_about(axis: Tensor, angles: Tensor) -> Tensor:
    """Rotations ``[size, 3, 3]`` by ``angles [size]`` about the unit vector ``axis [3]``, float64."""
    return torch.as_tensor(Rotation.from_rotvec(torch.outer(angles, axis).numpy()).as_matrix())
