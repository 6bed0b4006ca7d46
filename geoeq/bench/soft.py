"""``geoeq bench soft``: every method on every synthetic task, same capacity, steps and selection, in one table."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from geoeq.bench.methods import METHODS
from geoeq.bench.train import Budget, train
from geoeq.datasets.vectors import CosSim, ModifiedInertia, PairDistances, VectorTask

__all__ = ["TASKS", "Job", "bench", "markdown", "paired", "parser", "rows_of"]

SMALL_BATCH = Budget(batch_size=200)


@dataclass(frozen=True)
class Case:
    """A task and what every method is given for it."""

    build: Callable[[], VectorTask]
    budget: Budget = field(default_factory=Budget)


TASKS: dict[str, Case] = {
    "inertia z": Case(lambda: ModifiedInertia(-1.0, "z")),
    "inertia 0": Case(lambda: ModifiedInertia(0.0, "z")),
    "cossim so3": Case(lambda: CosSim("so3", lifted=True), SMALL_BATCH),
    "cossim scale": Case(lambda: CosSim("scale", lifted=True), SMALL_BATCH),
    "cossim both": Case(lambda: CosSim("both", lifted=True), SMALL_BATCH),
    "cossim none": Case(lambda: CosSim("none", lifted=True), SMALL_BATCH),
    "inertia x": Case(lambda: ModifiedInertia(-1.0, "x")),
    "inertia y": Case(lambda: ModifiedInertia(-1.0, "y")),
    "inertia none": Case(lambda: ModifiedInertia(-1.0, None)),
    "inertia z, linear": Case(lambda: ModifiedInertia(-1.0, "z", candidates="linear")),
    "inertia 0, linear": Case(lambda: ModifiedInertia(0.0, "z", candidates="linear")),
    "inertia z, permutations": Case(lambda: ModifiedInertia(-1.0, "z", candidates="permutations")),
    "cossim so3, permutations": Case(lambda: CosSim("so3", candidates="permutations"), SMALL_BATCH),
    "cossim none, permutations": Case(lambda: CosSim("none", candidates="permutations"), SMALL_BATCH),
    "rigid norm": Case(lambda: PairDistances("norm"), SMALL_BATCH),
    "rigid difference": Case(lambda: PairDistances("difference"), SMALL_BATCH),
    "rigid squares": Case(lambda: PairDistances("squares"), SMALL_BATCH),
    "rigid l1": Case(lambda: PairDistances("l1"), SMALL_BATCH),
}


@dataclass(frozen=True)
class Job:
    """One training: names of task and method, seed, and the number of epochs if not the usual one."""

    task: str
    method: str
    seed: int
    epochs: int | None = None

    def run(self) -> dict[str, Any]:
        """Train; what is returned can be written as JSON."""
        case = TASKS[self.task]
        budget = case.budget if self.epochs is None else replace(case.budget, epochs=self.epochs)
        outcome = train(case.build(), self.method, seed=self.seed, budget=budget)
        return asdict(self) | {"epochs": budget.epochs} | asdict(outcome)


def bench(jobs: Sequence[Job], output: Path | None = None, processes: int = 1) -> list[dict[str, Any]]:
    """Run ``jobs`` and return their rows in order; those that ``output`` already holds are not run again.

    Args:
        jobs: what to train.
        output: file with one JSON object per line, one added when a training ends; None keeps nothing.
        processes: trainings at a time, one thread each.
    """
    rows = {_key(row): row for row in _read(output)}
    todo = [job for job in jobs if _job_key(job) not in rows]
    print(f"geoeq: {len(todo)} trainings, {len(jobs) - len(todo)} known", file=sys.stderr, flush=True)
    for number, row in enumerate(_results(todo, processes), start=1):
        rows[_key(row)] = row
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        cell = f"{row['task']}, {row['method']}, seed {row['seed']}: test MSE {row['test']:.4f}"
        print(f"geoeq: {number}/{len(todo)} {cell} ({row['seconds']:.0f} s)", file=sys.stderr, flush=True)
    return [rows[_job_key(job)] for job in jobs]


def _results(jobs: Sequence[Job], processes: int) -> Iterable[dict[str, Any]]:
    if processes == 1:
        yield from map(Job.run, jobs)
        return
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(Job.run, jobs)


def _job_key(job: Job) -> tuple[Any, ...]:
    return job.task, job.method, job.seed, job.epochs or TASKS[job.task].budget.epochs


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["method"], row["seed"], row["epochs"]


def _read(output: Path | None) -> list[dict[str, Any]]:
    if output is None or not output.exists():
        return []
    lines = output.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines if line]
    except json.JSONDecodeError as error:
        raise ValueError(f"output {output} must hold one JSON object per line, got {error}") from error


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per task, number of epochs and method: mean and standard deviation of the test error, mean levels."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["task"], row["epochs"], row["method"]), []).append(row)
    found = []
    for (task, epochs, method), members in groups.items():
        errors = [row["test"] for row in members]
        levels = {key: statistics.fmean(row["levels"][key] for row in members) for key in members[0]["levels"]}
        found.append(
            {
                "task": task,
                "epochs": epochs,
                "method": method,
                "seeds": len(members),
                "test": statistics.fmean(errors),
                "deviation": statistics.stdev(errors) if len(errors) > 1 else 0.0,
                "levels": levels,
                "seconds": statistics.fmean(row["seconds"] for row in members),
            }
        )
    return found


def paired(results: Sequence[Mapping[str, Any]], task: str, epochs: int, a: str, b: str) -> tuple[float, float] | None:
    """Mean difference of test errors, ``b`` less ``a``, over common seeds, and its standard error."""
    errors = {(r["method"], r["seed"]): r["test"] for r in results if r["task"] == task and r["epochs"] == epochs}
    seeds = [seed for method, seed in errors if method == a and (b, seed) in errors]
    if len(seeds) < 2:
        return None
    gaps = [errors[b, seed] - errors[a, seed] for seed in seeds]
    return statistics.fmean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Tables for a document, one line per task and method."""
    lines = ["| task | epochs | method | seeds | test MSE | level of each candidate |", "|---|---|---|---|---|---|"]
    for row in rows_of(results):
        levels = ", ".join(f"{name} {level:.3f}" for name, level in row["levels"].items())
        error = f"{row['test']:.4f} ± {row['deviation']:.4f}"
        lines.append(f"| {row['task']} | {row['epochs']} | {row['method']} | {row['seeds']} | {error} | {levels} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    found = argparse.ArgumentParser("geoeq bench soft", description=__doc__, exit_on_error=False)
    found.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK")
    found.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    found.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    found.add_argument("--epochs", type=int, help="in place of each task's own number")
    found.add_argument("--processes", type=int, default=1, help="trainings at a time")
    found.add_argument("--output", type=Path, default=Path("runs/bench-soft.jsonl"), help="rows, added to as they come")
    return found


def main(arguments: Sequence[str]) -> None:
    """Run the command and print the table."""
    args = parser().parse_args(arguments)
    torch.set_num_threads(1)
    jobs = [
        Job(task, method, seed, args.epochs) for task in args.tasks for seed in args.seeds for method in args.methods
    ]
    table = Table(title="same capacity, steps and selection; level 0 is exact")
    for title in ("task", "epochs", "method", "test MSE", "levels"):
        table.add_column(title, justify="right" if title in ("epochs", "test MSE") else "left")
    for row in rows_of(bench(jobs, args.output, args.processes)):
        levels = ", ".join(f"{name} {level:.3f}" for name, level in row["levels"].items())
        error = f"{row['test']:.4f} ± {row['deviation']:.4f}"
        table.add_row(row["task"], str(row["epochs"]), row["method"], error, levels)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
