"""The ways to treat symmetry that are compared: what each network is and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from geoeq.datasets.vectors import VectorTask
from geoeq.groups import Group
from geoeq.layers.typed_linear import TypedLinear
from geoeq.layers.vector_mlp import ResidualPathway, TypedMLP, VectorMLP, count_parameters, matched_width
from geoeq.reps import Irreps, Rep, TensorRep
from geoeq.soft import Evidence, Fixed, OneShot, Resilient, Schedule, SoftEquivariance, Tuner, ValidationGradient

__all__ = ["METHODS", "Method", "hidden_rep"]


@dataclass(frozen=True)
class Method:
    """One way to treat symmetry.

    Attributes:
        build: makes the network for a task.
        tuner: makes the tuner for a task, or None where nothing is softened.
        step: whether the penalty is a proximal step (else a term of the loss, as published).
        weight_decay: coupled weight decay of Adam.
    """

    build: Callable[[VectorTask], nn.Module]
    tuner: Callable[[VectorTask], Tuner] | None = None
    step: bool = True
    weight_decay: float = 0.0

    def soften(self, task: VectorTask, model: nn.Module) -> SoftEquivariance | None:
        """Attach the candidates of ``task`` to ``model``; None where nothing is softened."""
        if self.tuner is None:
            return None
        soft = SoftEquivariance(task.symmetries, self.tuner(task))
        soft.attach(model)
        return soft


def hidden_rep(task: VectorTask, size: int = 40) -> Rep:
    """Hidden features of the typed networks: ``size`` scalars, a quarter as many vectors, a tenth as many tensors."""
    if isinstance(task.rep_in, TensorRep):
        return TensorRep({0: size, 1: max(size // 4, 1), 2: max(size // 10, 1)}, d=task.rep_in.d)
    return Irreps(f"{size}x0e + {max(size // 4, 1)}x1o + {max(size // 10, 1)}x2e")


def largest(task: VectorTask) -> tuple[str, Group]:
    """Name and group of the first candidate, which implies all others that are orthogonal."""
    return next(iter(task.symmetries.items()))


def _typed(mode: str) -> Callable[[VectorTask], TypedMLP]:
    def build(task: VectorTask) -> TypedMLP:
        return TypedMLP(task.rep_in, task.rep_out, hidden_rep(task), mode=mode, group=largest(task)[1])

    return build


def _oracle(task: VectorTask) -> TypedMLP:
    model = _typed("free")(task)
    groups = [task.symmetries[name] for name in task.residual]
    for layer in model.modules():
        if groups and isinstance(layer, TypedLinear):
            layer.constrain(groups)
            layer.reset_parameters()
    return model


def _plain(task: VectorTask) -> VectorMLP:
    size = count_parameters(_typed("free")(task))
    width = matched_width(size, lambda width: VectorMLP(task.rep_in, task.rep_out, width))
    return VectorMLP(task.rep_in, task.rep_out, width)


def _residual(task: VectorTask) -> ResidualPathway:
    def build(size: int) -> ResidualPathway:
        return ResidualPathway(task.rep_in, task.rep_out, hidden_rep(task, size), group=largest(task)[1])

    return build(matched_width(count_parameters(_typed("free")(task)), build, largest=64))


def _one_shot(task: VectorTask) -> OneShot:
    return OneShot(task.published_strength, gamma=2.0, at=0.25, largest=largest(task)[0])


METHODS: dict[str, Method] = {
    "MLP": Method(_plain),
    "EMLP": Method(_typed("exact")),
    "EMLP oracle": Method(_oracle),
    "RPP": Method(_residual),
    "PER": Method(_typed("free"), _one_shot, step=False, weight_decay=2e-4),
    "Fixed": Method(_typed("soft"), lambda task: Fixed(task.published_strength)),
    "Evidence": Method(_typed("soft"), lambda task: Evidence(every=1)),
    "Resilient": Method(_typed("soft"), lambda task: Resilient()),
    "ValidationGradient": Method(_typed("soft"), lambda task: ValidationGradient()),
    "Schedule": Method(_typed("soft"), lambda task: Schedule()),
}
