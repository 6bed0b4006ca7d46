"""Convolutions over positions and orientations that are exactly equivariant: zonal kernels of limited degree."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoeq.layers.ponita_conv import Sampled, check_radius, complete, rescale
from geoeq.layers.ponita_edges import join_pairs
from geoeq.layers.ponita_kernel import KernelBasis, OrientationGrid, lengths
from geoeq.layers.ponita_sums import fiber_sum, pair_sum
from geoeq.ops.sphere import zonal_polynomials

__all__ = ["ZonalConv", "ZonalKernel"]


class ZonalKernel(nn.Module):
    r"""Kernels :math:`k_c(o, r) = \sum_{l \le L} w_{lc}(|r|)\, P_l(o \cdot \hat r)` on a quadrature of degree 3L.

    On functions of degree L, the convolution of :class:`ZonalConv` is exactly that on the whole sphere: the product
    with the kernel has degree 2L, and the mean against a second zonal kernel of degree L brings it back to L.
    :math:`P_l` comes with the factor :math:`(r^2 / (1 + r^2))^{l/2}`, which makes the kernel smooth at r = 0.

    Args:
        degree: how :class:`~geoeq.layers.ponita_kernel.KernelBasis` takes powers of the distance.
        max_degree: L.
        hidden, basis, radius, edge_dim: as for :class:`~geoeq.layers.ponita_conv.PonitaKernel`.

    Source: kernels of arXiv 1802.08219 on functions as in arXiv 2310.02970.
    """

    dim = 3

    def __init__(
        self,
        max_degree: int = 2,
        *,
        hidden: int = 128,
        basis: int = 256,
        degree: int = 3,
        radius: float | None = None,
        edge_dim: int = 0,
    ) -> None:
        super().__init__()
        if max_degree < 0:
            raise ValueError(f"max_degree must be at least 0, got {max_degree}")
        self.max_degree, self.radius, self.edge_dim = max_degree, check_radius(radius), edge_dim
        self.grid = OrientationGrid(degree=3 * max_degree)
        self.spatial = KernelBasis(1 + edge_dim, hidden, basis, degree)

    def forward(
        self, pos: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, *, add_loops: bool = False
    ) -> Sampled:
        """Distances and zonal polynomials of all edges."""
        grid = self.grid.directions.to(pos.dtype)
        pairs = join_pairs(edge_index, edge_attr, len(pos), mirror=True, add_loops=add_loops)
        offset = pos.index_select(0, pairs.sender) - pos.index_select(0, pairs.receiver)
        square = offset.square().sum(1, keepdim=True)
        distance = lengths(offset).view(-1, 1, 1)
        attr, window = complete(distance, offset, pairs, self.radius)
        zonal = zonal_polynomials(offset * (1 + square).rsqrt(), grid, self.max_degree)
        if pairs.loops is not None:
            zonal = torch.cat([zonal, zonal_polynomials(offset.new_zeros(1, 3), grid, self.max_degree)])
        fiber = zonal_polynomials(grid, grid, self.max_degree)
        return Sampled(pairs, self.spatial, attr, window, fiber, self.grid.weights.to(pos.dtype), zonal)

    def conv(self, channels: int) -> ZonalConv:
        """A convolution that fits to this kernel."""
        return ZonalConv(channels, self.spatial.outer.out_features, self.max_degree)

    def extra_repr(self) -> str:
        return f"{self.max_degree}, radius={self.radius}, edge_dim={self.edge_dim}"


class ZonalConv(nn.Module):
    r"""Separable convolution with zonal kernels.

    .. math::
        x^1_{im} = \sum_{j \in N(i)} \sum_l w_{lc}(|r|)\, P_l(o_m \cdot \hat r)\; x_{jm}, \qquad
        x^2_{ip} = \sum_m q_m \sum_l \kappa_{lc} P_l(o_p \cdot o_m)\; x^1_{im} + b

    Args:
        channels: C.
        basis: number of radial functions.
        max_degree: L.

    Shapes: as :class:`~geoeq.layers.ponita_conv.PonitaConv`, with a :class:`ZonalKernel`.

    Symmetry: E(3), exact for x that is of degree at most L on the sphere; the output is too. Relative error below
    1e-10 in float64.

    >>> kernel = ZonalKernel(2, hidden=8, basis=16)
    >>> x = torch.randn(2, len(kernel.grid), 4)
    >>> ZonalConv(4, 16, 2)(x, torch.randn(2, 3), torch.tensor([[1, 0], [0, 1]]), kernel).shape == x.shape
    True
    """

    def __init__(self, channels: int, basis: int = 256, max_degree: int = 2) -> None:
        super().__init__()
        self.max_degree = max_degree
        self.spatial = nn.Linear(basis, (max_degree + 1) * channels, bias=False)
        self.fiber = nn.Linear(max_degree + 1, channels, bias=False)
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
        rescale(self.fiber, after_positions, after_both)

    def _over_positions(self, x: Tensor, sampled: Sampled, radial: Tensor | None = None) -> Tensor:
        if radial is None:
            (radial,) = sampled.kernels([self.spatial.weight])
        assert sampled.zonal is not None
        kernel = sampled.zonal @ radial.squeeze(1).unflatten(1, (self.max_degree + 1, -1))  # [E, O, C]
        return pair_sum(x, kernel, sampled.pairs)

    def _over_orientations(self, x: Tensor, sampled: Sampled) -> Tensor:
        assert sampled.fiber is not None
        return fiber_sum(x, self.fiber(sampled.fiber) * sampled.weights.unsqueeze(1), self.bias)
