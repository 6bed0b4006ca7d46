"""Exact, soft and free on the charged 5-body system in a field: the main table of RESULTS.md.

    python benchmarks/nbody_symmetry.py --fields 0 2 4 --seeds 0 1 2 --output field.json

Every (field, seed) is one `compare` of the default configuration; with --processes they run side by side.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

MODES = ("exact", "soft", "free")
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "nbody.yaml"


def train(job: tuple[float, int, int, str, tuple[str, ...]]) -> dict[str, Any]:
    """One comparison of the three modes; returns its rows with the field and the seed."""
    field, seed, threads, runs, options = job
    from geoeq.forecast.command import quieten
    from geoeq.forecast.compare import compare

    quieten()
    args = ["--config", str(CONFIG), f"--data.field={field}", f"--threads={threads}", *options]
    outcome = compare(args, seeds=[seed], name=f"field-{field:g}", runs=runs)
    return {"field": field, "seed": seed, "rows": outcome.rows}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one line per field and mode, mean and standard deviation over seeds."""
    keys = [key for key in results[0]["rows"][0] if key.startswith(("level", "error"))]
    lines = [
        "| field | mode | test MSE | " + " | ".join(keys) + " | seconds |",
        "|---|---|---|" + "---|" * (len(keys) + 1),
    ]
    for field in sorted({r["field"] for r in results}):
        for mode in MODES:
            rows = [row for r in results if r["field"] == field for row in r["rows"] if row["mode"] == mode]
            errors = [row["test_mse"] for row in rows]
            cells = [f"{statistics.fmean(row[key] for row in rows):.4f}" for key in keys]
            seconds = statistics.fmean(row["seconds"] for row in rows)
            spread = statistics.pstdev(errors)
            error = f"{statistics.fmean(errors):.5f} ± {spread:.5f}"
            lines.append(f"| {field:g} | {mode} | {error} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", nargs="+", type=float, default=[0.0, 2.0, 4.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    own, options = parser.parse_known_args()
    jobs = [(field, seed, own.threads, own.runs, tuple(options)) for seed in own.seeds for field in own.fields]
    if own.processes == 1:
        results = [train(job) for job in jobs]
    else:
        with ProcessPoolExecutor(own.processes) as pool:
            results = list(pool.map(train, jobs))
    if own.output:
        own.output.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
