"""The mixed-symmetry regularizers measured: accuracy, planted levels, and the picture of both.

    python benchmarks/soft.py ladder --output runs/ladder.jsonl            levels against planted strength, vector tasks
    python benchmarks/soft.py nbody --output runs/ladder.jsonl             the same on N-body systems
    python benchmarks/soft.py report --ladder runs/ladder.jsonl --vectors runs/bench-soft.jsonl

The accuracy of every method on every vector task is ``geoeq bench soft``. ``report`` prints the tables of RESULTS.md
and draws docs/soft_levels.png. Rows are added to a file as they come, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from fitting import add, comparison, read
from scipy.stats import spearmanr

from geoeq.bench.train import Budget, train
from geoeq.datasets.vectors import CosSim, ModifiedInertia, VectorTask

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "nbody.yaml"
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "soft_levels.png"
EPSILONS = (0.0, 0.03, 0.1, 0.3, 1.0)
COLUMNS = 4  # of the figure
INERTIA = Budget(epochs=500)
COSSIM = Budget(epochs=300, batch_size=200)

# name of the ladder: how to build the task of one strength, the budget, the candidates that stay true
VECTOR_LADDERS: dict[str, tuple[Callable[[float], VectorTask], Budget, tuple[str, ...]]] = {
    **{
        f"inertia {axis}": (lambda e, axis=axis: ModifiedInertia(-e, axis), INERTIA, (f"O2({axis})",)) for axis in "xyz"
    },
    "cossim so3": (lambda e: CosSim("so3", e, lifted=True), COSSIM, ("rotation",)),
    "cossim scale": (lambda e: CosSim("scale", e, lifted=True), COSSIM, ("scale",)),
    "cossim none": (lambda e: CosSim("none", e, lifted=True), COSSIM, ()),
}

BODIES = {
    "rotation": "O(3)",
    "about z": "O2(z)",
    "translation": "T(3)",
    "permutation": "S(5)",
    "parity classes": "S(5, classes=[0, 1, 0, 1, 0])",
    "rod classes": "S(5, classes=[0, 0, 1, 2, 1])",
}
PLACES = {"permutation", "parity classes", "rod classes"}
# knob: its strengths, the candidates that stay true
NBODY_LADDERS: dict[str, tuple[tuple[float, ...], set[str]]] = {
    "field": ((0.0, 0.25, 0.5, 1.0, 2.0, 4.0), {"about z", "translation", *PLACES}),
    "trap": ((0.0, 0.25, 0.5, 1.0, 2.0, 4.0), {"rotation", "about z", *PLACES}),
    "hidden_charges": ((0.0, 0.125, 0.25, 0.5, 1.0, 2.0), {"rotation", "about z", "translation", "parity classes"}),
    "rigid_parts": ((0.0, 1.0, 3.0, 10.0, 30.0, 100.0), {"rotation", "about z", "translation", "rod classes"}),
}


Found = dict[str, dict[str, float]]  # "levels" of candidates, and "errors" of the whole network on their orbits


def vector_rung(name: str, strength: float, seed: int) -> Found:
    """What is found on a vector task with a break of one strength."""
    build, budget, _ = VECTOR_LADDERS[name]
    return {"levels": train(build(strength), "Evidence", seed=seed, budget=budget).levels}


def nbody_rung(knob: str, strength: float, seed: int) -> Found:
    """What is found on the charged 5-body system with one knob turned; with strength 0 all knobs are one system."""
    return _nbody_rung(knob if strength else "field", strength, seed)


@cache
def _nbody_rung(knob: str, strength: float, seed: int) -> Found:
    from geoeq.forecast.command import ForecastCLI, quieten

    quieten()
    options = [
        f"--config={CONFIG}",
        "--data.field=0.0",
        f"--data.{knob}={strength}",
        f"--model.symmetries={json.dumps(BODIES)}",
        "--model.model.init_args.n_nodes=5",
        "--model.model.init_args.pairs=true",
        f"--seed_everything={seed}",
        f"--data.shuffle_seed={seed}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        cli = ForecastCLI(["fit", *options], folder=Path(folder) / "run", label=knob)
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        levels = cli.model.levels()
        return {"levels": levels.overall(), "errors": dict(levels.functional)}


def climb(rungs: Iterable[tuple[str, float, int]], measure: Callable[[str, float, int], Found], output: Path) -> None:
    """Measure every rung that ``output`` does not hold yet."""
    known = {(row["ladder"], row["strength"], row["seed"]) for row in read(output)}
    for name, strength, seed in rungs:
        if (name, strength, seed) in known:
            continue
        row = {"ladder": name, "strength": strength, "seed": seed, **measure(name, strength, seed)}
        add(output, row)


def truth(ladder: str) -> set[str]:
    """Candidates that stay true however strong the break is."""
    return set(VECTOR_LADDERS[ladder][2]) if ladder in VECTOR_LADDERS else NBODY_LADDERS[ladder][1]


def ladder_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per ladder, measure and candidate: its values over the strengths, and what is judged of them."""
    lines = [
        "| ladder | candidate | truth | measure | values over rising strength | Spearman | largest where unbroken |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for ladder, own in climbed(rows).items():
        strengths = [row["strength"] for row in own]
        for name, measure in ((name, measure) for name in own[0]["levels"] for measure in ("levels", "errors")):
            if measure not in own[0]:
                continue
            values = [row[measure][name] for row in own]
            kept = name in truth(ladder)
            rank = "" if kept else f"{spearmanr(strengths, values).statistic:.2f}"
            unbroken = max(values if kept else [v for v, s in zip(values, strengths, strict=True) if s == 0])
            shown = " ".join(f"{value:.3f}" for value in values)
            cells = [ladder, name, "kept" if kept else "broken", measure[:-1], shown, rank, f"{unbroken:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def climbed(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rungs of each ladder by rising strength, every number the mean over seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for ladder, strength in sorted({(row["ladder"], row["strength"]) for row in rows}):
        own = [row for row in rows if (row["ladder"], row["strength"]) == (ladder, strength)]
        rung: dict[str, Any] = {"strength": strength, "seeds": len(own)}
        for measure in ("levels", "errors"):
            if measure in own[0]:
                rung[measure] = {name: fmean(row[measure][name] for row in own) for name in own[0][measure]}
        found.setdefault(ladder, []).append(rung)
    return found


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Levels, and below them errors of the network, against planted strength; candidates that stay true are dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (ladder, own, measure)
        for ladder, own in climbed(rows).items()
        for measure in ("levels", "errors")
        if measure in own[0]
    ]
    n_rows = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(n_rows, COLUMNS, figsize=(3.2 * COLUMNS, 2.8 * n_rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (ladder, own, measure) in zip(axes.flat, panels, strict=False):
        for name in own[0][measure]:
            style = "--" if name in truth(ladder) else "-"
            axis.plot(range(len(own)), [row[measure][name] for row in own], style, marker="o", ms=3, label=name)
        top = max(0.1, *(value for row in own for value in row[measure].values()))
        axis.set_xticks(range(len(own)), [f"{row['strength']:g}" for row in own])
        what = "recovered level" if measure == "levels" else "orbit error of the network"
        axis.set(title=ladder, xlabel="planted strength", ylabel=what, ylim=(-0.05 * top, 1.45 * top))
        axis.legend(fontsize=6, framealpha=0.6, ncols=2, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, ladders in (("ladder", VECTOR_LADDERS), ("nbody", NBODY_LADDERS)):
        climbing = commands.add_parser(name)
        climbing.add_argument("--ladders", nargs="+", default=list(ladders), choices=list(ladders), metavar="NAME")
        climbing.add_argument("--seeds", nargs="+", type=int, default=[0])
        climbing.add_argument("--output", type=Path, default=Path("runs/ladder.jsonl"))
    reporting = commands.add_parser("report")
    reporting.add_argument("--ladder", type=Path, default=Path("runs/ladder.jsonl"))
    reporting.add_argument("--vectors", type=Path, default=Path("runs/bench-soft.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.command == "ladder":
        climb([(n, e, s) for s in args.seeds for n in args.ladders for e in EPSILONS], vector_rung, args.output)
    elif args.command == "nbody":
        rungs = [(n, e, s) for s in args.seeds for n in args.ladders for e in NBODY_LADDERS[n][0]]
        climb(rungs, nbody_rung, args.output)
    else:
        from geoeq.bench.methods import METHODS
        from geoeq.bench.soft import markdown

        rows = read(args.ladder)
        vectors = read(args.vectors)
        timed = [row | {"task": f"{row['task']}, {row['epochs']} epochs"} for row in vectors]
        print(ladder_table(rows), comparison(timed, list(METHODS), "Evidence"), markdown(vectors), sep="\n\n")
        draw(rows, FIGURE)


if __name__ == "__main__":
    main()
