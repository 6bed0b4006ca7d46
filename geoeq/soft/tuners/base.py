"""What every tuner does: a strength for each weight and each symmetry, set from what training shows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from geoeq.soft.bank import WeightBank

__all__ = ["Loss", "Tuner", "uniform"]

Loss = Callable[[], float]  # on training data, with the weights as they are


class Tuner(nn.Module, ABC):
    """Base of all tuners.

    Attributes:
        split: whether each increment of the lattice of symmetries has a strength of its own
            (:mod:`geoeq.soft.lattice`), or each symmetry as a whole.
        held: from this strength on the proximal step projects, as if it were infinite.
    """

    split = False
    held = math.inf

    @abstractmethod
    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        """Prepare for ``bank`` and return the strengths to start with, ``[maps, terms]``."""

    def wants_gradients(self) -> bool:
        """Whether the gradient of this step shall be shown to :meth:`observe`."""
        return False

    def observe(self, bank: WeightBank, grads: Tensor, loss: Tensor, batch_size: int, n_targets: int) -> None:
        """Take note of one step's gradient ``grads [entries]`` (nothing to note by default)."""

    def observe_validation(self, bank: WeightBank, grads: Tensor) -> None:
        """Take note of the gradient of one validation batch, ``grads [entries]`` (nothing to note by default)."""

    @abstractmethod
    def update(
        self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int, loss: Loss | None = None
    ) -> Tensor:
        """New strengths after a share ``progress`` of the training, ``[maps, terms]``; ``loss`` may be evaluated."""


def uniform(bank: WeightBank, strength: float) -> Tensor:
    """The same strength for every weight and symmetry, 0 where a symmetry forbids nothing."""
    return torch.where(bank.codim > 0, torch.full_like(bank.codim, strength), torch.zeros_like(bank.codim))
