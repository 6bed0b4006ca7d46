"""What softness costs: the tuner's look at the gradients, the proximal step and the tuning, per training step.

python benchmarks/soft_overhead.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch_geometric.data import Batch, Data

from geoeq.groups import O2, O, T
from geoeq.layers import TypedMPNN
from geoeq.soft import SoftEquivariance

TYPES = {"rotation": O(3), "about the field": O2("z"), "translation": T(3)}
STEPS_PER_EPOCH = 30


def batch(n_graphs: int, n: int = 5) -> Batch:
    """Random charged bodies on complete graphs."""
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j]).T
    graphs = []
    for _ in range(n_graphs):
        charge = torch.randint(0, 2, (n, 1)).float() * 2 - 1
        fields = {"pos": torch.randn(n, 3), "vel": torch.randn(n, 3), "y": torch.randn(n, 3), "charge": charge}
        graphs.append(Data(edge_index=edges, edge_attr=charge[edges[0]] * charge[edges[1]], **fields))
    return Batch.from_data_list(graphs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--hidden", default="32x0e + 8x1o")
    parser.add_argument("--layers", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = batch(100)
    model = TypedMPNN(args.hidden, args.layers, mode="soft")
    soft = SoftEquivariance(TYPES)
    soft.attach(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = work()
        times.setdefault(name, []).append(time.perf_counter() - start)
        return result

    for step in range(args.steps):
        loss = timed("forward", lambda: (model(data) - data.y).square().mean())
        optimizer.zero_grad()
        timed("backward", loss.backward)  # type: ignore[attr-defined]
        timed("observe", lambda: soft.observe(loss.detach(), 100, 15))  # noqa: B023
        timed("optimizer", optimizer.step)
        timed("prox_step", lambda: soft.prox_step(optimizer))
        if step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1:
            timed("tune", lambda: soft.tune(0.5, 3000))
    median = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    plain = median["forward"] + median["backward"] + median["optimizer"]
    extra = median["observe"] + median["prox_step"] + median["tune"] / STEPS_PER_EPOCH
    print("| part | ms (median) |\n|---|---|")
    for name, value in median.items():
        print(f"| {name} | {value:.2f} |")
    print(f"| plain step | {plain:.2f} |\n| softness per step | {extra:.2f} = {100 * extra / plain:.1f} % |")


if __name__ == "__main__":
    main()
