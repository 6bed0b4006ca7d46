"""How a feature answers to a symmetry: representations, declared once and shared by all candidate groups.

A representation is a direct sum of *copies*. A copy is the smallest block whose answer is known for every
group: an irrep of O(3), a tensor power of the defining space, a stack of absolute positions, a quantity that
joins two parts, or one irrep at each of n nodes. A linear map between two representations is then a grid of
blocks, one per pair of copies, and everything about symmetry is decided pair by pair
(:mod:`geoeq.intertwiners`).
"""

from geoeq.reps.copies import (
    Copy,
    CrossingCopy,
    IrrepCopy,
    LogSizeCopy,
    NodeCopy,
    PositionCopy,
    Segment,
    TensorCopy,
    segments,
)
from geoeq.reps.matrices import irrep_algebra, irrep_generators, irrep_matrix, kron, tensor_algebra, tensor_matrix
from geoeq.reps.representations import (
    Crossing,
    Irreps,
    LogSizes,
    Nodes,
    Positions,
    Rep,
    Sum,
    TensorRep,
    TypedMap,
    as_rep,
    dual,
    rep_dim,
    rep_key,
    tensor_product,
)

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
    "Copy",
    "CrossingCopy",
    "IrrepCopy",
    "LogSizeCopy",
    "NodeCopy",
    "PositionCopy",
    "Segment",
    "TensorCopy",
    "segments",
    "irrep_algebra",
    "irrep_generators",
    "irrep_matrix",
    "kron",
    "tensor_algebra",
    "tensor_matrix",
]
