"""Moments of inertia with one column changed: O(3) broken to O(2) about an axis, or to nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from geoeq.datasets.vectors.task import VectorTask
from geoeq.groups import GL, O2, SL, Group, O, S
from geoeq.groups.rotations import AXES
from geoeq.reps import TensorRep

__all__ = ["ModifiedInertia"]

CANDIDATES = ("axes", "linear", "permutations")


class ModifiedInertia(VectorTask):
    r"""Masses and positions of five points to their tensor of inertia, one column of it changed.

    .. math::
        I = \sum_i m_i (|r_i|^2 1 - r_i r_i^T), \qquad y = \mathrm{vec}(I + \epsilon\, (I e_a) e_a^T),

    with m = softplus(N(0, 1)) and r from N(0, 1). Only O(2) about the axis a survives; :math:`\epsilon = -1` erases
    the column. Without an axis, :math:`y = \mathrm{vec}(I + \epsilon(-(I e_x) e_x^T + (I e_y) e_y^T))` and none of
    the candidates survives.

    Args:
        epsilon: how much of the column is added; 0 keeps O(3).
        axis: the axis a, "x", "y" or "z"; None for the variant without an axis.
        candidates: "axes" for O(3) and O(2) about each axis; "linear" for the paper's mis-specified ones, O(3), O(2)
            about z and four groups of matrices that are not orthogonal, none of which ever holds; "permutations" for
            S(5), which always holds: inputs are then stored coordinate by coordinate, and coordinates are channels.
        n: number of samples in all, a multiple of 3.
        seed: seed of the draw; None takes ``n + 25``.
        dtype: floating type of the stored tensors.

    Shapes: ``x [n, 20]``, the five masses and then the five positions, or with permutations the five masses, the five
    first coordinates and so on; ``y [n, 9]``, row by row.

    Raises:
        ValueError: for an unknown axis or list of candidates, or as :class:`~geoeq.datasets.vectors.VectorTask`.

    Source: arXiv 2306.00356, section 5; arXiv 2112.01388 for :math:`\epsilon = 0.3`.

    >>> task = ModifiedInertia(epsilon=-1.0, axis="z")
    >>> task.train.x.shape, task.residual
    (torch.Size([1000, 20]), ('O2(z)',))
    """

    points = 5
    width = 20
    rep_in = TensorRep({0: 5, 1: 5}, d=3)
    rep_out = TensorRep({2: 1}, d=3)
    published_strength = 100.0

    def __init__(
        self,
        epsilon: float = -1.0,
        axis: str | None = "z",
        n: int = 3000,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        candidates: str = "axes",
    ) -> None:
        if axis is not None and axis not in AXES:
            raise ValueError(f"axis must be one of {list(AXES)} or None, got {axis!r}")
        if candidates not in CANDIDATES:
            raise ValueError(f"candidates must be one of {list(CANDIDATES)}, got {candidates!r}")
        self.epsilon, self.axis, self.candidates = epsilon, axis, candidates
        self.by_coordinate = candidates == "permutations"
        if self.by_coordinate:
            self.rep_in, self.rep_out = TensorRep({1: 4}, d=5), TensorRep({0: 9}, d=5)
        super().__init__(n, seed, dtype)

    @property
    def symmetries(self) -> dict[str, Group]:
        if self.by_coordinate:
            return {"S(5)": S(5)}
        found: dict[str, Group] = {"O(3)": O(3), "O2(z)": O2("z")}
        if self.candidates == "axes":
            return found | {"O2(x)": O2("x"), "O2(y)": O2("y")}
        found |= {"SL(3)": SL(3), "SL(2), yz": SL(2, "yz")}
        return found | {"GL(3)": GL(3), "GL(2), xz": GL(2, "xz")}

    @property
    def residual(self) -> tuple[str, ...]:
        kept, candidates = ("S(5)", f"O2({self.axis})"), self.symmetries.items()
        return tuple(name for name, group in candidates if name in kept or (self.epsilon == 0 and group.orthogonal))

    def inputs(self, noise: Tensor) -> Tensor:
        masses, positions = noise.split([self.points, 3 * self.points], dim=-1)
        positions = self.stored(positions.unflatten(-1, (self.points, 3)))
        return torch.cat([torch.nn.functional.softplus(masses), positions], dim=-1)

    def target(self, x: Tensor) -> Tensor:
        masses, r = x[..., : self.points], self.vectors(x)  # [..., 5], [..., 5, 3]
        moments = torch.einsum("...k,...ki,...kj->...ij", masses, r, r)
        trace = moments.diagonal(dim1=-2, dim2=-1).sum(-1)
        inertia = trace[..., None, None] * torch.eye(3).to(x) - moments
        return (inertia * (1.0 + self.epsilon * self._columns().to(x))).flatten(-2)

    def _columns(self) -> Tensor:
        """How often each column of I is added, ``[3]``."""
        if self.axis is None:
            return torch.tensor([-1.0, 1.0, 0.0])
        return torch.eye(3)[AXES[self.axis]]
