"""Penalties on what a network does rather than on its weights: for any callable whose ends have declared reps.

:class:`FunctionalPenalty` is the frame: it knows which arguments and outputs answer to the symmetry, how large outputs
are, and where random elements come from. What is compared with what is said by
:class:`~geoeq.soft.OrbitPenalty` and :class:`~geoeq.soft.LiePenalty`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor, nn

from geoeq.groups import Group, parse
from geoeq.reps import Irreps, LogSizeCopy, PositionCopy, Rep, as_rep, segments
from geoeq.soft.action import move, part_count

__all__ = ["Call", "FunctionalPenalty", "Network", "Reps", "recorded_calls"]

Network: TypeAlias = Callable[..., Any]
Reps: TypeAlias = "Rep | str | Sequence[Rep | str | None] | None"


def as_reps(reps: Reps) -> tuple[Rep | None, ...]:
    """One representation or several, each parsed; None stays, for what no element moves."""
    if reps is None or isinstance(reps, str | Irreps) or not isinstance(reps, Sequence):
        return (None if reps is None else as_rep(reps),)
    return tuple(None if rep is None else as_rep(rep) for rep in reps)


class FunctionalPenalty(nn.Module, ABC):
    """How far a network is from equivariant on given inputs, as a term of the loss.

    Args:
        group: the symmetry, or its text.
        rep_in: how the first argument of the network answers, or, as a sequence, each of its first arguments; None
            for one that does not move. Further arguments are passed on as they are; an orbit renumbers edges.
        rep_out: how the output answers, or each of several outputs.
        n_samples: elements drawn at each call.
        seed: of the elements; the state of the generator is saved with the module.
        relative: whether to divide by the size of the output, so that shrinking the output does not help;
            gradients pass through the size as well.

    Raises:
        ValueError: if the group moves neither the inputs nor the outputs, so that nothing could be found.
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
    ) -> None:
        super().__init__()
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        self.group = parse(group)
        self.reps_in, self.reps_out = as_reps(rep_in), as_reps(rep_out)
        self.n_samples, self.relative = n_samples, relative
        self.generator = Generator().manual_seed(seed)
        if not any(rep is not None and moves(self.group, rep) for rep in (*self.reps_in, *self.reps_out)):
            raise ValueError(f"group must move rep_in or rep_out, but {self.group} leaves both alone")

    def forward(self, network: Network, *args: Any, part: Tensor | None = None) -> Tensor:
        """Mean over the drawn elements of the squared error, relative to the squared size of the output; a scalar.

        Args:
            network: any callable.
            args: what it is called with.
            part: part of each row of the arguments that move, ``[N]``, or memberships ``[N, parts]``, float; only
                groups that act part by part use it.
        """
        errors, outputs = self.errors(network, args, part if self.group.elements_per_part else None)
        wrong = torch.stack([error.square().sum() / self.n_samples for error in errors]).sum()
        if not self.relative:
            return wrong / max(sum(output.numel() for output in outputs), 1)
        return wrong / size_of(outputs, self.reps_out, self.group)

    @abstractmethod
    def errors(self, network: Network, args: tuple[Any, ...], part: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """The errors of all drawn elements, and the outputs ``[..., rep_out.dim]`` at the inputs themselves."""

    def split_args(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The arguments that ``rep_in`` speaks of, and the rest."""
        count = len(self.reps_in)
        if len(args) < count:
            raise ValueError(f"args must have at least {count} for rep_in, got {len(args)}")
        for x, rep in zip(args, self.reps_in):
            if rep is not None and not isinstance(x, Tensor):
                found = type(x).__name__
                raise ValueError(f"args must be tensors where rep_in says how they answer, got {found}")
        return args[:count], args[count:]

    def outputs(self, found: Any) -> list[Tensor]:
        """What the network returned, one tensor for each of ``rep_out``."""
        outputs = list(found) if isinstance(found, tuple | list) else [found]
        if len(outputs) != len(self.reps_out):
            raise ValueError(f"network must return {len(self.reps_out)} tensors for rep_out, got {len(outputs)}")
        return outputs

    def draw_coefficients(self, part: Tensor | None, like: Tensor) -> Tensor:
        """Standard normal coefficients of the generators, ``[d]``, or ``[parts, d]``."""
        count, parts = len(self.group.generators), part_count(self.group, part)
        shape = (count,) if parts is None else (parts, count)
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(like)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())

    def extra_repr(self) -> str:
        return f"{self.group}, {self.reps_in} -> {self.reps_out}, n_samples={self.n_samples}"


def moves(group: Group, rep: Rep) -> bool:
    """Whether some element changes features of ``rep``."""
    found = segments(rep, group.n)
    width = found[-1].stop if found else 0
    probe = torch.linspace(-1.0, 1.0, width + 2, dtype=torch.float64)[1:-1].expand(1, width)
    part = torch.zeros(1, dtype=torch.long) if group.elements_per_part else None
    elements = group.sample(2, generator=Generator().manual_seed(0))
    return any(not torch.allclose(move(group, rep, probe, g, part=part), probe) for g in elements)


def size_of(outputs: Sequence[Tensor], reps: Sequence[Rep | None], group: Group) -> Tensor:
    """Sum of squares of all outputs, those that can be shifted taken about their mean over rows; at least tiny.

    A far origin of positions would otherwise hide any error.
    """
    total = outputs[0].new_zeros(())
    for output, rep in zip(outputs, reps, strict=True):
        rows = output.reshape(-1, output.shape[-1]) if output.dim() else output.reshape(1, 1)
        for segment in segments(rep, group.n) if rep is not None and len(rows) > 1 else ():
            if isinstance(segment.copy, PositionCopy | LogSizeCopy):
                own = rows[:, segment.start : segment.stop]
                total = total - len(own) * own.mean(0).square().sum()
        total = total + rows.square().sum()
    return total.clamp(min=torch.finfo(total.dtype).tiny)


class Call(NamedTuple):
    """One call of a layer: ``layer(*args)`` repeats it."""

    layer: Network
    args: tuple[Any, ...]


@contextmanager
def recorded_calls(layers: Mapping[str, nn.Module], *, detach: bool = True) -> Iterator[dict[str, list[Call]]]:
    """Remember what layers are called with inside the ``with`` block, so that a penalty can be put on each of them.

    Keyword arguments of a call are bound to its ``layer``.

    Args:
        layers: modules of one model, by name.
        detach: whether to cut the graph, so that the penalty of a layer trains this layer alone.

    >>> from geoeq.soft import OrbitPenalty
    >>> model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    >>> penalty = OrbitPenalty("SO(3)", "1x1o", "1x1o")
    >>> with recorded_calls({"first": model[0]}) as calls:
    ...     out = model(torch.randn(5, 3))
    >>> [penalty(layer, *args).shape for layer, args in calls["first"]]
    [torch.Size([])]
    """
    calls: dict[str, list[Call]] = {name: [] for name in layers}

    def cut(value: Any) -> Any:
        return value.detach() if detach and isinstance(value, Tensor) else value

    def listener(name: str) -> Callable[..., None]:
        def listen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = {key: cut(value) for key, value in kwargs.items()}
            calls[name].append(Call(partial(module, **bound) if bound else module, tuple(map(cut, args))))

        return listen

    handles = [layer.register_forward_pre_hook(listener(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code passes hooks by
            yield calls
    finally:
        for handle in handles:
            handle.remove()
