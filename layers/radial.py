"""Lengths as features: smooth bases that end at a cut-off."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["RadialBasis", "polynomial_cutoff"]

KINDS = {"bessel": 1, "gaussian": 2}  # and the least number of functions


def polynomial_cutoff(length: Tensor, cutoff: float, p: int = 6) -> Tensor:
    r"""Polynomial that falls from 1 to 0 at ``cutoff``, with two derivatives that vanish there.

    .. math:: w(u) = 1 - \tfrac{(p+1)(p+2)}{2} u^p + p(p+2)\, u^{p+1} - \tfrac{p(p+1)}{2} u^{p+2}, \qquad u = d / c

    Args:
        length: distances d, any shape, in the unit of ``cutoff``.
        cutoff: c, where the polynomial ends.
        p: order of the flat top, at least 2.

    Returns:
        The shape of ``length``; 0 beyond the cut-off.

    Source: arXiv 2003.03123, equation 8.

    >>> polynomial_cutoff(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2.0)
    tensor([1.0000, 0.8555, 0.0000, 0.0000])
    """
    u = (length / cutoff).clamp(max=1.0)
    return 1.0 - u**p * ((p + 1) * (p + 2) / 2 - u * p * (p + 2) + u.square() * p * (p + 1) / 2)


def _sinc(x: Tensor) -> Tensor:
    """sin(x) / x; torch's has no second derivative at 0."""
    small, square = x.abs() < 0.1, x.square()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    safe = torch.where(small, 1.0, x)
    return torch.where(small, series, safe.sin() / safe)


class RadialBasis(nn.Module):
    r"""Distances as ``n_basis`` smooth numbers that vanish at the cut-off.

    .. math::
        \text{bessel:}\ \ \phi_n(d) = w(d)\, \sqrt2\, c\;\frac{\sin(n \pi d / c)}{d}, \qquad
        \text{gaussian:}\ \ \phi_n(d) = w(d)\, \exp\big(-\tfrac12 (d / s - n)^2\big),\ s = \tfrac{c}{B - 1},

    with the window w of :func:`polynomial_cutoff`. Bessel functions are scaled by the cut-off, so that the unit of
    length does not matter. Both are smooth at d = 0.

    Args:
        n_basis: number of functions B.
        cutoff: c, in the unit of the distances.
        kind: ``"bessel"`` or ``"gaussian"``.
        window: whether the functions are multiplied by the window; without it they do not vanish at the cut-off.

    Shapes: ``length [...]`` to ``[..., n_basis]``.

    Raises:
        ValueError: for sizes or names that cannot be used.

    Source: arXiv 2003.03123, equation 7 (Bessel); arXiv 1706.08566 (Gaussians).

    >>> RadialBasis(8, cutoff=5.0)(torch.rand(3)).shape
    torch.Size([3, 8])
    """

    steps: Tensor

    def __init__(self, n_basis: int, cutoff: float, *, kind: str = "bessel", window: bool = True) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}")
        if n_basis < KINDS[kind] or not 0 < cutoff < math.inf:
            raise ValueError(
                f"n_basis must be >= {KINDS[kind]} and cutoff positive and finite, got {n_basis} and {cutoff}"
            )
        self.n_basis, self.cutoff, self.kind, self.window = n_basis, cutoff, kind, window
        first = 1 if kind == "bessel" else 0
        self.register_buffer("steps", torch.arange(first, first + n_basis, dtype=torch.get_default_dtype()))

    def forward(self, length: Tensor) -> Tensor:
        u = (length / self.cutoff).unsqueeze(-1)
        if self.kind == "bessel":
            basis = math.sqrt(2.0) * math.pi * self.steps * _sinc(math.pi * self.steps * u)
        else:
            basis = (-0.5 * ((self.n_basis - 1) * u - self.steps).square()).exp()
        return basis * polynomial_cutoff(u, 1.0) if self.window else basis

    def extra_repr(self) -> str:
        return f"{self.n_basis}, cutoff={self.cutoff}, kind={self.kind!r}"
