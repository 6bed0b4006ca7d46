"""Pointwise products on a grid of the sphere in chunks, with a backward pass that recomputes the grid values."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from geoeq.ops.backends import stands_for_many, transforms_active
from geoeq.ops.sphere_transform import Transform, Values, evaluate, multiply, project

__all__ = ["grid_product"]

# Bytes of grid values worked on at once: on a CPU they stay in its cache, on a GPU they bound the peak memory.
CHUNK_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}


def grid_product(transforms: tuple[Transform, ...], *factors: Tensor) -> Tensor:
    """``transforms[0]`` projects the pointwise product of the factors, which the other transforms evaluate.

    It is linear in each factor, and exact derivatives of any order are products of the same kind.

    Args:
        transforms: of the output, then of each factor; see :mod:`geoeq.ops.sphere_transform`.
        factors: [rows, K_i, C], all of the transforms' dtype.

    Returns:
        [rows, K, C].
    """
    return (_plain if _needs_plain() else _GridProduct.apply)(transforms, *factors)


def _plain(transforms: tuple[Transform, ...], *factors: Tensor) -> Tensor:
    values = [evaluate(transform, x) for transform, x in zip(transforms[1:], factors)]
    return project(transforms[0], reduce(multiply, values))


def _needs_plain() -> bool:
    """The hand-written backward serves neither the compiler nor torch.func nor dual numbers."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or transforms_active()


class _GridProduct(torch.autograd.Function):
    """The product in chunks of rows; grid values live no longer than their chunk, in either direction."""

    @staticmethod
    def forward(ctx: Any, transforms: tuple[Transform, ...], *factors: Tensor) -> Tensor:
        ctx.transforms = transforms
        ctx.save_for_backward(*factors)
        rows, _, channels = factors[0].shape
        result = factors[0].new_empty(rows, transforms[0].dim, channels)
        for chunk, space in _chunks(transforms, factors[0], consume=True):
            values = [space.evaluate(i, x[chunk]) for i, x in enumerate(factors, 1)]
            space.project(0, values, result[chunk])
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        transforms, operands, needed = ctx.transforms, (gradient, *ctx.saved_tensors), ctx.needs_input_grad
        wanted = [i for i in range(1, len(operands)) if needed[i]]
        results: list[Tensor | None] = [None] * len(operands)
        # The gradient of a factor is the product of all else, projected with that factor's own transform.
        if torch.is_grad_enabled() or stands_for_many(gradient):
            for i in wanted:
                others = [j for j in range(len(operands)) if j != i]
                arranged = (transforms[i], *(transforms[j] for j in others))
                product = _plain if stands_for_many(gradient) else _GridProduct.apply
                results[i] = product(arranged, *(operands[j] for j in others))
            return tuple(results)
        for i in wanted:
            results[i] = operands[i].new_empty(operands[i].shape)
        for chunk, space in _chunks(transforms, gradient):
            values = [space.evaluate(i, x[chunk]) for i, x in enumerate(operands)]
            for i in wanted:
                space.project(i, values[:i] + values[i + 1 :], results[i][chunk])  # type: ignore[index]
        return tuple(results)


