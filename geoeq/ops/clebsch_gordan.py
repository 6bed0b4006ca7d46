"""Clebsch-Gordan constants and the paths of a tensor product, as data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from geoeq.ops.constants import constants

if TYPE_CHECKING:  # e3nn takes seconds to import
    from e3nn import o3

__all__ = ["MODES", "Path", "all_instructions", "coupling_terms", "resolve_paths", "wigner_3j"]

MODES = ("uuu", "uvu", "uvw")
Instruction = Sequence[int | str | bool | float]  # (i1, i2, i_out, mode, has_weight[, path_weight])
ROUNDING = 1e-10  # far above the rounding errors of float64 constants, far below the smallest of them


class Path(NamedTuple):
    """One coupling of an entry of each input to an entry of the output."""

    i1: int
    i2: int
    i_out: int
    mode: str
    has_weight: bool
    factor: float  # the path normalization
    shape: tuple[int, ...]  # of its weights: (u,), (u, v) or (u, v, w)

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape) if self.has_weight else 0


@constants
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    r"""Wigner 3j symbols of the real basis, float64 ``[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]``, Frobenius norm 1.

    Signs and order of components are e3nn's: ``wigner_3j(1, 1, 1)[0, 1, 2]`` is :math:`+1/\sqrt 6`.
    The tensor is cached and shared; do not write to it.

    Raises:
        ValueError: the degrees break :math:`|l_1 - l_2| \le l_3 \le l_1 + l_2`.

    >>> round(float(wigner_3j(1, 1, 1)[0, 1, 2] * 6**0.5), 12)
    1.0
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"l3 must lie in [{abs(l1 - l2)}, {l1 + l2}] for l1 = {l1} and l2 = {l2}, got {l3}")
    from e3nn import o3

    symbols = o3.wigner_3j(l1, l2, l3, dtype=torch.float64, device="cpu")
    return symbols.where(symbols.abs() > ROUNDING, 0.0)


@constants
def coupling_terms(l1: int, l2: int, l3: int) -> tuple[tuple[int, int, int, float], ...]:
    """The non-zero :func:`wigner_3j` as ``(m1, m2, m3, value)``, components counted from 0.

    >>> len(coupling_terms(1, 1, 1))
    6
    """
    symbols = wigner_3j(l1, l2, l3)
    return tuple((i, j, k, symbols[i, j, k].item()) for i, j, k in symbols.nonzero().tolist())


def all_instructions(
    irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, mode: str
) -> list[tuple[int, int, int, str, bool]]:
    """Every weighted path between entries that the selection rules, the parities and ``mode`` allow.

    >>> from e3nn import o3
    >>> len(all_instructions(o3.Irreps("4x0e + 4x1o"), o3.Irreps("4x0e + 4x1o"), o3.Irreps("4x0e + 4x1o"), "uuu"))
    4
    """
    return [
        (i1, i2, i_out, mode, True)
        for i1, (mul1, ir1) in enumerate(irreps1)
        for i2, (mul2, ir2) in enumerate(irreps2)
        for i_out, (mul_out, ir_out) in enumerate(irreps_out)
        if ir_out in ir1 * ir2 and _fits(mode, mul1, mul2, mul_out)
    ]


def resolve_paths(
    irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, instructions: Iterable[Instruction]
) -> tuple[Path, ...]:
    r"""Check instructions and give each its normalization.

    .. math:: \mathrm{factor}_p^2 = \frac{(2 l_3 + 1)\, a_p}{\sum_{q \to \mathrm{out}(p)} n_q}

    with :math:`n_q` the number of products that path q sums (1 for uuu, v for uvu, u v for uvw) and
    :math:`a_p` the optional ``path_weight``: outputs have unit variance for independent unit inputs and
    weights. These are e3nn's ``irrep_normalization="component"``, ``path_normalization="element"``.

    Raises:
        ValueError: an instruction that names no entry, no known mode, or a coupling that is not allowed.
    """
    checked = [_check(irreps1, irreps2, irreps_out, tuple(instruction)) for instruction in instructions]
    fan_in = [0] * len(irreps_out)
    for path in checked:
        fan_in[path.i_out] += _n_summed(path)
    return tuple(
        path._replace(factor=math.sqrt(path.factor * irreps_out[path.i_out].ir.dim / max(fan_in[path.i_out], 1)))
        for path in checked
    )


def _n_summed(path: Path) -> int:
    return {"uuu": 1, "uvu": path.shape[-1], "uvw": math.prod(path.shape[:2])}[path.mode]


def _fits(mode: str, mul1: int, mul2: int, mul_out: int) -> bool:
    return {"uuu": mul1 == mul2 == mul_out, "uvu": mul1 == mul_out, "uvw": True}[mode]


def _check(irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, instruction: tuple) -> Path:
    if len(instruction) not in (5, 6):
        raise ValueError(f"an instruction must be (i1, i2, i_out, mode, has_weight[, path_weight]), got {instruction}")
    i1, i2, i_out, mode, has_weight = instruction[:5]
    for index, irreps in ((i1, irreps1), (i2, irreps2), (i_out, irreps_out)):
        if not 0 <= index < len(irreps):
            raise ValueError(f"an instruction must name an entry of {irreps}, got {index} in {instruction}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    (mul1, ir1), (mul2, ir2), (mul_out, ir_out) = irreps1[i1], irreps2[i2], irreps_out[i_out]
    if ir_out not in ir1 * ir2:
        raise ValueError(f"an instruction must couple {ir1} and {ir2} to one of their products, got {ir_out}")
    if not _fits(mode, mul1, mul2, mul_out):
        raise ValueError(f"multiplicities must fit mode {mode}, got {mul1}, {mul2} to {mul_out}")
    if mode == "uvw" and not has_weight:
        raise ValueError(f"has_weight must be true in mode uvw, got {instruction}")
    shape = {"uuu": (mul1,), "uvu": (mul1, mul2), "uvw": (mul1, mul2, mul_out)}[mode]
    return Path(i1, i2, i_out, mode, bool(has_weight), float(instruction[5]) if len(instruction) == 6 else 1.0, shape)
