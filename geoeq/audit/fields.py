"""What graphs of a data set hold, as one tensor for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

__all__ = ["INSTEAD", "Fields", "evenly", "fields_of", "graphs_of"]

STANDARD_ERRORS = 4.0
INSTEAD = "give tensors x, y of samples instead"


class Fields(NamedTuple):
    """Of S graphs with n nodes each, ``[S, n, components]``, float64; vectors are ``[frames, 3]``, flat."""

    scalars: Tensor
    velocities: Tensor
    positions: Tensor
    displacements: Tensor


def evenly(length: int, count: int) -> list[int]:
    """At most ``count`` of the numbers below ``length``, evenly spaced from 0 on."""
    count = min(length, count)
    return [i * length // count for i in range(count)]


def graphs_of(dataset: Any, max_samples: int) -> list[Data]:
    """At most ``max_samples`` graphs, evenly spaced through ``dataset``.

    Raises:
        ValueError: if there are none, or they have different numbers of nodes.
    """
    kind = "a sequence of graphs of torch_geometric, or a task with train, rep_in and rep_out"
    listed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not listed or isinstance(dataset, Data | Mapping):
        raise ValueError(f"dataset must be {kind}, got {type(dataset).__name__}")
    graphs = [dataset[i] for i in evenly(len(dataset), max_samples)]
    for graph in graphs:
        if not isinstance(graph, Data):
            raise ValueError(f"dataset must be {kind}, got {type(dataset).__name__} of {type(graph).__name__}")
        if "pos" not in graph or "y" not in graph:
            raise ValueError(f"dataset must have graphs with pos and y, got {list(graph.keys())}")
    if not graphs:
        raise ValueError("dataset must have at least one graph, got none")
    sizes = [len(graph.pos) for graph in graphs]
    if not 0 < min(sizes) == max(sizes):
        found = f"{min(sizes)} to {max(sizes)}"
        raise ValueError(f"dataset must have graphs of equal numbers of nodes, got {found}: {INSTEAD}")
    return graphs


def fields_of(graphs: list[Data]) -> Fields:
    """Their fields; positions are taken from one point for all graphs, see :func:`centre_of`.

    Raises:
        ValueError: for fields that are missing or of a wrong shape, or have numbers that are not finite.
    """
    n = len(graphs[0].pos)
    pos, y = _stacked(graphs, "pos", (n, 3)), _stacked(graphs, "y", (n, 3), (n, None, 3))
    scalars = _stacked(graphs, "x" if "x" in graphs[0] else "charge", (n,), (n, None), optional=True)
    velocities = _stacked(graphs, "vel", (n, 3), optional=True)
    positions = torch.cat([pos, _stacked(graphs, "history", (n, None, 3), optional=True)], 2)
    positions = positions - centre_of(pos).repeat(positions.shape[2] // 3)
    return Fields(scalars, velocities, positions, y - pos.repeat(1, 1, y.shape[2] // 3))


def centre_of(pos: Tensor) -> Tensor:
    """The mean ``[3]`` of positions ``[S, n, 3]``, or the origin if that is within four standard errors of the mean."""
    each = pos.mean(1)
    mean = each.mean(0)
    error = (each - mean).square().sum() / len(each) ** 2
    return mean if mean.square().sum() > STANDARD_ERRORS**2 * error else torch.zeros_like(mean)


def _stacked(graphs: list[Data], name: str, *shapes: tuple[int | None, ...], optional: bool = False) -> Tensor:
    """One field of all graphs, ``[S, n, components]``; of one of ``shapes``, None for any size, or absent in all."""
    n, values = len(graphs[0].pos), [torch.as_tensor(graph[name]) for graph in graphs if name in graph]
    if optional and not values:
        return torch.zeros(len(graphs), n, 0, dtype=torch.float64)
    found = sorted({tuple(value.shape) for value in values})
    if len(values) < len(graphs) or len(found) > 1 or not any(_fits(found[0], shape) for shape in shapes):
        wanted = " or ".join(str([*shape]).replace("None", "*") for shape in shapes)
        given = ", ".join(str([*shape]) for shape in found) or "none"
        raise ValueError(
            f"dataset must have {name} {wanted} in every graph, got {given} in {len(values)} of {len(graphs)}"
        )
    stacked = torch.stack(values).double().cpu()
    if not stacked.isfinite().all():
        raise ValueError(f"dataset must have finite {name}, got infinite or undefined numbers")
    return stacked.reshape(len(graphs), n, stacked[0].numel() // n)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(size in (own, None) for own, size in zip(shape, wanted))
