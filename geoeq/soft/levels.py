"""The read-out: how much of each symmetry each layer uses.

A level compares what a symmetry forbids in a layer with what it forbids in a random layer of the same size,
:math:`\\sqrt{r / e}`: 0 is exact, 1 no more symmetric than random. It is measured on the weights alone, or on data,
where every weight counts as much as the features that pass through it: a small weight on a large
feature is a large break.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geoeq.groups import Group
from geoeq.intertwiners import Projector
from geoeq.reps import Sum, TypedMap

__all__ = ["LevelRow", "Levels", "TypedLayer"]


@dataclass(frozen=True)
class LevelRow:
    """One line of the table.

    Attributes:
        layer: name of the layer in the model.
        symmetry: name of the symmetry.
        level: 0 = exact, 1 = no more symmetric than a random layer.
        strength: multiplier of the penalty; the least one where weight and bias have their own.
    """

    layer: str
    symmetry: str
    level: float
    strength: float


class Levels(list[LevelRow]):
    """Rows of :class:`LevelRow` that print as a table."""

    def overall(self) -> dict[str, float]:
        """Level of each symmetry in the layer that breaks it most."""
        found: dict[str, float] = {}
        for row in self:
            found[row.symmetry] = max(found.get(row.symmetry, 0.0), row.level)
        return found

    def __str__(self) -> str:
        head = ("layer", "symmetry", "level", "strength")
        body = [(row.layer, row.symmetry, f"{row.level:.4f}", f"{row.strength:.3g}") for row in self]
        widths = [max(len(line[c]) for line in [head, *body]) for c in range(4)]
        texts = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(line[:2], widths[:2], strict=True)),
                       *(cell.rjust(w) for cell, w in zip(line[2:], widths[2:], strict=True))])
            for line in [head, *body]
        ]  # fmt: skip
        return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


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
        return torch.cat([t.reshape(len(t), -1) for t in parts], dim=1).double().cpu()

    def levels(self, moment: Tensor | None = None) -> list[float]:
        """One level per symmetry; NaN where it does not constrain the layer.

        Args:
            moment: second moment of the input and the constant, ``[dim_in (+ 1)] * 2``; None counts all inputs alike.
        """
        weight = self.joint()
        moment = torch.eye(weight.shape[1], dtype=torch.float64) if moment is None else moment
        total = _power(weight, moment)
        found = []
        for projector in self.projectors:
            share = forbidden_share(projector, moment)
            if share == 0.0:
                found.append(math.nan)
                continue
            expected = share * total
            residual = _power(projector.residual(weight), moment)
            found.append(math.sqrt(residual / expected) if expected > 0 else 0.0)
        return found


def _power(weight: Tensor, moment: Tensor) -> float:
    """Mean squared size of the output, tr(W M W^T)."""
    return max(float(((weight @ moment) * weight).sum()), 0.0)


def forbidden_share(projector: Projector, moment: Tensor) -> float:
    """Share of the output power of a random weight outside the symmetric maps, tr((I - P)(I x M)) / tr(I x M)."""
    forbidden = 0.0
    for row in projector.blocks:
        for block in row:
            if block.space.basis is None:
                continue
            into, di, do = block.into, block.into.copy.dim, block.out.copy.dim
            part = moment[into.start : into.stop, into.start : into.stop].reshape(into.mul, di, into.mul, di)
            pooled = torch.einsum("cacb->ab", part)  # [di, di]
            complement = block.space.complement().reshape(do, di, do, di)
            forbidden += block.out.mul * float(torch.einsum("oaob,ab->", complement, pooled))
    whole = projector.shape[0] * float(moment.trace())
    return forbidden / whole if whole > 0 else 0.0


def input_moments(layers: Sequence[TypedLayer], model: nn.Module, inputs: tuple[object, ...]) -> list[Tensor]:
    """Second moments of what each layer is given, a constant 1 appended where it has a bias, in one forward pass."""
    sums: dict[int, Tensor] = {}

    def listen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().reshape(-1, args[0].shape[-1])
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1).double().cpu()
        sums[id(module)] = sums.get(id(module), torch.zeros(())) + x.T @ x

    handles = [layer.module.register_forward_pre_hook(listen) for layer in layers]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for layer in layers:
        width = layer.projectors[0].shape[1]
        moment = sums.get(id(layer.module), torch.eye(width + 1, dtype=torch.float64))
        count = moment[-1, -1].clamp(min=1.0)
        found.append((moment / count)[:width, :width])
    return found
