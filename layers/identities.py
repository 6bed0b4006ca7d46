"""What tells numbered nodes apart: a learned table, which permutations make equal for all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoeq.groups import S
from geoeq.layers.typed_linear import TypedLinear
from geoeq.reps import Irreps, Nodes

__all__ = ["Identities"]


class Identities(nn.Module):
    """Learned scalars of each numbered node, or of each ordered pair, zero beside them where features are no scalars.

    Args:
        n_nodes: nodes per graph, which are consecutive rows.
        irreps: the features to add them to, scalars ``0e`` first.
        order: 1 for nodes, 2 for pairs.
        mode: ``"exact"`` (the same for all), ``"soft"`` or ``"free"``.

    Shapes: ``nodes [order, K]`` rows of the nodes, of ``total`` in all; returns ``[K, irreps.dim]``.

    Symmetry: exact mode commutes with permutations of the nodes.

    Raises:
        ValueError: if ``total`` is not a multiple of ``n_nodes``.

    Source: identity embeddings of arXiv 2308.10436, with pairs beside the nodes.

    >>> Identities(5, Irreps("4x0e + 2x1o"))(torch.arange(10).unsqueeze(0), 10).shape
    torch.Size([10, 10])
    """

    def __init__(self, n_nodes: int, irreps: Irreps, *, order: int = 1, mode: str = "exact") -> None:
        super().__init__()
        self.n_nodes, self.width, self.scalars = n_nodes, irreps.dim, irreps.count("0e")
        rep = Nodes(n_nodes, Irreps([(self.scalars, "0e")]), order)
        self.table = TypedLinear("1x0e", rep, bias=False, mode=mode, group=S(n_nodes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Nobody has an identity at first."""
        nn.init.zeros_(self.table.weight)

    def forward(self, nodes: Tensor, total: int) -> Tensor:
        if total % self.n_nodes:
            raise ValueError(f"data must have graphs of n_nodes={self.n_nodes} nodes, got {total} nodes in all")
        one = self.table.weight.new_ones(1)
        table = self.table(one).reshape(self.scalars, -1).T  # [n_nodes ** order, scalars]
        place = torch.zeros_like(nodes[0])
        for node in nodes % self.n_nodes:
            place = place * self.n_nodes + node
        return nn.functional.pad(table, (0, self.width - self.scalars)).index_select(0, place)
