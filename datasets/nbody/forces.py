"""Interaction forces of many trajectories at once, each pair of bodies computed once.

Arrays are [3, bodies, trajectories] with the trajectories last and contiguous, so that one NumPy call serves
a whole chunk. Only + - * / and sqrt are used: IEEE 754 rounds them the same way in every vector width, hence
the result of a trajectory does not depend on its neighbours in the chunk.
"""

from __future__ import annotations

import numpy as np

from geoeq.datasets.nbody.protocol import System


def pair_segments(n_bodies: int) -> list[tuple[slice, slice, slice]]:
    """Split all pairs into rings (i, i + d mod n) and those into runs of neighbouring bodies.

    Returns:
        Triples (pairs, first bodies, second bodies) of slices. Together they hold every pair once; rings
        rather than rows because a body stands at most once on each side of a run, so sums need no reduction.

    Example:
        >>> [[(part.start, part.stop) for part in segment] for segment in pair_segments(3)]
        [[(0, 2), (0, 2), (1, 3)], [(2, 3), (2, 3), (0, 1)]]
    """
    segments, start = [], 0
    for offset in range(1, n_bodies // 2 + 1):
        wraps = 2 * offset < n_bodies
        for first, second, length in ((0, offset, n_bodies - offset), (n_bodies - offset, 0, offset * wraps)):
            if length:
                bodies = slice(first, first + length), slice(second, second + length)
                segments.append((slice(start, start + length), *bodies))
                start += length
    return segments


def pair_indices(n_bodies: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second body of every pair in the order of :func:`pair_segments`, each [n (n - 1) / 2]."""
    bodies = np.arange(n_bodies)
    segments = pair_segments(n_bodies)
    first = [bodies[a] for _, a, _ in segments] or [bodies[:0]]
    second = [bodies[b] for _, _, b in segments] or [bodies[:0]]
    return np.concatenate(first), np.concatenate(second)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar product over the leading axis of length 3, summed in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def limit_forces(force: np.ndarray, limit: float, clip: str) -> None:
    """Keep each component, or the norm, of the forces [3, n, S] within a limit, in place."""
    if clip == "component":
        force.clip(-limit, limit, out=force)
    else:
        norm = np.sqrt(dot(force, force))
        force *= limit / np.maximum(norm, limit)


class PairForce:
    """Sum over j of coupling_ij (x_i - x_j) law(|x_i - x_j|), clipped; buffers are allocated once.

    Args:
        system: the law of the interaction.
        positions: [3, n, S], read again at every call.
        coupling: [P, S], effective coupling of each pair.
        limit: bound on the force on a body.
        clip: ``"component"`` or ``"norm"``.
    """

    def __init__(self, system: System, positions: np.ndarray, coupling: np.ndarray, limit: float, clip: str) -> None:
        _, n_bodies, width = positions.shape
        n_pairs = n_bodies * (n_bodies - 1) // 2
        self.system, self.coupling, self.limit, self.clip = system, coupling, limit, clip
        self.total = np.zeros((3, n_bodies, width))
        self.offset = np.empty((3, n_pairs, width))
        self.cube = np.empty((n_pairs, width))
        self.root = np.empty((n_pairs, width))
        # Slices are taken once: making them at every step costs as much as the arithmetic of small systems.
        segments = pair_segments(n_bodies)
        rings = [slice(start, min(start + n_bodies, n_pairs)) for start in range(0, n_pairs, n_bodies)]
        self._offsets = [(positions[:, a], positions[:, b], self.offset[:, p]) for p, a, b in segments]
        self._actions = [(self.total[:, : ring.stop - ring.start], self.offset[:, ring]) for ring in rings]
        # The first full ring is copied, which saves setting the total to zero; two bodies have half a ring.
        self._first_ring = self._actions.pop(0)[1] if n_bodies > 2 else None
        self._reactions = [(self.total[:, b], self.offset[:, p]) for p, _, b in segments]

    def __call__(self) -> np.ndarray:
        """Return the force on every body, [3, n, S]; the array is reused by the next call."""
        for first, second, out in self._offsets:
            np.subtract(first, second, out=out)
        if self.system.inverse_square:
            self._inverse_square()
        else:
            np.multiply(self.offset, self.coupling, out=self.offset)
        self._sum_actions()
        for total, force in self._reactions:
            np.subtract(total, force, out=total)
        if self.system.limited:
            limit_forces(self.total, self.limit, self.clip)
        return self.total

    def _sum_actions(self) -> None:
        if self._first_ring is None:
            self.total.fill(0.0)
        else:
            np.copyto(self.total, self._first_ring)
        for total, force in self._actions:
            np.add(total, force, out=total)

    def _inverse_square(self) -> None:
        cube, root = self.cube, self.root
        # One component at a time, and the force in place of the offset: small buffers stay in the cache.
        np.multiply(self.offset[0], self.offset[0], out=cube)
        for component in self.offset[1:]:
            np.multiply(component, component, out=root)
            np.add(cube, root, out=cube)
        if self.system.softening:
            np.add(cube, self.system.softening**2, out=cube)
        np.sqrt(cube, out=root)
        np.multiply(cube, root, out=cube)
        np.divide(self.coupling, cube, out=cube)
        np.multiply(self.offset, cube, out=self.offset)
