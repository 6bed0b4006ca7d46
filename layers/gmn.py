"""Graph mechanics network: EGNN whose bodies, sticks and hinges move by generalised coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.egnn import EGNNConv, inverse_degree, node_invariants, with_distance
from geoeq.layers.forecast_io import ForecastIO
from geoeq.layers.rigid import RigidParts, rigid_parts, rotate
from geoeq.ops.scatter import scatter_sum

__all__ = ["GMN", "GMNConv"]

SHORTEST = 1e-12  # square of the length below which an arm is a point that does not turn


class GMNConv(nn.Module):
    r"""One EGNN step in which every part moves as a mechanism: rigid bodies, sticks and hinges keep their rods.

    A part has a centre c (its mean, or the pivot of a hinge) with velocity w, and arms :math:`r_i = x_i - c` with
    velocities :math:`u_i = v_i - w`. With the forces f of an :class:`~geoeq.layers.EGNNConv`,

    .. math::
        a &= \frac{1}{n} \sum_i \big[(1 + \alpha_i) f_i + \beta_i r_i + \gamma_i u_i\big], &
        w' &= \phi_v(\bar h)\, w + a, \\
        \omega' &= \phi_\omega(\bar h)\, \frac{\sum r_i \times u_i}{\sum |r_i|^2}
            + \frac{\sum r_i \times (f_i - a)}{\sum |r_i|^2}, &
        r_i' &= R(\omega')\, r_i, \\
        x_i' &= c + w' + r_i', & v_i' &= w' + \omega' \times r_i'.

    The sums are over what turns as one: a whole body, or a single arm of a hinge. :math:`\bar h` is the mean feature of
    the part (for :math:`\phi_\omega`, of what turns as one), and :math:`\alpha, \beta, \gamma` are set by :math:`h_i`
    and the products of :math:`f_i, r_i, u_i` over :math:`1 + |f_i|^2 + |r_i|^2 + |u_i|^2`. A node of its own has no arm
    and moves by w' alone.

    Args:
        hidden: width of the node features and of all hidden layers.
        edge_dim: number of invariant edge features.
        update_nodes: whether node features are updated; without it they come back unchanged.

    Shapes: ``h [N, hidden]``, ``pos [N, 3]``, ``edge_index [2, E]`` (sender, receiver), ``edge_attr [E, edge_dim]``,
    ``vel [N, 3]``, ``parts`` from :func:`~geoeq.layers.rigid_parts`; returns
    ``(h [N, hidden], pos [N, 3], vel [N, 3])``.

    Symmetry: E(3), relative error below 1e-10 in float64 and 1e-5 in float32. Distances inside a rigid body and along
    the rods of a hinge stay what they are, to rounding.

    Raises:
        ValueError: for sizes below 1, inputs of the wrong shape, positions that are not finite, or edges out of range.

    Source: arXiv 2203.06442, section 3; parts as labels and bodies of any size are ours.

    >>> conv, edges = GMNConv(16), torch.tensor([[1, 0], [0, 1]])
    >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    >>> parts = rigid_parts(torch.tensor([0, 0]), edges)
    >>> h, moved, vel = conv(torch.randn(2, 16), pos, edges, vel=torch.randn(2, 3), parts=parts)
    >>> torch.dist(moved[0], moved[1]).item()
    2.0
    """

    def __init__(self, hidden: int, *, edge_dim: int = 0, update_nodes: bool = True) -> None:
        super().__init__()
        self.messages = EGNNConv(hidden, edge_dim=edge_dim, velocity=False, update_nodes=update_nodes)
        self.part_in = nn.Linear(hidden, hidden)
        self.velocity_out = nn.Linear(hidden, 1)
        self.rotation_out = nn.Linear(hidden, 1)
        self.node_in = nn.Linear(hidden, hidden)
        self.products_in = nn.Linear(6, hidden, bias=False)
        self.force_out = nn.Linear(hidden, 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; at the start a part feels the mean of its forces."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]
        nn.init.xavier_uniform_(self.force_out.weight, gain=0.001)
        nn.init.zeros_(self.force_out.bias)

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        *,
        vel: Tensor,
        parts: RigidParts,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Node features, positions and velocities after the step; shapes in the class docstring."""
        conv = self.messages
        check_graph(pos, edge_index, edge_attr, conv.edge_dim, vel=vel, h=h, width=conv.hidden)
        check_values(pos, edge_index)
        return self.step(h, pos, edge_index, edge_attr, vel, parts, inverse_degree(edge_index, pos))

    def step(
        self,
        h: Tensor,
        pos: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        vel: Tensor,
        parts: RigidParts,
        inv_degree: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`forward` without checks, given ``inv_degree`` [N, 1] so that several steps can share it."""
        updated, pushed = self.messages.step(h, pos, edge_index, edge_attr, None, inv_degree)
        pos, vel = self.move(h, pos, vel, pushed - pos, parts)
        return updated, pos, vel

    def move(self, h: Tensor, pos: Tensor, vel: Tensor, force: Tensor, parts: RigidParts) -> tuple[Tensor, Tensor]:
        """Positions and velocities after the mechanism has answered to forces [N, 3].

        What belongs to a part or to an arm stands in the row of the node that names it, and is gathered from there, so
        that the nodes of one body share every digit of it.
        """
        n, (leader, arm, hinged, weight, inv_size) = len(pos), parts
        state, features = torch.cat([pos, vel], 1), self.part_in(h)
        centre = scatter_sum(weight * state, leader, n)
        part_features = scatter_sum(inv_size * features, leader, n)
        r, u = (state - centre.index_select(0, leader)).split(3, 1)

        gates = self.force_out(nn.functional.silu(self.node_in(h) + self.products_in(_products(force, r, u))))
        alpha, beta, gamma = gates.split(1, 1)
        felt = scatter_sum(inv_size * ((1 + alpha) * force + beta * r + gamma * u), leader, n)
        scale = self.velocity_out(nn.functional.silu(part_features))
        drift = scale * centre[:, 3:] + felt
        base, drift, felt = torch.cat([centre[:, :3] + drift, drift, felt], 1).index_select(0, leader).split(3, 1)

        length2 = r.square().sum(1, keepdim=True)
        spin, torque = torch.linalg.cross(r, u), torch.linalg.cross(r, force - felt)
        spin, torque, inertia = scatter_sum(torch.cat([spin, torque, length2], 1), arm, n).split((3, 3, 1), 1)
        scale = self.rotation_out(nn.functional.silu(torch.where(hinged, features, part_features)))
        angles = (scale * spin + torque) / torch.where(inertia > SHORTEST, inertia, 1)
        angles = angles.index_select(0, arm)
        r = rotate(r, angles)
        return base + r, drift + torch.linalg.cross(angles, r)


def _products(force: Tensor, r: Tensor, u: Tensor) -> Tensor:
    """The six products of three vectors over 1 + the sum of their squares, [N, 6]: bounded, or steps could explode."""
    first = torch.cat([force, force, force, r, r, u], 1)
    second = torch.cat([force, r, u, r, u, u], 1)
    products = (first * second).view(-1, 6, 3).sum(2)
    return products / (1 + products[:, 0:1] + products[:, 3:4] + products[:, 5:6])


class GMN(nn.Module):
    r"""EGNN of mechanisms that predicts where each body will be: ``model(data) -> [N, 3]``.

    Nodes with the same ``data.part`` form one mechanism: a single node is free, two are a stick, more a rigid body, or
    a hinge where one of them alone has rods to all others (:func:`~geoeq.layers.rigid_parts`). Steps are
    :class:`GMNConv`; positions and velocities go on from step to step.

    Args:
        edge_dim: columns of ``data.edge_attr``.
        rods: column of ``data.edge_attr`` that is 2 or more where an edge is a rod, as in the N-body data with
            ``objects``; None: there are no hinges.
        node_dim: columns of ``data.x``, invariant node features; None takes ``data.charge``.
        hidden: width.
        n_layers: number of steps.
        n_frames: number of target frames, the positions after each of the last steps.
        history, length: see :class:`~geoeq.layers.ForecastIO`. Steps between past frames enter by their lengths.

    Shapes: ``data.pos [N, 3]``, ``data.vel [N, 3]``, ``data.part [N]``, ``data.edge_index [2, E]`` (sender, receiver),
    ``data.edge_attr [E, edge_dim]``, ``data.x [N, node_dim]``; returns ``[N, 3]``, or ``[N, n_frames, 3]`` for more
    than one frame.

    Symmetry: E(3), and permutations of the nodes; relative error below 1e-10 in float64 and 1e-5 in float32. Rods keep
    their lengths in every frame.

    Raises:
        ValueError: for an unusable size, an input that is missing or of the wrong shape, positions that are
            not finite, or edges out of range.

    Source: arXiv 2203.06442.

    >>> stick = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), part=torch.tensor([0, 0]),
    ...              edge_index=torch.tensor([[1, 0], [0, 1]]), edge_attr=torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    >>> moved = GMN(hidden=16)(stick)
    >>> bool(torch.dist(*moved).isclose(torch.dist(*stick.pos)))
    True
    """

    def __init__(
        self,
        *,
        edge_dim: int = 2,
        rods: int | None = 1,
        node_dim: int | None = 0,
        hidden: int = 64,
        n_layers: int = 4,
        n_frames: int = 1,
        history: int = 0,
        length: float = 1.0,
    ) -> None:
        super().__init__()
        if not 1 <= n_frames <= n_layers:
            raise ValueError(f"n_frames must lie in [1, n_layers = {n_layers}], got {n_frames}")
        if rods is not None and not 0 <= rods < edge_dim:
            raise ValueError(f"rods must be None or a column of edge_attr below edge_dim = {edge_dim}, got {rods}")
        self.rods, options = rods, {"history": history, "n_frames": n_frames, "length": length}
        self.io = ForecastIO(node_dim=node_dim, edge_dim=edge_dim, **options)  # type: ignore[arg-type]
        self.embedding = nn.Linear(self.io.n_vectors + self.io.n_scalars, hidden)
        self.layers = nn.ModuleList(
            GMNConv(hidden, edge_dim=edge_dim + 1, update_nodes=i < n_layers - 1) for i in range(n_layers)
        )

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in (self.embedding, *self.layers):
            module.reset_parameters()  # type: ignore[operator]

    def forward(self, data: Data) -> Tensor:
        """Predicted positions [N, 3] or [N, n_frames, 3]."""
        known, edge_index = self.io(data), data.edge_index
        part, rod = data.get("part"), None
        if part is None:
            raise ValueError("part must be [N], got None")
        if self.rods is not None and known.edge_attr is not None:
            rod = known.edge_attr[:, self.rods] >= 2
        parts = rigid_parts(part, edge_index, rod, data.get("batch"), dtype=known.pos.dtype)
        h, pos, vel = self.embedding(node_invariants(known)), known.pos, known.vectors[:, 0]
        edge_attr, inv_degree = with_distance(known, edge_index), inverse_degree(edge_index, pos)
        frames = []
        for layer in self.layers:
            h, pos, vel = layer.step(h, pos, edge_index, edge_attr, vel, parts, inv_degree)  # type: ignore[operator]
            frames.append(pos)
        n_frames = self.io.n_frames
        return self.io.length * (pos if n_frames == 1 else torch.stack(frames[-n_frames:], 1))
