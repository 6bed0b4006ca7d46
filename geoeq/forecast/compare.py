"""``geoeq compare``: the same network exact, soft and free, on the same data, budget and seeds, in one table."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from geoeq.forecast.command import ForecastCLI, fit_options
from geoeq.forecast.datamodule import GraphData
from geoeq.forecast.report import RunRecord, write_report
from geoeq.forecast.report_records import column_title
from geoeq.forecast.runs import new_folder, remove_empty, write_csv, write_text

__all__ = ["Comparison", "compare"]

KNOWN = {"mode", "test_mse", "std_mse", "equivariance_error", "level", "seconds", "parameters"}
MODES = ("exact", "soft", "free")
MODE_OPTION = "--model.model.init_args.mode"


@dataclass(frozen=True)
class Comparison:
    """Outcome of :func:`compare`.

    Attributes:
        folder: of all runs, the table and the report.
        records: one per mode and seed, in order of training.
        rows: one per mode, means over seeds; ``std_mse`` is their standard deviation.
    """

    folder: Path
    records: list[RunRecord]
    rows: list[dict[str, Any]]


def compare(
    args: Sequence[str],
    *,
    modes: Sequence[str] = MODES,
    seeds: Sequence[int] = (0,),
    name: str | None = None,
    runs: str | None = None,
) -> Comparison:
    """Train, test at the best validation epoch, print the table; write ``comparison.{csv,json}``, ``report.html``.

    Args:
        args: what ``geoeq fit`` would be given, ``["--config", "configs/nbody.yaml"]``; the network has a ``mode``.
        modes: of ``"exact"``, ``"soft"``, ``"free"``.
        seeds: one training per mode and seed.
        name: of the experiment; None takes that of ``args``.
        runs: folder of all runs; None takes that of ``args``.

    Raises:
        ValueError: before the first training, for unknown or repeated modes, seeds outside [0, 2**32) or repeated.
    """
    if not modes or len(set(modes)) < len(modes) or not set(modes) <= set(MODES):
        raise ValueError(f"modes must be different ones of {list(MODES)}, got {list(modes)}")
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds must be different integers in [0, 2**32), got {list(seeds)}")
    given = [f"--{key}={value}" for key, value in (("name", name), ("runs", runs)) if value is not None]
    args = [*args, *given]
    options = fit_options(args)
    folder = new_folder(options.name, options.runs)
    print(f"geoeq: {len(modes) * len(seeds)} trainings in {folder}", file=sys.stderr, flush=True)
    records, first_config, unit = [], None, GraphData.unit
    for seed in seeds:
        for mode in modes:
            label = mode if len(seeds) == 1 else f"{mode}, seed {seed}"
            try:
                cli = _train(args, folder / f"{mode}-{seed}", label, mode, seed)
            except BaseException:
                remove_empty(folder)
                raise
            unit = cli.recorder.unit
            records.append(replace(cli.recorder.record(), name=label))
            first_config = first_config or folder / f"{mode}-{seed}" / "config.yaml"
    rows = [_mean_row(mode, [r for r in records if r.name.split(",")[0] == mode]) for mode in modes]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(folder / "comparison.csv", columns, rows)
    single = [{"name": record.name, **record.summary} for record in records]
    write_text(folder / "comparison.json", json.dumps({"modes": rows, "runs": single}, indent=1))
    text = first_config.read_text(encoding="utf-8") if first_config and first_config.is_file() else ""
    note = "The same network, data, number of steps and seeds; only the symmetry of its linear maps differs."
    write_report(
        folder / "report.html",
        title=f"geoeq compare: {options.name}",
        runs=records,
        config_text=text,
        notes=[note],
        length_unit=unit,
    )
    _print(rows)
    print(f"geoeq: report in {folder / 'report.html'}", file=sys.stderr)
    return Comparison(folder, records, rows)


def _train(args: Sequence[str], folder: Path, label: str, mode: str, seed: int) -> ForecastCLI:
    folder.mkdir(parents=True)
    own = [f"{MODE_OPTION}={mode}", f"--seed_everything={seed}", f"--data.shuffle_seed={seed}"]
    cli = ForecastCLI(["fit", *args, *own], folder=folder, label=label)
    best = cli.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=best or None, verbose=False)
    return cli


def _mean_row(mode: str, records: Sequence[RunRecord]) -> dict[str, Any]:
    errors = [record.summary["test_mse"] for record in records]
    row = {"mode": mode, "test_mse": statistics.fmean(errors), "std_mse": statistics.pstdev(errors)}
    for key, title in (("equivariance_error", "error"), ("level", "level")):
        for symmetry in records[0].summary[key]:
            row[f"{title}: {symmetry}"] = statistics.fmean(record.summary[key][symmetry] for record in records)
    for key in _further(records[0].summary):
        row[key] = statistics.fmean(record.summary[key] for record in records)
    row["seconds"] = statistics.fmean(record.summary["seconds"] for record in records)
    return row


def _further(row: Mapping[str, Any]) -> list[str]:
    """Names of the errors beside the test MSE."""
    return [key for key in row if key not in KNOWN and not key.startswith(("level: ", "error: "))]


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    """One table; the lowest test error is marked."""
    symmetries = [key.removeprefix("level: ") for key in rows[0] if key.startswith("level: ")]
    table = Table(title="same network, data, steps and seeds", caption="level and equivariance error: 0 is exact")
    table.add_column("mode")
    table.add_column("test MSE", justify="right")
    for symmetry in symmetries:
        table.add_column(f"{symmetry}\nlevel / error", justify="right")
    further = _further(rows[0])
    for key in [*further, "seconds"]:
        table.add_column(column_title(key), justify="right")
    best = min(row["test_mse"] for row in rows)
    for row in rows:
        error = f"{row['test_mse']:.5f}" + (f" ± {row['std_mse']:.5f}" if row["std_mse"] else "")
        cells = [f"{row[f'level: {s}']:.3f} / {row[f'error: {s}']:.3f}" for s in symmetries]
        style = "bold" if row["test_mse"] == best else None
        cells += [f"{row[key]:.4g}" for key in further]
        table.add_row(row["mode"], error, *cells, f"{row['seconds']:.0f}", style=style)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
