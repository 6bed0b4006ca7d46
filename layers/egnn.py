"""E(n)-equivariant graph network with velocities (EGNN), as in the authors' N-body experiment."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.forecast_io import ForecastIO, Known
from geoeq.layers.frame_readout import FrameReadout
from geoeq.ops.egnn_step import EGNNWeights, egnn_step
from geoeq.ops.scatter import scatter_sum

__all__ = ["EGNNConv", "EGNN"]


class EGNNConv(nn.Module):
    r"""One EGNN step.

    .. math::
        m_{ij} &= \phi_e\big(h_i,\ h_j,\ |x_i - x_j|^2,\ a_{ij}\big), \\
        x_i' &= x_i + \frac{1}{|N(i)|} \sum_{j \in N(i)} (x_i - x_j)\,\phi_x(m_{ij}) + \phi_v(h_i)\,v_i, \\
        h_i' &= h_i + \phi_h\Big(h_i,\ \sum_{j \in N(i)} m_{ij}\Big).

    The paper's equation 7 also updates the velocity; the authors' code does not, and neither does this layer:
    every step is given the initial velocity. Their clamp of each component of the shift to [-100, 100], which
    would break the rotation symmetry if it ever acted, is left out.

    The first layers of :math:`\phi_e` and :math:`\phi_h` are stored in pieces, one per argument, so that what
    depends on one node alone is computed on N nodes rather than E edges; ``node_in`` holds those that act on
    :math:`h`. Together the pieces are the authors' matrices, with the authors' initial distributions.

    Args:
        hidden: width of the node features and of all hidden layers.
        edge_dim: number of invariant edge features :math:`a_{ij}`.
        velocity: whether the step has the :math:`\phi_v` term.
        update_nodes: whether the step has :math:`\phi_h`; without it the node features come back unchanged.

    Shapes: ``h [N, hidden]``, ``pos [N, 3]``, ``edge_index [2, E]`` (sender j, receiver i),
    ``edge_attr [E, edge_dim]``, ``vel [N, 3]``; returns ``(h [N, hidden], pos [N, 3])``.

    Symmetry: E(3). Features are invariant, positions move with rotations, reflections and translations,
    velocities with rotations and reflections; relative error below 1e-10 in float64 and 1e-5 in float32.

    Raises:
        ValueError: for sizes below 1, inputs of the wrong shape, positions that are not finite, or edges out
            of range.

    Source: arXiv 2102.09844, equations 3 to 7.

    >>> conv = EGNNConv(16, velocity=False)
    >>> h, pos = conv(torch.randn(2, 16), torch.randn(2, 3), torch.tensor([[1, 0], [0, 1]]))
    >>> h.shape, pos.shape
    (torch.Size([2, 16]), torch.Size([2, 3]))
    """

    def __init__(self, hidden: int, *, edge_dim: int = 0, velocity: bool = True, update_nodes: bool = True) -> None:
        super().__init__()
        if hidden < 1 or edge_dim < 0:
            raise ValueError(f"hidden must be >= 1 and edge_dim >= 0, got {hidden} and {edge_dim}")
        self.hidden, self.edge_dim, self.velocity, self.update_nodes = (
            hidden,
            edge_dim,
            velocity,
            update_nodes,
        )
        self.node_in = nn.Linear(hidden, (2 + velocity + update_nodes) * hidden, bias=False)
        self.edge_in = nn.Linear(1 + edge_dim, hidden)
        self.edge_out = nn.Linear(hidden, hidden)
        self.coord_in = nn.Linear(hidden, hidden)
        self.coord_out = nn.Linear(hidden, 1, bias=False)
        if velocity:
            self.vel_in_bias = nn.Parameter(torch.empty(hidden))
            self.vel_out = nn.Linear(hidden, 1)
        if update_nodes:
            self.message_in = nn.Linear(hidden, hidden)
            self.node_out = nn.Linear(hidden, hidden)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, from the distributions of the authors' unsplit layers."""
        hidden, edge_fan_in = self.hidden, 2 * self.hidden + self.edge_in.in_features
        for linear in self.children():
            linear.reset_parameters()  # type: ignore[operator]
        node_in = list(self.node_in.weight.split(hidden))
        _uniform(edge_fan_in, node_in.pop(0), node_in.pop(0), self.edge_in.weight, self.edge_in.bias)
        if self.velocity:
            _uniform(hidden, node_in.pop(0), self.vel_in_bias)
        if self.update_nodes:
            _uniform(2 * hidden, node_in.pop(0), self.message_in.weight, self.message_in.bias)
        nn.init.xavier_uniform_(self.coord_out.weight, gain=0.001)

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        vel: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Node features and positions after the step; shapes in the class docstring."""
        check_graph(pos, edge_index, edge_attr, self.edge_dim, vel=vel, h=h, width=self.hidden)
        check_values(pos, edge_index)
        if (vel is None) == self.velocity:
            expected, got = ("[N, 3]", "None") if self.velocity else ("None", "a tensor")
            raise ValueError(f"vel must be {expected}, got {got}")
        return self.step(h, pos, edge_index, edge_attr, vel, inverse_degree(edge_index, pos))

    def step(
        self,
        h: Tensor,
        pos: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        vel: Tensor | None,
        inv_degree: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`forward` without checks, given ``inv_degree`` [N, 1] so that several steps can share it."""
        return egnn_step(h, pos, vel, edge_attr, edge_index, inv_degree, self._weights())

    def _weights(self) -> EGNNWeights:
        edge, coord = self.edge_in, self.coord_in
        out: tuple[Tensor | None, ...] = (None, None, None)
        if self.velocity:
            out = (self.vel_in_bias, self.vel_out.weight, self.vel_out.bias)
        node: tuple[Tensor | None, ...] = (None, None, None, None)
        if self.update_nodes:
            node = (self.message_in.bias, self.message_in.weight, self.node_out.weight, self.node_out.bias)
        return EGNNWeights(
            self.node_in.weight,
            edge.weight,
            edge.bias,
            self.edge_out.weight,
            self.edge_out.bias,
            coord.weight,
            coord.bias,
            self.coord_out.weight,
            *out,
            *node,
        )

    def extra_repr(self) -> str:
        options = f"velocity={self.velocity}, update_nodes={self.update_nodes}"
        return f"{self.hidden}, edge_dim={self.edge_dim}, {options}"


