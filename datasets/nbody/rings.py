"""Interaction forces of many bodies in memory that grows with their number only: ring after ring of pairs.

The arithmetic is that of :mod:`geoeq.datasets.nbody.forces`. There all pairs of a chunk are in memory at once, which
suits few bodies and many trajectories; here one ring (i, i + d mod n) is, which stays in the cache.
"""

from __future__ import annotations

import numpy as np

from geoeq.datasets.nbody.forces import limit_forces
from geoeq.datasets.nbody.protocol import System


class RingForce:
    """Sum over j of coupling_ij (x_i - x_j) law(|x_i - x_j|), clipped; buffers are allocated once.

    Args:
        system: the law of the interaction.
        positions: [3, n, S], read again at every call.
        coupling: [n, S], charges whose products are the couplings; or with ``in_pairs`` [n (n - 1) / 2, S], the
            coupling of each pair in the order of :func:`~geoeq.datasets.nbody.forces.pair_segments`.
        factor: of all couplings.
        limit: bound on the force on a body.
        clip: ``"component"`` or ``"norm"``.
        in_pairs: what ``coupling`` is.
    """

    def __init__(
        self,
        system: System,
        positions: np.ndarray,
        coupling: np.ndarray,
        factor: float,
        limit: float,
        clip: str,
        *,
        in_pairs: bool,
    ) -> None:
        _, n, width = positions.shape
        self.system, self.positions, self.factor, self.limit, self.clip = system, positions, factor, limit, clip
        self.pairs = coupling if in_pairs else None
        # Everything twice, one after the other: a ring then is a slice, without an end where it closes.
        self.place = np.empty((3, 2 * n, width))
        self.back = np.empty((3, 2 * n, width))
        self.charge = None if in_pairs else np.concatenate([coupling, coupling])
        self.total = np.empty((3, n, width))
        self.offset = np.empty((3, n, width))
        self.cube, self.root, self.work = (np.empty((n, width)) for _ in range(3))

    def __call__(self) -> np.ndarray:
        """Return the force on every body, [3, n, S]; the array is reused by the next call."""
        n = self.positions.shape[1]
        self.place[:, :n] = self.place[:, n:] = self.positions
        self.total.fill(0.0)
        self.back.fill(0.0)
        for distance in range(1, n // 2 + 1):
            length = n if 2 * distance < n else n // 2  # the ring of opposite bodies has each pair twice
            second = slice(distance, distance + length)
            force = self._pull(length, second, (distance - 1) * n)
            for own, other, f in zip(self.total, self.back, force, strict=True):
                own[:length] += f
                other[second] += f
        self.total -= self.back[:, :n]
        self.total -= self.back[:, n:]
        self.total *= self.factor
        if self.system.limited:
            limit_forces(self.total, self.limit, self.clip)
        return self.total

    def _pull(self, length: int, second: slice, start: int) -> np.ndarray:
        """Force on the first body of each pair of a ring, [3, length, S]; ``start`` is the ring's first pair."""
        offset, cube, root = self.offset[:, :length], self.cube[:length], self.root[:length]
        for place, out in zip(self.place, offset, strict=True):
            np.subtract(place[:length], place[second], out=out)
        if self.charge is None:
            assert self.pairs is not None
            coupling = self.pairs[start : start + length]
        else:
            coupling = np.multiply(self.charge[:length], self.charge[second], out=root)
        if self.system.inverse_square:
            np.multiply(offset[0], offset[0], out=cube)
            work = self.work[:length]
            for component in offset[1:]:
                np.multiply(component, component, out=work)
                np.add(cube, work, out=cube)
            if self.system.softening:
                np.add(cube, self.system.softening**2, out=cube)
            np.sqrt(cube, out=work)
            np.multiply(cube, work, out=cube)
            coupling = np.divide(coupling, cube, out=cube)
        for component in offset:
            np.multiply(component, coupling, out=component)
        return offset
