"""Layer normalisation of irreps features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoeq.reps import Irreps

__all__ = ["IrrepsLayerNorm"]


class IrrepsLayerNorm(nn.Module):
    r"""Normalise each block of copies of one irrep, node by node.

    Scalars ``0e`` are centred and scaled as in ``torch.nn.LayerNorm``; the m copies :math:`v_u` of any other irrep
    share one scale,

    .. math:: v_u \mapsto \gamma_u\, v_u \Big/ \sqrt{\epsilon + \tfrac{1}{m} \textstyle\sum_{u'} |v_{u'}|^2 / \dim v},

    so that directions are kept.

    Args:
        irreps: the features.
        eps: what keeps features of size zero at zero.

    Shapes: ``x [..., irreps.dim]`` to the same.

    Symmetry: exact for every group that acts by orthogonal matrices on each irrep.

    Raises:
        ValueError: for features of another width.

    Source: arXiv 2206.11990, section 4.1.

    >>> IrrepsLayerNorm("8x0e + 4x1o")(torch.randn(5, 20)).shape
    torch.Size([5, 20])
    """

    equivariant = True  # whatever the weights

    def __init__(self, irreps: Irreps | str, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.irreps, self.eps = Irreps(irreps), eps
        self.blocks = [(mul, ir.dim, ir.is_scalar()) for mul, ir in self.irreps]
        self.weight = nn.Parameter(torch.ones(self.irreps.num_irreps))
        self.bias = nn.Parameter(torch.zeros(sum(mul for mul, _, scalar in self.blocks if scalar)))

    def forward(self, x: Tensor) -> Tensor:
        width = sum(mul * dim for mul, dim, _ in self.blocks)
        if x.shape[-1] != width:
            raise ValueError(f"x must be [..., {width}], got {list(x.shape)}")
        blocks = x.split([mul * dim for mul, dim, _ in self.blocks], dim=-1)
        weights = self.weight.split([mul for mul, _, _ in self.blocks])
        biases = iter(self.bias.split([mul for mul, _, scalar in self.blocks if scalar]))
        out = []
        for block, weight, (mul, dim, scalar) in zip(blocks, weights, self.blocks, strict=True):
            if scalar:
                out.append(nn.functional.layer_norm(block, (mul,), weight, next(biases), self.eps))
            else:
                v = block.unflatten(-1, (mul, dim))  # [..., mul, dim]
                size = v.square().mean((-2, -1), keepdim=True)
                out.append((v * (size + self.eps).rsqrt() * weight.unsqueeze(-1)).flatten(-2))
        return torch.cat(out, dim=-1) if out else x

    def extra_repr(self) -> str:
        return f"{self.irreps}, eps={self.eps}"
