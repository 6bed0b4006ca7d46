"""Products of features with themselves, coupled so that every orthogonal group commutes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn

from geoeq.reps import Copy, IrrepCopy, Rep, TensorCopy, as_rep, rep_dim, rep_key, segments

__all__ = ["Bilinear"]


class Product(NamedTuple):
    """One way to multiply two kinds of copies.

    Attributes:
        first: number of the first kind.
        second: number of the second kind.
        shape: ``(left, summed, right)``: components of the first that stay, are summed with the second, and
            components of the second that stay.
        symbol: name of the buffer ``[out, left * right]`` that couples what stays, or None.
    """

    first: int
    second: int
    shape: tuple[int, int, int]
    symbol: str | None


class Bilinear(nn.Module):
    r"""Learned sums of products of copies with copies.

    .. math:: y^{(k)}_o = \sum_{i \le j} \sum_u w^{(ijk)}_{ou}\, (A^{(ijk)} x^{(i)})_u \ast_k (B^{(ijk)} x^{(j)})_u,

    where i, j, k number the kinds of copies and A, B mix the copies of one kind. For tensors, :math:`\ast` sums the
    last c indices of the first with the first c of the second, in order,
    :math:`T(p) \times T(q) \to T(p + q - 2c)`: products with scalars, dot, outer and matrix products. For irreps it is
    the Wigner 3j symbol. Products of standard normal copies have mean square 1.

    Each product has as many channels u as the rarer of its two kinds has copies, so that the layer stays about as
    large as a linear map.

    Args:
        rep: what goes in and comes out, irreps or a :class:`~geoeq.reps.TensorRep` that names its space.

    Shapes: ``x [..., rep.dim]`` to ``[..., rep.dim]``.

    Symmetry: exact for every group that acts by orthogonal matrices on tensors, or by rotations and reflections of
    space on irreps.

    Raises:
        ValueError: for an input of the wrong width.

    Source: the bilinear layer of arXiv 2104.09459, with learned channels instead of random pairs.

    >>> layer = Bilinear("4x0e + 2x1o")
    >>> layer(torch.randn(7, 10)).shape
    torch.Size([7, 10])
    """

    equivariant = True  # whatever the weights

    def __init__(self, rep: Rep | str) -> None:
        super().__init__()
        self.rep = as_rep(rep)
        self.kinds = segments(self.rep)
        self._symbols: dict[str, Tensor] = {}
        self.products = [self._products_of(k) for k in range(len(self.kinds))]
        widths = [sum(self._channels(product) for product in products) for products in self.products]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(kind.mul, width)) for kind, width in zip(self.kinds, widths, strict=True)
        )
        self.mixers = nn.ParameterList(
            nn.Parameter(torch.empty(sum(self._widths(k)), kind.mul)) for k, kind in enumerate(self.kinds)
        )
        self._refill(torch.empty(()))
        self.reset_parameters()

    def _widths(self, k: int) -> list[int]:
        """Channels of every factor of kind ``k``, in the order in which products take them."""
        factors = [product for products in self.products for product in products]
        return [self._channels(f) for f in factors for kind in (f.first, f.second) if kind == k]

    def _products_of(self, k: int) -> list[Product]:
        """The products that end in kind ``k``."""
        found = []
        for i, j in combinations_with_replacement(range(len(self.kinds)), 2):
            first, second, out = self.kinds[i].copy, self.kinds[j].copy, self.kinds[k].copy
            coupled = coupling(first, second, out)
            if coupled is None:
                continue
            shape, symbol = coupled
            name = None if symbol is None else f"symbol_{i}_{j}_{k}"
            if name is not None and symbol is not None:
                self._symbols[name] = symbol
                self.register_buffer(name, None, persistent=False)
            found.append(Product(i, j, shape, name))
        return found

    def _channels(self, product: Product) -> int:
        return min(self.kinds[product.first].mul, self.kinds[product.second].mul)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights as ``nn.Linear`` does."""
        for weight in self.weights:
            bound = max(weight.shape[1], 1) ** -0.5
            weight.uniform_(-bound, bound)
        for mixer in self.mixers:
            mixer.normal_(std=mixer.shape[1] ** -0.5)

    def _refill(self, like: Tensor) -> None:
        """Cast the float64 constants to the dtype and device of ``like``."""
        for name, master in self._symbols.items():
            setattr(self, name, master.to(like.dtype).to(like.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bilinear:
        # Going through float32 and back must not cost the constants their precision.
        first = next(self.buffers(), None)
        super()._apply(fn, recurse)
        if first is not None:
            self._refill(fn(first))
        return self

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != rep_dim(self.rep):
            raise ValueError(f"x must be [..., {rep_dim(self.rep)}], got {list(x.shape)}")
        # channels last, [..., dim, mul]: products and sums then run along memory
        parts = [
            x[..., kind.start : kind.stop].unflatten(-1, (kind.mul, kind.copy.dim)).transpose(-1, -2).contiguous()
            for kind in self.kinds
        ]
        mixed = [self._factors(k, part) for k, part in enumerate(parts)]
        out = []
        for kind, products, weight in zip(self.kinds, self.products, self.weights):
            if not products:
                out.append(x.new_zeros(*x.shape[:-1], kind.mul * kind.copy.dim))
                continue
            channels = [self._multiply(p, next(mixed[p.first]), next(mixed[p.second])) for p in products]
            out.append(nn.functional.linear(torch.cat(channels, dim=-1), weight).transpose(-1, -2).flatten(-2))
        return torch.cat(out, dim=-1)

    def _factors(self, k: int, part: Tensor) -> Iterator[Tensor]:
        """The channels of kind ``k``, ``[..., dim, channels]``, one tensor for every factor that it is."""
        return iter(nn.functional.linear(part, self.mixers[k]).split(self._widths(k), dim=-1))

    def _multiply(self, product: Product, a: Tensor, b: Tensor) -> Tensor:
        """The products of all pairs of channels, ``[..., dim_out, channels]``."""
        left, summed, right = product.shape
        if summed == 1:
            outer = (a.unsqueeze(-2) * b.unsqueeze(-3)).flatten(-3, -2)
            return outer if product.symbol is None else getattr(self, product.symbol) @ outer
        a, b = a.unflatten(-2, (left, summed)), b.unflatten(-2, (summed, right))
        return (a.unsqueeze(-2) * b.unsqueeze(-4)).sum(-3).flatten(-3, -2) / summed**0.5

    def extra_repr(self) -> str:
        return rep_key(self.rep)


def coupling(first: Copy, second: Copy, out: Copy) -> tuple[tuple[int, int, int], Tensor | None] | None:
    """How two copies make a third one, shape and symbol as in :class:`Product`; None if they cannot."""
    if isinstance(first, TensorCopy) and isinstance(second, TensorCopy) and isinstance(out, TensorCopy):
        # an orthogonal group does not tell a space from its dual
        summed, odd = divmod(first.rank + second.rank - out.rank, 2)
        if odd or not 0 <= summed <= min(first.rank, second.rank):
            return None
        return (out.d ** (first.rank - summed), out.d**summed, out.d ** (second.rank - summed)), None
    if isinstance(first, IrrepCopy) and isinstance(second, IrrepCopy) and isinstance(out, IrrepCopy):
        if first.p * second.p != out.p or not abs(first.l - second.l) <= out.l <= first.l + second.l:
            return None
        symbol = o3.wigner_3j(first.l, second.l, out.l, dtype=torch.float64)
        return (first.dim, 1, second.dim), symbol.reshape(-1, out.dim).T * out.dim**0.5
    return None
