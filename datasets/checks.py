"""Checks of arguments: one line that names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise a one-line ValueError that names the argument unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {got!r}")


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError unless value is one of the names."""
    choices = sorted(choices)
    require(isinstance(value, str) and value in choices, name, f"one of {choices}", value)


def require_count(name: str, value: object, minimum: int) -> None:
    """Raise ValueError unless value is an integer of at least ``minimum``."""
    valid = type(value) is not bool and isinstance(value, Integral) and int(value) >= minimum
    require(valid, name, f"an integer >= {minimum}", value)


def require_counts(name: str, values: object, length: int, minimum: int) -> None:
    """Raise ValueError unless values is a sequence of so many integers of at least ``minimum``."""
    if not isinstance(values, Sequence) or len(values) != length:
        raise ValueError(f"{name} must be a sequence of {length} integers, got {values!r}")
    for value in values:
        require_count(name, value, minimum)


def require_rising(name: str, values: object, below: int) -> None:
    """Raise ValueError unless values is a sequence of two or more rising integers from 0 on, all below ``below``."""
    expected = f"two or more rising frames below {below}"
    if not isinstance(values, Sequence) or len(values) < 2:
        raise ValueError(f"{name} must be {expected}, got {values!r}")
    for value in values:
        require_count(name, value, 0)
    rising = all(first < second for first, second in pairwise(values)) and values[-1] < below
    require(rising, name, expected, values)


def require_steps(name: str, value: object) -> list[int]:
    """Steps ahead, rising from 1; a number F is short for 1, ..., F. Raise ValueError for anything else."""
    expected = "a number from 1, or rising steps from 1"
    if type(value) is not bool and isinstance(value, Integral):
        require(int(value) >= 1, name, expected, value)
        return list(range(1, int(value) + 1))
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    whole = all(type(step) is not bool and isinstance(step, Integral) for step in value)
    require(whole and all(a < b for a, b in pairwise([0, *value])), name, expected, value)
    return [int(step) for step in value]
