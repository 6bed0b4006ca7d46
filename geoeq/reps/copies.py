"""The blocks that representations are made of, and where they lie among the components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from geoeq.reps.representations import (
    Crossing,
    Irreps,
    LogSizes,
    Nodes,
    Positions,
    Rep,
    TensorRep,
    as_rep,
)

__all__ = [
    "Copy",
    "CrossingCopy",
    "IrrepCopy",
    "LogSizeCopy",
    "NodeCopy",
    "PositionCopy",
    "Segment",
    "TensorCopy",
    "segments",
]


@dataclass(frozen=True)
class IrrepCopy:
    """One irrep of O(3), degree ``l`` and parity ``p``."""

    l: int  # noqa: E741  the field's letter
    p: int

    @property
    def dim(self) -> int:
        return 2 * self.l + 1


@dataclass(frozen=True)
class TensorCopy:
    """One tensor T(rank, dual) over a space of dimension ``d``."""

    rank: int
    d: int
    dual: int = 0

    @property
    def indices(self) -> int:
        """Number of indices, of the space and of its dual."""
        return self.rank + self.dual

    @property
    def dim(self) -> int:
        return self.d**self.indices


@dataclass(frozen=True)
class PositionCopy:
    """A stack of ``mul`` positions: one copy, because translations tie its members together."""

    mul: int

    @property
    def dim(self) -> int:
        return 3 * self.mul


@dataclass(frozen=True)
class LogSizeCopy:
    """A stack of ``mul`` logarithms of lengths: one copy, because scalings tie its members together."""

    mul: int

    @property
    def dim(self) -> int:
        return self.mul


@dataclass(frozen=True)
class CrossingCopy:
    """``inner`` between two parts."""

    inner: IrrepCopy | TensorCopy | PositionCopy | LogSizeCopy

    @property
    def dim(self) -> int:
        return self.inner.dim


@dataclass(frozen=True)
class NodeCopy:
    """``inner`` at each of ``n`` nodes, or each ``order`` of them, components ``[inner.dim, n ** order]``."""

    inner: IrrepCopy
    n: int
    order: int = 1

    @property
    def places(self) -> int:
        """Number of nodes, or of pairs and so on."""
        return self.n**self.order

    @property
    def dim(self) -> int:
        return self.inner.dim * self.places


Copy: TypeAlias = IrrepCopy | TensorCopy | PositionCopy | LogSizeCopy | CrossingCopy | NodeCopy


@dataclass(frozen=True)
class Segment:
    """``mul`` equal copies that start at component ``start``, laid out ``[mul, copy.dim]``."""

    copy: Copy
    mul: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.mul * self.copy.dim


def segments(rep: Rep, d: int = 3, start: int = 0) -> tuple[Segment, ...]:
    """The copies of ``rep`` in order of their components; neighbours of one kind are merged, stacks into one stack.

    Args:
        rep: a representation.
        d: dimension of the space of a :class:`TensorRep` that does not name its own.
        start: number of the first component.
    """
    found: list[Segment] = []
    for copy, mul in _copies(as_rep(rep), d):
        if mul == 0 or copy.dim == 0:
            continue
        last = found[-1] if found else None
        if last is not None and isinstance(copy, PositionCopy | LogSizeCopy) and type(copy) is type(last.copy):
            found[-1] = Segment(type(copy)(last.copy.mul + copy.mul), 1, last.start)  # shifted together
        elif last is not None and last.copy == copy:
            found[-1] = Segment(copy, last.mul + mul, last.start)
        else:
            found.append(Segment(copy, mul, start if last is None else last.stop))
    return tuple(found)


def _copies(rep: Rep, d: int) -> list[tuple[Copy, int]]:
    if isinstance(rep, Irreps):
        return [(IrrepCopy(ir.l, ir.p), mul) for mul, ir in rep]
    if isinstance(rep, TensorRep):
        return [(TensorCopy(p, rep.d or d, q), mul) for p, q, mul in rep.types]
    if isinstance(rep, Positions):
        return [(PositionCopy(rep.mul), 1)]
    if isinstance(rep, LogSizes):
        return [(LogSizeCopy(rep.mul), 1)]
    if isinstance(rep, Crossing):
        return [(CrossingCopy(copy), mul) for copy, mul in _copies(rep.rep, d)]  # type: ignore[arg-type]
    if isinstance(rep, Nodes):
        return [(NodeCopy(IrrepCopy(ir.l, ir.p), rep.n, rep.order), mul) for mul, ir in rep.irreps]
    return [pair for term in rep.terms for pair in _copies(term, d)]
