"""What a feature declares: representations, and sums, duals and products of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from e3nn.o3 import Irreps
from torch import nn

__all__ = [
    "Irreps",
    "TensorRep",
    "Positions",
    "LogSizes",
    "Crossing",
    "Nodes",
    "Sum",
    "Rep",
    "TypedMap",
    "as_rep",
    "dual",
    "rep_dim",
    "rep_key",
    "tensor_product",
]


@dataclass(frozen=True, eq=False)
class TensorRep:
    r"""Tensors :math:`\bigoplus m_{pq}\, V^{\otimes p} \otimes (V^*)^{\otimes q}` over the space V of a matrix group.

    Vectors of V answer with g, those of the dual V* with :math:`g^{-T}`; for orthogonal groups the two are the same.

    Args:
        ranks: multiplicity of each type, ``{(p, q): multiplicity}``; ``p`` alone stands for ``(p, 0)``.
        d: dimension of V. None takes the size of the matrices of the group it is used with.

    Shapes: the p indices of V come first, then the q of V*.

    Source: arXiv 2104.09459, section 3.

    >>> TensorRep({0: 5, 1: 5}, d=3).dim
    20
    >>> TensorRep({(1, 1): 2}, d=3).dim
    18
    """

    ranks: Mapping[int | tuple[int, int], int]
    d: int | None = None

    def __post_init__(self) -> None:
        types = {rank: _type_of(rank) for rank in self.ranks}
        if any(min(pair) < 0 for pair in types.values()) or any(m < 0 for m in self.ranks.values()):
            raise ValueError(f"ranks must map ranks >= 0 to multiplicities >= 0, got {dict(self.ranks)}")
        plain = {p if q == 0 else (p, q): self.ranks[rank] for rank, (p, q) in types.items()}
        if len(plain) < len(types):
            raise ValueError(f"ranks must name each type once, got {dict(self.ranks)}")
        object.__setattr__(self, "ranks", plain)

    def __eq__(self, other: object) -> bool:
        # summands in another order are another layout
        return isinstance(other, TensorRep) and (self.types, self.d) == (other.types, other.d)

    def __hash__(self) -> int:
        return hash((tuple(self.types), self.d))

    @property
    def types(self) -> list[tuple[int, int, int]]:
        """Numbers p of factors V and q of factors V*, and the multiplicity, of each summand."""
        return [(*_type_of(rank), multiplicity) for rank, multiplicity in self.ranks.items()]

    @property
    def dim(self) -> int:
        """Number of components."""
        if self.d is None:
            raise ValueError("dim of a TensorRep needs its space: pass d, for example TensorRep({1: 4}, d=3)")
        return sum(m * self.d ** (p + q) for p, q, m in self.types)


def _type_of(rank: int | tuple[int, int]) -> tuple[int, int]:
    p, q = (rank, 0) if isinstance(rank, int) else rank
    return p, q


@dataclass(frozen=True)
class Positions:
    """``mul`` absolute positions in space, ``[mul * 3]``: vectors that also move under translations."""

    mul: int

    @property
    def dim(self) -> int:
        """Number of components."""
        return 3 * self.mul


@dataclass(frozen=True)
class LogSizes:
    """``mul`` logarithms of lengths, ``[mul]``: scalars that a scaling of space by s shifts by log s."""

    mul: int

    @property
    def dim(self) -> int:
        """Number of components."""
        return self.mul


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
    """Features ``irreps`` at each of ``n`` numbered nodes, ``[irreps.dim * n]``, the node index running fastest.

    With ``order`` 2 they stand at each ordered pair of nodes, ``[irreps.dim * n * n]``, and so on.
    """

    n: int
    irreps: Irreps
    order: int

    def __init__(self, n: int, irreps: Irreps | str, order: int = 1) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1 node, got {n}")
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "irreps", Irreps(irreps))

    @property
    def dim(self) -> int:
        """Number of components."""
        return self.n**self.order * self.irreps.dim


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


Rep: TypeAlias = Irreps | TensorRep | Positions | LogSizes | Crossing | Nodes | Sum


def as_rep(rep: Rep | str) -> Rep:
    """Parse ``rep``: a string is read as irreps, ``"8x0e + 4x1o"``."""
    if isinstance(rep, str):
        return Irreps(rep)
    if not isinstance(rep, Irreps | TensorRep | Positions | LogSizes | Crossing | Nodes | Sum):
        raise ValueError(f"rep must be irreps or one of geoeq.reps, got {type(rep).__name__}")
    return rep


def rep_dim(rep: Rep) -> int:
    """Number of components of ``rep``."""
    return int(rep.dim)


def rep_key(rep: Rep) -> str:
    """A text that two representations share exactly when they are the same."""
    return str(rep) if isinstance(rep, Irreps) else repr(rep)


def dual(rep: Rep | str) -> Rep:
    """The representation of linear forms on ``rep``: T(p, q) becomes T(q, p); irreps are their own.

    Raises:
        ValueError: for positions and logarithms of lengths, which are shifted and so have no dual.

    >>> dual(TensorRep({1: 2, (1, 2): 1}))
    TensorRep(ranks={(0, 1): 2, (2, 1): 1}, d=None)
    """
    rep = as_rep(rep)
    if isinstance(rep, Positions | LogSizes):
        raise ValueError(f"rep must not be shifted by its group to have a dual, got {rep_key(rep)}")
    if isinstance(rep, TensorRep):
        return TensorRep({(q, p): m for p, q, m in rep.types}, rep.d)
    if isinstance(rep, Sum):
        return Sum(*map(dual, rep.terms))
    return Crossing(dual(rep.rep)) if isinstance(rep, Crossing) else rep


def tensor_product(first: TensorRep, second: TensorRep) -> TensorRep:
    """The representation of products of ``first`` with ``second``: T(p, q) x T(r, s) = T(p + r, q + s).

    Components are in the order of a :class:`TensorRep`: summands of one type together, indices of V first.

    Raises:
        ValueError: if the two are over different spaces, or not of tensors.

    >>> tensor_product(TensorRep({0: 2, 1: 1}), TensorRep({1: 3}))
    TensorRep(ranks={1: 6, 2: 3}, d=None)
    """
    for rep in (first, second):
        if not isinstance(rep, TensorRep):
            raise ValueError(f"tensor_product must be of two TensorReps, got {type(rep).__name__}")
    if first.d != second.d:
        raise ValueError(f"tensor_product must be over one space, got d={first.d} and d={second.d}")
    ranks: dict[int | tuple[int, int], int] = {}
    for p, q, m in first.types:
        for r, s, n in second.types:
            ranks[p + r, q + s] = ranks.get((p + r, q + s), 0) + m * n
    return TensorRep(ranks, first.d)


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
