"""All attached weights as one vector, and its coordinates along what each symmetry forbids.

Weights are cut into blocks, one per pair of copies (:mod:`geoeq.intertwiners`), and blocks of one kind are handled
together, whatever weight they come from, so that residual, level and proximal step of every weight and every symmetry
cost a handful of matrix products in all. The subspaces that get a strength of their own are the *terms* of
:mod:`geoeq.soft.lattice`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geoeq.groups import Group
from geoeq.intertwiners import Block, PairSpace, pair_space, to_rows
from geoeq.reps import Copy, Segment, TypedMap, segments
from geoeq.soft.lattice import Term, coordinate_frame

__all__ = ["BlockKind", "WeightBank"]

ALIGNED = 1e-10
INFINITE = 1e30
HARD = 1e20
INFINITE_OBLIQUE = 1e10  # an eigenproblem cannot hold more beside strengths of order one


class BlockKind(nn.Module):
    """The blocks between one pair of copies, from all weights.

    Attributes:
        index: where each block's entries lie in the joint vector, ``[blocks, D]``.
        owner: number of the weight that each block belongs to, ``[blocks]``, ascending.
        frame: unit vectors along what is forbidden, ``[D, J]``; orthonormal within each term.
        forbidden: 1 where a term forbids a coordinate, ``[terms, J]``.
        offset: fixed part of the allowed blocks, ``[D]``.
    """

    index: Tensor
    owner: Tensor
    frame: Tensor
    forbidden: Tensor
    offset: Tensor

    def __init__(self, frame: Tensor, forbidden: Tensor, offset: Tensor, index: Tensor, owner: Tensor) -> None:
        super().__init__()
        size = frame.shape[1]
        overlap = frame.T @ frame - torch.eye(size, dtype=frame.dtype)
        self.orthonormal = not size or bool(overlap.abs().max() < ALIGNED)
        self.affine = bool(offset.any())
        single = (frame.abs() - 1).abs() < ALIGNED  # coordinates that are single entries, [D, J]
        self.aligned = self.orthonormal and not self.affine and bool(single.any(0).all())
        #: for aligned kinds, the terms that forbid each entry as 0 and 1, [D, terms]
        self.forbidden_entries = single.double() @ forbidden.T
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("owner", owner, persistent=False)
        self.masters = {"frame": frame, "forbidden": forbidden, "offset": offset}
        for name, tensor in self.masters.items():
            self.register_buffer(name, tensor.float(), persistent=False)
        self.owners, counts = (t.tolist() for t in owner.unique_consecutive(return_counts=True))
        self.counts = counts
        self._solved: tuple[Tensor, Tensor, Tensor] | None = None

    def coordinates(self, flat: Tensor, *, centred: bool = True) -> Tensor:
        """Coordinates ``[blocks, J]`` of the joint vector ``flat`` along what is forbidden."""
        return self.within(flat[self.index], centred=centred)

    def within(self, rows: Tensor, *, centred: bool = True) -> Tensor:
        """Coordinates ``[blocks, J]`` of ``rows [blocks, D]`` along what is forbidden."""
        return (rows - self.offset if centred and self.affine else rows) @ self.frame

    def shrinkage(self, strengths: Tensor, steps: Tensor) -> Tensor | None:
        """Share of each coordinate that the proximal step takes, ``[blocks, J]``; None where terms are oblique."""
        if not self.orthonormal:
            return None
        total = (strengths * steps.unsqueeze(1)).to(self.frame) @ self.forbidden  # [maps, J]
        return (total / (1.0 + total)).index_select(0, self.owner)

    def shrunk(self, rows: Tensor, shrinkage: Tensor | None, strengths: Tensor, steps: Tensor) -> Tensor:
        """``rows [blocks, D]`` after the proximal step with ``strengths [maps, terms]`` and ``steps [maps]``."""
        if shrinkage is None:
            return self._solve(rows, strengths, steps)
        return torch.addmm(rows, self.within(rows).mul_(shrinkage), self.frame.T, alpha=-1)

    def _solve(self, rows: Tensor, strengths: Tensor, steps: Tensor) -> Tensor:
        """The same where terms are oblique to each other: one small eigenproblem per weight and change of strength."""
        strengths = strengths.clamp(max=INFINITE_OBLIQUE)
        if self._solved is None or not torch.equal(self._solved[0], strengths):
            frame = self.masters["frame"].to(strengths)
            total = strengths[self.owners] @ self.masters["forbidden"].to(strengths)  # [owners, J]
            values, vectors = torch.linalg.eigh(torch.einsum("dj,oj,ej->ode", frame, total, frame))
            self._solved = (strengths.clone(), values.clamp(min=0.0), vectors.to(rows))
        _, values, vectors = self._solved
        scaled = values * steps[self.owners].unsqueeze(1)
        shrink = (scaled / (1.0 + scaled)).to(rows)
        centred = rows - self.offset
        moved = [((part @ vectors[o]) * shrink[o]) @ vectors[o].T for o, part in enumerate(centred.split(self.counts))]
        return rows - torch.cat(moved)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        # Going through float32 and back must not cost the constants their precision.
        super()._apply(fn, recurse)
        for name, master in self.masters.items():
            like = getattr(self, name)
            setattr(self, name, master.to(like.dtype).to(like.device))
        self._solved = None
        return self


class Shrinkage(NamedTuple):
    """A proximal step made ready: strengths and steps, the factor of each entry, the shares of framed coordinates."""

    strengths: Tensor
    steps: Tensor
    entries: Tensor
    shares: list[Tensor | None]


class WeightBank(nn.Module):
    """Residuals and proximal steps of many typed weights for many symmetries at once.

    Args:
        maps: the attached weights.
        groups: the candidate symmetries.
        split: whether terms are the increments of the lattice of symmetries instead of the symmetries themselves.

    Attributes:
        terms: which symmetries forbid each term.
        members: the same as 0 and 1, ``[terms, symmetries]``.
        codim: dimension of each term in each weight, ``[maps, terms]``, float64.
    """

    codim: Tensor
    constrained: Tensor
    factor: Tensor
    patterns: Tensor

    def __init__(self, maps: Sequence[TypedMap], groups: Sequence[Group], *, split: bool = False) -> None:
        super().__init__()
        self.parameters_ = [m.parameter for m in maps]
        self.sizes = [p.numel() for p in self.parameters_]
        self._shared: tuple[list[int], list[Tensor]] | None = None
        found: dict[tuple[Copy, Copy], list[tuple[int, Tensor]]] = {}
        start = 0
        for number, typed in enumerate(maps):
            for pair, index in _blocks_of(typed, groups[0].n):
                found.setdefault(pair, []).append((number, index + start))
            start += typed.parameter.numel()
        framed = []
        for (copy_out, copy_in), entries in found.items():
            spaces = [pair_space(group, copy_out, copy_in) for group in groups]
            if any(space.rank < space.dim for space in spaces):
                framed.append((coordinate_frame(spaces, split=split), _offset(spaces), entries))
        singles: list[Term] = [] if split else [frozenset({k}) for k in range(len(groups))]
        self.terms = list(dict.fromkeys([*singles, *(term for frame, _, _ in framed for term in frame.terms)]))
        self.members = torch.tensor([[float(k in term) for k in range(len(groups))] for term in self.terms]).reshape(
            -1, len(groups)
        )
        codim = torch.zeros(len(maps), len(self.terms), dtype=torch.float64)
        self.kinds: list[BlockKind] = []
        for (frame, columns), offset, entries in framed:
            forbidden = torch.tensor([[float(term in column) for column in columns] for term in self.terms])
            index = torch.cat([rows for _, rows in entries])
            owner = torch.cat([torch.full((len(rows),), number) for number, rows in entries])
            kind = BlockKind(frame, forbidden.double().reshape(len(self.terms), -1), offset, index, owner)
            self.add_module(f"kind_{len(self.kinds)}", kind)
            self.kinds.append(kind)
            codim.index_add_(0, owner, kind.forbidden.sum(1).double().expand(len(owner), -1))
        self.register_buffer("codim", codim, persistent=False)
        self._number_aligned_entries(start)
        self.framed = [kind for kind in self.kinds if not kind.aligned]
        entries_of = [kind.index.reshape(-1) for kind in self.framed]
        constrained = torch.cat(entries_of) if entries_of else torch.zeros(0, dtype=torch.long)
        self.register_buffer("constrained", constrained, persistent=False)

    def _number_aligned_entries(self, size: int) -> None:
        """Number the factor of each entry of aligned kinds by its weight and the terms that forbid it; 0 for others."""
        patterns = torch.zeros(1, len(self.terms), dtype=torch.float64)
        aligned = [kind for kind in self.kinds if kind.aligned]
        if aligned:
            patterns = torch.cat([patterns, *(kind.forbidden_entries for kind in aligned)]).unique(dim=0)
        factor = torch.zeros(size, dtype=torch.long)
        for kind in aligned:
            number = (kind.forbidden_entries.unsqueeze(1) == patterns).all(-1).long().argmax(1)  # [D]
            factor[kind.index] = kind.owner.unsqueeze(1) * len(patterns) + number
        self.register_buffer("patterns", patterns.float(), persistent=False)
        self.register_buffer("factor", factor, persistent=False)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.codim = self.codim.double()
        return self

    def flat(self, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """The attached weights, or ``tensors`` of their shapes, as one vector."""
        tensors = self.parameters_ if tensors is None else tensors
        return torch.cat([t.reshape(-1) for t in tensors])

    def _views(self) -> list[Tensor]:
        """The weights as vectors that share their memory; made anew only when a weight has moved."""
        places = [p.data_ptr() for p in self.parameters_]
        if self._shared is None or self._shared[0] != places:
            self._shared = places, [p.data.view(-1) for p in self.parameters_]
        return self._shared[1]

    def squared_residuals(self, flat: Tensor) -> Tensor:
        r"""What each term forbids, :math:`\|W - P_k W\|^2`, ``[maps, terms]``; differentiable."""
        return self._gathered(flat, lambda kind: kind.coordinates(flat).square())

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        r""":math:`\langle A, B - P_k B\rangle` of two joint vectors, a gradient and the weights, ``[maps, terms]``."""
        return self._gathered(b, lambda kind: kind.coordinates(a, centred=False) * kind.coordinates(b))

    def _gathered(self, like: Tensor, values: Callable[[BlockKind], Tensor]) -> Tensor:
        """Values of coordinates of every kind, summed over each term of each weight, ``[maps, terms]``."""
        total = torch.zeros_like(self.codim, dtype=like.dtype)
        with torch.autocast(like.device.type, enabled=False):  # half precision would blur what is nearly zero
            for kind in self.kinds:
                total = total.index_add(0, kind.owner, values(kind) @ kind.forbidden.T)
        return total

    def prepare(self, strengths: Tensor, steps: Tensor) -> Shrinkage:
        r"""What :meth:`prox` multiplies by, to be used again as long as strengths and steps stay the same.

        Args:
            strengths: :math:`\lambda`, ``[maps, terms]``, float64; infinity projects.
            steps: :math:`\eta` of each weight, ``[maps]``, float64.
        """
        # a finite stand-in for infinity keeps 0 * infinity out of the products
        finite = strengths.clamp(max=INFINITE).to(steps)
        total = (finite * steps.unsqueeze(1)) @ self.patterns.to(steps).T  # [maps, patterns]
        # exactly zero, or weights would end as denormal numbers, with which processors are very slow;
        # the pattern that no term forbids is number 0 of every weight, so entries that are left alone get 1
        factors = torch.where(total < HARD, 1.0 / (1.0 + total), 0.0).to(self.parameters_[0])
        entries = factors.reshape(-1).index_select(0, self.factor)
        return Shrinkage(finite, steps, entries, [kind.shrinkage(finite, steps) for kind in self.framed])

    @torch.no_grad()
    def prox(self, prepared: Shrinkage) -> None:
        r"""Replace each weight by :math:`(I + \eta \sum_k \lambda_k (I - P_k))^{-1} W`, exactly."""
        if not self.kinds:
            return
        with torch.autocast(prepared.steps.device.type, enabled=False):
            views = self._views()
            flat = torch.cat(views).mul_(prepared.entries)
            if self.framed:
                entries = flat.index_select(0, self.constrained).split([kind.index.numel() for kind in self.framed])
                shrunk = [
                    kind.shrunk(values.view_as(kind.index), own, prepared.strengths, prepared.steps).reshape(-1)
                    for kind, values, own in zip(self.framed, entries, prepared.shares, strict=True)
                ]
                flat.index_copy_(0, self.constrained, torch.cat(shrunk))
            torch._foreach_copy_(views, flat.split(self.sizes))


def _offset(spaces: Sequence[PairSpace]) -> Tensor:
    zero = torch.zeros(spaces[0].dim, dtype=torch.float64)
    return next((space.offset for space in spaces if space.offset is not None), zero)


def _blocks_of(typed: TypedMap, d: int) -> list[tuple[tuple[Copy, Copy], Tensor]]:
    """Entries of each pair of copies in a flattened weight, ``[blocks, D]``."""
    columns: tuple[Segment, ...] = segments(typed.rep_in, d)
    rows: tuple[Segment, ...] = segments(typed.rep_out, d)
    width = columns[-1].stop if columns else 0
    height = rows[-1].stop if rows else 0
    if typed.parameter.numel() != width * height:
        raise ValueError(f"{typed.name} must have {height} x {width} entries, got {list(typed.parameter.shape)}")
    entries = torch.arange(width * height).reshape(height, width)
    free = PairSpace(0, None)
    return [
        (
            (out.copy, into.copy),
            to_rows(entries[out.start : out.stop, into.start : into.stop], Block(out, into, free)),
        )
        for out in rows
        for into in columns
    ]
