"""Products of two weights, of which only the product has a meaning: queries with keys, outputs with values."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from geoeq.groups import Group, parse
from geoeq.intertwiners import Projector
from geoeq.reps import Rep

__all__ = ["product_penalty"]


def product_penalty(
    left: Tensor,
    right: Tensor,
    rep: Rep | str,
    group: Group | str | Sequence[Group],
    *,
    rep_out: Rep | str | None = None,
    heads: int = 1,
    projector: Projector | None = None,
) -> Tensor:
    r"""How far a product of two weights is from an intertwiner, :math:`\sum_h \|B_h - P(B_h)\|^2 / d`, B = L R by head.

    Attention sees queries and keys through :math:`B = W_q^T W_k` alone: :math:`W_q \to A W_q,\ W_k \to A^{-T} W_k`
    changes no logit, so penalties on the factors would punish what has no meaning. Logits
    :math:`x_i^T B x_j` are invariant when B is an intertwiner from rep to rep, for orthogonal representations. In the
    same way values reach the output through :math:`W_o W_v` alone.

    Args:
        left: :math:`W_q^T` ``[rep.dim, heads * d]``, or :math:`W_o` ``[rep_out.dim, heads * d]``.
        right: :math:`W_k`, or :math:`W_v`, ``[heads * d, rep.dim]``.
        rep: how the features that ``right`` reads answer.
        group: the symmetry, its text, or several that shall hold together.
        rep_out: how the rows of ``left`` answer; ``rep`` by default.
        heads: number of heads; inner dimensions of one head are neighbours. Every head has a product of its own.
        projector: of ``group`` from ``rep`` to ``rep_out``, to be made once and used at every step.

    Returns:
        A scalar; 0 when every head respects the group. d makes heads of different widths compare.

    Raises:
        ValueError: if the shapes do not fit the representations, each other or the heads.

    >>> import torch
    >>> q, k = torch.randn(6, 8, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)
    >>> a = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    >>> torch.allclose(product_penalty(q, k, "2x1o", "SO(3)"), product_penalty(q @ a, a.T @ k, "2x1o", "SO(3)"))
    True
    """
    if projector is None:
        groups = parse(group) if isinstance(group, str) else group
        projector = Projector(groups, rep, rep if rep_out is None else rep_out).to(left)
    inner = left.shape[-1]
    if left.shape != (projector.shape[0], inner) or right.shape != (inner, projector.shape[1]):
        expected = f"[{projector.shape[0]}, m] and [m, {projector.shape[1]}]"
        raise ValueError(f"left and right must be {expected}, got {list(left.shape)} and {list(right.shape)}")
    if heads < 1 or inner % heads:
        raise ValueError(f"heads must divide the {inner} inner dimensions, got {heads}")
    d = inner // heads
    products = [own_left @ own_right for own_left, own_right in zip(left.split(d, 1), right.split(d, 0), strict=True)]
    return sum((projector.residual(product).square().sum() for product in products), left.new_zeros(())) / d
