"""Allowed blocks that a formula gives: all, none, Schur's lemma, fixed sums, and stacks of equal members."""

from __future__ import annotations

import torch

from geoeq.intertwiners.spaces import PairSpace
from geoeq.reps import Copy, IrrepCopy, LogSizeCopy, NodeCopy, PositionCopy, kron

__all__ = ["everything", "member", "nothing", "schur", "spread", "sums_fixed"]


def everything(copy_out: Copy, copy_in: Copy) -> PairSpace:
    """No constraint at all."""
    return PairSpace(copy_out.dim * copy_in.dim, None)


def nothing(copy_out: Copy, copy_in: Copy) -> PairSpace:
    """Only the zero block."""
    dim = copy_out.dim * copy_in.dim
    return PairSpace(dim, torch.zeros(dim, 0, dtype=torch.float64))


def schur(dim: int) -> PairSpace:
    """Multiples of the identity between two equal irreducible copies (Schur's lemma)."""
    return PairSpace(dim * dim, (torch.eye(dim, dtype=torch.float64) / dim**0.5).reshape(-1, 1))


def sums_fixed(copy_out: Copy, copy_in: PositionCopy | LogSizeCopy, *, together: bool) -> PairSpace:
    r"""Blocks whose coefficients over the members of the input sum to zero, :math:`P(W) = W + (\tau - W 1) 1^T / n`.

    Args:
        copy_out: of the output.
        copy_in: a stack whose members are shifted together.
        together: whether the members of the output are shifted with those of the input; the coefficients of each
            then sum to the identity (:math:`\tau = 1`).
    """
    n = copy_in.mul
    space = torch.eye(copy_in.dim // n, dtype=torch.float64)
    centred = torch.eye(n, dtype=torch.float64) - 1.0 / n
    differences = torch.linalg.eigh(centred).eigenvectors[:, 1:]  # [n, n - 1]
    basis = kron(torch.eye(copy_out.dim, dtype=torch.float64), kron(differences, space))
    offset = None
    if together:
        mean = torch.full((copy_out.dim // len(space), n), 1.0 / n, dtype=torch.float64)
        offset = kron(mean, space).reshape(-1)
    return PairSpace(copy_out.dim * copy_in.dim, basis, offset)


def member(copy: Copy) -> Copy:
    """One of the members that ``copy`` is a stack of, as far as groups go that do not tie them; else itself."""
    if isinstance(copy, PositionCopy):
        return PositionCopy(1)
    if isinstance(copy, LogSizeCopy):
        return IrrepCopy(0, 1)
    return copy.inner if isinstance(copy, NodeCopy) else copy


def spread(space: PairSpace, copy_out: Copy, copy_in: Copy) -> PairSpace:
    """The blocks between two stacks, from the ``space`` of blocks between a :func:`member` of each."""
    dim = copy_out.dim * copy_in.dim
    if space.basis is None:
        return PairSpace(dim, None)
    d_out, d_in = member(copy_out).dim, member(copy_in).dim
    n_out, n_in = copy_out.dim // d_out, copy_in.dim // d_in
    pairs = torch.eye(n_out * n_in, dtype=torch.float64).reshape(n_out, n_in, -1)
    basis = torch.einsum("abr,uvs->uavbrs", space.basis.reshape(d_out, d_in, -1), pairs)
    if isinstance(copy_out, NodeCopy):  # whose node index runs fastest
        basis = basis.transpose(0, 1)
    if isinstance(copy_in, NodeCopy):
        basis = basis.transpose(2, 3)
    return PairSpace(dim, basis.reshape(dim, -1))
