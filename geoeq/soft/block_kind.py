"""The blocks between one pair of copies, from all weights: coordinates along what is forbidden, proximal step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["BlockKind", "TiedEntries", "TiedStep"]

ALIGNED = 1e-10
INFINITE_OBLIQUE = 1e10  # an eigenproblem cannot hold more beside strengths of order one
HARD_OBLIQUE = 1e6  # beside an infinite strength, eigenvalues above are its own
REMEMBERED = 2  # eigenproblems: those of the weights and of their gradients


class _Constants(nn.Module):
    """Buffers cast from float64 masters: going through float32 and back must not cost them their precision."""

    def __init__(self, **masters: Tensor) -> None:
        super().__init__()
        self.masters = masters
        for name, tensor in masters.items():
            self.register_buffer(name, tensor.float(), persistent=False)

    def cast(self, name: str, like: Tensor) -> Tensor:
        """A constant in the dtype of ``like``."""
        own = getattr(self, name)
        return own if own.dtype == like.dtype else self.masters[name].to(like)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        for name, master in self.masters.items():
            like = getattr(self, name)
            setattr(self, name, master.to(like.dtype).to(like.device))
        return self


class BlockKind:
    """The blocks between one pair of copies, from all weights.

    Args:
        frame: unit vectors along what is forbidden, ``[D, J]``; orthonormal within each term.
        forbidden: 1 where a term forbids a coordinate, ``[terms, J]``.
        offset: fixed part of the allowed blocks, ``[D]``.
        index: where each block's entries lie in the joint vector, ``[blocks, D]``.
        owner: number of the weight that each block belongs to, ``[blocks]``, ascending.

    Attributes:
        forbidden_entries: for entries that are coordinates by themselves, the terms that forbid them as 0 and 1,
            ``[D, terms]``; 0 for all others.
        tied: the other entries, or None.
    """

    def __init__(self, frame: Tensor, forbidden: Tensor, offset: Tensor, index: Tensor, owner: Tensor) -> None:
        self.frame, self.forbidden, self.offset, self.index, self.owner = frame, forbidden, offset, index, owner
        single = (frame.abs() - 1).abs() < ALIGNED  # [D, J]
        inside = frame.abs() >= ALIGNED
        tied = (inside & ~single).any(1) | (inside.any(1) & (offset != 0))
        self.forbidden_entries = (single.double() @ forbidden.T) * (~tied).unsqueeze(1)
        columns = inside[tied].any(0)
        self.tied: TiedEntries | None = None
        if bool(columns.any()):
            self.tied = TiedEntries(frame[tied][:, columns], forbidden[:, columns], offset[tied], index[:, tied], owner)


class TiedStep(NamedTuple):
    """A proximal step of tied entries made ready.

    Attributes:
        keep: factor of each entry, ``[blocks, 1]``.
        moves: matrix that makes what is added, of each weight, ``[owners, R, R]``.
        runs: numbers of consecutive blocks with the same matrix, and the matrix.
    """

    keep: Tensor
    moves: Tensor
    runs: list[tuple[int, Tensor]]

    @classmethod
    def of(cls, keep: Tensor, moves: Tensor, counts: list[int]) -> TiedStep:
        """The step with these ``moves`` of weights that have ``counts`` blocks each."""
        different, run = torch.unique_consecutive(moves.flatten(1), dim=0, return_inverse=True)
        lengths = run.bincount(torch.tensor(counts, device=run.device)).long().tolist()
        return cls(keep, moves, list(zip(lengths, different.view(-1, *moves.shape[1:]), strict=True)))


class TiedEntries(_Constants):
    r"""Entries of blocks that share coordinates, ``[blocks, R]``, and their proximal step.

    Where coordinates are orthonormal, with :math:`Q_t` the projector on those that one set of terms forbids and
    :math:`s_t` the share that the step takes of them, :math:`W - \sum_t s_t Q_t W` is computed as
    :math:`(1 - s_0) W + \sum_{t \ne 0} (s_0 - s_t) Q_t W`, where 0 is the largest of these spaces and what is allowed
    is one of them. That takes the fewest columns, and what is held is formed without a difference.

    Args:
        frame, forbidden, offset, index, owner: as of :class:`BlockKind`, of these entries alone.
    """

    index: Tensor
    owner: Tensor
    frame: Tensor
    forbidden: Tensor
    offset: Tensor

    def __init__(self, frame: Tensor, forbidden: Tensor, offset: Tensor, index: Tensor, owner: Tensor) -> None:
        overlap = frame.T @ frame - torch.eye(frame.shape[1], dtype=frame.dtype)
        self.orthonormal = bool(overlap.abs().max() < ALIGNED)
        patterns, column = torch.unique(forbidden.T, dim=0, return_inverse=True)  # [P, terms], [J]
        allowed = _complement(frame) if self.orthonormal else frame[:, :0]
        patterns = torch.cat([patterns, torch.zeros_like(patterns[:1])])
        column = torch.cat([column, torch.full((allowed.shape[1],), len(patterns) - 1)])
        base = int(column.bincount(minlength=len(patterns)).argmax())
        vectors = torch.cat([frame, allowed], 1)[:, column != base]
        super().__init__(frame=frame, forbidden=forbidden, offset=offset)
        self._vectors, self._patterns = vectors, patterns
        self.base, self.column = base, column[column != base]
        self.affine = bool(offset.any())
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("owner", owner, persistent=False)
        self.owners, self.counts = (t.tolist() for t in owner.unique_consecutive(return_counts=True))
        self._spectra: list[tuple[Tensor, Tensor, Tensor]] = []
        self._kept: dict[tuple[bool, ...], bool] = {}

    def coordinates(self, flat: Tensor, *, centred: bool = True) -> Tensor:
        """Coordinates ``[blocks, J]`` of the joint vector ``flat`` along what is forbidden."""
        rows = flat[self.index]
        rows = rows - self.cast("offset", flat) if centred and self.affine else rows
        return rows @ self.cast("frame", flat)

    def prepare(self, strengths: Tensor, steps: Tensor) -> TiedStep:
        """The step with ``strengths [maps, terms]`` and ``steps [maps]``, float64."""
        if not self.orthonormal:
            values, vectors = self._spectrum(strengths.clamp(max=INFINITE_OBLIQUE))
            total = values * steps[self.owners].unsqueeze(1)  # [owners, R]
            infinite = (strengths >= INFINITE_OBLIQUE).any(1)[self.owners].unsqueeze(1)
            share = torch.where(infinite & (values > HARD_OBLIQUE), 1.0, total / (1.0 + total))
            keep, added = torch.ones_like(total[:, :1]), -share
        else:
            patterns, vectors = self._patterns.to(strengths), self._vectors.to(strengths)
            total = (strengths * steps.unsqueeze(1))[self.owners] @ patterns.T  # [owners, P]
            share = total / (1.0 + total)
            own = share[:, self.base : self.base + 1]
            keep, added = 1.0 - own, own - share[:, self.column]
        moves = (vectors * added.unsqueeze(1)) @ vectors.mT
        blocks = torch.repeat_interleave(keep, torch.tensor(self.counts, device=keep.device), 0)
        return TiedStep.of(blocks.to(self.frame), moves.to(self.frame), self.counts)

    def restrict(self, step: TiedStep, chosen: Tensor) -> TiedStep:
        """The same step of the blocks of weights that are ``chosen [maps]`` alone."""
        owners = chosen[self.owners]
        counts = [count for count, inside in zip(self.counts, owners.tolist(), strict=True) if inside]
        return TiedStep.of(step.keep[chosen[self.owner]], step.moves[owners], counts)

    def added(self, rows: Tensor, step: TiedStep, *, centred: bool) -> Tensor:
        """What is added to ``step.keep * rows [blocks, R]``; ``centred`` on the offset, unless rows are gradients."""
        inner = rows - self.offset if centred and self.affine else rows
        if len(step.runs) == 1:
            moved = inner @ step.runs[0][1]
        else:
            parts = zip(inner.split([count for count, _ in step.runs]), step.runs, strict=True)
            moved = torch.cat([part @ move for part, (_, move) in parts])
        return moved if inner is rows else moved + (1.0 - step.keep) * self.offset

    def keeps_elementwise(self, held: Tensor) -> bool:
        """Whether elementwise odd functions map what the terms ``held [terms]`` leave into itself."""
        key = tuple(held.tolist())
        if key not in self._kept:
            frame, forbidden = self.masters["frame"], self.masters["forbidden"]
            inside = frame[:, forbidden[held.cpu()].any(0)]
            some = (torch.arange(len(frame), dtype=frame.dtype) + 0.5).sqrt()  # no symmetry of its own
            left = some - inside @ (inside.T @ some)
            leak = (inside.T @ left**3).abs().max() if inside.shape[1] else 0.0
            self._kept[key] = self.orthonormal and not self.affine and bool(leak < ALIGNED)
        return self._kept[key]

    def _spectrum(self, strengths: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues and vectors of the summed terms where they are oblique, ``[owners, R]``, ``[owners, R, R]``."""
        for known, values, vectors in self._spectra:
            if torch.equal(known, strengths):
                return values, vectors
        frame = self.masters["frame"].to(strengths)
        total = strengths[self.owners] @ self.masters["forbidden"].to(strengths)  # [owners, J]
        values, vectors = torch.linalg.eigh(torch.einsum("dj,oj,ej->ode", frame, total, frame))
        self._spectra = [(strengths.clone(), values.clamp(min=0.0), vectors), *self._spectra][:REMEMBERED]
        return self._spectra[0][1:]

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self._spectra = []
        return self


def _complement(frame: Tensor) -> Tensor:
    """Orthonormal basis of what the orthonormal columns of ``frame`` leave."""
    values, vectors = torch.linalg.eigh(frame @ frame.T)
    return vectors[:, values < 0.5]
