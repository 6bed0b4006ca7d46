"""GMN and EGNN of the GMN authors on the same constrained bodies: what their code reaches on our simulation.

    git clone https://github.com/hanjq17/GMN
    python benchmarks/gmn_reference.py --peer GMN --root data/nbody --models GMN EGNN

Their layers, stacked as in their networks, and their protocol (arXiv 2203.06442): systems (3, 2, 1), 500 training
systems, frame 30 to 40, batches of 200 of which the last, smaller one is dropped, Adam 5e-4, weight decay 1e-10, width
64, 4 layers, 600 epochs; test error at the best validation. What ours reach is benchmarks/forecast_tasks.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from egnn_reference import mean_squared_error
from torch import Tensor, nn
from torch_geometric.data import Batch

from geoeq.datasets import NBody

BATCH, HIDDEN, LAYERS, LEARNING_RATE, WEIGHT_DECAY = 200, 64, 4, 5e-4, 1e-10
VALIDATE_EVERY = 10
OBJECTS = (3, 2, 1)
KINDS = {1: "Isolated", 2: "Stick", 3: "Hinge"}


class Mechanisms:
    """The nodes of each kind of mechanism, as the authors' layers want them: the joint of a hinge first."""

    def __init__(self, graph: Batch) -> None:
        self.n_nodes = len(graph.pos)
        rods = graph.edge_index[:, graph.edge_attr[:, 1] >= 2]
        degree = rods[0].bincount(minlength=self.n_nodes)
        self.nodes: dict[str, Tensor] = {}
        for size, kind in KINDS.items():
            parts = [(graph.part == part).nonzero().flatten() for part in graph.part.unique()]
            own = [nodes[degree[nodes].argsort(descending=True, stable=True)] for nodes in parts if len(nodes) == size]
            if own:
                self.nodes[kind] = torch.stack(own)

    def of(self, n_graphs: int) -> dict[str, Tensor]:
        """The same for that many graphs one after the other."""
        start = self.n_nodes * torch.arange(n_graphs).view(-1, 1, 1)
        found = {kind: (nodes + start).flatten(0, 1) for kind, nodes in self.nodes.items()}
        return found | {"Isolated": found["Isolated"].flatten()}


class Authors(nn.Module):
    """The authors' layers behind their embedding of speeds, with the preparation of their training loop."""

    def __init__(self, name: str, mechanisms: Mechanisms) -> None:
        super().__init__()
        from models.gcl import E_GCL_vel
        from models.layer import GMNLayer

        make = GMNLayer if name == "GMN" else E_GCL_vel
        self.is_gmn, self.mechanisms = name == "GMN", mechanisms
        self.embedding = nn.Linear(1, HIDDEN)
        self.layers = nn.ModuleList(make(HIDDEN, HIDDEN, HIDDEN, edges_in_d=3, act_fn=nn.SiLU()) for _ in range(LAYERS))

    def forward(self, data: Batch) -> Tensor:
        edges, pos, vel = list(data.edge_index), data.pos.clone(), data.vel.clone()  # their layers work in place
        distance2 = (pos[edges[0]] - pos[edges[1]]).square().sum(1, keepdim=True)
        edge_attr = torch.cat([data.edge_attr, distance2], 1)
        h = self.embedding(vel.square().sum(1, keepdim=True).sqrt())
        mechanisms = self.mechanisms.of(data.num_graphs)
        for layer in self.layers:
            if self.is_gmn:
                h, pos, vel, _ = layer(h, edges, pos, vel, mechanisms, edge_attr=edge_attr)
            else:
                h, pos, _ = layer(h, edges, pos, vel, edge_attr=edge_attr)
        return pos


def train(name: str, splits: dict[str, NBody], seed: int, epochs: int) -> str:
    """A line of the table."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    model = Authors(name, Mechanisms(splits["train"].fetch(torch.zeros(1, dtype=torch.int64))))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_steps = len(splits["train"]) // BATCH
    best = (float("inf"), float("inf"), 0)
    for epoch in range(1, epochs + 1):
        for index in torch.randperm(len(splits["train"])).split(BATCH)[:n_steps]:
            batch = splits["train"].fetch(index)
            optimizer.zero_grad()
            F.mse_loss(model(batch), batch.y).backward()
            optimizer.step()
        if epoch % VALIDATE_EVERY == 0:
            errors = (mean_squared_error(model, splits[split], torch.device("cpu")) for split in ("valid", "test"))
            best = min(best, (*errors, epoch))
            print(f"{name} epoch {epoch}: best valid {best[0]:.5f}, test {best[1]:.5f}", file=sys.stderr, flush=True)
    valid, test, epoch = best
    return f"| {name} | {seed} | {test:.5f} | {valid:.5f} | {epoch} | {time.perf_counter() - start:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="checkout of hanjq17/GMN")
    parser.add_argument("--root", default="data/nbody")
    parser.add_argument("--models", nargs="+", default=["GMN", "EGNN"], choices=["GMN", "EGNN"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=600)
    args = parser.parse_args()
    sys.path.insert(0, str(args.peer / "spatial_graph"))
    torch.set_num_threads(1)
    options = {"system": "charged", "objects": OBJECTS, "frames": (30, 40), "sizes": (500, 2000, 2000), "log": False}
    splits = {name: NBody(args.root, name, **options) for name in ("train", "valid", "test")}
    print("| authors' | seed | test MSE | validation MSE | best at epoch | seconds |\n|---|---|---|---|---|---|")
    for name in args.models:
        print(train(name, splits, args.seed, args.epochs), flush=True)


if __name__ == "__main__":
    main()
