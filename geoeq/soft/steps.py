"""The step that an optimizer makes per unit of gradient: the step size of the proximal step beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["StepSizes"]

REFRESH = 20


class StepSizes(nn.Module):
    r"""Step per unit of gradient of each weight: the learning rate, and for Adam and its kin

    .. math:: \eta = \frac{lr}{\sqrt{\overline{v}} + \epsilon}

    with v the optimizer's running square of the gradient, averaged over the weight. For these, step sizes are looked at
    anew in every twentieth step only, for v runs over a thousand steps and hardly moves in twenty; until then the same
    tensor is returned.

    Args:
        parameters: the attached weights.

    Attributes:
        age: steps since strengths were set.
    """

    steps: Tensor

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_ = parameters
        device = parameters[0].device
        self.register_buffer("steps", torch.zeros(len(parameters), dtype=torch.float64, device=device))
        self.age = 0

    @property
    def is_due(self) -> bool:
        """Whether step sizes are looked at anew in this step."""
        return self.age % REFRESH == 0

    def forward(self, optimizer: Optimizer) -> Tensor:
        """Step sizes ``[maps]``, float64.

        Raises:
            ValueError: if ``optimizer`` does not hold every attached weight.
        """
        adaptive = "exp_avg_sq" in optimizer.state.get(self.parameters_[0], {})
        if adaptive and not self.is_due:
            return self.steps
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        own = [groups[id(p)] for p in self.parameters_ if id(p) in groups]
        missing = len(self.parameters_) - len(own)
        if missing:
            raise ValueError(
                f"optimizer must hold every attached weight, {missing} of {len(self.parameters_)} are missing"
            )
        if not adaptive:
            return self._per_weight([group["lr"] for group in own])
        sizes = self._root_mean_square(optimizer, [group["betas"][1] for group in own])
        rates, least = (self._per_weight([group[key] for group in own]) for key in ("lr", "eps"))
        self.steps = rates / (sizes + least)
        return self.steps

    def _per_weight(self, numbers: list[float]) -> Tensor:
        return torch.tensor([float(number) for number in numbers], dtype=torch.float64, device=self.steps.device)

    def _root_mean_square(self, optimizer: Optimizer, betas: list[float]) -> Tensor:
        states = [optimizer.state[p] for p in self.parameters_]
        sums = torch.stack(torch._foreach_norm([state["exp_avg_sq"] for state in states], 1)).double()
        counts = [
            p.numel() * (1.0 - beta ** float(state["step"]))
            for p, beta, state in zip(self.parameters_, betas, states, strict=True)
        ]
        return (sums / torch.tensor(counts, dtype=torch.float64, device=sums.device)).sqrt()

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.steps = self.steps.double()
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.age)

    def set_extra_state(self, state: Tensor) -> None:
        self.age = int(state)
