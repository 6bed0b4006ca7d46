"""EGNN here against the authors' code: seconds per training step, and test error after equally many steps.

    git clone https://github.com/vgsatorras/egnn
    python benchmarks/egnn_reference.py --peer egnn --timing-only
    python benchmarks/egnn_reference.py --peer egnn --steps 20000 --seeds 0 1 2 --output egnn.json

Trainings can run in several processes at once, then be put together:

    python benchmarks/egnn_reference.py --peer egnn --models geoeq --seeds 0 --no-timing --output a.json
    python benchmarks/egnn_reference.py --merge a.json b.json

Protocol (arXiv 2102.09844): charged 5-body data, batch 100, hidden 64, 4 layers, Adam 5e-4, weight decay
1e-12, validation every 5 epochs, test error at the best validation. Both models see the same batches in the
same order.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from geoeq.datasets import NBody
from geoeq.layers import EGNN

BATCH, HIDDEN, LAYERS, LEARNING_RATE, WEIGHT_DECAY = 100, 64, 4, 5e-4, 1e-12
VALIDATE_EVERY = 5
Step = Callable[[Batch], Tensor]


class Authors(nn.Module):
    """The authors' network with the preparation that their training loop does for each batch."""

    def __init__(self, n_bodies: int = 5) -> None:
        super().__init__()
        from n_body_system.model import EGNN_vel

        self.model = EGNN_vel(in_node_nf=1, in_edge_nf=2, hidden_nf=HIDDEN, n_layers=LAYERS, recurrent=True)
        self.pairs = [(i, j) for i in range(n_bodies) for j in range(n_bodies) if i != j]
        self.n_bodies = n_bodies

    def edges(self, n_graphs: int, device: torch.device) -> list[Tensor]:
        """Receivers and senders, joined graph by graph at every step as their data set does."""
        single = torch.tensor(self.pairs).t()
        shifted = [single + self.n_bodies * graph for graph in range(n_graphs)]
        return list(torch.cat(shifted, 1).to(device))

    def forward(self, data: Batch) -> Tensor:
        receiver, sender = self.edges(data.num_graphs, data.pos.device)
        speed = data.vel.square().sum(1).sqrt().unsqueeze(1)
        distance2 = (data.pos[receiver] - data.pos[sender]).square().sum(1).unsqueeze(1)
        edge_attr = torch.cat([data.edge_attr, distance2], 1)
        # Their network adds to the positions in place, so that it needs a copy.
        return self.model(speed, data.pos.clone(), [receiver, sender], data.vel, edge_attr)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "authors": Authors,
    "geoeq": lambda: EGNN(hidden=HIDDEN, n_layers=LAYERS),
}


