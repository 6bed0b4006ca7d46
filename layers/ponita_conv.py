"""Convolutions over positions and orientations, and the kernels that their layers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geoeq.layers.ponita_edges import Pairs, join_pairs
from geoeq.layers.ponita_kernel import KernelBasis, OrientationGrid, invariants, lengths, polynomial_window
from geoeq.layers.ponita_sums import fiber_sum, pair_sum

__all__ = ["DistanceKernel", "PonitaConv", "PonitaKernel", "Sampled"]


class Sampled(NamedTuple):
    """What the kernels of all layers depend on at the pairs of one batch."""

    pairs: Pairs
    basis: KernelBasis
    attr: Tensor  # [P, O, A], or with loops [P + 1, O, A]
    window: Tensor | None  # the same number of rows
    fiber: Tensor | None  # basis [O, O, B], or None where there is no orientation axis
    weights: Tensor  # [O], of a mean over orientations
    zonal: Tensor | None = None  # [P, O, L + 1], of zonal kernels only

    def kernels(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Spatial kernels [P, O, C] of several layers, best asked for together, given their maps [C, B]."""
        return self.basis.kernels(self.attr, self.window, weights)


class PonitaKernel(nn.Module):
    r"""Grid of orientations and the bases of the separable kernels on it, shared by the layers of a network.

    .. math:: \phi_{pm} = w(|r_p|)\, f\big(o_m \cdot r_p,\ |r_p - (o_m \cdot r_p)\, o_m|\big), \qquad
              \psi_{pm} = g(o_p \cdot o_m)

    with r the position of the sender minus that of the receiver. Reversing an edge changes the sign of
    :math:`o \cdot r` alone, so that where the grid holds opposite pairs and the graph is undirected, one direction of
    each pair of nodes is evaluated. Self loops all have r = 0 and are evaluated once.

    Args:
        grid: orientations: a name, an even number, or unit vectors, see :class:`OrientationGrid`.
        dim: 2 or 3, the dimension of space.
        hidden, basis, degree: see :class:`KernelBasis`.
        radius: where the kernel ends; None: nowhere.
        edge_dim: number of invariant edge features, which become further invariants of the pair.

    Shapes: ``pos [N, dim]``, ``edge_index [2, E]``, ``edge_attr [E, edge_dim]``; returns :class:`Sampled`.

    Source: arXiv 2310.02970.
    """

    def __init__(
        self,
        grid: str | int | Tensor = 16,
        *,
        dim: int = 3,
        hidden: int = 128,
        basis: int = 256,
        degree: int = 3,
        radius: float | None = None,
        edge_dim: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.radius, self.edge_dim = dim, check_radius(radius), edge_dim
        self.grid = OrientationGrid(grid, dim=dim)
        self.spatial = KernelBasis(2 + edge_dim, hidden, basis, degree)
        self.fiber = KernelBasis(1, hidden, basis, degree)

    def forward(
        self, pos: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, *, add_loops: bool = False
    ) -> Sampled:
        """Basis functions of all pairs; ``add_loops`` gives every node exactly one self loop."""
        grid = self.grid.directions.to(pos.dtype)
        pairs = join_pairs(edge_index, edge_attr, len(pos), mirror=self.grid.symmetric, add_loops=add_loops)
        offset = pos.index_select(0, pairs.sender) - pos.index_select(0, pairs.receiver)
        attr, window = complete(invariants(offset, grid), offset, pairs, self.radius)
        fiber = self.fiber((grid @ grid.T).unsqueeze(2))
        return Sampled(pairs, self.spatial, attr, window, fiber, self.grid.weights.to(pos.dtype))

    def conv(self, channels: int) -> PonitaConv:
        """A convolution that fits to this kernel."""
        return PonitaConv(channels, self.spatial.outer.out_features)

    def extra_repr(self) -> str:
        return f"radius={self.radius}, edge_dim={self.edge_dim}"


class DistanceKernel(nn.Module):
    r"""Basis functions of the distance alone, without orientations (PNITA): one function per node, scalars only.

    Args:
        dim, hidden, basis, degree, radius, edge_dim: as for :class:`PonitaKernel`.
    """

    def __init__(
        self,
        *,
        dim: int = 3,
        hidden: int = 128,
        basis: int = 256,
        degree: int = 3,
        radius: float | None = None,
        edge_dim: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.radius, self.edge_dim = dim, check_radius(radius), edge_dim
        self.spatial = KernelBasis(1 + edge_dim, hidden, basis, degree)

    def forward(
        self, pos: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, *, add_loops: bool = False
    ) -> Sampled:
        """Basis functions of all pairs; ``add_loops`` gives every node exactly one self loop."""
        pairs = join_pairs(edge_index, edge_attr, len(pos), mirror=True, add_loops=add_loops)
        offset = pos.index_select(0, pairs.sender) - pos.index_select(0, pairs.receiver)
        distance = lengths(offset).view(-1, 1, 1)
        attr, window = complete(distance, offset, pairs, self.radius)
        return Sampled(pairs, self.spatial, attr, window, None, pos.new_ones(1))

    def conv(self, channels: int) -> PonitaConv:
        """A convolution that fits to this kernel."""
        return PonitaConv(channels, self.spatial.outer.out_features, fiber=False)


def complete(attr: Tensor, offset: Tensor, pairs: Pairs, radius: float | None) -> tuple[Tensor, Tensor | None]:
    """Invariants [P, O, A] with those of edges and of the row for loops, and the factor of each row, if not 1."""
    if pairs.edge_attr is not None:
        attr = torch.cat([attr, pairs.edge_attr.unsqueeze(1).expand(-1, attr.shape[1], -1)], 2)
    if pairs.loops is not None:
        attr = torch.cat([attr, attr.new_zeros(1, *attr.shape[1:])])
    if radius is None and pairs.keep is None:
        return attr, None
    window = offset.new_ones(len(offset))
    if radius is not None:
        window = polynomial_window(lengths(offset), radius)
    if pairs.keep is not None:
        window = window * pairs.keep.to(window.dtype)
    return attr, torch.cat([window, window.new_ones(len(attr) - len(window))])


def check_radius(radius: float | None) -> float | None:
    if radius is not None and radius <= 0:
        raise ValueError(f"radius must be positive or None, got {radius}")
    return radius


class PonitaConv(nn.Module):
    r"""Depthwise separable convolution over positions and orientations.

    .. math::
        x^1_{im} &= \sum_{j \in N(i)} (W_1 \phi_{ijm}) \odot x_{jm}, \\
        x^2_{ip} &= \sum_m q_m\, (W_2 \psi_{pm}) \odot x^1_{im} + b,

    with the basis functions :math:`\phi, \psi` and the weights q of :class:`~geoeq.layers.ponita_kernel.PonitaKernel`.
    The sum over neighbours is plain: :meth:`calibrate` sets the scale.

    Args:
        channels: C.
        basis: number of basis functions B of the kernel.
        fiber: whether the second sum is there; without an orientation axis it is not.

    Shapes: ``x [N, O, C]``, ``pos [N, d]``, ``edge_index [2, E]`` (sender, receiver), ``edge_attr [E, A]``; returns
    ``[N, O, C]``.

    Symmetry: translations; E(3) (in the plane SE(2)) if the grid moves with the positions; on its fixed grid the
    rotations that map the grid to itself.

    Source: arXiv 2310.02970.

    >>> kernel = PonitaKernel("octahedron", hidden=8, basis=16)
    >>> conv = PonitaConv(4, 16)
    >>> conv(torch.randn(2, 6, 4), torch.randn(2, 3), torch.tensor([[1, 0], [0, 1]]), kernel).shape
    torch.Size([2, 6, 4])
    """

    def __init__(self, channels: int, basis: int = 256, *, fiber: bool = True) -> None:
        super().__init__()
        if channels < 1 or basis < 1:
            raise ValueError(f"channels and basis must be >= 1, got {channels} and {basis}")
        self.spatial = nn.Linear(basis, channels, bias=False)
        self.fiber = nn.Linear(basis, channels, bias=False) if fiber else None
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Tensor, pos: Tensor, edge_index: Tensor, kernel: nn.Module, edge_attr: Tensor | None = None
    ) -> Tensor:
        """The convolution along the given edges; shapes in the class docstring."""
        return self.step(x, kernel(pos, edge_index, edge_attr))

    def step(self, x: Tensor, sampled: Sampled, kernel: Tensor | None = None) -> Tensor:
        """:meth:`forward` given what several layers share; ``kernel`` is this layer's of ``sampled.kernels``."""
        return self._over_orientations(self._over_positions(x, sampled, kernel), sampled)

    @torch.no_grad()
    def calibrate(self, x: Tensor, sampled: Sampled) -> None:
        """Scale both kernels so that each sum keeps the standard deviation of its input."""
        after_positions = self._over_positions(x, sampled)
        after_both = self._over_orientations(after_positions, sampled) - self.bias
        rescale(self.spatial, x, after_positions)
        if self.fiber is not None:
            rescale(self.fiber, after_positions, after_both)

    def _over_positions(self, x: Tensor, sampled: Sampled, kernel: Tensor | None = None) -> Tensor:
        if kernel is None:
            (kernel,) = sampled.kernels([self.spatial.weight])
        return pair_sum(x, kernel, sampled.pairs)

    def _over_orientations(self, x: Tensor, sampled: Sampled) -> Tensor:
        if self.fiber is None or sampled.fiber is None:
            return x + self.bias
        return fiber_sum(x, self.fiber(sampled.fiber) * sampled.weights.unsqueeze(1), self.bias)


@torch.no_grad()
def rescale(kernel: nn.Linear, before: Tensor, after: Tensor) -> None:
    """Scale a kernel by the ratio of standard deviations, unless there is none."""
    if before.numel() > 1:
        scale = before.std() / after.std()
        kernel.weight *= torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
