"""What a forecasting network reads from a graph, and how its displacements become positions of the frames asked for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.checks import check_graph, check_values

__all__ = ["ForecastIO", "Known"]


class Known(NamedTuple):
    """What is known at the input time, in units of the network's length."""

    pos: Tensor  # [N, 3]
    scalars: Tensor  # [N, n_scalars], those of the data first
    vectors: Tensor  # [N, n_vectors, 3], the velocity first
    edge_attr: Tensor | None  # [E, edge_dim]; None for edge_dim = 0


class ForecastIO(nn.Module):
    r"""Input and output that forecasting networks share; it has no weights.

    Read are positions :math:`x / \ell`, scalars z of each node (charge, or ``data.x``), and vectors: the velocity
    :math:`v / \ell` and the steps :math:`s_p = (x_{p+1} - x_p) / \ell` between past frames. How much these change,
    :math:`|s_{p+1} - s_p|`, are further scalars: they tell a rough track from a smooth one, which the lengths of steps
    do not. A displacement u of the network becomes the forecast :math:`x + \ell\,u`.

    Args:
        node_dim: columns of ``data.x``, invariant node features; None takes ``data.charge`` [N, 1] in its place.
        edge_dim: columns of ``data.edge_attr``, which is not read if it is 0.
        history: number of frames of ``data.history`` [N, P, 3], whose P - 1 steps and P - 2 changes of them are read;
            0 reads none.
        n_frames: number F of target frames.
        length: :math:`\ell`, the length that is 1 inside the network.
        velocity: whether ``data.vel`` is read.

    Attributes:
        node_width: how many scalars of the data there are.
        n_scalars, n_vectors: how many there are in all.

    Shapes: ``data.pos [N, 3]``, ``vel [N, 3]``, ``charge [N, 1]`` or ``x [N, node_dim]``, ``history [N, P, 3]``,
    ``edge_index [2, E]``, ``edge_attr [E, edge_dim]``; returns :class:`Known`.

    Symmetry: E(3) acts on positions, O(3) on vectors; scalars stay.

    Raises:
        ValueError: for an unusable size, an input that is missing or of the wrong shape, positions that are not
            finite, or edges out of range.

    >>> io = ForecastIO(edge_dim=0, history=3, n_frames=2, length=2.0)
    >>> data = Data(pos=torch.ones(4, 3), vel=torch.ones(4, 3), charge=torch.ones(4, 1), history=torch.ones(4, 3, 3),
    ...             edge_index=torch.zeros(2, 0, dtype=torch.int64))
    >>> io(data).vectors.shape, io.forecast(data.pos, torch.ones(4, 2, 3))[0]
    (torch.Size([4, 3, 3]), tensor([[3., 3., 3.],
            [3., 3., 3.]]))
    """

    equivariant = True

    def __init__(
        self,
        *,
        node_dim: int | None = None,
        edge_dim: int = 1,
        history: int = 0,
        n_frames: int = 1,
        length: float = 1.0,
        velocity: bool = True,
    ) -> None:
        super().__init__()
        if (node_dim or 0) < 0 or edge_dim < 0:
            raise ValueError(f"node_dim and edge_dim must be >= 0, got {node_dim} and {edge_dim}")
        if history < 0 or n_frames < 1 or not length > 0:
            sizes = f"{history}, {n_frames} and {length}"
            raise ValueError(f"history must be >= 0, n_frames >= 1 and length positive, got {sizes}")
        self.node_dim, self.edge_dim, self.velocity = node_dim, edge_dim, velocity
        self.history, self.n_frames, self.length = history, n_frames, length
        self.node_width = 1 if node_dim is None else node_dim
        self.n_scalars = self.node_width + max(history - 2, 0)
        self.n_vectors = int(velocity) + max(history - 1, 0)

    def forward(self, data: Data) -> Known:
        """What is known of ``data``; shapes in the class docstring."""
        pos, edge_attr = data.pos, data.edge_attr if self.edge_dim else None
        vel = data.get("vel") if self.velocity else None
        if self.velocity and vel is None:
            raise ValueError("vel must be [N, 3], got None")
        check_graph(pos, data.edge_index, edge_attr, self.edge_dim, vel=vel)
        check_values(pos, data.edge_index)
        vectors = [pos.new_zeros(len(pos), 0, 3)] if vel is None else [vel.unsqueeze(1)]
        scalars = [pos.new_zeros(len(pos), 0)]
        if self.node_width:
            scalars = [self._checked(data, "charge" if self.node_dim is None else "x", (self.node_width,))]
        if self.history > 1:
            steps = self._checked(data, "history", (self.history, 3)).diff(dim=1)
            vectors.append(steps)
            scalars.append(torch.linalg.vector_norm(steps.diff(dim=1), dim=2) / self.length)
        return Known(pos / self.length, torch.cat(scalars, 1), torch.cat(vectors, 1) / self.length, edge_attr)

    def forecast(self, pos: Tensor, moved: Tensor) -> Tensor:
        """Positions [N, 3], or [N, F, 3] for more than one frame, of nodes at ``pos`` moved by ``moved`` [N, F, 3]."""
        moved = self.length * moved
        return pos + moved.squeeze(1) if self.n_frames == 1 else pos.unsqueeze(1) + moved

    def _checked(self, data: Data, name: str, shape: tuple[int, ...]) -> Tensor:
        value, n = data.get(name), len(data.pos)
        if value is None or value.shape != (n, *shape):
            expected = ", ".join(map(str, ("N", *shape)))
            got = None if value is None else list(value.shape)
            raise ValueError(f"{name} must be [{expected}] with N = {n}, got {got}")
        return value

    def extra_repr(self) -> str:
        read = f"node_dim={self.node_dim}, edge_dim={self.edge_dim}, history={self.history}"
        return f"{read}, n_frames={self.n_frames}, length={self.length}"
