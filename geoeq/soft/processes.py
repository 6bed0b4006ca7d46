"""Numbers that the processes of a distributed training must agree on."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["mean_over_processes", "over_processes"]


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes; as it is where there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def over_processes(loss: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """Mean loss and number of samples over all processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return loss, batch_size
    both = mean_over_processes(torch.stack([loss.double(), loss.new_tensor(batch_size, dtype=torch.float64)]))
    return both[0], round(float(both[1]) * distributed.get_world_size())
