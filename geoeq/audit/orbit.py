"""How equivariant is a model really: the error on orbits of its own data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.data import Data

from geoeq.groups import Group
from geoeq.soft.action import new_numbers

__all__ = ["orbit_error", "transform"]

POSITIONS = ("pos", "y", "history")
VECTORS = ("vel",)
LABELS = ("charge", "x", "part")


def transform(group: Group, element: Tensor, data: Data) -> Data:
    """A copy of ``data`` moved by one group element: positions, velocities, targets; node numbers where it permutes.

    Args:
        group: the group.
        element: one element as ``group.sample`` gives it.
        data: graphs with ``pos [N, 3]`` and, where present, ``vel``, ``y [N, 3]`` or ``[N, F, 3]``,
            ``history [N, P, 3]``, ``part``. Features ``x`` and ``charge`` stay what they are.
    """
    moved = data.clone()
    part = data.part if "part" in data else None
    for name in (*POSITIONS, *VECTORS):
        if name in data:
            moved[name] = _act(group, element, data[name], position=name in POSITIONS, part=part)
    places = group.places(element)
    if places is not None:
        _renumber(moved, places)
    return moved


def _act(group: Group, element: Tensor, x: Tensor, *, position: bool, part: Tensor | None) -> Tensor:
    """``group.act`` on ``[N, 3]``, or on each frame of ``[N, F, 3]``."""
    if x.dim() == 2:
        return group.act(element, x, position=position, part=part)
    frames = [group.act(element, frame, position=position, part=part) for frame in x.unbind(1)]
    return torch.stack(frames, 1) if frames else x


def _renumber(data: Data, places: Tensor) -> None:
    """Let what else ``data`` says about nodes follow them to their new ``places [n]`` in graphs of n nodes."""
    new = new_numbers(torch.arange(len(data.pos), device=data.pos.device), places)
    for name in LABELS:
        if name in data:
            data[name] = data[name][new.argsort()]
    data.edge_index = new_numbers(data.edge_index, places)


@torch.no_grad()
def orbit_error(
    model: Callable[[Data], Tensor],
    data: Data,
    group: Group,
    *,
    n_samples: int = 8,
    seed: int = 0,
) -> float:
    r"""Relative equivariance error of a forecast on the orbits of ``data``.

    .. math:: e = \sqrt{\frac{\sum_g |f(g x) - g f(x)|^2}{\sum_g |f(x) - x|^2}}

    summed over ``n_samples`` random elements of ``group``; the size that it is relative to is the predicted
    displacement, so that a far origin does not hide an error.

    Args:
        model: maps data to predicted positions, ``[N, 3]`` or ``[N, F, 3]``.
        data: graphs to evaluate on; real ones, not noise.
        group: the symmetry to test.
        n_samples: number of random elements.
        seed: of the elements.

    Returns:
        0 for an equivariant model; about 1 if the output has nothing to do with the symmetry.

    >>> from geoeq.groups import O
    >>> data = Data(pos=torch.randn(4, 3), vel=torch.randn(4, 3), edge_index=torch.zeros(2, 0, dtype=torch.long))
    >>> orbit_error(lambda d: d.pos + d.vel, data, O(3)) < 1e-5
    True
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    generator = torch.Generator().manual_seed(seed)
    part = data.part if "part" in data else None
    prediction = model(data)
    displacement = prediction - (data.pos if prediction.dim() == 2 else data.pos.unsqueeze(1))
    wrong = size = torch.zeros((), dtype=torch.float64, device=prediction.device)
    for element in group.sample(n_samples, generator=generator):
        expected = _act(group, element, prediction, position=True, part=part)
        wrong = wrong + (model(transform(group, element, data)) - expected).double().square().sum()
        size = size + displacement.double().square().sum()
    return float((wrong / size.clamp(min=torch.finfo(torch.float64).tiny)).sqrt())
