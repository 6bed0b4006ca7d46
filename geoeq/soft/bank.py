"""All attached weights as one vector, and its coordinates along what each symmetry forbids.

Weights are cut into blocks, one per pair of copies (:mod:`geoeq.intertwiners`), and blocks of one kind are handled
together, whatever weight they come from. For each kind the complements of all candidate symmetries are
diagonalised at once, so that residual, level and proximal step of every weight and every symmetry cost a handful
of matrix products in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoeq.groups import Group
from geoeq.intertwiners import Block, PairSpace, pair_space, to_rows
from geoeq.reps import Copy, Segment, TypedMap, segments

__all__ = ["BlockKind", "WeightBank"]

COMMUTE = 1e-10
PROJECT = 1e30


class BlockKind(nn.Module):
    """The blocks between one pair of copies, from all weights.

    Attributes:
        index: where each block's entries lie in the joint vector, ``[blocks, D]``.
        owner: number of the weight that each block belongs to, ``[blocks]``.
        frame: orthonormal coordinates ``[D, D]`` in which every symmetry's complement is diagonal.
        forbidden: 1 where a symmetry forbids a coordinate, ``[symmetries, D]``.
        offset: fixed part of the allowed blocks, ``[D]``.
    """

    index: Tensor
    owner: Tensor
    frame: Tensor
    forbidden: Tensor
    offset: Tensor

    def __init__(self, spaces: Sequence[PairSpace], index: Tensor, owner: Tensor) -> None:
        super().__init__()
        complements = torch.stack([space.complement() for space in spaces])  # [K, D, D]
        # in coordinates that are diagonal as they stand, the proximal step needs no change of frame
        self.aligned = bool(
            (complements - torch.diag_embed(complements.diagonal(dim1=1, dim2=2))).abs().max() < COMMUTE
        )
        frame = torch.eye(spaces[0].dim, dtype=torch.float64) if self.aligned else common_frame(complements)
        forbidden = torch.einsum("dj,kde,ej->kj", frame, complements, frame).round()
        offset = next((space.offset for space in spaces if space.offset is not None), torch.zeros(spaces[0].dim))
        self.affine = bool(offset.any())
        self.aligned = self.aligned and not self.affine
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("owner", owner, persistent=False)
        used = forbidden.amax(0) > 0  # coordinates that nobody forbids are left alone
        for name, tensor in (
            ("frame", frame[:, used]),
            ("forbidden", forbidden[:, used]),
            ("offset", offset),
        ):
            self.register_buffer(name, tensor.float(), persistent=False)
        self.masters = (frame[:, used], forbidden[:, used], offset)

    def coordinates(self, flat: Tensor, *, centred: bool = True) -> Tensor:
        """Coordinates ``[blocks, J]`` of the joint vector ``flat`` along what is forbidden."""
        return self.within(flat[self.index], centred=centred)

    def within(self, rows: Tensor, *, centred: bool = True) -> Tensor:
        """Coordinates ``[blocks, J]`` of ``rows [blocks, D]`` along what is forbidden."""
        return (rows - self.offset if centred and self.affine else rows) @ self.frame

    def shrunk(self, rows: Tensor, scaled: Tensor) -> Tensor:
        """``rows [blocks, D]`` after the proximal step of strength times step size ``scaled [maps, symmetries]``."""
        total = scaled @ self.forbidden  # [maps, J]
        if self.aligned:
            return rows * (1.0 / (1.0 + total @ self.frame.T)).index_select(0, self.owner)
        shrink = (total / (1.0 + total)).index_select(0, self.owner)
        return rows - (self.within(rows) * shrink) @ self.frame.T

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        # Going through float32 and back must not cost the constants their precision.
        super()._apply(fn, recurse)
        for name, master in zip(("frame", "forbidden", "offset"), self.masters, strict=True):
            like = getattr(self, name)
            setattr(self, name, master.to(like.dtype).to(like.device))
        return self


def common_frame(complements: Tensor) -> Tensor:
    """Orthonormal vectors ``[D, D]`` that diagonalise all ``complements [K, D, D]`` at once.

    Raises:
        ValueError: if two of them do not commute, so that no such vectors exist.
    """
    products = torch.einsum("kde,lef->kldf", complements, complements)
    if (products - products.transpose(0, 1)).abs().max() > COMMUTE:
        raise ValueError(
            "symmetries must have commuting projectors to be softened together (as nested groups, translations, "
            "permutations and parts have); attach the others in a second SoftEquivariance"
        )
    weights = 1.0 + torch.arange(len(complements), dtype=torch.float64).sqrt() * 0.6180339887
    return torch.linalg.eigh((weights[:, None, None] * complements).sum(0)).eigenvectors


class WeightBank(nn.Module):
    """Residuals and proximal steps of many typed weights for many symmetries at once.

    Args:
        maps: the attached weights.
        groups: the candidate symmetries.

    Attributes:
        codim: dimension of what each symmetry forbids in each weight, ``[maps, symmetries]``, float64.
    """

    codim: Tensor
    constrained: Tensor

    def __init__(self, maps: Sequence[TypedMap], groups: Sequence[Group]) -> None:
        super().__init__()
        self.parameters_ = [m.parameter for m in maps]
        self.sizes = [p.numel() for p in self.parameters_]
        found: dict[tuple[Copy, Copy], list[tuple[int, Tensor]]] = {}
        start = 0
        for number, typed in enumerate(maps):
            for pair, index in _blocks_of(typed, groups[0].n):
                found.setdefault(pair, []).append((number, index + start))
            start += typed.parameter.numel()
        self.kinds: list[BlockKind] = []
        codim = torch.zeros(len(maps), len(groups), dtype=torch.float64)
        for (copy_out, copy_in), entries in found.items():
            spaces = [pair_space(group, copy_out, copy_in) for group in groups]
            if all(space.rank == space.dim for space in spaces):
                continue
            index = torch.cat([rows for _, rows in entries])
            owner = torch.cat([torch.full((len(rows),), number) for number, rows in entries])
            kind = BlockKind(spaces, index, owner)
            self.add_module(f"kind_{len(self.kinds)}", kind)
            self.kinds.append(kind)
            codim.index_add_(0, owner, kind.forbidden.sum(1).double().expand(len(owner), -1))
        everything = [kind.index.reshape(-1) for kind in self.kinds]
        constrained = torch.cat(everything) if everything else torch.zeros(0, dtype=torch.long)
        self.register_buffer("constrained", constrained, persistent=False)
        self.register_buffer("codim", codim, persistent=False)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.codim = self.codim.double()
        return self

    def flat(self, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """The attached weights, or ``tensors`` of their shapes, as one vector."""
        tensors = self.parameters_ if tensors is None else tensors
        return torch.cat([t.reshape(-1) for t in tensors])

    def squared_residuals(self, flat: Tensor) -> Tensor:
        r"""What each symmetry forbids, :math:`\|W - P_k W\|^2`, ``[maps, symmetries]``; differentiable."""
        total = torch.zeros_like(self.codim, dtype=flat.dtype)
        for kind in self.kinds:
            squares = kind.coordinates(flat).square() @ kind.forbidden.T
            total = total.index_add(0, kind.owner, squares)
        return total

    @torch.no_grad()
    def prox(self, strengths: Tensor, steps: Tensor) -> None:
        r"""Replace each weight by :math:`(I + \eta \sum_k \lambda_k (I - P_k))^{-1} W`, exactly.

        Args:
            strengths: :math:`\lambda`, ``[maps, symmetries]``; infinity projects.
            steps: :math:`\eta` of each weight, ``[maps]``.
        """
        flat = self.flat()
        # a finite stand-in for infinity keeps 0 * infinity out of the product below
        scaled = (strengths * steps.unsqueeze(1)).clamp(max=PROJECT).nan_to_num(0.0).to(flat)
        entries = flat.index_select(0, self.constrained).split([kind.index.numel() for kind in self.kinds])
        shrunk = [
            kind.shrunk(values.view_as(kind.index), scaled).reshape(-1)
            for kind, values in zip(self.kinds, entries, strict=True)
        ]
        if shrunk:
            flat.scatter_(0, self.constrained, torch.cat(shrunk))
            pieces = [piece.view_as(p) for piece, p in zip(flat.split(self.sizes), self.parameters_, strict=True)]
            torch._foreach_copy_([p.data for p in self.parameters_], pieces)


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
