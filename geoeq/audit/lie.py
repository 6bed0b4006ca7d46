"""The error of an infinitesimal motion: which generators a model respects, without drawing group elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from geoeq.groups import Group, parse
from geoeq.reps import Irreps, Positions
from geoeq.soft.action import part_count
from geoeq.soft.functional import Reps, size_of
from geoeq.soft.lie import LiePenalty

__all__ = ["lie_error"]


def lie_error(
    model: Callable[..., Any],
    inputs: Data | Tensor | Sequence[Any],
    group: Group | str,
    *,
    rep_in: Reps = None,
    rep_out: Reps = None,
    part: Tensor | None = None,
    mode: str = "auto",
) -> float:
    r"""Relative Lie derivative of a model on data.

    .. math:: e = \sqrt{\frac{\sum_a \|J_f (A_a x) - A_a f(x)\|^2}{\|f(x)\|^2}}

    summed over all generators, those of each part for a piecewise group, so that nothing is drawn. Of a forecast, as
    for :func:`~geoeq.audit.orbit_error`, positions and velocities move and the size is the predicted displacement.
    Reflections and permutations have no generators: see :func:`~geoeq.audit.orbit_error`.

    Args:
        model: a forecast, data to positions ``[N, 3]``; or any callable of tensors.
        inputs: graphs with ``pos``, ``vel`` and, for a piecewise group, ``part``; or the argument of ``model``, or a
            sequence of its arguments.
        group: the symmetry, or its text.
        rep_in: how the argument, or each of the first arguments, answers; not for graphs.
        rep_out: how the output answers; not for graphs.
        part: part of each row, ``[N]``, or memberships ``[N, parts]``; of graphs it is their ``part``.
        mode: ``"forward"`` differentiation, ``"reverse"``, or ``"auto"``.

    Returns:
        0 for a model that the identity component of the group commutes with; no upper bound.

    Source: arXiv 2210.02984.

    >>> push = torch.tensor([0.0, 0.0, 1.0])
    >>> round(lie_error(lambda x: x + push, torch.eye(3), "SO2(z)", rep_in="1o", rep_out="1o"), 6)
    0.0
    """
    if isinstance(inputs, Data):
        return _forecast_error(model, inputs, parse(group), mode)
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return _relative(model, args, LiePenalty(group, rep_in, rep_out, mode=mode), part, None)


def _forecast_error(model: Callable[[Data], Tensor], data: Data, group: Group, mode: str) -> float:
    fields = {"pos": Positions(1), "vel": Irreps("1o")}
    names = [name for name in fields if name in data]

    def of_vectors(*vectors: Tensor) -> Tensor:
        moved = data.clone()
        for name, vector in zip(names, vectors, strict=True):
            moved[name] = vector
        return model(moved)

    measure = LiePenalty(group, [fields[name] for name in names], Positions(1), mode=mode)
    part = data.part if "part" in data else None
    return _relative(of_vectors, tuple(data[name] for name in names), measure, part, data.pos)


def _relative(
    model: Callable[..., Any], args: tuple[Any, ...], measure: LiePenalty, part: Tensor | None, origin: Tensor | None
) -> float:
    """Root of the sum over all generators; the size of the output is taken from ``origin`` where there is one."""
    part = part if measure.group.elements_per_part else None
    like = next(x for x, rep in zip(args, measure.reps_in, strict=False) if rep is not None)
    parts, count = part_count(measure.group, part), len(measure.group.generators)
    shape = (count,) if parts is None else (parts, count)
    wrong = torch.zeros((), dtype=torch.float64)
    for unit in torch.eye((parts or 1) * count, dtype=like.dtype, device=like.device):
        outputs, errors = measure.derivative(model, args, unit.reshape(shape), part)
        wrong = wrong + sum(float(error.detach().double().square().sum()) for error in errors)
    outputs = [output.detach().double() for output in outputs]
    if origin is not None:
        size = (outputs[0] - origin.double()).square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    else:
        size = size_of(outputs, measure.reps_out, measure.group)
    return float((wrong / size.cpu()).sqrt())