class EGNN(nn.Module):
    r"""EGNN that predicts where each body will be: ``model(data) -> [N, 3]``.

    .. math::
        h_i^0 = W\,[\,|v_i|,\ z_i] + b, \qquad x_i^0 = x_i, \qquad
        (h^{l+1}, x^{l+1}) = \mathrm{EGNNConv}\big(h^l, x^l, a, v\big), \qquad \hat y_i = x_i^L,

    with edge features :math:`a_{ij} = [\,\mathrm{edge\_attr}_{ij},\ |x_i - x_j|^2]` at the start positions;
    each step adds the squared distance at its current positions. The last step has no node update, whose
    result nobody would read, so every parameter takes part in the prediction.

    With past frames, the lengths of their steps stand beside :math:`|v_i|`. Then, and with several target frames, each
    frame is a mix of :math:`x_i^L - x_i`, velocity and steps (:class:`~geoeq.layers.frame_readout.FrameReadout`).

    Args:
        edge_dim: columns of ``data.edge_attr`` (in the N-body data one, the product of the charges), which is not read
            if it is 0.
        node_dim: columns of ``data.x``, invariant node features :math:`z` besides the speed; None takes
            ``data.charge``.
        hidden: width.
        n_layers: number of steps.
        velocity: whether ``data.vel`` is used; without it the speed is replaced by a constant 1.
        history, n_frames, length: see :class:`~geoeq.layers.ForecastIO`.

    Shapes: ``data.pos [N, 3]``, ``data.vel [N, 3]``, ``data.edge_index [2, E]`` (sender, receiver),
    ``data.edge_attr [E, edge_dim]``, ``data.x [N, node_dim]``; returns ``[N, 3]``, or ``[N, n_frames, 3]`` for more
    than one frame.

    Symmetry: E(3), and permutations of the nodes; relative error below 1e-10 in float64 and 1e-5 in float32.

    Raises:
        ValueError: for an unusable size, an input that is missing or of the wrong shape, positions that are
            not finite, or edges out of range.

    Source: arXiv 2102.09844, section 5.1 and appendix C.1.

    >>> pair = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), edge_attr=torch.ones(2, 1),
    ...             edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> EGNN(hidden=16)(pair).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        *,
        edge_dim: int = 1,
        node_dim: int | None = 0,
        hidden: int = 64,
        n_layers: int = 4,
        velocity: bool = True,
        history: int = 0,
        n_frames: int = 1,
        length: float = 1.0,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers must be >= 1, got {n_layers}")
        options: dict[str, Any] = {"history": history, "n_frames": n_frames, "length": length, "velocity": velocity}
        self.io = ForecastIO(node_dim=node_dim, edge_dim=edge_dim, **options)
        self.embedding = nn.Linear(max(self.io.n_vectors, 1) + self.io.n_scalars, hidden)
        readout = n_frames > 1 or history > 1
        self.layers = nn.ModuleList(
            EGNNConv(hidden, edge_dim=edge_dim + 1, velocity=velocity, update_nodes=readout or i < n_layers - 1)
            for i in range(n_layers)
        )
        self.readout = FrameReadout(hidden, 1 + self.io.n_vectors, n_frames) if readout else None

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in (self.embedding, *self.layers, *filter(None, [self.readout])):
            module.reset_parameters()  # type: ignore[operator]

    def forward(self, data: Data) -> Tensor:
        """Predicted positions [N, 3] or [N, n_frames, 3]."""
        known, edge_index = self.io(data), data.edge_index
        h, pos = self.embedding(node_invariants(known)), known.pos
        vel = known.vectors[:, 0] if self.io.velocity else None
        edge_attr = with_distance(known, edge_index)
        inv_degree = inverse_degree(edge_index, pos)
        for layer in self.layers:
            h, pos = layer.step(h, pos, edge_index, edge_attr, vel, inv_degree)  # type: ignore[operator]
        if self.readout is None:
            return self.io.length * pos
        vectors = torch.cat([(pos - known.pos).unsqueeze(1), known.vectors], 1)
        return self.io.forecast(data.pos, self.readout(h, vectors))


def node_invariants(known: Known) -> Tensor:
    """Lengths of the vectors of each node (a constant 1 if there are none), then its scalars."""
    if not known.vectors.shape[1]:
        return torch.cat([known.pos.new_ones(len(known.pos), 1), known.scalars], 1)
    return torch.cat([torch.linalg.vector_norm(known.vectors, dim=2), known.scalars], 1)


def with_distance(known: Known, edge_index: Tensor) -> Tensor:
    """Edge features and the squared distance at the start, [E, edge_dim + 1]."""
    offset = known.pos.index_select(0, edge_index[1]) - known.pos.index_select(0, edge_index[0])
    distance2 = offset.square().sum(1, keepdim=True)
    return distance2 if known.edge_attr is None else torch.cat([known.edge_attr, distance2], 1)


def inverse_degree(edge_index: Tensor, pos: Tensor) -> Tensor:
    """1 / max(number of incoming edges, 1) of each node, [N, 1] in the dtype of ``pos``.

    >>> inverse_degree(torch.tensor([[1, 2], [0, 0]]), torch.zeros(3, 3)).flatten()
    tensor([0.5000, 1.0000, 1.0000])
    """
    receiver = edge_index[1]
    degree = scatter_sum(torch.ones_like(receiver), receiver, pos.shape[0]).clamp(min=1)
    return degree.to(pos.dtype).reciprocal().unsqueeze(1)


@torch.no_grad()
def _uniform(fan_in: int, *pieces: Tensor) -> None:
    """Draw the pieces of one split layer as ``nn.Linear`` would draw the whole, of ``fan_in`` inputs."""
    bound = 1 / math.sqrt(fan_in)
    for piece in pieces:
        piece.uniform_(-bound, bound)
