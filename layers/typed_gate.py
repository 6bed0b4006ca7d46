"""The gate of :mod:`geoeq.layers.gate` for features of any ranks: irreps or tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoeq.reps import Irreps, Rep, Segment, TensorCopy, TensorRep, as_rep, segments

__all__ = ["TypedGate"]


class TypedGate(nn.Module):
    r"""Gate by scalars, and read the sizes of all other features as new scalars.

    With scalars s, gates g and non-scalar copies v (one gate for each copy):

    .. math:: (s, g, v) \mapsto (\mathrm{silu}(s),\ \sqrt{1 + |v|^2} - 1,\ \sigma(g)\, v).

    Args:
        rep: the features to produce before sizes are added, irreps or a :class:`~geoeq.reps.TensorRep` that names its
            space.

    Attributes:
        rep_in: what ``forward`` takes, scalars, then gates, then the rest.
        rep_out: what it returns, scalars and sizes, then the rest; the same representation.

    Shapes: ``x [..., rep_in.dim]`` to ``[..., rep_out.dim]``.

    Symmetry: exact for every group that acts by orthogonal matrices on each copy and leaves scalars alone.

    Raises:
        ValueError: for a representation of another kind.

    Source: gates of arXiv 1807.02547; the sizes make invariants of vectors visible to scalars.

    >>> gate = TypedGate(TensorRep({0: 8, 1: 4, 2: 2}, d=3))
    >>> gate.rep_in
    TensorRep(ranks={0: 14, 1: 4, 2: 2}, d=3)
    """

    equivariant = True

    def __init__(self, rep: Rep | str) -> None:
        super().__init__()
        rep = as_rep(rep)
        if not isinstance(rep, Irreps | TensorRep):
            raise ValueError(f"rep must be irreps or a TensorRep, got {type(rep).__name__}")
        rest = [segment for segment in segments(rep) if not is_scalar(segment)]
        self.parts = [(segment.mul, segment.copy.dim) for segment in rest]
        self.copies = sum(mul for mul, _ in self.parts)
        self.scalars = rep.dim - sum(mul * dim for mul, dim in self.parts)
        self.rep_in = with_scalars(rep, self.scalars + self.copies)
        self.rep_out = self.rep_in

    def forward(self, x: Tensor) -> Tensor:
        widths = [mul * dim for mul, dim in self.parts]
        scalars, gates, *blocks = x.split([self.scalars, self.copies, *widths], dim=-1)
        opened = gates.sigmoid().split([mul for mul, _ in self.parts], dim=-1)
        sizes, gated = [], []
        for block, gate, part in zip(blocks, opened, self.parts, strict=True):
            v = block.unflatten(-1, part)  # [..., mul, dim]
            sizes.append((v.square().sum(-1) + 1.0).sqrt() - 1.0)
            gated.append((v * gate.unsqueeze(-1)).flatten(-2))
        return torch.cat([nn.functional.silu(scalars), *sizes, *gated], dim=-1)


def is_scalar(segment: Segment) -> bool:
    """Whether no orthogonal group moves the copies of ``segment``."""
    copy = segment.copy
    return copy.indices == 0 if isinstance(copy, TensorCopy) else copy.l == 0 and copy.p == 1  # type: ignore[union-attr]


def with_scalars(rep: Irreps | TensorRep, scalars: int) -> Irreps | TensorRep:
    """``rep`` with ``scalars`` scalars in front in place of its own."""
    if isinstance(rep, TensorRep):
        return TensorRep({0: scalars, **{rank: mul for rank, mul in rep.ranks.items() if rank and mul}}, d=rep.d)
    rest = [(mul, ir) for mul, ir in rep if not ir.is_scalar()]
    return Irreps([(scalars, "0e"), *rest]).remove_zero_multiplicities()
