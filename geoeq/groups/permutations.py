"""Permutations of numbered nodes, S(n)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from geoeq.groups.base import Group
from geoeq.intertwiners import PairSpace, everything
from geoeq.reps import Copy, CrossingCopy, NodeCopy, TensorCopy, kron

__all__ = ["S"]


class S(Group):
    r"""All permutations of n numbered nodes, as permutation matrices ``[n, n]``.

    Maps between node tensors are averaged over the orbits of index tuples: two tuples share an entry of the weight
    when the same of their indices coincide. On one node index, :math:`P(W)_{ij} = D` if i = j else O, the means on
    and off the diagonal.

    Args:
        n: number of nodes.

    Source: Maron et al., arXiv 1812.09902, section 3.

    >>> from geoeq.reps import TensorRep
    >>> S(5).projector(TensorRep({2: 1}), TensorRep({2: 1})).rank
    15
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n
        self.generators = torch.zeros(0, n, n, dtype=torch.float64)
        eye = torch.eye(n, dtype=torch.float64)
        swap = eye[[1, 0, *range(2, n)]] if n > 1 else eye
        self.discrete = torch.stack([swap, eye.roll(1, 0)])

    def key(self) -> tuple[object, ...]:
        return (self.n,)

    def sample(self, size: int, *, generator: Generator | None = None) -> Tensor:
        order = torch.rand(size, self.n, generator=generator, dtype=torch.float64).argsort(1)
        return torch.eye(self.n, dtype=torch.float64)[order]

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
            return 1, [copy.d] * copy.rank
        if isinstance(copy, NodeCopy):
            self._check(copy.n)
            return copy.inner.dim, [copy.n]
        return copy.dim, []

    def _check(self, nodes: int) -> None:
        if nodes != self.n:
            raise ValueError(f"rep must have {self.n} nodes to be permuted by {self}, got {nodes}")

    def _orbits(self, channels: int, out: tuple[int, list[int]], into: tuple[int, list[int]]) -> PairSpace:
        slots = len(out[1]) + len(into[1])
        tuples = torch.cartesian_prod(*[torch.arange(self.n)] * slots).reshape(-1, slots)  # [n^slots, slots]
        equal = (tuples.unsqueeze(1) == tuples.unsqueeze(2)).flatten(1)
        labels = torch.unique(equal, dim=0, return_inverse=True)[1]
        members = torch.nn.functional.one_hot(labels).double()  # [n^slots, orbits]
        basis = members / members.sum(0).sqrt()
        # entries run over (channel out, nodes out, channel in, nodes in)
        full = kron(torch.eye(channels, dtype=torch.float64), basis)
        shape = (out[0], into[0], self.n ** len(out[1]), self.n ** len(into[1]), full.shape[1])
        full = full.reshape(shape).permute(0, 2, 1, 3, 4).reshape(-1, full.shape[1])
        return PairSpace(full.shape[0], full)

    def spatial(self, matrix: Tensor) -> Tensor:
        return torch.eye(3).to(matrix)

    def act(self, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None = None) -> Tensor:
        if len(x) % self.n:
            raise ValueError(f"x must have graphs of {self.n} nodes for {self}, got {len(x)} nodes in all")
        return (element.to(x) @ x.reshape(-1, self.n, x.shape[-1])).reshape(x.shape)
