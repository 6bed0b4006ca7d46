"""Which bodies are joined by rods: sticks of two bodies and hinges of three."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Objects = Sequence[int] | None


def part_sizes(n_bodies: int, objects: Objects = None) -> list[int]:
    """Bodies in each part: 1 is isolated, 2 a stick, 3 a hinge.

    Args:
        n_bodies: number of bodies.
        objects: numbers of isolated bodies, sticks and hinges, which follow each other in this order. None for stick,
            hinge, stick, hinge, ... as far as the bodies go; the rest forms a smaller part.

    Example:
        >>> part_sizes(8), part_sizes(10, (3, 2, 1))
        ([2, 3, 2, 1], [1, 1, 1, 2, 2, 3])
    """
    if objects is not None:
        return [size for size, count in enumerate(objects, start=1) for _ in range(count)]
    sizes: list[int] = []
    while sum(sizes) < n_bodies:
        sizes.append(min(2 + len(sizes) % 2, n_bodies - sum(sizes)))
    return sizes


def part_ids(n_bodies: int, objects: Objects = None) -> np.ndarray:
    """Part of each body, [n], as :func:`part_sizes` says.

    Example:
        >>> part_ids(5).tolist(), part_ids(8).tolist()
        ([0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 2, 2, 3])
    """
    sizes = part_sizes(n_bodies, objects)
    return np.repeat(np.arange(len(sizes)), sizes)


def rods(n_bodies: int, objects: Objects = None) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the rods, two arrays [R]: neighbours inside one part (a hinge turns about its middle body).

    Example:
        >>> [ends.tolist() for ends in rods(5)]
        [[0, 2, 3], [1, 3, 4]]
    """
    part = part_ids(n_bodies, objects)
    first = np.flatnonzero(part[:-1] == part[1:])
    return first, first + 1
