"""What softness costs: the tuner's look at the gradients, the proximal step and the tuning, per training step.

    python benchmarks/soft_overhead.py --threads 1                       a training on 100 graphs of 5 bodies in a field
    python benchmarks/soft_overhead.py --nodes 1000 --neighbours 16      one graph
    python benchmarks/soft_overhead.py --setup                           building projectors

The share is given of a step of the soft TypedMPNN and of a step of an EGNN of 4 layers of width 64.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch_geometric.data import Batch, Data

from geoeq.datasets import NBody
from geoeq.groups import O2, SL, SO, SO2, O, T
from geoeq.intertwiners import pair_space
from geoeq.layers import EGNN, TypedMPNN
from geoeq.reps import TensorRep
from geoeq.soft import SoftEquivariance

TYPES = {"rotation": O(3), "about the field": O2("z"), "translation": T(3)}
STEPS_PER_EPOCH = 30


def bodies(n_graphs: int, steps: int) -> list[Batch]:
    """Batches of charged bodies in a field, as the default experiment has them."""
    data = NBody(tempfile.mkdtemp(), "train", field=2.0, frames=(0, 10), sizes=(3000, 10, 10), log=False)
    order = torch.cat([torch.randperm(len(data)) for _ in range(-(-steps * n_graphs // len(data)))])
    return [data.fetch(index) for index in order.split(n_graphs)[:steps]]


def large(n: int, neighbours: int) -> Batch:
    """One graph of ``n`` random bodies with so many random neighbours each, which move on as they do."""
    receiver = torch.arange(n).repeat_interleave(neighbours)
    sender = (receiver + torch.randint(1, n, (len(receiver),))) % n
    pos, vel = torch.randn(2, n, 3)
    fields = {"pos": pos, "vel": vel, "y": pos + vel, "charge": torch.ones(n, 1)}
    edges = torch.stack([sender, receiver])
    return Batch.from_data_list([Data(edge_index=edges, edge_attr=torch.ones(edges.shape[1], 1), **fields)])


def setup() -> None:
    """Seconds to build all projectors of one representation, nothing cached."""
    print("| group | representation | seconds |\n|---|---|---|")
    ranks, irreps = TensorRep({0: 4, 1: 4, 2: 2, 3: 1}, d=3), "4x0e + 4x1o + 2x2e + 1x3o + 1x4e"
    for group in (O(3), SO(3), O2("z"), SO2("x"), SL(3)):
        for rep in (ranks, irreps):
            if rep is irreps and isinstance(group, SL):
                continue
            pair_space.cache_clear()
            start = time.perf_counter()
            group.projector(rep, rep)
            name = "ranks 0 to 3" if rep is ranks else "l = 0 to 4"
            print(f"| {group} | {name} | {time.perf_counter() - start:.2f} |")


def egnn_step(data: Batch, steps: int) -> float:
    """Median time of a training step of EGNN, ms."""
    model = EGNN(hidden=64, n_layers=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        (model(data) - data.y).square().mean().backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--hidden", default="32x0e + 8x1o")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--nodes", type=int, help="of one large graph, in place of 100 graphs of 5 bodies")
    parser.add_argument("--neighbours", type=int, default=16)
    parser.add_argument("--setup", action="store_true", help="time the building of projectors instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.setup:
        setup()
        return
    batches = bodies(100, args.steps) if args.nodes is None else [large(args.nodes, args.neighbours)] * args.steps
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

    for step, data in enumerate(batches):
        loss = timed("forward", lambda: (model(data) - data.y).square().mean())  # noqa: B023
        optimizer.zero_grad()
        timed("backward", loss.backward)  # type: ignore[attr-defined]
        timed("observe", lambda: soft.observe(loss.detach(), 100, 15))  # noqa: B023
        timed("optimizer", optimizer.step)
        timed("prox_step", lambda: soft.prox_step(optimizer))
        if step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1:
            timed("tune", lambda: soft.tune(step / args.steps, 3000))  # noqa: B023
    median = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    plain = median["forward"] + median["backward"] + median["optimizer"]
    # they do more in some steps than in others; the slowest twentieth is the machine's
    for name in ("observe", "prox_step"):
        median[name] = 1e3 * statistics.fmean(sorted(times[name])[: len(times[name]) * 19 // 20])
    extra = median["observe"] + median["prox_step"] + median["tune"] / STEPS_PER_EPOCH
    print("| part | ms (median) |\n|---|---|")
    for name, value in median.items():
        print(f"| {name} | {value:.2f} |")
    print(f"| plain step | {plain:.2f} |\n| softness per step | {extra:.2f} = {100 * extra / plain:.1f} % |")
    egnn = egnn_step(batches[0], max(args.steps // 3, 20))
    print(f"| step of EGNN | {egnn:.2f}, of which softness is {100 * extra / egnn:.1f} % |")


if __name__ == "__main__":
    main()
