"""Trainings of forecasts that are counted alike, and the files of rows that the scripts beside this one add to."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from geoeq.forecast.module import ForecastModule
from geoeq.layers import TypedLinear
from geoeq.soft import Levels
from geoeq.soft.levels import LevelRow

EQUAL = 1e-4  # relative difference of errors below which two trainings are the same


def fit_and_test(module: ForecastModule, data: LightningDataModule, epochs: int) -> dict[str, Any]:
    """Errors and levels at the best validation epoch, as they can be written to a file of rows."""
    data.prepare_data()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_loss")
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            callbacks=[best],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, data)
        (result,) = trainer.test(module, data, ckpt_path="best", verbose=False)
    levels = module.levels()
    errors = {name.removeprefix("test_"): value for name, value in result.items() if name.startswith("test_")}
    return {
        "test": errors.pop("mse"),
        "further": errors,
        "levels": levels.overall(),
        "intervals": {name: [row.low, row.high] for name, row in _worst(levels).items()},
        "errors": dict(levels.functional),
        "steps": trainer.global_step,
        "seconds": time.perf_counter() - start,
    }


def _worst(levels: Levels) -> dict[str, LevelRow]:
    """For each symmetry the layer that breaks it most."""
    return {row.symmetry: row for row in sorted(levels, key=lambda row: row.level)}


def start_free(model: nn.Module) -> None:
    """Make a network that was built free soft, as it is: the published way to begin."""
    for layer in model.modules():
        if isinstance(layer, TypedLinear):
            layer.mode = "soft"


def read(path: Path | None) -> list[dict[str, Any]]:
    """Rows of a file; none if it is not there."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def sweep(
    path: Path,
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    run: Callable[[str, str, int], Mapping[str, Any]],
) -> None:
    """Add the row of every training that ``path`` does not hold yet."""
    known = {(row["task"], row["method"], row["seed"]) for row in read(path)}
    for seed, task, method in product(seeds, tasks, methods):
        if (task, method, seed) not in known:
            add(path, {"task": task, "method": method, "seed": seed, **run(task, method, seed)})


def comparison(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], reference: str, scale: float = 1.0) -> str:
    """Test error of each method on each task over the seeds that all have.

    In brackets how far it is above ``reference`` with the same seeds, and the standard error of this difference.
    """
    methods = [method for method in methods if any(row["method"] == method for row in rows)]
    lines = [f"| task | seeds | {' | '.join(methods)} |", "|---" * (2 + len(methods)) + "|"]
    for task in dict.fromkeys(row["task"] for row in rows):
        errors = {m: errors_of(rows, task, m) for m in methods}
        seeds = sorted(set.intersection(*(set(own) for own in errors.values() if own)))
        base = errors[reference]
        cells = [
            _cell([own[s] for s in seeds], [own[s] - base.get(s, 0.0) for s in seeds], scale) if own else ""
            for own in errors.values()
        ]
        lines.append(f"| {task} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def errors_of(rows: Sequence[Mapping[str, Any]], task: str, method: str) -> dict[int, float]:
    """Test error of each seed."""
    return {row["seed"]: row["test"] for row in rows if (row["task"], row["method"]) == (task, method)}


def _cell(errors: Sequence[float], gaps: Sequence[float], scale: float) -> str:
    if not errors:
        return ""
    cell = f"{scale * statistics.fmean(errors):.4g}"
    if len(gaps) < 2 or max(map(abs, gaps)) <= EQUAL * statistics.fmean(errors):
        return cell
    error = scale * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{cell} ({scale * statistics.fmean(gaps):+.2g} ± {error:.2g})"


def add(path: Path, row: Mapping[str, Any]) -> None:
    """One more row, printed too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)
