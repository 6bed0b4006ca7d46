"""The gradients of several weights as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["JointGradient"]


class JointGradient:
    """The gradients of ``parameters`` copied into one vector, which can then take their place.

    The vector is made once: at the size of a network a new one per step costs more than the work on it.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self._vector: Tensor | None = None
        self._parts: list[Tensor] = []

    def gather(self) -> Tensor:
        """The gradients as they are, zero where there is none; overwritten by the next call."""
        vector = self._room()
        own: list[tuple[Tensor, Tensor]] = []
        for part, parameter in zip(self._parts, self.parameters, strict=True):
            if parameter.grad is None:
                part.zero_()
            else:
                own.append((part, parameter.grad))
        if own:
            torch._foreach_copy_([part for part, _ in own], [grad for _, grad in own])
        return vector

    def give_back(self) -> None:
        """Let the parts of the vector be the gradients of the weights that have one."""
        for parameter, part in zip(self.parameters, self._parts, strict=True):
            if parameter.grad is not None:
                parameter.grad = part

    def _room(self) -> Tensor:
        first = self.parameters[0]
        if self._vector is None or self._vector.device != first.device or self._vector.dtype != first.dtype:
            self._vector = torch.empty(sum(p.numel() for p in self.parameters), device=first.device, dtype=first.dtype)
            pieces = self._vector.split([p.numel() for p in self.parameters])
            self._parts = [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]
        return self._vector
