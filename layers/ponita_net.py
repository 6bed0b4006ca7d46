"""Networks of convolutions over positions and orientations, for scalars and vectors at nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.ponita_cloud import CloudKernel, lift_edges
from geoeq.layers.ponita_conv import DistanceKernel, PonitaConv, PonitaKernel, Sampled
from geoeq.layers.ponita_step import pointwise_mlp
from geoeq.layers.ponita_zonal import ZonalConv, ZonalKernel
from geoeq.ops.scatter import scatter_mean

__all__ = ["Kernel", "PonitaBlock", "PonitaNet", "PonitaTrunk", "node_rotation"]

Kernel: TypeAlias = PonitaKernel | DistanceKernel | CloudKernel | ZonalKernel
Conv: TypeAlias = PonitaConv | ZonalConv


class PonitaBlock(nn.Module):
    r"""A convolution, then an inverted bottleneck at every node and orientation.

    .. math:: y = x + s \odot W_2\,\mathrm{GELU}(W_1\,\mathrm{LayerNorm}(\mathrm{conv}(x)) + b_1) + b_2

    Args:
        conv: a convolution that keeps the shape of x.
        channels: C.
        widening: width of the inner layer over C.
        layer_scale: start of s, or None for no such factor.
    """

    def __init__(self, conv: Conv, channels: int, *, widening: int = 4, layer_scale: float | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, widening * channels)
        self.narrow = nn.Linear(widening * channels, channels)
        self.layer_scale = None if layer_scale is None else nn.Parameter(torch.full((channels,), float(layer_scale)))

    def forward(
        self, x: Tensor, sampled: Sampled, kernel: Tensor | None = None, readout: nn.Linear | None = None
    ) -> Tensor:
        """The block's output, or what ``readout`` makes of it, which is less work than one after the other."""
        weight: Tensor = self.narrow.weight
        bias: Tensor = self.narrow.bias
        residual = x
        if self.layer_scale is not None:  # a factor of the last layer's rows: no pass over the features
            weight, bias = self.layer_scale.unsqueeze(1) * weight, self.layer_scale * bias
        if readout is not None:
            weight, bias, residual = readout.weight @ weight, readout(bias), F.linear(x, readout.weight)
        norm, rows = self.norm, self.conv.step(x, sampled, kernel).flatten(0, 1)
        args = (norm.weight, norm.bias, self.widen.weight, self.widen.bias, weight, bias, norm.eps)
        return pointwise_mlp(rows, residual.flatten(0, 1), *args).view_as(residual)


class PonitaTrunk(nn.Module):
    """Embedding, blocks and the mean of their read-outs, on [N, O, channels] whatever N and O stand for."""

    blocks: Sequence[PonitaBlock]
    readouts: Sequence[nn.Linear]

    def __init__(
        self,
        convs: Sequence[Conv],
        channels_in: int,
        hidden: int,
        channels_out: int,
        *,
        widening: int,
        layer_scale: float | None,
        readouts: str,
    ) -> None:
        super().__init__()
        if not convs or readouts not in ("all", "last"):
            raise ValueError(f"readouts must be 'all' or 'last' of at least 1 layer, got {readouts!r} of {len(convs)}")
        self.embedding = nn.Linear(channels_in, hidden, bias=False)
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            PonitaBlock(conv, hidden, widening=widening, layer_scale=layer_scale) for conv in convs
        )
        n_readouts = len(convs) if readouts == "all" else 1
        self.readouts = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(hidden, channels_out) for _ in range(n_readouts)
        )

    def forward(self, x: Tensor, sampled: Sampled) -> Tensor:
        x = self.embedding(x)
        kernels = sampled.kernels([block.conv.spatial.weight for block in self.blocks])
        silent = len(self.blocks) - len(self.readouts)
        *inner, last = zip(self.blocks, kernels, strict=True)
        outs = []
        for k, (block, kernel) in enumerate(inner):
            x = block(x, sampled, kernel)
            if k >= silent:
                outs.append(self.readouts[k - silent](x))
        outs.append(last[0](x, sampled, last[1], self.readouts[-1]))
        return torch.stack(outs).mean(0)

    @torch.no_grad()
    def calibrate(self, x: Tensor, sampled: Sampled) -> None:
        x = self.embedding(x)
        for block in self.blocks:
            block.conv.calibrate(x, sampled)
            x = block(x, sampled)


