"""One training of one method on one vector task."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from geoeq.bench.methods import METHODS
from geoeq.datasets.vectors import Split, VectorTask
from geoeq.layers.vector_mlp import ResidualPathway
from geoeq.soft import SoftEquivariance, ValidationGradient

__all__ = ["Budget", "Outcome", "train"]


@dataclass(frozen=True)
class Budget:
    """What every method is given.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples of a step.
        lr: learning rate of Adam, which falls to 0 along half a cosine.
        look: epochs between looks at the validation split; the best look of the second half is tested.
        tune: epochs between calls of the tuner.
        tune_from: share of the training after which the tuner is called at all.
    """

    epochs: int = 1000
    batch_size: int = 500
    lr: float = 1e-3
    look: int = 10
    tune: int = 5
    tune_from: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    Attributes:
        test: mean squared error on the test split, at the epoch of the least one on the validation split.
        validation: that least error.
        epoch: the epoch.
        levels: level of each candidate at the end, in the layer that breaks it most; empty where none is softened.
        strengths: least strength of each candidate in any layer at the end.
        seconds: wall clock time.
    """

    test: float
    validation: float
    epoch: int
    levels: dict[str, float] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def train(task: VectorTask, method: str, *, seed: int = 0, budget: Budget | None = None) -> Outcome:
    """Train ``method`` on ``task`` and test it at its best validation epoch.

    Args:
        task: the data and their candidate symmetries.
        method: one of :data:`~geoeq.bench.methods.METHODS`.
        seed: of the weights and of the order of the samples.
        budget: what every method is given.

    Raises:
        ValueError: for an unknown method, or a loss that does not stay finite.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}")
    budget = budget or Budget()
    start = time.perf_counter()
    torch.manual_seed(seed)
    way = METHODS[method]
    model = way.build(task)
    soft = way.soften(task, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=budget.lr, weight_decay=way.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.epochs)
    order = torch.Generator().manual_seed(seed)
    best = (math.inf, math.inf, 0)
    for epoch in range(1, budget.epochs + 1):
        for index in torch.randperm(len(task.train.x), generator=order).split(budget.batch_size):
            _step(model, soft, optimizer, Split(task.train.x[index], task.train.y[index]), proximal=way.step)
        schedule.step()
        if soft is not None and epoch % budget.tune == 0 and epoch >= budget.tune_from * budget.epochs:
            _tune(model, soft, optimizer, task, epoch / budget.epochs)
        if 2 * epoch >= budget.epochs and (epoch % budget.look == 0 or epoch == budget.epochs):
            best = min(best, (error(model, task.val), error(model, task.test), epoch))
    if not math.isfinite(best[0]):
        raise ValueError(f"the loss of {method} must stay finite, got {best[0]}: lower lr")
    levels = {} if soft is None else soft.levels(task.val.x).overall()
    strengths = {} if soft is None else dict(zip(soft.symmetries, least_strengths(soft).tolist(), strict=True))
    return Outcome(best[1], best[0], best[2], levels, strengths, time.perf_counter() - start)


def _step(
    model: nn.Module, soft: SoftEquivariance | None, optimizer: torch.optim.Optimizer, batch: Split, *, proximal: bool
) -> None:
    loss = (model(batch.x) - batch.y).square().mean()
    total = loss + model.regularizer() if isinstance(model, ResidualPathway) else loss
    if soft is not None and not proximal:
        total = total + soft.penalty()
    optimizer.zero_grad()
    total.backward()
    if soft is not None:
        soft.observe(loss, len(batch.x), batch.y.shape[1])
    optimizer.step()
    if soft is not None and proximal:
        soft.prox_step(optimizer)


def _tune(
    model: nn.Module, soft: SoftEquivariance, optimizer: torch.optim.Optimizer, task: VectorTask, progress: float
) -> None:
    if isinstance(soft.tuner, ValidationGradient):
        optimizer.zero_grad()
        (model(task.val.x) - task.val.y).square().mean().backward()
        soft.observe_validation()
    soft.tune(progress, len(task.train.x), lambda: error(model, task.train))


@torch.no_grad()
def error(model: nn.Module, split: Split) -> float:
    """Mean squared error."""
    return float((model(split.x) - split.y).square().mean())


def least_strengths(soft: SoftEquivariance) -> Tensor:
    """Least strength of each symmetry in any weight, ``[symmetries]``."""
    return soft.strengths_of_symmetries().amin(0)
