"""Mean distance of three points with an error added that breaks rotations or translations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geoeq.datasets.vectors.task import VectorTask
from geoeq.groups import SE, SO, Group, T
from geoeq.reps import Irreps, Positions

__all__ = ["ERRORS", "PairDistances"]


def gaps(r: Tensor) -> Tensor:
    """Differences around the triangle, x_1 - x_2, x_2 - x_3, x_3 - x_1, ``[..., 3, 3]``."""
    return r - r.roll(-1, dims=-2)


def first_norm(r: Tensor) -> Tensor:
    """The length of x_1."""
    return r[..., 0, :].norm(dim=-1)


def first_difference(r: Tensor) -> Tensor:
    """The x component of x_1 - x_2, without its sign."""
    return gaps(r)[..., 0, 0].abs()


def squares(r: Tensor) -> Tensor:
    """The sum of all squared lengths."""
    return r.square().sum((-2, -1))


def absolute_gaps(r: Tensor) -> Tensor:
    """The sum of the L1 lengths of the sides, the last one three times."""
    return gaps(r).abs().sum(-1) @ torch.tensor([1.0, 1.0, 3.0]).to(r)


# name of the error: its formula, and the candidate that it keeps
ERRORS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "norm": (first_norm, "rotation"),
    "difference": (first_difference, "translation"),
    "squares": (squares, "rotation"),
    "l1": (absolute_gaps, "translation"),
}


class PairDistances(VectorTask):
    r"""Three points to the mean of their distances, less an error that only part of SE(3) preserves.

    .. math:: y = \tfrac13 (|x_1 - x_2| + |x_2 - x_3| + |x_3 - x_1|) - \epsilon\, e(x), \qquad x_i \sim N(0, 1)

    ==============  ============================================================  ===========
    error           e(x)                                                          kept
    ==============  ============================================================  ===========
    ``norm``        :math:`|x_1|`                                                 rotation
    ``difference``  :math:`|(x_1 - x_2)_x|`                                       translation
    ``squares``     :math:`\sum_i |x_i|^2`                                        rotation
    ``l1``          :math:`|x_1-x_2|_1 + |x_2-x_3|_1 + 3\,|x_3-x_1|_1`            translation
    ==============  ============================================================  ===========

    Args:
        error: the error e, one of the names above.
        epsilon: its weight; 0 keeps SE(3).
        n: number of samples in all, a multiple of 3.
        seed: seed of the draw; None takes ``n + 15``.
        dtype: floating type of the stored tensors.

    Shapes: ``x [n, 9]``, three positions; ``y [n, 1]``.

    Raises:
        ValueError: for an unknown error, or as :class:`~geoeq.datasets.vectors.VectorTask`.

    Source: arXiv 2306.00356, section 5.

    >>> PairDistances(error="l1").residual
    ('translation',)
    """

    points = 3
    width = 12  # homogeneous coordinates; the fourth of each point is drawn and not used
    rep_in = Positions(3)
    rep_out = Irreps("1x0e")
    published_strength = 0.01  # none is published for this task: the one of CosSim

    def __init__(
        self,
        error: str = "norm",
        epsilon: float = 1.0,
        n: int = 3000,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if error not in ERRORS:
            raise ValueError(f"error must be one of {list(ERRORS)}, got {error!r}")
        self.error, self.epsilon = error, epsilon
        super().__init__(n, seed, dtype)

    @property
    def symmetries(self) -> dict[str, Group]:
        return {"SE(3)": SE(3), "rotation": SO(3), "translation": T(3)}

    @property
    def residual(self) -> tuple[str, ...]:
        return tuple(self.symmetries) if self.epsilon == 0 else (ERRORS[self.error][1],)

    def inputs(self, noise: Tensor) -> Tensor:
        return noise.unflatten(-1, (3, 4))[..., :3].flatten(-2)

    def target(self, x: Tensor) -> Tensor:
        r = self.vectors(x)
        distance = gaps(r).norm(dim=-1).mean(-1)
        return (distance - self.epsilon * ERRORS[self.error][0](r)).unsqueeze(-1)
