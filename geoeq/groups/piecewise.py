"""A group that moves each part of a graph on its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from geoeq.groups.base import Group
from geoeq.intertwiners import PairSpace, nothing, pair_space, solve_pair
from geoeq.reps import Copy, CrossingCopy, IrrepCopy, NodeCopy, kron

__all__ = ["Piecewise"]


class Piecewise(Group):
    """One element of ``group`` for each part: :math:`x_i \\mapsto R_{p(i)} x_i + t_{p(i)}`.

    Geometry that joins two parts (:class:`~geoeq.reps.Crossing`) is not preserved, so weights on it vanish; all else
    is treated as by ``group``.

    Args:
        group: what each part may do.
        parts: part of each numbered node, for :class:`~geoeq.reps.Nodes` features; not needed for features that
            carry no node number, whose graphs bring their parts along as ``part [N]``.

    Source: arXiv 2402.08529.

    >>> from geoeq.groups import O
    >>> from geoeq.reps import Nodes
    >>> pair = Nodes(2, "1o")
    >>> Piecewise(O(3), parts=[0, 1]).projector(pair, pair).rank, O(3).projector(pair, pair).rank
    (2, 4)
    """

    MAX_PARTS = 64
    elements_per_part = True

    def __init__(self, group: Group, parts: Sequence[int] | None = None) -> None:
        if not isinstance(group, Group):
            raise ValueError(f"group must be a Group, got {type(group).__name__}")
        self.group = group
        self.parts = None if parts is None else tuple(int(p) for p in parts)
        self.n = group.n
        self.haar = group.haar
        self.orthogonal = group.orthogonal
        self.generators = group.generators
        self.discrete = group.discrete

    def key(self) -> tuple[object, ...]:
        return (self.group,) if self.parts is None else (self.group, str(list(self.parts)))  # as written in a call

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        """Draw ``[size, MAX_PARTS, n, n]``: independent elements, indexed by part."""
        drawn = self.group.sample(size * self.MAX_PARTS, generator=generator)
        return drawn.reshape(size, self.MAX_PARTS, *drawn.shape[1:])

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Whether ``matrix [..., parts, n, n]`` holds an element of the group for every part, ``[...]``."""
        return self.group.contains(matrix, tolerance).all(-1)

    def spatial(self, matrix: Tensor) -> Tensor:
        return self.group.spatial(matrix)

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        if isinstance(copy_out, CrossingCopy) or isinstance(copy_in, CrossingCopy):
            return nothing(copy_out, copy_in)
        if self.parts is None or not (isinstance(copy_out, NodeCopy) or isinstance(copy_in, NodeCopy)):
            return pair_space(self.group, copy_out, copy_in)
        return self._by_part(copy_out, copy_in)

    def _by_part(self, copy_out: Copy, copy_in: Copy) -> PairSpace:
        constraints = []
        for part in sorted(set(self.parts or ())):
            for a in self.generators:
                constraints.append((self._algebra_on(copy_out, a, part), self._algebra_on(copy_in, a, part)))
            for h in self.discrete:
                constraints.append((self._matrix_on(copy_out, h, part), self._matrix_on(copy_in, h, part)))
        return solve_pair(constraints, copy_out.dim, copy_in.dim)

    def _mask(self, copy: NodeCopy, part: int) -> Tensor:
        if len(self.parts or ()) != copy.n:
            raise ValueError(f"parts must name the part of each of {copy.n} nodes, got {len(self.parts or ())}")
        if copy.order > 1 and copy.inner != IrrepCopy(0, 1):
            raise ValueError(f"Nodes must hold scalars at pairs of nodes to be moved by {self}, got {copy}")
        inside = torch.tensor([float(p == part) for p in self.parts or ()], dtype=torch.float64)
        return torch.diag(inside.repeat_interleave(copy.places // copy.n))  # scalars answer alike to any part

    def _algebra_on(self, copy: Copy, generator: Tensor, part: int) -> Tensor:
        if not isinstance(copy, NodeCopy):
            return torch.zeros(copy.dim, copy.dim, dtype=torch.float64)
        return kron(self.group.algebra(copy.inner, generator), self._mask(copy, part))

    def _matrix_on(self, copy: Copy, element: Tensor, part: int) -> Tensor:
        eye = torch.eye(copy.dim, dtype=torch.float64)
        if not isinstance(copy, NodeCopy):
            return eye
        inner = self.group.matrix(copy.inner, element)
        return eye + kron(inner - torch.eye(len(inner)).to(inner), self._mask(copy, part))

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        if part is None:
            raise ValueError("part must give the part of each node, [N], for a piecewise group; got None")
        if part.numel() and int(part.max()) >= len(element):
            raise ValueError(f"part must lie in [0, {len(element) - 1}], got {int(part.max())}")
        moved = torch.zeros_like(x)
        for p in part.unique().tolist():
            inside = part == p
            moved[inside] = self.group.act(element[p], x[inside], position=position)
        return moved
