"""Planted problems that no default of Evidence was chosen on: which of nine candidate symmetries it finds.

    python benchmarks/soft_unseen.py run --output runs/soft-unseen.jsonl
    python benchmarks/soft_unseen.py report --output runs/soft-unseen.jsonl

Other forces, axes, systems and numbers of samples than those of soft_nbody.py and of the ladders in soft.py, two breaks
at once, and systems that keep everything. Rows are added to a file as they come, so an interrupted run goes on where it
was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fitting import errors_of, fit_and_test, read, sweep
from lightning.pytorch import seed_everything
from soft_nbody import NONE

from geoeq.forecast.command import quieten
from geoeq.forecast.datamodule import NBodyData
from geoeq.forecast.module import ForecastModule
from geoeq.layers import TypedMPNN
from geoeq.soft import Evidence

CLASSES = {"parity classes": [0, 1, 0, 1, 0], "rod classes": [0, 0, 1, 2, 1]}
SYMMETRIES = {
    "rotation": "O(3)",
    "proper rotation": "SO(3)",
    **{f"about {axis}": f"O2({axis})" for axis in "xyz"},
    "translation": "T(3)",
    "permutation": "S(5)",
    **{name: f"S(5, classes={classes})" for name, classes in CLASSES.items()},
}
TURNS = {"rotation", "proper rotation", "about x", "about y", "about z"}
STEPS = 1200


class Task(NamedTuple):
    """A system with knobs turned, and the candidates that do not hold for it."""

    knobs: Mapping[str, Any]
    broken: set[str]
    n_train: int = 3000
    batch_size: int = 100
    hidden: str = "32x0e + 8x1o"


TASKS = {
    "stronger along x": Task({"anisotropy": 3.0, "axis": "x"}, TURNS - {"about x"}),
    "field along x, trap": Task({"field": 2.0, "axis": "x", "trap": 1.0}, (TURNS - {"about x"}) | {"translation"}),
    "field along y, hidden charges": Task(
        {"field": 1.0, "axis": "y", "hidden_charges": 1.0},
        (TURNS - {"about y"}) | {"permutation", "rod classes"},
    ),
    # which keeps turns about z, but not the mirrors that O2(z) has
    "magnetic field": Task({"chiral": 2.0, "chiral_form": "field"}, TURNS, hidden="32x0e + 8x1o + 4x0o + 4x1e"),
    "trap, rods": Task({"trap": 1.0, "rigid_parts": 30.0}, {"translation", "permutation", "parity classes"}),
    "drag": Task({"drag": 1.0}, set()),
    "springs": Task({"system": "springs"}, set()),
    "springs, field": Task({"system": "springs", "field": 1.0}, TURNS - {"about z"}),
    "springs, hidden charges": Task({"system": "springs", "hidden_charges": 0.5}, {"permutation", "rod classes"}),
    "300 samples": Task({}, set(), 300, 50),
    "300 samples, field": Task({"field": 2.0}, TURNS - {"about z"}, 300, 50),
    "100 samples": Task({}, set(), 100, 25),
    "100 samples, field": Task({"field": 2.0}, TURNS - {"about z"}, 100, 25),
}


def run(name: str, method: str, seed: int, root: str) -> dict[str, Any]:
    """One training; what is returned can be written as JSON."""
    seed_everything(seed, verbose=False)
    task = TASKS[name]
    model = TypedMPNN(task.hidden, 3, mode="free" if method == "free" else "soft", n_nodes=5, pairs=True)
    data = NBodyData(
        root,
        batch_size=task.batch_size,
        shuffle_seed=seed,
        frames=[0, 10],
        sizes=[task.n_train, 2000, 2000],
        log=False,
        **task.knobs,
    )
    tuner = None if method == "free" else Evidence()
    module = ForecastModule(model, SYMMETRIES, tuner, lr=1e-3, weight_decay=0.0, cosine=True)
    return fit_and_test(module, data, STEPS // (task.n_train // task.batch_size))


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per task: what was found, and the errors."""
    columns = ["task", "seeds", "broken", "least error of these", "largest error of the others", "test MSE x 1000"]
    lines = [f"| {' | '.join([*columns, 'of the free network'])} |", "|---" * 7 + "|"]
    for name, task in TASKS.items():
        own = [row for row in rows if (row["task"], row["method"]) == (name, "Evidence")]
        if not own:
            continue
        broken = [min(row["errors"][symmetry] for symmetry in task.broken) for row in own if task.broken]
        kept = max(row["errors"][symmetry] for row in own for symmetry in set(SYMMETRIES) - task.broken)
        cells = [name, str(len(own)), ", ".join(s for s in SYMMETRIES if s in task.broken) or "none"]
        cells += [f"{min(broken):.3f}" if broken else "", f"{kept:.3f}" if kept > NONE else "0"]
        for method in ("Evidence", "free"):
            errors = errors_of(rows, name, method).values()
            cells.append(f"{1e3 * sum(errors) / len(errors):.4g}" if errors else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=["Evidence", "free"], choices=["Evidence", "free"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--root", default="data/nbody")
    parser.add_argument("--output", type=Path, default=Path("runs/soft-unseen.jsonl"))
    args = parser.parse_args()
    if args.command == "report":
        print(report(read(args.output)))
        return
    torch.set_num_threads(1)
    quieten()
    sweep(args.output, args.tasks, args.methods, args.seeds, lambda *job: run(*job, args.root))


if __name__ == "__main__":
    main()
