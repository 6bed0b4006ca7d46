"""Networks of steerable or Gaunt convolutions, a forecast of positions, and energies with forces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from e3nn.o3 import Irrep
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.gate import NormGate
from geoeq.layers.gaunt_conv import GauntConv, degree_irreps
from geoeq.layers.irreps_norm import IrrepsLayerNorm
from geoeq.layers.steerable_conv import SteerableConv, reachable_irreps
from geoeq.layers.typed_linear import TypedLinear
from geoeq.ops.backends import choose_backend
from geoeq.ops.neighbours import neighbours
from geoeq.ops.scatter import scatter_sum
from geoeq.reps import Irreps

__all__ = ["EnergyForces", "GauntNet", "SteerableMPNN", "SteerableNet"]


class _ResidualNet(nn.Module):
    r"""Residual net, :math:`h \leftarrow h + W\, \mathrm{gate}(W' [h, \mathrm{conv}(\mathrm{norm}\, h)])`."""

    def __init__(
        self,
        irreps_in: Irreps | str,
        irreps_out: Irreps | str,
        hidden: Irreps,
        convs: list[nn.Module],
        lmax: int,
    ) -> None:
        super().__init__()
        if not convs:
            raise ValueError("n_layers must be at least 1, got 0")
        _check_reached(Irreps(irreps_in), Irreps(irreps_out), hidden, len(convs), lmax)
        gate = NormGate(hidden)
        self.gate = gate
        self.embed = TypedLinear(irreps_in, hidden)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(IrrepsLayerNorm(hidden) for _ in convs)
        self.mixes = nn.ModuleList(TypedLinear((hidden + hidden), gate.irreps_in) for _ in convs)
        self.updates = nn.ModuleList(TypedLinear(gate.irreps_out, hidden) for _ in convs)
        self.readout = TypedLinear(hidden, irreps_out)

    def forward(self, x: Tensor, pos: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        h = self.embed(x)
        graph = neighbours(edge_index, len(pos)) if choose_backend(h, "triton") == "triton" else None
        for conv, norm, mix, update in zip(self.convs, self.norms, self.mixes, self.updates, strict=True):
            h = h + update(self.gate(mix(torch.cat([h, conv(norm(h), pos, edge_index, edge_attr, graph=graph)], 1))))
        return self.readout(h)


def _check_reached(irreps_in: Irreps, irreps_out: Irreps, hidden: Irreps, n_layers: int, lmax: int) -> None:
    """Raise a ValueError if a part of the result would stay zero, or a constant, whatever the weights."""
    kept = {ir for mul, ir in hidden if mul}
    reached = kept & ({ir for mul, ir in irreps_in if mul} | {Irrep("0e")})  # biases are scalars
    for _ in range(n_layers):
        products = {ir for _, ir in reachable_irreps(Irreps([(1, ir) for ir in reached]), lmax)}
        reached |= kept & products
    missing = {ir for mul, ir in irreps_out if mul} - reached
    if missing:
        way = f"{irreps_in} through {n_layers} layers of {hidden} with lmax = {lmax}"
        raise ValueError(f"irreps_out must be reached from {way}, got {min(missing)} in {irreps_out}")


class SteerableNet(_ResidualNet):
    r"""Residual network of :class:`~geoeq.layers.SteerableConv` layers.

    .. math:: h \leftarrow h + W\, \mathrm{gate}\big(W' [h,\ \mathrm{conv}(\mathrm{norm}\, h)]\big)

    Args:
        irreps_in: node features.
        irreps_out: result for each node.
        hidden: features between the layers, scalars first.
        n_layers: number of convolutions.
        cutoff: where messages end, in the unit of the positions.
        lmax, n_basis, edge_dim, neighbours, attention, radial: as for :class:`~geoeq.layers.SteerableConv`.

    Shapes: ``x [N, irreps_in.dim]``, ``pos [N, 3]``, ``edge_index [2, E]`` (sender, receiver),
    ``edge_attr [E, edge_dim]``; returns ``[N, irreps_out.dim]``.

    Symmetry: E(3), exact.

    Raises:
        ValueError: as :class:`~geoeq.layers.SteerableConv`.

    Source: arXiv 2110.02905, arXiv 2101.03164.

    >>> net = SteerableNet("2x0e", "1x0e", "8x0e + 4x1o", n_layers=2, cutoff=3.0)
    >>> net(torch.randn(2, 2), torch.randn(2, 3), torch.tensor([[1, 0], [0, 1]])).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        irreps_in: Irreps | str,
        irreps_out: Irreps | str,
        hidden: Irreps | str = "32x0e + 16x1o + 8x2e",
        n_layers: int = 3,
        *,
        cutoff: float,
        lmax: int = 2,
        n_basis: int = 8,
        edge_dim: int = 0,
        neighbours: float = 1.0,
        attention: bool = False,
        radial: str = "bessel",
    ) -> None:
        irreps = Irreps(hidden)

        def conv() -> nn.Module:
            return SteerableConv(
                irreps,
                irreps,
                lmax,
                cutoff=cutoff,
                n_basis=n_basis,
                edge_dim=edge_dim,
                neighbours=neighbours,
                attention=attention,
                radial=radial,
            )

        super().__init__(irreps_in, irreps_out, irreps, [conv() for _ in range(n_layers)], lmax)


