"""Training of a forecasting network, with soft symmetry in the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch_geometric.data import Batch

from geoeq.audit import orbit_error
from geoeq.forecast.errors import as_path, path_errors, sample_errors
from geoeq.forecast.trajectory_metrics import ade
from geoeq.groups import parse
from geoeq.layers.rods import KeepRods
from geoeq.soft import Evidence, Fixed, Levels, SoftEquivariance, Tuner

__all__ = ["ForecastModule"]

AUDIT_GRAPHS = 200


def mean_distance(predicted: Tensor, target: Tensor) -> Tensor:
    return ade(as_path(predicted), as_path(target))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": nn.functional.mse_loss, "distance": mean_distance}


class ForecastModule(LightningModule):
    """A network that forecasts positions, trained on the mean squared error per coordinate or on the mean distance.

    It is called ``model(data)`` and returns ``[N, 3]``, or ``[N, F, 3]`` for F > 1 target frames. One that can draw
    several futures has a method ``sample(data, n) -> [n, N, 3]`` or ``[n, N, F, 3]``; the test then also tells how near
    the best of them comes.

    Logged are ``train_loss``, ``val_loss`` and ``test_mse``, and with ``val_`` or ``test_`` before their names ``fde``,
    and ``ade`` for several target frames. The test has also ``a_mse`` and ``f_mse`` of several frames, ``min_ade_K``,
    ``min_fde_K``, ``joint_min_ade_K`` and ``joint_min_fde_K`` of K samples, and of N-body systems ``momentum_drift``
    and ``energy_drift``, beside those of the true positions with ``true_`` before their names. Drifts are medians over
    graphs, all else means over nodes.

    If the network has soft layers, the candidate symmetries are attached to them: the tuner sees every gradient, every
    optimizer step is followed by the proximal step of the penalties, and the strengths are set once per epoch. An
    exact or free network is trained without, and its levels are read off all the same.

    Args:
        model: the network.
        symmetries: name and group of each candidate, ``{"rotation": "O(3)"}``; also what the test audits.
        tuner: what sets the strengths; Evidence by default.
        lr: learning rate of Adam.
        weight_decay: its coupled weight decay.
        cosine: whether the learning rate falls to 0 along half a cosine over the training.
        proximal: whether the penalties are a step of their own, exact at any strength, or a term of the loss, as
            published in arXiv 2306.00356.
        n_samples: number of futures drawn in the test of a network that can; none of geoeq.layers does.
        loss: ``"mse"``, or ``"distance"``: mean distance between forecast and truth, which a few large errors do not
            rule. The test has the mean squared error in either case.
        rods: whether edges that the data mark as rods keep their lengths in the forecast
            (:class:`geoeq.layers.KeepRods`).
    """

    def __init__(
        self,
        model: nn.Module,
        symmetries: dict[str, str] | None = None,
        tuner: Tuner | None = None,
        lr: float = 5e-4,
        weight_decay: float = 1e-12,
        cosine: bool = False,
        proximal: bool = True,
        n_samples: int = 20,
        loss: str = "mse",
        rods: bool = False,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr}")
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {list(LOSSES)}, got {loss!r}")
        self.model = KeepRods(model) if rods else model
        self.loss = LOSSES[loss]
        self.n_samples = n_samples
        self.lr, self.weight_decay, self.cosine, self.proximal = lr, weight_decay, cosine, proximal
        self.groups = {name: parse(text) for name, text in (symmetries or {}).items()}
        typed = [m for m in model.modules() if hasattr(m, "typed_maps")]
        self.soften = bool(self.groups) and any(getattr(m, "mode", None) == "soft" for m in typed)
        self.soft: SoftEquivariance | None = None
        self.attachment = ""
        self.orbit_errors: dict[str, float] = {}
        if self.groups and typed:
            self.soft = SoftEquivariance(self.groups, (tuner or Evidence()) if self.soften else Fixed(0.0))
            found = self.soft.attach(model)
            self.attachment = str(found) if self.soften else f"levels are read from {len(found.covered)} weights"

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        # Lightning converts plain tensors to trainer.precision, but not those inside a batch of graphs.
        if batch.pos.dtype == self.dtype:
            return batch
        return batch.apply(lambda value: value.to(self.dtype) if value.is_floating_point() else value)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # torch would list every tensor that differs; the first one tells the user enough.
        here = {name: list(value.shape) for name, value in self.state_dict().items()}
        there = {name: list(value.shape) for name, value in checkpoint["state_dict"].items()}
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise ValueError(
                    f"ckpt_path must hold the configured network, got {name} of shape {there.get(name)}"
                    f" where {here.get(name)} is needed"
                )

    def _forecast(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What is predicted and what comes, in the coordinates that the data have."""
        predicted, target = self.model(batch), batch.y
        if predicted.shape != target.shape:
            raise ValueError(
                f"model must predict {list(target.shape)}, as y has it, got {list(predicted.shape)}: "
                "give it the number of target frames of the data"
            )
        return self._known(predicted), self._known(target)

    def _known(self, positions: Tensor) -> Tensor:
        return positions[..., : self.trainer.datamodule.coordinates]  # type: ignore[attr-defined]

    def _log(self, prefix: str, values: Mapping[str, Tensor], batch: Batch) -> None:
        # Means over nodes: graphs may differ in size.
        self.log_dict({f"{prefix}_{name}": value for name, value in values.items()}, batch_size=batch.num_nodes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        predicted, target = self._forecast(batch)
        loss = self.loss(predicted, target)
        self._last_batch = batch
        # A tuner weighs n targets by n / (2 loss), as normal errors ask; a distance D, of exponential ones, by n / D.
        squares = loss.detach() if self.loss is nn.functional.mse_loss else 0.5 * loss.detach()
        self._last = (squares, batch.num_graphs, target.numel() // max(batch.num_graphs, 1))
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=batch.num_nodes)
        if self.soften and self.soft is not None and not self.proximal:
            return loss + self.soft.penalty()
        return loss

    @torch.no_grad()
    def _last_loss(self) -> Tensor:
        """The loss on the last training batch, with the weights as they are."""
        return self.loss(*self._forecast(self._last_batch))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        loss, batch_size, n_targets = self._last
        if self.soften and self.soft is not None:
            self.soft.observe(loss, batch_size, n_targets)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.soften and self.soft is not None and self.proximal:
            self.soft.prox_step(optimizer.optimizer)

    def on_train_epoch_end(self) -> None:
        loss = float(self.trainer.callback_metrics["train_loss"])
        if not math.isfinite(loss):
            raise ValueError(f"train_loss must stay finite, got {loss} in epoch {self.current_epoch}: lower lr")
        if self.soften and self.soft is not None:
            graphs = self.trainer.datamodule.split("train")  # type: ignore[attr-defined]
            self.soft.tune(self.progress(), len(graphs), self._last_loss)

    def on_train_start(self) -> None:
        tuner = None if self.soft is None else self.soft.tuner
        if isinstance(tuner, Evidence) and tuner.independent is None:
            tuner.independent = self.trainer.datamodule.independent()  # type: ignore[attr-defined]
        # A resumed training has no sanity check, and levels may be asked for before its first validation.
        if not hasattr(self, "audit_batch"):
            batch = next(iter(self.trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            self.audit_batch = self.on_after_batch_transfer(batch, 0)

    def progress(self) -> float:
        """Share of the planned training that is done, in [0, 1]."""
        return min(self.global_step / max(float(self.trainer.estimated_stepping_batches), 1.0), 1.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        predicted, target = self._forecast(batch)
        errors = {"loss": self.loss(predicted, target)}
        self._log("val", errors | path_errors(predicted, target, squares=False), batch)
        if batch_idx == 0:
            self.audit_batch = batch

    def on_test_epoch_start(self) -> None:
        self._drifts: dict[str, list[Tensor]] = {}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        predicted, target = self._forecast(batch)
        errors = {"mse": nn.functional.mse_loss(predicted, target)} | path_errors(predicted, target)
        sample: Callable[[Batch, int], Tensor] | None = getattr(self.model, "sample", None)  # type: ignore[assignment]
        if sample is not None:
            errors |= sample_errors(self._known(sample(batch, self.n_samples)), target, batch.batch)
        self._log("test", errors, batch)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        for kind, path in (("", predicted), ("true_", target)):
            for name, values in data.drifts(batch, as_path(path)).items():
                self._drifts.setdefault(f"{kind}{name}", []).append(values)
        if batch_idx == 0:
            self.audit_batch = batch
            few = Batch.from_data_list(batch.to_data_list()[:AUDIT_GRAPHS])
            for name, group in self.groups.items():
                self.orbit_errors[name] = orbit_error(self.model, few, group)
                self.log(f"error/{name}", self.orbit_errors[name], batch_size=batch.num_nodes)

    def on_test_epoch_end(self) -> None:
        # The median of graphs, since close encounters make a few drifts larger than all others together.
        self.log_dict({f"test_{name}": torch.cat(values).median() for name, values in self._drifts.items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.model(batch)

    def levels(self) -> Levels:
        """Levels of the candidate symmetries, weighed on the first batch of the last evaluation.

        After a test the orbit errors of the whole network stand beside them.
        """
        if self.soft is None:
            return Levels()
        batch = getattr(self, "audit_batch", None)
        table = self.soft.levels() if batch is None else self.soft.levels(batch)
        table.functional.update(self.orbit_errors)
        return table

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if not self.cosine:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("cosine must be false or trainer.max_epochs or max_steps given, got an endless training")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(int(steps), 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
