"""What the vector tasks share: three splits, an extra set, the candidate symmetries and which of them hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from geoeq.groups import Group
from geoeq.reps import Rep

__all__ = ["Split", "VectorTask"]

N_EXTRA = 1000


class Split(NamedTuple):
    """Inputs ``x [n, rep_in.dim]`` and targets ``y [n, rep_out.dim]``."""

    x: Tensor
    y: Tensor


class VectorTask(ABC):
    r"""Regression from a few vectors to a tensor, :math:`y = f(x)` without noise.

    Inputs are made of one draw from N(0, 1) in float32, targets are computed in float64, and both are stored in
    ``dtype``; they are not standardised. The draw is cut in thirds, in order: training, validation, test.

    Args:
        n: number of samples in all, a multiple of 3.
        seed: seed of the draw; None takes ``n + points + width``, the seed of the paper's data. The extra set of 1000
            samples is drawn with ``seed - n + 1000``.
        dtype: floating type of the stored tensors.

    Attributes:
        points: number of points of a sample.
        width: numbers drawn per sample.
        rep_in: how an input answers.
        rep_out: how a target answers.
        by_coordinate: whether inputs hold their vectors coordinate by coordinate, not point by point.
        published_strength: strength of the penalty that the paper's own tuning starts from.
        train: the first third, a :class:`Split`.
        val: the second third.
        test: the last third.
        extra: 1000 samples of another draw.

    Raises:
        ValueError: for a number of samples that cannot be cut in thirds, or a ``dtype`` that is not floating.

    Source: arXiv 2306.00356, section 5.
    """

    points: int
    width: int
    rep_in: Rep
    rep_out: Rep
    published_strength: float
    by_coordinate: bool = False

    def __init__(self, n: int = 3000, seed: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        if n < 3 or n % 3:
            raise ValueError(f"n must be a positive multiple of 3, got {n}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating type, got {dtype}")
        self.dtype = dtype
        self.seed = n + self.points + self.width if seed is None else seed
        x, y = self._draw(n, self.seed)
        self.train, self.val, self.test = map(Split, x.chunk(3), y.chunk(3))
        self.extra = self._draw(N_EXTRA, self.seed - n + N_EXTRA)

    @property
    @abstractmethod
    def symmetries(self) -> dict[str, Group]:
        """The candidate symmetries of the paper, by name."""

    @property
    @abstractmethod
    def residual(self) -> tuple[str, ...]:
        """Names of the candidates that the targets truly keep."""

    @abstractmethod
    def target(self, x: Tensor) -> Tensor:
        """The true function, ``x [..., rep_in.dim]`` to ``[..., rep_out.dim]``, in the dtype of ``x``."""

    def inputs(self, noise: Tensor) -> Tensor:
        """Inputs ``[n, rep_in.dim]`` from standard normal ``noise [n, width]``."""
        return noise

    def vectors(self, x: Tensor) -> Tensor:
        """The vectors ``[..., points, 3]`` at the end of inputs ``x [..., rep_in.dim]``."""
        flat = x[..., -3 * self.points :]
        return flat.unflatten(-1, (3, self.points)).mT if self.by_coordinate else flat.unflatten(-1, (self.points, 3))

    def stored(self, vectors: Tensor) -> Tensor:
        """What inputs hold of ``vectors [..., points, 3]``, ``[..., 3 points]``."""
        return (vectors.mT if self.by_coordinate else vectors).flatten(-2)

    def _draw(self, n: int, seed: int) -> Split:
        # float32, whatever is stored: it is the stream of the paper's data
        noise = torch.randn(n, self.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        x = self.inputs(noise.double())
        return Split(x.to(self.dtype), self.target(x).to(self.dtype))
