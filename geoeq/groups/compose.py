"""Groups made of groups: direct products of commuting factors, and the group that several generate together."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from geoeq.groups.base import Group, close, expect_square
from geoeq.groups.euclidean import T, homogeneous
from geoeq.intertwiners import PairSpace, joint_space, pair_space
from geoeq.reps import Copy

__all__ = ["Product", "Union"]


class Composite(Group):
    """Several groups on the same features: a map respects all of them, or it does not count."""

    members: tuple[Group, ...]

    def __init__(self, *members: Group) -> None:
        name = type(self).__name__
        if not members:
            raise ValueError(f"{name} must have at least one group, got none")
        for group in members:
            if not isinstance(group, Group):
                raise ValueError(f"{name} must be made of groups, got {type(group).__name__}")
            if group.elements_per_part:
                raise ValueError(f"{name} must be made of groups of single matrices, got {group}; use it inside")
        self.members = members
        self.n = members[0].n
        self.orthogonal = all(group.orthogonal for group in members)

    def key(self) -> tuple[object, ...]:
        return self.members

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace:
        return joint_space([pair_space(group, copy_out, copy_in) for group in self.members])


class Product(Composite):
    """Direct product of ``factors`` that act on the same features and commute there.

    An element holds one element of each factor on the diagonal of one matrix, so that products, exponentials and
    inverses of elements are those of matrices.

    Args:
        factors: groups whose actions commute, as those on space and on node numbers, or rotations and scalings.

    >>> from geoeq.groups import O, S, SO, Scaling
    >>> from geoeq.reps import Nodes
    >>> Product(S(5), O(3)).projector(Nodes(5, "1x1o"), Nodes(5, "1x1o")).rank
    2
    >>> Product(SO(3), Scaling()).sample(7).shape
    torch.Size([7, 6, 6])
    """

    def __init__(self, *factors: Group) -> None:
        super().__init__(*factors)
        self.haar = all(group.haar for group in factors)
        self.moves_nodes = any(group.moves_nodes for group in factors)
        self.sizes = [group.generators.shape[-1] for group in factors]
        inert = [torch.eye(size, dtype=torch.float64) for size in self.sizes]
        still = [torch.zeros(size, size, dtype=torch.float64) for size in self.sizes]
        self.generators = self._embed([group.generators for group in factors], still)
        self.discrete = self._embed([group.discrete for group in factors], inert)

    def _embed(self, matrices: list[Tensor], rest: list[Tensor]) -> Tensor:
        """Each matrix of each factor beside what the other factors do meanwhile, ``[., sum of sizes, same]``."""
        found = [
            torch.block_diag(*rest[:k], matrix, *rest[k + 1 :]) for k, own in enumerate(matrices) for matrix in own
        ]
        return torch.stack(found) if found else torch.zeros(0, sum(self.sizes), sum(self.sizes), dtype=torch.float64)

    def split(self, matrix: Tensor) -> list[Tensor]:
        """The part of each factor, ``[..., n_k, n_k]``, of elements or generators ``[..., n, n]``."""
        stops = torch.tensor(self.sizes).cumsum(0).tolist()
        return [matrix[..., b - size : b, b - size : b] for b, size in zip(stops, self.sizes, strict=True)]

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        drawn = torch.zeros(size, sum(self.sizes), sum(self.sizes), dtype=torch.float64)
        for part, group in zip(self.split(drawn), self.members, strict=True):
            part.copy_(group.sample(size, generator=generator))
        return drawn

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, sum(self.sizes))
        alone = torch.zeros_like(matrix)
        inside = torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
        for part, own, group in zip(self.split(alone), self.split(matrix), self.members, strict=True):
            part.copy_(own)
            inside &= group.contains(own, tolerance)
        return inside & close(matrix, alone, tolerance)

    def places(self, element: Tensor) -> Tensor | None:
        total = None
        for own, group in zip(self.split(element), self.members, strict=True):
            places = group.places(own)
            if places is not None:
                total = places if total is None else places[total]
        return total

    def matrix(self, copy: Copy, element: Tensor) -> Tensor:
        total = torch.eye(copy.dim).to(element)
        for part, group in zip(self.split(element), self.members, strict=True):
            total = total @ group.matrix(copy, part)
        return total

    def algebra(self, copy: Copy, generator: Tensor) -> Tensor:
        total = generator.new_zeros(copy.dim, copy.dim)
        for part, group in zip(self.split(generator), self.members, strict=True):
            total = total + group.algebra(copy, part)
        return total

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        for own, group in zip(self.split(element), self.members, strict=True):
            x = group.act(own, x, position=position, part=part)
        return x


class Union(Composite):
    """The group that ``members`` generate together, as rotations about two axes generate all rotations.

    Its intertwiners are the maps that every member allows. An element is a product of elements; groups of matrices
    ``[3, 3]`` that meet translations are written in homogeneous coordinates. :meth:`sample` draws an element of each
    member and multiplies them in random order.

    Args:
        members: groups that act on one space, or all on the same numbered nodes.

    >>> from geoeq.groups import O2
    >>> Union(O2("x"), O2("z")).projector("1x1o", "1x1o").rank
    1
    """

    haar = False

    def __init__(self, *members: Group) -> None:
        super().__init__(*members)
        self.moves_nodes = any(group.moves_nodes for group in members)
        if self.moves_nodes and len({type(group) for group in members}) > 1:
            raise ValueError(f"members must act on one space or all on numbered nodes, got {self}; Product joins both")
        self.n = max(group.n for group in members)
        self._space = next((group for group in members if group.n == self.n), members[0])
        for group in members:
            if group.n != self.n and not (isinstance(self._space, T) and group.n == self.n - 1):
                raise ValueError(f"members must act on one space, got matrices of sizes {group.n} and {self.n}")
        self.generators = torch.cat([self._lift(group.generators, 0.0) for group in members])
        self.discrete = torch.cat([self._lift(group.discrete, 1.0) for group in members])

    def _lift(self, matrices: Tensor, corner: float) -> Tensor:
        if matrices.shape[-1] == self.n:
            return matrices
        lifted = homogeneous(matrices, torch.zeros_like(matrices[..., 0]))
        lifted[..., -1, -1] = corner
        return lifted

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        drawn = torch.stack([self._lift(g.sample(size, generator=generator), 1.0) for g in self.members], dim=1)
        order = torch.rand(size, len(self.members), generator=generator).argsort(1)
        shuffled = drawn[torch.arange(size).unsqueeze(1), order]
        total = shuffled[:, 0]
        for k in range(1, len(self.members)):
            total = total @ shuffled[:, k]
        return total

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Not known: what several groups generate has no equation of its own.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"contains must be asked of a group with an equation, got {self}; ask its members")

    def spatial(self, matrix: Tensor) -> Tensor:
        return self._space.spatial(matrix)

    def nodes(self, element: Tensor, n: int) -> Tensor:
        return self._space.nodes(element, n)

    def places(self, element: Tensor) -> Tensor | None:
        return self._space.places(element)

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        return self._space.act(element, x, position=position, part=part)
