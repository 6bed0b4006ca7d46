"""Accuracy of the models on charged bodies at equal steps: EGNN, steerable, Gaunt and position-orientation networks.

    python benchmarks/nbody_models.py --steps 3000 --seeds 0

The published task (3,000 training systems of 5 bodies, frame 30 to frame 40): every model is trained with Adam, batches
of 100 and a cosine that ends at 0, and tested where its validation error was least. Rows are added to ``--output`` as
they come, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from geoeq.datasets import NBody
from geoeq.layers import EGNN, GauntNet, Ponita, SteerableMPNN


class GauntMPNN(nn.Module):
    """A Gaunt network on the features of the other forecasts."""

    def __init__(self) -> None:
        super().__init__()
        self.net = GauntNet("2x0e + 1x1o", "1x1o", 16, 4, cutoff=10.0, n_basis=16, edge_dim=1, neighbours=4.0)

    def forward(self, data: Data) -> Tensor:
        x = torch.cat([data.charge, data.vel.square().sum(1, keepdim=True), data.vel], 1)
        return data.pos + self.net(x, data.pos, data.edge_index, data.edge_attr)


# name: how to build it, its learning rate
MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "EGNN": (lambda: EGNN(hidden=64, n_layers=4), 1e-3),
    "SteerableMPNN": (lambda: SteerableMPNN("32x0e + 16x1o + 8x2e", n_layers=4), 3e-3),
    "GauntNet": (GauntMPNN, 3e-3),
    "Ponita": (lambda: Ponita(16, edge_dim=1, hidden=64, basis=64, n_layers=4, layer_scale=None), 3e-3),
}


def train(name: str, seed: int, steps: int, root: str, lr: float | None) -> dict[str, float | str | int]:
    """Test error, size and time of one training."""
    build, usual = MODELS[name]
    splits = {
        split: NBody(root, split, frames=(30, 40), sizes=(3000, 2000, 2000)) for split in ("train", "valid", "test")
    }
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr or usual)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    best, step, start = (float("inf"), float("inf")), 0, time.perf_counter()
    while step < steps:
        for index in torch.randperm(3000, generator=order).split(100):
            batch = splits["train"].fetch(index)
            loss = (model(batch) - batch.y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % max(steps // 20, 1) == 0 or step == steps:
                best = min(best, (error(model, splits["valid"]), error(model, splits["test"])))
            if step == steps:
                break
    return {
        "model": name,
        "seed": seed,
        "steps": steps,
        "lr": lr or usual,
        "parameters": sum(p.numel() for p in model.parameters()),
        "test": best[1],
        "seconds": time.perf_counter() - start,
    }


@torch.no_grad()
def error(model: nn.Module, data: NBody) -> float:
    """Mean squared error."""
    model.eval()
    batches = [data.fetch(index) for index in torch.arange(len(data)).split(500)]
    total = sum(float((model(batch) - batch.y).square().mean()) * batch.num_graphs for batch in batches)
    model.train()
    return total / len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, help="in place of each model's own")
    parser.add_argument("--root", default="data/nbody")
    parser.add_argument("--output", type=Path, default=Path("runs/nbody-models.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in args.output.read_text().splitlines()] if args.output.exists() else []
    done = {(row["model"], row["seed"], row["steps"], row["lr"]) for row in known}
    for name, seed in ((name, seed) for seed in args.seeds for name in args.models):
        if (name, seed, args.steps, args.lr or MODELS[name][1]) in done:
            continue
        row = train(name, seed, args.steps, args.root, args.lr)
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        known.append(row)
    print("| model | parameters | steps | seed | test MSE | seconds |\n|---|---|---|---|---|---|")
    for r in known:
        cells = [r["model"], f"{r['parameters']:,}", r["steps"], r["seed"], f"{r['test']:.5f}", f"{r['seconds']:.0f}"]
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
