"""What the data would lose without what a weight has been let go to do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from geoeq.soft.bank import WeightBank

__all__ = ["Slopes"]


class Direction(NamedTuple):
    """What a term forbids in a weight: which weight and term, its entries in the joint vector as a unit vector."""

    place: tuple[int, int]
    start: int
    stop: int
    unit: Tensor


class Slopes(nn.Module):
    r"""Running moments of the slope of the loss along what open terms forbid in the weights as they are.

    With :math:`\Delta` that part of a weight, the loss would change by :math:`\tfrac12 \Delta^T H \Delta - g^T \Delta`
    without it. The mean of the slopes of single steps along :math:`\Delta` is the slope g, and their variance gives the
    curvature H. Unlike the variances of single entries it knows of entries that act together: c of them that carry one
    break look like c small ones by themselves.

    Args:
        bank: the weights.
        window: number of noted steps over which the moments run.

    Attributes:
        open: 1 where a term is followed in a weight, ``[maps, terms]``.
        size: :math:`|\Delta|` at the last :meth:`refresh`.
    """

    open: Tensor
    size: Tensor
    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, bank: WeightBank, window: int) -> None:
        super().__init__()
        self.window = window
        for name in ("open", "size", "mean", "square", "seen"):
            self.register_buffer(name, torch.zeros_like(bank.codim))
        self._directions: list[Direction] | None = None  # a function of the weights: made anew after loading

    def observe(self, bank: WeightBank, grads: Tensor) -> None:
        """Note the slopes of one step, from its gradient ``grads [entries]``."""
        if self._directions is None:
            self.refresh(bank)
        if not self._directions:
            return
        slopes = torch.stack([grads[d.start : d.stop].dot(d.unit) for d in self._directions]).to(self.mean)
        weights, terms = torch.tensor([d.place for d in self._directions], device=slopes.device).unbind(1)
        for moment, new in ((self.mean, slopes), (self.square, slopes.square()), (self.seen, torch.ones_like(slopes))):
            moment[weights, terms] = torch.lerp(moment[weights, terms], new, 1.0 / self.window)

    def refresh(self, bank: WeightBank) -> None:
        """Take the directions from the weights as they are; a weight that has not moved yet has none."""
        flat, ends = bank.flat().detach(), torch.tensor([0, *bank.sizes]).cumsum(0).tolist()
        self._directions = []
        self.size.zero_()
        for term in self.open.any(0).nonzero().squeeze(1).tolist():
            part = bank.part(flat, term)
            for weight in self.open[:, term].nonzero().squeeze(1).tolist():
                own = part[ends[weight] : ends[weight + 1]]
                size = float(own.norm())
                if size > 0.0:
                    self.size[weight, term] = size
                    self._directions.append(Direction((weight, term), ends[weight], ends[weight + 1], own / size))

    def follow(self, open_: Tensor) -> None:
        """Follow the terms that are ``open_ [maps, terms]`` from now on, and forget the others."""
        self.open.copy_(open_)
        for moment in (self.mean, self.square, self.seen):
            moment.mul_(self.open)
        self._directions = [d for d in self._directions or [] if bool(self.open[d.place])]

    def loss_without(self, scale: float) -> Tensor:
        """What the loss would gain without what each open term allows, ``[maps, terms]``; 0 for the others.

        Args:
            scale: curvature per variance of the gradient between batches.
        """
        seen = self.seen.clamp(min=torch.finfo(self.seen.dtype).tiny)
        slope = self.mean / seen
        curvature = scale * (self.square / seen - slope.square()).clamp(min=0.0)
        return 0.5 * curvature * self.size.square() - slope * self.size

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self._directions = None
        return self
