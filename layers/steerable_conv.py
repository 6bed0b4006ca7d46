"""Convolution of steerable features: Clebsch-Gordan products with the spherical harmonics of the edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.radial import KINDS, RadialBasis, polynomial_cutoff
from geoeq.layers.typed_linear import TypedLinear
from geoeq.ops.neighbours import Neighbours
from geoeq.ops.scatter import scatter_softmax
from geoeq.ops.sphere import spherical_harmonics
from geoeq.ops.tensor_product import TensorProduct, tensor_product_scatter
from geoeq.reps import Irreps

__all__ = ["SteerableConv", "edge_harmonics", "reachable_irreps"]


class SteerableConv(nn.Module):
    r"""Messages are products of the sender's features with the edge's spherical harmonics, path by path.

    .. math::
        h_i' = W' \sum_{j \in N(i)} \alpha_{ij} \Big[ (W h_j)^{l_1} \otimes_{w(|r_{ij}|)}
        Y^{l_2}(\hat r_{ij}) \Big]^{l_3}, \qquad r_{ij} = x_j - x_i,

    with one weight per path and channel from a radial network on the length and on invariant edge features; messages
    end smoothly at the cut-off. Without attention :math:`\alpha` is one over the root of ``neighbours``; with it,

    .. math::
        \alpha_{ij} = \mathrm{softmax}_j\; a\big(s_i, s_j, |r_{ij}|\big)

    for the scalars :math:`s` of both ends. :math:`W, W'` are typed linear maps, so the layer can be softened.

    Args:
        irreps_in: node features.
        irreps_out: result.
        lmax: highest degree :math:`l_2` of the harmonics.
        cutoff: where messages end, in the unit of the positions.
        n_basis: radial functions.
        radial: their kind, ``"bessel"`` or ``"gaussian"``, see :class:`~geoeq.layers.RadialBasis`.
        hidden: width of the radial network.
        edge_dim: number of invariant edge features.
        neighbours: typical number of incoming edges.
        attention: whether messages are weighed by attention.

    Shapes: ``x [N, irreps_in.dim]``, ``pos [N, 3]``, ``edge_index [2, E]`` (sender, receiver),
    ``edge_attr [E, edge_dim]``; returns ``[N, irreps_out.dim]``. ``graph``, the :func:`geoeq.ops.neighbours` of the
    edges, spares a GPU sorting them in every layer.

    Symmetry: E(3), exact; relative error below 1e-10 in float64 and 1e-5 in float32. Where two nodes coincide an edge
    has no direction, and only degree 0 of the harmonics is felt.

    Raises:
        ValueError: for sizes that cannot be used, a result that no path reaches, inputs of the wrong shape, non-finite
            positions, or edges out of range.

    Source: arXiv 1802.08219 (tensor field networks), arXiv 2101.03164 (one weight per path and channel),
    arXiv 2206.11990 (attention).

    >>> conv = SteerableConv("8x0e + 4x1o", "8x0e + 4x1o + 2x2e", cutoff=3.0)
    >>> conv(torch.randn(2, 20), torch.randn(2, 3), torch.tensor([[1, 0], [0, 1]])).shape
    torch.Size([2, 30])
    """

    def __init__(
        self,
        irreps_in: Irreps | str,
        irreps_out: Irreps | str,
        lmax: int = 2,
        *,
        cutoff: float,
        n_basis: int = 8,
        hidden: int = 32,
        edge_dim: int = 0,
        neighbours: float = 1.0,
        attention: bool = False,
        radial: str = "bessel",
    ) -> None:
        super().__init__()
        irreps_in, irreps_out = Irreps(irreps_in), Irreps(irreps_out)
        if lmax < 0 or hidden < 1 or edge_dim < 0 or not neighbours > 0:
            raise ValueError(
                "lmax and edge_dim must be >= 0, hidden >= 1 and neighbours > 0, "
                f"got {lmax}, {edge_dim}, {hidden} and {neighbours}"
            )
        if radial not in KINDS:
            raise ValueError(f"radial must be one of {list(KINDS)}, got {radial!r}")
        self.width, self.lmax, self.edge_dim = irreps_in.dim, lmax, edge_dim
        self.scale = 1.0 if attention else neighbours**-0.5
        harmonics = Irreps.spherical_harmonics(lmax)
        middle, instructions = _paths(irreps_in, harmonics, irreps_out)
        self.product = TensorProduct(irreps_in, harmonics, middle, instructions=instructions)
        self.linear_in = TypedLinear(irreps_in, irreps_in, bias=False)
        self.linear_out = TypedLinear(middle, irreps_out, bias=False)
        self.basis = RadialBasis(n_basis, cutoff, kind=radial, window=False)
        self.radial = _perceptron(n_basis + edge_dim, hidden, self.product.weight_numel)
        self.scalars = [s for s, block in zip(irreps_in.slices(), irreps_in, strict=True) if block.ir.is_scalar()]
        self.logits = None
        if attention:
            n_scalars = irreps_in.count("0e")
            self.logits = _perceptron(2 * n_scalars + n_basis + edge_dim, hidden, 1)

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        *,
        graph: Neighbours | None = None,
    ) -> Tensor:
        check_graph(pos, edge_index, edge_attr, self.edge_dim, h=x, width=self.width)
        check_values(pos, edge_index)
        length, harmonics = edge_harmonics(pos, edge_index, self.lmax)
        basis = self.basis(length)
        features = basis if edge_attr is None else torch.cat([basis, edge_attr], 1)
        window = polynomial_cutoff(length, self.basis.cutoff).unsqueeze(1)
        weight = self.radial(features) * window * self.scale
        if self.logits is not None:
            weight = weight * self._attention(x, features, window, edge_index)
        summed = tensor_product_scatter(self.product, self.linear_in(x), harmonics, weight, edge_index, len(x), graph)
        return self.linear_out(summed)

    def _attention(self, x: Tensor, features: Tensor, window: Tensor, edge_index: Tensor) -> Tensor:
        """Share of each edge in the messages of its receiver [E, 1]; it fades with the window."""
        assert self.logits is not None
        scalars = torch.cat([x[:, part] for part in self.scalars], 1) if self.scalars else x[:, :0]
        ends = [scalars.index_select(0, end) for end in edge_index]
        logits = self.logits(torch.cat([*ends, features], 1))
        fading = logits + window.clamp(min=torch.finfo(window.dtype).tiny).log()
        return scatter_softmax(fading, edge_index[1], len(x))


def edge_harmonics(pos: Tensor, edge_index: Tensor, lmax: int) -> tuple[Tensor, Tensor]:
    """Lengths [E] of the edges and spherical harmonics [E, (lmax + 1)^2] of their directions, sender minus receiver.

    Harmonics are normalised by component. An edge of length 0 has those of degree 0 alone, and finite gradients.

    >>> edge_harmonics(torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), torch.tensor([[1, 0], [0, 0]]), 1)[0]
    tensor([2., 0.])
    """
    offset = pos.index_select(0, edge_index[0]) - pos.index_select(0, edge_index[1])
    square = offset.square().sum(1, keepdim=True)
    apart = square > 0
    length = torch.where(apart, square, 1.0).sqrt()
    harmonics = spherical_harmonics(lmax, torch.where(apart, offset / length, 0.0), "component")
    directed = torch.where(apart, harmonics, 0.0)[:, 1:]
    return torch.where(apart, length, 0.0).squeeze(1), torch.cat([harmonics[:, :1], directed], 1)


def reachable_irreps(irreps: Irreps | str, lmax: int) -> Irreps:
    """All irreps, once each, that products of ``irreps`` with spherical harmonics up to ``lmax`` contain.

    >>> reachable_irreps("4x0e + 1x1o", 1)
    1x0e+1x1o+1x1e+1x2e
    """
    found = {out for _, ir in Irreps(irreps) for _, y in Irreps.spherical_harmonics(lmax) for out in ir * y}
    return Irreps(sorted((1, ir) for ir in found))


def _paths(irreps: Irreps, harmonics: Irreps, irreps_out: Irreps) -> tuple[Irreps, list[tuple]]:
    """The result of every path that ``irreps_out`` has a use for, sorted by irrep, and its instructions."""
    wanted = {ir for _, ir in irreps_out}
    found = [
        (mul, out, i, k) for i, (mul, ir) in enumerate(irreps) for k, (_, y) in enumerate(harmonics) for out in ir * y
    ]
    found = sorted((path for path in found if path[1] in wanted), key=lambda path: path[1])
    missing = wanted - {path[1] for path in found}
    if missing:
        raise ValueError(f"irreps_out must be reached by {irreps} x {harmonics}, got {min(missing)} in {irreps_out}")
    middle = Irreps([(mul, ir) for mul, ir, _, _ in found])
    return middle, [(i, k, out, "uvu", True) for out, (_, _, i, k) in enumerate(found)]


def _perceptron(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, hidden), nn.SiLU(), nn.Linear(hidden, width_out))
