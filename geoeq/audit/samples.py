"""Samples of a data set: inputs and targets as rows of tensors, and how these answer to a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data

from geoeq.audit.fields import INSTEAD, Fields, evenly, fields_of, graphs_of
from geoeq.groups import Group
from geoeq.reps import Irreps, Nodes, Positions, Rep, Sum

__all__ = ["AuditData", "Samples", "samples_of"]


@runtime_checkable
class Task(Protocol):
    """What is asked of a :class:`~geoeq.datasets.vectors.VectorTask`."""

    @property
    def train(self) -> tuple[Tensor, Tensor]: ...
    @property
    def rep_in(self) -> Rep: ...
    @property
    def rep_out(self) -> Rep: ...


AuditData: TypeAlias = Sequence[Data] | Dataset[Any] | Task


class Samples(NamedTuple):
    """Inputs ``x [S, rep_in.dim]`` and targets ``y [S, rep_out.dim]``, and how they answer."""

    x: Tensor
    y: Tensor
    rep_in: Rep | str
    rep_out: Rep | str


def samples_of(dataset: AuditData, group: Group, max_samples: int) -> Samples:
    """At most ``max_samples`` samples of ``dataset``, evenly spaced through it.

    Of a task, the training split. Of graphs, in float64: ``x``, or else ``charge``, as scalars; ``vel`` as a vector;
    ``pos`` and the frames of ``history`` as positions; targets are the displacements ``y - pos``, which have no origin.

    Args:
        dataset: a task with ``train``, ``rep_in`` and ``rep_out``, or graphs with n nodes each, as
            :func:`~geoeq.audit.symmetry_gap` takes them.
        group: what moves them; if it renumbers nodes, features are :class:`~geoeq.reps.Nodes`.
        max_samples: the most samples to take.

    Raises:
        ValueError: one line for a data set or a group that does not fit.
    """
    if max_samples < 1:
        raise ValueError(f"max_samples must be at least 1, got {max_samples}")
    if isinstance(dataset, Task):
        x, y = dataset.train
        kept = evenly(len(x), max_samples)
        return Samples(x[kept], y[kept], dataset.rep_in, dataset.rep_out)
    fields = fields_of(graphs_of(dataset, max_samples))
    return _by_node(fields) if _renumbers(group, fields.scalars.shape[1]) else _side_by_side(fields)


def _renumbers(group: Group, n: int) -> bool:
    """Whether ``group`` renumbers nodes, if it is one that can move graphs of ``n`` nodes."""
    if group.elements_per_part or not group.orthogonal:
        raise ValueError(f"group must rotate, reflect, shift or permute whole graphs, got {group}: {INSTEAD}")
    element = group.sample(1, generator=Generator().manual_seed(0))[0]
    places = group.places(element)
    if places is not None and len(places) != n:
        raise ValueError(f"group must permute the {n} nodes of a graph, got {group}")
    try:
        origin = group.act(element, element.new_zeros(n, 3), position=True)
    except RuntimeError:
        raise ValueError(f"group must act on space of three dimensions, got {group}") from None
    if places is not None and origin.any():
        raise ValueError(f"group must not shift what it permutes, got {group}: ask for permutations alone")
    return places is not None


def _by_node(fields: Fields) -> Samples:
    n, (scalars, velocities, positions, displacements) = fields.scalars.shape[1], [own.shape[2] for own in fields]
    x, y = (rows.transpose(1, 2).flatten(1) for rows in (torch.cat(fields[:3], 2), fields.displacements))
    rep_in = Nodes(n, f"{scalars}x0e + {velocities // 3}x1o + {positions // 3}x1o")
    return Samples(x, y, rep_in, Nodes(n, f"{displacements // 3}x1o"))


def _side_by_side(fields: Fields) -> Samples:
    rows = [own.flatten(1) for own in fields]
    scalars, velocities, positions, displacements = (own.shape[1] for own in rows)
    rep_in = Sum(f"{scalars}x0e + {velocities // 3}x1o", Positions(positions // 3))
    return Samples(torch.cat(rows[:3], 1), rows[3], rep_in, Irreps(f"{displacements // 3}x1o"))
