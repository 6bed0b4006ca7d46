"""What is forbidden in a weight, measured by what the data pass through it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoeq.soft.bank import WeightBank
from geoeq.soft.typed_layer import TypedLayer

__all__ = ["DataMeasure"]


class DataMeasure(nn.Module):
    r"""Squared residuals of typed layers, weighed by the running second moment of their inputs.

    With M the running mean of :math:`(x, 1)(x, 1)^T` over the rows that reach a layer in training mode, and W its
    weight and bias side by side, term t counts

    .. math:: \frac{n}{\mathrm{tr}\, M}\, \mathrm{tr}\big[(W - P_t W)\, M\, (W - P_t W)^T\big],

    where n is the number of columns of W. For M a multiple of the identity that is :math:`\|W - P_t W\|^2`.

    Args:
        layers: the layers, whose inputs are noted by hooks. Compiled code passes hooks by.
        bank: their weights, in the same order.
        momentum: share of each call in the running mean.

    Source: the data-weighted operator penalty; arXiv 2306.00356 weighs all inputs alike.
    """

    def __init__(self, layers: Sequence[TypedLayer], bank: WeightBank, *, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self._bank = (bank,)  # in a tuple, not as a submodule: it is saved elsewhere
        self._maps = [[m.parameter.shape for m in layer.maps] for layer in layers]
        self._handles = []
        for number, layer in enumerate(layers):
            width = sum(shape[1] if len(shape) > 1 else 1 for shape in self._maps[number])
            moment = torch.eye(width, dtype=layer.maps[0].parameter.dtype, device=layer.maps[0].parameter.device)
            self.register_buffer(f"moment_{number}", moment)
            self.register_buffer(f"calls_{number}", torch.zeros((), dtype=torch.long))
            self._handles.append(layer.module.register_forward_pre_hook(self._listener(number)))

    def _listener(self, number: int):  # type: ignore[no-untyped-def]
        @torch.no_grad()
        def listen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not module.training:
                return
            moment, calls = getattr(self, f"moment_{number}"), getattr(self, f"calls_{number}")
            x = args[0].detach().reshape(-1, args[0].shape[-1]).to(moment)
            if moment.shape[1] > x.shape[1]:
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            if len(x):
                # the first call takes the place of the identity
                moment.lerp_(x.T @ x / len(x), self.momentum if int(calls) else 1.0)
                calls += 1

        return listen

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def squared_residuals(self, flat: Tensor, strengths: Tensor | None = None) -> Tensor:
        """What each term forbids, ``[layers, terms]``; differentiable in the joint vector ``flat`` of the weights.

        Args:
            flat: the weights.
            strengths: ``[maps, terms]``; with them what is forbidden in each weight counts times its own, and what is
                forbidden in a weight and its bias together times the root of both. Without, all count once.
        """
        (bank,) = self._bank
        roots = None if strengths is None else strengths.sqrt().to(flat)
        rows = []
        for term in range(len(bank.terms)):
            pieces = bank.part(flat, term).split(bank.sizes)
            own = iter(pieces if roots is None else [p * root for p, root in zip(pieces, roots[:, term], strict=True)])
            parts = [torch.cat([next(own).view(*s[:1], -1) for s in shapes], 1) for shapes in self._maps]
            moments = [getattr(self, f"moment_{number}") for number in range(len(parts))]
            rows.append(torch.stack([self._weighed(p, m) for p, m in zip(parts, moments, strict=True)]))
        return torch.stack(rows, 1)

    @staticmethod
    def _weighed(part: Tensor, moment: Tensor) -> Tensor:
        scale = len(moment) / moment.trace().clamp(min=torch.finfo(moment.dtype).tiny)
        return scale * ((part @ moment) * part).sum()
