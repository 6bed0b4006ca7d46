"""Strengths that maximise the evidence of the training data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geoeq.soft.bank import Coordinates, WeightBank
from geoeq.soft.tuners.base import Loss, Tuner, uniform

__all__ = ["Evidence"]

SIGMAS = 4.0
EARLY = 500.0
# shares of the largest gain: below MINOR a break is not worth giving up a symmetry, above RIVAL it may explain the same
MINOR, RIVAL = 0.01, 0.1
FAINT = 0.05  # a level that is not worth keeping on faint evidence


class Pull(NamedTuple):
    r"""What the data say of every coordinate.

    Attributes:
        square: :math:`N \kappa\, q^2`.
        curvature: h.
    """

    square: Coordinates
    curvature: Coordinates


class Evidence(Tuner):
    r"""Strengths that maximise the evidence of the training data, one per weight and term.

    What a term forbids in a weight, c coordinates :math:`w_i`, has the prior :math:`N(0, 1/\lambda)`. To second
    order the loss says :math:`w_i \approx q_i / h_i` with curvature :math:`h_i`; then :math:`\lambda = \bar h / (\rho -
    1)` has the most evidence, infinity if :math:`\rho \le 1`, with

    .. math:: \rho = \frac1c \sum_i \frac{N \kappa\, q_i^2}{h_i} .

    :math:`\rho` compares the pull of the data with its own sampling noise: 1 is what pure noise gives, and on data
    that have the symmetry the pull vanishes in every step of the training, not only at its end. So a weight is let go
    when ``margin`` times the noise is exceeded (more for a few coordinates, :func:`noise_limit`, and for samples that
    are not ``independent``) and it gains at least a hundredth of what the most telling one gains,
    :math:`\tfrac c2 (\rho - 1 - \log\rho)` nats of log evidence (after ``patience``: one that is still held). It is
    called back below the root of ``margin``, unless the loss that ``tune`` can evaluate suffers without it (where it
    can evaluate none: unless its level is above 0.05). An untrained network pulls on whatever correlates with what it
    has not learned yet: in the first part ``patience`` of the training the gain must exceed a bound, 500 nats (times
    ``independent``) at the start and falling to 0 along a line. Many weights can explain one break: one goes per
    tuning, among rivals, whose gains are within a factor ten, the last in the order of modules, because all that comes
    before it stays exact. It sets off with a step along its pull, as long as serves the loss that ``tune`` can
    evaluate: it has been held while all others learned.
    Coordinates of one term differ in curvature, so from the strength above the fixed point of the evidence (MacKay) is
    approached by one step per tuning.

    Curvature and pull come from running moments of the gradient (the diagonal of the empirical Fisher matrix, with the
    correction for batches that are drawn without replacement). The loss is read as a mean squared error over N samples
    of n targets: :math:`\kappa = n / (2\,loss)`.

    Args:
        margin: how far the pull must exceed its noise before a symmetry is given up, > 1; its root keeps it given up.
        patience: share of the training in which weak evidence is not acted on; 0 for none.
        window: number of noted gradients over which the moments run.
        every: gradients are noted on every such step.
        rate: share of the way that the logarithm of a strength moves at each tuning.
        maximum: the strength that stands for infinity; from half of it on the proximal step projects.
        floor: the least strength.
        independent: share of the samples that tell something of their own, for example 0.1 where the windows of a
            recording overlap tenfold: what pure noise can reach is larger by as much, and both the :math:`\rho` from
            which gains are counted and the bound of ``patience`` are less. None: 1, until a training that knows its
            data says otherwise.

    Raises:
        ValueError: from ``tune``, if no gradient was shown or a batch holds all samples, so that no noise shows.

    Source: MacKay, Neural Computation 4 (1992) 415; Tipping and Faul, AISTATS 2003, equation 20.
    """

    split = True
    mean: Tensor
    second: Tensor
    loss: Tensor

    def __init__(
        self,
        *,
        margin: float = 10.0,
        patience: float = 0.3,
        window: int = 50,
        every: int = 2,
        rate: float = 0.7,
        maximum: float = 1e3,
        floor: float = 1e-8,
        independent: float | None = None,
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
        if not 0 <= patience <= 1:
            raise ValueError(f"patience must lie in [0, 1], got {patience}")
        if independent is not None and not 0 < independent <= 1:
            raise ValueError(f"independent must lie in (0, 1], got {independent}")
        self.independent = independent
        self.margin, self.patience, self.window, self.every = margin, patience, window, every
        self.rate, self.maximum, self.floor = rate, maximum, floor
        # a finite strength leaves a leak, which a network can learn to amplify
        self.held = maximum / 2
        self._forget()

    def _forget(self) -> None:
        self.calls = self.noted = self.batch_size = self.n_targets = 0

    def initial(self, bank: WeightBank, names: list[str]) -> Tensor:
        entries = bank.flat().detach()
        self.register_buffer("mean", torch.zeros_like(entries))
        self.register_buffer("second", torch.zeros_like(entries))
        self.register_buffer("loss", torch.zeros((), dtype=torch.float64))
        self._forget()
        return uniform(bank, self.maximum)

    def wants_gradients(self) -> bool:
        self.calls += 1
        return self.calls % self.every == 0

    def observe(self, bank: WeightBank, grads: Tensor, loss: Tensor, batch_size: int, n_targets: int) -> None:
        share = 1.0 / self.window
        self.mean.lerp_(grads, share)
        self.second.mul_(1.0 - share).addcmul_(grads, grads, value=share)
        self.loss.lerp_(loss.to(self.loss), share)
        self.noted += 1
        self.batch_size, self.n_targets = batch_size, n_targets

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.calls, self.noted, self.batch_size, self.n_targets])

    def set_extra_state(self, state: Tensor) -> None:
        self.calls, self.noted, self.batch_size, self.n_targets = state.tolist()

    def update(
        self, bank: WeightBank, strengths: Tensor, progress: float, n_samples: int, loss: Loss | None = None
    ) -> Tensor:
        if not self.calls:
            raise ValueError(
                "Evidence has seen no gradients: call soft.observe(loss, batch_size) between loss.backward() and "
                "optimizer.step()"
            )
        if not self.batch_size < n_samples:
            raise ValueError(
                f"batch_size must be less than n_samples={n_samples} for Evidence, got {self.batch_size}: "
                "the noise of the gradient shows only between batches"
            )
        if self.noted < self.window:
            return strengths
        pull = self._pull(bank, n_samples)
        ratio, curvature = self._ratio(bank, pull)
        ratio = self._with_losses(bank, ratio, strengths, n_samples, loss)
        start = curvature / (ratio - 1.0).clamp(min=self.margin - 1.0)
        fixed_point = self._fixed_point(bank, pull, torch.minimum(strengths, start).clamp(min=self.floor))
        let_go = self._let_go(bank, ratio, strengths, progress)
        wanted = torch.where(let_go, torch.minimum(start, fixed_point), self.maximum)
        wanted = wanted.nan_to_num(self.maximum).clamp(self.floor, self.maximum)
        moved = torch.lerp(strengths.clamp(min=self.floor).log(), wanted.log(), self.rate).exp()
        if loss is not None:
            self._set_off(bank, (strengths >= self.held) & (moved < self.held), curvature, loss)
        return torch.where(bank.codim > 0, moved, torch.zeros_like(moved))

    def _let_go(self, bank: WeightBank, ratio: Tensor, strengths: Tensor, progress: float) -> Tensor:
        """Which terms are to have a finite strength, ``[maps, terms]``."""
        is_open = (strengths < self.held) & (bank.codim > 0)
        independent = self.independent or 1.0
        noise = noise_limit(bank.codim) / independent
        limit = torch.where(is_open, self._least_open(bank), noise.clamp(min=self.margin))
        counted = torch.where(is_open, ratio, independent * ratio)
        gain = 0.5 * bank.codim * (counted - 1.0 - counted.clamp(min=1.0).log())  # of log evidence, in nats
        gain = torch.where(ratio > limit, gain, 0.0)
        asked = torch.where(is_open, 0.0, gain)
        if progress < self.patience:
            least = EARLY * independent * (1.0 - progress / self.patience)
            convincing = (gain > MINOR * gain.max()) & (gain > least)
        else:  # what was let go has been learned, and is no measure of what is left
            convincing = gain > torch.where(is_open, 0.0, MINOR * asked.max())
        return convincing & (is_open | _last_rival(torch.where(convincing, asked, 0.0)))

    def _set_off(self, bank: WeightBank, opened: Tensor, curvature: Tensor, loss: Loss) -> None:
        """Make up for the time in which the terms ``opened [maps, terms]`` were held: one descent along their pull."""
        for weight in opened.any(1).nonzero().flatten().tolist():
            terms = opened[weight].nonzero().flatten().tolist()
            pulls = [bank.part(self.mean, term, centred=False) / curvature[weight, term] for term in terms]
            bank.descend(weight, bank.of_weight(-torch.stack(pulls).sum(0) / self._seen(), weight), loss)

    def pull(self, bank: WeightBank, n_samples: int) -> tuple[Tensor, Tensor]:
        r"""The ratio :math:`\rho` and the mean curvature :math:`\bar h`, each ``[maps, terms]``, float64."""
        return self._ratio(bank, self._pull(bank, n_samples))

    def _pull(self, bank: WeightBank, n_samples: int) -> Pull:
        seen = self._seen()
        kappa, drawn = self._scales(n_samples)
        mean = self.mean.double() / seen
        spread = (self.second.double() / seen - mean.square()).clamp(min=0.0)
        least = torch.finfo(torch.float32).tiny
        curvature = bank.variances(kappa * drawn * spread).combined(lambda h: h.clamp(min=least))
        pulls = bank.coordinates(bank.flat().detach().double()).combined(
            lambda w, g, h: n_samples * kappa * (h * w - g).square(), bank.coordinates(mean, centred=False), curvature
        )
        return Pull(pulls, curvature)

    def _with_losses(
        self, bank: WeightBank, ratio: Tensor, strengths: Tensor, n_samples: int, loss: Loss | None
    ) -> Tensor:
        """``ratio``, replaced by what the data would lose where a weight is to be called back."""
        doubtful = (strengths < self.held) & (bank.codim > 0) & (ratio < self._least_open(bank))
        if not bool(doubtful.any()):
            return ratio
        if loss is None:
            keeps = bank.levels(bank.flat().detach()) > FAINT
            return torch.where(doubtful & keeps, self.margin, ratio)
        found, present = ratio.clone(), loss()
        scale = 2.0 * n_samples * self._scales(n_samples)[0] / bank.codim.clamp(min=1.0)
        for weight, term in doubtful.nonzero().tolist():
            with bank.without(weight, term):
                found[weight, term] = scale[weight, term] * (loss() - present)
        return torch.maximum(ratio, found)

    def _least_open(self, bank: WeightBank) -> Tensor:
        """The ratio below which what was let go is called back, ``[maps, terms]``."""
        return noise_limit(bank.codim).clamp(min=self.margin**0.5)

    def _scales(self, n_samples: int) -> tuple[float, float]:
        r""":math:`\kappa`, and the number of independent samples in a batch: those without replacement share some."""
        drawn = self.batch_size / (1.0 - self.batch_size / n_samples)
        least = torch.finfo(torch.float32).tiny  # the loss of a network that fits all samples to the last bit is 0
        return self.n_targets * self._seen() / (2.0 * max(float(self.loss), least)), drawn

    def _seen(self) -> float:
        """What the gradients count for in the moments, beside the 0 that they started from."""
        return 1.0 - (1.0 - 1.0 / self.window) ** self.noted

    @staticmethod
    def _ratio(bank: WeightBank, pull: Pull) -> tuple[Tensor, Tensor]:
        codim = bank.codim.clamp(min=1.0)
        ratios = pull.square.combined(torch.div, pull.curvature)
        return bank.over_terms(ratios) / codim, bank.over_terms(pull.curvature) / codim

    @staticmethod
    def _fixed_point(bank: WeightBank, pull: Pull, strengths: Tensor) -> Tensor:
        r"""One step of MacKay's iteration, well-determined coordinates over squared weights, ``[maps, terms]``."""
        own = bank.of_terms(strengths)
        determined = pull.curvature.combined(lambda h, s: h / (h + s), own)
        squares = pull.square.combined(lambda q, h, s: q / (h + s).square(), pull.curvature, own)
        return bank.over_terms(determined) / bank.over_terms(squares)


def _last_rival(gain: Tensor) -> Tensor:
    """The last weight whose gain is of the order of the largest, as a mask ``[maps, 1]``; ``gain [maps, terms]``."""
    largest = gain.amax(1, keepdim=True)
    rivals = (largest > 0) & (largest >= RIVAL * largest.max())
    return rivals & (rivals.flip(0).cumsum(0).flip(0) == 1)


def noise_limit(codim: Tensor) -> Tensor:
    r"""What pure noise in ``codim`` coordinates exceeds with probability :math:`3\cdot10^{-5}`.

    The mean of c squared normal numbers at four standard deviations (Wilson and Hilferty, PNAS 17 (1931) 684): 1 for
    many coordinates, but 19 for one, so that a small bias is not given up in one tuning of many.
    """
    spread = 2.0 / (9.0 * codim.clamp(min=1.0))
    return (1.0 + SIGMAS * spread.sqrt() - spread) ** 3
