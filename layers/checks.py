"""Checks of what a layer is given: one clear line that names the argument, what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

from geoeq.ops.backends import readable

__all__ = ["check_graph", "check_values"]


def check_graph(
    pos: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None = None,
    edge_dim: int = 0,
    *,
    vel: Tensor | None = None,
    h: Tensor | None = None,
    width: int | None = None,
) -> None:
    """Check shapes alone; costs nothing and disappears in a compiled graph.

    Raises:
        ValueError: naming the first argument of a wrong shape.
    """
    if pos.dim() != 2 or pos.shape[1] != 3:
        raise ValueError(f"pos must be [N, 3], got {list(pos.shape)}")
    if vel is not None and vel.shape != pos.shape:
        raise ValueError(f"vel must be [N, 3] = {list(pos.shape)}, got {list(vel.shape)}")
    if h is not None and h.shape != (pos.shape[0], width):
        raise ValueError(f"h must be [N, {width}] with N = {pos.shape[0]}, got {list(h.shape)}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(f"edge_index must be [2, E] of int64, got {list(edge_index.shape)} of {edge_index.dtype}")
    expected = [edge_index.shape[1], edge_dim]
    got = [edge_index.shape[1], 0] if edge_attr is None else list(edge_attr.shape)
    if got != expected:
        raise ValueError(f"edge_attr must be [E, {edge_dim}] = {expected}, got {got}")


def check_values(pos: Tensor, edge_index: Tensor) -> None:
    """Check that positions are finite and edges name existing nodes.

    Not inside a compiled graph, a transform of torch.func or on a GPU.

    Raises:
        ValueError: naming the first argument with a value that cannot be used.
    """
    if not readable(pos):
        return
    if not bool(torch.isfinite(pos).all()):
        raise ValueError(f"pos must be finite, got {int((~torch.isfinite(pos)).sum())} values that are NaN or infinite")
    if edge_index.numel():
        low, high = (int(v) for v in edge_index.aminmax())
        if low < 0 or high >= len(pos):
            raise ValueError(f"edge_index must lie in [0, {len(pos) - 1}], got values from {low} to {high}")
