"""The subspaces of weights that get a strength of their own.

Each candidate symmetry k allows a subspace of weights with projector :math:`P_k` and forbids its complement
:math:`C_k = I - P_k`. Without a split every symmetry is one *term*, its complement. With a split the complements are
cut along their lattice: where they commute, a term holds the coordinates that the same set of symmetries forbids, as
"what rotations about every axis forbid, but rotations about z allow". So each increment is weighed on its own, and a
symmetry that is false does not shrink what a true one needs. Complements that do not commute, as those of rotations
about two axes, have no such cut: what is left of each after all common eigenvectors are taken out joins the term of
its symmetry alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from geoeq.intertwiners import PairSpace

__all__ = ["CoordinateFrame", "Term", "coordinate_frame"]

COMMUTE = 1e-10
SMALL = 1e-8
Term: TypeAlias = frozenset[int]


class CoordinateFrame(NamedTuple):
    """Unit vectors along what is forbidden.

    Attributes:
        frame: ``[D, J]``, orthonormal within each term.
        columns: the terms that each of the J coordinates belongs to.
    """

    frame: Tensor
    columns: list[frozenset[Term]]

    @property
    def terms(self) -> list[Term]:
        """All terms that occur, in a fixed order."""
        return sorted({term for column in self.columns for term in column}, key=sorted)


def coordinate_frame(spaces: Sequence[PairSpace], *, split: bool) -> CoordinateFrame:
    """Coordinates along what the symmetries of ``spaces`` forbid in one block, sorted into terms."""
    complements = torch.stack([space.complement() for space in spaces])  # [K, D, D]
    common, rest = _commuting_part(complements)
    inside = common.T @ complements @ common
    frame = common @ _common_eigenvectors(inside)
    patterns = torch.einsum("dj,kde,ej->jk", frame, complements, frame).round().long()
    frames, columns = [frame], [_terms_of(pattern, split=split) for pattern in patterns.tolist()]
    for k, complement in enumerate(complements):
        own = rest @ _image(rest.T @ complement @ rest)
        frames.append(own)
        columns += [frozenset({frozenset({k})})] * own.shape[1]
    used = [bool(column) for column in columns]  # coordinates that nobody forbids are left alone
    return CoordinateFrame(torch.cat(frames, 1)[:, used], [column for column in columns if column])


def _terms_of(pattern: list[int], *, split: bool) -> frozenset[Term]:
    members = [k for k, forbids in enumerate(pattern) if forbids]
    if split:
        return frozenset({frozenset(members)} if members else ())
    return frozenset(frozenset({k}) for k in members)


def _commuting_part(complements: Tensor) -> tuple[Tensor, Tensor]:
    """Bases ``[D, .]`` of the largest invariant subspace on which all ``complements`` commute, and of the rest."""
    size = complements.shape[-1]
    eye = torch.eye(size, dtype=torch.float64)
    products = torch.einsum("kde,lef->kldf", complements, complements)
    commutators = products - products.transpose(0, 1)
    if commutators.abs().max() < COMMUTE:
        # single entries stay single entries, so that the step needs no change of frame
        return eye, eye[:, :0]
    gram = torch.einsum("klde,klfe->df", commutators, commutators)
    while True:
        reached = _image(gram)
        moved = complements @ reached  # [K, D, r]
        gram = reached @ reached.T + torch.einsum("kdr,ker->de", moved, moved)
        if _image(gram).shape[1] == reached.shape[1]:
            return _image(eye - reached @ reached.T), reached


def _common_eigenvectors(complements: Tensor) -> Tensor:
    """Orthonormal vectors that diagonalise all of the commuting ``complements [K, D, D]``.

    They mix only what some complement ties together, so that single entries stay single entries.
    """
    size = complements.shape[-1]
    vectors = torch.eye(size, dtype=torch.float64)
    if not complements.numel():
        return vectors
    weights = 1.0 + torch.arange(len(complements), dtype=torch.float64).sqrt() * 0.6180339887
    total = (weights[:, None, None] * complements).sum(0)
    ties = (complements.abs() > COMMUTE).any(0).numpy()
    labels = torch.from_numpy(connected_components(ties, directed=False)[1])
    for label in labels.bincount().gt(1).nonzero().squeeze(1):
        own = (labels == label).nonzero().squeeze(1)
        vectors[own.unsqueeze(1), own] = torch.linalg.eigh(total[own.unsqueeze(1), own]).eigenvectors
    return vectors


def _image(matrix: Tensor) -> Tensor:
    """Orthonormal basis of the range of a positive semi-definite matrix."""
    if not matrix.numel():
        return matrix
    values, vectors = torch.linalg.eigh(matrix)
    return vectors[:, values > SMALL * values[-1]] if values[-1] > COMMUTE else vectors[:, :0]
