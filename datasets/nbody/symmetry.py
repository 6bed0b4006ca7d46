"""What a protocol leaves of the symmetries of space, time and numbered bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from geoeq.groups import O2, SE, SO, SO2, C, E, Group, Mirror, O, S, T, Union
from geoeq.groups.axis import unit_vector
from geoeq.groups.finite import Finite

# Orthogonal matrices that keep an axis as a line: determinant, and whether they keep (1) or turn (-1) its direction.
TURNS, MIRRORS_WITH_AXIS, MIRROR_OF_AXIS, FLIPS = (1, 1), (-1, 1), (-1, -1), (1, -1)
ALL = frozenset({TURNS, MIRRORS_WITH_AXIS, MIRROR_OF_AXIS, FLIPS})


class AxisMirror(Finite):
    """The reflection that reverses one axis.

    Example:
        >>> AxisMirror("z").projector("1x1o", "1x1o").rank
        5
    """

    def __init__(self, axis: str = "z") -> None:
        self.axis = axis
        along = unit_vector(axis)
        mirror = torch.eye(3, dtype=torch.float64) - 2 * torch.outer(along, along)
        super().__init__(torch.stack([torch.eye(3, dtype=torch.float64), mirror]), mirror[None])

    def key(self) -> tuple[object, ...]:
        return (self.axis,)


@dataclass(frozen=True)
class Residual:
    """The symmetries of a simulation: simulate(g x) = g simulate(x) for each of their elements g.

    Rotations hold with ``clip="norm"``; see :class:`~geoeq.datasets.nbody.Protocol` for what the published clip breaks.

    Args:
        axis: an axis that is told from others by a knob; None if all directions are alike.
        cosets: the kinds of orthogonal matrices that are kept.
        translations: whether space is alike everywhere.
        boosts: whether a velocity added to all bodies is only that.
        time_reversal: whether reversed velocities lead back (charged particles and springs: to order dt).
        classes: [n], bodies of different classes differ in what no input shows.
        parts: [n], bodies of one part are joined by rods, neighbours in number to each other.

    Example:
        >>> from geoeq.datasets.nbody import Protocol
        >>> left = Protocol(field=0.1, hidden_charges=0.2, axis="y").symmetry
        >>> left.point, left.translations, left.nodes
        (O2(y), True, S(5, [0, 1, 0, 1, 0]))
        >>> left.keeps(torch.diag(torch.tensor([-1.0, 1, 1]))), left.keeps(torch.diag(torch.tensor([1.0, -1, 1])))
        (True, False)
    """

    axis: str | None
    cosets: frozenset[tuple[int, int]]
    translations: bool
    boosts: bool
    time_reversal: bool
    classes: tuple[int, ...]
    parts: tuple[int, ...]

    @property
    def point(self) -> Group:
        """Rotations and reflections about the origin: a group of matrices [3, 3]."""
        if self.axis is None:
            return O(3) if MIRRORS_WITH_AXIS in self.cosets else SO(3)
        turns = O2(self.axis) if MIRRORS_WITH_AXIS in self.cosets else SO2(self.axis)
        if MIRROR_OF_AXIS in self.cosets:
            return Union(turns, AxisMirror(self.axis))
        side = "xyz"["xyz".index(self.axis) - 2]
        return Union(turns, C(2, side)) if FLIPS in self.cosets else turns

    @property
    def space(self) -> Group:
        """:attr:`point`, with translations where they are kept."""
        if not self.translations:
            return self.point
        if self.axis is None:
            return E(3) if MIRRORS_WITH_AXIS in self.cosets else SE(3)
        point = self.point
        return Union(T(3), *(point.members if isinstance(point, Union) else [point]))

    @property
    def nodes(self) -> Group:
        """Permutations of the bodies; those of their charges, masses and couplings go with them."""
        n = len(self.classes)
        if not any(a == b for a, b in zip(self.parts, self.parts[1:])):
            return S(n, self.classes) if any(self.classes) else S(n)
        exchanges = [order for order in _exchanges(self.parts) if self.keeps_order(order)]
        if not exchanges:
            return S(n, range(n))
        return Union(*map(Mirror, exchanges)) if len(exchanges) > 1 else Mirror(exchanges[0])

    def keeps(self, matrix: Tensor, tolerance: float = 1e-6) -> bool:
        """Whether an orthogonal matrix [3, 3] is in :attr:`point`."""
        handed = 1 if torch.det(matrix.double()) > 0 else -1
        if self.axis is None:
            return (handed, handed) in self.cosets
        along = unit_vector(self.axis)
        turned = matrix.double() @ along
        sides = [side for side in (1, -1) if (turned - side * along).abs().max() <= tolerance]
        return bool(sides) and (handed, sides[0]) in self.cosets

    def keeps_order(self, order: Sequence[int]) -> bool:
        """Whether bodies renumbered so that the i-th becomes ``order[i]`` are in :attr:`nodes`."""
        rods = {(i, i + 1) for i in range(len(order) - 1) if self.parts[i] == self.parts[i + 1]}
        moved = {(min(pair), max(pair)) for pair in ((order[i], order[j]) for i, j in rods)}
        return moved == rods and all(self.classes[i] == self.classes[order[i]] for i in range(len(order)))


def _exchanges(parts: Sequence[int]) -> list[list[int]]:
    """Reversals of a part, and exchanges of two parts of one size, the second as it is or reversed."""
    members = [[i for i, own in enumerate(parts) if own == part] for part in dict.fromkeys(parts)]
    pairs = [(one, one[::-1]) for one in members if len(one) > 1]
    for one, other in combinations(members, 2):
        if len(one) == len(other):
            pairs += [(one, other), (one, other[::-1])][: len(one)]
    orders = []
    for one, other in pairs:
        order = list(range(len(parts)))
        for i, j in zip(one, other, strict=True):
            order[i], order[j] = j, i
        orders.append(order)
    return orders
