"""The allowed blocks between two copies: numerical null spaces, and how spaces are joined and cached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geoeq.reps import Copy, kron

if TYPE_CHECKING:
    from geoeq.groups.base import Group

__all__ = ["PairSpace", "joint_space", "null_space", "pair_space", "solve_pair"]

GAP = 1e4
CUT = 1e-10


@dataclass(frozen=True)
class PairSpace:
    """The intertwiners between one copy and another: span of ``basis`` plus ``offset``.

    Attributes:
        dim: entries of one block, ``copy_out.dim * copy_in.dim``.
        basis: orthonormal columns ``[dim, rank]``, float64; None when every block is allowed.
        offset: a fixed block ``[dim]`` orthogonal to the basis (affine constraints), or None for zero.
    """

    dim: int
    basis: Tensor | None
    offset: Tensor | None = None

    @property
    def rank(self) -> int:
        """Dimension of the space."""
        return self.dim if self.basis is None else self.basis.shape[1]

    def complement(self) -> Tensor:
        """The projector ``[dim, dim]`` on what is not allowed, I - Q Q^T, float64."""
        identity = torch.eye(self.dim, dtype=torch.float64)
        return identity - identity if self.basis is None else identity - self.basis @ self.basis.T


def null_space(gram: Tensor, scale: float) -> Tensor:
    """Orthonormal basis ``[D, r]`` of the null space of a positive semi-definite ``gram [D, D]``, float64.

    Args:
        gram: the matrix.
        scale: size of what it was formed from, so that a matrix of mere rounding is known for a zero.

    Raises:
        ValueError: if zero and non-zero eigenvalues are not separated by a factor of 10^4, so that the rank
            would be a guess.
    """
    values, vectors = torch.linalg.eigh(gram.double())
    top = values[-1].clamp(min=0.0)
    if top <= CUT * scale:
        return vectors
    small = values <= CUT * top
    if small.any() and not small.all():
        floor = values[small].abs().max().clamp(min=torch.finfo(torch.float64).eps * top)
        first = values[~small].min()
        if first < GAP * floor:
            raise ValueError(f"null space without a clear gap: eigenvalues {float(floor):.1e} and {float(first):.1e}")
    return vectors[:, small]


def joint_space(spaces: Sequence[PairSpace]) -> PairSpace:
    """The blocks that lie in all of ``spaces``: null space of the summed complements."""
    constrained = [space for space in spaces if space.basis is not None]
    offsets = [space.offset for space in spaces if space.offset is not None]
    offset = offsets[0] if offsets else None
    if len(constrained) <= 1:
        return PairSpace(spaces[0].dim, constrained[0].basis if constrained else None, offset)
    gram = torch.stack([space.complement() for space in constrained]).sum(0)
    return PairSpace(spaces[0].dim, null_space(gram, 1.0), offset)


def solve_pair(constraints: Iterable[tuple[Tensor, Tensor]], dim_out: int, dim_in: int) -> PairSpace:
    r"""Blocks W with ``X W = W Y`` for each pair X, Y of ``constraints``, by the Gram matrix of all of them.

    With :math:`C = X \otimes I - I \otimes Y^T`, :math:`C^T C` is a sum of four Kronecker products, so that C itself
    is never multiplied.
    """
    dim = dim_out * dim_in
    gram = torch.zeros(dim, dim, dtype=torch.float64)
    eye_out = torch.eye(dim_out, dtype=torch.float64)
    eye_in = torch.eye(dim_in, dtype=torch.float64)
    scale = 0.0
    for out_matrix, in_matrix in constraints:
        x, y = out_matrix.double(), in_matrix.double()
        mixed = kron(x, y)
        scale = max(scale, float(x.square().sum() + y.square().sum()))
        gram += kron(x.mT @ x, eye_in) + kron(eye_out, y @ y.mT) - mixed - mixed.mT
    return PairSpace(dim, null_space(gram, scale))


@lru_cache(maxsize=4096)
def pair_space(group: Group, copy_out: Copy, copy_in: Copy) -> PairSpace:
    """The intertwiners of ``group`` between two copies; cached by content of the group and the copies."""
    closed = group.closed_form(copy_out, copy_in)
    if closed is not None:
        return closed
    algebra = [(group.algebra(copy_out, a), group.algebra(copy_in, a)) for a in group.generators]
    discrete = [(group.matrix(copy_out, h), group.matrix(copy_in, h)) for h in group.discrete]
    return solve_pair([*algebra, *discrete], copy_out.dim, copy_in.dim)
