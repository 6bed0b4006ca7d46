"""Equivariant graph neural operator: EGNN steps on all target frames at once, which mix in Fourier space."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.egnn import EGNNConv, inverse_degree, node_invariants, with_distance
from geoeq.layers.forecast_io import ForecastIO
from geoeq.layers.temporal_conv import TemporalConv, frame_embedding

__all__ = ["EGNO"]


class EGNO(nn.Module):
    r"""EGNN over space and time that predicts whole paths: ``model(data) -> [N, n_frames, 3]``.

    All frames t start from the input, :math:`h_{it} = W [|v_i|, z_i] + W' \tau_t` with a sinusoidal time embedding
    :math:`\tau`. Every layer mixes the frames of each node by :class:`~geoeq.layers.TemporalConv`, of features and of
    vectors (displacement from the input position, velocity, steps between past frames), then passes messages:

    .. math::
        h &\leftarrow h + \mathrm{SiLU}(\mathrm{conv}(h)), &
        [x - x^0,\ v,\ \dots] &\leftarrow [x - x^0,\ v,\ \dots] + \mathrm{conv}([x - x^0,\ v,\ \dots]), \\
        (h_t, x_t) &\leftarrow \mathrm{EGNNConv}(h_t, x_t, a, v_t), & \hat y_{it} &= x_{it}.

    With one frame there is nothing to mix, and without past frames this is then :class:`~geoeq.layers.EGNN`, weight by
    weight. Unlike in the authors' code, displacements are from each node's own start rather than from the centre of its
    graph, so that far nodes do not matter, and weights of the convolutions start with both signs.

    Args:
        n_frames: number F of target frames.
        edge_dim: columns of ``data.edge_attr``, which is not read if it is 0.
        node_dim: columns of ``data.x``, invariant node features :math:`z`; None takes ``data.charge``.
        hidden: width.
        n_layers: number of layers.
        modes: frequencies that pass, at most F // 2 + 1.
        time_dim: width of the time embedding, even.
        history, length: see :class:`~geoeq.layers.ForecastIO`.

    Shapes: ``data.pos [N, 3]``, ``data.vel [N, 3]``, ``data.edge_index [2, E]`` (sender, receiver),
    ``data.edge_attr [E, edge_dim]``, ``data.x [N, node_dim]``; returns ``[N, F, 3]``, or ``[N, 3]`` for one frame.

    Symmetry: E(3), and permutations of the nodes; relative error below 1e-10 in float64 and 1e-5 in float32.

    Raises:
        ValueError: for an unusable size, an input that is missing or of the wrong shape, positions that are
            not finite, or edges out of range.

    Source: arXiv 2401.11037.

    >>> pair = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), edge_attr=torch.ones(2, 1),
    ...             edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> EGNO(4, hidden=16)(pair).shape
    torch.Size([2, 4, 3])
    """

    def __init__(
        self,
        n_frames: int = 5,
        *,
        edge_dim: int = 1,
        node_dim: int | None = 0,
        hidden: int = 64,
        n_layers: int = 4,
        modes: int = 2,
        time_dim: int = 32,
        history: int = 0,
        length: float = 1.0,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers must be >= 1, got {n_layers}")
        options: dict[str, Any] = {"history": history, "n_frames": n_frames, "length": length}
        self.io = ForecastIO(node_dim=node_dim, edge_dim=edge_dim, **options)
        self.embedding = nn.Linear(self.io.n_vectors + self.io.n_scalars, hidden)
        self.layers = nn.ModuleList(
            EGNNConv(hidden, edge_dim=edge_dim + 1, update_nodes=i < n_layers - 1) for i in range(n_layers)
        )
        if n_frames > 1:
            self.register_buffer("frames", frame_embedding(n_frames, time_dim), persistent=False)
            self.time = nn.Linear(time_dim, hidden, bias=False)
            sizes: dict[str, Any] = {"n_frames": n_frames, "modes": modes}
            channels = 1 + self.io.n_vectors
            self.mix = nn.ModuleList(TemporalConv(hidden, hidden, **sizes) for _ in range(n_layers))
            self.mix_vectors = nn.ModuleList(TemporalConv(channels, channels, **sizes) for _ in range(n_layers))

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for child in self.children():
            for module in child if isinstance(child, nn.ModuleList) else [child]:
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()  # type: ignore[operator]

    def forward(self, data: Data) -> Tensor:
        """Predicted positions [N, F, 3], or [N, 3] for one frame."""
        known, edge_index = self.io(data), data.edge_index
        n, n_frames, width = len(known.pos), self.io.n_frames, self.embedding.out_features
        start = known.pos.repeat(n_frames, 1)  # frame after frame, so that edges stay sorted by receiver
        shift = n * torch.arange(n_frames, device=edge_index.device)
        edges = (edge_index.unsqueeze(1) + shift.unsqueeze(1)).flatten(1)  # [2, F * E]
        edge_attr = with_distance(known, edge_index).repeat(n_frames, 1)
        inv_degree = inverse_degree(edge_index, known.pos).repeat(n_frames, 1)

        h, pos = self.embedding(node_invariants(known)).repeat(n_frames, 1), start
        if n_frames > 1:
            h = h + self.time(self.frames.to(self.time.weight.dtype)).repeat_interleave(n, 0)
        vectors = known.vectors.mT.repeat(n_frames, 1, 1)  # [F * N, 3, V]
        for i, layer in enumerate(self.layers):
            if n_frames > 1:
                h = h + F.silu(self.mix[i](h.view(n_frames, n, width))).view(-1, width)
                channels = torch.cat([(pos - start).unsqueeze(2), vectors], 2)
                mixed = self.mix_vectors[i](channels.view(n_frames, n, 3, channels.shape[2])).view_as(channels)
                moved, vectors = (channels + mixed).split((1, vectors.shape[2]), 2)
                pos = start + moved.squeeze(2)
            h, pos = layer.step(h, pos, edges, edge_attr, vectors[..., 0], inv_degree)  # type: ignore[operator]
        pos = self.io.length * pos
        return pos if n_frames == 1 else pos.view(n_frames, n, 3).transpose(0, 1)
