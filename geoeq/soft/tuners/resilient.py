"""Strengths that press harder on what is violated, up to a slack that is paid for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geoeq.soft.bank import WeightBank
from geoeq.soft.tuners.base import Loss, Tuner, uniform

__all__ = ["Resilient"]


class Resilient(Tuner):
    r"""Strengths as the dual variables of the constraint "level 0", relaxed at a price, one per weight and term.

    With the squared level :math:`r/f`, where :math:`r = \|W - P W\|^2 / \|W\|^2` is the share of a weight that is
    forbidden and f the same share of a random weight, every tuning makes a step of dual ascent

    .. math:: \lambda \leftarrow \big[\lambda + \eta_d\,(r/f - \lambda/\rho)\big]_+ .

    A violation at rest has the strength :math:`\lambda = \rho\, r/f`: the more a symmetry is violated, the harder it
    is pressed, as by :math:`\tfrac\rho2 (r/f)^2` in the loss. The evidence moves the other way (it lets go what is
    violated), so this tuner is for compliance and :class:`~geoeq.soft.Evidence` for selection. A weight of
    which everything is forbidden, such as the bias of a vector, has level 1 until it is 0, hence the strength rho.

    Args:
        rho: price of slack, > 0; infinity allows none, and strengths grow as long as a level is above 0.
        rate: :math:`\eta_d`, the step of the ascent at each tuning, at most ``rho``.
        strength: the strength at the start.
        maximum: the largest strength.

    Source: arXiv 2505.13631, resilient constraints, with levels in place of its layer coefficients.
    """

    split = True

    def __init__(self, rho: float = 1.0, *, rate: float = 0.1, strength: float = 0.0, maximum: float = 1e3) -> None:
        super().__init__()
        if not rho > 0:
            raise ValueError(f"rho must be greater than 0, got {rho}")
        if not 0 < rate <= rho or math.isinf(rate):
            raise ValueError(f"rate must be finite and lie in (0, rho] = (0, {rho}], got {rate}")
        if not 0 <= strength <= maximum:
            raise ValueError(f"strength must lie in [0, maximum] = [0, {maximum}], got {strength}")
        self.rho, self.rate, self.strength, self.maximum = rho, rate, strength, maximum

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        return uniform(bank, self.strength)

    def update(
        self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int, loss: Loss | None = None
    ) -> Tensor:
        slack = strengths / self.rho
        return (strengths + self.rate * (squared_levels(bank) - slack)).clamp(0.0, self.maximum)


def squared_levels(bank: WeightBank) -> Tensor:
    r"""Squared level r/f of each weight, ``[maps, terms]``, float64; 0 where nothing is forbidden or all is zero."""
    residuals = bank.squared_residuals(bank.flat().detach()).double()
    power = torch.stack(torch._foreach_norm([p.detach() for p in bank.parameters_])).double().square()
    entries = torch.tensor(bank.sizes, dtype=torch.float64, device=power.device)
    expected = bank.codim * (power / entries.clamp(min=1.0)).unsqueeze(1)
    return torch.where(expected > 0, residuals / expected, torch.zeros_like(expected))
