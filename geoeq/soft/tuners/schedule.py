"""Strengths that follow a plan: relaxed in the middle of training, exact at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from geoeq.soft.bank import WeightBank
from geoeq.soft.tuners.base import Loss, Tuner, uniform

__all__ = ["Schedule"]

TRIANGLE = ((0.0, 0.0), (0.5, 1.0), (0.95, 0.0))


class Schedule(Tuner):
    r"""One strength for all, a function of the progress of the training alone.

    With the relaxation a, piecewise linear between ``knots``,

    .. math:: \lambda = \lambda_{tight}^{1 - a}\, \lambda_{loose}^{a} ,

    and :math:`\lambda = \infty` from the last knot on if its relaxation is 0 and ``exact``: weights are then projected
    by :meth:`SoftEquivariance.prox_step`, and what is left of the training fits the exact model.

    Args:
        tight: strength at relaxation 0, > 0.
        loose: strength at relaxation 1, > 0.
        knots: pairs (progress, relaxation), both in [0, 1], progress ascending. The default is a triangle
            0 -> 1 -> 0 that leaves the last twentieth of the training to the exact model;
            ``((0, 1), (0.9, 0))`` only tightens, ``((0, 0), (0.2, 1), (0.7, 1), (0.9, 0))`` is a trapezoid.
        exact: whether it ends with infinite strengths; take False where the penalty is a term of the loss.

    Source: arXiv 2408.13242, section 4 (relax, then return to the constraint).

    >>> Schedule(100.0, 0.01).at(0.25), Schedule(100.0, 0.01).at(1.0)
    (1.0, inf)
    """

    def __init__(
        self,
        tight: float = 1e3,
        loose: float = 1e-3,
        *,
        knots: Sequence[tuple[float, float]] = TRIANGLE,
        exact: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < loose <= tight < math.inf:
            raise ValueError(f"0 < loose <= tight < infinity must hold, got loose={loose} and tight={tight}")
        self.knots = [(float(progress), float(relaxation)) for progress, relaxation in knots]
        times = [progress for progress, _ in self.knots]
        if not times or any(later <= sooner for sooner, later in pairwise(times)):
            raise ValueError(f"knots must be given in ascending order of progress, got {self.knots}")
        if not all(0 <= number <= 1 for knot in self.knots for number in knot):
            raise ValueError(f"knots must be pairs of numbers in [0, 1], got {self.knots}")
        self.tight, self.loose, self.exact = tight, loose, exact

    def at(self, progress: float) -> float:
        """The strength after a share ``progress`` of the training."""
        last, relaxation = self.knots[-1]
        if self.exact and relaxation == 0 and progress >= last:
            return math.inf
        relaxation = interpolate(self.knots, progress)
        return self.tight ** (1 - relaxation) * self.loose**relaxation

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        return uniform(bank, self.at(0.0))

    def update(
        self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int, loss: Loss | None = None
    ) -> Tensor:
        return uniform(bank, self.at(progress))


def interpolate(knots: Sequence[tuple[float, float]], x: float) -> float:
    """Piecewise linear between ``knots (x, y)``, constant outside."""
    for (left, low), (right, high) in pairwise(knots):
        if left <= x < right:
            return low + (high - low) * (x - left) / (right - left)
    return knots[0][1] if x < knots[0][0] else knots[-1][1]
