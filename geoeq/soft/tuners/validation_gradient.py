"""Strengths that descend the validation loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geoeq.soft.bank import WeightBank
from geoeq.soft.tuners.base import Loss, Tuner, uniform

__all__ = ["ValidationGradient"]


class ValidationGradient(Tuner):
    r"""Strengths that descend the loss on held-out data, one per weight and term.

    The next proximal step moves a weight by :math:`-\eta\lambda (I - P_k) W`, so to first order

    .. math:: \frac{\partial L_{val}}{\partial \lambda_k} = -\eta\, \langle \nabla_W L_{val}, (I - P_k) W \rangle ,

    one inner product and no second derivative. The logarithm of a strength moves by ``rate`` times the running mean
    of that product over its running root mean square: by ``rate`` where validation batches agree, hardly where they
    contradict each other. The size of the optimizer's step cancels.

    Show it gradients of the validation loss before each tuning::

        optimizer.zero_grad()
        validation_loss.backward()
        soft.observe_validation()
        optimizer.zero_grad()
        soft.tune(progress, n_samples)

    Args:
        rate: the largest change of the logarithm of a strength at a tuning, > 0.
        window: number of tunings over which mean and root mean square run, >= 1; 1 follows the sign alone.
        strength: the strength at the start.
        maximum: the largest strength.
        floor: the least strength, > 0.

    Source: one-step hyper-gradient in the manner of Luketina et al., arXiv 1511.06727.
    """

    split = True
    pending: Tensor
    batches: Tensor
    mean: Tensor
    second: Tensor
    tunings: Tensor

    def __init__(
        self,
        rate: float = 0.2,
        *,
        window: int = 5,
        strength: float = 1.0,
        maximum: float = 1e3,
        floor: float = 1e-8,
    ) -> None:
        super().__init__()
        if not rate > 0:
            raise ValueError(f"rate must be greater than 0, got {rate}")
        if window < 1:
            raise ValueError(f"window must be at least 1 tuning, got {window}")
        if not 0 < floor <= strength <= maximum:
            raise ValueError(f"0 < floor <= strength <= maximum must hold, got {floor}, {strength}, {maximum}")
        self.rate, self.window, self.strength = rate, window, strength
        self.maximum, self.floor = maximum, floor

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        for name in ("pending", "mean", "second"):
            self.register_buffer(name, torch.zeros_like(bank.codim))
        for name in ("batches", "tunings"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))
        return uniform(bank, self.strength)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ValidationGradient:
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.is_floating_point():  # squares of small products outrun half precision
                setattr(self, name, buffer.double())
        return self

    def observe_validation(self, bank: WeightBank, grads: Tensor) -> None:
        self.pending += bank.inner(grads, bank.flat().detach()).double()
        self.batches += 1

    def update(
        self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int, loss: Loss | None = None
    ) -> Tensor:
        if not int(self.batches):
            if int(self.tunings):  # validated less often than tuned
                return strengths
            raise ValueError(
                "ValidationGradient has seen no validation gradient: call soft.observe_validation() after "
                "validation_loss.backward() and before soft.tune()"
            )
        product = self.pending / self.batches
        share = 1.0 / self.window
        self.mean.lerp_(product, share)
        self.second.lerp_(product.square(), share)
        self.pending.zero_()
        self.batches.zero_()
        self.tunings += 1
        seen = 1.0 - (1.0 - share) ** int(self.tunings)
        size = (self.second / seen).sqrt()
        direction = torch.where(size > 0, self.mean / seen / size, torch.zeros_like(size))
        moved = strengths * (self.rate * direction.clamp(-1.0, 1.0)).exp()
        return torch.where(bank.codim > 0, moved.clamp(self.floor, self.maximum), torch.zeros_like(moved))
