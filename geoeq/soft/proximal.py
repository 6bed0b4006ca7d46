"""The proximal step and the projection of gradients beside it, made ready once and used until something changes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors as unflatten

from geoeq.soft.bank import Shrinkage, WeightBank

__all__ = ["ProximalStep"]


class _Version(NamedTuple):
    """A tensor as it was."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Version:
        return cls(tensor, tensor._version)

    def is_of(self, tensor: Tensor) -> bool:
        return tensor is self.tensor and tensor._version == self.version


class _Ready(NamedTuple):
    """A step of all weights, and of those that need it after projected gradients."""

    strengths: _Version
    sizes: Tensor
    whole: Shrinkage
    rest: Shrinkage


class ProximalStep:
    """Steps of a bank of weights.

    Args:
        bank: the weights.
        held: from this strength on a term is projected, as if its strength were infinite.
    """

    def __init__(self, bank: WeightBank, held: float) -> None:
        self.bank, self.held = bank, held
        self._ready: _Ready | None = None
        self._hold: tuple[_Version, Shrinkage | None] | None = None
        self._projected = False

    def holds(self, strengths: Tensor) -> bool:
        """Whether some term is held by ``strengths [maps, terms]``."""
        return self._holding(strengths) is not None

    def project_gradients(self, strengths: Tensor, grads: Tensor) -> None:
        """Take what is held out of the gradients of the weights, whose joint vector ``grads`` is used up."""
        hold = self._holding(strengths)
        if hold is None:
            return
        pieces = unflatten(self.bank.shrink(grads, hold, centred=False), self.bank.parameters_)
        for parameter, piece in zip(self.bank.parameters_, pieces, strict=True):
            if parameter.grad is not None:
                parameter.grad = piece
        self._projected = True

    def __call__(self, strengths: Tensor, sizes: Tensor) -> None:
        """Make the step with ``strengths [maps, terms]`` and step ``sizes [maps]`` on the weights."""
        ready = self._ready
        if ready is None or ready.sizes is not sizes or not ready.strengths.is_of(strengths):
            ready = self._ready = self._prepare(strengths, sizes)
            self.bank.prox(ready.whole)  # also takes off what rounding has left since the last time
        else:
            self.bank.prox(ready.rest if self._projected else ready.whole)
        self._projected = False

    def _prepare(self, strengths: Tensor, sizes: Tensor) -> _Ready:
        hard = strengths.masked_fill(strengths >= self.held, math.inf)
        whole = self.bank.prepare(hard, sizes)
        return _Ready(_Version.of(strengths), sizes, whole, self.bank.restrict(whole, self.bank.unsettled(hard)))

    def _holding(self, strengths: Tensor) -> Shrinkage | None:
        """The projection on what is held, anew only if strengths have changed; None if nothing is held."""
        if self._hold is None or not self._hold[0].is_of(strengths):
            held = torch.zeros_like(strengths).masked_fill(strengths >= self.held, math.inf)
            ready = self.bank.prepare(held, torch.ones_like(held[:, 0])) if bool(held.any()) else None
            self._hold = _Version.of(strengths), ready
        return self._hold[1]
