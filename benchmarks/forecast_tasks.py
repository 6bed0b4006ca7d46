"""Every forecasting task of configs/, with the same network exact, soft and free and with its rivals: one table each.

    python benchmarks/forecast_tasks.py run --tasks mocap_run springs --output runs/forecast.jsonl
    python benchmarks/forecast_tasks.py report --output runs/forecast.jsonl

Data, network, symmetries, budget and learning rate are those of the configuration; a method changes the mode of the
linear maps, the tuner or the network, and nothing else. "one-shot" is the published rule (arXiv 2306.00356). Networks
that are no TypedMPNN are trained with 1e-3. Recordings are looked for in --mocap and --pedestrians, folders that hold
raw. "EGNN, authors" is the network of the repository vgsatorras/egnn, a clone of which is --peer.
Rows are added to a file as they come, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from egnn_reference import Authors
from fitting import fit_and_test, read, start_free, sweep
from lightning.pytorch import LightningDataModule, seed_everything
from torch import nn

from geoeq.forecast.command import quieten
from geoeq.forecast.datamodule import NBodyData
from geoeq.forecast.mocap_data import MotionCaptureData
from geoeq.forecast.module import ForecastModule
from geoeq.forecast.pedestrian_data import PedestrianData
from geoeq.layers import EGNN, GMN, TypedMPNN
from geoeq.soft import Evidence, OneShot

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SCENES = ("eth", "hotel", "univ", "zara1", "zara2")
TASKS = ("mocap_run", "springs", "gravity", "constrained", *(f"pedestrians {scene}" for scene in SCENES))
INPUTS = ("node_dim", "edge_dim", "history", "n_frames", "length")

TYPED = ("soft", "soft, more candidates", "exact", "free", "one-shot")
METHODS = (*TYPED, "EGNN", "EGNN, authors", "GMN")
MORE = {"mocap_run": {"rotation": "O(3)", "about gravity": "O2(y)"}}  # which the recordings break


def methods_of(task: str) -> set[str]:
    """What can be trained on a task: mechanisms are of constrained bodies alone."""
    peers = {"EGNN, authors"}
    special = {"mocap_run": {"soft, more candidates"}, "constrained": {"GMN"}, "springs": peers, "gravity": peers}
    return set(METHODS) - set().union(*special.values()) | special.get(task, set())


def configuration(task: str) -> dict[str, Any]:
    """The file of a task; scenes of pedestrians share one."""
    name, _, scene = task.partition(" ")
    config: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    if scene:
        config["data"]["init_args"]["scene"] = scene
    return config


def data_of(config: Mapping[str, Any], seed: int, roots: Mapping[str, str]) -> LightningDataModule:
    """The data module of a configuration."""
    spec = config["data"]
    if "class_path" not in spec:
        return NBodyData(roots["nbody"], shuffle_seed=seed, log=False, **spec)
    own = dict(spec["init_args"])
    if spec["class_path"].endswith("MotionCaptureData"):
        return MotionCaptureData(roots["mocap"], shuffle_seed=seed, **own)
    return PedestrianData(roots["pedestrians"], shuffle_seed=seed, **own)


def network(config: Mapping[str, Any], method: str) -> nn.Module:
    """The network of a configuration, or what stands in its place."""
    own = config["model"]["model"]["init_args"]
    if method == "EGNN":
        return EGNN(hidden=64, n_layers=4, **{key: own[key] for key in INPUTS if key in own})
    if method == "EGNN, authors":
        return Authors(config["data"].get("n_bodies", 5))
    if method == "GMN":
        return GMN(hidden=64, n_layers=4)
    mode = method.split(",")[0]
    model = TypedMPNN(**own | {"mode": mode if mode in ("soft", "exact") else "free"})
    if method == "one-shot":
        start_free(model)
    return model


def run(task: str, method: str, seed: int, roots: Mapping[str, str], epochs: int | None) -> dict[str, Any]:
    """One training, as long as configured if ``epochs`` is None; what is returned can be written as JSON."""
    seed_everything(seed, verbose=False)
    config = configuration(task)
    own = config["model"]
    tuner = OneShot(5.0, gamma=5.0, at=0.2) if method == "one-shot" else Evidence() if "soft" in method else None
    exact_or_many = method in ("exact", "soft, more candidates")
    module = ForecastModule(
        network(config, method),
        own["symmetries"] | (MORE.get(task, {}) if exact_or_many else {}),
        tuner,
        lr=own["lr"] if method in TYPED else 1e-3,
        weight_decay=own["weight_decay"],
        cosine=own["cosine"],
        proximal=method != "one-shot",
        loss=own.get("loss", "mse"),
        rods=own.get("rods", False),
    )
    data = data_of(config, seed, roots)
    return fit_and_test(module, data, epochs or config["trainer"]["max_epochs"])


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as far as there is one."""
    mean = f"{statistics.fmean(values):.4g}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2g}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Errors of every method, and under them the levels that soft networks have found."""
    further = [key for key in ("ade", "fde") if all(key in row["further"] for row in rows)]
    lines = [f"| method | seeds | test MSE | {' | '.join(key.upper() for key in further)} | steps | seconds |"]
    lines.append("|---" * (5 + len(further)) + "|")
    for method in (m for m in METHODS if any(row["method"] == m for row in rows)):
        own = [row for row in rows if row["method"] == method]
        columns = [spread([row["test"] for row in own])]
        columns += [spread([row["further"][key] for row in own]) for key in further]
        columns += [str(own[0]["steps"]), f"{statistics.median(row['seconds'] for row in own):.0f}"]
        lines.append(f"| {method} | {len(own)} | {' | '.join(columns)} |")
    lines += [
        "",
        "| symmetry | method | level of the layer that breaks it most | error of the network |",
        "|---|---|---|---|",
    ]
    for method in ("soft", "soft, more candidates", "free"):
        own = [row for row in rows if row["method"] == method]
        for name in own[0]["levels"] if own else ():
            values = [spread([row[key].get(name, float("nan")) for row in own]) for key in ("levels", "errors")]
            lines.append(f"| {name} | {method} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=["soft", "exact", "free", "EGNN"], choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="in place of each task's own number; give it an output of its own")
    parser.add_argument("--nbody", default="data/nbody")
    parser.add_argument("--mocap", default="data/mocap")
    parser.add_argument("--pedestrians", default="data/pedestrians")
    parser.add_argument("--peer", type=Path, help="clone of vgsatorras/egnn")
    parser.add_argument("--output", type=Path, default=Path("runs/forecast.jsonl"))
    args = parser.parse_args()
    if args.peer is not None:
        sys.path.insert(0, str(args.peer))
    elif "EGNN, authors" in args.methods:
        parser.error("--peer must be a clone of vgsatorras/egnn, got none")
    if args.command == "report":
        rows = read(args.output)
        for task in dict.fromkeys(row["task"] for row in rows):
            print(f"### {task}\n\n{table([row for row in rows if row['task'] == task])}\n")
        return
    torch.set_num_threads(1)
    quieten()
    roots = {"nbody": args.nbody, "mocap": args.mocap, "pedestrians": args.pedestrians}
    for task in args.tasks:
        methods = [method for method in args.methods if method in methods_of(task)]
        sweep(args.output, [task], methods, args.seeds, lambda *job: run(*job, roots, args.epochs))


if __name__ == "__main__":
    main()
