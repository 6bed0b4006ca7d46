"""The read-out: how much of each symmetry each layer uses.

A level compares what a symmetry forbids in a layer with what it forbids in a random layer of the same size,
:math:`\\sqrt{r / e}`: 0 is exact, 1 no more symmetric than random. It is measured on the weights alone, or on data,
where every weight counts as much as the features that pass through it: a small weight on a large
feature is a large break. On data a level comes with an interval (:mod:`geoeq.soft.intervals`). Each kind of output is
measured by itself, and the worst is the layer's: what follows can amplify one kind and not the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from geoeq.groups import Group, parse
from geoeq.soft.intervals import InputRecord, record_inputs
from geoeq.soft.typed_layer import TypedLayer, typed_layers

__all__ = ["LevelRow", "Levels", "level_table", "levels_of"]


@dataclass(frozen=True)
class LevelRow:
    """One line of the table.

    Attributes:
        layer: name of the layer in the model.
        symmetry: name of the symmetry.
        level: 0 = exact, 1 = no more symmetric than a random layer.
        strength: multiplier of the penalty; the least one where weight and bias have their own.
        low: lower end of the 95 % interval of the level over the data; None without data.
        high: upper end of that interval.
    """

    layer: str
    symmetry: str
    level: float
    strength: float
    low: float | None = None
    high: float | None = None

    @property
    def upper(self) -> float:
        """The level that the data do not exclude: ``high`` where there is an interval."""
        return self.level if self.high is None else max(self.level, self.high)


class Levels(list[LevelRow]):
    """Rows of :class:`LevelRow` that print as a table.

    Args:
        rows: the rows.
        functional: error of the whole model on the orbits of its data, by symmetry, where it was measured
            (:func:`geoeq.audit.orbit_error`); may also be filled in later.
    """

    def __init__(self, rows: Iterable[LevelRow] = (), functional: Mapping[str, float] | None = None) -> None:
        super().__init__(rows)
        self.functional: dict[str, float] = dict(functional or {})

    def overall(self) -> dict[str, float]:
        """Level of each symmetry in the layer that breaks it most."""
        found: dict[str, float] = {}
        for row in self:
            found[row.symmetry] = max(found.get(row.symmetry, 0.0), row.level)
        return found

    def symmetric(
        self, tolerance: float, functional_errors: Mapping[str, float] | None = None, *, skill: float = 1.0
    ) -> dict[str, bool]:
        """Which symmetries the model has: both their levels and their functional error are at most ``tolerance``.

        Neither is enough: activations can grow until a tiny weight breaks a symmetry, and a large weight may lead
        nowhere. Levels count with the upper end of their interval, in the layer that breaks the symmetry most.

        Args:
            tolerance: the largest level and functional error that count as symmetric.
            functional_errors: by symmetry; those of ``functional`` by default.
            skill: share of the variance of held-out targets that the model explains. A model that explains nothing
                says nothing about their symmetry, so with 0 or less none is declared.

        Raises:
            ValueError: if a symmetry has no functional error.
        """
        errors = self.functional if functional_errors is None else functional_errors
        upper: dict[str, float] = {}
        for row in self:
            upper[row.symmetry] = max(upper.get(row.symmetry, 0.0), row.upper)
        missing = [name for name in upper if name not in errors]
        if missing:
            raise ValueError(f"functional_errors must have every symmetry, missing {missing}")
        return {name: skill > 0 and max(level, errors[name]) <= tolerance for name, level in upper.items()}

    def beside(self, twin: Levels) -> str:
        """These levels and those of a ``twin`` of the same shape, trained without penalty, in one table.

        Raises:
            ValueError: if the rows are not of the same layers and symmetries.
        """
        if [(row.layer, row.symmetry) for row in self] != [(row.layer, row.symmetry) for row in twin]:
            raise ValueError("twin must have the same layers and symmetries as these levels, got others")
        cells = [
            [row.layer, row.symmetry, *_numbers(row), *_numbers(other)] for row, other in zip(self, twin, strict=True)
        ]
        head = ["layer", "symmetry", "level", "interval", "twin's level", "interval"]
        return _aligned(_without_empty_columns([head, *cells]))

    def __str__(self) -> str:
        head = ["layer", "symmetry", "level", "interval", "strength"]
        body = [[row.layer, row.symmetry, *_numbers(row), f"{row.strength:.3g}"] for row in self]
        table = _aligned(_without_empty_columns([head, *body]))
        errors = [f"functional error of {name}: {error:.4f}" for name, error in self.functional.items()]
        return "\n".join([table, *errors])


def _numbers(row: LevelRow) -> tuple[str, str]:
    interval = "" if row.low is None or row.high is None else f"[{row.low:.4f}, {row.high:.4f}]"
    return f"{row.level:.4f}", interval


def _without_empty_columns(lines: list[list[str]]) -> list[list[str]]:
    kept = [c for c in range(len(lines[0])) if lines[0][c] != "interval" or any(line[c] for line in lines[1:])]
    return [[line[c] for c in kept] for line in lines]


def _aligned(lines: list[list[str]]) -> str:
    """Head and body as text, names to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            cell.ljust(width) if c < 2 else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


def level_table(
    layers: Sequence[TypedLayer],
    symmetries: Sequence[str],
    strengths: Sequence[Sequence[float]],
    records: Sequence[InputRecord] | None = None,
) -> Levels:
    """The levels of ``layers``; a symmetry that does not constrain a layer has no row.

    Args:
        layers: the typed layers of a model.
        symmetries: names of the groups that the layers were made with.
        strengths: strength of each symmetry in each layer, ``[layers][symmetries]``.
        records: what :func:`~geoeq.soft.intervals.record_inputs` saw; without it all weights count alike.
    """
    table = Levels()
    for number, layer in enumerate(layers):
        record = None if records is None else records[number]
        levels = layer.levels(None if record is None else record.moment)
        interval = None if record is None else record.interval
        for k, (symmetry, level) in enumerate(zip(symmetries, levels, strict=True)):
            if math.isnan(level):
                continue
            low, high = (None, None) if interval is None else interval[k].tolist()
            table.append(LevelRow(layer.name, symmetry, level, strengths[number][k], low, high))
    return table


def levels_of(model: nn.Module, symmetries: Mapping[str, Group | str], *inputs: object) -> Levels:
    """Levels of a model that is under no penalty, such as a free twin to compare with (:meth:`Levels.beside`).

    Args:
        model: has typed linear maps.
        symmetries: name of each candidate and its group, or the group's text.
        inputs: what the model is called with, to measure on data; without inputs all weights count alike.

    >>> from geoeq.layers import TypedLinear
    >>> [round(row.level) for row in levels_of(TypedLinear("2x1o", "2x1o"), {"rotation": "SO(3)"})]
    [0]
    """
    layers = typed_layers(model, [parse(group) for group in symmetries.values()])
    records = record_inputs(layers, model, inputs) if inputs else None
    return level_table(layers, list(symmetries), [[0.0] * len(symmetries)] * len(layers), records)
