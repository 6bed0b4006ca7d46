"""The step that an optimizer makes per unit of gradient: the step size of the proximal step beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["StepSizes"]

REFRESH = 10


class StepSizes(nn.Module):
    r"""Step per unit of gradient of each weight: the learning rate, and for Adam and its kin

    .. math:: \eta = \frac{lr}{\sqrt{\overline{v}} + \epsilon}

    with v the optimizer's running square of the gradient, averaged over the weight and looked at anew every tenth
    call: it runs over a thousand steps and hardly moves in ten.

    Args:
        parameters: the attached weights.
    """

    size: Tensor
    age: Tensor

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_ = parameters
        device = parameters[0].device
        self.register_buffer("size", torch.zeros(len(parameters), dtype=torch.float64, device=device))
        self.register_buffer("age", torch.zeros((), dtype=torch.long))

    def forward(self, optimizer: Optimizer) -> Tensor:
        """Step sizes ``[maps]``, float64.

        Raises:
            ValueError: if ``optimizer`` does not hold every attached weight.
        """
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        own = [groups[id(p)] for p in self.parameters_ if id(p) in groups]
        missing = len(self.parameters_) - len(own)
        if missing:
            raise ValueError(
                f"optimizer must hold every attached weight, {missing} of {len(self.parameters_)} are missing"
            )
        rates = torch.tensor([float(group["lr"]) for group in own], dtype=torch.float64, device=self.size.device)
        if "exp_avg_sq" not in optimizer.state.get(self.parameters_[0], {}):
            return rates
        if int(self.age) % REFRESH == 0:
            self.size.copy_(self._root_mean_square(optimizer, [group["betas"][1] for group in own]))
        self.age += 1
        return rates / (self.size + own[0]["eps"])

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
        self.size, self.age = self.size.double(), self.age.cpu()
        return self
