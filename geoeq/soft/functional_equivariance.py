"""Soft symmetry of a network from elsewhere: nothing is known of its layers, only how its two ends answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geoeq.groups import Group, parse
from geoeq.soft.functional import FunctionalPenalty, Network, Reps
from geoeq.soft.intervals import evaluated
from geoeq.soft.levels import LevelRow, Levels
from geoeq.soft.lie import LiePenalty
from geoeq.soft.orbit import OrbitPenalty
from geoeq.soft.processes import mean_over_processes

__all__ = ["DualAscent", "FunctionalEquivariance"]

KINDS = ("orbit", "lie")
MEMORY = 0.9


@dataclass(frozen=True)
class DualAscent:
    r"""Strengths as dual variables of "the functional error is 0", relaxed at a price.

    With the squared level R of a symmetry, :math:`\lambda \leftarrow [\lambda + \eta_d (R - \lambda/\rho)]_+`, at rest
    :math:`\lambda = \rho R`: what is violated is pressed harder.

    Attributes:
        rho: price of slack, > 0; infinity allows none.
        rate: the step of the ascent, in (0, rho].
        maximum: the largest strength.

    Source: arXiv 2505.13631, resilient constraints.
    """

    rho: float = 1.0
    rate: float = 0.1
    maximum: float = 1e3

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"rho must be greater than 0, got {self.rho}")
        if not 0 < self.rate <= self.rho or math.isinf(self.rate):
            raise ValueError(f"rate must be finite and lie in (0, rho] = (0, {self.rho}], got {self.rate}")

    def __call__(self, strengths: Tensor, squared_levels: Tensor) -> Tensor:
        """New strengths, of the shape of the old ones."""
        return (strengths + self.rate * (squared_levels - strengths / self.rho)).clamp(0.0, self.maximum)


class FunctionalEquivariance(nn.Module):
    r"""Candidate symmetries of any network, each held by a penalty on what the network does.

    The loss term is :math:`\sum_k \lambda_k R_k` with :math:`R_k` of :class:`~geoeq.soft.OrbitPenalty` or
    :class:`~geoeq.soft.LiePenalty`, one strength per symmetry: fixed, or set by a tuner from the running mean of
    :math:`R_k`. Weights are not looked at, so there is no proximal step and nothing to harden.

    Args:
        symmetries: name of each candidate and its group, or the group's text.
        rep_in: how the first argument of the network, or each of its first arguments, answers; None for one that does
            not move. ``Nodes(n, irreps)`` for numbered nodes that permutations move, in one row or one row per node.
        rep_out: how the output, or each output, answers.
        kind: ``"orbit"`` or ``"lie"``, for all or by name; ``"lie"`` needs generators.
        strength: of the penalties at the start, for all or by name.
        tuner: what sets the strengths at :meth:`tune`; None leaves them.
        n_samples: elements drawn per symmetry and step.
        seed: of the elements.
        stacked: see :class:`~geoeq.soft.OrbitPenalty`.

    Raises:
        ValueError: for no symmetry, an unknown kind, a negative strength, a name without entry, or a group that moves
            neither end.

    >>> soft = FunctionalEquivariance({"rotation": "SO(3)"}, "2x1o", "1x1o").attach(nn.Linear(6, 3))
    >>> loss = soft.penalty(torch.randn(8, 6))
    >>> [row.symmetry for row in soft.levels(torch.randn(8, 6))]
    ['rotation']
    """

    strengths: Tensor
    running: Tensor

    def __init__(
        self,
        symmetries: Mapping[str, Group | str],
        rep_in: Reps,
        rep_out: Reps,
        *,
        kind: str | Mapping[str, str] = "orbit",
        strength: float | Mapping[str, float] = 1.0,
        tuner: DualAscent | None = None,
        n_samples: int = 1,
        seed: int = 0,
        stacked: bool = False,
    ) -> None:
        super().__init__()
        if not symmetries:
            raise ValueError("symmetries must name at least one group, got none")
        self.symmetries = {str(name): parse(group) for name, group in symmetries.items()}
        kinds = by_name("kind", kind, self.symmetries)
        for own in kinds:
            if own not in KINDS:
                raise ValueError(f"kind must be one of {list(KINDS)}, got {own!r}")
        strengths = by_name("strength", strength, self.symmetries)
        if not all(0 <= own < math.inf for own in strengths):
            raise ValueError(f"strength must be finite and at least 0, got {strength}")
        self.tuner = tuner

        def penalty_of(group: Group, own: str, n: int, first: int) -> FunctionalPenalty:
            if own == "lie":
                return LiePenalty(group, rep_in, rep_out, n_samples=n, seed=first)
            return OrbitPenalty(group, rep_in, rep_out, n_samples=n, seed=first, stacked=stacked)

        self._penalty_of = penalty_of
        self.kinds, self.seed = kinds, seed
        self.penalties = nn.ModuleList(
            penalty_of(group, own, n_samples, seed + k)
            for k, (group, own) in enumerate(zip(self.symmetries.values(), kinds, strict=True))
        )
        self.register_buffer("strengths", torch.tensor(strengths, dtype=torch.float64))
        self.register_buffer("running", torch.full((len(kinds),), math.nan, dtype=torch.float64))
        self._network: tuple[Network, ...] = ()

    def attach(self, network: Network) -> FunctionalEquivariance:
        """Take ``network`` under control; it stays as it is and its weights stay its own."""
        self._network = (network,)  # in a tuple, not as a submodule
        return self

    @property
    def network(self) -> Network:
        """What :meth:`attach` was given."""
        if not self._network:
            raise ValueError("FunctionalEquivariance is not attached to a network: call attach(network) first")
        return self._network[0]

    def penalty(self, *args: Any, part: Tensor | None = None) -> Tensor:
        r"""The loss term :math:`\sum_k \lambda_k R_k` on one batch, a scalar.

        Args:
            args: what the network is called with.
            part: part of each row, ``[N]``, or memberships ``[N, parts]``; for symmetries that act part by part.
        """
        found = []
        for k, penalty in enumerate(self.penalties):
            needed = float(self.strengths[k]) > 0
            if not needed and self.tuner is None:
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and needed):
                squared_level = penalty(self.network, *args, part=part)
            self._note(k, squared_level.detach())
            found.append(self.strengths[k].to(squared_level) * squared_level)
        return torch.stack(found).sum() if found else torch.zeros(())

    def _note(self, k: int, squared_level: Tensor) -> None:
        known, new = self.running[k], squared_level.to(self.running)
        self.running[k] = torch.where(known.isnan(), new, MEMORY * known + (1 - MEMORY) * new)

    @torch.no_grad()
    def tune(self) -> None:
        """Let the tuner set the strengths anew from what :meth:`penalty` has seen; for example once per epoch."""
        if self.tuner is not None and not self.running.isnan().any():
            self.strengths.copy_(self.tuner(self.strengths, mean_over_processes(self.running)))

    @torch.no_grad()
    def levels(self, *args: Any, part: Tensor | None = None, n_samples: int = 16, seed: int = 0) -> Levels:
        r"""Functional level of each symmetry on one batch, :math:`\sqrt{R_k}`.

        For ``"orbit"`` that is the share of the network outside its symmetric part: 0 = exact, 1 = no symmetric part.
        For ``"lie"`` it is the relative Lie derivative, :math:`\sqrt{E\|L_X f\|^2 / E\|f\|^2}`: 0 = exact, no upper
        bound. Modules are evaluated as in ``eval()``.

        Args:
            args: what the network is called with: real data, not noise.
            part: as in :meth:`penalty`.
            n_samples: elements drawn per symmetry.
            seed: of the elements, which are not those of the training.
        """
        network = self.network
        rows = Levels()
        with evaluated(network):
            for name, own, strength in zip(self.symmetries, self.kinds, self.strengths.tolist(), strict=True):
                probe = self._penalty_of(self.symmetries[name], own, n_samples, seed)
                level = float(probe(network, *args, part=part).sqrt())
                rows.append(LevelRow("whole network", name, level, strength))
                rows.functional[name] = level
        return rows

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.strengths, self.running = self.strengths.double(), self.running.double()
        return self

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={group}" for name, group in self.symmetries.items())


def by_name(argument: str, value: Any, names: Mapping[str, object]) -> list[Any]:
    """``value`` of each of ``names``: the same for all, or looked up in it."""
    if not isinstance(value, Mapping):
        return [value] * len(names)
    missing = [name for name in names if name not in value]
    if missing:
        raise ValueError(f"{argument} must have every symmetry, missing {missing}")
    return [value[name] for name in names]
