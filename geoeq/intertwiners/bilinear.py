"""The projection of bilinear maps on those that respect one or several groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import torch
from e3nn.o3 import wigner_3j
from torch import Tensor

from geoeq.intertwiners.projector import Projection
from geoeq.intertwiners.spaces import PairSpace, joint_space, pair_space, solve_pair
from geoeq.reps import (
    Copy,
    CrossingCopy,
    IrrepCopy,
    LogSizeCopy,
    PositionCopy,
    Rep,
    Segment,
    TensorCopy,
    as_rep,
    kron,
    rep_key,
    segments,
)

if TYPE_CHECKING:
    from geoeq.groups.base import Group

__all__ = ["BilinearProjector", "product_space"]


class BilinearProjector(Projection):
    r"""Orthogonal projection of bilinear maps on those that one or several groups allow.

    A weight B maps x and y to :math:`z_o = \sum_{ij} B_{oij} x_i y_j`, and is allowed if
    :math:`B(\rho_1(g) x, \rho_2(g) y) = \rho_{out}(g) B(x, y)`. On irreps the allowed maps are made of 3j symbols,
    one coefficient for each path of copies (l1, l2 -> l3) where all rotations count; on tensors they are the linear
    maps from tensors of the summed rank; between others they are found as a null space.

    Args:
        groups: one group or several.
        rep_1: how the first input answers; irreps, tensors, nodes, or a sum of them.
        rep_2: how the second input answers.
        rep_out: how the output answers.

    Shapes: called on a weight ``[dim_out, dim_1, dim_2]`` of any float dtype, returns the same shape and dtype.

    Raises:
        ValueError: for inputs that are shifted (positions) or join two parts.

    Source: arXiv 2104.09459, section 5; 3j symbols in e3nn's basis.

    >>> from geoeq.groups import O, SO
    >>> BilinearProjector(O(3), "2x1o", "1x1o", "1x0e + 1x1o + 1x1e + 1x2e").rank
    6
    """

    def __init__(self, groups: Group | Sequence[Group], rep_1: Rep | str, rep_2: Rep | str, rep_out: Rep | str) -> None:
        super().__init__()
        self.groups = tuple(groups) if isinstance(groups, Sequence) else (groups,)
        self.rep_1, self.rep_2, self.rep_out = as_rep(rep_1), as_rep(rep_2), as_rep(rep_out)
        d = self.groups[0].n if self.groups else 3
        axes = [segments(rep, d) for rep in (self.rep_out, self.rep_1, self.rep_2)]
        self.shape = tuple(axis[-1].stop if axis else 0 for axis in axes)
        self.blocks = list(self._allowed(*axes))
        for number, (_, space) in enumerate(self.blocks):
            self._keep(str(number), space)
        self._refill(torch.empty(()))

    def _allowed(self, *axes: Sequence[Segment]) -> Iterator[tuple[tuple[Segment, ...], PairSpace]]:
        """The blocks, a segment for each axis, that are not zero, and their spaces."""
        for block in product(*axes):
            copies = [segment.copy for segment in block]
            space = joint_space([product_space(group, *copies) for group in self.groups])
            if space.rank:
                yield block, space

    @property
    def dim(self) -> int:
        """Number of entries of the weight."""
        out, first, second = self.shape
        return out * first * second

    @property
    def rank(self) -> int:
        """Dimension of the space of allowed maps."""
        return sum(out.mul * first.mul * second.mul * space.rank for (out, first, second), space in self.blocks)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.shape != self.shape:
            raise ValueError(f"weight must be {list(self.shape)}, got {list(weight.shape)}")
        projected = torch.zeros_like(weight)
        with torch.autocast(weight.device.type, enabled=False):  # half precision would break exactness
            for number, (block, space) in enumerate(self.blocks):
                place = tuple(slice(segment.start, segment.stop) for segment in block)
                split = [size for segment in block for size in (segment.mul, segment.copy.dim)]
                part = weight[place].reshape(split).permute(0, 2, 4, 1, 3, 5)  # [mo, m1, m2, do, d1, d2]
                rows = part.reshape(-1, space.dim)
                kept = rows if space.basis is None else self._on_rows(rows, str(number))
                projected[place] = kept.reshape(part.shape).permute(0, 3, 1, 4, 2, 5).reshape(weight[place].shape)
        return projected

    def residual(self, weight: Tensor) -> Tensor:
        """What the groups forbid in ``weight``: B - P(B), formed as such and never as a difference of squares."""
        return weight - self(weight)

    def extra_repr(self) -> str:
        groups = ", ".join(map(repr, self.groups))
        reps = f"{rep_key(self.rep_1)} x {rep_key(self.rep_2)} -> {rep_key(self.rep_out)}"
        return f"{groups}, {reps}, rank={self.rank}, dim={self.dim}"


@lru_cache(maxsize=4096)
def product_space(group: Group, out: Copy, first: Copy, second: Copy) -> PairSpace:
    """The allowed bilinear blocks ``[out.dim * first.dim * second.dim]`` of ``group``; cached by content."""
    for copy in (out, first, second):
        if isinstance(copy, PositionCopy | LogSizeCopy | CrossingCopy):
            raise ValueError(f"bilinear maps must be between irreps, tensors and nodes, got {copy}")
    if isinstance(first, IrrepCopy) and isinstance(second, IrrepCopy):
        return _coupled(group, out, first, second)
    if isinstance(first, TensorCopy) and isinstance(second, TensorCopy) and first.d == second.d:
        return _contracted(group, out, first, second)
    algebra = [
        (group.algebra(out, a), _leibniz(group.algebra(first, a), group.algebra(second, a))) for a in group.generators
    ]
    discrete = [(group.matrix(out, h), kron(group.matrix(first, h), group.matrix(second, h))) for h in group.discrete]
    return solve_pair([*algebra, *discrete], out.dim, first.dim * second.dim)


def _coupled(group: Group, out: Copy, first: IrrepCopy, second: IrrepCopy) -> PairSpace:
    """Through the irreps that make up the product: whatever ``group`` allows from each of them to ``out``."""
    bases = []
    for degree in range(abs(first.l - second.l), first.l + second.l + 1):
        space = pair_space(group, out, IrrepCopy(degree, first.p * second.p))
        symbol = wigner_3j(degree, first.l, second.l, dtype=torch.float64) * (2 * degree + 1) ** 0.5
        basis = torch.eye(space.dim, dtype=torch.float64) if space.basis is None else space.basis
        basis = basis.reshape(out.dim, 2 * degree + 1, -1)
        bases.append(torch.einsum("omr,mij->oijr", basis, symbol).flatten(0, 2))
    return PairSpace(out.dim * first.dim * second.dim, torch.cat(bases, dim=1))


def _contracted(group: Group, out: Copy, first: TensorCopy, second: TensorCopy) -> PairSpace:
    """Through tensors of the summed rank, whose indices of V stand first and those of V* last."""
    whole = TensorCopy(first.rank + second.rank, first.d, first.dual + second.dual)
    space = pair_space(group, out, whole)
    if space.basis is None or not first.dual or not second.rank:
        return space
    sizes = [first.d**n for n in (first.rank, second.rank, first.dual, second.dual)]
    basis = space.basis.reshape(out.dim, *sizes, -1).transpose(2, 3)
    return PairSpace(space.dim, basis.reshape(space.dim, -1))


def _leibniz(a: Tensor, b: Tensor) -> Tensor:
    """The Lie algebra on a product, A x I + I x B."""
    return kron(a, torch.eye(len(b)).to(b)) + kron(torch.eye(len(a)).to(a), b)
