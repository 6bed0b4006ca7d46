r"""The channelwise Clebsch-Gordan product and its two ways of being computed.

.. math:: z_{k} = \sum_p w_p \sum_{ij} c^p_{ijk}\, x_i\, y_j \qquad\text{in every row and channel.}

Without a compiler every torch operation is a pass over memory, so each pair of entries is one small matrix product, in
each row or over all rows, and entries of degree 0 only scale. Inside ``torch.compile`` it is unrolled, with a backward
pass that is unrolled too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoeq.ops.clebsch_gordan import wigner_3j
from geoeq.ops.constants import constants
from geoeq.ops.tensor_product_code import Coupling, Plan, backward_source, compile_source, forward_source, starts

__all__ = ["UNROLL_LIMIT", "ChannelwiseProduct"]

UNROLL_LIMIT = 2500  # terms: all paths up to degree 4. Compiling more would take too many minutes
WIDE = 64  # channels: from here on a matrix product in each row beats one over all rows, which costs copies
DENSE_LIMIT = 2000  # constants, zeros included: below, one product with many zeros beats several small ones


class ChannelwiseProduct:
    """Products that a :class:`Plan` lists, of features that are channels last.

    Args:
        plan: degrees and couplings.

    Shapes: ``x [N, K1, C]``, ``y [N, K2, C]`` or ``[N, K2, 1]``, ``w [P, C]``, ``[N, P, C]`` or None; returns
    ``[N, K3, C]``. All of one dtype.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.unrolls = 0 < plan.n_terms <= UNROLL_LIMIT
        if not self.unrolls:
            _scalings(plan), _tables(plan)  # while no tracer is at work

    def __call__(self, x: Tensor, y: Tensor, w: Tensor | None, *, unroll: bool) -> Tensor:
        """The product: unrolled for a compiler that asks for it, if small enough, else as matrix products."""
        return self.unrolled(x, y, w) if unroll and self.unrolls else self.blocks(x, y, w, traced=unroll)

    def unrolled(self, x: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
        """One line for each constant."""
        return _Unrolled.apply(x, y, w, self.plan) if torch.is_grad_enabled() else _forward_code(self.plan)(x, y, w)

    def blocks(self, x: Tensor, y: Tensor, w: Tensor | None, *, traced: bool = False) -> Tensor:
        """One small matrix product for each pair of entries; scalars multiply."""
        if w is not None and w.dim() == 2:
            w = w.unsqueeze(0)  # [1 or N, P, C]
        z = _zeros(x, y, w, starts(self.plan.out)[-1])
        # a tracer wants tensors of its own, which must not be kept
        make = _blocks.__wrapped__ if traced else _blocks  # type: ignore[attr-defined]
        scalings, blocks = make(self.plan, x.dtype, x.device)
        for scaling in scalings:
            scalar, rows = (x, y) if scaling.by_x else (y, x)
            factors = scaling.factors
            if scaling.weights is not None and w is not None:
                factors = factors * w.index_select(1, scaling.weights)
            _add_product(_part(z, scaling.out), _part(rows, scaling.rows) * factors, _part(scalar, scaling.scalar))
        for block in blocks:
            sums = _contract(block.constants, _part(x, block.x), _part(y, block.y))
            if block.weights is not None and w is not None:
                sums = sums * w.index_select(1, block.weights)
            z = z.index_add_(1, block.out, sums)
        return z


def _zeros(x: Tensor, y: Tensor, w: Tensor | None, n_components: int) -> Tensor:
    """``[N, n_components, C]`` to add to in place; for torch.func as one of what depends on all operands."""
    if not torch._C._are_functorch_transforms_active():
        return x.new_zeros(x.shape[0], n_components, x.shape[2])
    like = x[:, :1] * y[:, :1]
    like = like if w is None else like * w[:, :1]
    return torch.zeros_like(like).repeat(1, n_components, 1)


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    if torch._C._are_functorch_transforms_active():  # which has no rule for both at once
        total.add_(x * y)
    else:
        total.addcmul_(x, y)


def _contract(table: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Products of ``x [N, d1, C]`` and ``y [N, d2, C or 1]``, summed with ``table [M, d1 d2]``: ``[N, M, C]``."""
    n_rows, _, n_channels = x.shape
    if n_channels >= WIDE:
        products = x.unsqueeze(2) * y.unsqueeze(1)  # [N, d1, d2, C]
        return torch.bmm(table.expand(n_rows, -1, -1), products.flatten(1, 2))
    x, y = x.transpose(0, 1).contiguous(), y.transpose(0, 1).contiguous()
    products = x.unsqueeze(1) * y.unsqueeze(0)  # [d1, d2, N, C]
    sums = table @ products.view(table.shape[1], n_rows * n_channels)
    return sums.view(len(table), n_rows, n_channels).transpose(0, 1)


def _part(x: Tensor, components: slice) -> Tensor:
    """Some components of ``x [N, K, C]``; where it is all of them, without a view that costs a copy backward."""
    return x if components == slice(0, x.shape[1]) else x[:, components]


class _Unrolled(torch.autograd.Function):
    """Generated code both ways; a second derivative goes through the lines of the backward code."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, w: Tensor | None, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, y, w)
        ctx.plan = plan
        return _forward_code(plan)(x, y, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, w = ctx.saved_tensors
        gx, gy, gw = _backward_code(ctx.plan)(x, y, w, g)
        if y.shape[-1] != x.shape[-1]:
            gy = gy.sum(-1, keepdim=True)
        if gw is not None and w.dim() == 2:
            gw = gw.sum(0)
        return gx, gy, gw, None


@lru_cache(maxsize=256)
def _forward_code(plan: Plan) -> Callable[..., Tensor]:
    return compile_source(forward_source(plan))


@lru_cache(maxsize=256)
def _backward_code(plan: Plan) -> Callable[..., tuple[Tensor, Tensor, Tensor | None]]:
    return compile_source(backward_source(plan))


class _Scaling(NamedTuple):
    """Entries that follow each other on both sides, each multiplied by one scalar of x or of y.

    Attributes:
        by_x: whether the scalar is of x and the entries of y, or the other way round.
        scalar: its component, as a slice.
        rows: components of the entries.
        out: components of the output that they go to.
        factors: [M], and [M, 1] on a device.
        weights: [M], weight of each component.
    """

    by_x: bool
    scalar: slice
    rows: slice
    out: slice
    factors: Any
    weights: Any


class _Table(NamedTuple):
    """Couplings of some components of x with some of y."""

    x: slice
    y: slice
    constants: np.ndarray  # [M, d1 d2]
    out: list[int]  # [M], component of the output that each row goes to
    weights: list[int] | None  # [M], weight of each row


@constants
def _scalings(plan: Plan) -> tuple[_Scaling, ...]:
    x_start, y_start, out_start = starts(plan.x), starts(plan.y), starts(plan.out)
    found: list[_Scaling] = []
    for c in sorted(filter(partial(_scales, plan), plan.couplings), key=lambda c: (plan.x[c.x] > 0, c)):
        by_x = plan.x[c.x] == 0
        scalar, first = (x_start[c.x], y_start[c.y]) if by_x else (y_start[c.y], x_start[c.x])
        size, out = 2 * plan.out[c.out] + 1, out_start[c.out]
        symbol = c.factor * float(wigner_3j(plan.x[c.x], plan.y[c.y], plan.out[c.out]).numpy().flat[0])
        new = _Scaling(
            by_x,
            slice(scalar, scalar + 1),
            slice(first, first + size),
            slice(out, out + size),
            [symbol] * size,
            [c.weight] * size if c.weight >= 0 else None,
        )
        if found and _follows(found[-1], new):
            last = found.pop()
            new = last._replace(
                rows=slice(last.rows.start, new.rows.stop),
                out=slice(last.out.start, new.out.stop),
                factors=last.factors + new.factors,
                weights=last.weights + new.weights if last.weights is not None else None,
            )
        found.append(new)
    return tuple(found)


def _scales(plan: Plan, c: Coupling) -> bool:
    return plan.x[c.x] == 0 or plan.y[c.y] == 0


def _follows(last: _Scaling, new: _Scaling) -> bool:
    """Whether one operation can do both."""
    return (
        (last.by_x, last.scalar, last.weights is None) == (new.by_x, new.scalar, new.weights is None)
        and last.rows.stop == new.rows.start
        and last.out.stop == new.out.start
    )


@constants
def _tables(plan: Plan) -> tuple[_Table, ...]:
    x_start, y_start, out_start = starts(plan.x), starts(plan.y), starts(plan.out)
    couplings = [c for c in plan.couplings if not _scales(plan, c)]
    n_rows = sum(2 * plan.out[c.out] + 1 for c in couplings)
    whole = n_rows * x_start[-1] * y_start[-1] <= DENSE_LIMIT

    def key(c: Coupling) -> tuple[bool, int, int]:
        return (c.weight >= 0, -1, -1) if whole else (c.weight >= 0, c.x, c.y)

    tables = []
    for (weighted, _, _), group in groupby(sorted(couplings, key=key), key):
        own = list(group)
        x = slice(min(x_start[c.x] for c in own), max(x_start[c.x + 1] for c in own))
        y = slice(min(y_start[c.y] for c in own), max(y_start[c.y + 1] for c in own))
        constants: list[np.ndarray] = []
        out: list[int] = []
        weights: list[int] = []
        for c in own:
            size = 2 * plan.out[c.out] + 1
            table = np.zeros((size, x.stop - x.start, y.stop - y.start))
            first, second = x_start[c.x] - x.start, y_start[c.y] - y.start
            symbols = c.factor * wigner_3j(plan.x[c.x], plan.y[c.y], plan.out[c.out]).numpy().transpose(2, 0, 1)
            table[:, first : first + symbols.shape[1], second : second + symbols.shape[2]] = symbols
            constants.append(table.reshape(size, -1))
            out += range(out_start[c.out], out_start[c.out] + size)
            weights += [c.weight] * size
        tables.append(_Table(x, y, np.concatenate(constants), out, weights if weighted else None))
    return tuple(tables)


class _Block(NamedTuple):
    """A table on a device."""

    x: slice
    y: slice
    constants: Tensor
    out: Tensor
    weights: Tensor | None


@constants
def _blocks(plan: Plan, dtype: torch.dtype, device: torch.device) -> tuple[list[_Scaling], list[_Block]]:
    def indices(values: list[int] | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, device=device)

    scalings = [
        scaling._replace(
            factors=torch.tensor(scaling.factors, dtype=dtype, device=device).view(-1, 1),
            weights=indices(scaling.weights),
        )
        for scaling in _scalings(plan)
    ]
    blocks = [
        _Block(
            table.x,
            table.y,
            torch.tensor(table.constants, dtype=dtype, device=device),
            torch.tensor(table.out, device=device),
            indices(table.weights),
        )
        for table in _tables(plan)
    ]
    return scalings, blocks
