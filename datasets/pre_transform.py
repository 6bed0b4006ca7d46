"""What a ``pre_transform`` makes of graphs, as tensors that can be stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor
from torch_geometric.data import Data

SHARED = "shared "
SLICES = "slices "
NEEDED = ("pos", "edge_index")


def described(pre_transform: Callable) -> str:
    """Its repr without addresses, which differ from one process to the next.

    Example:
        >>> described(sorted), described(lambda graph: graph)
        ('<built-in function sorted>', '<function <lambda>>')
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(pre_transform))


def transformed(pre_transform: Callable, graphs: Iterable[Data]) -> list[Data]:
    """What it makes of the graphs, each a copy that it may change in place.

    Raises:
        ValueError: one line if a result is no Data of tensors with ``pos`` and ``edge_index``, or if the results differ
            in their fields.
    """
    results: list[Data] = []
    for graph in graphs:
        result = pre_transform(graph.clone())
        whole = isinstance(result, Data) and all(isinstance(value, Tensor) for value in result.to_dict().values())
        if not whole or any(name not in result for name in NEEDED):
            got = " ".join(str(result).split())[:200]
            raise ValueError(f"pre_transform must return a Data of tensors, pos and edge_index among them, got {got}")
        if results and set(result.keys()) != set(results[0].keys()):
            first = sorted(results[0].keys())
            raise ValueError(f"pre_transform must give all graphs the fields {first}, got {sorted(result.keys())}")
        results.append(result)
    return results


def stacked(graphs: list[Data], shared: Collection[str]) -> dict[str, Tensor]:
    """Graphs of the same nodes and edges as tensors with a row per graph.

    Indices and the fields ``shared`` are there once, with :data:`SHARED` in front of their names, if all graphs have
    the same.

    Raises:
        ValueError: one line if a field differs in shape from graph to graph, or an index in value.
    """
    result = {}
    for name in sorted(graphs[0].keys()):
        values = [torch.atleast_1d(graph[name]) for graph in graphs]
        first = values[0]
        is_index = graphs[0].__cat_dim__(name, first) != 0
        if (is_index or name in shared) and all(torch.equal(value, first) for value in values):
            result[SHARED + name] = first.contiguous()
        elif is_index or any(value.shape != first.shape for value in values):
            raise ValueError(f"pre_transform must leave all graphs the same nodes and edges, got others in {name}")
        else:
            result[name] = torch.stack(values)
    return result


def unstacked(stored: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What :func:`stacked` gave: what all graphs share, and what has a row per graph."""
    shared = {name.removeprefix(SHARED): value for name, value in stored.items() if name.startswith(SHARED)}
    return shared, {name: value for name, value in stored.items() if not name.startswith(SHARED)}


def joined(graphs: list[Data]) -> dict[str, Tensor]:
    """Graphs of any sizes as one tensor per field, and with :data:`SLICES` in front the pointer to the rows of each.

    Raises:
        ValueError: one line if a field differs in more than its number of rows.
    """
    result = {}
    for name in sorted(graphs[0].keys()):
        values = [torch.atleast_1d(graph[name]) for graph in graphs]
        along = graphs[0].__cat_dim__(name, values[0])
        try:
            result[name] = torch.cat(values, along).contiguous()
        except RuntimeError as error:
            raise ValueError(f"pre_transform must give all graphs {name} of one width, got others") from error
        result[SLICES + name] = torch.tensor([0, *(value.size(along) for value in values)]).cumsum(0)
    return result


def unjoined(stored: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What :func:`joined` gave: fields and pointers, equal pointers as one object, so that rows are looked up once."""
    values = {name: value for name, value in stored.items() if not name.startswith(SLICES)}
    known: list[Tensor] = []
    slices = {}
    for name in values:
        ptr = stored[SLICES + name]
        same = [other for other in known if torch.equal(other, ptr)]
        known += [] if same else [ptr]
        slices[name] = same[0] if same else ptr
    return values, slices
