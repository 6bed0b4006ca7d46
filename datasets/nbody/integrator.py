"""Time stepping of many trajectories from given initial conditions."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_count
from geoeq.datasets.nbody.forces import PairForce, pair_indices
from geoeq.datasets.nbody.knobs import Knobs
from geoeq.datasets.nbody.parts import part_ids
from geoeq.datasets.nbody.protocol import SYSTEMS, Protocol
from geoeq.datasets.nbody.rods import ElasticRods, RigidRods

# A chunk should stay in the second-level cache, but not be so narrow that calls cost more than arithmetic.
CACHE_BYTES = 2**21
NARROWEST_CHUNK = 64


@dataclass(frozen=True, repr=False)
class Trajectories:
    """Simulated trajectories, float64.

    Attributes:
        pos: positions, [S, T, n, 3]; frame k is the state at step every (k + 1), or every k + 1 with ``objects``.
        vel: velocities, [S, T, n, 3].
        charge: visible charge (mass for gravity, 1 for springs), [S, n, 1].
        coupling: visible coupling of each pair, symmetric with zero diagonal, [S, n, n]: q_i q_j, or the
            spring constant k_ij in {0, 1}.
        part: part of each body (all 0 without ``rigid_parts``), [n], int64.
        times: time of each frame, [T].
    """

    pos: Tensor
    vel: Tensor
    charge: Tensor
    coupling: Tensor
    part: Tensor
    times: Tensor

    def __len__(self) -> int:
        return self.pos.shape[0]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{f.name}={list(getattr(self, f.name).shape)}" for f in fields(self))
        return f"{type(self).__name__}({shapes})"


def integrate(
    pos: Tensor,
    vel: Tensor,
    charge: Tensor,
    protocol: Protocol | None = None,
    *,
    coupling: Tensor | None = None,
    max_bytes: int = 2**28,
    n_threads: int | None = None,
) -> Trajectories:
    r"""Integrate given initial conditions; what :func:`simulate` calls after drawing them.

    Charged particles and springs follow the published scheme (one full kick v += dt F before the loop, then
    drift, store, kick; arXiv 2102.09844); gravity is kick-drift-kick leapfrog with velocities stored at the
    time of the positions (at the last half step if the rods are rigid). Steps after the last frame are not
    computed. All arithmetic is float64, and the result of a trajectory has the same bytes whatever
    ``max_bytes``, ``n_threads`` and the other trajectories are.

    Args:
        pos: initial positions, [S, n, 3].
        vel: initial velocities, [S, n, 3].
        charge: charges, [S, n, 1].
        protocol: what to simulate; charged particles by the published protocol if None.
        coupling: [S, n, n], symmetric; the product of the charges if None. For springs: the constants k_ij.
        max_bytes: bound on the working memory of all threads together, beside the result.
        n_threads: number of threads; all cores if None.

    Returns:
        The trajectories.

    Raises:
        ValueError: for wrong shapes, non-finite values, a memory bound too small for one trajectory, and when
            a trajectory becomes non-finite (bodies at one place, or dt too large).

    Example:
        >>> import torch
        >>> from geoeq.datasets.nbody import Protocol, integrate
        >>> pair = torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]]])
        >>> result = integrate(pair, 0 * pair, torch.ones(1, 2, 1), Protocol(n_bodies=2, n_steps=200))
        >>> result.pos.shape, result.times.tolist()
        (torch.Size([1, 1, 2, 3]), [0.1])
        >>> [round(x, 6) for x in result.pos[0, 0, :, 0].tolist()]  # they repel: 1 + a t^2 / 2 with a = 1/4
        [1.001262, -1.001262]
    """
    n_threads = _available_cores() if n_threads is None else n_threads
    require_count("n_threads", n_threads, 1)
    require_count("max_bytes", max_bytes, 1)
    pos, vel, charge = (torch.as_tensor(value).to(torch.float64) for value in (pos, vel, charge))
    require(pos.dim() == 3 and len(pos) > 0, "pos", "[S, n, 3] with S >= 1", list(pos.shape))
    protocol = protocol or Protocol(n_bodies=pos.shape[1])
    n_trajectories, n = pos.shape[0], protocol.n_bodies
    for name, value, width in (("pos", pos, 3), ("vel", vel, 3), ("charge", charge, 1)):
        _require_shape(name, value, (n_trajectories, n, width))
    if coupling is None:
        coupling = charge * charge.transpose(1, 2) * (1.0 - torch.eye(n, dtype=torch.float64))
    coupling = torch.as_tensor(coupling).to(torch.float64)
    _require_shape("coupling", coupling, (n_trajectories, n, n))
    if not torch.equal(coupling, coupling.transpose(1, 2)):
        raise ValueError("coupling must be symmetric in its last two dimensions")

    width = _chunk_width(n_trajectories, n, max_bytes, n_threads)
    frames = [np.empty((n_trajectories, protocol.n_frames, n, 3)) for _ in range(2)]
    inputs = [value.numpy() for value in (pos, vel, _pair_coupling(protocol, charge, coupling))]

    def run(start: int) -> None:
        rows = slice(start, start + width)
        with np.errstate(all="ignore"):  # bodies at one place are reported below, once and by trajectory
            _run_chunk(protocol, *(value[rows] for value in inputs), *(value[rows] for value in frames))

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(run, range(0, n_trajectories, width)))
    finite = np.isfinite(frames[0][:, -1]).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"trajectory {int(finite.argmin())} became non-finite: bodies at one place, or dt too large")
    part = (
        torch.from_numpy(part_ids(n, protocol.objects)) if protocol.rigid_parts else torch.zeros(n, dtype=torch.int64)
    )
    times = protocol.times
    pos_frames, vel_frames = (torch.from_numpy(values) for values in frames)
    return Trajectories(pos_frames, vel_frames, charge, coupling, part, times)


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    require(tuple(value.shape) == shape, name, f"of shape {list(shape)}", list(value.shape))
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")


def bytes_per_trajectory(n_bodies: int) -> int:
    """Working memory of one trajectory beside its result."""
    return 8 * (6 * n_bodies * (n_bodies - 1) // 2 + 18 * n_bodies)


def _chunk_width(n_trajectories: int, n_bodies: int, max_bytes: int, n_threads: int) -> int:
    """Trajectories in one chunk: within the cache if that is wide enough, always within max_bytes."""
    one = bytes_per_trajectory(n_bodies)
    affordable = max_bytes // (one * n_threads)
    require(affordable >= 1, "max_bytes", f"at least {one * n_threads} for {n_threads} threads", max_bytes)
    share = math.ceil(n_trajectories / n_threads)
    return min(affordable, share, max(NARROWEST_CHUNK, CACHE_BYTES // one))


def _pair_coupling(protocol: Protocol, charge: Tensor, coupling: Tensor) -> Tensor:
    """Effective coupling of each pair, [S, P], with the hidden shift that no output shows."""
    first, second = (torch.from_numpy(index) for index in pair_indices(protocol.n_bodies))
    hidden = protocol.hidden_charges * (1.0 - 2.0 * (torch.arange(protocol.n_bodies) % 2))
    if protocol.system == "charged" and protocol.hidden_charges:
        effective = charge[..., 0] + hidden
        pairs = effective[:, first] * effective[:, second]
    else:
        pairs = coupling[:, first, second] * ((1.0 + hidden)[first] * (1.0 + hidden)[second])
    return pairs * SYSTEMS[protocol.system].strength


def _run_chunk(
    protocol: Protocol,
    pos: np.ndarray,
    vel: np.ndarray,
    coupling: np.ndarray,
    pos_frames: np.ndarray,
    vel_frames: np.ndarray,
) -> None:
    """Advance one chunk and write its frames; the time step is the unit (velocity v dt, force F dt^2)."""
    dt, system = protocol.dt, SYSTEMS[protocol.system]
    x = np.array(pos.transpose(2, 1, 0), order="C")  # always a copy: it is advanced in place
    w = np.array(vel.transpose(2, 1, 0), order="C") * dt
    rigid = RigidRods(x, protocol.objects) if math.isinf(protocol.rigid_parts) else None
    elastic = None
    if 0 < protocol.rigid_parts < math.inf:
        elastic = ElasticRods(x, protocol.rigid_parts * protocol.scale * dt**2, protocol.objects)
    pair_force = PairForce(system, x, np.ascontiguousarray(coupling.T) * dt**2, 0.1 * dt, protocol.clip)
    knobs = Knobs(protocol, x, w)

    def force() -> np.ndarray:
        total = pair_force()
        knobs(total)
        if elastic:
            elastic.add_force(x, total)
        return total

    w += (0.5 if system.leapfrog else 1.0) * force()
    first = protocol.first_step
    for step in range(1, first + (protocol.n_frames - 1) * protocol.every + 1):
        if rigid:
            rigid.constrain(x, w)
        np.add(x, w, out=x)
        kick = force()
        frame, between = divmod(step - first, protocol.every)
        if between == 0:
            pos_frames[:, frame] = x.transpose(2, 1, 0)
            synchronised = w + 0.5 * kick if system.leapfrog and not rigid else w
            vel_frames[:, frame] = synchronised.transpose(2, 1, 0) / dt
        np.add(w, kick, out=w)