def training_step(model: nn.Module, *, fused: bool, forward: Callable[[Batch], Tensor] | None = None) -> Step:
    """One optimiser step as a function of the batch; returns the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None)
    forward = model if forward is None else forward

    def step(data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(forward(data), data.y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def batches(data: NBody, seed: int, device: torch.device) -> Iterator[tuple[int, Batch]]:
    """Endless shuffled batches with the number of the epoch."""
    generator, epoch = torch.Generator().manual_seed(seed), 0
    while True:
        order = torch.randperm(len(data), generator=generator)
        for index in order[: len(data) // BATCH * BATCH].split(BATCH):
            yield epoch, data.fetch(index).to(device)
        epoch += 1


@torch.no_grad()
def mean_squared_error(model: nn.Module, data: NBody, device: torch.device) -> float:
    """Over all coordinates of a whole split."""
    total = 0.0
    for index in torch.arange(len(data)).split(10 * BATCH):
        batch = data.fetch(index).to(device)
        total += F.mse_loss(model(batch), batch.y).item() * len(index)
    return total / len(data)


def train(name: str, splits: dict[str, NBody], seed: int, n_steps: int, device: torch.device) -> dict:
    """Train one model with one seed; the test error is that of the best validation."""
    torch.manual_seed(seed)
    model = MODELS[name]().to(device)
    step = training_step(model, fused=name == "geoeq")
    per_epoch = len(splits["train"]) // BATCH
    best = {"valid": float("inf"), "test": float("inf"), "step": 0}
    seconds = 0.0
    stream = batches(splits["train"], seed, device)
    for done in range(1, n_steps + 1):
        start = time.perf_counter()
        epoch, batch = next(stream)
        loss = step(batch)
        seconds += time.perf_counter() - start
        if (epoch % VALIDATE_EVERY == 0 and done % per_epoch == 0) or done == n_steps:
            valid = mean_squared_error(model, splits["valid"], device)
            if valid < best["valid"]:
                best = {
                    "valid": valid,
                    "test": mean_squared_error(model, splits["test"], device),
                    "step": done,
                }
            print(
                f"{name} seed {seed} step {done}: loss {loss.item():.5f}, valid {valid:.5f}, "
                f"best valid {best['valid']:.5f}, test {best['test']:.5f}",
                file=sys.stderr,
                flush=True,
            )
    return {"model": name, "seed": seed, "steps": n_steps, "seconds_per_step": seconds / n_steps, **best}


def time_steps(data: NBody, device: torch.device, rounds: int) -> list[dict]:
    """Median seconds of each variant, taken in turns so that a busy machine hurts all alike."""
    generator = torch.Generator().manual_seed(0)
    variants: dict[str, Step] = {"authors, eager": training_step(Authors().to(device), fused=False)}
    for compiled in (False, True):
        for fused in (False, True):
            model = MODELS["geoeq"]().to(device)
            forward = torch.compile(model) if compiled else None
            label = f"geoeq, {'compiled' if compiled else 'eager'}, {'fused' if fused else 'same'} Adam"
            variants[label] = training_step(model, fused=fused, forward=forward)
    indices = [torch.randperm(len(data), generator=generator)[:BATCH] for _ in range(rounds)]

    def clock(action: Callable[[], object]) -> float:
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds: dict[str, list[float]] = {name: [] for name in [*variants, "data loader"]}
    for step in variants.values():
        for index in indices[:10]:
            step(data.fetch(index).to(device))
    for index in indices:
        seconds["data loader"].append(clock(lambda index=index: data.fetch(index).to(device)))
        batch = data.fetch(index).to(device)
        for name, step in variants.items():
            seconds[name].append(clock(lambda step=step, batch=batch: step(batch)))
    reference = seconds["authors, eager"]
    return [
        {
            "variant": name,
            "milliseconds": 1e3 * statistics.median(values),
            "times_faster": statistics.median(a / b for a, b in zip(reference, values, strict=True)),
        }
        for name, values in seconds.items()
    ]


def grow_allocator() -> None:
    """Free one big buffer: from then on glibc keeps freed memory rather than return it at every step."""
    torch.ones(6_000_000)


def timing_tables(data: NBody, device: torch.device, rounds: int) -> dict[str, list[dict]]:
    tables = {"as the process starts": time_steps(data, device, rounds)}
    if device.type == "cpu":
        grow_allocator()
        tables["after a 24 MB buffer was freed"] = time_steps(data, device, rounds)
    return tables


def timing_markdown(tables: dict[str, list[dict]]) -> str:
    lines = []
    for state, rows in tables.items():
        fastest = min(row["milliseconds"] for row in rows if row["variant"] != "data loader")
        lines += [f"Training step, {state}:", "", "| | ms | times faster |", "|---|---|---|"]
        for row in rows:
            note = f"{row['times_faster']:.2f}"
            if row["variant"] == "data loader":
                note = f"{100 * row['milliseconds'] / fastest:.1f} % of the fastest step"
            lines.append(f"| {row['variant']} | {row['milliseconds']:.3g} | {note} |")
        lines.append("")
    return "\n".join(lines)


def training_markdown(runs: list[dict]) -> str:
    lines = ["| model | steps | seeds | test MSE | each seed | ms per step |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(run["model"] for run in runs):
        mine = sorted((run for run in runs if run["model"] == name), key=lambda run: run["seed"])
        errors = [run["test"] for run in mine]
        spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
        lines.append(
            f"| {name} | {mine[0]['steps']} | {len(mine)} | {statistics.mean(errors):.5f} ± {spread:.5f} "
            f"| {', '.join(f'{error:.5f}' for error in errors)} "
            f"| {1e3 * statistics.mean(run['seconds_per_step'] for run in mine):.1f} |"
        )
    return "\n".join(lines)


def report(result: dict) -> str:
    parts = [timing_markdown(result["timing"])] if result["timing"] else []
    parts += [training_markdown(result["runs"])] if result["runs"] else []
    return "\n".join(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="clone of vgsatorras/egnn")
    parser.add_argument("--data", type=Path, default=Path("data/nbody"), help="folder of the data set")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", choices=list(MODELS), nargs="+", default=list(MODELS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100, help="timed steps of each variant")
    parser.add_argument("--timing-only", action="store_true")
    parser.add_argument("--no-timing", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--merge", type=Path, nargs="+", help="print one table from these JSON files, and stop")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    result: dict = {"timing": {}, "runs": []}
    if args.merge:
        for path in args.merge:
            part = json.loads(path.read_text())
            result["timing"] = result["timing"] or part["timing"]
            result["runs"] += part["runs"]
    else:
        if args.peer is None or not (args.peer / "n_body_system" / "model.py").is_file():
            sys.exit(f"--peer must be a clone of vgsatorras/egnn, got {args.peer}")
        sys.path.insert(0, str(args.peer))
        torch.set_num_threads(args.threads)
        device = torch.device(args.device)
        if not args.no_timing:
            data = NBody(args.data, "train")
            result["timing"] = timing_tables(data, device, args.rounds)
        if not args.timing_only:
            splits = {split: NBody(args.data, split) for split in ("train", "valid", "test")}
            for seed in args.seeds:
                result["runs"] += [train(name, splits, seed, args.steps, device) for name in args.models]
    print(report(result))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
