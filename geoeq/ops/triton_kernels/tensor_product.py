"""Tensor products of senders with edges, summed at receivers: kernels written out for each set of paths.

The lines of a kernel are those of :mod:`geoeq.ops.tensor_product_code`: one program owns a node and a tile of channels,
walks through the node's edges, and keeps every component of the result in a register. There are no atomic additions;
the gradient of the senders is the same walk through the edges that leave a node.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from geoeq.ops.neighbours import CSR
from geoeq.ops.tensor_product_code import Code, Plan, compile_source, starts

__all__ = ["edge_gradients", "sum_at_receivers", "sum_at_senders"]

MOST_SUMS = 64  # components that one kernel sums; more would not stay in the registers of a thread
CHANNELS = 128  # of one tile: one for each thread of four warps

_WALK = """\
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
"""
_EDGES = """\
    for slot in range(tl.load(ptr + row), tl.load(ptr + row + 1)):
        edge = tl.load(order + slot)
        node = tl.load(other + slot)
"""


class _TritonCode(Code):
    """A kernel; ``single`` says that y has one channel, which all channels of x share."""

    def __init__(self, name: str, arguments: str, plan: Plan, single: bool) -> None:
        common = "w_row, channels, CHANNELS: tl.constexpr, SUM: tl.constexpr"
        super().__init__(f"{name}({arguments}, ptr, order, other, {common})", plan)
        self.single = single
        self.lines += _WALK.splitlines()

    def loop(self) -> None:
        self.lines += _EDGES.splitlines()
        self.indent = "        "

    def load(self, name: str, row: str) -> None:
        """Every component of x, y, w or g that a path uses, widened for sums."""
        sizes = {"x": self.start["x"][-1], "y": self.start["y"][-1], "g": self.start["g"][-1]}
        stride = "w_row" if name == "w" else f"{sizes[name]}" if name == "y" and self.single else None
        at = f"{name} + {row} * {stride or f'({sizes[name]} * channels)'}"
        for i in self.used(name):
            if name == "y" and self.single:
                self.add(f"y{i} = tl.load({at} + {i}).to(SUM)")
            else:
                self.add(f"{name}{i} = tl.load({at} + {i} * channels + channel, inside, 0.0).to(SUM)")

    def used(self, name: str) -> list[int]:
        entries = {"x": "x", "y": "y", "g": "out"}
        if name == "w":
            return sorted({c.weight for c in self.plan.couplings if c.weight >= 0})
        first = self.start[name]
        found = {getattr(c, entries[name]) for c in self.plan.couplings}
        return [i for entry in sorted(found) for i in range(first[entry], first[entry + 1])]

    def store(self, name: str, row: str, size: int, components: dict[int, str]) -> None:
        for i in range(size):
            value = components.get(i, "tl.zeros([CHANNELS], SUM)")
            at = f"{name} + {row} * ({size} * channels) + {i} * channels + channel"
            self.add(f"tl.store({at}, {value}.to({name}.dtype.element_ty), inside)")

    def finish(self) -> str:
        return "\n".join([*self.lines, ""])


def sum_source(plan: Plan, single: bool, *, at: str) -> str:
    """Source of the sum at receivers (``at="g"``) of products of x and y, or at senders (``at="x"``) of y and g."""
    read, result = ("x", "z") if at == "g" else ("g", "g_x")
    code = _TritonCode(f"sum_at_{'receivers' if at == 'g' else 'senders'}", f"{read}, y, w, {result}", plan, single)
    for i in code.used(at):
        code.add(f"s{i} = tl.zeros([CHANNELS], SUM)")
    code.loop()
    code.load(read, "node")
    code.load("y", "edge")
    code.load("w", "edge")
    for p, c in enumerate(plan.couplings):
        first = code.start[at][c.out if at == "g" else c.x]
        for i, t in code.contract(p, c, *("xy" if at == "g" else "yg")).items():
            code.add(f"s{first + i} += {t if c.weight < 0 else f'w{c.weight} * {t}'}")
    code.indent = "    "
    code.store(result, "row", code.start[at][-1], {i: f"s{i}" for i in code.used(at)})
    return code.finish()


def edge_source(plan: Plan, single: bool, n_weights: int) -> str:
    """Source of the gradients of y and of all ``n_weights`` weights on every edge, by receiver."""
    code = _TritonCode("at_edges", "x, y, w, g, g_y, g_w, edges", plan, single)
    code.load("g", "row")
    code.loop()
    code.load("x", "node")
    code.load("y", "edge")
    code.load("w", "edge")
    y_start = code.start["y"]
    g_y: dict[int, list[str]] = {}
    g_w: dict[int, list[str]] = {}
    for p, c in enumerate(plan.couplings):
        for j, s in code.contract(p, c, "x", "g").items():
            g_y.setdefault(y_start[c.y] + j, []).append(s if c.weight < 0 else f"w{c.weight} * {s}")
            if c.weight >= 0:
                g_w.setdefault(c.weight, []).append(f"y{y_start[c.y] + j} * {s}")
    if single:
        for j in range(y_start[-1]):
            total = f"tl.sum({' + '.join(g_y[j])}, 0)" if j in g_y else "tl.sum(tl.zeros([CHANNELS], SUM), 0)"
            code.add(f"tl.store(g_y + (tl.program_id(1) * edges + edge) * {y_start[-1]} + {j}, {total})")
    else:
        code.store("g_y", "edge", y_start[-1], {j: f"({' + '.join(terms)})" for j, terms in g_y.items()})
    code.store("g_w", "edge", n_weights, {k: f"({' + '.join(terms)})" for k, terms in g_w.items()})
    return code.finish()


class _Part(NamedTuple):
    """Some blocks of the output with all couplings into them, so few that their sums stay in registers."""

    plan: Plan
    first: int  # component of the output where the part begins


def parts(plan: Plan) -> Iterator[_Part]:
    """The plan cut along its outputs."""
    first_of, begin = starts(plan.out), 0
    for end in range(1, len(plan.out) + 1):
        if end == len(plan.out) or first_of[end + 1] - first_of[begin] > MOST_SUMS:
            couplings = (c._replace(out=c.out - begin) for c in plan.couplings if begin <= c.out < end)
            yield _Part(Plan(plan.x, plan.y, plan.out[begin:end], tuple(couplings)), first_of[begin])
            begin = end


@lru_cache(maxsize=256)
def _kernels(plan: Plan, single: bool, n_weights: int) -> tuple[Any, Any, Any]:
    """Kernels of the sum at receivers, of that at senders, and of the gradients on edges."""
    sums = (sum_source(plan, single, at=at) for at in ("g", "x"))
    sources = (*sums, edge_source(plan, single, n_weights))
    return tuple(triton.jit(compile_source(s, {"tl": tl, "__name__": __name__})) for s in sources)  # type: ignore


def _options(x: Tensor) -> tuple[int, dict[str, Any]]:
    """Number of tiles of the channels of x [.., .., C], and the constants of a launch."""
    width = min(triton.next_power_of_2(x.shape[-1]), CHANNELS)
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    return triton.cdiv(x.shape[-1], width), {"CHANNELS": width, "SUM": wide, "num_warps": max(width // 32, 1)}


def sum_at_receivers(plan: Plan, x: Tensor, y: Tensor, w: Tensor | None, rows: CSR) -> Tensor:
    """[N, K3, C] from x [M, K1, C], y [E, K2, C or 1] and w [P, C], [E, P, C] or None; ``rows`` by receiver."""
    nodes, channels = rows.ptr.shape[0] - 1, x.shape[2]
    x, y, w_row, weight = x.contiguous(), y.contiguous(), *_weights(w, x)
    results = [x.new_zeros(nodes, 0, channels)]
    for part in parts(plan):
        z = x.new_empty(nodes, starts(part.plan.out)[-1], channels)
        if z.numel():
            tiles, options = _options(x)
            kernel = _kernels(part.plan, y.shape[2] == 1, plan.n_weights)[0]
            kernel[(nodes, tiles)](x, y, weight, z, *rows, w_row, channels, **options)
        results.append(z)
    return torch.cat(results, 1) if len(results) > 2 else results[-1]


def sum_at_senders(plan: Plan, y: Tensor, w: Tensor | None, g: Tensor, rows: CSR) -> Tensor:
    """Gradient [M, K1, C] of x, from the gradient g [N, K3, C] of the sum; ``rows`` by sender."""
    nodes, channels = rows.ptr.shape[0] - 1, g.shape[2]
    y, w_row, weight = y.contiguous(), *_weights(w, g)
    total = g.new_zeros(nodes, starts(plan.x)[-1], channels)
    if total.numel():
        tiles, options = _options(g)
        for part in parts(plan):
            piece, g_x = _piece(g, part), torch.empty_like(total)
            kernel = _kernels(part.plan, y.shape[2] == 1, plan.n_weights)[1]
            kernel[(nodes, tiles)](piece, y, weight, g_x, *rows, w_row, channels, **options)
            total = g_x if part.first == 0 else total.add_(g_x)
    return total


def edge_gradients(plan: Plan, x: Tensor, y: Tensor, w: Tensor | None, g: Tensor, rows: CSR) -> tuple[Tensor, Tensor]:
    """Gradients of y, of its shape, and of the weights of every edge [E, P, C]; ``rows`` by receiver."""
    nodes, edges, channels = rows.ptr.shape[0] - 1, y.shape[0], x.shape[2]
    x, y, w_row, weight = x.contiguous(), y.contiguous(), *_weights(w, x)
    g_w = x.new_zeros(edges, plan.n_weights, channels)
    if not edges * channels:
        return torch.zeros_like(y), g_w
    tiles, options = _options(x)
    single, wide = y.shape[2] == 1, torch.promote_types(x.dtype, torch.float32)
    g_y = y.new_zeros(y.shape)
    for part in parts(plan):
        piece = _piece(g, part)
        share = y.new_empty(tiles, *y.shape[:2], dtype=wide) if single else torch.empty_like(y)
        g_w_part = g_w if part.first == 0 else torch.empty_like(g_w)
        kernel = _kernels(part.plan, single, plan.n_weights)[2]
        kernel[(nodes, tiles)](x, y, weight, piece, share, g_w_part, edges, *rows, w_row, channels, **options)
        g_y += share.sum(0).unsqueeze(2).to(y.dtype) if single else share
        if part.first:
            g_w += g_w_part
    return g_y, g_w


def _weights(w: Tensor | None, like: Tensor) -> tuple[int, Tensor]:
    """Numbers from the weights of one edge to those of the next, and the weights; anything where there are none."""
    if w is None:
        return 0, like
    if w.dim() == 2:
        return 0, w.contiguous()
    if w.stride(2) != 1 or w.stride(1) != w.shape[2]:
        w = w.contiguous()
    return w.stride(0), w


def _piece(g: Tensor, part: _Part) -> Tensor:
    return g[:, part.first : part.first + starts(part.plan.out)[-1]].contiguous()
