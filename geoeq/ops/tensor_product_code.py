"""Source code of Clebsch-Gordan products, unrolled: one line for each non-zero constant.

Written for ``torch.compile``, which turns the lines into one loop over rows and channels with every component in a
register. Only indices and constants of the plan enter the text.
"""

from __future__ import annotations

import linecache
from ast import literal_eval
from collections.abc import Callable, Iterable
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import torch

from geoeq.ops.clebsch_gordan import coupling_terms

__all__ = ["Code", "Coupling", "Plan", "backward_source", "compile_source", "forward_source", "parse_plan"]

_counter = count()
Term = tuple[int, int, int, float]


class Coupling(NamedTuple):
    """One path of a channelwise product: entries of x, y and the output, row of the weights or -1, factor."""

    x: int
    y: int
    out: int
    weight: int
    factor: float


class Plan(NamedTuple):
    """Which degrees stand in x, y and the output, in order, and how they couple."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    out: tuple[int, ...]
    couplings: tuple[Coupling, ...]

    @property
    def n_terms(self) -> int:
        """Number of non-zero constants."""
        return sum(len(coupling_terms(self.x[c.x], self.y[c.y], self.out[c.out])) for c in self.couplings)

    @property
    def n_weights(self) -> int:
        """Rows of the weights."""
        return 1 + max((c.weight for c in self.couplings), default=-1)

    @property
    def text(self) -> str:
        """What :func:`parse_plan` reads."""
        return repr((self.x, self.y, self.out, tuple(map(tuple, self.couplings))))


@cache
def parse_plan(text: str) -> Plan:
    """The plan of this :attr:`Plan.text`.

    >>> parse_plan(Plan((1,), (1,), (0,), (Coupling(0, 0, 0, -1, 1.0),)).text).n_terms
    3
    """
    x, y, out, couplings = literal_eval(text)
    return Plan(x, y, out, tuple(Coupling(*c) for c in couplings))


def starts(degrees: Iterable[int]) -> list[int]:
    """First component of each entry, then the number of components.

    >>> starts([0, 1, 1])
    [0, 1, 4, 7]
    """
    total = [0]
    for degree in degrees:
        total.append(total[-1] + 2 * degree + 1)
    return total


def forward_source(plan: Plan) -> str:
    """Source of ``forward(x [N, K1, C], y [N, K2, C or 1], w [..., P, C] or None) -> [N, K3, C]``."""
    code = _TorchCode("forward(x, y, w)", plan)
    outputs: list[list[str]] = [[] for _ in range(starts(plan.out)[-1])]
    for p, c in enumerate(plan.couplings):
        for k, z in code.contract(p, c, "x", "y").items():
            outputs[starts(plan.out)[c.out] + k].append(z if c.weight < 0 else f"w{c.weight} * {z}")
    return code.finish(code.stack(outputs, "x"))


def backward_source(plan: Plan) -> str:
    r"""Source of ``backward(x, y, w, g [N, K3, C]) -> gx, gy, gw``, all with the channels and rows of ``g``.

    With :math:`t_i = \sum_{jk} c_{ijk} y_j g_k` on each path, :math:`\bar x_i = \sum w t_i` and
    :math:`\bar w = \sum_i x_i t_i`: the gradient of the weights needs no sum over terms of its own.
    ``gw [N, P, C]`` is None without weights.
    """
    code = _TorchCode("backward(x, y, w, g)", plan)
    code.components("g", starts(plan.out)[-1], 1)
    x_start, y_start = starts(plan.x), starts(plan.y)
    gx: list[list[str]] = [[] for _ in range(x_start[-1])]
    gy: list[list[str]] = [[] for _ in range(y_start[-1])]
    gw: list[list[str]] = [[] for _ in range(plan.n_weights)]
    for p, c in enumerate(plan.couplings):
        for i, t in code.contract(p, c, "y", "g").items():
            gx[x_start[c.x] + i].append(t if c.weight < 0 else f"w{c.weight} * {t}")
            if c.weight >= 0:
                gw[c.weight].append(f"x{x_start[c.x] + i} * {t}")
        for j, s in code.contract(p, c, "x", "g").items():
            gy[y_start[c.y] + j].append(s if c.weight < 0 else f"w{c.weight} * {s}")
    weights = code.stack(gw, "g") if gw else "None"
    return code.finish(f"{code.stack(gx, 'g')}, {code.stack(gy, 'g')}, {weights}")


def compile_source(source: str, namespace: dict[str, Any] | None = None) -> Callable[..., Any]:
    """The function that generated source defines, in the given names; its lines show up in tracebacks."""
    name = f"<geoeq tensor product {next(_counter)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    names: dict[str, Any] = {"torch": torch} if namespace is None else dict(namespace)
    exec(compile(source, name, "exec"), names)
    return names[source[4 : source.index("(")]]


class Code:
    """Lines of one function; products of two components are formed once and shared by all paths."""

    indent = "    "

    def __init__(self, signature: str, plan: Plan) -> None:
        self.lines = [f"def {signature}:"]
        self.known: set[str] = set()
        self.start = {"x": starts(plan.x), "y": starts(plan.y), "g": starts(plan.out)}
        self.plan = plan

    def add(self, line: str) -> None:
        self.lines.append(self.indent + line)

    def let(self, name: str, value: str) -> str:
        if name not in self.known:
            self.known.add(name)
            self.add(f"{name} = {value}")
        return name

    def contract(self, p: int, c: Coupling, a: str, b: str) -> dict[int, str]:
        """Names of the sums over the components of ``a`` and ``b`` for each component of the third operand."""
        sums: dict[int, list[tuple[str, float]]] = {}
        for (third, _, _), terms in _groups(self.plan.x[c.x], self.plan.y[c.y], self.plan.out[c.out], a + b).items():
            entry = {"x": c.x, "y": c.y, "g": c.out}
            offset_a, offset_b = self.start[a][entry[a]], self.start[b][entry[b]]
            names = [(f"{a}{offset_a + i}", f"{b}{offset_b + j}", value) for i, j, _, value in terms]
            sums.setdefault(third, []).extend(self.pair(names))
        return {third: self.total(f"{a}{b}_{p}_{third}", parts, c.factor) for third, parts in sums.items()}

    def pair(self, terms: list[tuple[str, str, float]]) -> list[tuple[str, float]]:
        """Products, two with the same absolute constant joined into one sum that other degrees use as well."""
        products = [(self.let(f"{left}{right}", f"{left} * {right}"), value) for left, right, value in terms]
        if len(products) != 2 or abs(abs(products[0][1]) - abs(products[1][1])) > 1e-12:
            return products
        (first, value), (second, other) = products
        plus = value * other > 0
        return [(self.let(f"{first}{'p' if plus else 'm'}{second}", f"{first} {'+' if plus else '-'} {second}"), value)]

    def total(self, name: str, parts: list[tuple[str, float]], factor: float) -> str:
        return self.let(name, " + ".join(f"{part} * {constant * factor!r}" for part, constant in parts))


class _TorchCode(Code):
    """A function of whole tensors."""

    def __init__(self, signature: str, plan: Plan) -> None:
        super().__init__(signature, plan)
        self.components("x", self.start["x"][-1], 1)
        self.components("y", self.start["y"][-1], 1)
        if plan.n_weights:
            self.components("w", plan.n_weights, -2)

    def components(self, name: str, n: int, axis: int) -> None:
        # Not unbind, whose results torch.compile would keep one by one for the backward pass instead of the whole.
        for i in range(n):
            self.add(f"{name}{i} = {name}.select({axis}, {i})")

    def total(self, name: str, parts: list[tuple[str, float]], factor: float) -> str:
        # One node of the traced graph for a product and a sum: tracing time is a large part of compile time.
        self.let(name, f"{parts[0][0]} * {parts[0][1] * factor!r}")
        for part, constant in parts[1:]:
            self.add(f"{name} = torch.add({name}, {part}, alpha={constant * factor!r})")
        return name

    def stack(self, outputs: list[list[str]], like: str) -> str:
        """One tensor from the sums of its components; components that no path reaches are 0."""
        zero = f"torch.zeros_like({like}0)"
        return f"torch.stack([{', '.join(' + '.join(terms) if terms else zero for terms in outputs)}], 1)"

    def finish(self, result: str) -> str:
        return "\n".join([*self.lines, f"    return {result}", ""])


@cache
def _groups(l1: int, l2: int, l3: int, operands: str) -> dict[tuple[int, int, int], list[Term]]:
    """Terms as (component of each operand, third component, value), by third component and both |m|.

    In the real basis the two products m, m' and -m, -m' enter all degrees with the same pair of signs.
    """
    axis = {"x": 0, "y": 1, "g": 2}
    a, b = axis[operands[0]], axis[operands[1]]
    degree, third = (l1, l2, l3), 3 - a - b
    groups: dict[tuple[int, int, int], list[Term]] = {}
    for term in coupling_terms(l1, l2, l3):
        key = (int(term[third]), abs(int(term[a]) - degree[a]), abs(int(term[b]) - degree[b]))
        groups.setdefault(key, []).append((int(term[a]), int(term[b]), int(term[third]), term[3]))
    return groups
