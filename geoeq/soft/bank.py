"""All attached weights as one vector, and its coordinates along what each symmetry forbids.

Weights are cut into blocks, one per pair of copies (:mod:`geoeq.intertwiners`), and blocks of one kind are handled
together, whatever weight they come from, so that residual, level and proximal step of every weight and every symmetry
cost a handful of matrix products in all. The subspaces that get a strength of their own are the *terms* of
:mod:`geoeq.soft.lattice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geoeq.groups import Group
from geoeq.intertwiners import Block, PairSpace, pair_space, to_rows
from geoeq.reps import Copy, Segment, TypedMap, segments
from geoeq.soft.block_kind import BlockKind, TiedEntries, TiedStep
from geoeq.soft.lattice import Term, coordinate_frame

__all__ = ["Shrinkage", "WeightBank"]

INFINITE = 1e30
HARD = 1e20


class Shrinkage(NamedTuple):
    """A proximal step of some weights made ready.

    Attributes:
        weights: their numbers.
        entries: the factor of each of their entries.
        constrained: where the entries that are tied lie in their joint vector.
        tied: these entries, block by block, and their step.
    """

    weights: list[int]
    entries: Tensor
    constrained: Tensor
    tied: list[tuple[TiedEntries, TiedStep]]


class Coordinates(NamedTuple):
    """A number for every entry of the joint vector, and for every tied coordinate of each kind, ``[blocks, J]``.

    Entries that are tied, or that nothing forbids, have a number here that counts for no term.
    """

    entries: Tensor
    tied: list[Tensor]

    def combined(self, function: Callable[..., Tensor], *others: Coordinates) -> Coordinates:
        """``function`` of these numbers and those of ``others``."""
        pairs = zip(self.tied, *(other.tied for other in others), strict=True)
        return Coordinates(
            function(self.entries, *(other.entries for other in others)), [function(*tied) for tied in pairs]
        )


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
            self.kinds.append(kind)
            codim.index_add_(0, owner, kind.forbidden.sum(1).expand(len(owner), -1))
        self.register_buffer("codim", codim, persistent=False)
        self._number_entries(start)
        self.tied: list[TiedEntries] = [kind.tied for kind in self.kinds if kind.tied is not None]
        self._tied = nn.ModuleList(self.tied)  # moved and cast with the bank
        entries_of = [tied.index.reshape(-1) for tied in self.tied]
        constrained = torch.cat(entries_of) if entries_of else torch.zeros(0, dtype=torch.long)
        self.register_buffer("constrained", constrained, persistent=False)

    def _number_entries(self, size: int) -> None:
        """Number the factor of each entry by its weight and the terms that forbid it by itself; 0 for all others."""
        patterns = torch.zeros(1, len(self.terms), dtype=torch.float64)
        patterns = torch.cat([patterns, *(kind.forbidden_entries for kind in self.kinds)]).unique(dim=0)
        factor = torch.zeros(size, dtype=torch.long)
        for kind in self.kinds:
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
        return torch.cat([t.reshape(-1) for t in (self.parameters_ if tensors is None else tensors)])

    def _views(self) -> list[Tensor]:
        """The weights as vectors that share their memory; made anew only when a weight has moved."""
        places = [p.data_ptr() for p in self.parameters_]
        if self._shared is None or self._shared[0] != places:
            self._shared = places, [p.data.view(-1) for p in self.parameters_]
        return self._shared[1]

    def coordinates(self, flat: Tensor, *, centred: bool = True) -> Coordinates:
        """The joint vector ``flat`` along what is forbidden; not ``centred`` if it is a gradient."""
        with torch.autocast(flat.device.type, enabled=False):  # half precision would blur what is nearly zero
            return Coordinates(flat, [tied.coordinates(flat, centred=centred) for tied in self.tied])

    def variances(self, flat: Tensor) -> Coordinates:
        """Variances along what is forbidden where entries have the variances ``flat``."""
        return Coordinates(flat, [flat[tied.index] @ tied.cast("frame", flat).square() for tied in self.tied])

    def over_terms(self, values: Coordinates) -> Tensor:
        """Sums over each term of each weight, ``[maps, terms]``."""
        maps, patterns = len(self.parameters_), self.patterns.to(values.entries)
        total = values.entries.new_zeros(maps * len(patterns)).index_add(0, self.factor, values.entries)
        with torch.autocast(total.device.type, enabled=False):
            total = total.view(maps, len(patterns)) @ patterns
            for own, numbers in zip(self.tied, values.tied, strict=True):
                total = total.index_add(0, own.owner, numbers @ own.forbidden.to(numbers).T)
        return total

    def of_terms(self, numbers: Tensor) -> Coordinates:
        """For every coordinate the sum of ``numbers [maps, terms]`` over the terms that forbid it."""
        entries = (numbers @ self.patterns.to(numbers).T).reshape(-1).index_select(0, self.factor)
        return Coordinates(entries, [(numbers @ own.forbidden.to(numbers))[own.owner] for own in self.tied])

    def squared_residuals(self, flat: Tensor) -> Tensor:
        r"""What each term forbids, :math:`\|W - P_k W\|^2`, ``[maps, terms]``; differentiable."""
        return self.over_terms(self.coordinates(flat).combined(torch.square))

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        r""":math:`\langle A, B - P_k B\rangle` of two joint vectors, a gradient and the weights, ``[maps, terms]``."""
        return self.over_terms(self.coordinates(a, centred=False).combined(torch.mul, self.coordinates(b)))

    def part(self, flat: Tensor, term: int, *, centred: bool = True) -> Tensor:
        """What one term forbids in the joint vector ``flat``, a joint vector; not ``centred`` if it is a gradient."""
        entries = self.patterns[:, term].repeat(len(self.parameters_)).to(flat).index_select(0, self.factor)
        found = flat * entries
        for own, numbers in zip(self.tied, self.coordinates(flat, centred=centred).tied, strict=True):
            rows = (numbers * own.cast("forbidden", flat)[term]) @ own.cast("frame", flat).T
            found = found.index_add(0, own.index.reshape(-1), rows.reshape(-1))
        return found

    def levels(self, flat: Tensor) -> Tensor:
        r"""Level of each term in each weight, :math:`\|W - P_t W\| / \|W\|` over that of a random one."""
        power = torch.stack([own.square().sum() for own in flat.double().split(self.sizes)]).unsqueeze(1)
        share = self.codim / torch.tensor(self.sizes).to(self.codim).unsqueeze(1)
        least = torch.finfo(torch.float64).tiny
        return (self.squared_residuals(flat.double()) / (share * power).clamp(min=least)).sqrt()

    @contextmanager
    def without(self, weight: int, term: int) -> Iterator[None]:
        """One weight without what one term forbids in it, as long as the context lasts."""
        parameter = self.parameters_[weight]
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.sub_(self.of_weight(self.part(self.flat().detach(), term), weight))
        try:
            yield
        finally:
            with torch.no_grad():
                parameter.copy_(before)

    def of_weight(self, flat: Tensor, weight: int) -> Tensor:
        """What the joint vector ``flat`` holds for one weight, in its shape."""
        return flat.split(self.sizes)[weight].view_as(self.parameters_[weight])

    @torch.no_grad()
    def descend(self, weight: int, step: Tensor, loss: Callable[[], float], halvings: int = 10) -> None:
        """Add to one weight the whole ``step`` or a half, a quarter ... of it, whichever makes the loss least.

        The loss is taken to fall and rise once along the step, and is followed from the middle of the halvings.

        Args:
            weight: its number.
            step: of the shape of the weight.
            loss: evaluates the network with the weights as they are; where no step makes it less, none is made.
            halvings: the largest number of times that the step is halved.
        """
        parameter, found = self.parameters_[weight], dict[int, float]()
        before = best = parameter.clone()
        start = loss()

        def after(halved: int) -> float:
            parameter.copy_(before + 0.5**halved * step)
            found[halved] = loss()
            return found[halved]

        try:
            chosen = middle = halvings // 2
            after(middle)
            for way in (1, -1):
                while 0 <= chosen + way <= halvings and after(chosen + way) < found[chosen]:
                    chosen += way
                if chosen != middle:
                    break
            if found[chosen] < start:
                best = before + 0.5**chosen * step
        finally:
            parameter.copy_(best)

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
        tied = [(own, own.prepare(finite, steps)) for own in self.tied]
        for own, step in tied:
            entries[own.index] = step.keep
        return Shrinkage(list(range(len(self.sizes))), entries, self.constrained, tied)

    def restrict(self, prepared: Shrinkage, chosen: Tensor) -> Shrinkage:
        """The same step of the weights that are ``chosen [maps]`` alone."""
        sizes = torch.tensor(self.sizes, device=chosen.device)
        inside = chosen.repeat_interleave(sizes)  # [entries]
        place = inside.cumsum(0) - 1
        tied, constrained = [], [prepared.constrained[:0]]
        for own, step in prepared.tied:
            blocks = chosen[own.owner]
            if bool(blocks.any()):
                tied.append((own, own.restrict(step, chosen)))
                constrained.append(place[own.index[blocks]].reshape(-1))
        weights = chosen.nonzero().squeeze(1).tolist()
        return Shrinkage(weights, prepared.entries[inside], torch.cat(constrained), tied)

    def unsettled(self, strengths: Tensor) -> Tensor:
        """Weights, ``[maps]``, that have to be shrunk even after an elementwise step along projected gradients.

        The others are held or free: their gradients, projected on what is allowed, leave them there. That holds where
        the entries that are tied are equal up to their sign, as the diagonal of a multiple of the identity; not where
        they sum to a constant.
        """
        acts = (self.codim > 0) & (strengths > 0)
        open_ = (acts & strengths.isfinite()).any(1)
        for tied in self.tied:
            owners = torch.tensor(tied.owners, device=open_.device)
            kept = [tied.keeps_elementwise(held) for held in strengths.isinf()[owners]]
            open_[owners] |= ~torch.tensor(kept, device=open_.device)
        return open_

    @torch.no_grad()
    def prox(self, prepared: Shrinkage) -> None:
        r"""Replace each weight by :math:`(I + \eta \sum_k \lambda_k (I - P_k))^{-1} W`, exactly."""
        if self.kinds and prepared.weights:
            views = self._views()
            views = [views[number] for number in prepared.weights]
            flat = self.shrink(torch.cat(views), prepared)
            torch._foreach_copy_(views, flat.split([len(view) for view in views]))

    @staticmethod
    @torch.no_grad()
    def shrink(flat: Tensor, prepared: Shrinkage, *, centred: bool = True) -> Tensor:
        """The step on the joint vector of the weights, in place; not ``centred`` on the affine part for gradients."""
        with torch.autocast(flat.device.type, enabled=False):
            if not prepared.tied:
                return flat.mul_(prepared.entries)
            sizes = [step.keep.shape[0] * tied.offset.shape[0] for tied, step in prepared.tied]
            rows = flat.index_select(0, prepared.constrained).split(sizes)
            added = [
                tied.added(own.view(-1, tied.offset.shape[0]), step, centred=centred).view(-1)
                for (tied, step), own in zip(prepared.tied, rows, strict=True)
            ]
            return flat.mul_(prepared.entries).index_add_(0, prepared.constrained, torch.cat(added))


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
