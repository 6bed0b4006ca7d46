"""The cross-fitted regressions that tell what a symmetry explains of data from what it cannot."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from geoeq.audit.kernel import KernelFeatures, RidgePath
from geoeq.groups import Group
from geoeq.reps import NodeCopy, PositionCopy, Positions, Rep, Segment, segments
from geoeq.soft.action import move

__all__ = ["Estimator", "ceiling_of", "gap_of", "noise_of"]

STANDARD_ERRORS = 3.0


def gap_of(numbers: Tensor) -> Tensor:
    """Signed squared correlation, relative to the variance, from sums ``[..., 4]`` of what the estimator returns."""
    inner, explained, _, variance = numbers.unbind(-1)
    return inner * inner.abs() / _positive(explained * variance)


def noise_of(numbers: Tensor) -> Tensor:
    """The gap of a correlation that is all noise, three standard errors of its sum, from ``numbers [n, 4]``."""
    inner, explained, _, variance = numbers.sum(0)
    error = (numbers[:, 0] - inner / len(numbers)).square().sum()
    return STANDARD_ERRORS**2 * error / _positive(explained * variance)


def ceiling_of(numbers: Tensor) -> Tensor:
    """The share that the symmetric model leaves, from sums ``[..., 4]`` of what the estimator returns."""
    return numbers[..., 2] / _positive(numbers[..., 3])


def _positive(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(torch.float64).tiny)


class Estimator(NamedTuple):
    """The cross-fitted regressions behind :func:`~geoeq.audit.symmetry_gap`."""

    group: Group
    rep_in: Rep
    rep_out: Rep
    landmarks: int
    n_elements: int
    folds: int
    generator: Generator

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Of each sample, ``[n, 4]``: residual times break, break squared, residual squared, target squared."""
        fold = torch.randperm(len(x), generator=self.generator) % self.folds
        scale = scales(x, self.rep_in, self.group)
        residual = y - self._best(torch.stack([y]), self._symmetric_predictions(x, y, fold, scale))
        breaks = self._break_predictions(x, residual, fold, scale)
        gains = torch.stack([gap_of(self._numbers(residual, b, residual).sum(0)) for b in breaks])
        best = breaks[int(gains.argmax())]
        mean = torch.stack([self._turned(self.rep_out, y, g).mean(0) for g in self._elements(64)]).mean(0)
        return self._numbers(residual, best, y - mean)

    @staticmethod
    def _numbers(residual: Tensor, breaks: Tensor, target: Tensor) -> Tensor:
        columns = [(residual * breaks).sum(1), breaks.square().sum(1), residual.square().sum(1), target.square().sum(1)]
        return torch.stack(columns, 1)

    @staticmethod
    def _best(y: Tensor, predictions: Tensor) -> Tensor:
        """The one of ``predictions [ridges, n, q]`` that is nearest to ``y``."""
        return predictions[int((predictions - y).square().sum((1, 2)).argmin())]

    def _symmetric_predictions(self, x: Tensor, y: Tensor, fold: Tensor, scale: Tensor) -> Tensor:
        """Held-out predictions ``[ridges, n, q]`` of the regression on moved copies, averaged over moved inputs."""
        found: Tensor | None = None
        for k in range(self.folds):
            inside, outside = fold != k, fold == k
            elements = self._elements(self.n_elements)
            many_x = torch.cat([self._moved(x[inside], g) for g in elements]) * scale
            many_y = torch.cat([self._turned(self.rep_out, y[inside], g) for g in elements])
            path = RidgePath(KernelFeatures(many_x, self.landmarks, self.generator), many_x, many_y)
            own = self._averaged(path, x[outside], scale)
            found = own.new_zeros(len(own), *y.shape) if found is None else found
            found[:, outside] = own
        assert found is not None
        return found

    def _break_predictions(self, x: Tensor, residual: Tensor, fold: Tensor, scale: Tensor) -> Tensor:
        """Held-out predictions ``[ridges, n, q]`` of the residual, their symmetric part taken out."""
        found: Tensor | None = None
        for k in range(self.folds):
            inside, outside = fold != k, fold == k
            features = KernelFeatures(x[inside] * scale, self.landmarks, self.generator)
            path = RidgePath(features, x[inside] * scale, residual[inside])
            own = path(x[outside] * scale) - self._averaged(path, x[outside], scale)
            found = own.new_zeros(len(own), *residual.shape) if found is None else found
            found[:, outside] = own
        assert found is not None
        return found

    def _averaged(self, path: RidgePath, x: Tensor, scale: Tensor) -> Tensor:
        r"""The symmetric part of a regression, mean of :math:`g^{-1} f(g x)` over drawn elements."""
        found = [
            self._turned(self.rep_out, path(self._moved(x, g) * scale), torch.linalg.inv(g))
            for g in self._elements(self.n_elements)
        ]
        return torch.stack(found).mean(0)

    def _elements(self, count: int) -> Tensor:
        return self.group.sample(count, generator=self.generator)

    def scattered(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The data, each sample moved by an element of its own."""
        elements, origin = self._elements(len(x)), self._origin(x)
        still = x - shifted(self.rep_in, self.group, origin)
        moved_x = torch.cat([self._turned(self.rep_in, still[i : i + 1], g) for i, g in enumerate(elements)])
        moved_y = torch.cat([self._turned(self.rep_out, y[i : i + 1], g) for i, g in enumerate(elements)])
        return moved_x + shifted(self.rep_in, self.group, self._exchanged(origin)), moved_y

    # Shifts of positions cannot preserve the distribution of x if they are drawn from some other. Drawn from where the
    # samples are they do, as far as that is independent of the rest of a sample.

    def placed(self, x: Tensor, y: Tensor) -> Tensor:
        """Targets from where each sample is, so that those which are positions have no origin."""
        return y - shifted(self.rep_out, self.group, self._origin(x))

    def _moved(self, x: Tensor, element: Tensor) -> Tensor:
        """Inputs moved by an element, its shift of each sample replaced by one to where another sample is."""
        origin = self._origin(x)
        turned = self._turned(self.rep_in, x - shifted(self.rep_in, self.group, origin), element)
        return turned + shifted(self.rep_in, self.group, self._exchanged(origin))

    def _turned(self, rep: Rep, x: Tensor, element: Tensor) -> Tensor:
        """Features moved by an element, without its shift."""
        moved = move(self.group, rep, x, element)
        if not self._shifts:
            return moved
        return moved - shifted(rep, self.group, move(self.group, Positions(1), element.new_zeros(1, 3), element))

    def _origin(self, x: Tensor) -> Tensor:
        """Where each sample is, the mean of its positions ``[n, 3]``; 0 if the group does not shift them."""
        if not self._shifts:
            return x.new_zeros(len(x), 3)
        return torch.cat([x[:, s.start : s.stop] for s in self._positions], 1).unflatten(1, (-1, 3)).mean(1)

    def _exchanged(self, origin: Tensor) -> Tensor:
        return origin[torch.randperm(len(origin), generator=self.generator)] if self._shifts else origin

    @property
    def _positions(self) -> list[Segment]:
        return [s for s in segments(self.rep_in, self.group.n) if isinstance(s.copy, PositionCopy)]

    @property
    def _shifts(self) -> bool:
        return bool(self._positions) and translates(self.group)


@lru_cache(maxsize=64)
def translates(group: Group) -> bool:
    """Whether elements of ``group``, which acts on three-dimensional space, shift positions."""
    element = group.sample(1, generator=Generator().manual_seed(0))[0]
    return bool(move(group, Positions(1), element.new_zeros(3), element).any())


def shifted(rep: Rep, group: Group, origin: Tensor) -> Tensor:
    """What shifts of samples by ``origin [n, 3]`` add to their features, ``[n, rep.dim]``."""
    found = [
        origin.repeat(1, s.copy.mul)
        if isinstance(s.copy, PositionCopy)
        else origin.new_zeros(len(origin), s.stop - s.start)
        for s in segments(rep, group.n)
    ]
    return torch.cat(found, 1)


def scales(x: Tensor, rep: Rep, group: Group) -> Tensor:
    """One over the root mean square of each kind of copy, ``[dim]``: what is of one kind shares its unit.

    Features of nodes have one of their own each, in all nodes.
    """
    found = []
    for s in segments(rep, group.n):
        own = x[:, s.start : s.stop].unflatten(1, (s.mul, -1))
        kind = (0, 2) if isinstance(s.copy, NodeCopy) else (0, 1, 2)
        found.append(own.square().mean(kind, keepdim=True).sqrt().expand_as(own[:1]).flatten())
    return 1.0 / torch.cat(found).clamp(min=torch.finfo(torch.float64).eps)
