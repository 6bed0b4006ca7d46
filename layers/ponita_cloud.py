"""A cloud of positions and orientations: one element for each edge of a graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from geoeq.layers.ponita_conv import PonitaConv, Sampled, check_radius, complete
from geoeq.layers.ponita_edges import Pairs
from geoeq.layers.ponita_kernel import KernelBasis, lengths

__all__ = ["Cloud", "CloudKernel", "lift_edges"]


class Cloud(NamedTuple):
    """Elements at the receivers of the edges of a graph, oriented towards their senders, and the edges among them."""

    pos: Tensor  # [N', d]
    orientation: Tensor  # [N', d]
    receiver: Tensor  # [N']: the node at which each element sits
    edge_index: Tensor  # [2, E']
    edge_attr: Tensor | None  # [N', A]


def lift_edges(pos: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Cloud:
    r"""Every edge j -> i becomes an element at :math:`x_i` with the orientation of :math:`x_j - x_i`.

    All elements of a node are joined to all elements of its neighbours and of itself, sum of deg(a) deg(b) edges over
    the edges (a, b). Self loops of the graph are dropped: they have no direction.

    Args:
        pos: [N, d].
        edge_index: [2, E], sender and receiver.
        edge_attr: [E, A] or None; features of an edge stay with its element.

    Source: arXiv 2310.02970.

    >>> cloud = lift_edges(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[1, 0], [0, 1]]))
    >>> cloud.orientation, cloud.edge_index.shape
    (tensor([[ 1.,  0.],
            [-1.,  0.]]), torch.Size([2, 4]))
    """
    n = len(pos)
    apart = edge_index[0] != edge_index[1]
    edge_attr = None if edge_attr is None else edge_attr[apart]
    sender, receiver = edge_index[:, apart]
    offset = pos[sender] - pos[receiver]
    # Coincident points have no direction; the square root must not see the zero, or its derivative is infinite.
    square = offset.square().sum(1, keepdim=True)
    orientation = offset * torch.where(square > 0, square, torch.ones_like(square)).rsqrt()

    order = receiver.argsort(stable=True)  # elements of a node stand together in this order
    count = torch.bincount(receiver, minlength=n)
    start = count.cumsum(0) - count
    own = torch.arange(n, device=pos.device).expand(2, n)
    base = torch.unique(torch.cat([edge_index[:, apart], own], 1), dim=1)  # a message along an edge is sent once
    fan = count[base[0]] * count[base[1]]
    which = torch.repeat_interleave(fan)  # base edge of each edge of the cloud
    rank = torch.arange(len(which), device=pos.device) - (fan.cumsum(0) - fan)[which]
    wide = count[base[1]][which]
    lifted = torch.stack([start[base[0]][which] + rank // wide, start[base[1]][which] + rank % wide])
    return Cloud(pos[receiver], orientation, receiver, order[lifted], edge_attr)


class CloudKernel(nn.Module):
    r"""Basis functions of the three invariants of a pair of positions and orientations.

    .. math:: a = \big(o_i \cdot r,\ |r - (o_i \cdot r)\, o_i|,\ o_i \cdot o_j\big), \qquad r = x_j - x_i

    and, in the plane, the signed :math:`r_y o_x - r_x o_y` as the second. Receiver i, sender j.

    Args:
        dim, hidden, basis, degree, radius, edge_dim: as for :class:`~geoeq.layers.ponita_conv.PonitaKernel`; edge
            features belong to the element that sends.
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
        self.spatial = KernelBasis(3 + edge_dim, hidden, basis, degree)

    def forward(self, cloud: Cloud) -> Sampled:
        """Basis functions of all edges of the cloud, loops included."""
        j, i = cloud.edge_index
        offset, axis = cloud.pos[j] - cloud.pos[i], cloud.orientation[i]
        along = (offset * axis).sum(1, keepdim=True)
        if self.dim == 2:
            across = (offset[:, 1] * axis[:, 0] - offset[:, 0] * axis[:, 1]).unsqueeze(1)
        else:
            across = lengths(offset - along * axis, of=offset).unsqueeze(1)
        attr = torch.cat([along, across, (axis * cloud.orientation[j]).sum(1, keepdim=True)], 1).unsqueeze(1)
        attached = None if cloud.edge_attr is None else cloud.edge_attr[j]
        pairs = Pairs(j, i, attached, False, None, None).with_graph(len(cloud.pos))
        attr, window = complete(attr, offset, pairs, self.radius)
        return Sampled(pairs, self.spatial, attr, window, None, attr.new_ones(1))

    def conv(self, channels: int) -> PonitaConv:
        """A convolution that fits to this kernel."""
        return PonitaConv(channels, self.spatial.outer.out_features, fiber=False)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, radius={self.radius}, edge_dim={self.edge_dim}"