class PonitaNet(nn.Module):
    r"""Scalars and vectors at nodes to scalars and vectors at nodes, through functions on a grid of orientations.

    A scalar is lifted to a constant function, a vector to :math:`v \cdot o_m`; scalars are read out as
    :math:`\sum_m q_m y_m` and vectors as :math:`\sum_m q_m y_m o_m`. Every node sends to itself too; self loops among
    the edges make no difference.

    Args:
        scalars_in, vectors_in, scalars_out, vectors_out: numbers of channels.
        kernel: grid of orientations and basis of the kernels.
        hidden, n_layers: channels and number of blocks.
        widening, layer_scale: see :class:`PonitaBlock`. The authors start s at 1e-6 for N-body data.
        readouts: ``"all"`` layers or ``"last"``.

    Shapes: ``pos [N, d]``, ``edge_index [2, E]``, ``scalars [N, scalars_in]``, ``vectors [N, vectors_in, d]``,
    ``edge_attr [E, A]``, ``rotation [d, d]`` or ``[N, d, d]``; returns ``([N, scalars_out], [N, vectors_out, d])``.

    Symmetry: translations and permutations. E(3) (in the plane SE(2)) if ``rotation``, which turns the grid of each
    node, moves with the input; without it, the rotations that map the grid to itself, and others roughly: train with
    rotated data.

    Raises:
        ValueError: for inputs of the wrong shape, positions that are not finite, or edges out of range.

    Source: arXiv 2310.02970.

    >>> net = PonitaNet(1, 1, 2, 1, PonitaKernel("octahedron", hidden=8, basis=16), hidden=8, n_layers=2)
    >>> pair = torch.tensor([[1, 0], [0, 1]])
    >>> scalars, vectors = net(torch.randn(2, 3), pair, torch.randn(2, 1), torch.randn(2, 1, 3))
    >>> scalars.shape, vectors.shape
    (torch.Size([2, 2]), torch.Size([2, 1, 3]))
    """

    def __init__(
        self,
        scalars_in: int,
        vectors_in: int,
        scalars_out: int,
        vectors_out: int,
        kernel: Kernel,
        *,
        hidden: int = 128,
        n_layers: int = 5,
        widening: int = 4,
        layer_scale: float | None = None,
        readouts: str = "all",
    ) -> None:
        super().__init__()
        sizes = (scalars_in, vectors_in, scalars_out, vectors_out)
        if min(sizes) < 0 or not scalars_in + vectors_in or not scalars_out + vectors_out:
            raise ValueError(f"channels must be >= 0 with some in and some out, got {sizes}")
        self.scalars_in, self.vectors_in, self.scalars_out, self.vectors_out = sizes
        self.kernel = kernel
        convs = [kernel.conv(hidden) for _ in range(n_layers)]
        self.trunk = PonitaTrunk(
            convs,
            scalars_in + vectors_in,
            hidden,
            scalars_out + vectors_out,
            widening=widening,
            layer_scale=layer_scale,
            readouts=readouts,
        )
        if vectors_in + vectors_out and isinstance(kernel, DistanceKernel):
            raise ValueError(f"vectors need a grid of orientations, got {vectors_in} in and {vectors_out} out")

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]

    def forward(
        self,
        pos: Tensor,
        edge_index: Tensor,
        scalars: Tensor | None = None,
        vectors: Tensor | None = None,
        edge_attr: Tensor | None = None,
        rotation: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scalars and vectors at nodes; shapes in the class docstring."""
        self._check(pos, edge_index, scalars, vectors, edge_attr)
        d, n = self.kernel.dim, len(pos)
        if rotation is not None and rotation.shape not in ((d, d), (n, d, d)):
            raise ValueError(f"rotation must be [{d}, {d}] or [N, {d}, {d}] with N = {n}, got {list(rotation.shape)}")
        if rotation is not None:  # turning the grid is turning everything else the other way
            pos = _turn(pos, rotation.mT)
            vectors = None if vectors is None else _turn(vectors, rotation.mT)
        scalars, vectors = self._run(self.trunk, pos, edge_index, scalars, vectors, edge_attr)
        return scalars, vectors if rotation is None else _turn(vectors, rotation)

    @torch.no_grad()
    def calibrate(
        self,
        pos: Tensor,
        edge_index: Tensor,
        scalars: Tensor | None = None,
        vectors: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> None:
        """Scale the kernels, layer by layer, so that convolutions keep standard deviations on this batch."""
        self._check(pos, edge_index, scalars, vectors, edge_attr)

        def scale(x: Tensor, sampled: Sampled) -> Tensor:
            self.trunk.calibrate(x, sampled)
            return self.trunk(x, sampled)

        self._run(scale, pos, edge_index, scalars, vectors, edge_attr)

    def _run(
        self,
        trunk: Callable[[Tensor, Sampled], Tensor],
        pos: Tensor,
        edge_index: Tensor,
        scalars: Tensor | None,
        vectors: Tensor | None,
        edge_attr: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        kernel, n = self.kernel, len(pos)
        if isinstance(kernel, CloudKernel):
            cloud = lift_edges(pos, edge_index, edge_attr)
            axes, base = cloud.orientation.unsqueeze(1), cloud.receiver  # [N', 1, d]
            scalars = None if scalars is None else scalars.index_select(0, base)
            vectors = None if vectors is None else vectors.index_select(0, base)
            y = trunk(self._lift(scalars, vectors, axes), kernel(cloud))
            scalars, vectors = self._read(y, axes, y.new_ones(1))
            return scatter_mean(scalars, base, n), scatter_mean(vectors, base, n)
        if isinstance(kernel, DistanceKernel):  # one function of position: no direction to project on
            axes = pos.new_zeros(1, self.kernel.dim).expand(n, -1, -1)
        else:
            axes = kernel.grid.directions.to(pos.dtype).expand(n, -1, -1)
        sampled = kernel(pos, edge_index, edge_attr, add_loops=True)
        return self._read(trunk(self._lift(scalars, vectors, axes), sampled), axes, sampled.weights)

    def _lift(self, scalars: Tensor | None, vectors: Tensor | None, axes: Tensor) -> Tensor:
        lifted = []
        if scalars is not None:
            lifted.append(scalars.unsqueeze(1).expand(-1, axes.shape[1], -1))
        if vectors is not None:
            lifted.append(axes @ vectors.mT)
        return torch.cat(lifted, 2)

    def _read(self, y: Tensor, axes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        y = y.to(axes.dtype) * weights.unsqueeze(1)
        scalars, vectors = y.split([self.scalars_out, self.vectors_out], 2)
        return scalars.sum(1), vectors.mT @ axes

    def _check(
        self, pos: Tensor, edge_index: Tensor, scalars: Tensor | None, vectors: Tensor | None, edge_attr: Tensor | None
    ) -> None:
        dim = self.kernel.dim
        if pos.dim() != 2 or pos.shape[1] != dim:
            raise ValueError(f"pos must be [N, {dim}], got {list(pos.shape)}")
        check_graph(F.pad(pos, (0, 3 - dim)), edge_index, edge_attr, self.kernel.edge_dim)
        check_values(pos, edge_index)
        for name, value, width in (("scalars", scalars, self.scalars_in), ("vectors", vectors, self.vectors_in)):
            shape = (len(pos), width) if name == "scalars" else (len(pos), width, dim)
            if (None if value is None else tuple(value.shape)) != (shape if width else None):
                expected = list(shape) if width else None
                raise ValueError(f"{name} must be {expected}, got {None if value is None else list(value.shape)}")


def node_rotation(data: Data) -> Tensor | None:
    """``data.rotation``: [3, 3] for all nodes, or [N, 3, 3] where every graph has its own, stacked to [3 B, 3]."""
    rotation = data.get("rotation")
    if rotation is None or rotation.shape == (3, 3):
        return rotation
    n_graphs = getattr(data, "num_graphs", 1)
    if rotation.shape not in ((3 * n_graphs, 3), (n_graphs, 3, 3)):
        raise ValueError(f"rotation must be [3, 3] for each of {n_graphs} graphs, got {list(rotation.shape)}")
    rotation = rotation.reshape(-1, 3, 3)
    return rotation[0] if n_graphs == 1 else rotation[data.batch]


def _turn(rows: Tensor, rotation: Tensor) -> Tensor:
    """Row vectors [N, d] or [N, V, d] turned by ``rotation``, [d, d] or one for each node [N, d, d]."""
    if rotation.dim() == 3 and rows.dim() == 2:
        return (rotation @ rows.unsqueeze(2)).squeeze(2)
    return rows @ rotation.mT
