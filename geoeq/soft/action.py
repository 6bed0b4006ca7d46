"""How features of a declared representation move: under an element, along a generator, along its flow.

Every copy of a representation answers to an element by an affine map :math:`x \\mapsto D x + b`; the shift b is zero
except for positions, which translations move, and logarithms of lengths, which scalings move. Under a group that acts
part by part every row has its own D and b.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from geoeq.groups import Group, Piecewise, Product
from geoeq.reps import Copy, CrossingCopy, LogSizeCopy, NodeCopy, Nodes, PositionCopy, Rep, as_rep, rep_key, segments

__all__ = ["flow", "move", "new_numbers", "velocity"]


class Affine(NamedTuple):
    """The maps x -> D x + b of one copy: ``matrix [*, dim, dim]`` and ``shift [*, dim]``."""

    matrix: Tensor
    shift: Tensor


def move(group: Group, rep: Rep | str, x: Tensor, element: Tensor, *, part: Tensor | None = None) -> Tensor:
    r"""The moved features :math:`g\,x`.

    Args:
        group: the group.
        rep: how ``x`` answers.
        x: features ``[..., rep.dim]`` of any float dtype; under ``Nodes(n, irreps)`` also one row per node,
            ``[..., B * n, irreps.dim]``.
        element: one element as ``group.sample`` gives it, ``[n, n]``, or ``[parts, n, n]``.
        part: part of each row of ``x [..., N, rep.dim]``, ``[N]``; only for groups that act part by part.

    Raises:
        ValueError: if ``x`` does not have the width of ``rep``, or ``part`` is missing, too large or of another length.

    >>> from geoeq.groups import O, T
    >>> from geoeq.reps import Positions
    >>> move(O(3), "1x0e + 1x1o", torch.tensor([[1.0, 3.0, 1.0, 2.0]]), -torch.eye(3))
    tensor([[ 1., -3., -1., -2.]])
    >>> move(T(3), Positions(1), torch.zeros(1, 3), T(3).sample(1)[0]).abs().min() > 0
    tensor(True)
    """
    base = _single(group)

    def of_rows(elements: Tensor, index: Tensor, copy: Copy) -> Affine:
        used, inverse = index.unique(return_inverse=True)
        maps = [_element_map(base, copy, elements[p]) for p in used.tolist()]
        return Affine(
            torch.stack([m.matrix for m in maps])[inverse.cpu()], torch.stack([m.shift for m in maps])[inverse.cpu()]
        )

    if not group.elements_per_part:
        return _apply(group, rep, x, lambda copy: _element_map(base, copy, element))
    rows = None if part is None else _checked_part(part, x, len(element))
    return _apply(
        group,
        rep,
        x,
        lambda copy: of_rows(element, _required(rows, group), copy),
        lambda copy, parts: of_rows(element, parts, copy),
    )


def new_numbers(nodes: Tensor, places: Tensor) -> Tensor:
    """The numbers of ``nodes``, any shape, once those of each graph of n nodes have moved to ``places [n]``."""
    local = nodes % len(places)
    return nodes - local + places.to(nodes)[local]


def velocity(group: Group, rep: Rep | str, x: Tensor, coefficients: Tensor, *, part: Tensor | None = None) -> Tensor:
    r"""How fast features start to move along a Lie algebra element, :math:`\sum_a c_a A_a\, x`.

    Args:
        group: the group.
        rep: how ``x`` answers.
        x: features ``[..., rep.dim]``.
        coefficients: of the generators, ``[d]``; with ``part``, or for a piecewise group, of each part, ``[parts, d]``.
        part: part of each row, ``[N]``; or how far each row belongs to each part, rows that sum to one,
            ``[N, parts]``, float: row i then moves with :math:`\sum_m \pi_{im} c_m`.

    Raises:
        ValueError: as :func:`move`.

    >>> from geoeq.groups import SO2
    >>> velocity(SO2("z"), "1x1o", torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1))
    tensor([[0., 1., 0.]])
    """
    return _along(group, rep, x, coefficients, part, lambda affine: affine)


def flow(group: Group, rep: Rep | str, x: Tensor, coefficients: Tensor, *, part: Tensor | None = None) -> Tensor:
    r"""Features moved by :math:`\exp(\sum_a c_a A_a)`, the exponential of what :func:`velocity` follows.

    With soft parts it is the exponential of the blended twist. Arguments and errors as :func:`velocity`.
    """
    return _along(group, rep, x, coefficients, part, _exponential)


def _along(
    group: Group,
    rep: Rep | str,
    x: Tensor,
    coefficients: Tensor,
    part: Tensor | None,
    finish: Callable[[Affine], Affine],
) -> Tensor:
    base = _single(group)
    count = len(base.generators)
    if coefficients.shape[-1] != count:
        raise ValueError(f"coefficients must be [..., {count}] for {group}, got {list(coefficients.shape)}")

    def of(own: Tensor, copy: Copy) -> Affine:
        basis = _generator_maps(base, copy)
        matrix, shift = basis.matrix.to(own), basis.shift.to(own)
        return finish(Affine(torch.einsum("...a,aij->...ij", own, matrix), torch.einsum("...a,ai->...i", own, shift)))

    if coefficients.dim() == 1:
        return _apply(group, rep, x, lambda copy: of(coefficients, copy))
    blended = None
    if part is not None:
        part = _checked_part(part, x, len(coefficients))
        blended = part.to(coefficients) @ coefficients if part.is_floating_point() else coefficients[part]
    return _apply(
        group,
        rep,
        x,
        lambda copy: of(_required(blended, group), copy),
        lambda copy, parts: of(coefficients[parts.to(coefficients.device)], copy),
    )


def part_count(group: Group, part: Tensor | None) -> int | None:
    """How many parts move on their own; None where everything moves together."""
    if part is not None:
        return part.shape[1] if part.is_floating_point() else int(part.max()) + 1 if part.numel() else 0
    if isinstance(group, Piecewise):
        return max(_required(group.parts, group)) + 1
    return None


# One copy


def _single(group: Group) -> Group:
    return group.group if isinstance(group, Piecewise) else group


def _element_map(group: Group, copy: Copy, element: Tensor) -> Affine:
    if not isinstance(group, Product):
        return Affine(group.matrix(copy, element), _shift(group, copy, element))
    matrix, shift = torch.eye(copy.dim).to(element), element.new_zeros(copy.dim)
    for own, member in zip(group.split(element), group.members, strict=True):
        inner = _element_map(member, copy, own)
        matrix, shift = matrix @ inner.matrix, matrix @ inner.shift + shift
    return Affine(matrix, shift)


@lru_cache(maxsize=1024)
def _generator_maps(group: Group, copy: Copy) -> Affine:
    """Of every generator, ``[d, dim, dim]`` and ``[d, dim]``, float64."""
    if not len(group.generators):
        raise ValueError(f"group must have generators, got {group}; it can be tested on its orbits")
    matrices = torch.stack([group.algebra(copy, a) for a in group.generators])
    return Affine(matrices, torch.stack([_generator_shift(group, copy, a) for a in group.generators]))


def _generator_shift(group: Group, copy: Copy, generator: Tensor) -> Tensor:
    if not isinstance(group, Product):
        return _shift(group, copy, generator, algebra=True)
    shifts = [
        _generator_shift(member, copy, own)
        for own, member in zip(group.split(generator), group.members, strict=True)
        if own.any()
    ]
    return torch.stack([generator.new_zeros(copy.dim), *shifts]).sum(0)


def _shift(group: Group, copy: Copy, matrix: Tensor, *, algebra: bool = False) -> Tensor:
    """Where an element (or generator) takes the zero of ``copy``, ``[dim]``."""
    if isinstance(copy, CrossingCopy):
        return _shift(group, copy.inner, matrix, algebra=algebra)
    if isinstance(copy, PositionCopy):
        places = None if algebra else group.places(matrix)
        nodes = 1 if places is None else len(places)  # permutations want whole graphs
        origin = group.act(matrix, matrix.new_zeros(nodes, 3), position=True)[0]
        return origin.repeat(copy.mul)
    if isinstance(copy, LogSizeCopy):
        linear = group.spatial(matrix)
        growth = linear.trace() if algebra else torch.det(linear).abs().log()
        return (growth / len(linear)).repeat(copy.mul)
    return matrix.new_zeros(copy.dim)


def _exponential(affine: Affine) -> Affine:
    homogeneous = torch.cat([affine.matrix, affine.shift.unsqueeze(-1)], -1)
    homogeneous = torch.cat([homogeneous, torch.zeros_like(homogeneous[..., :1, :])], -2)
    whole = torch.linalg.matrix_exp(homogeneous)
    return Affine(whole[..., :-1, :-1], whole[..., :-1, -1])


# All copies


def _apply(
    group: Group,
    rep: Rep | str,
    x: Tensor,
    rows: Callable[[Copy], Affine],
    nodes: Callable[[Copy, Tensor], Affine] | None = None,
) -> Tensor:
    """Move each copy by ``rows(copy)``, or the copies of numbered nodes by ``nodes(inner copy, part of each node)``."""
    rep = as_rep(rep)
    found = segments(rep, group.n)
    width = found[-1].stop if found else 0
    if isinstance(rep, Nodes) and rep.order == 1 and x.dim() > 1 and rep.n > 1 and x.shape[-1] == rep.irreps.dim:
        return _apply_to_node_rows(group, rep, x, rows, nodes)
    if not x.dim() or x.shape[-1] != width:
        raise ValueError(f"x must be [..., {width}] for {rep_key(rep)}, got {list(x.shape)}")
    moved = []
    for segment in found:
        copies = x[..., segment.start : segment.stop].unflatten(-1, (segment.mul, segment.copy.dim))
        if group.elements_per_part and isinstance(segment.copy, CrossingCopy):
            raise ValueError(f"rep must not join two parts to be moved by {group}, got {rep_key(rep)}")
        if nodes is not None and isinstance(segment.copy, NodeCopy):
            if segment.copy.order > 1:
                raise ValueError(f"rep must not stand at pairs of nodes to be moved by {group}, got {rep_key(rep)}")
            parts = _required(getattr(group, "parts", None), group)
            if len(parts) != segment.copy.n:
                raise ValueError(f"parts must name the part of each of {segment.copy.n} nodes, got {len(parts)}")
            inner = nodes(segment.copy.inner, torch.tensor(parts)).matrix.to(copies)
            by_node = copies.unflatten(-1, (segment.copy.inner.dim, segment.copy.n))
            moved.append(torch.einsum("nij,...jn->...in", inner, by_node).flatten(-3))
            continue
        affine = rows(segment.copy)
        moved.append(
            (copies @ affine.matrix.to(copies).transpose(-1, -2) + affine.shift.to(copies).unsqueeze(-2)).flatten(-2)
        )
    return torch.cat(moved, -1) if moved else x


def _apply_to_node_rows(
    group: Group,
    rep: Nodes,
    x: Tensor,
    rows: Callable[[Copy], Affine],
    nodes: Callable[[Copy, Tensor], Affine] | None,
) -> Tensor:
    if x.shape[-2] % rep.n:
        raise ValueError(f"x must have graphs of {rep.n} nodes for {rep_key(rep)}, got {x.shape[-2]} rows")
    graphs = x.unflatten(-2, (-1, rep.n)).transpose(-1, -2).flatten(-2)
    moved = _apply(group, rep, graphs, rows, nodes)
    return moved.unflatten(-1, (rep.irreps.dim, rep.n)).transpose(-1, -2).flatten(-3, -2)


def _checked_part(part: Tensor, x: Tensor, parts: int) -> Tensor:
    soft = part.is_floating_point()
    if part.dim() != 1 + soft or x.dim() < 2 or len(part) != x.shape[-2]:
        rows = x.shape[-2] if x.dim() > 1 else "N"
        shape = f"[{rows}] or, of float type, [{rows}, parts]"
        raise ValueError(f"part must be {shape}, got {list(part.shape)} of {part.dtype}")
    if soft and part.shape[1] != parts:
        raise ValueError(f"part must be [{len(part)}, {parts}], got {list(part.shape)}")
    if not soft and part.numel() and not 0 <= int(part.min()) <= int(part.max()) < parts:
        raise ValueError(f"part must lie in [0, {parts - 1}], got {int(part.min())} to {int(part.max())}")
    return part


def _required(value, group: Group):  # type: ignore[no-untyped-def]
    if value is None:
        raise ValueError(f"part must give the part of each row, [N], for {group}; got None")
    return value
