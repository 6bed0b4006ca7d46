"""Axes in space: how they are named, what is perpendicular to them, and the irreps that turn about them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from geoeq.intertwiners import PairSpace
from geoeq.reps import IrrepCopy, irrep_matrix, kron

__all__ = ["AXES", "Axis", "about_axis", "perpendicular", "read_axis", "unit_vector"]

AXES = {"x": 0, "y": 1, "z": 2}
Axis: TypeAlias = str | tuple[float, float, float]
DECIMALS = 14
UNIT = 1e-13


def read_axis(axis: str | Sequence[float]) -> Axis:
    """The letter of a coordinate axis, or a unit vector whose first component that is not 0 is positive.

    >>> read_axis([0, 0, -2.0]), read_axis([0, 3, 4])
    ('z', (0.0, 0.6, 0.8))
    """
    if isinstance(axis, str):
        if axis not in AXES:
            raise ValueError(f"axis must be one of {list(AXES)} or three numbers, got {axis!r}")
        return axis
    vector = torch.tensor([float(value) for value in axis], dtype=torch.float64)
    if vector.shape != (3,) or not bool(torch.isfinite(vector).all()) or not bool(vector.any()):
        raise ValueError(f"axis must be one of {list(AXES)} or three numbers that are not all 0, got {axis!r}")
    length = vector.norm()
    unit = vector if abs(float(length) - 1) < UNIT else vector / length  # so that a name read again stays the same
    unit = torch.round(unit, decimals=DECIMALS)
    x, y, z = (unit * unit[unit != 0][0].sign() + 0.0).tolist()
    if [x, y, z].count(0.0) == 2:
        return "xyz"[[x, y, z].index(1.0)]
    return (x, y, z)


def unit_vector(axis: Axis) -> Tensor:
    """The axis as a unit vector ``[3]``, float64."""
    if isinstance(axis, str):
        return torch.eye(3, dtype=torch.float64)[AXES[axis]]
    vector = torch.tensor(axis, dtype=torch.float64)
    return vector / vector.norm()


def perpendicular(axis: Axis) -> Tensor:
    """A unit vector ``[3]`` at right angles: the next coordinate axis in the order x, y, z, x, or what is near it."""
    along = unit_vector(axis)
    start = torch.eye(3, dtype=torch.float64)[(int(along.abs().argmax()) + 1) % 3]
    side = start - (start @ along) * along
    return side / side.norm()


def about_axis(copy_out: IrrepCopy, copy_in: IrrepCopy, axis: Axis) -> PairSpace:
    r"""The maps between two irreps that commute with rotations about ``axis``, per \|m\|: (a, b; -b, a)."""
    basis = _about_y(copy_out.l, copy_in.l)
    if axis != "y":
        turn = _from_y(unit_vector(axis))
        turned = kron(irrep_matrix(IrrepCopy(copy_out.l, 1), turn), irrep_matrix(IrrepCopy(copy_in.l, 1), turn))
        basis = turned @ basis
    return PairSpace(copy_out.dim * copy_in.dim, basis)


@lru_cache(maxsize=256)
def _about_y(l_out: int, l_in: int) -> Tensor:
    """Orthonormal columns ``[(2 l_out + 1) (2 l_in + 1), 1 + 2 min]``; components run from m = -l to l about y."""
    blocks = [_unit(l_out, l_in, {(0, 0): 1.0})]
    for m in range(1, min(l_out, l_in) + 1):
        blocks.append(_unit(l_out, l_in, {(m, m): 0.5**0.5, (-m, -m): 0.5**0.5}))
        blocks.append(_unit(l_out, l_in, {(m, -m): 0.5**0.5, (-m, m): -(0.5**0.5)}))
    return torch.stack(blocks, dim=1)


def _unit(l_out: int, l_in: int, entries: dict[tuple[int, int], float]) -> Tensor:
    block = torch.zeros(2 * l_out + 1, 2 * l_in + 1, dtype=torch.float64)
    for (m_out, m_in), value in entries.items():
        block[l_out + m_out, l_in + m_in] = value
    return block.reshape(-1)


def _from_y(axis: Tensor) -> Tensor:
    """A rotation ``[3, 3]`` that takes y to the unit vector ``axis``, which is not -y."""
    start = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    normal = torch.linalg.cross(start, axis)
    angle = torch.atan2(normal.norm(), start @ axis)
    length = normal.norm().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.as_tensor(Rotation.from_rotvec((angle * normal / length).numpy()).as_matrix())
