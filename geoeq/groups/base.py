"""What every group offers: generators, sampling, its matrices on a copy, its action on points, its projector."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from geoeq.intertwiners import PairSpace, Projector, pair_space
from geoeq.reps import (
    Copy,
    CrossingCopy,
    IrrepCopy,
    NodeCopy,
    PositionCopy,
    Rep,
    TensorCopy,
    irrep_algebra,
    irrep_matrix,
    kron,
    tensor_algebra,
    tensor_matrix,
)

__all__ = ["Group", "acts_on_space", "restricted"]


class Group(ABC):
    """A group of matrices ``[n, n]`` that act on space, on nodes, or on the parts of a graph.

    Two groups are equal when they are of one class and have the same arguments, so that projectors can be shared.

    Attributes:
        n: size of the matrices.
        generators: basis of the Lie algebra, ``[d, n, n]``, float64 (``d = 0`` for a finite group).
        discrete: generators of the components, ``[h, n, n]``, float64.
        haar: whether :meth:`sample` draws from the Haar measure.
    """

    n: int
    generators: Tensor
    discrete: Tensor
    haar: bool = True

    @abstractmethod
    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        """Draw ``size`` elements as matrices ``[size, n, n]``, float64."""

    @abstractmethod
    def key(self) -> tuple[object, ...]:
        """The arguments that tell this group from others of its class."""

    def __hash__(self) -> int:
        return hash((type(self), self.key()))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.key() == other.key()  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.key()))})"

    # Representations

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        """The intertwiners between two copies where a formula is known; None asks for a numerical null space."""
        return None

    def spatial(self, matrix: Tensor) -> Tensor:
        """How an element (or generator) acts on directions in space, ``[3, 3]``."""
        return matrix

    def matrix(self, copy: Copy, element: Tensor) -> Tensor:
        """Matrix ``[dim, dim]`` of ``element [n, n]`` on ``copy``."""
        if isinstance(copy, IrrepCopy):
            return irrep_matrix(copy, self.spatial(element))
        if isinstance(copy, TensorCopy):
            return tensor_matrix(copy, element)
        if isinstance(copy, PositionCopy):
            return kron(torch.eye(copy.mul).to(element), self.spatial(element))
        if isinstance(copy, NodeCopy):
            return kron(irrep_matrix(copy.inner, self.spatial(element)), torch.eye(copy.n).to(element))
        return self.matrix(copy.inner, element)

    def algebra(self, copy: Copy, generator: Tensor) -> Tensor:
        """Matrix ``[dim, dim]`` of a Lie algebra element ``generator [n, n]`` on ``copy``."""
        if isinstance(copy, IrrepCopy):
            return irrep_algebra(copy, self.spatial(generator))
        if isinstance(copy, TensorCopy):
            return tensor_algebra(copy, generator)
        if isinstance(copy, PositionCopy):
            return kron(torch.eye(copy.mul).to(generator), self.spatial(generator))
        if isinstance(copy, NodeCopy):
            return kron(irrep_algebra(copy.inner, self.spatial(generator)), torch.eye(copy.n).to(generator))
        return self.algebra(copy.inner, generator)

    def projector(self, rep_in: Rep | str, rep_out: Rep | str) -> Projector:
        """Orthogonal projection of weights ``[dim_out, dim_in]`` on the maps this group allows."""
        return Projector(self, rep_in, rep_out)

    # Action on the nodes of graphs

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        """Apply ``element [n, n]`` to node vectors.

        Args:
            element: one group element.
            x: vectors, ``[N, 3]``.
            position: True for positions, which translations move; False for velocities and displacements.
            part: number of the part of each node, ``[N]``; only groups that act part by part use it.

        Returns:
            ``[N, 3]``.
        """
        return x @ self.spatial(element).to(x).T


def restricted(group: Group, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
    """Strip :class:`CrossingCopy` for groups that do not tell parts apart; None when there is nothing to strip."""
    if not isinstance(copy_out, CrossingCopy) and not isinstance(copy_in, CrossingCopy):
        return None
    inner_out = copy_out.inner if isinstance(copy_out, CrossingCopy) else copy_out
    inner_in = copy_in.inner if isinstance(copy_in, CrossingCopy) else copy_in
    return pair_space(group, inner_out, inner_in)


def acts_on_space(copy: Copy) -> bool:
    """Whether rotations and reflections of three-dimensional space can change ``copy``."""
    return not isinstance(copy, TensorCopy)
