"""PONITA that forecasts motion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.checks import check_graph
from geoeq.layers.ponita_cloud import CloudKernel
from geoeq.layers.ponita_conv import PonitaKernel
from geoeq.layers.ponita_net import PonitaNet, node_rotation
from geoeq.layers.ponita_zonal import ZonalKernel

__all__ = ["Ponita"]


class Ponita(nn.Module):
    r"""PONITA that predicts where each body will be: ``model(data) -> [N, 3]``.

    .. math:: \hat y_i = x_i + \sum_m q_m\, f_{im}(z, v, x)\, o_m

    with charge and further node features z as scalars and the velocity v as a vector.

    Args:
        grid: orientations: a name, an even number, or unit vectors [O, 3]; ``"edges"`` for a cloud of positions and
            orientations with one element for each edge.
        node_dim: columns of ``data.x``, invariant node features besides the charge.
        edge_dim: columns of ``data.edge_attr`` that the kernel sees; 0 ignores it, as the authors do.
        hidden, n_layers, basis, degree, radius, widening, layer_scale, readouts: see :class:`PonitaNet` and
            :class:`~geoeq.layers.ponita_conv.PonitaKernel`.
        zonal: None, or the highest degree of a zonal kernel, see :class:`~geoeq.layers.ponita_zonal.ZonalKernel`;
            ``grid`` is then its quadrature.

    Shapes: ``data.pos [N, 3]``, ``data.vel [N, 3]``, ``data.charge [N, 1]``, ``data.edge_index [2, E]`` (sender,
    receiver), ``data.x [N, node_dim]``, ``data.edge_attr [E, edge_dim]``, and optionally ``data.rotation``, which
    turns the grid: [3, 3], or [3 B, 3] for B graphs that have one each; returns ``[N, 3]``.

    Symmetry: that of :class:`PonitaNet`; with ``grid="edges"`` E(3), relative error below 1e-10 in float64.

    Raises:
        ValueError: for an unusable size, an input that is missing or of the wrong shape, positions that are not
            finite, or edges out of range.

    Source: arXiv 2310.02970.

    >>> pair = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), charge=torch.ones(2, 1),
    ...             edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> Ponita("octahedron", hidden=8, basis=16, n_layers=2)(pair).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        grid: str | int | Tensor = 16,
        *,
        node_dim: int = 0,
        edge_dim: int = 0,
        hidden: int = 128,
        n_layers: int = 5,
        basis: int = 256,
        degree: int = 3,
        radius: float | None = None,
        zonal: int | None = None,
        widening: int = 4,
        layer_scale: float | None = 1e-6,
        readouts: str = "all",
    ) -> None:
        super().__init__()
        if node_dim < 0 or edge_dim < 0:
            raise ValueError(f"node_dim and edge_dim must be >= 0, got {node_dim} and {edge_dim}")
        self.node_dim, self.edge_dim = node_dim, edge_dim
        sizes: dict[str, Any] = {"hidden": hidden, "basis": basis, "degree": degree, "edge_dim": edge_dim}
        kernel: nn.Module
        if zonal is not None:
            kernel = ZonalKernel(zonal, radius=radius, **sizes)
        elif isinstance(grid, str) and grid == "edges":
            kernel = CloudKernel(radius=radius, **sizes)
        else:
            kernel = PonitaKernel(grid, radius=radius, **sizes)
        options: dict[str, Any] = {"widening": widening, "layer_scale": layer_scale, "readouts": readouts}
        self.net = PonitaNet(1 + node_dim, 1, 0, 1, kernel, hidden=hidden, n_layers=n_layers, **options)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.net.reset_parameters()

    def calibrate(self, data: Data) -> None:
        """Scale the kernels on this batch, see :meth:`PonitaNet.calibrate`."""
        self.net.calibrate(*self._inputs(data))

    def forward(self, data: Data) -> Tensor:
        """Predicted positions [N, 3]."""
        _, shift = self.net(*self._inputs(data), rotation=node_rotation(data))
        return data.pos + shift.squeeze(1)

    def _inputs(self, data: Data) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        pos, edge_attr = data.pos, data.edge_attr if self.edge_dim else None
        check_graph(pos, data.edge_index, edge_attr, self.edge_dim, vel=data.get("vel"))
        scalars = []
        wanted = {"vel": (len(pos), 3), "charge": (len(pos), 1), "x": (len(pos), self.node_dim)}
        for name, shape in wanted.items():
            value = data.get(name)
            if shape[1] and (value is None or value.shape != shape):
                raise ValueError(f"{name} must be {list(shape)}, got {None if value is None else list(value.shape)}")
            if shape[1] and name != "vel":
                scalars.append(value)
        return pos, data.edge_index, torch.cat(scalars, 1), data.vel.unsqueeze(1), edge_attr
