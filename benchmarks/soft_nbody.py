"""Every way to treat symmetry on charged bodies with one knob turned: the same network, data, steps and selection.

    python benchmarks/soft_nbody.py run --output runs/soft-nbody.jsonl
    python benchmarks/soft_nbody.py report --output runs/soft-nbody.jsonl

The network is the TypedMPNN of configs/nbody.yaml with identities of nodes and of pairs of them, so that it can break
every candidate. Rows are added to a file as they come, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fitting import comparison, errors_of, fit_and_test, read, start_free, sweep
from lightning.pytorch import seed_everything

from geoeq.forecast.command import quieten
from geoeq.forecast.datamodule import NBodyData
from geoeq.forecast.module import ForecastModule
from geoeq.groups import parse
from geoeq.layers import TypedLinear, TypedMPNN
from geoeq.layers.identities import Identities
from geoeq.soft import Evidence, Fixed, OneShot, Resilient, Tuner

SYMMETRIES = {
    "rotation": "O(3)",
    "about z": "O2(z)",
    "translation": "T(3)",
    "permutation": "S(5)",
    "parity classes": "S(5, classes=[0, 1, 0, 1, 0])",
    "rod classes": "S(5, classes=[0, 0, 1, 2, 1])",
}
NONE = 1e-3  # an error below this is that of rounding
PLACES = ("permutation", "parity classes", "rod classes")
# name of the task: the knob that is turned, and the candidates that stay true
TASKS: dict[str, tuple[dict[str, float], tuple[str, ...]]] = {
    "no knob": ({}, tuple(SYMMETRIES)),
    "field 2": ({"field": 2.0}, ("about z", "translation", *PLACES)),
    "trap 1": ({"trap": 1.0}, ("rotation", "about z", *PLACES)),
    "hidden charges 1": ({"hidden_charges": 1.0}, ("rotation", "about z", "translation", "parity classes")),
    "rods 30": ({"rigid_parts": 30.0}, ("rotation", "about z", "translation", "rod classes")),
}


class Method(NamedTuple):
    """One way to treat symmetry: the mode of the linear maps, the tuner, and whether penalties are a step.

    ``told`` methods have the true candidates alone.
    """

    mode: str
    tuner: Callable[[], Tuner] | None = None
    proximal: bool = True
    start_free: bool = False
    told: bool = False


METHODS = {
    "free": Method("free"),
    "exact": Method("exact"),
    "oracle": Method("free"),
    # W = P A + B with squared norms of 1e-5 A and 1 B is the prior of a penalty 2 on what all candidates forbid
    "RPP": Method("soft", lambda: Fixed(2.0), proximal=False),
    "PER": Method("soft", lambda: OneShot(5.0, gamma=5.0, at=0.2), proximal=False, start_free=True),
    "Evidence": Method("soft", Evidence),
    "Evidence, told": Method("soft", Evidence, told=True),
    "Resilient": Method("soft", Resilient),
}


def network(method: str, true: Sequence[str]) -> TypedMPNN:
    """The network of a method; the oracle is exact for the ``true`` candidates."""
    way = METHODS[method]
    model = TypedMPNN("32x0e + 8x1o", 3, mode="free" if way.start_free else way.mode, n_nodes=5, pairs=True)
    if way.start_free:
        start_free(model)
    if method == "oracle":
        for layer in model.modules():
            if isinstance(layer, TypedLinear):
                layer.constrain([parse(SYMMETRIES[name]) for name in true])
                layer.reset_parameters()
        for layer in model.modules():
            if isinstance(layer, Identities):  # which start at zero
                layer.reset_parameters()
    return model


def run(task: str, method: str, seed: int, root: str, epochs: int) -> dict[str, Any]:
    """One training; what is returned can be written as JSON."""
    seed_everything(seed, verbose=False)
    knobs, true = TASKS[task]
    way = METHODS[method]
    data = NBodyData(root, batch_size=100, shuffle_seed=seed, system="charged", frames=[0, 10], log=False, **knobs)
    module = ForecastModule(
        network(method, true),
        {name: SYMMETRIES[name] for name in true} if way.told else SYMMETRIES,
        way.tuner() if way.tuner else None,
        lr=1e-3,
        weight_decay=0.0,
        cosine=True,
        proximal=way.proximal,
    )
    return fit_and_test(module, data, epochs)


def costs(rows: Sequence[Mapping[str, Any]]) -> str:
    """What wrong candidates cost: Evidence with all candidates beside Evidence with the true ones alone."""
    lines = ["| task | true candidates alone | all candidates | costs, seed by seed | mean |", "|---" * 5 + "|"]
    found: list[float] = []
    for task in (task for task, (knobs, _) in TASKS.items() if knobs):
        whole, told = (errors_of(rows, task, method) for method in ("Evidence", "Evidence, told"))
        seeds = sorted(set(whole) & set(told))
        if not seeds:
            continue
        own = [100 * (whole[seed] / told[seed] - 1) for seed in seeds]
        found += own
        errors = (f"{1e3 * statistics.fmean(errors[seed] for seed in seeds):.2f}" for errors in (told, whole))
        listed = ", ".join(f"{cost:+.1f} %" for cost in own)
        lines.append(f"| {task} | {' | '.join(errors)} | {listed} | {statistics.fmean(own):+.1f} % |")
    if len(found) > 1:
        error = statistics.stdev(found) / len(found) ** 0.5
        lines.append(f"\nMean {statistics.fmean(found):+.1f} %, standard error {error:.1f} %.")
    return "\n".join(lines)


def breaks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Orbit errors of Evidence and of the free network, for candidates that a task breaks or a network violates."""
    lines = ["| task | candidate | truth | error of the network: Evidence | free |", "|---" * 5 + "|"]
    for task, (_, true) in TASKS.items():
        for name in SYMMETRIES:
            errors = {
                method: [row["errors"][name] for row in rows if (row["task"], row["method"]) == (task, method)]
                for method in ("Evidence", "free")
            }
            kept = name in true
            if not all(errors.values()) or (kept and max(errors["Evidence"]) < NONE):
                continue
            cells = (f"{statistics.fmean(own):.3f} ± {statistics.pstdev(own):.2g}" for own in errors.values())
            lines.append(f"| {task} | {name} | {'kept' if kept else 'broken'} | {' | '.join(cells)} |")
    own = [row for row in rows if row["method"] == "Evidence"]
    largest = max((row["errors"][name] for row in own for name in TASKS[row["task"]][1]), default=0.0)
    lines.append(f"\nLargest error of a candidate that is true: {largest:.1e}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--root", default="data/nbody")
    parser.add_argument("--output", type=Path, default=Path("runs/soft-nbody.jsonl"))
    args = parser.parse_args()
    if args.command == "report":
        rows = read(args.output)
        compared = [row for row in rows if row["method"] != "Evidence, told"]
        print(comparison(compared, list(METHODS), "Evidence", 1e3), costs(rows), breaks(rows), sep="\n\n")
        return
    torch.set_num_threads(1)
    quieten()
    sweep(args.output, args.tasks, args.methods, args.seeds, lambda *job: run(*job, args.root, args.epochs))


if __name__ == "__main__":
    main()
