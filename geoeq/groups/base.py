"""What every group offers: generators, sampling, its matrices on a copy, its action on points, its projector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import reduce

import torch
from torch import Generator, Tensor

from geoeq.intertwiners import PairSpace, Projector, member, pair_space, spread
from geoeq.reps import (
    Copy,
    CrossingCopy,
    IrrepCopy,
    LogSizeCopy,
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

__all__ = ["Group", "acts_on_space", "close", "restricted", "unstacked"]


class Group(ABC):
    """A group of matrices ``[n, n]`` that act on space, on nodes, or on the parts of a graph.

    Two groups are equal when they are of one class and have the same arguments, so that projectors can be shared.

    Attributes:
        n: size of the matrices.
        generators: basis of the Lie algebra, ``[d, n, n]``, float64 (``d = 0`` for a finite group).
        discrete: generators of the components, ``[h, n, n]``, float64.
        haar: whether :meth:`sample` draws from the Haar measure.
        moves_nodes: whether elements permute numbered nodes.
        orthogonal: whether vectors are moved by orthogonal matrices, which gates, norms and couplings of features need.
        elements_per_part: whether an element is one matrix for each part, ``[parts, n, n]``.
    """

    n: int
    generators: Tensor
    discrete: Tensor
    haar: bool = True
    orthogonal: bool = True
    elements_per_part: bool = False
    moves_nodes: bool = False

    @abstractmethod
    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        """Draw ``size`` elements as matrices ``[size, n, n]``, float64."""

    @abstractmethod
    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Whether each matrix is an element, up to ``tolerance`` in every entry of its defining equations.

        Args:
            matrix: ``[..., n, n]``.
            tolerance: largest error of an entry.

        Returns:
            ``[...]``, bool.
        """

    @abstractmethod
    def key(self) -> tuple[object, ...]:
        """The arguments that tell this group from others of its class."""

    def __hash__(self) -> int:
        return hash((type(self), self.key()))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.key() == other.key()  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.key()))})"

    def exp(self, coefficients: Tensor) -> Tensor:
        r"""The elements :math:`\exp(\sum_a c_a A_a)` of the identity component.

        Args:
            coefficients: of the generators, ``[size, d]``.

        Returns:
            ``[size, n, n]``, float64.

        >>> from geoeq.groups import SO2
        >>> SO2("z").exp(torch.tensor([[torch.pi]])).round()[0].diagonal()
        tensor([-1., -1.,  1.], dtype=torch.float64)
        """
        if coefficients.dim() != 2 or coefficients.shape[1] != len(self.generators):
            raise ValueError(f"coefficients must be [size, {len(self.generators)}], got {list(coefficients.shape)}")
        return torch.linalg.matrix_exp(torch.einsum("sd,dij->sij", coefficients.double(), self.generators))

    # Representations

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        """The intertwiners between two copies where a formula is known; None asks for a numerical null space."""
        inner = restricted(self, copy_out, copy_in)
        return unstacked(self, copy_out, copy_in) if inner is None else inner

    def spatial(self, matrix: Tensor) -> Tensor:
        """How an element (or generator) acts on vectors in space, ``[3, 3]``."""
        return matrix

    def nodes(self, element: Tensor, n: int) -> Tensor:
        """How an element permutes ``n`` numbered nodes, ``[n, n]``."""
        return torch.eye(n).to(element)

    def places(self, element: Tensor) -> Tensor | None:
        """The new place of each numbered node, ``[nodes]``, or None if nodes keep their places."""
        return None

    def matrix(self, copy: Copy, element: Tensor) -> Tensor:
        """Matrix ``[dim, dim]`` of ``element [n, n]`` on ``copy``."""
        if isinstance(copy, IrrepCopy):
            return irrep_matrix(copy, direction(self.spatial(element)))
        if isinstance(copy, TensorCopy):
            return tensor_matrix(copy, element)
        if isinstance(copy, PositionCopy):
            return kron(torch.eye(copy.mul).to(element), self._in_space(element))
        if isinstance(copy, LogSizeCopy):
            return torch.eye(copy.mul).to(element)
        if isinstance(copy, NodeCopy):
            nodes = self.nodes(element, copy.n)
            return reduce(kron, [nodes] * copy.order, self.matrix(copy.inner, element))
        return self.matrix(copy.inner, element)

    def algebra(self, copy: Copy, generator: Tensor) -> Tensor:
        """Matrix ``[dim, dim]`` of a Lie algebra element ``generator [n, n]`` on ``copy``."""
        if isinstance(copy, IrrepCopy):
            return irrep_algebra(copy, direction_algebra(self.spatial(generator)))
        if isinstance(copy, TensorCopy):
            return tensor_algebra(copy, generator)
        if isinstance(copy, PositionCopy):
            return kron(torch.eye(copy.mul).to(generator), self._in_space(generator))
        if isinstance(copy, LogSizeCopy):
            return generator.new_zeros(copy.mul, copy.mul)
        if isinstance(copy, NodeCopy):
            return kron(self.algebra(copy.inner, generator), torch.eye(copy.places).to(generator))
        return self.algebra(copy.inner, generator)

    def _in_space(self, matrix: Tensor) -> Tensor:
        if self.spatial(matrix).shape != (3, 3):
            raise ValueError(f"Positions must be moved by a group of three-dimensional space, got {self}")
        return self.spatial(matrix)

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


