"""What the symmetry knobs do to the forces of a chunk of trajectories."""

from __future__ import annotations

import numpy as np

from geoeq.datasets.nbody.forces import dot
from geoeq.datasets.nbody.protocol import AXES, Protocol


class Knobs:
    """Changes the force on every body in place, in units of the time step: velocity v dt, force F dt^2.

    Args:
        protocol: strengths of the knobs.
        positions: [3, n, S], read again at every call.
        moves: [3, n, S], velocities times dt, read again at every call.
    """

    def __init__(self, protocol: Protocol, positions: np.ndarray, moves: np.ndarray) -> None:
        self.protocol, self.positions, self.moves = protocol, positions, moves
        self.unit = protocol.scale * protocol.dt**2
        self.axis = AXES[protocol.axis]

    def __call__(self, force: np.ndarray) -> None:
        """Add what the knobs ask for; ``force`` holds the interaction alone."""
        protocol, unit = self.protocol, self.unit
        if protocol.anisotropy:
            force[self.axis] *= 1.0 + protocol.anisotropy
        if protocol.chiral and protocol.chiral_form == "triple":
            force += self._triple(force)
        if protocol.field:
            force[self.axis] += protocol.field * unit
        if protocol.trap:
            force -= protocol.trap * unit * self.positions
        if protocol.drag:
            force -= protocol.drag * unit / protocol.dt * self.moves
        if protocol.chiral and protocol.chiral_form == "field":
            # v x e_axis has v of the axis after the next along the next, and minus v of the next along that one.
            following, last = (self.axis + 1) % 3, (self.axis + 2) % 3
            strength = protocol.chiral * unit / protocol.dt
            force[following] += strength * self.moves[last]
            force[last] -= strength * self.moves[following]

    def _triple(self, force: np.ndarray) -> np.ndarray:
        """chiral F s / (1 + |s|) d / (1 + d^2)^(1/2), with s = d . (u x f); see :class:`Protocol`."""
        dt = self.protocol.dt
        d = self.positions - _mean(self.positions)
        u = (self.moves - _mean(self.moves)) / dt
        f = force / dt**2
        x, y, z = d
        triple = x * (u[1] * f[2] - u[2] * f[1]) + y * (u[2] * f[0] - u[0] * f[2]) + z * (u[0] * f[1] - u[1] * f[0])
        size = triple / (1.0 + np.abs(triple)) / np.sqrt(1.0 + dot(d, d))
        return self.protocol.chiral * self.unit * size * d


def _mean(values: np.ndarray) -> np.ndarray:
    # Summed body by body: the order of NumPy's own reduction depends on the number of trajectories in the chunk.
    total = np.zeros_like(values[:, :1])
    for body in range(values.shape[1]):
        total += values[:, body : body + 1]
    return total / values.shape[1]
