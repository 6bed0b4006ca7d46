"""Scalings of space, whose answer is the size of things."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from geoeq.groups.base import Group, close, expect_dimension, expect_square, restricted
from geoeq.intertwiners import PairSpace, everything, nothing, sums_fixed
from geoeq.reps import Copy, LogSizeCopy, PositionCopy, TensorCopy

__all__ = ["Scaling"]


class Scaling(Group):
    r"""Scalings of R^n by one factor s > 0, matrices :math:`s I`; not compact, log s is drawn from N(0, scale^2).

    Each kind of feature has its own answer:

    * irreps carry directions, not lengths, and stay: read a length as its logarithm;
    * :class:`~geoeq.reps.LogSizes` shift by log s: the coefficients that feed one output sum to zero, or to one where
      the output is itself a logarithm of a length, as positions do under translations;
    * :class:`~geoeq.reps.Positions` are multiplied by s, tensors T(p, q) by :math:`s^{p-q}`, so that only maps
      between equal powers of s are left;
    * positions, velocities and targets of a graph are multiplied by s.

    Args:
        n: dimension of space.
        scale: standard deviation of the sampled log s.

    >>> from geoeq.reps import LogSizes, TensorRep
    >>> Scaling().projector(LogSizes(3), "2x0e").rank
    4
    >>> Scaling().projector(TensorRep({1: 1}), TensorRep({0: 1})).rank
    0
    """

    haar = False
    orthogonal = False

    def __init__(self, n: int = 3, scale: float = 1.0) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.n = n
        self.scale = float(scale)
        self.generators = torch.eye(n, dtype=torch.float64).unsqueeze(0)
        self.discrete = torch.zeros(0, n, n, dtype=torch.float64)

    def key(self) -> tuple[object, ...]:
        if self.scale != 1.0:
            return (self.n, self.scale)
        return () if self.n == 3 else (self.n,)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        return self.exp(self.scale * torch.randn(size, 1, generator=generator, dtype=torch.float64))

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, self.n)
        size = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
        return close(matrix, size[..., None, None] * torch.eye(self.n).to(matrix), tolerance) & (size > 0)

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        inner = restricted(self, copy_out, copy_in)
        if inner is not None:
            return inner
        for copy in (copy_out, copy_in):
            expect_dimension(self, copy, self.n)
        if self._power(copy_out) != self._power(copy_in):
            return nothing(copy_out, copy_in)
        if isinstance(copy_in, LogSizeCopy):
            return sums_fixed(copy_out, copy_in, together=isinstance(copy_out, LogSizeCopy))
        return everything(copy_out, copy_in)

    def _power(self, copy: Copy) -> int:
        """The power of s that ``copy`` is multiplied by."""
        if isinstance(copy, TensorCopy):
            return copy.rank - copy.dual
        return int(isinstance(copy, PositionCopy))
