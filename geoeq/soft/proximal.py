"""The proximal step and the projection of gradients beside it, made ready once and used until something changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

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
    """A step of all weights, and of those that need it after projected gradients.

    ``open`` tells whether it depends on ``sizes`` at all: not where every strength is infinite or zero.
    """

    sizes: Tensor
    open: bool
    whole: Shrinkage
    rest: Shrinkage

    def is_for(self, sizes: Tensor) -> bool:
        return not self.open or self.sizes is sizes


class _Setting(NamedTuple):
    """What follows from strengths alone.

    Attributes:
        strengths: what it follows from.
        hard: the same, infinite where a term is held.
        unsettled: the weights that have to be shrunk even after projected gradients, ``[maps]``.
        hold: the projection on what is held; None if nothing is.
    """

    strengths: _Version
    hard: Tensor
    unsettled: Tensor
    hold: Shrinkage | None


class ProximalStep:
    """Steps of a bank of weights.

    Args:
        bank: the weights.
        held: from this strength on a term is projected, as if its strength were infinite.
        loose: weights, ``[maps]``, that were not held in some step. What an optimizer remembers of that step (momentum,
            the size of each entry's gradients) would move them, so that they are shrunk in every step. Kept up to date
            in place.
    """

    def __init__(self, bank: WeightBank, held: float, loose: Tensor) -> None:
        self.bank, self.held, self.loose = bank, held, loose
        self._known: _Setting | None = None
        self._ready: _Ready | None = None
        self._projected = False

    def holds(self, strengths: Tensor) -> bool:
        """Whether some term is held by ``strengths [maps, terms]``."""
        return self._setting(strengths).hold is not None

    def loosen(self) -> None:
        """Take every weight for one that was not held in some step."""
        self.loose.fill_(True)
        self._known = None

    def project(self, strengths: Tensor, grads: Tensor) -> bool:
        """Take what is held out of the joint gradient ``grads``, in place; False if nothing is held."""
        hold = self._setting(strengths).hold
        if hold is None:
            return False
        self.bank.shrink(grads, hold, centred=False)
        self._projected = True
        return True

    def __call__(self, strengths: Tensor, sizes: Callable[[], Tensor], *, sweep: bool) -> None:
        """Make the step with ``strengths [maps, terms]`` on the weights.

        Args:
            strengths: of the terms.
            sizes: finds the step sizes ``[maps]``, where they are needed.
            sweep: whether weights that projected gradients leave where they belong are taken, too, for what rounding
                has left.
        """
        setting = self._setting(strengths)
        ready, rests = self._ready, self._projected and not sweep
        self._projected = False
        if ready is not None and rests and not ready.rest.weights:
            return
        found = sizes()
        if ready is None or not ready.is_for(found):
            ready, rests = self._prepare(setting, found), False
        self._ready = ready
        self.bank.prox(ready.rest if rests else ready.whole)

    def _prepare(self, setting: _Setting, sizes: Tensor) -> _Ready:
        whole = self.bank.prepare(setting.hard, sizes)
        is_open = bool(((setting.hard > 0) & setting.hard.isfinite()).any())
        return _Ready(sizes, is_open, whole, self.bank.restrict(whole, setting.unsettled))

    def _setting(self, strengths: Tensor) -> _Setting:
        """What follows from ``strengths``, anew only if they have changed."""
        if self._known is None or not self._known.strengths.is_of(strengths):
            is_held = strengths >= self.held
            hard = strengths.masked_fill(is_held, math.inf)
            hold = self.bank.prepare(torch.where(is_held, hard, 0.0), torch.ones_like(hard[:, 0]))
            self.loose |= ((self.bank.codim > 0) & ~is_held).any(1)
            unsettled = self.bank.unsettled(hard) | (self.loose & (self.bank.codim > 0).any(1))
            self._known = _Setting(_Version.of(strengths), hard, unsettled, hold if bool(is_held.any()) else None)
            self._ready = None
        return self._known
