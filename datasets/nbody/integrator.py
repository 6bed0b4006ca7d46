"""Time stepping of many trajectories from given initial conditions."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_count
from geoeq.datasets.nbody.interaction import MOST_IN_PAIRS, effective_coupling, interaction_forces, products
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
            spring constant k_ij in {0, 1}. Products of charges are computed on first access.
        part: part of each body (all 0 without ``rigid_parts``), [n], int64.
        times: time of each frame, [T].
        given: the couplings, where they are not the products of the charges.
    """

    pos: Tensor
    vel: Tensor
    charge: Tensor
    part: Tensor
    times: Tensor
    given: Tensor | None = None

    @cached_property
    def coupling(self) -> Tensor:
        """Documented above."""
        return products(self.charge) if self.given is None else self.given

    def __len__(self) -> int:
        return self.pos.shape[0]

    def __repr__(self) -> str:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        shapes = ", ".join(f"{name}={list(value.shape)}" for name, value in tensors.items() if value is not None)
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
    ``max_bytes``, ``n_threads`` and the other trajectories are. Time grows with the square of the number of bodies;
    of more than 2000 bodies no list of pairs is made, so that memory grows with their number only, unless
    ``coupling`` is given. Threads share trajectories, not bodies.

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
    if coupling is not None:
        coupling = torch.as_tensor(coupling).to(torch.float64)
        _require_shape("coupling", coupling, (n_trajectories, n, n))
        if not torch.equal(coupling, coupling.transpose(1, 2)):
            raise ValueError("coupling must be symmetric in its last two dimensions")
    effective = effective_coupling(protocol, charge, coupling)
    one = bytes_per_trajectory(n, in_pairs=effective.shape[1] != n)
    narrowest = NARROWEST_CHUNK if n <= MOST_IN_PAIRS else 1
    width, n_threads = _chunks(n_trajectories, one, max_bytes, n_threads, narrowest)
    frames = [np.empty((n_trajectories, protocol.n_frames, n, 3)) for _ in range(2)]
    inputs = [value.numpy() for value in (pos, vel, effective)]

    def run(start: int) -> None:
        rows = slice(start, start + width)
        with np.errstate(all="ignore"):  # bodies at one place are reported below, once and by trajectory
            _run_chunk(protocol, *(value[rows] for value in inputs), *(value[rows] for value in frames))

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(run, range(0, n_trajectories, width)))
    finite = np.isfinite(frames[0][:, -1]).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"trajectory {int(finite.argmin())} became non-finite: bodies at one place, or dt too large")
    part = torch.from_numpy(part_ids(n, protocol.objects) if protocol.rigid_parts else np.zeros(n, dtype=np.int64))
    pos_frames, vel_frames = (torch.from_numpy(values) for values in frames)
    return Trajectories(pos_frames, vel_frames, charge, part, protocol.times, coupling)


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    require(tuple(value.shape) == shape, name, f"of shape {list(shape)}", list(value.shape))
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")


def bytes_per_trajectory(n_bodies: int, *, in_pairs: bool = True) -> int:
    """Working memory of one trajectory beside its result; ``in_pairs`` says whether couplings are held in pairs."""
    n_pairs = n_bodies * (n_bodies - 1) // 2
    if n_bodies <= MOST_IN_PAIRS:
        return 8 * (6 * n_pairs + 18 * n_bodies)
    return 8 * (in_pairs * n_pairs + 50 * n_bodies)


def _chunks(n_trajectories: int, one: int, max_bytes: int, n_threads: int, narrowest: int) -> tuple[int, int]:
    """Trajectories in one chunk, in the cache if that is wide enough and always within max_bytes, and threads."""
    require(max_bytes >= one, "max_bytes", f"at least {one}, the working memory of one trajectory", max_bytes)
    n_threads = min(n_threads, n_trajectories, max_bytes // one)
    share = math.ceil(n_trajectories / n_threads)
    return min(max_bytes // (one * n_threads), share, max(narrowest, CACHE_BYTES // one)), n_threads


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
        elastic = ElasticRods(x, protocol.rigid_parts * (protocol.scale * dt**2), protocol.objects)
    interaction = interaction_forces(protocol, x, np.ascontiguousarray(coupling.T))
    knobs = Knobs(protocol, x, w)

    def force() -> np.ndarray:
        total = interaction()
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
