"""A typed layer as one map, and its levels for a given second moment of its input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from geoeq.groups import Group
from geoeq.intertwiners import Projector
from geoeq.reps import Segment, Sum, TypedMap, segments

__all__ = ["TypedLayer", "levels_from", "typed_layers"]

NOTHING = 1e-12  # a share this small is the rounding of a projector that forbids nothing
# What random weights hardly have is no measure: translations forbid one of many inputs, and a layer that follows it
# alone would have a level of ten or more.
LEAST_SHARE = 0.5


class TypedLayer:
    """A typed module with its weight and bias read as one map of the input and a constant 1.

    Args:
        name: of the module in the model.
        module: has ``typed_maps()`` and ``effective()``.
        groups: the candidate symmetries.
    """

    def __init__(self, name: str, module: nn.Module, groups: Sequence[Group]) -> None:
        self.name, self.module = name, module
        self.maps: list[TypedMap] = module.typed_maps()  # type: ignore[operator]
        self.projectors = [
            Projector(group, Sum(*[m.rep_in for m in self.maps]), self.maps[0].rep_out).double() for group in groups
        ]

    def joint(self) -> Tensor:
        """Weight and bias side by side as the forward pass uses them, ``[dim_out, dim_in (+ 1)]``, float64, on CPU."""
        parts = [t for t in self.module.effective() if t is not None]  # type: ignore[operator]
        return torch.cat([t.detach().reshape(len(t), -1) for t in parts], dim=1).double().cpu()

    def forms(self) -> Tensor:
        r"""Matrices A whose numbers tr(A M) on a second moment M give the levels, ``[outputs, 1 + 3K, n, n]``.

        For each kind of output, with W its rows: the identity times their number (power of a random output), then for
        each of the K symmetries :math:`W^T W + O^T O` (power of the output, and of the fixed part O that the symmetry
        asks for), :math:`(W - P W)^T (W - P W)`, and the same expected of a random weight.
        """
        weight = self.joint()
        residuals = [projector.residual(weight) for projector in self.projectors]
        found = []
        for segment, fixed, expected in zip(self._outputs, self._fixed, self._expected, strict=True):
            rows = slice(segment.start, segment.stop)
            power = weight[rows].T @ weight[rows]
            whole = torch.eye(weight.shape[1], dtype=torch.float64) * len(weight[rows])
            broken = [residual[rows].T @ residual[rows] for residual in residuals]
            found.append(torch.stack([whole, *(power + own for own in fixed), *broken, *expected]))
        return torch.stack(found)

    @cached_property
    def _outputs(self) -> list[Segment]:
        dimension = self.projectors[0].groups[0].n if self.projectors else 3
        return list(segments(self.maps[0].rep_out, dimension))

    @cached_property
    def _fixed(self) -> list[list[Tensor]]:
        offsets = [p(torch.zeros(p.shape, dtype=torch.float64)) for p in self.projectors]
        return [[offset[s.start : s.stop].T @ offset[s.start : s.stop] for offset in offsets] for s in self._outputs]

    @cached_property
    def _expected(self) -> list[list[Tensor]]:
        return [[expected_form(projector, row) for projector in self.projectors] for row in range(len(self._outputs))]

    def levels(self, moment: Tensor | None = None) -> list[float]:
        """One level per symmetry; NaN where it does not constrain the layer.

        Args:
            moment: second moment of the input and the constant, ``[dim_in (+ 1)] * 2``; None counts all inputs alike.
        """
        forms = self.forms()
        moment = torch.eye(forms.shape[-1], dtype=torch.float64) if moment is None else moment
        return levels_from(torch.einsum("ofij,ij->of", forms, moment)).tolist()


def typed_layers(model: nn.Module, groups: Sequence[Group]) -> list[TypedLayer]:
    """Every typed module of ``model``."""
    return [TypedLayer(name, m, groups) for name, m in model.named_modules() if hasattr(m, "typed_maps")]


def levels_from(numbers: Tensor) -> Tensor:
    r"""Levels ``[..., K]`` from the numbers ``[..., outputs, 1 + 3K]`` of :meth:`TypedLayer.forms`.

    :math:`\sqrt{(broken / power) / f}` of the kind of output where it is largest, with f the share expected / whole of
    a random weight, or one half if that is more; 0 where there is no power, NaN where nothing is forbidden.
    """
    size = (numbers.shape[-1] - 1) // 3
    whole, power, broken, expected = numbers.clamp(min=0.0).split([1, size, size, size], dim=-1)
    share = (expected / whole).clamp(min=LEAST_SHARE)
    level = torch.where(power > 0, ((broken / power) / share).sqrt(), 0.0)
    constrains = expected > NOTHING * whole
    largest = torch.where(constrains, level, -1.0).amax(-2)
    return torch.where(constrains.any(-2), largest, torch.nan)


def expected_form(projector: Projector, row: int) -> Tensor:
    """What is forbidden in a random weight of unit variance, as a form on second moments of the input, ``[n, n]``.

    Of the outputs in one ``row`` of the blocks.
    """
    form = torch.zeros(projector.shape[1], projector.shape[1], dtype=torch.float64)
    for block in projector.blocks[row]:
        if block.space.basis is None:
            continue
        into, di, do = block.into, block.into.copy.dim, block.out.copy.dim
        complement = block.space.complement().reshape(do, di, do, di)
        pooled = block.out.mul * torch.einsum("oaob->ab", complement)  # [di, di]
        form[into.start : into.stop, into.start : into.stop] += torch.block_diag(*[pooled] * into.mul)
    return form
