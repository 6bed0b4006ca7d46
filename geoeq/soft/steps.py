"""The step that an optimizer makes per unit of gradient: the step size of the proximal step beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["StepSizes"]

REFRESH = 40


class StepSizes(nn.Module):
    r"""Step per unit of gradient of each weight: the learning rate, and for Adam and its kin

    .. math:: \eta = \frac{lr}{\sqrt{\overline{v}} + \epsilon}

    with v the optimizer's running square of the gradient (its largest for AMSGrad, the sum for Adagrad, the square of
    the running maximum for Adamax), averaged over the weight. For these, step sizes are looked at anew in every
    fortieth step only, for v runs over a thousand steps and hardly moves in forty; until then the same tensor is
    returned. Of any other optimizer, and for a weight that it has not stepped yet, it is the learning rate. With the
    momentum m of SGD and RMSprop the rate counts :math:`1/(1 - m)` times, as it does for a gradient that lasts.

    Args:
        parameters: the attached weights.

    Attributes:
        age: steps since strengths were set.
        begun: whether a step was made.
    """

    steps: Tensor

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_ = parameters
        device = parameters[0].device
        self.register_buffer("steps", torch.zeros(len(parameters), dtype=torch.float64, device=device))
        self.age, self.begun = 0, False
        self._adaptive = False

    @property
    def is_due(self) -> bool:
        """Whether step sizes are looked at anew in this step."""
        return self.age % REFRESH == 0

    def has_past(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer remembers steps before the one just made."""
        return any(float(optimizer.state.get(p, {}).get("step", 0)) > 1 for p in self.parameters_)

    def forward(self, optimizer: Optimizer) -> Tensor:
        """Step sizes ``[maps]``, float64.

        Raises:
            ValueError: if ``optimizer`` does not hold every attached weight.
        """
        if self._adaptive and not self.is_due:
            return self.steps
        squares = [_square_of(optimizer.state.get(p, {})) for p in self.parameters_]
        self._adaptive = any(square is not None for square in squares)
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        own = [groups[id(p)] for p in self.parameters_ if id(p) in groups]
        missing = len(self.parameters_) - len(own)
        if missing:
            raise ValueError(
                f"optimizer must hold every attached weight, {missing} of {len(self.parameters_)} are missing"
            )
        rates = self._per_weight([rate_of(group) for group in own])
        if not self._adaptive:
            return rates
        sizes = self._root_mean_square(optimizer, own)
        least = self._per_weight([group.get("eps", 0.0) for group in own])
        known = torch.tensor([square is not None for square in squares], device=rates.device)
        self.steps = torch.where(known, rates / (sizes + least), rates)
        return self.steps

    def _per_weight(self, numbers: list[float]) -> Tensor:
        return torch.tensor([float(number) for number in numbers], dtype=torch.float64, device=self.steps.device)

    def _root_mean_square(self, optimizer: Optimizer, groups: list[dict[str, Any]]) -> Tensor:
        """Of the gradients of each weight; 0 of those that the optimizer has not stepped yet."""
        counts, squares = [], []
        for parameter, group in zip(self.parameters_, groups, strict=True):
            state = optimizer.state.get(parameter, {})
            square = _square_of(state)
            squares.append(parameter.new_zeros(1) if square is None else square)
            # the running mean of Adam started from zero, that of the others has no correction
            seen = 1.0 - group["betas"][1] ** float(state["step"]) if "exp_avg_sq" in state else 1.0
            counts.append(parameter.numel() * seen)
        sums = torch.stack(torch._foreach_norm(squares, 1)).double()
        return (sums / self._per_weight(counts)).sqrt()

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.steps = self.steps.double()
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.age, self.begun, self._adaptive])

    def set_extra_state(self, state: Tensor) -> None:
        self.age, self.begun, self._adaptive = int(state[0]), bool(state[1]), bool(state[2])


def rate_of(group: Mapping[str, Any]) -> float:
    """The learning rate, times what momentum that adds up makes of it (the running mean of Adam does not)."""
    momentum = group.get("momentum", 0.0)
    return (
        float(group["lr"]) * (1.0 - group.get("dampening", 0.0)) / (1.0 - momentum) if momentum else float(group["lr"])
    )


def _square_of(state: Mapping[str, Any]) -> Tensor | None:
    """The running square of the gradient that an optimizer divides by, entry by entry; None where it has none."""
    for name in ("max_exp_avg_sq", "exp_avg_sq", "square_avg", "sum"):
        if name in state:
            return state[name]
    return state["exp_inf"].square() if "exp_inf" in state else None