class GauntNet(_ResidualNet):
    r"""Residual network of :class:`~geoeq.layers.GauntConv` layers; arguments and shapes as :class:`SteerableNet`.

    Args:
        irreps_in: node features.
        irreps_out: result for each node, of natural parity.
        channels: copies of each degree between the layers.
        n_layers: number of convolutions.
        cutoff: where messages end, in the unit of the positions.
        lmax, n_basis, edge_dim, neighbours, radial: as for :class:`~geoeq.layers.GauntConv`.

    Symmetry: E(3), exact.

    Raises:
        ValueError: as :class:`~geoeq.layers.GauntConv`, and for a result that no path reaches.

    Source: arXiv 2401.10216.

    >>> net = GauntNet("2x0e", "1x1o", channels=8, n_layers=2, cutoff=3.0)
    >>> net(torch.randn(2, 2), torch.randn(2, 3), torch.tensor([[1, 0], [0, 1]])).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        irreps_in: Irreps | str,
        irreps_out: Irreps | str,
        channels: int = 16,
        n_layers: int = 3,
        *,
        cutoff: float,
        lmax: int = 2,
        n_basis: int = 8,
        edge_dim: int = 0,
        neighbours: float = 1.0,
        radial: str = "bessel",
    ) -> None:
        options: dict[str, Any] = {"n_basis": n_basis, "edge_dim": edge_dim, "neighbours": neighbours, "radial": radial}

        def conv() -> nn.Module:
            return GauntConv(channels, lmax, cutoff=cutoff, **options)

        hidden = degree_irreps(lmax, channels)
        super().__init__(irreps_in, irreps_out, hidden, [conv() for _ in range(n_layers)], lmax)


class SteerableMPNN(nn.Module):
    r"""Forecast of positions by steerable message passing: :math:`\hat y_i = x_i + W h_i^{(L)}`.

    Node features start from charge, speed and velocity.

    Args:
        hidden: features between the layers, scalars first.
        n_layers: number of convolutions.
        cutoff: where messages end, in the unit of the positions.
        lmax, n_basis, edge_dim, neighbours, attention, radial: as for :class:`~geoeq.layers.SteerableConv`.

    Shapes: ``model(data) -> [N, 3]`` from ``data.pos [N, 3]``, ``vel [N, 3]``, ``charge [N, 1]``,
    ``edge_index [2, E]``, ``edge_attr [E, edge_dim]``.

    Symmetry: E(3) and permutations of the nodes, exact; relative error below 1e-10 in float64.

    Raises:
        ValueError: for inputs of the wrong shape, non-finite positions, or edges out of range.

    Source: arXiv 2110.02905.

    >>> data = Data(pos=torch.randn(2, 3), vel=torch.randn(2, 3), charge=torch.ones(2, 1),
    ...             edge_index=torch.tensor([[1, 0], [0, 1]]), edge_attr=torch.ones(2, 1))
    >>> SteerableMPNN("8x0e + 4x1o", n_layers=2)(data).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        hidden: Irreps | str = "32x0e + 16x1o + 8x2e",
        n_layers: int = 4,
        *,
        cutoff: float = 10.0,
        lmax: int = 2,
        n_basis: int = 16,
        edge_dim: int = 1,
        neighbours: float = 4.0,
        attention: bool = False,
        radial: str = "bessel",
    ) -> None:
        super().__init__()
        self.edge_dim = edge_dim
        self.net = SteerableNet(
            "2x0e + 1x1o",
            "1x1o",
            hidden,
            n_layers,
            cutoff=cutoff,
            lmax=lmax,
            n_basis=n_basis,
            edge_dim=edge_dim,
            neighbours=neighbours,
            attention=attention,
            radial=radial,
        )

    def forward(self, data: Data) -> Tensor:
        """Predicted positions [N, 3]."""
        pos, vel = data.pos, data.vel
        check_graph(pos, data.edge_index, data.edge_attr, self.edge_dim, vel=vel)
        check_values(pos, data.edge_index)
        x = torch.cat([data.charge, vel.square().sum(1, keepdim=True), vel], 1)
        return pos + self.net(x, pos, data.edge_index, data.edge_attr)


