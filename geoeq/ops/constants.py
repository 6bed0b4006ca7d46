"""Constants that are made once, whoever asks for them first."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["constants"]

Made = TypeVar("Made")


def constants(make: Callable[..., Made]) -> Callable[..., Made]:
    """Cache of a function whose tensors depend on its (hashable) arguments alone.

    They are made outside of all modes and transforms, for what a tracer or torch.func makes dies with it, and would
    be found by all that ask later. ``cache_clear()`` forgets them, ``__wrapped__`` is the function itself.

    >>> ones = constants(lambda n: torch.ones(n))
    >>> ones(3) is ones(3)
    True
    """
    known: dict[tuple[Any, ...], Made] = {}

    @wraps(make)
    def made(*args: Any) -> Made:
        if args not in known:
            with _disable_current_modes(), torch._C._DisableFuncTorch(), torch.inference_mode(False), torch.no_grad():
                known[args] = make(*args)
        return known[args]

    made.cache_clear = known.clear  # type: ignore[attr-defined]
    return made
