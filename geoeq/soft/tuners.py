"""What sets the strengths: one tuner, one class.

A tuner sees the attached weights through their :class:`~geoeq.soft.bank.WeightBank` and returns a strength for each
weight and each symmetry. Its own running numbers are buffers, so they are saved with the model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from geoeq.soft.bank import WeightBank

__all__ = ["Evidence", "Fixed", "OneShot", "Tuner"]


class Tuner(nn.Module, ABC):
    """Base of all tuners."""

    @abstractmethod
    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        """Prepare for ``bank`` and return the strengths to start with, ``[maps, symmetries]``."""

    def wants_gradients(self) -> bool:
        """Whether the gradient of this step shall be shown to :meth:`observe`."""
        return False

    def observe(self, bank: WeightBank, grads: Tensor, loss: Tensor, batch_size: int, n_targets: int) -> None:
        """Take note of one step's gradient ``grads [entries]`` (nothing to note by default)."""

    @abstractmethod
    def update(self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int) -> Tensor:
        """New strengths after a share ``progress`` of the training, ``[maps, symmetries]``."""


def _uniform(bank: WeightBank, strength: float) -> Tensor:
    return torch.where(bank.codim > 0, torch.full_like(bank.codim, strength), torch.zeros_like(bank.codim))


class Fixed(Tuner):
    """Strengths that never change.

    Args:
        strength: the multiplier of every penalty, in units of the loss per squared weight.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if not strength >= 0:
            raise ValueError(f"strength must be >= 0, got {strength}")
        self.strength = strength

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        return _uniform(bank, self.strength)

    def update(self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int) -> Tensor:
        return strengths


class OneShot(Tuner):
    r"""The published rule: one adjustment of one strength per symmetry, in the middle of training.

    With :math:`R_k = \sum_\ell \tfrac12 \|W_\ell - P_k W_\ell\|^2`, noted once per call of ``tune`` during the last
    part before ``at`` (the note is replaced whenever one of its entries falls), the strengths become once

    .. math:: \lambda_k \leftarrow \lambda_k \, / \, (R_k / \min_j R_j)^\gamma .

    Args:
        strength: :math:`\lambda` of every symmetry at the start.
        gamma: how sharply a violated symmetry loses its strength.
        at: share of the training after which the adjustment is made.
        window: share of ``at``, before it, in which R is noted.
        largest: name of the largest group, whose strength is 0 because the others together imply it; or None.

    Source: Kim et al., arXiv 2306.00356, and its released settings.
    """

    noted: Tensor
    done: Tensor

    def __init__(
        self,
        strength: float = 1.0,
        *,
        gamma: float = 2.0,
        at: float = 0.25,
        window: float = 0.5,
        largest: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 < at < 1:
            raise ValueError(f"at must lie between 0 and 1, got {at}")
        if not 0 < window <= 1:
            raise ValueError(f"window must lie in (0, 1], got {window}")
        self.strength, self.gamma, self.at, self.window, self.largest = strength, gamma, at, window, largest

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        if self.largest is not None and self.largest not in names:
            raise ValueError(f"largest must be one of {names}, got {self.largest!r}")
        chosen = [name != self.largest for name in names]
        self.register_buffer("candidate", torch.tensor(chosen), persistent=False)
        self.register_buffer("noted", torch.full((len(names),), math.inf, dtype=torch.float64))
        self.register_buffer("done", torch.tensor(False))
        return _uniform(bank, self.strength) * self.candidate  # type: ignore[operator]

    def update(self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int) -> Tensor:
        if self.done:
            return strengths
        residuals = 0.5 * bank.squared_residuals(bank.flat()).double().sum(0)
        if progress >= self.at * (1 - self.window) and bool((residuals < self.noted).any()):
            self.noted.copy_(residuals)
        if progress < self.at:
            return strengths
        self.done.fill_(True)
        candidate: Tensor = self.candidate  # type: ignore[assignment]
        floor = self.noted[candidate].min().clamp(min=torch.finfo(torch.float64).tiny)
        ratio = (self.noted.clamp(min=float(floor)) / floor) ** self.gamma
        return strengths / ratio


class Evidence(Tuner):
    r"""Strengths that maximise the evidence of the training data, one per weight and symmetry.

    What symmetry k forbids in a weight, c coordinates :math:`w_i`, has the prior :math:`N(0, 1/\lambda)`. To second
    order the loss says :math:`w_i \approx q_i / h_i` with curvature :math:`h_i`; the evidence then has its maximum at

    .. math:: \lambda = \frac{\bar h}{\rho - 1}, \qquad \rho = \frac1c \sum_i \frac{N \kappa\, q_i^2}{h_i}
        \quad\text{if } \rho > 1, \qquad \lambda = \infty \quad\text{else.}

    :math:`\rho` compares the pull of the data with its own sampling noise: 1 is what pure noise gives, and on data that
    have the symmetry the pull vanishes in every step of the training, not only at its end. So a weight is let go when
    ``margin`` times the noise is exceeded, and is called back when the pull turns out to be noise.
    Curvature and pull come from running moments of the gradient (the diagonal of the empirical Fisher matrix).
    The loss is read as a mean squared error over N samples of n targets: :math:`\kappa = n / (2\,loss)`.

    Args:
        margin: how far the pull must exceed its noise before a symmetry is given up, > 1.
        window: number of noted gradients over which the moments run.
        every: gradients are noted on every such step.
        rate: share of the way that the logarithm of a strength moves at each tuning.
        maximum: the strength that stands for infinity.
        floor: the least strength.

    Source: MacKay, Neural Computation 4 (1992) 415; Tipping and Faul, AISTATS 2003, equation 20.
    """

    mean: Tensor
    second: Tensor
    weight: Tensor
    loss: Tensor
    sizes: Tensor

    def __init__(
        self,
        *,
        margin: float = 4.0,
        window: int = 50,
        every: int = 2,
        rate: float = 0.5,
        maximum: float = 1e3,
        floor: float = 1e-8,
    ) -> None:
        super().__init__()
        if not margin > 1:
            raise ValueError(f"margin must be greater than 1, got {margin}")
        if window < 2:
            raise ValueError(f"window must be at least 2 steps, got {window}")
        if not 0 < rate <= 1:
            raise ValueError(f"rate must lie in (0, 1], got {rate}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.margin, self.window, self.every = margin, window, every
        self.rate, self.maximum, self.floor = rate, maximum, floor

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        entries = bank.flat().detach()
        self.register_buffer("mean", torch.zeros_like(entries))
        self.register_buffer("second", torch.zeros_like(entries))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("loss", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sizes", torch.ones(2, dtype=torch.float64))
        return _uniform(bank, self.maximum)

    def wants_gradients(self) -> bool:
        self.calls += 1  # type: ignore[assignment, operator]
        return int(self.calls) % self.every == 0  # type: ignore[arg-type]

    def observe(self, bank: WeightBank, grads: Tensor, loss: Tensor, batch_size: int, n_targets: int) -> None:
        share = 1.0 / self.window
        self.mean.lerp_(grads, share)
        self.second.lerp_(grads.square(), share)
        self.loss.lerp_(loss.to(self.loss), share)
        self.steps += 1  # type: ignore[assignment, operator]
        self.sizes[0], self.sizes[1] = batch_size, n_targets

    def update(self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int) -> Tensor:
        if not int(self.calls):  # type: ignore[arg-type]
            raise ValueError(
                "Evidence has seen no gradients: call soft.observe(loss, batch_size) between loss.backward() and "
                "optimizer.step()"
            )
        if int(self.steps) < self.window:  # type: ignore[arg-type]
            return strengths
        ratio, curvature = self.pull(bank, n_samples)
        wanted = torch.where(ratio > self.margin, curvature / (ratio - 1), torch.full_like(ratio, self.maximum))
        wanted = wanted.nan_to_num(self.maximum).clamp(self.floor, self.maximum)
        moved = torch.lerp(strengths.clamp(min=self.floor).log(), wanted.log(), self.rate).exp()
        return torch.where(bank.codim > 0, moved, torch.zeros_like(moved))

    def pull(self, bank: WeightBank, n_samples: int) -> tuple[Tensor, Tensor]:
        r"""The ratio :math:`\rho` and the mean curvature :math:`\bar h`, each ``[maps, symmetries]``, float64."""
        steps = int(self.steps)  # type: ignore[arg-type]
        seen = 1.0 - (1.0 - 1.0 / self.window) ** steps
        batch_size, n_targets = self.sizes.tolist()
        kappa = n_targets / (2.0 * float(self.loss) / seen)
        mean = self.mean / seen
        curvature = kappa * batch_size * (self.second / seen - mean.square()).clamp(min=0.0)
        weights = bank.flat().detach()
        ratio = torch.zeros_like(bank.codim)
        total = torch.zeros_like(bank.codim)
        for kind in bank.kinds:
            w = kind.coordinates(weights).double()
            g = kind.coordinates(mean, centred=False).double()
            h = (curvature[kind.index] @ kind.frame.square()).double()
            forbidden = kind.forbidden.double().T
            share = n_samples * kappa * (h * w - g).square() / h.clamp(min=torch.finfo(torch.float32).tiny)
            ratio.index_add_(0, kind.owner, share @ forbidden)
            total.index_add_(0, kind.owner, h @ forbidden)
        codim = bank.codim.clamp(min=1.0)
        return ratio / codim, total / codim
