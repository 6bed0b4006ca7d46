"""Message passing in which every linear map is typed, so that one switch makes it exact, soft or free."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.groups import E, Group, S, parse
from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.gate import NormGate
from geoeq.layers.typed_linear import TypedLinear
from geoeq.ops.scatter import scatter_mean
from geoeq.reps import Crossing, Irreps, Nodes, Positions, Rep, Sum

__all__ = ["TypedConv", "TypedMPNN"]

GEOMETRY = Irreps("1x1o + 1x0e")


class TypedConv(nn.Module):
    r"""One soft message-passing step on irreps features.

    .. math::
        m_{ij} &= \phi\big(W_m\,\phi(W_r h_i + W_s h_j + W_e\,[x_j - x_i,\ |x_j - x_i|^2,\ a_{ij}])\big), \\
        h_i' &= h_i + W_o\,\phi\Big(W_u\,[h_i,\ \tfrac1{|N(i)|}\sum_j m_{ij},\ x_i]\Big),

    where :math:`\phi` is :class:`~geoeq.layers.gate.NormGate`. Maps of node features are applied to nodes before they
    are gathered. With parts, what joins two parts passes through maps of its own, which a piecewise group sets to
    zero.

    Args:
        irreps: node features, scalars ``0e`` and any other irreps.
        edge_dim: number of invariant edge features :math:`a_{ij}`.
        parts: whether edges inside a part and edges between parts are told apart.
        mode: ``"exact"``, ``"soft"`` or ``"free"``, see :class:`~geoeq.layers.TypedLinear`.
        group: the symmetry of exact mode; E(3) by default.

    Shapes: ``h [N, irreps.dim]``, ``pos [N, 3]``, ``edge_index [2, E]`` (sender, receiver),
    ``edge_attr [E, edge_dim]``, ``part [N]``; returns ``[N, irreps.dim]``.

    Symmetry: exact mode commutes with ``group``; relative error below 1e-10 in float64 and 1e-5 in float32.

    Raises:
        ValueError: for inputs of the wrong shape, or parts that are missing.

    Source: arXiv 2306.00356 (soft maps), arXiv 2102.09844 (messages).

    >>> conv = TypedConv("8x0e + 4x1o")
    >>> edge_index = torch.tensor([[1, 0], [0, 1]])
    >>> conv(torch.randn(2, 20), torch.randn(2, 3), edge_index, torch.ones(2, 1)).shape
    torch.Size([2, 20])
    """

    def __init__(
        self,
        irreps: Irreps | str,
        *,
        edge_dim: int = 1,
        parts: bool = False,
        mode: str = "exact",
        group: Group | None = None,
    ) -> None:
        super().__init__()
        irreps = scalars_first(irreps)
        self.width, self.edge_dim, self.parts = irreps.dim, edge_dim, parts
        self.edge_gate, self.node_gate = NormGate(irreps), NormGate(irreps)
        hidden, message = self.edge_gate.irreps_in, self.edge_gate.irreps_out
        options: dict[str, Any] = {"mode": mode, "group": group}
        self.receiver = TypedLinear(irreps, hidden, **options)
        self.sender = TypedLinear(irreps, hidden, bias=False, **options)
        geometry: list[Rep] = [GEOMETRY, Irreps([(edge_dim, "0e")])]
        if parts:
            self.crossing = TypedLinear(vectors_crossing(irreps), hidden, bias=False, **options)
            geometry.append(Crossing(GEOMETRY))
        self.edge = TypedLinear(Sum(*geometry), hidden, bias=False, **options)
        self.message = TypedLinear(message, hidden, **options)
        self.update = TypedLinear(Sum(irreps, message, Positions(1)), hidden, **options)
        self.out = TypedLinear(message, irreps, **options)

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        part: Tensor | None = None,
    ) -> Tensor:
        check_graph(pos, edge_index, edge_attr, self.edge_dim, h=h, width=self.width)
        sender, receiver = edge_index[0], edge_index[1]
        away = pos[sender] - pos[receiver]  # [E, 3]
        geometry = torch.cat([away, away.square().sum(1, keepdim=True)], dim=1)
        sent, edge = self.sender(h), [geometry]
        if edge_attr is not None:
            edge.append(edge_attr)
        if self.parts:
            if part is None or part.shape != pos.shape[:1]:
                raise ValueError(f"part must be [N] = [{len(pos)}], got {None if part is None else list(part.shape)}")
            crosses = part[sender] != part[receiver]
            outside = crosses.unsqueeze(1).to(geometry)
            edge = [geometry * (1 - outside), *edge[1:], geometry * outside]
            sent = torch.cat([sent, self.crossing(h)])
            sender = sender + len(pos) * crosses
        z = self.receiver(h)[receiver] + sent[sender] + self.edge(torch.cat(edge, dim=1))
        m = self.edge_gate(self.message(self.edge_gate(z)))  # [E, message.dim]
        gathered = scatter_mean(m, receiver, len(pos))
        return h + self.out(self.node_gate(self.update(torch.cat([h, gathered, pos], dim=1))))


def scalars_first(irreps: Irreps | str) -> Irreps:
    """The same features with the scalars ``0e`` in front."""
    irreps = Irreps(irreps)
    rest = [block for block in irreps if not block.ir.is_scalar()]
    return Irreps([(irreps.count("0e"), "0e"), *rest]).remove_zero_multiplicities()


def vectors_crossing(irreps: Irreps) -> Rep:
    """Features of a node in another part: its scalars are invariants of that part, its directions are not shared."""
    return Sum(*[Irreps([block]) if block.ir.is_scalar() else Crossing(Irreps([block])) for block in irreps])


class TypedMPNN(nn.Module):
    r"""Forecast of positions by typed message passing: :math:`\hat y_i = x_i + W h_i^{(L)}`.

    Node features start from charge, speed and velocity, and from the absolute position, which exact translation
    symmetry shuts out.

    Args:
        hidden: node features, for example ``"16x0e + 8x1o"``.
        n_layers: number of :class:`TypedConv` steps.
        mode: ``"exact"``, ``"soft"`` or ``"free"``: one switch for every linear map.
        group: the symmetry of exact mode; E(3) by default.
        edge_dim: number of invariant edge features.
        n_nodes: nodes per graph, if every node shall learn an identity of its own; permutations S(n_nodes) are then
            exact only in exact mode. None: nodes are interchangeable by construction.
        parts: whether edges inside and between parts are told apart (``data.part``).

    Shapes: ``model(data) -> [N, 3]`` from ``data.pos [N, 3]``, ``vel [N, 3]``, ``charge [N, 1]``,
    ``edge_index [2, E]``, ``edge_attr [E, edge_dim]``, and ``part [N]`` with parts.

    Symmetry: exact mode commutes with ``group`` and with permutations; relative error below 1e-10 in float64.

    Raises:
        ValueError: for inputs of the wrong shape, non-finite positions, or edges out of range.

    Source: arXiv 2306.00356; layer as in :class:`TypedConv`.

    >>> from torch_geometric.data import Data
    >>> data = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), charge=torch.ones(2, 1),
    ...             edge_index=torch.tensor([[1, 0], [0, 1]]), edge_attr=torch.ones(2, 1))
    >>> TypedMPNN("8x0e + 4x1o", n_layers=2)(data).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        hidden: Irreps | str = "32x0e + 16x1o",
        n_layers: int = 4,
        *,
        mode: str = "exact",
        group: Group | str | None = None,
        edge_dim: int = 1,
        n_nodes: int | None = None,
        parts: bool = False,
    ) -> None:
        super().__init__()
        irreps = scalars_first(hidden)
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        exact = E(3) if group is None else parse(group)
        self.embed = TypedLinear(Sum("2x0e + 1x1o", Positions(1)), irreps, mode=mode, group=exact)
        self.identity = None
        if n_nodes is not None:
            nodes = Nodes(n_nodes, Irreps([(irreps.count("0e"), "0e")]))
            self.identity = TypedLinear("1x0e", nodes, bias=False, mode=mode, group=S(n_nodes))
        self.n_nodes, self.edge_dim = n_nodes, edge_dim
        self.convs = nn.ModuleList(
            TypedConv(irreps, edge_dim=edge_dim, parts=parts, mode=mode, group=exact) for _ in range(n_layers)
        )
        self.readout = TypedLinear(irreps, "1x1o", mode=mode, group=exact)

    def forward(self, data: Data) -> Tensor:
        pos, vel = data.pos, data.vel
        check_graph(pos, data.edge_index, data.edge_attr, self.edge_dim, vel=vel)
        check_values(pos, data.edge_index)
        h = self.embed(torch.cat([data.charge, vel.square().sum(1, keepdim=True), vel, pos], dim=1))
        if self.identity is not None and self.n_nodes is not None:
            h = h + node_identities(self.identity, self.n_nodes, h)
        part = data.part if "part" in data else None
        for conv in self.convs:
            h = conv(h, pos, data.edge_index, data.edge_attr, part)
        return pos + self.readout(h)


def node_identities(identity: TypedLinear, n_nodes: int, h: Tensor) -> Tensor:
    """Learned identity of each node, shaped like ``h [N, irreps.dim]``, for graphs of ``n_nodes`` consecutive nodes."""
    if len(h) % n_nodes:
        raise ValueError(f"data must have graphs of n_nodes={n_nodes} nodes, got {len(h)} nodes in all")
    table = identity(h.new_ones(1)).reshape(-1, n_nodes).T  # [n_nodes, scalars]
    padded = nn.functional.pad(table, (0, h.shape[1] - table.shape[1]))
    return padded.repeat(len(h) // n_nodes, 1)
