"""Random initial conditions of the published protocols, and their trajectories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geoeq.datasets.checks import require_count
from geoeq.datasets.nbody.forces import pair_indices
from geoeq.datasets.nbody.integrator import Trajectories, integrate
from geoeq.datasets.nbody.parts import part_sizes
from geoeq.datasets.nbody.protocol import Protocol

INITIAL_SPEED = 0.5


def simulate(
    n_trajectories: int,
    system: str = "charged",
    n_bodies: int = 5,
    n_steps: int = 5000,
    every: int = 100,
    dt: float = 1e-3,
    seed: int | Sequence[int] = 0,
    *,
    field: float = 0.0,
    trap: float = 0.0,
    drag: float = 0.0,
    hidden_charges: float = 0.0,
    rigid_parts: float = 0.0,
    axis: str = "z",
    clip: str = "component",
    anisotropy: float = 0.0,
    chiral: float = 0.0,
    chiral_form: str = "triple",
    objects: Sequence[int] | None = None,
    max_bytes: int = 2**28,
    n_threads: int | None = None,
) -> Trajectories:
    r"""Simulate many N-body trajectories at once.

    Initial positions are N(0, (n/5)^(2/3)) per coordinate, velocities have a random direction and norm 0.5,
    masses are 1. The systems (arXiv 2102.09844 for charged particles and springs):

    * ``"charged"``: F_i = sum_j q_i q_j (x_i - x_j) / r^3, q = +1 or -1 with probability 1/2;
    * ``"springs"``: F_i = -0.1 sum_j k_ij (x_i - x_j), k = 0 or 1 with probability 1/2;
    * ``"gravity"``: F_i = -sum_j (x_i - x_j) / (r^2 + 0.01)^{3/2}, started in the centre-of-mass frame.

    The same seed gives the same bytes on any number of threads and any chunk size, and the first trajectories
    do not depend on how many are asked for.

    Args:
        n_trajectories: number of trajectories S >= 1.
        system, n_bodies, n_steps, every, dt: what is simulated and stored, see :class:`Protocol`.
        seed: seed of the initial conditions, one integer >= 0 or several.
        field, trap, drag, hidden_charges, rigid_parts, axis, clip, anisotropy, chiral, chiral_form: symmetry knobs, see
            :class:`Protocol`.
        objects: numbers of isolated bodies, sticks and hinges, see :class:`Protocol`.
        max_bytes: bound on the working memory of all threads together, beside the result.
        n_threads: number of threads; all cores if None.

    Returns:
        Trajectories with T = n_steps / every - 1 frames, float64.

    Raises:
        ValueError: one line naming the wrong argument.

    Example:
        >>> from geoeq.datasets.nbody import simulate
        >>> simulate(4, n_steps=300, seed=1).pos.shape
        torch.Size([4, 2, 5, 3])
    """
    require_count("n_trajectories", n_trajectories, 1)
    protocol = Protocol(
        system,
        n_bodies,
        n_steps,
        every,
        dt,
        field,
        trap,
        drag,
        hidden_charges,
        rigid_parts,
        axis,
        clip,
        anisotropy,
        chiral,
        chiral_form,
        objects,
    )
    pos, vel, charge, coupling = initial_conditions(n_trajectories, protocol, seed)
    return integrate(pos, vel, charge, protocol, coupling=coupling, max_bytes=max_bytes, n_threads=n_threads)


def initial_conditions(
    n_trajectories: int, protocol: Protocol, seed: int | Sequence[int] = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Draw positions and velocities [S, n, 3], charges [S, n, 1], and spring constants [S, n, n] or None."""
    n = protocol.n_bodies
    n_signs = n * (n - 1) // 2 if protocol.system == "springs" else n
    try:
        generator = np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise ValueError(f"seed must be an integer >= 0 or a sequence of them, got {seed!r}") from None
    # One row per trajectory in one call: the first rows are the same however many are drawn.
    rows = torch.from_numpy(generator.standard_normal((n_trajectories, 6 * n + n_signs)))
    size = (n / 5) ** (1 / 3) + (0.0 if protocol.objects is None else 0.1)
    pos = rows[:, : 3 * n].reshape(-1, n, 3) * size
    direction = rows[:, 3 * n : 6 * n].reshape(-1, n, 3)
    x, y, z = direction.unbind(-1)
    vel = direction * (INITIAL_SPEED / torch.sqrt(x * x + y * y + z * z))[..., None]
    if protocol.objects is not None:
        vel = _with_rods(pos, vel, protocol)
    signs = torch.where(rows[:, 6 * n :] < 0, -1.0, 1.0).to(torch.float64)
    ones = torch.ones(n_trajectories, n, 1, dtype=torch.float64)
    if protocol.system == "charged":
        return pos, vel, signs[..., None], None
    if protocol.system == "gravity":
        return _centred(pos), _centred(vel), ones, None
    first, second = (torch.from_numpy(index) for index in pair_indices(n))
    springs = torch.zeros(n_trajectories, n, n, dtype=torch.float64)
    springs[:, first, second] = springs[:, second, first] = (signs + 1.0) / 2.0
    return pos, vel, ones, springs


def _with_rods(pos: Tensor, vel: Tensor, protocol: Protocol) -> Tensor:
    """Velocities that keep the lengths of the rods, as published.

    Both ends of a stick get the mean of their velocities along it; the ends of a hinge get that of its pivot along
    their rods.
    """
    vel = vel.clone()
    sizes = part_sizes(protocol.n_bodies, protocol.objects)
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        pivot = start + size // 2
        for end in (start, start + 2)[: size - 1]:
            rod = pos[:, end] - pos[:, pivot]
            along = rod * (((vel[:, end] - vel[:, pivot]) * rod).sum(-1) / (rod * rod).sum(-1))[:, None]
            if size == 2:
                along = along / 2
                vel[:, pivot] += along
            vel[:, end] -= along
    return vel


def _centred(values: Tensor) -> Tensor:
    # Summed body by body: the order of a library's reduction may depend on the number of rows.
    total = torch.zeros_like(values[:, 0])
    for body in values.unbind(1):
        total = total + body
    return values - total[:, None] / values.shape[1]
