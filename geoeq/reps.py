"""How a feature answers to a symmetry: representations, declared once and shared by all candidate groups.

A representation is a direct sum of *copies*. A copy is the smallest block whose answer is known for every
group: an irrep of O(3), a tensor power of the defining space, a stack of absolute positions, a quantity that
joins two parts, or one irrep at each of n nodes. A linear map between two representations is then a grid of
blocks, one per pair of copies, and everything about symmetry is decided pair by pair
(:mod:`geoeq.intertwiners`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import NamedTuple, TypeAlias

import torch
from e3nn.o3 import Irreps
from e3nn.o3._wigner import change_basis_real_to_complex
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

__all__ = [
    "Irreps",
    "TensorRep",
    "Positions",
    "Crossing",
    "Nodes",
    "Sum",
    "Rep",
    "TypedMap",
    "as_rep",
    "rep_dim",
    "rep_key",
    "segments",
]


@dataclass(frozen=True)
class TensorRep:
    r"""Tensor powers :math:`\bigoplus_r m_r\, V^{\otimes r}` of the space V that a matrix group acts on.

    Args:
        ranks: multiplicity of each tensor rank, ``{rank: multiplicity}``.
        d: dimension of V. None takes the size of the matrices of the group it is used with.

    Source: arXiv 2104.09459, section 3 (rank ``r`` is the type T(r, 0) there).

    >>> TensorRep({0: 5, 1: 5}, d=3).dim
    20
    """

    ranks: Mapping[int, int]
    d: int | None = None

    def __post_init__(self) -> None:
        for rank, multiplicity in self.ranks.items():
            if rank < 0 or multiplicity < 0:
                raise ValueError(f"ranks must map ranks >= 0 to multiplicities >= 0, got {dict(self.ranks)}")

    def __hash__(self) -> int:
        return hash((tuple(self.ranks.items()), self.d))

    @property
    def dim(self) -> int:
        """Number of components."""
        if self.d is None:
            raise ValueError("dim of a TensorRep needs its space: pass d, for example TensorRep({1: 4}, d=3)")
        return sum(m * self.d**rank for rank, m in self.ranks.items())


@dataclass(frozen=True)
class Positions:
    """``mul`` absolute positions in space, ``[mul * 3]``: vectors that also move under translations."""

    mul: int

    @property
    def dim(self) -> int:
        """Number of components."""
        return 3 * self.mul


@dataclass(frozen=True)
class Crossing:
    """A quantity between two different parts: answers like ``rep``, but no piecewise group preserves it."""

    rep: Rep

    def __init__(self, rep: Rep | str) -> None:
        object.__setattr__(self, "rep", as_rep(rep))

    @property
    def dim(self) -> int:
        """Number of components."""
        return rep_dim(self.rep)


@dataclass(frozen=True)
class Nodes:
    """Features ``irreps`` at each of ``n`` numbered nodes, ``[irreps.dim * n]``, the node index running fastest."""

    n: int
    irreps: Irreps

    def __init__(self, n: int, irreps: Irreps | str) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1 node, got {n}")
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "irreps", Irreps(irreps))

    @property
    def dim(self) -> int:
        """Number of components."""
        return self.n * self.irreps.dim


@dataclass(frozen=True)
class Sum:
    """Direct sum of representations, components one after the other.

    >>> Sum("8x0e + 4x1o", Positions(1)).dim
    23
    """

    terms: tuple[Rep, ...]

    def __init__(self, *terms: Rep | str) -> None:
        object.__setattr__(self, "terms", tuple(as_rep(term) for term in terms))

    @property
    def dim(self) -> int:
        """Number of components."""
        return sum(rep_dim(term) for term in self.terms)


Rep: TypeAlias = Irreps | TensorRep | Positions | Crossing | Nodes | Sum


def as_rep(rep: Rep | str) -> Rep:
    """Parse ``rep``: a string is read as irreps, ``"8x0e + 4x1o"``."""
    if isinstance(rep, str):
        return Irreps(rep)
    if not isinstance(rep, Irreps | TensorRep | Positions | Crossing | Nodes | Sum):
        raise ValueError(f"rep must be irreps or one of geoeq.reps, got {type(rep).__name__}")
    return rep


def rep_dim(rep: Rep) -> int:
    """Number of components of ``rep``."""
    return int(rep.dim)


def rep_key(rep: Rep) -> str:
    """A text that two representations share exactly when they are the same."""
    return str(rep) if isinstance(rep, Irreps) else repr(rep)


class TypedMap(NamedTuple):
    """A parameter that is a linear map between two representations: what soft symmetry can be attached to.

    Attributes:
        name: how to call it in tables.
        parameter: the weight ``[dim_out, dim_in]``, or a bias ``[dim_out]``, whose ``rep_in`` is one scalar.
        rep_in: how the input answers.
        rep_out: how the output answers.
    """

    name: str
    parameter: nn.Parameter
    rep_in: Rep
    rep_out: Rep


# Copies


@dataclass(frozen=True)
class IrrepCopy:
    """One irrep of O(3), degree ``l`` and parity ``p``."""

    l: int  # noqa: E741  the field's letter
    p: int

    @property
    def dim(self) -> int:
        return 2 * self.l + 1


@dataclass(frozen=True)
class TensorCopy:
    """One tensor of rank ``rank`` over a space of dimension ``d``."""

    rank: int
    d: int

    @property
    def dim(self) -> int:
        return self.d**self.rank


@dataclass(frozen=True)
class PositionCopy:
    """A stack of ``mul`` positions: one copy, because translations tie its members together."""

    mul: int

    @property
    def dim(self) -> int:
        return 3 * self.mul


@dataclass(frozen=True)
class CrossingCopy:
    """``inner`` between two parts."""

    inner: IrrepCopy | TensorCopy | PositionCopy

    @property
    def dim(self) -> int:
        return self.inner.dim


@dataclass(frozen=True)
class NodeCopy:
    """``inner`` at each of ``n`` nodes, components ``[inner.dim, n]``."""

    inner: IrrepCopy
    n: int

    @property
    def dim(self) -> int:
        return self.inner.dim * self.n


Copy: TypeAlias = IrrepCopy | TensorCopy | PositionCopy | CrossingCopy | NodeCopy


@dataclass(frozen=True)
class Segment:
    """``mul`` equal copies that start at component ``start``, laid out ``[mul, copy.dim]``."""

    copy: Copy
    mul: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.mul * self.copy.dim


def segments(rep: Rep, d: int = 3, start: int = 0) -> tuple[Segment, ...]:
    """The copies of ``rep`` in order of their components; neighbours of one kind are merged.

    Args:
        rep: a representation.
        d: dimension of the space of a :class:`TensorRep` that does not name its own.
        start: number of the first component.
    """
    found: list[Segment] = []
    for copy, mul in _copies(as_rep(rep), d):
        if mul == 0 or copy.dim == 0:
            continue
        if found and found[-1].copy == copy:
            found[-1] = Segment(copy, found[-1].mul + mul, found[-1].start)
        else:
            found.append(Segment(copy, mul, found[-1].stop if found else start))
    return tuple(found)


def _copies(rep: Rep, d: int) -> list[tuple[Copy, int]]:
    if isinstance(rep, Irreps):
        return [(IrrepCopy(ir.l, ir.p), mul) for mul, ir in rep]
    if isinstance(rep, TensorRep):
        return [(TensorCopy(rank, rep.d or d), mul) for rank, mul in rep.ranks.items()]
    if isinstance(rep, Positions):
        return [(PositionCopy(rep.mul), 1)]
    if isinstance(rep, Crossing):
        return [(CrossingCopy(copy), mul) for copy, mul in _copies(rep.rep, d)]  # type: ignore[arg-type]
    if isinstance(rep, Nodes):
        return [(NodeCopy(IrrepCopy(ir.l, ir.p), rep.n), mul) for mul, ir in rep.irreps]
    return [pair for term in rep.terms for pair in _copies(term, d)]


# Matrices: the only place that builds them


def kron(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of two matrices of any strides (``torch.kron`` wants views that it cannot always have)."""
    shape = (a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(shape)


@lru_cache(maxsize=64)
def irrep_generators(l: int) -> Tensor:  # noqa: E741
    """Rotations about x, y, z on the irrep of degree ``l`` in e3nn's real basis, ``[3, 2l+1, 2l+1]``, float64.

    e3nn's own generators are accurate to single precision only.
    """
    m = torch.arange(-l, l + 1, dtype=torch.float64)
    ladder = torch.diag(((l - m[:-1]) * (l + m[:-1] + 1)).sqrt(), diagonal=-1)  # raising operator
    raising, lowering = ladder.to(torch.complex128), ladder.T.to(torch.complex128)
    complex_basis = torch.stack([(lowering - raising) / 2, 1j * torch.diag(m), 0.5j * (raising + lowering)])
    change = change_basis_real_to_complex(l, dtype=torch.float64)
    return (change.conj().T @ complex_basis @ change).real.contiguous()


def irrep_matrix(copy: IrrepCopy, rotation: Tensor) -> Tensor:
    """Matrix ``[2l+1, 2l+1]`` of an orthogonal ``rotation [3, 3]`` on an irrep, in e3nn's basis."""
    determinant = torch.det(rotation).sign()
    axis_angle = Rotation.from_matrix((determinant * rotation).double().cpu().numpy()).as_rotvec()
    turned = torch.matrix_exp(torch.einsum("a,aij->ij", torch.as_tensor(axis_angle), irrep_generators(copy.l)))
    return (turned * determinant.cpu() if copy.p == -1 else turned).to(rotation)


def irrep_algebra(copy: IrrepCopy, generator: Tensor) -> Tensor:
    """Matrix ``[2l+1, 2l+1]`` of an antisymmetric ``generator [3, 3]`` on an irrep."""
    axis = torch.stack([generator[2, 1], generator[0, 2], generator[1, 0]])
    return torch.einsum("a,aij->ij", axis, irrep_generators(copy.l).to(generator))


def tensor_matrix(copy: TensorCopy, element: Tensor) -> Tensor:
    """Matrix of ``element [d, d]`` on tensors of rank r: the r-fold Kronecker power."""
    _check_space(copy, element)
    return reduce(kron, [element] * copy.rank, element.new_ones(1, 1))


def tensor_algebra(copy: TensorCopy, generator: Tensor) -> Tensor:
    """Matrix of ``generator [d, d]`` on tensors of rank r: the sum over slots of I x .. x A x .. x I."""
    _check_space(copy, generator)
    total = generator.new_zeros(copy.dim, copy.dim)
    for slot in range(copy.rank):
        left, right = copy.d**slot, copy.d ** (copy.rank - slot - 1)
        total += kron(kron(torch.eye(left).to(generator), generator), torch.eye(right).to(generator))
    return total


def _check_space(copy: TensorCopy, matrix: Tensor) -> None:
    if matrix.shape != (copy.d, copy.d):
        raise ValueError(
            f"TensorRep over a space of dimension {copy.d} cannot take a {tuple(matrix.shape)} group element"
        )
