"""Rods that keep their lengths: the nearest positions to a forecast in which bones are as long as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.ops.scatter import scatter_sum

__all__ = ["KeepRods", "keep_lengths"]

RELAXATION = 1.5  # of the corrections; 2 would overshoot a single rod as far as it is off


def keep_lengths(pos: Tensor, reference: Tensor, edge_index: Tensor, *, iterations: int = 20) -> Tensor:
    r"""Move positions until edges have the lengths that they have in ``reference``.

    Every rod asks its two ends to go half of the way each; a node follows the mean of what its rods ask, times 1.5:

    .. math:: x_i \leftarrow x_i + \frac{3}{4\,|R(i)|} \sum_{j \in R(i)}
        \Big(\frac{\ell_{ij}}{|x_j - x_i|} - 1\Big) (x_i - x_j).

    The corrections are along the rods, so that what comes out is close to the nearest positions with these lengths;
    centres of graphs whose nodes have equally many rods stay where they are. Two ends in one point have no direction
    and stay there.

    Args:
        pos: positions [N, 3], or [N, F, 3] for several frames.
        reference: positions with the right lengths [N, 3].
        edge_index: the rods, int64 [2, R]; in one direction or in both.
        iterations: how often all nodes are moved.

    Returns:
        Of the shape of ``pos``.

    Symmetry: E(3), acting on both, and permutations.

    Raises:
        ValueError: shapes that do not fit, or a negative number of iterations.

    Source: the relaxed Jacobi form of position based dynamics, Macklin et al. 2014 (doi 10.1145/2601097.2601152).

    >>> rod = torch.tensor([[0], [1]])
    >>> moved = keep_lengths(torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0]]), torch.eye(3)[:2] * 2**0.5, rod)
    >>> moved[:, 0].round(decimals=3)
    tensor([1., 3.])
    """
    if pos.dim() not in (2, 3) or pos.shape[-1] != 3 or reference.shape != (len(pos), 3):
        raise ValueError(
            f"pos must be [N, 3] or [N, F, 3] and reference [N, 3], got {list(pos.shape)} and {list(reference.shape)}"
        )
    if edge_index.dim() != 2 or len(edge_index) != 2:
        raise ValueError(f"edge_index must be [2, R], got {list(edge_index.shape)}")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")
    ends, n = edge_index.flatten(), len(pos)
    frames, (first, second) = pos if pos.dim() == 3 else pos.unsqueeze(1), edge_index
    length = torch.linalg.vector_norm(reference[first] - reference[second], dim=1).view(-1, 1, 1)
    count = scatter_sum(torch.ones_like(ends, dtype=pos.dtype), ends, n)
    share = (0.5 * RELAXATION / count.clamp(min=1)).view(-1, 1, 1)
    for _ in range(iterations):
        along = frames[first] - frames[second]  # [R, F, 3]
        square = along.square().sum(2, keepdim=True)
        some = square > 0
        excess = torch.where(some, 1 - length / torch.where(some, square, 1.0).sqrt(), 0.0) * along
        frames = frames + share * scatter_sum(torch.cat([-excess, excess]), ends, n)
    return frames.view(pos.shape)


class KeepRods(nn.Module):
    """A forecasting network whose forecasts keep the lengths of rods, such as the bones of a skeleton.

    Args:
        network: maps data to positions [N, 3] or [N, F, 3].
        iterations: see :func:`keep_lengths`, through which the network is trained.

    Shapes: those of ``network``, and ``data.rod``, bool [E]: which edges are rods.

    Symmetry: that of ``network``, as far as E(3) and permutations go.

    Raises:
        ValueError: if ``data.rod`` is missing or of another shape, or for a negative number of iterations.

    >>> network = KeepRods(lambda data: 2 * data.pos)
    >>> rod = Data(pos=torch.eye(3)[:2], edge_index=torch.tensor([[0, 1], [1, 0]]), rod=torch.ones(2, dtype=torch.bool))
    >>> network(rod).round(decimals=3)
    tensor([[1.5000, 0.5000, 0.0000],
            [0.5000, 1.5000, 0.0000]])
    """

    def __init__(self, network: nn.Module, iterations: int = 20) -> None:
        super().__init__()
        if iterations < 0:
            raise ValueError(f"iterations must be at least 0, got {iterations}")
        self.network, self.iterations = network, iterations

    def forward(self, data: Data) -> Tensor:
        rod = data.get("rod")
        if rod is None or rod.dtype != torch.bool or rod.shape != data.edge_index.shape[1:]:
            got = None if rod is None else f"{rod.dtype} {list(rod.shape)}"
            raise ValueError(f"data.rod must be bool [E] = [{data.edge_index.shape[1]}], got {got}")
        return keep_lengths(self.network(data), data.pos, data.edge_index[:, rod], iterations=self.iterations)
