"""The published rule: one adjustment in the middle of training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geoeq.soft.bank import WeightBank
from geoeq.soft.tuners.base import Loss, Tuner, uniform

__all__ = ["OneShot"]


class OneShot(Tuner):
    r"""The published rule: one adjustment of one strength per symmetry, in the middle of training.

    With :math:`R_k = \sum_\ell \tfrac12 \|W_\ell - P_k W_\ell\|^2`, noted once per call of ``tune`` during the last
    part before ``at`` (the note is replaced whenever one of its entries falls), the strengths become once

    .. math:: \lambda_k \leftarrow \lambda_k \, / \, (R_k / \min_j R_j)^\gamma .

    Args:
        strength: :math:`\lambda` of every symmetry at the start.
        gamma: how sharply a violated symmetry loses its strength.
        at: share of the training after which the adjustment is made.
        window: share of ``at``, before it, in which R is noted.
        largest: name of the largest group, whose strength is 0 because the others together imply it; or None.

    Source: Kim et al., arXiv 2306.00356, and its released settings.
    """

    noted: Tensor
    done: Tensor

    def __init__(
        self,
        strength: float = 1.0,
        *,
        gamma: float = 2.0,
        at: float = 0.25,
        window: float = 0.5,
        largest: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 < at < 1:
            raise ValueError(f"at must lie between 0 and 1, got {at}")
        if not 0 < window <= 1:
            raise ValueError(f"window must lie in (0, 1], got {window}")
        self.strength, self.gamma, self.at, self.window, self.largest = strength, gamma, at, window, largest

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        if self.largest is not None and self.largest not in names:
            raise ValueError(f"largest must be one of {names}, got {self.largest!r}")
        chosen = [name != self.largest for name in names]
        self.register_buffer("candidate", torch.tensor(chosen), persistent=False)
        self.register_buffer("noted", torch.full((len(names),), math.inf, dtype=torch.float64))
        self.register_buffer("done", torch.tensor(False))
        return uniform(bank, self.strength) * self.candidate  # type: ignore[operator]

    def update(
        self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int, loss: Loss | None = None
    ) -> Tensor:
        if self.done:
            return strengths
        residuals = 0.5 * bank.squared_residuals(bank.flat()).double().sum(0)
        if progress >= self.at * (1 - self.window) and bool((residuals < self.noted).any()):
            self.noted.copy_(residuals)
        if progress < self.at:
            return strengths
        self.done.fill_(True)
        candidate: Tensor = self.candidate  # type: ignore[assignment]
        floor = self.noted[candidate].min().clamp(min=torch.finfo(torch.float64).tiny)
        ratio = (self.noted.clamp(min=float(floor)) / floor) ** self.gamma
        return strengths / ratio
