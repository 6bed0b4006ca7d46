"""PONITA here against the authors' code: seconds and peak memory of forward and backward passes, same weights.

    git clone https://github.com/ebekkers/ponita
    python benchmarks/ponita.py --peer ponita
    python benchmarks/ponita.py --peer ponita --cases points --rounds 5

The authors' N-body setting (arXiv 2310.02970): 128 channels, 256 basis functions, 5 layers, 16 orientations, degree 3,
a read-out after every layer; layer scale 1, so that no layer hides behind it. Both sides work on the same grid of
orientations, from ``geoeq.ops.sphere``, in place of the random one of their code. One thread, single precision; the two
take turns; the loss is the sum of squares of the vectors. Seconds are wall time, or with ``--clock cpu`` that of the
process, which other work on the machine disturbs less. Memory is the largest resident size of a process of its own
that does nothing but two training steps, less its size before the first; on a GPU what torch has allocated at most.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import importlib.util
import io
import statistics
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Clock, add_options, machine, start, table
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
    if importlib.util.find_spec("torch_scatter") is None:  # imported by their module, not used here
        stub = types.ModuleType("torch_scatter")
        stub.__spec__ = importlib.machinery.ModuleSpec("torch_scatter", None)
        stub.scatter_mean = None  # type: ignore[attr-defined]
        sys.modules["torch_scatter"] = stub
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(path), *(entry for entry in sys.path if entry != here)]  # this script bears the same name
    from ponita import transforms
    from ponita.models.ponita import Ponita

    for transform in (transforms.PositionOrientationGraph, transforms.SEnInvariantAttributes):
        transform.__abstractmethods__ = frozenset()  # their transforms are older than that method
    torch.manual_seed(0)
    with contextlib.redirect_stderr(io.StringIO()):  # they draw a progress bar while they make a grid
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


def step_of(model: nn.Module, data: Data, clock: Clock) -> Step:
    """Seconds of the forward pass and of both passes."""
    forward = forward_of(model)

    def step() -> tuple[float, float]:
        model.zero_grad()
        begin = clock()
        vectors = forward(data)
        middle = clock()
        vectors.square().sum().backward()
        return middle - begin, clock() - begin

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


def memory_of(side: str, case: str, args: argparse.Namespace) -> float:
    """MiB that a fresh process needs for two training steps."""
    command = [sys.executable, __file__, "--peer", str(args.peer), "--device", args.device]
    command += ["--cases", case, "--memory-of", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure_memory(args: argparse.Namespace, device: torch.device, clock: Clock) -> None:
    model = load_authors(args.peer)
    if args.memory_of == "geoeq":
        model = ponita_from_reference(model.state_dict(), directions(ORIENTATIONS))
    torch.manual_seed(0)
    step = step_of(model.to(device), CASES[args.cases[0]]().to(device), clock)
    before = resident("VmRSS")
    for _ in range(2):
        step()
    on_gpu = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    print(resident("VmHWM") - before if on_gpu is None else on_gpu)


def resident(field: str) -> float:
    """MiB now (VmRSS) or at most (VmHWM); the resource module would count what the parent process had at its start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def row(case: str, args: argparse.Namespace, device: torch.device, clock: Clock) -> str:
    authors = load_authors(args.peer)
    ours = ponita_from_reference(authors.state_dict(), directions(ORIENTATIONS)).to(device)
    authors.transform.transforms[0].ori_grid_s2 = directions(ORIENTATIONS).float().to(device)
    authors = authors.to(device)
    torch.manual_seed(0)
    data = CASES[case]().to(device)
    output, gradient = difference(authors, ours, data)
    steps = [step_of(model, data, clock) for model in (authors, ours)]
    seconds: list[list[tuple[float, float]]] = [[], []]
    for _ in range(args.rounds):
        for done, step in zip(seconds, steps, strict=True):
            done.append(step())
    theirs, here = ([statistics.quantiles(column, n=5)[0] for column in zip(*done, strict=True)] for done in seconds)
    ratios = [statistics.median(a[1] / b[1] for a, b in zip(*seconds, strict=True)), theirs[1] / here[1]]
    memory = [memory_of(side, case, args) for side in ("authors", "geoeq")]
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
    parser.add_argument("--memory-of", choices=["authors", "geoeq"], help=argparse.SUPPRESS)
    add_options(parser, rounds=7)
    args = parser.parse_args()
    if not (args.peer / "ponita" / "models" / "ponita.py").is_file():
        sys.exit(f"--peer must be a clone of ebekkers/ponita, got {args.peer}")
    device, clock = start(args)
    if args.memory_of:
        measure_memory(args, device, clock)
        return
    print(f"float32; {machine(device, 'torch_geometric')}\n")
    columns = ["case", "edges with loops", "forward, s: authors / geoeq", "forward + backward, s: authors / geoeq"]
    columns += ["times faster, median of pairs", "times faster, 20th percentiles"]
    columns += ["peak memory, MiB: authors / geoeq", "times less", "largest output difference", "gradient difference"]
    print(table(columns))
    for case in args.cases:
        print(row(case, args, device, clock), flush=True)


if __name__ == "__main__":
    main()
