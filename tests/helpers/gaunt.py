"""Features, Clebsch-Gordan numbers and tables for the tests of Gaunt products."""

import math

import torch
from e3nn import o3

import geoeq.ops.sphere_transform as transform_module
from geoeq.ops import gaunt_product

F64 = torch.float64


def clear_tables():
    transform_module.product_transforms.cache_clear()
    transform_module.bracket_transforms.cache_clear()


def features(lmax, *, rows=3, channels=2, dtype=F64, requires_grad=False):
    return torch.randn(rows, (lmax + 1) ** 2, channels, dtype=F64).to(dtype).requires_grad_(requires_grad)


def three_j(l1, l2, l3, m):
    """|(l1 l2 l3; m -m 0)|, from sums of integers: Racah's formula."""
    f = math.factorial
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        return 0.0
    total = sum(
        (-1) ** k
        / (f(k) * f(l1 + l2 - l3 - k) * f(l1 - m - k) * f(l2 - m - k) * f(l3 - l2 + m + k) * f(l3 - l1 + m + k))
        for k in range(max(0, l2 - l3 - m, l1 - l3 - m), min(l1 + l2 - l3, l1 - m, l2 - m) + 1)
    )
    triangle = f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(-l1 + l2 + l3) / f(l1 + l2 + l3 + 1)
    return abs(total) * math.sqrt(triangle * f(l1 + m) * f(l1 - m) * f(l2 + m) * f(l2 - m)) * f(l3)


def wigner_3j(l1, l2, l3):
    """e3nn's, once more through its own numbers but normalised in double precision."""
    w = o3.wigner_3j(l1, l2, l3, dtype=F64)
    return w / w.norm()


def path_factor(l1, l2, l3, normalization="integral"):
    factor = math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) / (4 * math.pi))
    if normalization == "component":
        factor *= math.sqrt(4 * math.pi)
    if (l1 + l2 + l3) % 2:
        return factor * math.sqrt(l1 * (l1 + 1) * l2 * (l2 + 1)) * three_j(l1, l2, l3, 1) if l1 and l2 else 0.0
    return factor * three_j(l1, l2, l3, 0)


def degree_slice(degree):
    return slice(degree**2, (degree + 1) ** 2)


def tensor_of(call, lmax1, lmax2):
    """The bilinear map on basis vectors: [K1, K2, K_out]."""
    k1, k2 = (lmax1 + 1) ** 2, (lmax2 + 1) ** 2
    x = torch.eye(k1, dtype=F64).repeat_interleave(k2, 0).unsqueeze(2)
    y = torch.eye(k2, dtype=F64).repeat(k1, 1).unsqueeze(2)
    return call(x, y).view(k1, k2, -1)


def bracket(x, y, *lmaxs, **options):
    return gaunt_product(x, y, *lmaxs, complete=True, **options).chunk(2, -1)[1]
