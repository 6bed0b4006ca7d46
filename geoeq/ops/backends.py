"""Which implementation an operation runs on: one choice, made in one place.

Plain torch always works and is the reference. ``torch_scatter`` is taken where it is installed, Triton where the
tensors are on a GPU. :func:`use_backend` overrules both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "BACKENDS",
    "choose_backend",
    "needs_plain_torch",
    "readable",
    "stands_for_many",
    "transforms_active",
    "use_backend",
]

BACKENDS = ("torch", "torch_scatter", "triton")
_INSTALLED = {name: find_spec(name) is not None for name in BACKENDS}
# Not thread-local: autograd runs backward passes of a GPU in a thread of its own.
_override: str | None = None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operation inside on the named backend; operations that lack it run on plain torch.

    Args:
        name: "torch", "torch_scatter" or "triton". Off a GPU, Triton needs ``TRITON_INTERPRET=1`` in the
            environment before it is first imported.

    Raises:
        ValueError: the backend is unknown or not installed.

    >>> from geoeq.ops.segment import segment
    >>> with use_backend("torch"):
    ...     segment(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 3]))
    tensor([3., 4.])
    """
    global _override
    if name not in BACKENDS or not _INSTALLED[name]:
        installed = [known for known in BACKENDS if _INSTALLED[known]]
        raise ValueError(f"backend must be one of those installed, {installed}, got {name!r}")
    before, _override = _override, name
    try:
        yield
    finally:
        _override = before


def choose_backend(tensor: Tensor, *offered: str) -> str:
    """The backend for ``tensor`` among "torch" and those ``offered``, the best first."""
    for name in offered:
        usable = _INSTALLED[name] and (name != "triton" or tensor.is_cuda)
        if name == _override or (_override is None and usable):
            return name
    return "torch"


def interpreting() -> bool:
    """Whether Triton kernels run on the CPU, number by number, as tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def stands_for_many(gradient: Tensor) -> bool:
    """Whether ``gradient`` is one of a batch that torch differentiates at once, of which it sees its own operations."""
    return torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(gradient)


def needs_plain_torch() -> bool:
    """Whether a transform is at work that sees through torch's own operations only: export, vmap, dual numbers."""
    if torch.compiler.is_exporting():
        return True
    return not torch.compiler.is_compiling() and transforms_active()


def readable(values: Tensor) -> bool:
    """Whether a number may be read back: it would break a compiled graph or a transform, and stall a GPU."""
    return not (torch.compiler.is_compiling() or values.is_cuda or transforms_active())


def transforms_active() -> bool:
    """Whether torch.func or forward-mode differentiation is at work."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
