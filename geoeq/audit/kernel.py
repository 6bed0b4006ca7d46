"""Kernel ridge regression on landmarks, from closed form, along a whole path of ridges at once."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

__all__ = ["KernelFeatures", "RidgePath"]

RIDGES = torch.logspace(-8, 1, 10, dtype=torch.float64)
BANDWIDTH = 1.5  # of the median distance: wide kernels see low-order polynomials well
RANK = 1e-10


class KernelFeatures:
    r"""Features whose inner products are a Gaussian kernel, exact on the landmarks (Nystroem).

    Args:
        x: points ``[n, p]`` to draw landmarks from.
        landmarks: how many.
        generator: of the draw.

    Source: Williams and Seeger, NIPS 2000.
    """

    def __init__(self, x: Tensor, landmarks: int, generator: Generator) -> None:
        self.points = x[torch.randperm(len(x), generator=generator)[:landmarks].to(x.device)]
        self.width = BANDWIDTH * torch.pdist(self.points).median()
        values, vectors = torch.linalg.eigh(self._kernel(self.points))
        kept = values > RANK * values[-1]
        self.map = vectors[:, kept] / values[kept].sqrt()

    def _kernel(self, x: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, self.points).square() / (2 * self.width**2))

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``[n, rank]`` of points ``[n, p]``."""
        return self._kernel(x) @ self.map


class RidgePath:
    r"""Ridge regression with intercept for every ridge of a grid,
    :math:`\min_w \tfrac1n \|y - \bar y - F w\|^2 + \lambda \|w\|^2`.

    Args:
        features: what makes features ``[n, rank]`` of points.
        x: points ``[n, p]``.
        y: targets ``[n, q]``.
    """

    def __init__(self, features: KernelFeatures, x: Tensor, y: Tensor) -> None:
        self.features = features
        f = features(x)
        self.mean, self.centre = y.mean(0), f.mean(0)
        f = f - self.centre
        values, self.vectors = torch.linalg.eigh(f.T @ f / len(f))
        target = self.vectors.T @ (f.T @ (y - self.mean)) / len(f)
        self.weights = target / (values.clamp(min=0.0).unsqueeze(1) + RIDGES.to(y)[:, None, None])  # [ridges, rank, q]

    def __call__(self, x: Tensor) -> Tensor:
        """Predictions ``[ridges, n, q]``."""
        return ((self.features(x) - self.centre) @ self.vectors) @ self.weights + self.mean
