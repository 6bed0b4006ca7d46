"""Which linear maps respect a group: orthogonal projection on Hom_G(rep_in, rep_out).

A map W is an intertwiner if :math:`\\rho_{out}(g) W = W \\rho_{in}(g)` for all g. The space of such maps is found
pair of copies by pair of copies (:mod:`geoeq.reps`): by a closed form where the group knows one, else as the
null space of the constraints in float64, cut relative to the largest eigenvalue and checked for a clear gap.
Nothing of the size (entries of W) x (entries of W) is ever built.
"""

from geoeq.intertwiners.bilinear import BilinearProjector, product_space
from geoeq.intertwiners.closed_forms import everything, member, nothing, schur, spread, sums_fixed
from geoeq.intertwiners.projector import Block, Projector, from_rows, to_rows
from geoeq.intertwiners.spaces import PairSpace, joint_space, null_space, pair_space, solve_pair

__all__ = [
    "BilinearProjector",
    "Block",
    "PairSpace",
    "Projector",
    "everything",
    "from_rows",
    "joint_space",
    "member",
    "nothing",
    "null_space",
    "pair_space",
    "product_space",
    "schur",
    "solve_pair",
    "spread",
    "sums_fixed",
    "to_rows",
]
