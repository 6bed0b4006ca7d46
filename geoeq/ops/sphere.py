"""Functions on the sphere: grids of directions, quadrature, and spherical harmonics in e3nn's convention.

All tables are float64; whoever stores them casts them once.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    "POLYHEDRA",
    "antipode",
    "directions",
    "quadrature",
    "spherical_harmonics",
    "whole_quadrature",
    "zonal_polynomials",
]

POLYHEDRA = {"octahedron": 6, "cube": 8, "icosahedron": 12, "dodecahedron": 20}  # number of vertices
LEBEDEV_DEGREES = (*range(3, 32, 2), *range(35, 132, 6))


def directions(name_or_count: str | int, dim: int = 3) -> Tensor:
    r"""A grid of unit vectors, symmetric under inversion: the second half is minus the first.

    On the circle the angles are :math:`2 \pi k / O`. On the sphere a name, or its number of vertices, gives a
    polyhedron, whose grid is invariant under the rotations of that polyhedron; any other even number gives the
    pairs of opposite points with least Coulomb energy, near-uniform and, from 6 points on, a tight frame:

    .. math:: \tfrac{1}{O} \textstyle\sum_k o_k = 0, \qquad \tfrac{1}{O} \sum_k o_k o_k^\top = \tfrac{1}{d} 1.

    Args:
        name_or_count: ``"octahedron"`` (6), ``"cube"`` (8), ``"icosahedron"`` (12), ``"dodecahedron"`` (20), or
            the number of directions O, which must be even.
        dim: 2 for the circle, 3 for the sphere.

    Returns:
        [O, dim], float64; the same on every call.

    Raises:
        ValueError: an unknown name, a count that is odd or below 2, or another ``dim``.

    Source: Thomson's problem with opposite pairs; grids for arXiv 2310.02970, section 3.

    >>> directions("octahedron").shape, directions(16, dim=2).shape
    (torch.Size([6, 3]), torch.Size([16, 2]))
    >>> grid = directions(30)
    >>> bool(torch.allclose(grid.T @ grid / 30, torch.eye(3, dtype=torch.float64) / 3))
    True
    """
    if dim not in (2, 3):
        raise ValueError(f"dim must be 2 or 3, got {dim}")
    if isinstance(name_or_count, str):
        if dim != 3 or name_or_count not in POLYHEDRA:
            expected = f"one of {', '.join(POLYHEDRA)}" if dim == 3 else "a number of directions in two dimensions"
            raise ValueError(f"name_or_count must be {expected}, got {name_or_count!r}")
        count = POLYHEDRA[name_or_count]
    else:
        count = name_or_count
        if count < 2 or count % 2:
            raise ValueError(f"name_or_count must be even and at least 2, got {count}")
    half = _circle_half(count) if dim == 2 else _sphere_half(count)
    return torch.cat([half, -half])


def antipode(directions: Tensor) -> Tensor:
    """Index of the opposite of each direction.

    Args:
        directions: unit vectors [O, dim].

    Returns:
        [O] int64, an involution.

    Raises:
        ValueError: some direction has no opposite in the grid.

    >>> antipode(directions(6))
    tensor([3, 4, 5, 0, 1, 2])
    """
    nearest, index = (directions @ directions.T).min(1)
    if not bool(torch.allclose(nearest, -torch.ones_like(nearest), atol=1e-6)):
        raise ValueError(f"directions must hold the opposite of each of its vectors, got {list(directions.shape)}")
    return index


def _circle_half(count: int) -> Tensor:
    angle = torch.arange(count // 2, dtype=torch.float64) * (2 * math.pi / count)
    return torch.stack([angle.cos(), angle.sin()], 1)


@lru_cache(maxsize=64)
def _sphere_half(count: int) -> Tensor:
    golden = (1 + math.sqrt(5)) / 2
    cube = [(1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (1.0, -1.0, 1.0), (1.0, -1.0, -1.0)]
    known = {
        6: [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)],
        8: cube,
        12: _cyclic(1.0, golden),
        20: cube + _cyclic(golden, 1 / golden),  # turned so that it shares the rotations of the icosahedron
    }
    if count not in known:
        return _least_energy_half(count)
    vertices = torch.tensor(known[count], dtype=torch.float64)
    return vertices / vertices.norm(dim=1, keepdim=True)


def _cyclic(a: float, b: float) -> list[tuple[float, float, float]]:
    """The cyclic permutations of (0, a, b) and (0, a, -b)."""
    return [v for c in (b, -b) for v in ((0.0, a, c), (a, c, 0.0), (c, 0.0, a))]


def _least_energy_half(count: int) -> Tensor:
    """One point of each pair of opposite points that repel each other, [count / 2, 3]."""
    from scipy.optimize import minimize

    pairs = count // 2
    k = torch.arange(pairs, dtype=torch.float64) + 0.5
    height, angle = 1 - k / pairs, k * math.pi * (3 - math.sqrt(5))  # a golden spiral on the upper half to start from
    radius = (1 - height.square()).sqrt()
    start = torch.stack([radius * angle.cos(), radius * angle.sin(), height], 1)
    i, j = torch.triu_indices(pairs, pairs, 1)

    def energy(flat):  # type: ignore[no-untyped-def]  # numpy in, numpy out, as scipy wants it
        points = torch.tensor(flat, dtype=torch.float64).view(pairs, 3).requires_grad_()
        unit = points / points.norm(dim=1, keepdim=True)
        cosine = (unit @ unit.T)[i, j]
        total = (2 - 2 * cosine).rsqrt().sum() + (2 + 2 * cosine).rsqrt().sum()
        (gradient,) = torch.autograd.grad(total, points)
        return total.item(), gradient.reshape(-1).numpy()

    found = start.numpy().reshape(-1)
    if pairs > 1:
        found = minimize(energy, found, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-10}).x
    points = torch.tensor(found, dtype=torch.float64).view(pairs, 3)
    points = points / points.norm(dim=1, keepdim=True)
    for _ in range(100 if pairs >= 3 else 0):  # a fixed point has equal second moments: a tight frame
        values, vectors = torch.linalg.eigh(points.T @ points * (3 / pairs))
        points = points @ vectors @ torch.diag(values.rsqrt()) @ vectors.T
        points = points / points.norm(dim=1, keepdim=True)
    return points


def quadrature(degree: int) -> tuple[Tensor, Tensor]:
    r"""One half of a quadrature rule on the sphere that is symmetric under inversion.

    .. math:: \int_{S^2} f \, d\Omega = \textstyle\sum_g w_g\, \tfrac{1}{2} (f(r_g) + f(-r_g))

    exact for polynomials up to ``degree``: Lebedev's rule where there is one, else Gauss-Legendre in the height
    times equal steps around the axis. Lebedev's rules of degree 13, 25 and 27 hold negative weights, which are
    harmless here.

    Args:
        degree: highest degree that is integrated exactly.

    Returns:
        points r [G, 3] and weights w [G], float64, one of each pair of opposite points; the weights sum to 4 pi.

    Raises:
        ValueError: ``degree`` is negative.

    >>> points, weights = quadrature(6)
    >>> points.shape, round(weights.sum().item() / math.pi, 12)
    (torch.Size([13, 3]), 4.0)
    """
    if degree < 0:
        raise ValueError(f"degree must be at least 0, got {degree}")
    order = next((n for n in LEBEDEV_DEGREES if n >= degree), None)
    points, weights = _gauss_legendre(degree) if order is None else _lebedev(order)
    # Upper half: the first coordinate from above that is not zero is positive.
    z, y, x = (torch.where(c.abs() < 1e-12, 0.0, c) for c in (points[:, 2], points[:, 1], points[:, 0]))
    upper = (z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0))))
    return points[upper], 2 * weights[upper]


def whole_quadrature(degree: int) -> tuple[Tensor, Tensor]:
    r"""A quadrature rule on the whole sphere, of few points.

    .. math:: \int_{S^2} f \, d\Omega = \textstyle\sum_g w_g\, f(r_g)

    exact for polynomials up to ``degree``: the vertices of an icosahedron for degree 4 and 5, 18 points that are not
    symmetric under inversion for degree 6 (Lebedev's rules have 14 and 26), else both halves of :func:`quadrature`.

    Args:
        degree: highest degree that is integrated exactly.

    Returns:
        points r [G, 3] and weights w [G], float64; the weights sum to 4 pi.

    Raises:
        ValueError: ``degree`` is negative.

    >>> points, weights = whole_quadrature(6)
    >>> points.shape, round(weights.sum().item() / math.pi, 12)
    (torch.Size([18, 3]), 4.0)
    """
    if degree in (4, 5):
        points = directions("icosahedron")
        return points, torch.full((len(points),), 4 * math.pi / len(points), dtype=torch.float64)
    if degree == 6:
        return _eighteen_points()
    half, weights = quadrature(degree)
    return torch.cat([half, -half]), torch.cat([weights, weights]) / 2


def _eighteen_points() -> tuple[Tensor, Tensor]:
    r"""Poles, and squares at heights :math:`\pm a` and :math:`\mp b`, turned by :math:`\pm\pi/8`.

    Eighths of a turn leave harmonics of order 0 and :math:`\sin 4\phi` alone, and of the latter the one of degree 5,
    :math:`z (1 - z^2)^2`, to which a and b contribute with opposite signs. With weights 2/45 at the poles the even
    moments of the heights up to 6 make a Gauss rule of two nodes in :math:`z^2`, and that of degree 5 vanishes, too.
    """
    root = math.sqrt(30.0)
    squares = torch.tensor([13 - 2 * root, 13 + 2 * root], dtype=torch.float64) / 49
    moments = torch.tensor([41, 11], dtype=torch.float64) / 360
    first, second = torch.linalg.solve(torch.stack([torch.ones_like(squares), squares]), moments).tolist()
    points, weights = [torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=torch.float64)], [2 / 45] * 2
    eighths = torch.arange(4, dtype=torch.float64) * (math.pi / 2)
    a, b = squares.sqrt().tolist()
    for height, weight in ((a, first), (-b, second)):
        for sign in (1, -1):
            angle, radius = eighths + sign * math.pi / 8, math.sqrt(1 - height**2)
            z = torch.full_like(angle, sign * height)
            points.append(torch.stack([radius * angle.cos(), radius * angle.sin(), z], 1))
            weights += [weight] * 4
    return torch.cat(points), 4 * math.pi * torch.tensor(weights, dtype=torch.float64)


def _lebedev(order: int) -> tuple[Tensor, Tensor]:
    from scipy.integrate import lebedev_rule

    points, weights = lebedev_rule(order)
    return torch.tensor(points.T, dtype=torch.float64).contiguous(), torch.tensor(weights, dtype=torch.float64)


def _gauss_legendre(degree: int) -> tuple[Tensor, Tensor]:
    from numpy.polynomial.legendre import leggauss

    n_around = degree + 1 + (degree + 1) % 2  # even, so that opposite points are both there
    height, weight = (torch.tensor(a, dtype=torch.float64) for a in leggauss(degree // 2 + 1))
    radius, around = (1 - height.square()).sqrt(), directions(n_around, dim=2)
    points = torch.stack(
        [
            radius[:, None] * around[:, 0],
            radius[:, None] * around[:, 1],
            height[:, None].expand(-1, n_around),
        ],
        2,
    )
    weights = (weight * (2 * math.pi / n_around))[:, None].expand(-1, n_around)
    return points.reshape(-1, 3), weights.reshape(-1)


def spherical_harmonics(lmax: int, points: Tensor, normalization: str = "integral") -> Tensor:
    r"""Real spherical harmonics of all degrees up to ``lmax`` in e3nn's convention.

    The polar axis is y, m runs from -l to l, and degree 1 is proportional to (x, y, z). They are written as
    polynomials in x, y, z on the unit sphere, so that derivatives along tangents are derivatives on the sphere.

    .. math::
        \int Y_{lm} Y_{l'm'}\, d\Omega = \delta_{ll'} \delta_{mm'} \text{ (integral)}, \qquad
        \textstyle\sum_m Y_{lm}^2 = 2l + 1 \text{ (component)}.

    Args:
        lmax: highest degree.
        points: unit vectors [..., 3].
        normalization: ``"integral"`` or ``"component"``.

    Returns:
        [..., (lmax + 1)^2]; degree l starts at column l^2.

    Raises:
        ValueError: ``lmax`` is negative, ``points`` are not vectors, or the normalization is unknown.

    >>> spherical_harmonics(1, torch.tensor([[0.0, 1.0, 0.0]]), "component")
    tensor([[1.0000, 0.0000, 1.7321, 0.0000]])
    """
    if lmax < 0:
        raise ValueError(f"lmax must be at least 0, got {lmax}")
    if points.dim() == 0 or points.shape[-1] != 3:
        raise ValueError(f"points must be [..., 3], got {list(points.shape)}")
    if normalization not in ("integral", "component"):
        raise ValueError(f"normalization must be 'integral' or 'component', got {normalization!r}")
    x, y, z = points.unbind(-1)
    columns = [x] * (lmax + 1) ** 2
    around_cos, around_sin = torch.ones_like(x), torch.zeros_like(x)  # (z + i x)^m
    sectoral = 1.0 if normalization == "component" else math.sqrt(1 / (4 * math.pi))
    for m in range(lmax + 1):
        if m:
            around_cos, around_sin = around_cos * z - around_sin * x, around_cos * x + around_sin * z
            sectoral *= math.sqrt((2 * m + 1) / (2 * m)) * (math.sqrt(2) if m == 1 else 1)
        before, legendre = torch.zeros_like(y), torch.full_like(y, sectoral)
        for degree in range(m, lmax + 1):
            if degree > m:
                a = math.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
                b = math.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1)) if degree > m + 1 else 0.0
                before, legendre = legendre, a * (y * legendre - b * before)
            columns[degree * (degree + 1) + m] = legendre * around_cos
            if m:
                columns[degree * (degree + 1) - m] = legendre * around_sin
    return torch.stack(columns, -1)


def zonal_polynomials(offset: Tensor, grid: Tensor, degree: int) -> Tensor:
    r"""Zonal solid harmonics :math:`|s|^l P_l(o \cdot s / |s|)` of degrees 0 to ``degree``, polynomials in s.

    Args:
        offset: s [P, 3].
        grid: unit vectors o [O, 3].
        degree: highest l.

    Returns:
        [P, O, degree + 1].

    >>> zonal_polynomials(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, 1.0]]), 2)
    tensor([[[1., 2., 4.]]])
    """
    along = offset @ grid.T
    square = offset.square().sum(1, keepdim=True)
    terms = [torch.ones_like(along), along]
    for n in range(1, degree):
        terms.append(((2 * n + 1) * along * terms[n] - n * square * terms[n - 1]) / (n + 1))
    return torch.stack(terms[: degree + 1], 2)
