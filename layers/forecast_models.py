"""PONITA and steerable networks as forecasting models on the graphs that TypedMPNN takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.forecast_io import ForecastIO
from geoeq.layers.ponita_cloud import CloudKernel
from geoeq.layers.ponita_conv import PonitaKernel
from geoeq.layers.ponita_net import Kernel, PonitaNet, node_rotation
from geoeq.layers.ponita_zonal import ZonalKernel
from geoeq.layers.steerable_net import SteerableNet
from geoeq.reps import Irreps

__all__ = ["PonitaForecast", "SteerableForecast"]


class PonitaForecast(nn.Module):
    r"""PONITA that forecasts one or several frames: :math:`\hat y_{if} = x_i + \ell \sum_m q_m\, y_{imf}\, o_m`.

    Scalars are charge or ``data.x``; vectors are the velocity and the steps between past frames.

    Args:
        grid: orientations: a name, an even number, or unit vectors [O, 3]; ``"edges"`` for a cloud of positions and
            orientations with one element for each edge.
        node_dim, edge_dim, history, n_frames, length: see :class:`~geoeq.layers.ForecastIO`.
        hidden, n_layers, basis, degree, radius, widening, layer_scale, readouts, zonal: as for
            :class:`~geoeq.layers.Ponita`; ``radius`` is in units of ``length``.

    Shapes: as :class:`~geoeq.layers.ForecastIO`, and optionally ``data.rotation``, which turns the grid: [3, 3], or
    [3 B, 3] for B graphs that have one each; returns ``[N, 3]``, or ``[N, n_frames, 3]`` for more than one frame.

    Symmetry: that of :class:`~geoeq.layers.PonitaNet`; with ``grid="edges"`` E(3), relative error below 1e-10 in
    float64.

    Raises:
        ValueError: for an unusable size, an input that is missing or of the wrong shape, positions that are not
            finite, or edges out of range.

    Source: arXiv 2310.02970.

    >>> pair = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), charge=torch.ones(2, 1), edge_attr=torch.ones(2, 1),
    ...             edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> PonitaForecast("octahedron", hidden=8, basis=16, n_layers=2, n_frames=3)(pair).shape
    torch.Size([2, 3, 3])
    """

    def __init__(
        self,
        grid: str | int | Tensor = 16,
        *,
        node_dim: int | None = None,
        edge_dim: int = 1,
        history: int = 0,
        n_frames: int = 1,
        length: float = 1.0,
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
        self.io = ForecastIO(node_dim=node_dim, edge_dim=edge_dim, history=history, n_frames=n_frames, length=length)
        sizes: dict[str, Any] = {"hidden": hidden, "basis": basis, "degree": degree, "edge_dim": edge_dim}
        kernel: Kernel
        if zonal is not None:
            kernel = ZonalKernel(zonal, radius=radius, **sizes)
        elif isinstance(grid, str) and grid == "edges":
            kernel = CloudKernel(radius=radius, **sizes)
        else:
            kernel = PonitaKernel(grid, radius=radius, **sizes)
        options: dict[str, Any] = {"widening": widening, "layer_scale": layer_scale, "readouts": readouts}
        widths = (self.io.n_scalars, self.io.n_vectors, 0, n_frames)
        self.net = PonitaNet(*widths, kernel, hidden=hidden, n_layers=n_layers, **options)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.net.reset_parameters()

    def calibrate(self, data: Data) -> None:
        """Scale the kernels on this batch, see :meth:`~geoeq.layers.PonitaNet.calibrate`."""
        self.net.calibrate(*self._inputs(data))

    def forward(self, data: Data) -> Tensor:
        """Predicted positions [N, 3] or [N, n_frames, 3]."""
        _, moved = self.net(*self._inputs(data), rotation=node_rotation(data))
        return self.io.forecast(data.pos, moved)

    def _inputs(self, data: Data) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
        known = self.io(data)
        scalars = known.scalars if self.io.n_scalars else None
        return known.pos, data.edge_index, scalars, known.vectors, known.edge_attr


class SteerableForecast(nn.Module):
    r"""Steerable network that forecasts one or several frames: :math:`\hat y_{if} = x_i + \ell\, (W h_i^{(L)})_f`.

    Node features start from charge or ``data.x``, velocity, the steps between past frames, and the squared lengths of
    these vectors.

    Args:
        hidden: features between the layers, scalars first.
        n_layers: number of convolutions.
        cutoff: where messages end, in units of ``length``.
        node_dim, edge_dim, history, n_frames, length: see :class:`~geoeq.layers.ForecastIO`.
        lmax, n_basis, neighbours, attention, radial: as for :class:`~geoeq.layers.SteerableConv`.

    Shapes: as :class:`~geoeq.layers.ForecastIO`; returns ``[N, 3]``, or ``[N, n_frames, 3]`` for more than one frame.

    Symmetry: E(3) and permutations of the nodes, exact; relative error below 1e-10 in float64.

    Raises:
        ValueError: for an unusable size, an input that is missing or of the wrong shape, positions that are not
            finite, or edges out of range.

    Source: arXiv 2110.02905.

    >>> pair = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), charge=torch.ones(2, 1), edge_attr=torch.ones(2, 1),
    ...             edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> SteerableForecast("8x0e + 4x1o", n_layers=2, n_frames=3)(pair).shape
    torch.Size([2, 3, 3])
    """

    def __init__(
        self,
        hidden: Irreps | str = "32x0e + 16x1o + 8x2e",
        n_layers: int = 4,
        *,
        cutoff: float = 10.0,
        node_dim: int | None = None,
        edge_dim: int = 1,
        history: int = 0,
        n_frames: int = 1,
        length: float = 1.0,
        lmax: int = 2,
        n_basis: int = 16,
        neighbours: float = 4.0,
        attention: bool = False,
        radial: str = "bessel",
    ) -> None:
        super().__init__()
        self.io = ForecastIO(node_dim=node_dim, edge_dim=edge_dim, history=history, n_frames=n_frames, length=length)
        n_scalars, n_vectors = self.io.n_scalars, self.io.n_vectors
        options: dict[str, Any] = {"lmax": lmax, "n_basis": n_basis, "neighbours": neighbours}
        options |= {"attention": attention, "radial": radial}
        known, wanted = Irreps([(n_scalars + n_vectors, "0e"), (n_vectors, "1o")]), Irreps([(n_frames, "1o")])
        self.net = SteerableNet(known, wanted, hidden, n_layers, cutoff=cutoff, edge_dim=edge_dim, **options)

    def forward(self, data: Data) -> Tensor:
        """Predicted positions [N, 3] or [N, n_frames, 3]."""
        known = self.io(data)
        x = torch.cat([known.scalars, known.vectors.square().sum(2), known.vectors.flatten(1)], 1)
        moved = self.net(x, known.pos, data.edge_index, known.edge_attr)
        return self.io.forecast(data.pos, moved.view(len(x), self.io.n_frames, 3))
