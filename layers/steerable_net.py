"""Networks of steerable or Gaunt convolutions, a forecast of positions, and energies with forces."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers.checks import check_graph, check_values
from geoeq.layers.gate import NormGate
from geoeq.layers.gaunt_conv import GauntConv, degree_irreps
from geoeq.layers.irreps_norm import IrrepsLayerNorm
from geoeq.layers.steerable_conv import SteerableConv
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
    ) -> None:
        super().__init__()
        if not convs:
            raise ValueError("n_layers must be at least 1, got 0")
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


class SteerableNet(_ResidualNet):
    r"""Residual network of :class:`~geoeq.layers.SteerableConv` layers.

    .. math:: h \leftarrow h + W\, \mathrm{gate}\big(W' [h,\ \mathrm{conv}(\mathrm{norm}\, h)]\big)

    Args:
        irreps_in: node features.
        irreps_out: result for each node.
        hidden: features between the layers, scalars first.
        n_layers: number of convolutions.
        cutoff: where messages end, in the unit of the positions.
        lmax, n_basis, edge_dim, neighbours, attention: as for :class:`~geoeq.layers.SteerableConv`.

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
            )

        super().__init__(irreps_in, irreps_out, irreps, [conv() for _ in range(n_layers)])


class GauntNet(_ResidualNet):
    r"""Residual network of :class:`~geoeq.layers.GauntConv` layers; arguments and shapes as :class:`SteerableNet`.

    Args:
        irreps_in: node features.
        irreps_out: result for each node, of natural parity.
        channels: copies of each degree between the layers.
        n_layers: number of convolutions.
        cutoff: where messages end, in the unit of the positions.
        lmax, n_basis, edge_dim, neighbours: as for :class:`~geoeq.layers.GauntConv`.

    Symmetry: E(3), exact.

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
    ) -> None:
        def conv() -> nn.Module:
            return GauntConv(channels, lmax, cutoff=cutoff, n_basis=n_basis, edge_dim=edge_dim, neighbours=neighbours)

        super().__init__(irreps_in, irreps_out, degree_irreps(lmax, channels), [conv() for _ in range(n_layers)])


class SteerableMPNN(nn.Module):
    r"""Forecast of positions by steerable message passing: :math:`\hat y_i = x_i + W h_i^{(L)}`.

    Node features start from charge, speed and velocity.

    Args:
        hidden: features between the layers, scalars first.
        n_layers: number of convolutions.
        cutoff: where messages end, in the unit of the positions.
        lmax, n_basis, edge_dim, neighbours, attention: as for :class:`~geoeq.layers.SteerableConv`.

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
    ``edge_index [2, E]``, ``edge_attr [E, D]`` or none, ``batch [N]`` or none for a single graph.

    Symmetry: that of ``net``. Forces are conservative by construction; in training mode they can be differentiated
    again, for a loss on forces.

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
        with torch.enable_grad():
            pos = data.pos if data.pos.requires_grad else data.pos.detach().requires_grad_()
            per_node = self.net(data.x, pos, data.edge_index, data.edge_attr)
            if per_node.shape != (len(pos), 1):
                raise ValueError(f"net must give [N, 1] = {[len(pos), 1]}, got {list(per_node.shape)}")
            batch = data.batch if data.batch is not None else data.edge_index.new_zeros(len(pos))
            n_graphs = data.num_graphs if "ptr" in data else 1
            energy = scatter_sum(per_node.squeeze(1), batch, n_graphs)
            (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=self.training)
        return energy, -gradient
