"""The projection of linear maps on the intertwiners of one or several groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geoeq.intertwiners.spaces import PairSpace, joint_space, pair_space
from geoeq.reps import Rep, Segment, as_rep, rep_key, segments

if TYPE_CHECKING:
    from geoeq.groups.base import Group

__all__ = ["Block", "Projection", "Projector", "from_rows", "to_rows"]


@dataclass(frozen=True)
class Block:
    """One block of the grid: rows of ``out``, columns of ``into`` and the allowed pair space."""

    out: Segment
    into: Segment
    space: PairSpace


class Projection(nn.Module):
    """Bases of allowed blocks as constants, kept in float64 and cast to the dtype and device of the module."""

    def __init__(self) -> None:
        super().__init__()
        self._masters: dict[str, Tensor] = {}

    def _keep(self, name: str, space: PairSpace) -> None:
        for kind, master in (("basis", space.basis), ("offset", space.offset)):
            if master is not None:
                self._masters[f"{kind}_{name}"] = master
                self.register_buffer(f"{kind}_{name}", None, persistent=False)

    def _refill(self, like: Tensor) -> None:
        """Cast the constants to the dtype and device of ``like``."""
        for name, master in self._masters.items():
            setattr(self, name, master.to(like.dtype).to(like.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projection:
        # Going through float32 and back must not cost the constants their precision.
        first = next(self.buffers(), None)
        super()._apply(fn, recurse)
        if first is not None:
            self._refill(fn(first))
        return self

    def _on_rows(self, rows: Tensor, name: str) -> Tensor:
        """Project each of ``rows [., D]`` on the allowed blocks called ``name``."""
        basis = getattr(self, f"basis_{name}").to(rows)
        projected = (rows @ basis) @ basis.T
        return projected + getattr(self, f"offset_{name}").to(rows) if f"offset_{name}" in self._masters else projected


class Projector(Projection):
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
            if sum(block.into.mul for block in row if block.space.offset is not None) > 1:
                raise ValueError(f"rep_in must hold what is shifted together side by side, got {rep_key(self.rep_in)}")
            for c, block in enumerate(row):
                self._keep(f"{r}_{c}", block.space)
        self.free = self.rank == self.dim
        self._refill(torch.empty(()))

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
        return from_rows(self._on_rows(rows, f"{r}_{c}"), block)

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
