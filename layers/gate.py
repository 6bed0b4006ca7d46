"""The non-linearity of the typed layers: scalars pass SiLU, everything else is gated and measured by scalars."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoeq.reps import Irreps

__all__ = ["NormGate"]


class NormGate(nn.Module):
    r"""Gate by scalars, and read the sizes of all other features as new scalars.

    With scalars s, gates g and non-scalar copies v (one gate for each copy):

    .. math:: (s, g, v) \mapsto (\mathrm{silu}(s),\ \sqrt{1 + |v|^2} - 1,\ \sigma(g)\, v).

    Args:
        irreps: the features to produce before sizes are added: scalars ``0e`` and any other irreps.

    Attributes:
        irreps_in: what ``forward`` takes, scalars, then gates, then the rest.
        irreps_out: what it returns, scalars and sizes, then the rest.

    Shapes: ``x [..., irreps_in.dim]`` to ``[..., irreps_out.dim]``.

    Symmetry: exact for every group that acts by orthogonal matrices on each irrep.

    Source: gates of arXiv 1807.02547; the sizes make invariants of vectors visible to scalars.

    >>> gate = NormGate("8x0e + 4x1o")
    >>> gate.irreps_in, gate.irreps_out
    (12x0e+4x1o, 12x0e+4x1o)
    """

    equivariant = True

    def __init__(self, irreps: Irreps | str) -> None:
        super().__init__()
        irreps = Irreps(irreps)
        scalars = sum(mul for mul, ir in irreps if ir.is_scalar())
        rest = Irreps([(mul, ir) for mul, ir in irreps if not ir.is_scalar()])
        self.scalars, self.copies = scalars, rest.num_irreps
        self.parts = [(mul, ir.dim) for mul, ir in rest]
        self.irreps_in = (Irreps([(scalars + self.copies, "0e")]) + rest).simplify()
        self.irreps_out = self.irreps_in

    def forward(self, x: Tensor) -> Tensor:
        scalars, gates, rest = x.split([self.scalars, self.copies, x.shape[-1] - self.scalars - self.copies], dim=-1)
        if not self.copies:
            return nn.functional.silu(scalars)
        sizes, gated = [], []
        blocks = rest.split([mul * dim for mul, dim in self.parts], dim=-1)
        opened = gates.sigmoid().split([mul for mul, _ in self.parts], dim=-1)
        for block, gate, (mul, dim) in zip(blocks, opened, self.parts, strict=True):
            v = block.unflatten(-1, (mul, dim))  # [..., mul, dim]
            sizes.append((v.square().sum(-1) + 1.0).sqrt() - 1.0)
            gated.append((v * gate.unsqueeze(-1)).flatten(-2))
        return torch.cat([nn.functional.silu(scalars), *sizes, *gated], dim=-1)
