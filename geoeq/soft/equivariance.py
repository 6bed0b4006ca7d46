"""SoftEquivariance: candidate symmetries attached to a model, with strengths that are found in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from geoeq.groups import Group, parse
from geoeq.soft.attachment import Attachment
from geoeq.soft.bank import WeightBank
from geoeq.soft.data_measure import DataMeasure
from geoeq.soft.functional import Reps
from geoeq.soft.functional_equivariance import DualAscent, FunctionalEquivariance
from geoeq.soft.intervals import InputRecord, record_inputs
from geoeq.soft.joint_gradient import JointGradient
from geoeq.soft.levels import Levels, level_table
from geoeq.soft.processes import over_processes
from geoeq.soft.proximal import ProximalStep
from geoeq.soft.steps import StepSizes
from geoeq.soft.tuners import Evidence, Fixed, Tuner
from geoeq.soft.typed_layer import TypedLayer, typed_layers

__all__ = ["SoftEquivariance"]

MEASURES = ("weight", "data")


class SoftEquivariance(nn.Module):
    r"""Candidate symmetries of a model, each kept only as far as the data bear it out.

    Every typed weight W of the model gets the penalty :math:`\sum_k \lambda_k \tfrac12 \|W - P_k W\|^2` with
    one strength :math:`\lambda_k` per symmetry, set by the tuner. Attach before an optimizer step is made; a
    saved state is loaded after attaching to a model of the same shape.

    Args:
        symmetries: name of each candidate and its group, or the group's text, ``"SO2(z)"``.
        tuner: what sets the strengths; :class:`~geoeq.soft.Evidence` by default.
        measure: ``"weight"``, or ``"data"``: :meth:`penalty` then weighs what is forbidden by the running second
            moment of each layer's input, :class:`~geoeq.soft.data_measure.DataMeasure`.

    Source: arXiv 2306.00356 (penalty); the step is its proximal form.

    >>> from geoeq.layers import TypedLinear
    >>> model = TypedLinear("4x0e + 4x1o", "4x1o", mode="soft")
    >>> soft = SoftEquivariance({"rotation": "O(3)", "about z": "O2(z)"})
    >>> print(soft.attach(model))
    soft symmetry covers 2 weights
    >>> [round(row.level, 6) for row in soft.levels()]
    [0.0, 0.0]
    """

    strengths: Tensor
    loose: Tensor
    bank: WeightBank

    def __init__(
        self, symmetries: Mapping[str, Group | str], tuner: Tuner | None = None, *, measure: str = "weight"
    ) -> None:
        super().__init__()
        if measure not in MEASURES:
            raise ValueError(f"measure must be one of {list(MEASURES)}, got {measure!r}")
        self.measure = measure
        self.data: DataMeasure | None = None
        if not symmetries:
            raise ValueError("symmetries must name at least one group, got none")
        self.symmetries = {str(name): parse(group) for name, group in symmetries.items()}
        self.tuner = Evidence() if tuner is None else tuner
        self._layers: list[TypedLayer] = []
        self._records: list[InputRecord] | None = None
        self.functional: FunctionalEquivariance | None = None

    @property
    def attached(self) -> bool:
        """Whether :meth:`attach` has been called."""
        return bool(self._layers) or self.functional is not None

    def attach(self, model: nn.Module, *, rep_in: Reps = None, rep_out: Reps = None, kind: str = "orbit") -> Attachment:
        """Take every typed linear map of ``model`` under control and report what is covered.

        A module takes part if it has ``typed_maps()``, ``effective()``, ``constrain(groups)`` and ``relax(keep)``, as
        :class:`geoeq.layers.TypedLinear` has.

        A model from elsewhere is known by its two ends alone. Then :meth:`penalty` takes what the model is called with
        and is a term of the loss (:class:`~geoeq.soft.FunctionalEquivariance`), with the strength of a
        :class:`~geoeq.soft.Fixed` tuner, or with dual ascent under any other.

        Args:
            model: the network.
            rep_in: for a model without typed maps, how its first argument or first arguments answer.
            rep_out: how its output answers.
            kind: ``"orbit"`` or ``"lie"``, the penalty of such a model.

        Raises:
            ValueError: if no module of the model is typed and its ends are not declared.
        """
        if rep_in is not None or rep_out is not None:
            return self._attach_ends(model, rep_in, rep_out, kind)
        groups = list(self.symmetries.values())
        layers = typed_layers(model, groups)
        maps = [
            typed._replace(name=f"{layer.name}.{typed.name}".lstrip(".")) for layer in layers for typed in layer.maps
        ]
        if not maps:
            raise ValueError(
                "model must have typed linear maps (geoeq.layers.TypedLinear), or be attached with rep_in and rep_out"
            )
        self.functional = None
        self._model = (model,)  # in a tuple, not as a submodule: the weights belong to the model alone
        self._layers, self._records = layers, None
        self.bank = WeightBank(maps, groups, split=self.tuner.split).to(maps[0].parameter)
        names = list(self.symmetries)
        self.register_buffer("strengths", self.tuner.initial(self.bank, names))
        self.tuner.to(maps[0].parameter.device)
        if self.data is not None:
            self.data.remove()
        self.data = DataMeasure(layers, self.bank) if self.measure == "data" else None
        self.step_sizes = StepSizes(self.bank.parameters_)
        self.register_buffer("loose", torch.zeros(len(maps), dtype=torch.bool, device=self.strengths.device))
        self._step = ProximalStep(self.bank, self.tuner.held, self.loose)
        self._gradient = JointGradient(self.bank.parameters_)
        used = (self.bank.codim.cpu() @ self.bank.members.double()).any(0)
        unconstrained = [name for name, breaks in zip(names, used, strict=True) if not breaks]
        return Attachment.of(model, layers, maps, groups, unconstrained)

    def _attach_ends(self, model: nn.Module, rep_in: Reps, rep_out: Reps, kind: str) -> Attachment:
        fixed = isinstance(self.tuner, Fixed)
        self.functional = FunctionalEquivariance(
            self.symmetries,
            rep_in,
            rep_out,
            kind=kind,
            strength=self.tuner.strength if fixed else 1.0,  # type: ignore[arg-type]
            tuner=None if fixed else DualAscent(),
        ).attach(model)
        self._model, self._layers = (model,), []
        return Attachment(uncovered=[name for name, _ in model.named_parameters()])

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        if self._layers:
            self.strengths = self.strengths.double()  # their logarithms outrun half and single precision
            self._step = ProximalStep(self.bank, self.tuner.held, self.loose)
        return self

    def penalty(self, *inputs: object, part: Tensor | None = None) -> Tensor:
        r"""The loss term :math:`\sum_{\ell k} \lambda_{\ell k} \tfrac12 \|W_\ell - P_k W_\ell\|^2`, a scalar.

        Args:
            inputs: what the model is called with; only for a model that is known by its ends.
            part: part of each row, for symmetries that act part by part; only for such a model, too.

        Raises:
            ValueError: if a strength is infinite; only :meth:`prox_step` can follow that.
        """
        if self.functional is not None:
            return self.functional.penalty(*inputs, part=part)
        self._prepare()
        if bool(torch.isinf(self.strengths).any()):
            raise ValueError("penalty needs finite strengths, got infinity; call prox_step(optimizer) instead")
        flat = self.bank.flat()
        if self.data is not None:
            return 0.5 * self.data.squared_residuals(flat, self.strengths).sum()
        residuals, strengths = self.bank.squared_residuals(flat), self.strengths
        return 0.5 * (strengths.to(residuals) * residuals).sum()

    @torch.no_grad()
    def prox_step(self, optimizer: Optimizer) -> None:
        r"""The same penalty as an exact step, to be made after ``optimizer.step()``.

        .. math:: W \leftarrow (I + \eta\sum_k\lambda_k(I - P_k))^{-1} W

        It counts all inputs of a layer alike, whatever the ``measure``. Stable for any strength; an infinite one
        projects, strength 0 leaves the weight alone to the last bit.
        :math:`\eta` is the step that the optimizer makes per unit of gradient: the learning rate, divided for Adam and
        its kin by the root mean square of the gradients of the weight, so that strengths mean the same as in
        :meth:`penalty` (:class:`~geoeq.soft.steps.StepSizes`).
        """
        self._prepare()
        if not self.step_sizes.begun and self.step_sizes.has_past(optimizer):
            self._step.loosen()
        self.step_sizes.begun = True
        self._step(self.strengths, lambda: self.step_sizes(optimizer), sweep=self.step_sizes.is_due)
        self.step_sizes.age += 1

    @torch.no_grad()
    def observe(self, loss: float | Tensor, batch_size: int, n_targets: int = 1) -> None:
        """Let the tuner see the gradients of this step; call between ``loss.backward()`` and ``optimizer.step()``.

        Then what is held (a strength that is infinite for the tuner) is taken out of the gradients. Without that an
        optimizer that divides by the size of gradients, as Adam does, would count in the noise along directions that
        the proximal step forbids; with it a weight that is held trains as an exact one does.

        Args:
            loss: mean squared error of the batch; in a distributed training of this process's batch.
            batch_size: number of samples (graphs) that were averaged, by this process.
            n_targets: numbers predicted per sample.
        """
        if self.functional is not None:
            return
        self._prepare()
        wanted = self.tuner.wants_gradients()
        if not wanted and not self._step.holds(self.strengths):
            return
        grads = self._gradient.gather()
        if wanted:
            mean, seen = over_processes(self._number(loss), batch_size)
            self.tuner.observe(self.bank, grads, mean, seen, n_targets)
        if self._step.project(self.strengths, grads):
            self._gradient.give_back()

    @torch.no_grad()
    def observe_validation(self) -> None:
        """Let the tuner see the gradients of a validation batch; call after ``validation_loss.backward()``."""
        self._prepare()
        self.tuner.observe_validation(self.bank, self._gradient.gather())

    @torch.no_grad()
    def tune(self, progress: float, n_samples: int, loss: Callable[[], float | Tensor] | None = None) -> None:
        """Let the tuner set the strengths anew; call once per epoch.

        Args:
            progress: share of the training that is done, in [0, 1].
            n_samples: number of training samples (graphs).
            loss: evaluates the loss on some training data, a batch will do. A tuner that wants to take a freedom back
                then asks what that would cost; without it, it goes by the size of what it would take.
        """
        if self.functional is not None:
            self.functional.tune()
            return
        self._prepare()
        mean_loss = None if loss is None else lambda: float(over_processes(self._number(loss()), 1)[0])
        self.strengths.copy_(self.tuner.update(self.bank, self.strengths, progress, n_samples, mean_loss))
        self.step_sizes.age = 0

    def strengths_of_symmetries(self) -> Tensor:
        """Strength of each symmetry in each weight, its weakest term; infinite where it constrains nothing.

        Returns:
            ``[maps, symmetries]``, float64.
        """
        acts = (self.bank.codim > 0).unsqueeze(1) & (self.bank.members.T > 0).to(self.bank.codim.device)
        return torch.where(acts, self.strengths.unsqueeze(1), math.inf).amin(2)

    @torch.no_grad()
    def levels(self, *inputs: object, part: Tensor | None = None) -> Levels:
        r"""Level of each symmetry in each layer, from 0 = exact to 1 = no more symmetric than a random layer.

        With W what weight and bias of a layer map to one kind of output: :math:`\sqrt{\|W - P W\|^2 / (f \|W\|^2)}`,
        where f is the share that a random weight has outside the symmetric maps, or one half if that is more. The
        level of the layer is that of the kind of output that has the largest: each has a scale of its own, which what
        follows can change. A symmetry that does not constrain a layer has no row.

        Args:
            inputs: what the model is called with, for example a batch of held-out data. The norm then weighs every
                input of a layer by its second moment on them, so that levels tell how much the break matters;
                without inputs all weights count alike. The model is evaluated as in ``eval()``.
            part: as in :meth:`penalty`.
        """
        if self.functional is not None:
            return self.functional.levels(*inputs, part=part)
        self._prepare()
        if not inputs:
            return self._table(None)
        records = record_inputs(self._layers, self._model[0], inputs)
        self._records = [
            record._replace(interval=None) for record in records
        ]  # intervals are of the weights as they are
        return self._table(records)

    def _table(self, records: list[InputRecord] | None) -> Levels:
        least = iter(self.strengths_of_symmetries().cpu())  # [symmetries] of each weight
        strengths = [torch.stack([next(least) for _ in layer.maps]).amin(0).tolist() for layer in self._layers]
        return level_table(self._layers, list(self.symmetries), strengths, records)

    @torch.no_grad()
    def harden(self, tolerance: float = 0.05, *inputs: object) -> nn.Module:
        """Make each symmetry exact whose level is at most ``tolerance`` in every layer, and return the model.

        The typed maps of the model are projected and stay projected; outputs do not change where the level is 0.

        Args:
            tolerance: the highest level that counts as exact.
            inputs: data to measure the levels on, as for :meth:`levels`; without them those of its last call are
                taken, and the weights alone if there was none. Prefer data: a small weight on a large feature can
                carry a large break.
        """
        self._prepare()
        levels = self.levels(*inputs) if inputs else self._table(self._records)
        exact = [self.symmetries[name] for name, level in levels.overall().items() if level <= tolerance]
        if exact:
            for layer in self._layers:
                layer.module.constrain(exact)  # type: ignore[operator]
        return self._model[0]

    def _number(self, loss: float | Tensor) -> Tensor:
        return torch.as_tensor(loss).detach().to(self.strengths.device)

    def _prepare(self) -> None:
        """Refuse to go on without typed maps, and follow the model to where it has been moved."""
        if self.functional is not None:
            raise ValueError("the attached model has no typed maps: add soft.penalty(*inputs) to the loss instead")
        if not self._layers:
            raise ValueError("SoftEquivariance is not attached to a model: call attach(model) first")
        weight, here = self.bank.parameters_[0], self.bank.patterns
        if here.device != weight.device:
            self.to(weight.device)
        if weight.dtype == torch.float64 != here.dtype:
            self.double()

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={group}" for name, group in self.symmetries.items())
