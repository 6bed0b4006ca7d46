"""Several target frames from one state: every frame is a learned mix of the vectors of a node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FrameReadout"]


class FrameReadout(nn.Module):
    r"""Displacements of a node in each frame, mixed from its vectors with weights that its features set.

    .. math:: u_{if} = \sum_k g_{fk}(h_i)\, w_{ik}, \qquad g \text{ linear, at the start } g_{f0} = 1

    Args:
        hidden: width of the node features.
        n_vectors: number K of vectors.
        n_frames: number F of frames.

    Shapes: ``h [N, hidden]``, ``vectors [N, K, 3]``; returns ``[N, F, 3]``.

    Symmetry: O(3), exact; permutations of the nodes.

    >>> readout = FrameReadout(8, n_vectors=2, n_frames=3)
    >>> readout(torch.randn(5, 8), torch.randn(5, 2, 3)).shape
    torch.Size([5, 3, 3])
    """

    def __init__(self, hidden: int, n_vectors: int, n_frames: int) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.gate = nn.Linear(hidden, n_frames * n_vectors)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: all frames start at the first vector, and learn to differ."""
        nn.init.xavier_uniform_(self.gate.weight, gain=0.1)
        with torch.no_grad():
            self.gate.bias.view(self.n_frames, -1).zero_()[:, 0] = 1.0

    def forward(self, h: Tensor, vectors: Tensor) -> Tensor:
        gates = self.gate(h).view(len(h), self.n_frames, vectors.shape[1], 1)
        return (gates * vectors.unsqueeze(1)).sum(2)  # no matrix product, which mixed precision would round
