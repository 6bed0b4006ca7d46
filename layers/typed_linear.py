"""A linear map that knows how its two sides answer to symmetry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn import o3
from torch import Tensor, nn

from geoeq.groups import SO, E, Group, O
from geoeq.intertwiners import Projector
from geoeq.reps import Irreps, Rep, Segment, Sum, TypedMap, as_rep, rep_key, segments

__all__ = ["MODES", "TypedLinear"]

MODES = ("exact", "soft", "free")
SCALAR = Irreps("1x0e")
EXACT = 1e-5  # level that rounding to float32 leaves


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
    def level(self, groups: Sequence[Group]) -> float:
        r"""How far weight and bias are from respecting all of ``groups``, 0 = exact, 1 = like a random layer.

        :math:`\sqrt{\|W - P W\|^2 / (f \|W\|^2)}`, where f is the share that a random weight has outside.
        """
        weight, bias = self.effective()
        parts = [(self.rep_in, weight), *([] if bias is None else [(SCALAR, bias.unsqueeze(1))])]
        broken = power = forbidden = entries = 0.0
        for rep_in, part in parts:
            projector = Projector(groups, rep_in, self.rep_out).double()
            value = part.double().cpu()
            broken += float(projector.residual(value).square().sum())
            power += float(value.square().sum())
            forbidden += projector.dim - projector.rank
            entries += projector.dim
        return (broken * entries / (forbidden * power)) ** 0.5 if forbidden and power else 0.0

    @torch.no_grad()
    def constrain(self, groups: Sequence[Group]) -> None:
        """Become exact for all of ``groups`` at once (and for those it was exact for before)."""
        kept = self.groups if self.mode == "exact" else ()
        self._be_exact(tuple(dict.fromkeys((*kept, *groups))))

    @torch.no_grad()
    def relax(self, keep: Sequence[Group] = ()) -> None:
        """Become soft, the inverse of :meth:`constrain`: outputs stay the same, but the weight may leave the symmetry.

        Args:
            keep: groups to stay exact for, each a symmetry that the layer has. A soft or free layer changes only if
                there are some.

        Raises:
            ValueError: if the layer does not have a symmetry that it shall keep.
        """
        for group in keep:
            level = self.level([group])
            if level > EXACT:
                raise ValueError(f"keep must hold symmetries that the layer has, got {group} at level {level:.2g}")
        self._write(*self.effective())
        if keep:
            self._be_exact(tuple(dict.fromkeys(keep)))
        elif self.mode == "exact":
            self.mode = "soft"

    def _be_exact(self, groups: tuple[Group, ...]) -> None:
        self.groups, self.mode = groups, "exact"
        self._build_projectors(self.bias is not None)
        self.weight_projector.to(self.weight)
        if self.bias_projector is not None:
            self.bias_projector.to(self.weight)
        self._write(*self.effective())

    def _write(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    @classmethod
    @torch.no_grad()
    def from_e3nn(cls, linear: o3.Linear, *, mode: str = "exact") -> TypedLinear:
        """The same map as ``linear``, exact for O(3), or soft and ready to be attached.

        Raises:
            ValueError: if ``linear`` does not hold its own weights or maps channels beside irreps (``f_in``).

        >>> TypedLinear.from_e3nn(o3.Linear("2x0e + 1x1o", "3x1o")).typed_maps()[0].parameter.shape
        torch.Size([9, 5])
        """
        if not isinstance(linear, o3.Linear) or not linear.internal_weights or linear.weight.dim() != 1:
            raise ValueError(f"linear must be an o3.Linear with weights of its own and without f_in, got {linear}")
        like = linear.output_mask
        made = cls(linear.irreps_in, linear.irreps_out, bias=linear.bias_numel > 0, mode=mode, group=O(3)).to(like)
        eye = torch.eye(linear.irreps_in.dim).to(like)
        weight = linear(eye, linear.weight, torch.zeros_like(linear.bias)).T
        made._write(weight, linear(torch.zeros_like(eye[:1])).squeeze(0) if linear.bias_numel else None)
        return made

    @torch.no_grad()
    def to_e3nn(self, *, tolerance: float = EXACT) -> o3.Linear:
        """The same map as an ``o3.Linear``, whatever the mode, if it respects O(3).

        A layer that respects SO(3) only mixes parities, which ``o3.Linear`` cannot; its irreps are then all even.

        Args:
            tolerance: the highest level that counts as exact.

        Raises:
            ValueError: if the level of rotations is above ``tolerance``, or a side is not made of irreps.
        """
        irreps_in, irreps_out = _irreps_of(self.rep_in, "rep_in"), _irreps_of(self.rep_out, "rep_out")
        if self.level([O(3)]) > tolerance:
            level = self.level([SO(3)])
            if level > tolerance:
                raise ValueError(f"layer must respect rotations within level {tolerance:.2g}, got level {level:.2g}")
            irreps_in, irreps_out = _all_even(irreps_in), _all_even(irreps_out)
        linear = o3.Linear(irreps_in, irreps_out, biases=self.bias is not None).to(self.weight)
        weight, bias = self.effective()
        columns, rows = irreps_in.slices(), irreps_out.slices()
        biases = []
        for number, path in enumerate(linear.instructions):
            mul, irrep = irreps_out[path.i_out]
            if path.i_in == -1:
                biases.append(rows[path.i_out])
                continue
            block = weight[rows[path.i_out], columns[path.i_in]].reshape(mul, irrep.dim, -1, irrep.dim)
            multiples = block.diagonal(dim1=1, dim2=3).mean(-1)  # [mul_out, mul_in], by Schur's lemma
            linear.weight_view_for_instruction(number).copy_(multiples.T / path.path_weight)
        if bias is not None and biases:
            linear.bias.copy_(torch.cat([bias[row] for row in biases]))
        return linear

    def extra_repr(self) -> str:
        names = ", ".join(map(repr, self.groups))
        return f"{rep_key(self.rep_in)} -> {rep_key(self.rep_out)}, mode={self.mode}, group={names}"


def _scale_copies(weight: Tensor, row: Segment) -> None:
    """Give each output copy rows of root mean square norm 1/sqrt(3); rows that must be zero stay so."""
    part = weight[row.start : row.stop].reshape(row.mul, -1)
    size = part.square().sum(1, keepdim=True).div(row.copy.dim).sqrt()
    part.div_(torch.where(size > 0, size * 3**0.5, torch.ones_like(size)))


def _irreps_of(rep: Rep, argument: str) -> Irreps:
    """``rep`` written as irreps alone."""
    if isinstance(rep, Sum):
        return sum((_irreps_of(term, argument) for term in rep.terms), Irreps(""))
    if not isinstance(rep, Irreps):
        raise ValueError(f"{argument} must be made of irreps to become an e3nn layer, got {rep_key(rep)}")
    return rep


def _all_even(irreps: Irreps) -> Irreps:
    return Irreps([(mul, (irrep.l, 1)) for mul, irrep in irreps])
