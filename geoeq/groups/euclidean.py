"""Translations T(n) and their products with rotations, SE(n) and E(n), as matrices ``[n + 1, n + 1]``."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from geoeq.groups.base import Group, acts_on_space, close, expect_dimension, expect_square, restricted
from geoeq.groups.rotations import SO, O
from geoeq.intertwiners import PairSpace, everything, joint_space, pair_space, sums_fixed
from geoeq.reps import Copy, PositionCopy

__all__ = ["E", "SE", "T"]


def homogeneous(linear: Tensor, shift: Tensor) -> Tensor:
    """Matrices ``[..., n + 1, n + 1]`` of x -> A x + t from ``linear [..., n, n]`` and ``shift [..., n]``."""
    top = torch.cat([linear, shift.unsqueeze(-1)], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., -1] = 1.0
    return torch.cat([top, bottom], dim=-2)


def shift_generators(n: int) -> Tensor:
    """One generator per axis, ``[n, n + 1, n + 1]``."""
    basis = torch.zeros(n, n + 1, n + 1, dtype=torch.float64)
    basis[torch.arange(n), torch.arange(n), n] = 1.0
    return basis


class T(Group):
    r"""Translations of R^n; not compact, so :meth:`sample` draws shifts from N(0, scale^2).

    On features of space only :class:`~geoeq.reps.Positions` move. The coefficients of the positions that feed one
    output sum to zero, or to the identity where the output is itself a position:
    :math:`P(W) = W + (\tau - W 1) 1^T / n`.

    Args:
        n: dimension of space.
        scale: standard deviation of the sampled shifts, in the units of the positions.
    """

    haar = False

    def __init__(self, n: int, scale: float = 1.0) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.n = n + 1
        self.scale = scale
        self.generators = shift_generators(n)
        self.discrete = torch.zeros(0, n + 1, n + 1, dtype=torch.float64)

    def key(self) -> tuple[object, ...]:
        return (self.n - 1,) if self.scale == 1.0 else (self.n - 1, self.scale)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        n = self.n - 1
        shift = self.scale * torch.randn(size, n, generator=generator, dtype=torch.float64)
        return homogeneous(torch.eye(n, dtype=torch.float64).expand(size, n, n), shift)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, self.n)
        affine = homogeneous(matrix[..., :-1, :-1], matrix[..., :-1, -1])
        return close(matrix, affine, tolerance) & self._allows(matrix[..., :-1, :-1], tolerance)

    def _allows(self, linear: Tensor, tolerance: float) -> Tensor:
        return close(linear, torch.eye(self.n - 1).to(linear), tolerance)

    def spatial(self, matrix: Tensor) -> Tensor:
        return matrix[:-1, :-1]

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        inner = restricted(self, copy_out, copy_in)
        if inner is not None:
            return inner
        for copy in (copy_out, copy_in):
            if isinstance(copy, PositionCopy):  # tensors are of homogeneous coordinates
                expect_dimension(self, copy, self.n - 1)
        if isinstance(copy_in, PositionCopy):
            return sums_fixed(copy_out, copy_in, together=isinstance(copy_out, PositionCopy))
        return everything(copy_out, copy_in) if acts_on_space(copy_in) and acts_on_space(copy_out) else None

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        moved = super().act(element, x, position=position)
        return moved + element[:-1, -1].to(x) if position else moved


class SE(T):
    """Rotations and translations of R^n.

    >>> from geoeq.reps import TensorRep
    >>> SE(3).projector(TensorRep({1: 1}), TensorRep({1: 1})).rank
    1
    """

    def __init__(self, n: int, scale: float = 1.0) -> None:
        super().__init__(n, scale)
        self.linear = self._linear(n)
        zero = torch.zeros(n, dtype=torch.float64)
        turns = homogeneous(self.linear.generators, zero.expand(len(self.linear.generators), n))
        turns[:, -1, -1] = 0.0
        self.generators = torch.cat([turns, self.generators])
        self.discrete = homogeneous(self.linear.discrete, zero.expand(len(self.linear.discrete), n))

    @staticmethod
    def _linear(n: int) -> SO:
        return SO(n)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        moved = super().sample(size, generator=generator)
        moved[:, :-1, :-1] = self.linear.sample(size, generator=generator)
        return moved

    def _allows(self, linear: Tensor, tolerance: float) -> Tensor:
        return self.linear.contains(linear, tolerance)

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        shifts = super().closed_form(copy_out, copy_in)
        return None if shifts is None else joint_space([pair_space(self.linear, copy_out, copy_in), shifts])


class E(SE):
    """Rotations, reflections and translations of R^n."""

    @staticmethod
    def _linear(n: int) -> SO:
        return O(n)
