"""What kernels on positions and orientations see: a grid of orientations, invariants of pairs, functions of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoeq.layers.ponita_step import spatial_kernels
from geoeq.ops.sphere import antipode, directions, quadrature

__all__ = [
    "KernelBasis",
    "OrientationGrid",
    "invariants",
    "lengths",
    "monomials",
    "polynomial_window",
    "tensor_power_columns",
]


class OrientationGrid(nn.Module):
    r"""Unit vectors :math:`o_m` with the weights :math:`q_m` of a mean over them, kept in the state dict.

    A grid that holds the opposite of each of its vectors is sorted so that the second half is minus the first.

    Args:
        grid: a name or an even number for :func:`~geoeq.ops.sphere.directions`, or any unit vectors [O, dim].
        dim: 2 for the circle, 3 for the sphere.
        degree: None, or the polynomial degree up to which the mean shall be exact; ``grid`` is then not used.

    Attributes:
        directions: [O, dim], float64 until the module is cast.
        weights: [O], of sum 1.
        symmetric: whether the second half is minus the first.

    Raises:
        ValueError: vectors of another shape or length.

    >>> OrientationGrid("icosahedron").directions.shape
    torch.Size([12, 3])
    """

    directions: Tensor
    weights: Tensor
    symmetric: bool

    def __init__(self, grid: str | int | Tensor = 16, *, dim: int = 3, degree: int | None = None) -> None:
        super().__init__()
        weights = None
        if degree is not None:
            half, weight = quadrature(degree)
            vectors, weights = torch.cat([half, -half]), torch.cat([weight, weight]) / (2 * weight.sum())
        elif isinstance(grid, Tensor):
            vectors = _sorted(grid.detach().to("cpu", torch.float64), dim)
        else:
            vectors = directions(grid, dim)
        n = len(vectors)
        self.register_buffer("directions", vectors)
        self.register_buffer("weights", torch.full((n,), 1 / n, dtype=torch.float64) if weights is None else weights)
        self.register_load_state_dict_post_hook(_notice_symmetry)
        _notice_symmetry(self)

    def __len__(self) -> int:
        return len(self.directions)

    def extra_repr(self) -> str:
        return f"{len(self)}, dim={self.directions.shape[1]}"


def _notice_symmetry(grid: OrientationGrid, _: object = None) -> None:
    half = len(grid) // 2
    grid.symmetric = len(grid) == 2 * half and torch.allclose(
        grid.directions[:half], -grid.directions[half:], atol=1e-6
    )


def _sorted(vectors: Tensor, dim: int) -> Tensor:
    if vectors.dim() != 2 or vectors.shape[1] != dim or not bool((vectors.norm(dim=1) - 1).abs().max() < 1e-5):
        raise ValueError(f"grid must be unit vectors [O, {dim}], got {list(vectors.shape)}")
    try:
        opposite = antipode(vectors)
    except ValueError:
        return vectors.clone()
    first = (torch.arange(len(vectors)) < opposite).nonzero().squeeze(1)
    return torch.cat([vectors[first], -vectors[first]])


def invariants(offset: Tensor, grid: Tensor) -> Tensor:
    r"""Invariants of an offset r and an orientation o: along it and across it.

    .. math:: a = \big(o \cdot r,\ |r - (o \cdot r)\,o|\big) \ (d = 3), \qquad
              a = \big(o \cdot r,\ o_x r_y - o_y r_x\big) \ (d = 2).

    Args:
        offset: sender minus receiver [P, d].
        grid: unit vectors [O, d].

    Returns:
        [P, O, 2].

    Symmetry: O(3) in three dimensions, SO(2) in two, acting on offset and grid together.

    Source: arXiv 2310.02970.

    >>> invariants(torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([[[3., 4.]]])
    """
    along = offset @ grid.T  # [P, O]
    if grid.shape[1] == 2:
        across = offset @ torch.stack([-grid[:, 1], grid[:, 0]])
    else:
        across = lengths(offset.unsqueeze(1) - along.unsqueeze(2) * grid, of=offset.unsqueeze(1))
    return torch.stack([along, across], 2)


def lengths(vectors: Tensor, of: Tensor | None = None) -> Tensor:
    """Lengths along the last axis. Where one is 0 its derivatives of every order are, too.

    Args:
        vectors: [..., d].
        of: what the vectors are parts of; lengths within rounding of 0 beside theirs are 0.

    >>> lengths(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5., 0.])
    """
    square = vectors.square().sum(-1)
    least = 0.0 if of is None else (8 * torch.finfo(of.dtype).eps) ** 2 * of.detach().square().sum(-1)
    some = square > least
    return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)


def monomials(attr: Tensor, degree: int) -> Tensor:
    """The different products of 1 to ``degree`` of the last axis' components: [..., A] to [..., F].

    >>> monomials(torch.tensor([2.0, 3.0]), 2)
    tensor([2., 3., 4., 6., 9.])
    """
    factors = attr.unbind(-1)
    columns, newest = [], [(0, torch.ones_like(attr[..., 0]))]
    for _ in range(degree):
        newest = [(k, column * factors[k]) for last, column in newest for k in range(last, len(factors))]
        columns += [column for _, column in newest]
    return torch.stack(columns, -1)


def monomial_table(n_attr: int, degree: int) -> list[tuple[int, ...]]:
    """Factors of each monomial, in the order of :func:`monomials`."""
    return [c for d in range(1, degree + 1) for c in combinations_with_replacement(range(n_attr), d)]


def tensor_power_columns(n_attr: int, degree: int) -> Tensor:
    """Which monomial each column of the full tensor powers is: int64 [A + A^2 + ... + A^degree].

    >>> tensor_power_columns(2, 2)
    tensor([0, 1, 2, 3, 3, 4])
    """
    place = {factors: k for k, factors in enumerate(monomial_table(n_attr, degree))}
    full = [tuple(sorted(c)) for d in range(1, degree + 1) for c in product(range(n_attr), repeat=d)]
    return torch.tensor([place[factors] for factors in full])


def polynomial_window(distance: Tensor, radius: float, power: int = 6) -> Tensor:
    r"""A smooth step from 1 at 0 to 0 at ``radius``, with two vanishing derivatives there.

    .. math:: w = 1 - \tfrac{(p+1)(p+2)}{2} u^p + p(p+2)\, u^{p+1} - \tfrac{p(p+1)}{2} u^{p+2}, \quad u = d/r

    Source: arXiv 2003.03123, equation 8.

    >>> polynomial_window(torch.tensor([0.0, 2.0, 3.0]), 2.0)
    tensor([1., 0., 0.])
    """
    u, p = (distance / radius).clamp(max=1), power
    return 1 - u**p * ((p + 1) * (p + 2) / 2 - u * (p * (p + 2) - u * (p * (p + 1) / 2)))


class KernelBasis(nn.Module):
    r"""Functions of invariants, :math:`\mathrm{GELU}(W_2\,\mathrm{GELU}(W_1\,p(a) + b_1) + b_2)`.

    p(a) are the monomials of degree 1 to ``degree``. Equal products are one column; the first layer starts with the
    distribution that it would have if each product had the columns of its own that the authors give it.

    Args:
        n_attr: number of invariants.
        hidden: width of the inner layer.
        basis: number of functions.
        degree: highest degree of the monomials.

    Shapes: ``attr [..., n_attr]``; returns ``[..., basis]``.

    Source: arXiv 2310.02970.

    >>> KernelBasis(2, 16, 8)(torch.randn(5, 3, 2)).shape
    torch.Size([5, 3, 8])
    """

    def __init__(self, n_attr: int, hidden: int, basis: int, degree: int = 3) -> None:
        super().__init__()
        self.n_attr, self.degree = n_attr, degree
        self.inner = nn.Linear(len(monomial_table(n_attr, degree)), hidden)
        self.outer = nn.Linear(hidden, basis)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.outer.reset_parameters()
        index = tensor_power_columns(self.n_attr, self.degree)
        full = nn.Linear(len(index), self.inner.out_features)
        self.inner.weight.zero_().index_add_(1, index.to(self.inner.weight.device), full.weight.to(self.inner.weight))
        self.inner.bias.copy_(full.bias)

    def forward(self, attr: Tensor) -> Tensor:
        return F.gelu(self.outer(F.gelu(self.inner(monomials(attr, self.degree)))))

    def kernels(self, attr: Tensor, window: Tensor | None, weights: Sequence[Tensor]) -> list[Tensor]:
        """The basis times the factor ``window`` [P], mapped by each of ``weights`` [C, B]: ``[P, O, C]`` each."""
        columns = monomials(attr, self.degree).flatten(0, 1)
        factor = None if window is None else window.unsqueeze(1).expand(-1, attr.shape[1]).reshape(-1, 1)
        layers = (self.inner.weight, self.inner.bias, self.outer.weight, self.outer.bias)
        return [k.unflatten(0, attr.shape[:2]) for k in spatial_kernels(columns, *layers, factor, weights)]
