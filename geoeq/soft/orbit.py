"""The orbit penalty: moving the input must move the output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from geoeq.groups import Group
from geoeq.reps import Rep
from geoeq.soft.action import flow, move, new_numbers
from geoeq.soft.functional import FunctionalPenalty, Network, Reps

__all__ = ["OrbitPenalty"]

Motion: TypeAlias = Callable[[Rep | None, Any], Any]


class OrbitPenalty(FunctionalPenalty):
    r"""How far outputs on an orbit differ from the moved output,

    .. math:: R = \frac{E_g \|f(g x) - g f(x)\|^2}{2\,\|f(x)\|^2}

    for elements g drawn anew at each call. For a compact group of orthogonal matrices and inputs whose distribution
    it preserves, R is the share :math:`\|f - P f\|^2 / \|f\|^2` of f outside its symmetric part: 0 for an
    equivariant network, 1 for one without symmetric part. Not relative, it is :math:`E_g\|f(gx) - g f(x)\|^2 / 2`
    per number of the output.

    A module that draws random numbers (dropout) or updates statistics in its forward pass does so anew in each
    replay. Where elements permute numbered nodes, integer arguments ``[2, E]`` are edges, and their numbers follow.
    With soft parts, memberships ``part [N, parts]``, elements are exponentials of blended twists with standard normal
    coefficients.

    Args:
        group: the symmetry, or its text.
        rep_in: how the first argument, or each of the first arguments, answers; None for one that does not move.
        rep_out: how the output, or each output, answers.
        n_samples: elements drawn at each call.
        seed: of the elements.
        relative: whether to divide by the size of the output.
        stacked: whether all samples go through the network in one call. Rows are then stacked on axis 0, and with
            them the other arguments: integer ``[2, E]`` as edges and integer ``[N]`` as graph numbers, both counted
            on from sample to sample, other tensors as they are. Right for graphs and for rows that do not see each
            other, wrong for a network that mixes all rows.

    Shapes: called as ``penalty(network, x, *rest, part=None)`` with ``x [..., rep_in.dim]``; returns a scalar.

    Source: arXiv 2306.00356 (measured on orbits); the label form is arXiv 2410.17878.

    >>> penalty = OrbitPenalty("SO(3)", "1x1o", "1x1o", n_samples=4)
    >>> x = torch.randn(7, 3, dtype=torch.float64)
    >>> bool(penalty(lambda x: 2 * x, x) < 1e-12), bool(penalty(lambda x: x.abs(), x) > 0.1)
    (True, True)
    """

    def __init__(
        self,
        group: Group | str,
        rep_in: Reps,
        rep_out: Reps,
        *,
        n_samples: int = 1,
        seed: int = 0,
        relative: bool = True,
        stacked: bool = False,
    ) -> None:
        super().__init__(group, rep_in, rep_out, n_samples=n_samples, seed=seed, relative=relative)
        self.stacked = stacked

    def errors(self, network: Network, args: tuple[Any, ...], part: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        motions = self._motions(args, part)
        outputs = self.outputs(network(*args))
        moved_outputs = self._moved_outputs(network, args, motions)
        return [
            (found - motion(rep, output)) / 2**0.5
            for motion, moved in zip(motions, moved_outputs, strict=True)
            for found, output, rep in zip(moved, outputs, self.reps_out, strict=True)
        ], outputs

    def of_labels(
        self,
        network: Network,
        target: Tensor,
        *args: Any,
        loss: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.mse_loss,
        part: Tensor | None = None,
    ) -> Tensor:
        r"""The label form, :math:`E_g\,\ell(f(g x), g y)`: augmentation as a term of its own.

        It pulls towards the symmetrised target where the labels break the symmetry, so prefer the penalty itself
        for a symmetry that is not certain.

        Args:
            network: any callable with one output.
            target: labels y, which answer as ``rep_out``.
            args: what the network is called with.
            loss: of a prediction and a target.
            part: as in the call of the penalty.
        """
        part = part if self.group.elements_per_part else None
        motions = self._motions(args, part)
        predictions = self._moved_outputs(network, args, motions)
        (rep,) = self.reps_out
        losses = [loss(found[0], motion(rep, target)) for found, motion in zip(predictions, motions, strict=True)]
        return torch.stack(losses).mean()

    def _motions(self, args: tuple[Any, ...], part: Tensor | None) -> list[Motion]:
        """What each drawn element does to features of a representation."""
        moving, _ = self.split_args(args)
        soft = part is not None and part.is_floating_point()
        if soft:
            like = next(x for x, rep in zip(moving, self.reps_in, strict=True) if rep is not None)
            drawn = [self.draw_coefficients(part, like) for _ in range(self.n_samples)]
        else:
            drawn = list(self.group.sample(self.n_samples, generator=self.generator))

        def motion(element: Tensor, rep: Rep | None, x: Any) -> Any:
            if rep is None:
                return renumbered(self.group, element, x)
            return (flow if soft else move)(self.group, rep, x, element, part=part)

        return [partial(motion, element) for element in drawn]

    def _moved_outputs(self, network: Network, args: tuple[Any, ...], motions: list[Motion]) -> list[list[Tensor]]:
        """The outputs at the inputs moved by each element."""
        moving, rest = self.split_args(args)
        inputs = [
            tuple(motion(rep, x) for rep, x in zip((*self.reps_in, *[None] * len(rest)), moving + rest, strict=True))
            for motion in motions
        ]
        if not self.stacked or len(inputs) == 1:
            return [self.outputs(network(*own)) for own in inputs]
        found = self.outputs(network(*stack_calls(inputs)))
        chunks = [output.chunk(len(inputs)) for output in found]
        return [list(own) for own in zip(*chunks, strict=True)]


def renumbered(group: Group, element: Tensor, x: Any) -> Any:
    """Edges, integers ``[2, E]``, after the nodes that they join where ``element`` permutes numbered nodes."""
    edges = isinstance(x, Tensor) and x.dim() == 2 and len(x) == 2 and not (x.is_floating_point() or x.is_complex())
    if not edges or not group.moves_nodes or x.dtype == torch.bool:
        return x
    places = group.places(element)
    return x if places is None else new_numbers(x, places)


def stack_calls(calls: list[tuple[Any, ...]]) -> list[Any]:
    """The arguments of several calls as those of one: rows one after the other, edges and graphs counted on."""
    rows = len(calls[0][0])
    return [stack_argument(list(values), rows) for values in zip(*calls, strict=True)]


def stack_argument(values: list[Any], rows: int) -> Any:
    first = values[0]
    if not isinstance(first, Tensor) or not first.dim():
        return first
    integer = not (first.is_floating_point() or first.dtype == torch.bool)
    if integer and first.dim() == 2 and len(first) == 2:
        return torch.cat([edges + rows * k for k, edges in enumerate(values)], dim=1)
    if integer and first.dim() == 1 and len(first) == rows:
        graphs = int(first.max()) + 1 if rows else 0
        return torch.cat([batch + graphs * k for k, batch in enumerate(values)])
    return torch.cat(values)