class EnergyForces(nn.Module):
    r"""Energy of each graph, and the forces that follow from it.

    .. math:: E_g = \sum_{i \in g} f_i(x, r), \qquad F_i = -\,\partial E / \partial r_i

    Args:
        net: gives one invariant number per node, ``net(x, pos, edge_index, edge_attr) -> [N, 1]``.

    Shapes: ``model(data) -> (energy [B], forces [N, 3])`` from ``data.x [N, F]``, ``pos [N, 3]``,
    ``edge_index [2, E]``, ``edge_attr [E, D]`` or none, ``batch [N]`` or none for a single graph. Energies are summed
    in float32 at least.

    Symmetry: that of ``net``. Forces are conservative by construction; in training mode they can be differentiated
    again, for a loss on forces. Where gradients are off, in inference mode too, neither result has any.

    Source: arXiv 2101.03164, equation 3.

    >>> model = EnergyForces(SteerableNet("2x0e", "1x0e", "8x0e + 4x1o", n_layers=1, cutoff=3.0))
    >>> data = Data(x=torch.randn(2, 2), pos=torch.randn(2, 3), edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> energy, forces = model(data)
    >>> energy.shape, forces.shape
    (torch.Size([1]), torch.Size([2, 3]))
    """

    def __init__(self, net: nn.Module | Callable[..., Tensor]) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        tracked = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            inputs = (data.x, data.pos, data.edge_index, data.edge_attr, data.batch)
            x, pos, edge_index, edge_attr, batch = (_usable(value) for value in inputs)
            pos = pos if pos.requires_grad else pos.detach().requires_grad_()
            per_node = self.net(x, pos, edge_index, edge_attr)
            if per_node.shape != (len(pos), 1):
                raise ValueError(f"net must give [N, 1] = {[len(pos), 1]}, got {list(per_node.shape)}")
            n_graphs = _count_graphs(data)
            batch = edge_index.new_zeros(len(pos)) if batch is None else batch
            # half precision, that of autocast too, would lose the digits that differences of energies need
            terms = per_node.squeeze(1).to(torch.promote_types(per_node.dtype, torch.float32))
            energy = scatter_sum(terms, batch, n_graphs)
            (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=self.training and tracked)
        return (energy, -gradient) if tracked else (energy.detach(), -gradient.detach())


def _usable(value: Any) -> Any:
    """A copy of what was made in inference mode, which no derivative may use."""
    return value.clone() if value is not None and value.is_inference() else value


def _count_graphs(data: Data) -> int:
    if data.batch is None:
        return 1
    if "ptr" in data:
        return len(data.ptr) - 1
    return getattr(data, "num_graphs", int(data.batch.max()) + 1) if len(data.batch) else 0