def direction(linear: Tensor) -> Tensor:
    """What ``linear [3, 3]``, a rotation, reflection or similarity of space, does to directions: its size taken out."""
    return linear / torch.det(linear).abs().pow(1 / len(linear))


def direction_algebra(linear: Tensor) -> Tensor:
    """The same of a Lie algebra element: its trace taken out."""
    return linear - torch.eye(len(linear)).to(linear) * linear.trace() / len(linear)


def close(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    """Whether two batches of matrices ``[..., n, n]`` agree in every entry, ``[...]``."""
    return (a - b).abs().amax(dim=(-2, -1)) <= tolerance


def expect_square(matrix: Tensor, n: int) -> Tensor:
    """``matrix`` in float64, if it is ``[..., n, n]``."""
    if matrix.shape[-2:] != (n, n):
        raise ValueError(f"matrix must be [..., {n}, {n}], got {list(matrix.shape)}")
    return matrix.double()


def expect_dimension(group: Group, copy: Copy, n: int) -> None:
    """Raise an error if ``copy`` is of a space of another dimension than the ``n`` of ``group``."""
    d = 3 if isinstance(copy, PositionCopy) else copy.d if isinstance(copy, TensorCopy) else n
    if d != n:
        raise ValueError(f"representation must be of {n} dimensions for {group}, got {d}")


def restricted(group: Group, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
    """Strip :class:`CrossingCopy` for groups that do not tell parts apart; None when there is nothing to strip."""
    if not isinstance(copy_out, CrossingCopy) and not isinstance(copy_in, CrossingCopy):
        return None
    inner_out = copy_out.inner if isinstance(copy_out, CrossingCopy) else copy_out
    inner_in = copy_in.inner if isinstance(copy_in, CrossingCopy) else copy_in
    return pair_space(group, inner_out, inner_in)


def unstacked(group: Group, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
    """Take stacks apart for groups that do not tie their members; None when there is nothing to take apart."""
    if group.moves_nodes and (isinstance(copy_out, NodeCopy) or isinstance(copy_in, NodeCopy)):
        return None
    inner_out, inner_in = member(copy_out), member(copy_in)
    if (inner_out, inner_in) == (copy_out, copy_in):
        return None
    return spread(pair_space(group, inner_out, inner_in), copy_out, copy_in)


def acts_on_space(copy: Copy) -> bool:
    """Whether rotations and reflections of three-dimensional space can change ``copy``."""
    return not isinstance(copy, TensorCopy)
