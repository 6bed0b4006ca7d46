"""Callback that keeps the numbers of a run and writes them beside its checkpoints."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from geoeq.forecast.datamodule import GraphData
from geoeq.forecast.module import ForecastModule
from geoeq.forecast.report import RunRecord, TrajectorySample, write_report
from geoeq.forecast.report_records import read_levels, read_metrics
from geoeq.forecast.runs import newest_config, write_csv

__all__ = ["Recorder"]

SNAPSHOTS = 40
SAMPLES = 3
METRICS = ("epoch", "step", "train_loss", "val_loss", "seconds")
TEST = "test_mse"
LEVELS = ("epoch", "layer", "symmetry", "level", "strength")


class Recorder(Callback):
    """Writes ``metrics.csv`` each epoch, ``levels.csv`` some forty times, and ``report.html`` at the end.

    The metrics are losses and the errors of the validation; those of a test are in the report.

    All rows travel in the checkpoint, so that a resumed run continues its tables without a gap or a double row. A
    test tells of the whole training, whichever checkpoint it is of.

    Args:
        folder: the run's folder.
        name: of the run in its report.
        chatty: whether to print a line now and then (where no progress bar is shown).
    """

    def __init__(self, folder: Path, name: str, *, chatty: bool = False) -> None:
        self.folder, self.name, self.chatty = folder, name, chatty
        self.metrics: list[dict[str, Any]] = []
        self.levels: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.seconds = 0.0
        self.samples: list[TrajectorySample] = []
        self.unit = GraphData.unit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.unit = trainer.datamodule.unit  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "levels": self.levels, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics, self.levels = list(state_dict["metrics"]), list(state_dict["levels"])
        self.seconds = state_dict["seconds"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tick = time.perf_counter()
        self._fresh = ["train_loss"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning keeps the value of an earlier epoch where this one has no validation.
        if not trainer.sanity_checking:
            self._fresh = ["train_loss", *sorted(key for key in trainer.callback_metrics if key.startswith("val_"))]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self._tick
        values = {key: float(trainer.callback_metrics[key]) for key in self._fresh if key in trainer.callback_metrics}
        epoch = trainer.current_epoch
        row = {"epoch": epoch, "step": trainer.global_step, **values, "seconds": round(self.seconds, 3)}
        self.metrics.append(row)
        more = sorted({key for row in self.metrics for key in row} - set(METRICS))
        write_csv(self.folder / "metrics.csv", [*METRICS, *more], self.metrics)
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else SNAPSHOTS
        if epoch % max(total // SNAPSHOTS, 1) == 0 or epoch == total - 1:
            self._record_levels(epoch, pl_module)
        if self.chatty and epoch % max(total // 5, 1) == 0:
            losses = ", ".join(f"{key} {values[key]:.5f}" for key in METRICS if key in values)
            print(f"  {self.name}: epoch {epoch}, {losses}, {self.seconds:.0f} s", file=sys.stderr, flush=True)

    def _record_levels(self, epoch: int, module: LightningModule) -> None:
        if not isinstance(module, ForecastModule) or module.soft is None:
            return
        for row in module.levels():
            values = (epoch, row.layer, row.symmetry, row.level, row.strength)
            self.levels.append(dict(zip(LEVELS, values, strict=True)))
        write_csv(self.folder / "levels.csv", LEVELS, self.levels)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.metrics:
            self.report()

    @torch.no_grad()
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, ForecastModule):
            return
        self._read_tables()
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.summary = {
            TEST: values[TEST],
            **{key.removeprefix("test_"): values[key] for key in values if key.startswith("test_") and key != TEST},
            "equivariance_error": {name: values[f"error/{name}"] for name in pl_module.groups},
            "level": pl_module.levels().overall(),
            "seconds": self.seconds,
            "parameters": sum(p.numel() for p in pl_module.model.parameters()),
        }
        self.samples = self._draw(trainer, pl_module)
        self.report()

    def _read_tables(self) -> None:
        """The whole training, where its tables lie here: the state of the best checkpoint ends at its epoch."""
        metrics, levels = self.folder / "metrics.csv", self.folder / "levels.csv"
        if metrics.is_file() and len(rows := read_metrics(metrics)) > len(self.metrics):
            self.metrics, self.seconds = rows, rows[-1]["seconds"]
        if levels.is_file() and len(rows := read_levels(levels)) > len(self.levels):
            self.levels = rows

    def _draw(self, trainer: Trainer, module: ForecastModule) -> list[TrajectorySample]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        n = min(SAMPLES, len(data.split("test")))
        batch = data.fetch("test", torch.arange(n))
        moved = module.on_after_batch_transfer(batch.to(module.device), 0)
        ends = {"predicted": module.model(moved).cpu(), "target": batch.y.cpu()}
        ends = {name: value if value.dim() == 2 else value[:, -1] for name, value in ends.items()}
        paths, horizon = data.true_paths(n), data.horizon()
        return [
            TrajectorySample(
                position=batch.pos[first:last].cpu(),
                velocity=batch.vel[first:last].cpu(),
                target=ends["target"][first:last],
                predicted=ends["predicted"][first:last],
                true_path=paths[k],
                horizon=horizon,
                name=f"test graph {k}",
                up=data.up,
            )
            for k, (first, last) in enumerate(pairwise(batch.ptr.tolist()))
        ]

    def record(self) -> RunRecord:
        """What a report shows of this run."""
        return RunRecord(self.name, self.summary, self.metrics, self.levels or None, self.samples)

    def report(self) -> None:
        """Write ``report.html`` into the run's folder."""
        config = newest_config(self.folder)
        text = "" if config is None else config.read_text(encoding="utf-8")
        write_report(
            self.folder / "report.html",
            title=f"geoeq: {self.name}",
            runs=[self.record()],
            config_text=text,
            length_unit=self.unit,
        )
