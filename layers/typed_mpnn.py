"""Message passing in which every linear map is typed, so that one switch makes it exact, soft or free."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.groups import E, Group, parse
from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.gate import NormGate
from geoeq.layers.identities import Identities
from geoeq.layers.typed_linear import TypedLinear
from geoeq.ops.scatter import scatter_mean
from geoeq.reps import Crossing, Irreps, Positions, Rep, Sum

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
        n_nodes: nodes per graph, if every ordered pair of them shall learn an identity of its own,
            :math:`W_p\,[ij]` inside the inner brackets; None for none.
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
        n_nodes: int | None = None,
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
        self.pairs = None if n_nodes is None else Identities(n_nodes, hidden, order=2, mode=mode)
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
        if self.pairs is not None:
            z = z + self.pairs(edge_index, len(pos))
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

    Node features start from what is known of a node (charge, or ``data.x``), speed and velocity, earlier steps, and
    from the absolute position, which exact translation symmetry shuts out.

    Args:
        hidden: node features, for example ``"16x0e + 8x1o"``.
        n_layers: number of :class:`TypedConv` steps.
        mode: ``"exact"``, ``"soft"`` or ``"free"``: one switch for every linear map.
        group: the symmetry of exact mode; E(3) by default.
        node_dim: columns of ``data.x``, invariant node features; None takes ``data.charge`` [N, 1] in its place.
        edge_dim: number of invariant edge features; ``data.edge_attr`` is not read if it is 0.
        n_nodes: nodes per graph, if every node shall learn an identity of its own; permutations S(n_nodes) are then
            exact only in exact mode. None: nodes are interchangeable by construction.
        pairs: whether every ordered pair of nodes shall learn an identity in every layer, too.
        parts: whether edges inside and between parts are told apart (``data.part``).
        history: number of frames of ``data.history`` [N, P, 3], whose P - 1 steps are read; 0 reads none.
        n_frames: number of target frames.
        length: length that is 1 inside the network. Positions and steps are divided by it, the forecast multiplied.

    Shapes: ``model(data) -> [N, 3]``, or ``[N, n_frames, 3]`` for more than one frame, from ``data.pos [N, 3]``,
    ``vel [N, 3]``, ``charge [N, 1]`` or ``x [N, node_dim]``, ``edge_index [2, E]``, ``edge_attr [E, edge_dim]``,
    and ``part [N]`` with parts.

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
        node_dim: int | None = None,
        edge_dim: int = 1,
        n_nodes: int | None = None,
        pairs: bool = False,
        parts: bool = False,
        history: int = 0,
        n_frames: int = 1,
        length: float = 1.0,
    ) -> None:
        super().__init__()
        irreps = scalars_first(hidden)
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        if history < 0 or n_frames < 1 or not length > 0:
            sizes = f"{history}, {n_frames} and {length}"
            raise ValueError(f"history must be >= 0, n_frames >= 1 and length positive, got {sizes}")
        exact = E(3) if group is None else parse(group)
        self.node_dim, self.n_nodes, self.edge_dim = node_dim, n_nodes, edge_dim
        self.history, self.n_frames, self.length = history, n_frames, length
        known = Irreps([(1 + (1 if node_dim is None else node_dim), "0e"), (1 + max(history - 1, 0), "1o")])
        self.embed = TypedLinear(Sum(known, Positions(1)), irreps, mode=mode, group=exact)
        if pairs and n_nodes is None:
            raise ValueError("n_nodes must be given for pairs of nodes to have identities, got None")
        self.identity = None if n_nodes is None else Identities(n_nodes, irreps, mode=mode)
        options: dict[str, Any] = {"edge_dim": edge_dim, "parts": parts, "n_nodes": n_nodes if pairs else None}
        self.convs = nn.ModuleList(TypedConv(irreps, **options, mode=mode, group=exact) for _ in range(n_layers))
        self.readout = TypedLinear(irreps, Irreps([(n_frames, "1o")]), mode=mode, group=exact)

    def forward(self, data: Data) -> Tensor:
        edge_attr = data.edge_attr if self.edge_dim else None
        check_graph(data.pos, data.edge_index, edge_attr, self.edge_dim, vel=data.vel)
        check_values(data.pos, data.edge_index)
        pos = data.pos / self.length
        h = self.embed(torch.cat([*self._known(data), pos], dim=1))
        if self.identity is not None:
            h = h + self.identity(torch.arange(len(h), device=h.device).unsqueeze(0), len(h))
        part = data.part if "part" in data else None
        for conv in self.convs:
            h = conv(h, pos, data.edge_index, edge_attr, part)
        moved = self.length * self.readout(h)
        if self.n_frames == 1:
            return data.pos + moved
        return data.pos.unsqueeze(1) + moved.view(-1, self.n_frames, 3)

    def _known(self, data: Data) -> list[Tensor]:
        """Scalars, then vectors, of each node."""
        name, width = ("charge", 1) if self.node_dim is None else ("x", self.node_dim)
        vel, scalars = data.vel / self.length, [getattr(data, name, None)] if width else []
        if scalars and (scalars[0] is None or scalars[0].shape != (len(vel), width)):
            got = None if scalars[0] is None else list(scalars[0].shape)
            raise ValueError(f"{name} must be [{len(vel)}, {width}], got {got}")
        known = [*scalars, vel.square().sum(1, keepdim=True), vel]
        if self.history > 1:
            if data.history.shape != (len(vel), self.history, 3):
                expected = [len(vel), self.history, 3]
                raise ValueError(f"history must be {expected}, got {list(data.history.shape)}")
            known.append(data.history.diff(dim=1).flatten(1) / self.length)
        return known
