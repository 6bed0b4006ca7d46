"""Periodic boxes: lattice vectors, positions inside, and the images near by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Images", "box_matrices", "images", "wrap"]

MARGIN = 1e-9  # of the reach, in units of the box: rounding must not lose an image


class Images(NamedTuple):
    """Copies of points: which point [M], moved by how many lattice vectors [M, d]."""

    point: Tensor
    shift: Tensor


def box_matrices(box: Tensor, d: int) -> Tensor:
    """Lattice vectors as rows [1 or G, d, d] of a box [d], [d, d] or [G, d, d].

    Raises:
        ValueError: another shape, or a box without volume or not finite.
    """
    known = {(d,): 1, (d, d): 2}.get(tuple(box.shape), 3)
    if known == 3 and (box.dim() != 3 or box.shape[1:] != (d, d) or box.shape[0] == 0):
        raise ValueError(f"box must be [{d}], [{d}, {d}] or [graphs, {d}, {d}], got {list(box.shape)}")
    if not bool(box.isfinite().all()):
        raise ValueError("box must be finite, got NaN or infinite entries")
    boxes = torch.diag_embed(box).unsqueeze(0) if known == 1 else box.reshape(-1, d, d)
    # Volume over the product of edge lengths: 1 for a rectangular box, 0 for a flat one.
    lengths = boxes.detach().norm(dim=2)
    shape = torch.linalg.det(boxes.detach() / lengths.clamp(min=1e-300).unsqueeze(2)).abs()
    if bool((lengths == 0).any()) or bool((shape < 1e-6).any()) or (known == 1 and bool((box <= 0).any())):
        raise ValueError(f"box must have positive lengths and a volume, got {box.tolist()}")
    return boxes


def wrap(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fractional coordinates in [0, 1] and the whole lattice vectors taken off, both [N, d]; and inverse boxes.

    Args:
        points: [N, d], float64.
        boxes: [N or 1, d, d], of each point.
    """
    inverse = torch.linalg.inv(boxes)
    fraction = (points.unsqueeze(1) @ inverse).squeeze(1)
    whole = fraction.floor()
    return fraction - whole, whole.long(), inverse


def images(fraction: Tensor, inverse: Tensor, radius: float, *, half: bool) -> Images:
    """Images of points that lie within ``radius`` of the box, the points themselves not among them.

    Args:
        fraction: [N, d], coordinates in [0, 1] in units of the lattice vectors.
        inverse: [N or 1, d, d], inverse boxes.
        radius: reach.
        half: only those whose shift is lexicographically positive: of an image and its opposite, one.
    """
    # The distance between opposite faces k of the box is the inverse of the length of column k.
    reach = radius * inverse.norm(dim=1) * (1 + MARGIN) + MARGIN  # [N or 1, d]
    point = torch.arange(len(fraction), device=fraction.device)
    shift = torch.zeros(len(fraction), 0, dtype=torch.int64, device=fraction.device)
    far = reach.amax(0).ceil().long().tolist() if reach.numel() else [0] * fraction.shape[1]
    for axis, most in enumerate(far):
        own, limit = fraction[point, axis], reach[:, axis].expand(len(fraction))[point]
        # Before a shift is settled as positive, a first negative one is that of an opposite image.
        open_ = (shift == 0).all(1) if half else torch.zeros_like(point, dtype=torch.bool)
        points, shifts = [], []
        for step in range(-most, most + 1):
            near = (own + step >= -limit) & (own + step <= 1 + limit)
            if step < 0:
                near &= ~open_
            chosen = near.nonzero().squeeze(1)
            points.append(point[chosen])
            shifts.append(torch.cat([shift[chosen], shift.new_full((len(chosen), 1), step)], 1))
        point, shift = torch.cat(points), torch.cat(shifts)
    moved = (shift != 0).any(1).nonzero().squeeze(1)
    return Images(point[moved], shift[moved])