class _Workspace:
    """What :mod:`geoeq.ops.sphere_transform` does, for chunks of one size and into buffers that are made once.

    With ``consume``, values are good for one product only.
    """

    def __init__(
        self, transforms: tuple[Transform, ...], rows: int, channels: int, like: Tensor, consume: bool
    ) -> None:
        n_parts, points, width = len(transforms[0].tables), len(transforms[0].tables[0]), rows * channels
        sizes = [max(t.dim for t in transforms) * width, *[points * width] * n_parts * (len(transforms) + 2)]
        self.n_bytes = sum(sizes) * like.element_size()
        first, *rest = _memory(sum(sizes), like).split(sizes)
        self.transforms = transforms
        self.whole = transforms[0].order is None
        # A whole grid is one matrix product for each row, as the features lie. Grades are taken apart row by row of a
        # table, which puts the components first; then one product serves all rows.
        self.tables = [[table.expand(rows, -1, -1) if self.whole else table for table in t.tables] for t in transforms]
        self.transposed = [[table.mT for table in tables] for tables in self.tables]
        self.sorted = [first[: t.dim * width].view(t.dim, rows, channels) for t in transforms]
        self.parts = [
            s.view(-1, width).split([table.shape[1] for table in t.tables]) for s, t in zip(self.sorted, transforms)
        ]
        buffers = [part.view(rows, points, channels) if self.whole else part.view(points, width) for part in rest]
        *self.values, self.product, self.spare = zip(*[iter(buffers)] * n_parts)
        if consume and n_parts == 1:  # less memory in use, and a product of whole values may overwrite a factor
            self.product = self.spare = self.values[1]

    def evaluate(self, i: int, x: Tensor) -> Values:
        order, values = self.transforms[i].order, self.values[i]
        if order is None:
            torch.bmm(self.tables[i][0], x, out=values[0])
            return values
        torch.index_select(x.transpose(0, 1), 0, order, out=self.sorted[i])
        for table, part, value in zip(self.tables[i], self.parts[i], values):
            torch.mm(table, part, out=value)
        return values

    def project(self, i: int, factors: list[Values], result: Tensor) -> None:
        product, free = factors[0], [self.product, self.spare]
        for factor in factors[1:]:
            product = _multiply(product, factor, free[0])
            free.reverse()
        inverse = self.transforms[i].inverse
        if inverse is None:
            torch.bmm(self.transposed[i][0], product[0], out=result)
            return
        for table, value, part in zip(self.transposed[i], product, self.parts[i]):
            torch.mm(table, value, out=part)
        torch.index_select(self.sorted[i].transpose(0, 1), 1, inverse, out=result)


def _multiply(f: Values, g: Values, out: Values) -> Values:
    if len(f) == 1:
        torch.mul(f[0], g[0], out=out[0])
    else:
        torch.mul(f[0], g[0], out=out[0]).addcmul_(f[1], g[1])
        torch.mul(f[0], g[1], out=out[1]).addcmul_(f[1], g[0])
    return out


_kept = threading.local()
MOST_KEPT = 16  # workspaces of a thread, all views of the same memory
MOST_BYTES_KEPT = 1 << 24


def _workspace(transforms: tuple[Transform, ...], rows: int, channels: int, like: Tensor, consume: bool) -> _Workspace:
    """A workspace; on a CPU each thread keeps some, whose making would cost as much as the arithmetic of few rows."""
    if like.device.type != "cpu":
        return _Workspace(transforms, rows, channels, like, consume)
    key = (*map(id, transforms), rows, channels, like.dtype, consume)  # what is kept holds on to its transforms
    spaces = _kept.__dict__.setdefault("spaces", {})
    if key in spaces:
        return spaces[key]
    with torch.inference_mode(False), torch.no_grad():
        space = _Workspace(transforms, rows, channels, like, consume)
    if space.n_bytes <= MOST_BYTES_KEPT:
        while len(spaces) >= MOST_KEPT:
            del spaces[next(iter(spaces))]
        spaces[key] = space
    return space


def _memory(size: int, like: Tensor) -> Tensor:
    """Memory for ``size`` numbers; on a CPU each thread keeps its own, as fresh pages cost more than the arithmetic."""
    n_bytes = size * like.element_size()
    if like.device.type != "cpu" or n_bytes > MOST_BYTES_KEPT:
        return like.new_empty(size)
    if getattr(_kept, "memory", None) is None or len(_kept.memory) < n_bytes:
        _kept.memory = torch.empty(n_bytes, dtype=torch.uint8)
        _kept.spaces.clear()  # they are views of the memory before
    return _kept.memory[:n_bytes].view(like.dtype)


def _chunks(
    transforms: tuple[Transform, ...], like: Tensor, *, consume: bool = False
) -> Iterator[tuple[slice, _Workspace]]:
    """Slices of the rows of ``like`` [rows, K, C], each with buffers of its size."""
    rows, _, channels = like.shape
    if not like.numel():
        return
    tables = transforms[0].tables
    buffers = len(transforms) - 1 if consume and len(tables) == 1 else len(transforms) + 1
    numbers = buffers * sum(len(table) for table in tables) * channels
    row_bytes = numbers * like.element_size()
    n_chunks = min(rows, -(-rows * row_bytes // CHUNK_BYTES["cpu" if like.device.type == "cpu" else "cuda"]))
    step = -(-rows // n_chunks)
    space = _workspace(transforms, step, channels, like, consume)
    for start in range(0, rows, step):
        if rows - start < step:
            space = _workspace(transforms, rows - start, channels, like, consume)
        yield slice(start, start + step), space
