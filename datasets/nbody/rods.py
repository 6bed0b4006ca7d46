"""Bodies joined in parts: sticks of two bodies and hinges of three, with elastic or exactly rigid rods."""

from __future__ import annotations

import numpy as np

from geoeq.datasets.nbody.forces import dot
from geoeq.datasets.nbody.parts import Objects, part_sizes, rods


class ElasticRods:
    """Adds the force -stiffness (|s| - rest) s / |s| along every rod s; arrays [3, n, S]."""

    def __init__(self, positions: np.ndarray, stiffness: float, objects: Objects = None) -> None:
        self.first, self.second = rods(positions.shape[1], objects)
        self.stiffness = stiffness
        self.rest = self._lengths(positions[:, self.first] - positions[:, self.second])

    @staticmethod
    def _lengths(rod: np.ndarray) -> np.ndarray:
        return np.sqrt(dot(rod, rod))

    def add_force(self, positions: np.ndarray, force: np.ndarray) -> None:
        """Add the rods' force in place; each body is at most once a first and once a second end."""
        rod = positions[:, self.first] - positions[:, self.second]
        pull = self.stiffness * (self.rest / self._lengths(rod) - 1.0) * rod
        force[:, self.first] += pull
        force[:, self.second] -= pull


class RigidRods:
    """Changes velocities by impulses along the rods so that the coming drift keeps every length (SHAKE).

    The impulse along a stick solves a quadratic equation in closed form; the two of a hinge solve two coupled
    ones by Newton's method with a 2 x 2 solve in closed form. Both are symmetric (momentum is conserved), and
    since each step aims at the initial length itself, rounding errors do not build up.
    """

    # Impulses are of order dt, and Newton's method squares the error: four rounds reach float64 precision.
    newton_rounds = 5

    def __init__(self, positions: np.ndarray, objects: Objects = None) -> None:
        sizes = np.array(part_sizes(positions.shape[1], objects))
        starts = np.cumsum(sizes) - sizes
        self.stick, self.hinge = starts[sizes == 2], starts[sizes == 3]
        first, pivot, last = self.hinge, self.hinge + 1, self.hinge + 2
        self._stick_square = self._squares(positions, self.stick, self.stick + 1)
        self._hinge_squares = (self._squares(positions, first, pivot), self._squares(positions, last, pivot))

    @staticmethod
    def _squares(positions: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        rod = positions[:, first] - positions[:, second]
        return dot(rod, rod)

    def constrain(self, positions: np.ndarray, moves: np.ndarray) -> None:
        """Correct ``moves`` (velocity times dt, [3, n, S]) so that positions + moves keeps all lengths."""
        if len(self.stick):
            self._constrain_sticks(positions, moves)
        if len(self.hinge):
            self._constrain_hinges(positions, moves)

    def _constrain_sticks(self, positions: np.ndarray, moves: np.ndarray) -> None:
        first, second = self.stick, self.stick + 1
        rod = positions[:, first] - positions[:, second]
        free = rod + (moves[:, first] - moves[:, second])
        # |free + 2 g rod|^2 = length^2, root of smaller modulus in the form without cancellation.
        excess = dot(free, free) - self._stick_square
        along = dot(rod, free)
        impulse = -excess / (2.0 * (along + np.sqrt(along * along - dot(rod, rod) * excess))) * rod
        moves[:, first] += impulse
        moves[:, second] -= impulse

    def _constrain_hinges(self, positions: np.ndarray, moves: np.ndarray) -> None:
        first, pivot, last = self.hinge, self.hinge + 1, self.hinge + 2
        rod_a = positions[:, first] - positions[:, pivot]
        rod_b = positions[:, last] - positions[:, pivot]
        free_a = rod_a + (moves[:, first] - moves[:, pivot])
        free_b = rod_b + (moves[:, last] - moves[:, pivot])
        square_a, square_b = self._hinge_squares
        g_a, g_b = np.zeros_like(square_a), np.zeros_like(square_b)
        for _ in range(self.newton_rounds):
            new_a = free_a + 2.0 * g_a * rod_a + g_b * rod_b
            new_b = free_b + g_a * rod_a + 2.0 * g_b * rod_b
            excess_a = dot(new_a, new_a) - square_a
            excess_b = dot(new_b, new_b) - square_b
            aa, ab = 4.0 * dot(new_a, rod_a), 2.0 * dot(new_a, rod_b)
            ba, bb = 2.0 * dot(new_b, rod_a), 4.0 * dot(new_b, rod_b)
            determinant = aa * bb - ab * ba
            g_a -= (excess_a * bb - excess_b * ab) / determinant
            g_b -= (excess_b * aa - excess_a * ba) / determinant
        impulse_a, impulse_b = g_a * rod_a, g_b * rod_b
        moves[:, first] += impulse_a
        moves[:, last] += impulse_b
        moves[:, pivot] -= impulse_a + impulse_b
