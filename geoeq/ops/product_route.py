"""Which way to a product of functions on the sphere is the faster one, and the sparse way as a plan."""

from __future__ import annotations

import torch

from geoeq.ops.clebsch_gordan import wigner_3j
from geoeq.ops.constants import constants
from geoeq.ops.sphere_transform import bracket_transforms, evaluate, multiply, product_transforms, project
from geoeq.ops.tensor_product_code import Coupling, Plan

__all__ = ["ROUTES", "product_plan", "product_route"]

ROUTES = ("clebsch_gordan", "gaunt")
# Degree from which the grid is chosen: without a compiler, and inside torch.compile.
GAUNT_FROM = {"even": (0, 4), "odd": (0, 4), "all": (3, 5)}


def product_route(lmax: int, paths: str = "even", *, compiled: bool = False, crossing: int | None = None) -> str:
    """The faster way to a channelwise product of degrees up to ``lmax``: Clebsch-Gordan sums or the grid.

    Measured on one AVX-512 core in float32 with 64 channels (16,384 rows times channels up to degree 2, 8,192 at 3 and
    4, 4,096 above), ms of the forward pass / of forward and backward. Sums run as matrix products, or unrolled by
    a compiler; ``all`` paths on the grid are the product and the bracket.

    ====  ==============  ==============  ==============  ==============  ==============  ==============
    ..    without compiler                                                inside ``torch.compile``
    ----  --------------------------------------------------------------  ------------------------------
    lmax  even, sums      even, grid      all, sums       all, grid       even, sums      even, grid
    ====  ==============  ==============  ==============  ==============  ==============  ==============
    1     0.18 / 0.66     0.18 / 0.54     0.21 / 0.73     0.43 / 1.32     0.04 / 0.20     0.18 / 0.55
    2     0.82 / 3.98     0.55 / 1.76     1.12 / 4.56     1.57 / 5.35     0.09 / 0.36     0.54 / 2.31
    3     1.59 / 6.39     0.52 / 1.68     1.99 / 7.36     1.55 / 4.91     0.15 / 0.59     0.53 / 1.84
    4     4.50 / 15.3     1.16 / 3.69     5.92 / 17.6     3.41 / 9.94     0.52 / 2.56     1.60 / 4.60
    6     10.1 / 34.4     1.69 / 5.00     15.9 / 44.8     5.04 / 14.3     too long to compile
    ====  ==============  ==============  ==============  ==============  ==============  ==============

    A compiler needs half a minute for the sums of degree 3 and over a minute for those of degree 4, so that even and
    odd paths go to the grid from there although sums would be faster.

    Args:
        lmax: highest degree of inputs and output.
        paths: ``"even"``, those of even l1 + l2 + l3; ``"odd"``, the bracket; or ``"all"``, with a weight for each in
            :class:`~geoeq.ops.TensorProduct` or without one in ``gaunt_product(..., complete=True)``.
        compiled: whether the product runs inside ``torch.compile``.
        crossing: degree from which the grid is chosen, in place of the measured one.

    Returns:
        ``"clebsch_gordan"`` or ``"gaunt"``.

    Raises:
        ValueError: unknown ``paths``.

    >>> product_route(2), product_route(2, compiled=True), product_route(2, "all"), product_route(6, "all")
    ('gaunt', 'clebsch_gordan', 'clebsch_gordan', 'gaunt')
    """
    if paths not in GAUNT_FROM:
        raise ValueError(f"paths must be one of {list(GAUNT_FROM)}, got {paths!r}")
    first = GAUNT_FROM[paths][compiled] if crossing is None else crossing
    return "gaunt" if lmax >= first else "clebsch_gordan"


@constants
def product_plan(bracket: bool, lmaxs: tuple[int, int], lmax_out: int, normalization: str) -> Plan:
    """The product, or the bracket, as Clebsch-Gordan couplings of all degrees; their factors are read off the grid."""
    make = bracket_transforms if bracket else product_transforms
    transforms = make(lmaxs, lmax_out, normalization, torch.float64, torch.device("cpu"))
    one_hot = [torch.eye((lmax + 1) ** 2, dtype=torch.float64)[..., None] for lmax in lmaxs]
    f, g = (evaluate(transform, x) for transform, x in zip(transforms[1:], one_hot))
    columns = [project(transforms[0], multiply(f, tuple(part[j : j + 1] for part in g))) for j in range(len(g[0]))]
    table = torch.cat(columns, 2).transpose(1, 2)  # [K1, K2, K_out]
    couplings = []
    for i in range(lmaxs[0] + 1):
        for j in range(lmaxs[1] + 1):
            for k in range(abs(i - j), min(i + j, lmax_out) + 1):
                block = table[i**2 : (i + 1) ** 2, j**2 : (j + 1) ** 2, k**2 : (k + 1) ** 2]
                factor = (block * wigner_3j(i, j, k)).sum().item()
                if abs(factor) > 1e-10:
                    couplings.append(Coupling(i, j, k, -1, factor))
    x, y, out = (tuple(range(lmax + 1)) for lmax in (*lmaxs, lmax_out))
    return Plan(x, y, out, tuple(couplings))
