"""The Lie penalty: an infinitesimal motion of the input must be one of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from geoeq.groups import SE, Group, Piecewise
from geoeq.reps import PositionCopy, Rep, segments
from geoeq.soft.action import velocity
from geoeq.soft.functional import FunctionalPenalty, Network, Reps

__all__ = ["LiePenalty", "directional_derivative"]

MODES = ("auto", "forward", "reverse")


class LiePenalty(FunctionalPenalty):
    r"""How far the network is from commuting with the Lie algebra,

    .. math:: R = \frac{E_\omega \|J_f (X x) - X f(x)\|^2}{\|f(x)\|^2}, \qquad X = \sum_a \omega_a A_a,
        \quad \omega \sim N(0, 1)

    an unbiased estimate of the sum over generators from one directional derivative. It sees the identity component
    only: no reflections, no permutations. Under SE and E rotations are about the mean of the positions, so that R does
    not depend on the origin.

    For ``Piecewise(group)`` every part has its own :math:`\omega`. Parts may be soft: with memberships
    :math:`\pi` ``part [N, parts]`` the velocity is that of blended twists,
    :math:`x_i \mapsto \sum_m \pi_{im} (\omega_m \times (x_i - c_m) + v_m)` with :math:`c_m` the centre of part m, and
    gradients reach :math:`\pi`.

    Args:
        group: the symmetry, or its text; it must have generators.
        rep_in: how the first argument, or each of the first arguments, answers; None for one that does not move.
        rep_out: how the output, or each output, answers.
        n_samples: combinations of generators drawn at each call.
        seed: of the combinations.
        relative: whether to divide by the size of the output; else by how many numbers it has.
        mode: ``"forward"`` differentiation, ``"reverse"`` twice, or ``"auto"``, forward where the network can.

    Shapes: called as ``penalty(network, x, *rest, part=None)`` with ``x [..., rep_in.dim]``; returns a scalar.

    Source: arXiv 2210.02984 (Lie derivative of a network).

    >>> penalty = LiePenalty("SO(3)", "1x1o", "1x1o")
    >>> x = torch.randn(7, 3, dtype=torch.float64)
    >>> bool(penalty(lambda x: 2 * x, x) < 1e-12), bool(penalty(lambda x: x.square(), x) > 0.1)
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
        mode: str = "auto",
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}")
        super().__init__(group, rep_in, rep_out, n_samples=n_samples, seed=seed, relative=relative)
        if not len(self.group.generators):
            raise ValueError(f"group must have generators, got {self.group}; use OrbitPenalty")
        self.mode = mode

    def errors(self, network: Network, args: tuple[Any, ...], part: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        like = next(x for x, rep in zip(args, self.reps_in, strict=False) if rep is not None)
        errors: list[Tensor] = []
        for _ in range(self.n_samples):
            outputs, own = self.derivative(network, args, self.draw_coefficients(part, like), part)
            errors += own
        return errors, outputs

    def derivative(
        self, network: Network, args: tuple[Any, ...], coefficients: Tensor, part: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs and their Lie derivatives J_f (X x) - X f(x) along X = sum_a ``coefficients[a]`` A_a.

        Args:
            network: any callable.
            args: what it is called with.
            coefficients: of the generators, ``[d]``, or of each part, ``[parts, d]``.
            part: as in the call of the penalty.
        """
        moving, rest = self.split_args(args)
        coefficients = about_centres(self.group, self.reps_in, moving, coefficients, part)
        places = [k for k, rep in enumerate(self.reps_in) if rep is not None]

        def along(rep: Rep | None, x: Tensor) -> Tensor:
            return torch.zeros_like(x) if rep is None else velocity(self.group, rep, x, coefficients, part=part)

        def of_moving(*primals: Tensor) -> tuple[Tensor, ...]:
            values = list(moving)
            for k, primal in zip(places, primals, strict=True):
                values[k] = primal
            return tuple(self.outputs(network(*values, *rest)))

        tangents = tuple(along(self.reps_in[k], moving[k]) for k in places)
        found, changes = directional_derivative(of_moving, tuple(moving[k] for k in places), tangents, mode=self.mode)
        return list(found), [
            change - along(rep, output) for change, output, rep in zip(changes, found, self.reps_out, strict=True)
        ]


def about_centres(
    group: Group,
    reps: tuple[Rep | None, ...],
    args: tuple[Any, ...],
    coefficients: Tensor,
    part: Tensor | None,
) -> Tensor:
    """The coefficients whose rotations are about the centre of the positions, of each part on its own.

    Coefficients are those of SE or E, rotations before translations; of other groups they come back as they are.
    """
    base = group.group if isinstance(group, Piecewise) else group
    positions = first_positions(reps, args, base.n) if isinstance(base, SE) else None
    if positions is None:
        return coefficients
    if part is None or coefficients.dim() == 1:
        centres = positions.mean(0)
    else:
        hard = not part.is_floating_point()
        members = torch.nn.functional.one_hot(part, len(coefficients)) if hard else part.detach()
        members = members.to(positions).repeat_interleave(len(positions) // max(len(part), 1), 0)
        centres = members.T @ positions / members.sum(0).clamp(min=torch.finfo(positions.dtype).tiny).unsqueeze(1)
    generators = base.generators.to(coefficients)
    linear = base.spatial(generators.movedim(0, -1)).movedim(-1, 0)  # [d, 3, 3]
    turned = torch.einsum("...a,aij,...j->...i", coefficients, linear, centres)
    dim = turned.shape[-1]
    return torch.cat([coefficients[..., :-dim], coefficients[..., -dim:] - turned], -1)


def first_positions(reps: tuple[Rep | None, ...], args: tuple[Any, ...], d: int) -> Tensor | None:
    """All positions of the first argument that has some, ``[N * mul, 3]``, detached."""
    for rep, x in zip(reps, args, strict=False):
        for segment in segments(rep, d) if rep is not None else ():
            if isinstance(segment.copy, PositionCopy):
                return x.detach()[..., segment.start : segment.stop].reshape(-1, 3)
    return None


def directional_derivative(
    f: Callable[..., tuple[Tensor, ...]], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...], mode: str = "auto"
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The values of ``f`` at ``primals`` and their derivatives along ``tangents``, both differentiable.

    Args:
        f: takes as many tensors as ``primals`` and returns a tuple of tensors.
        primals: where to differentiate.
        tangents: along what, of the same shapes.
        mode: ``"forward"``, ``"reverse"`` (two reverse passes) or ``"auto"``, forward where every operation of f can.
    """
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
        if mode != "reverse":
            try:
                found = torch.func.jvp(f, primals, tangents)
                return found[0], found[1]
            except RuntimeError:  # an error of f itself comes again below
                if mode == "forward":
                    raise
        return double_reverse(f, primals, tangents)


def double_reverse(
    f: Callable[..., tuple[Tensor, ...]], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The vector-Jacobian product is linear in its vector: its derivative in the vector is the forward one."""
    with torch.enable_grad():
        points = tuple(p if p.requires_grad else p.detach().requires_grad_() for p in primals)
        values = f(*points)
        vectors = tuple(torch.zeros_like(v, requires_grad=True) for v in values)
        live = [(v, w) for v, w in zip(values, vectors, strict=True) if v.requires_grad]
        if not live:
            return values, tuple(map(torch.zeros_like, values))
        pulled = torch.autograd.grad(
            [v for v, _ in live], points, [w for _, w in live], create_graph=True, materialize_grads=True
        )
        reached = [(p, t) for p, t in zip(pulled, tangents, strict=True) if p.requires_grad]
        if not reached:
            return values, tuple(map(torch.zeros_like, values))
        return values, torch.autograd.grad(
            [p for p, _ in reached], vectors, [t for _, t in reached], create_graph=True, materialize_grads=True
        )
