"""PONITA here against the authors' code: seconds and peak memory of forward and backward passes, same weights.

    git clone https://github.com/ebekkers/ponita
    python benchmarks/ponita.py --peer ponita
    python benchmarks/ponita.py --peer ponita --cases points --rounds 5

The authors' N-body setting (arXiv 2310.02970): 128 channels, 256 basis functions, 5 layers, 16 orientations, degree 3,
a read-out after every layer; layer scale 1, so that no layer hides behind it. Both sides work on the same grid of
orientations, from ``geoeq.ops.sphere``, in place of the random one of their code. One thread, single precision; the two
take turns; the loss is the sum of squares of the vectors. Seconds are wall time, or with ``--cpu-time`` that of the
process, which other work on the machine disturbs less. Memory is the largest resident size of a process of its own
that does nothing but two training steps, less its size before the first.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.layers import PonitaNet, ponita_from_reference
from geoeq.ops.sphere import directions

ORIENTATIONS = 16
Step = Callable[[], tuple[float, float]]


def bodies(n_graphs: int = 100, n: int = 5) -> Data:
    """A batch of complete graphs."""
    pairs = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j]).T
    edges = torch.cat([pairs + n * graph for graph in range(n_graphs)], 1)
    return with_features(torch.randn(n_graphs * n, 3), edges)


def points(n: int = 1024, k: int = 16) -> Data:
    """Gaussian points, each joined to its k nearest ones and these to it."""
    pos = torch.randn(n, 3)
    near = torch.cdist(pos, pos).topk(k + 1, largest=False).indices[:, 1:]  # [n, k]
    there = torch.stack([near.flatten(), torch.arange(n).repeat_interleave(k)])
    edges = torch.unique(torch.cat([there, there.flip(0)], 1), dim=1)
    return with_features(pos, edges[:, edges[1].argsort(stable=True)])


def with_features(pos: Tensor, edge_index: Tensor) -> Data:
    n = len(pos)
    batch = torch.zeros(n, dtype=torch.int64)
    return Data(pos=pos, x=torch.randn(n, 1), vec=torch.randn(n, 1, 3), edge_index=edge_index, batch=batch)


CASES = {"bodies": bodies, "points": points}


def load_authors(path: Path) -> nn.Module:
    """The authors' network with our grid; what their package asks of its surroundings is put in place first."""
    os.environ["TQDM_DISABLE"] = "1"  # they draw a progress bar while they make a grid
    if importlib.util.find_spec("torch_scatter") is None:  # imported by their module, not used here
        stub = types.ModuleType("torch_scatter")
        stub.__spec__ = importlib.machinery.ModuleSpec("torch_scatter", None)
        stub.scatter_mean = None  # type: ignore[attr-defined]
        sys.modules["torch_scatter"] = stub
    sys.path.insert(0, str(path))
    from ponita import transforms
    from ponita.models.ponita import Ponita

    for transform in (transforms.PositionOrientationGraph, transforms.SEnInvariantAttributes):
        transform.__abstractmethods__ = frozenset()  # their transforms are older than that method
    torch.manual_seed(0)
    model = Ponita(
        2,
        128,
        0,
        5,
        output_dim_vec=1,
        num_ori=ORIENTATIONS,
        basis_dim=256,
        degree=3,
        layer_scale=1.0,
        task_level="node",
    )
    model.transform.transforms[0].ori_grid_s2 = directions(ORIENTATIONS).float()
    model.eval()
    with torch.no_grad():
        model(bodies(1))  # their lazy layers learn their sizes
    return model


def forward_of(model: nn.Module) -> Callable[[Data], Tensor]:
    if isinstance(model, PonitaNet):
        return lambda data: model(data.pos, data.edge_index, data.x, data.vec)[1]
    return lambda data: model(data.clone())[1]  # they overwrite the fields of the graph


def step_of(model: nn.Module, data: Data, clock: Callable[[], float]) -> Step:
    """Seconds of the forward pass and of both passes."""
    forward = forward_of(model)

    def step() -> tuple[float, float]:
        model.zero_grad()
        start = clock()
        vectors = forward(data)
        middle = clock()
        vectors.square().sum().backward()
        return middle - start, clock() - start

    return step


def difference(authors: nn.Module, ours: nn.Module, data: Data) -> tuple[float, float]:
    """Largest difference of outputs, and relative difference of the gradients of the last kernel layer."""
    gradients, outputs = [], []
    names = ("basis_fn.3.weight", "kernel.spatial.outer.weight")
    for model, name in zip((authors, ours), names, strict=True):
        model.zero_grad()
        outputs.append(forward_of(model)(data))
        outputs[-1].square().sum().backward()
        gradients.append(model.get_parameter(name).grad)
    a, b = gradients
    return (outputs[0] - outputs[1]).abs().max().item(), ((a - b).norm() / a.norm()).item()


def peak_memory(side: str, case: str, peer: Path) -> float:
    """MiB that a fresh process needs for two training steps."""
    command = [sys.executable, __file__, "--peer", str(peer), "--cases", case, "--memory-of", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure_memory(side: str, case: str, peer: Path) -> None:
    model = load_authors(peer)
    if side == "geoeq":
        model = ponita_from_reference(model.state_dict(), directions(ORIENTATIONS))
    torch.manual_seed(0)
    step = step_of(model, CASES[case](), time.perf_counter)
    before = resident("VmRSS")
    for _ in range(2):
        step()
    print(resident("VmHWM") - before)


def resident(field: str) -> float:
    """MiB now (VmRSS) or at most (VmHWM); the resource module would count what the parent process had at its start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def row(case: str, peer: Path, rounds: int, clock: Callable[[], float]) -> str:
    authors = load_authors(peer)
    ours = ponita_from_reference(authors.state_dict(), directions(ORIENTATIONS))
    torch.manual_seed(0)
    data = CASES[case]()
    output, gradient = difference(authors, ours, data)
    steps = [step_of(model, data, clock) for model in (authors, ours)]
    seconds: list[list[tuple[float, float]]] = [[], []]
    for _ in range(rounds):
        for done, step in zip(seconds, steps, strict=True):
            done.append(step())
    theirs, here = ([statistics.quantiles(column, n=5)[0] for column in zip(*done, strict=True)] for done in seconds)
    ratios = [statistics.median(a[1] / b[1] for a, b in zip(*seconds, strict=True)), theirs[1] / here[1]]
    memory = [peak_memory(side, case, peer) for side in ("authors", "geoeq")]
    edges = data.edge_index.shape[1] + data.num_nodes
    return (
        f"| {case} | {edges} | {theirs[0]:.3f} / {here[0]:.3f} | {theirs[1]:.3f} / {here[1]:.3f} | {ratios[0]:.2f} "
        f"| {ratios[1]:.2f} | {memory[0]:.0f} / {memory[1]:.0f} | {memory[0] / memory[1]:.2f} | {output:.1e} "
        f"| {gradient:.1e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="a clone of ebekkers/ponita")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--memory-of", choices=["authors", "geoeq"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not (args.peer / "ponita" / "models" / "ponita.py").is_file():
        sys.exit(f"--peer must be a clone of ebekkers/ponita, got {args.peer}")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        measure_memory(args.memory_of, args.cases[0], args.peer)
        return
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(
        "| case | edges with loops | forward, s: authors / geoeq | forward + backward, s: authors / geoeq "
        "| times faster, median of pairs | times faster, 20th percentiles | peak memory, MiB: authors / geoeq "
        "| times less | largest output difference | gradient difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in args.cases:
        print(row(case, args.peer, args.rounds, clock), flush=True)


if __name__ == "__main__":
    main()
