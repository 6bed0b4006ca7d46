"""Strengths that never change."""

from __future__ import annotations

from torch import Tensor

from geoeq.soft.bank import WeightBank
from geoeq.soft.tuners.base import Loss, Tuner, uniform

__all__ = ["Fixed"]


class Fixed(Tuner):
    """Strengths that never change.

    Args:
        strength: the multiplier of every penalty, in units of the loss per squared weight.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if not strength >= 0:
            raise ValueError(f"strength must be >= 0, got {strength}")
        self.strength = strength

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        return uniform(bank, self.strength)

    def update(
        self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int, loss: Loss | None = None
    ) -> Tensor:
        return strengths
