"""A linear map that knows how its two sides answer to symmetry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoeq.groups import E, Group
from geoeq.intertwiners import Projector
from geoeq.reps import Irreps, Rep, Segment, TypedMap, as_rep, rep_key, segments

__all__ = ["MODES", "TypedLinear"]

MODES = ("exact", "soft", "free")
SCALAR = Irreps("1x0e")


class TypedLinear(nn.Module):
    r"""Affine map :math:`y = W x + b` between two representations: exact, soft or free by one switch.

    * ``exact``: the forward pass uses :math:`P(W), P(b)`, the projections on the intertwiners of ``group``.
    * ``soft``: uses W itself, which starts equivariant; :class:`geoeq.soft.SoftEquivariance` decides how far it
      may leave the intertwiners of each candidate symmetry.
    * ``free``: uses W itself, which starts as a dense random matrix; an ordinary linear layer.

    Args:
        rep_in: how the input answers, for example ``"8x0e + 4x1o"``.
        rep_out: how the output answers.
        bias: whether to add b (in exact mode only its invariant part acts).
        mode: ``"exact"``, ``"soft"`` or ``"free"``.
        group: the symmetry of exact mode and of the soft start.

    Shapes: ``x [..., rep_in.dim]`` to ``[..., rep_out.dim]``.

    Symmetry: exact mode commutes with ``group``.

    Raises:
        ValueError: for an unknown mode, or an input of the wrong width.

    Source: arXiv 2104.09459 (exact), arXiv 2306.00356 (soft).

    >>> layer = TypedLinear("2x0e + 3x1o", "4x1o")
    >>> layer(torch.randn(7, 11)).shape
    torch.Size([7, 12])
    """

    def __init__(
        self,
        rep_in: Rep | str,
        rep_out: Rep | str,
        *,
        bias: bool = True,
        mode: str = "exact",
        group: Group | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}")
        self.rep_in, self.rep_out, self.mode = as_rep(rep_in), as_rep(rep_out), mode
        self.groups: tuple[Group, ...] = (group or E(3),)
        self._build_projectors(bias)
        self.weight = nn.Parameter(torch.empty(self.weight_projector.shape))
        self.bias = nn.Parameter(torch.empty(self.weight_projector.shape[0])) if bias else None
        self.reset_parameters()

    def _build_projectors(self, bias: bool) -> None:
        self.weight_projector = Projector(self.groups, self.rep_in, self.rep_out)
        self.bias_projector = Projector(self.groups, SCALAR, self.rep_out) if bias else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw rows of root mean square 1/sqrt(3), as ``nn.Linear`` does, inside the allowed maps unless free.

        Each copy of the output is scaled as a whole, which keeps the map equivariant.
        """
        bound = 1.0 / max(self.weight.shape[1], 1) ** 0.5
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)
        if self.mode == "free":
            return
        self.weight.copy_(self.weight_projector(self.weight))
        for row in segments(self.rep_out, self.groups[0].n):
            _scale_copies(self.weight, row)
        if self.bias is not None and self.bias_projector is not None:
            self.bias.copy_(self.bias_projector(self.bias.unsqueeze(1)).squeeze(1))

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """The weight ``[dim_out, dim_in]`` and bias ``[dim_out]`` that the forward pass uses."""
        if self.mode != "exact":
            return self.weight, self.bias
        bias = self.bias
        if bias is not None and self.bias_projector is not None:
            bias = self.bias_projector(bias.unsqueeze(1)).squeeze(1)
        return self.weight_projector(self.weight), bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.effective()
        return nn.functional.linear(x, weight, bias)

    def typed_maps(self) -> list[TypedMap]:
        """The parameters with the representations they map between."""
        maps = [TypedMap("weight", self.weight, self.rep_in, self.rep_out)]
        if self.bias is not None:
            maps.append(TypedMap("bias", self.bias, SCALAR, self.rep_out))
        return maps

    @torch.no_grad()
    def constrain(self, groups: Sequence[Group]) -> None:
        """Become exact for all of ``groups`` at once (and for those it was exact for before)."""
        kept = self.groups if self.mode == "exact" else ()
        self.groups = tuple(dict.fromkeys((*kept, *groups)))
        self._build_projectors(self.bias is not None)
        self.weight_projector.to(self.weight)
        if self.bias_projector is not None:
            self.bias_projector.to(self.weight)
        self.mode = "exact"
        weight, bias = self.effective()
        self.weight.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def extra_repr(self) -> str:
        names = ", ".join(map(repr, self.groups))
        return f"{rep_key(self.rep_in)} -> {rep_key(self.rep_out)}, mode={self.mode}, group={names}"


def _scale_copies(weight: Tensor, row: Segment) -> None:
    """Give each output copy rows of root mean square norm 1/sqrt(3); rows that must be zero stay so."""
    part = weight[row.start : row.stop].reshape(row.mul, -1)
    size = part.square().sum(1, keepdim=True).div(row.copy.dim).sqrt()
    part.div_(torch.where(size > 0, size * 3**0.5, torch.ones_like(size)))
