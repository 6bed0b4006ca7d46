"""Which linear maps respect a group: orthogonal projection on Hom_G(rep_in, rep_out).

A map W is an intertwiner if :math:`\\rho_{out}(g) W = W \\rho_{in}(g)` for all g. The space of such maps is found
pair of copies by pair of copies (:mod:`geoeq.reps`): by a closed form where the group knows one, else as the
null space of the constraints in float64, cut relative to the largest eigenvalue and checked for a clear gap.
Nothing of the size (entries of W) x (entries of W) is ever built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geoeq.reps import Copy, Rep, Segment, as_rep, kron, rep_key, segments

if TYPE_CHECKING:
    from geoeq.groups.base import Group

__all__ = ["PairSpace", "Projector", "joint_space", "null_space", "pair_space"]

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


def null_space(gram: Tensor) -> Tensor:
    """Orthonormal basis ``[D, r]`` of the null space of a positive semi-definite ``gram [D, D]``, float64.

    Raises:
        ValueError: if zero and non-zero eigenvalues are not separated by a factor of 10^4, so that the rank
            would be a guess.
    """
    values, vectors = torch.linalg.eigh(gram.double())
    top = values[-1].clamp(min=0.0)
    if top == 0.0:
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
    return PairSpace(spaces[0].dim, null_space(gram), offset)


def solve_pair(constraints: Iterable[tuple[Tensor, Tensor]], dim_out: int, dim_in: int) -> PairSpace:
    """Blocks W with ``A_out W = W A_in`` for each pair of ``constraints``, by the Gram matrix of all of them."""
    dim = dim_out * dim_in
    gram = torch.zeros(dim, dim, dtype=torch.float64)
    eye_out = torch.eye(dim_out, dtype=torch.float64)
    eye_in = torch.eye(dim_in, dtype=torch.float64)
    for out_matrix, in_matrix in constraints:
        rows = kron(out_matrix.double(), eye_in) - kron(eye_out, in_matrix.double().T)
        gram += rows.T @ rows
    return PairSpace(dim, null_space(gram))


@lru_cache(maxsize=4096)
def pair_space(group: Group, copy_out: Copy, copy_in: Copy) -> PairSpace:
    """The intertwiners of ``group`` between two copies; cached by content of the group and the copies."""
    closed = group.closed_form(copy_out, copy_in)
    if closed is not None:
        return closed
    algebra = [(group.algebra(copy_out, a), group.algebra(copy_in, a)) for a in group.generators]
    discrete = [(group.matrix(copy_out, h), group.matrix(copy_in, h)) for h in group.discrete]
    return solve_pair([*algebra, *discrete], copy_out.dim, copy_in.dim)


@dataclass(frozen=True)
class Block:
    """One block of the grid: rows of ``out``, columns of ``into`` and the allowed pair space."""

    out: Segment
    into: Segment
    space: PairSpace


class Projector(nn.Module):
    r"""Orthogonal projection of a weight on the maps that one or several groups allow.

    :math:`P(W) = \arg\min_{V} \|W - V\|_F` over V with :math:`\rho_{out}(g) V = V \rho_{in}(g)`; with several
    groups, over the maps that respect all of them.

    Args:
        groups: one group or several.
        rep_in: how the input answers.
        rep_out: how the output answers.

    Shapes: called on a weight ``[dim_out, dim_in]`` of any float dtype, returns the same shape and dtype.

    Source: arXiv 2104.09459; closed forms as each group states them.

    >>> from geoeq.groups import SO
    >>> P = SO(3).projector("2x0e + 3x1o", "1x0e + 2x1o")
    >>> P.rank, P.dim
    (8, 77)
    """

    def __init__(self, groups: Group | Sequence[Group], rep_in: Rep | str, rep_out: Rep | str) -> None:
        super().__init__()
        self.groups = tuple(groups) if isinstance(groups, Sequence) else (groups,)
        self.rep_in, self.rep_out = as_rep(rep_in), as_rep(rep_out)
        d = self.groups[0].n if self.groups else 3
        columns, rows = segments(self.rep_in, d), segments(self.rep_out, d)
        self.shape = (rows[-1].stop if rows else 0, columns[-1].stop if columns else 0)
        self.blocks = [[self._block(out, into) for into in columns] for out in rows]
        for r, row in enumerate(self.blocks):
            for c, block in enumerate(row):
                for name in ("basis", "offset"):
                    if getattr(block.space, name) is not None:
                        self.register_buffer(f"{name}_{r}_{c}", None, persistent=False)
        self.free = self.rank == self.dim
        self._refill(torch.empty(()))

    def _refill(self, like: Tensor) -> None:
        """Cast the float64 constants to the dtype and device of ``like``."""
        for r, row in enumerate(self.blocks):
            for c, block in enumerate(row):
                for name in ("basis", "offset"):
                    master = getattr(block.space, name)
                    if master is not None:
                        setattr(self, f"{name}_{r}_{c}", master.to(like.dtype).to(like.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projector:
        # Going through float32 and back must not cost the constants their precision.
        first = next(self.buffers(), None)
        super()._apply(fn, recurse)
        if first is not None:
            self._refill(fn(first))
        return self

    def _block(self, out: Segment, into: Segment) -> Block:
        return Block(out, into, joint_space([pair_space(group, out.copy, into.copy) for group in self.groups]))

    @property
    def dim(self) -> int:
        """Number of entries of the weight."""
        return self.shape[0] * self.shape[1]

    @property
    def rank(self) -> int:
        """Dimension of the space of allowed maps."""
        return sum(b.out.mul * b.into.mul * b.space.rank for row in self.blocks for b in row)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.shape != self.shape:
            raise ValueError(f"weight must be {list(self.shape)}, got {list(weight.shape)}")
        if self.free:
            return weight
        with torch.autocast(weight.device.type, enabled=False):  # half precision would break exactness
            rows = [
                torch.cat([self._project(weight, r, c) for c in range(len(self.blocks[r]))], dim=1)
                for r in range(len(self.blocks))
            ]
            return torch.cat(rows, dim=0)

    def _project(self, weight: Tensor, r: int, c: int) -> Tensor:
        block = self.blocks[r][c]
        part = weight[block.out.start : block.out.stop, block.into.start : block.into.stop]
        if block.space.basis is None:
            return part
        if block.space.rank == 0 and block.space.offset is None:
            return torch.zeros_like(part)
        rows = to_rows(part, block)
        basis = getattr(self, f"basis_{r}_{c}").to(part)
        projected = (rows @ basis) @ basis.T
        if block.space.offset is not None:
            projected = projected + getattr(self, f"offset_{r}_{c}").to(part)
        return from_rows(projected, block)

    def residual(self, weight: Tensor) -> Tensor:
        """What the groups forbid in ``weight``: W - P(W), formed as such and never as a difference of squares."""
        return weight - self(weight)

    def extra_repr(self) -> str:
        groups = ", ".join(map(repr, self.groups))
        return f"{groups}, {rep_key(self.rep_in)} -> {rep_key(self.rep_out)}, rank={self.rank}, dim={self.dim}"


def to_rows(part: Tensor, block: Block) -> Tensor:
    """A block ``[mul_out * d_out, mul_in * d_in]``, a row per pair of copies, ``[mul_out * mul_in, d_out * d_in]``."""
    mo, mi = block.out.mul, block.into.mul
    do, di = block.out.copy.dim, block.into.copy.dim
    return part.reshape(mo, do, mi, di).transpose(1, 2).reshape(mo * mi, do * di)


def from_rows(rows: Tensor, block: Block) -> Tensor:
    """Inverse of :func:`to_rows`."""
    mo, mi = block.out.mul, block.into.mul
    do, di = block.out.copy.dim, block.into.copy.dim
    return rows.reshape(mo, mi, do, di).transpose(1, 2).reshape(mo * do, mi * di)


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
