"""Permutations of numbered nodes: all, S(n), those inside classes, and the exchange of left and right, Mirror."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from geoeq.groups.axis import read_axis, unit_vector
from geoeq.groups.base import Group, close, expect_square
from geoeq.groups.finite import Finite
from geoeq.intertwiners import PairSpace, everything
from geoeq.reps import Copy, CrossingCopy, NodeCopy, TensorCopy, kron

__all__ = ["Mirror", "S"]


class S(Group):
    r"""Permutations of n numbered nodes, all of them or those inside classes, as permutation matrices ``[n, n]``.

    Maps between node tensors are averaged over the orbits of index tuples: two tuples share an entry of the weight
    when the same of their indices coincide and their nodes are of the same classes. On one node index and one class,
    :math:`P(W)_{ij} = D` if i = j else O, the means on and off the diagonal.

    Args:
        n: number of nodes.
        classes: class of each node, ``[n]``; nodes are permuted inside their class only. None is one class.

    Source: Maron et al., arXiv 1812.09902, section 3.

    >>> from geoeq.reps import TensorRep
    >>> S(5).projector(TensorRep({2: 1}), TensorRep({2: 1})).rank
    15
    >>> S(4, classes=[0, 0, 1, 1]).projector(TensorRep({1: 1}), TensorRep({1: 1})).rank
    6
    """

    moves_nodes = True

    def __init__(self, n: int, classes: Sequence[int] | None = None) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        labels = [0] * n if classes is None else [int(c) for c in classes]
        if len(labels) != n:
            raise ValueError(f"classes must name the class of each of {n} nodes, got {len(labels)}")
        order = list(dict.fromkeys(labels))  # classes are numbered as they appear
        self.n = n
        self.classes = torch.tensor([order.index(c) for c in labels])
        self.generators = torch.zeros(0, n, n, dtype=torch.float64)
        self.discrete = torch.stack([*map(permutation_matrix, self._generating())])

    def _generating(self) -> Iterator[Tensor]:
        """For each class the exchange of its first two nodes and the cycle of all, as orders of nodes ``[n]``."""
        for c in self.classes.unique():
            inside = (self.classes == c).nonzero().squeeze(1)
            for moved in (torch.cat([inside[:2].flip(0), inside[2:]]), inside.roll(1)):
                order = torch.arange(self.n)
                order[inside] = moved
                yield order

    def key(self) -> tuple[object, ...]:
        return (self.n, str(self.classes.tolist())) if self.classes.any() else (self.n,)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        draw = torch.rand(size, self.n, generator=generator, dtype=torch.float64)
        order = torch.empty(size, self.n, dtype=torch.long)
        # sorting by class and then at random lists the nodes of each class in random order
        order[:, self.classes.argsort(stable=True)] = (draw + self.classes).argsort(1)
        return permutation_matrix(order)

    def contains(self, matrix: Tensor, tolerance: float = 1e-6) -> Tensor:
        matrix = expect_square(matrix, self.n)
        places = matrix.argmax(-1)
        return close(matrix, permutation_matrix(places), tolerance) & (
            places.sort(-1).values.eq(torch.arange(self.n)).all(-1) & (self.classes[places] == self.classes).all(-1)
        )

    def closed_form(self, copy_out: Copy, copy_in: Copy) -> PairSpace | None:
        out, into = self._unmixed(copy_out), self._unmixed(copy_in)
        channels, slots = out[0] * into[0], [*out[1], *into[1]]
        if not slots:
            return everything(copy_out, copy_in)
        return self._orbits(channels, out, into)

    def _unmixed(self, copy: Copy) -> tuple[int, list[int]]:
        """Components that no permutation moves, and the node indices beside them."""
        if isinstance(copy, CrossingCopy):
            return self._unmixed(copy.inner)
        if isinstance(copy, TensorCopy):
            self._check(copy.d)
            return 1, [copy.d] * copy.indices
        if isinstance(copy, NodeCopy):
            self._check(copy.n)
            return copy.inner.dim, [copy.n] * copy.order
        return copy.dim, []

    def _check(self, nodes: int) -> None:
        if nodes != self.n:
            raise ValueError(f"rep must have {self.n} nodes to be permuted by {self}, got {nodes}")

    def _orbits(self, channels: int, out: tuple[int, list[int]], into: tuple[int, list[int]]) -> PairSpace:
        slots = len(out[1]) + len(into[1])
        tuples = torch.cartesian_prod(*[torch.arange(self.n)] * slots).reshape(-1, slots)  # [n^slots, slots]
        equal = (tuples.unsqueeze(1) == tuples.unsqueeze(2)).flatten(1)
        kinds = torch.cat([equal.long(), self.classes[tuples]], dim=1)
        labels = torch.unique(kinds, dim=0, return_inverse=True)[1]
        members = torch.nn.functional.one_hot(labels).double()  # [n^slots, orbits]
        basis = members / members.sum(0).sqrt()
        # entries run over (channel out, nodes out, channel in, nodes in)
        full = kron(torch.eye(channels, dtype=torch.float64), basis)
        shape = (out[0], into[0], self.n ** len(out[1]), self.n ** len(into[1]), full.shape[1])
        full = full.reshape(shape).permute(0, 2, 1, 3, 4).reshape(-1, full.shape[1])
        return PairSpace(full.shape[0], full)

    def spatial(self, matrix: Tensor) -> Tensor:
        return torch.eye(3).to(matrix)

    def nodes(self, element: Tensor, n: int) -> Tensor:
        self._check(n)
        return element

    def places(self, element: Tensor) -> Tensor:
        return element.argmax(0)

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        return permuted(element, x, self)


class Mirror(Finite):
    """Left and right exchanged: a permutation of numbered nodes of order two, and a reflection of space with it.

    Features that carry no node number are reflected only. An element is the permutation matrix ``[n, n]``; with an
    ``axis``, the reflection ``[3, 3]`` stands beside it on the diagonal.

    Args:
        permutation: the node that each node changes places with.
        axis: "x", "y" or "z", or three numbers: what is reversed in space. None leaves space alone.

    >>> from geoeq.reps import Nodes
    >>> Mirror([1, 0, 2]).projector(Nodes(3, "1x0e"), Nodes(3, "1x0e")).rank
    5
    """

    moves_nodes = True

    def __init__(self, permutation: Sequence[int], axis: str | Sequence[float] | None = None) -> None:
        order = torch.tensor([int(node) for node in permutation])
        n = len(order)
        if not n or sorted(order.tolist()) != list(range(n)) or bool((order[order] != torch.arange(n)).any()):
            raise ValueError(f"permutation must exchange nodes 0 .. n - 1 in pairs, got {list(permutation)}")
        self.order = order
        self.axis = None if axis is None else read_axis(axis)
        exchange = permutation_matrix(order)
        if self.axis is not None:
            along = unit_vector(self.axis)
            exchange = torch.block_diag(exchange, torch.eye(3, dtype=torch.float64) - 2 * torch.outer(along, along))
        super().__init__(torch.stack([torch.eye(len(exchange), dtype=torch.float64), exchange]), exchange.unsqueeze(0))
        self.n = n

    def key(self) -> tuple[object, ...]:
        order = str(self.order.tolist())
        return (order,) if self.axis is None else (order, self.axis)

    def spatial(self, matrix: Tensor) -> Tensor:
        return torch.eye(3).to(matrix) if self.axis is None else matrix[self.n :, self.n :]

    def nodes(self, element: Tensor, n: int) -> Tensor:
        if n != self.n:
            raise ValueError(f"rep must have {self.n} nodes for {self}, got {n}")
        return element[:n, :n]

    def places(self, element: Tensor) -> Tensor:
        return element[: self.n, : self.n].argmax(0)

    def matrix(self, copy: Copy, element: Tensor) -> Tensor:
        return super().matrix(copy, element[: self.n, : self.n] if isinstance(copy, TensorCopy) else element)

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        return permuted(element[: self.n, : self.n], super().act(element, x, position=position), self)


def permutation_matrix(order: Tensor) -> Tensor:
    """Matrices ``[..., n, n]`` that put node ``order[..., i]`` in place i, float64."""
    return torch.nn.functional.one_hot(order, order.shape[-1]).double()


def permuted(element: Tensor, x: Tensor, group: Group) -> Tensor:
    """Node features ``x [N, c]`` of graphs of n nodes each, their nodes moved by ``element [n, n]``."""
    n = len(element)
    if len(x) % n:
        raise ValueError(f"x must have graphs of {n} nodes for {group}, got {len(x)} nodes in all")
    return (element.to(x) @ x.reshape(-1, n, x.shape[-1])).reshape(x.shape)
