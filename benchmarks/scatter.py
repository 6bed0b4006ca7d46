"""Message sums here against the plain form of torch_geometric: seconds and peak memory of forward and backward.

    python benchmarks/scatter.py
    python benchmarks/scatter.py --nodes 100000 --device cuda

The peer gathers, multiplies (or runs the two layers of the message network) on edges, and sums with
``torch_geometric.utils.scatter``, which takes torch-scatter where that is installed. Both sides get the same tensors
and return the gradients of all of them; outputs are compared first. Variants take turns, so that a busy machine hurts
all alike. Peak memory counts what a step allocates beyond its inputs. On a GPU the bytes that a sum must move (weights,
edges and output once; node features come from the cache) are also given as a share of the measured rate of a copy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import Action, Clock, add_options, machine, peak_memory, percentiles, start, table
from torch import Tensor
from torch_geometric.utils import scatter as peer_scatter

from geoeq.ops import EdgeMLPWeights, Neighbours, edge_mlp_scatter, gather_mul_scatter, neighbours

Forward = Callable[..., Tensor]


def random_graph(n_nodes: int, degree: int, device: torch.device) -> Tensor:
    """Every node receives from ``degree`` random nodes; sorted by receiver."""
    generator = torch.Generator().manual_seed(0)
    sender = torch.randint(0, n_nodes, (n_nodes * degree,), generator=generator)
    return torch.stack([sender, torch.arange(n_nodes).repeat_interleave(degree)]).to(device)


def products(graph: Neighbours, n_nodes: int, width: int) -> tuple[list[Tensor], dict[str, Forward]]:
    edge_index = graph.edge_index
    inputs = [torch.randn(size, width, device=edge_index.device) for size in (n_nodes, edge_index.shape[1])]

    def peer(x: Tensor, weight: Tensor) -> Tensor:
        return peer_scatter(x.index_select(0, edge_index[0]) * weight, edge_index[1], dim_size=n_nodes, reduce="sum")

    return inputs, {"torch_geometric": peer, "geoeq": lambda x, w: gather_mul_scatter(x, w, edge_index, graph)}


def messages(graph: Neighbours, n_nodes: int, width: int) -> tuple[list[Tensor], dict[str, Forward]]:
    edge_index = graph.edge_index
    shapes = [(n_nodes, width), (width, width), (width, width), (width, 1), (width,), (width, width), (width,)]
    inputs = [torch.randn(shape, device=edge_index.device) / shape[-1] ** 0.5 for shape in shapes]
    inputs.append(torch.randn(edge_index.shape[1], 1, device=edge_index.device))

    def peer(h: Tensor, w_r: Tensor, w_s: Tensor, w_e: Tensor, b_in: Tensor, w: Tensor, b: Tensor, a: Tensor) -> Tensor:
        pair = torch.cat([h.index_select(0, edge_index[1]), h.index_select(0, edge_index[0]), a], 1)
        middle = F.silu(F.linear(pair, torch.cat([w_r, w_s, w_e], 1), b_in))
        return peer_scatter(F.silu(F.linear(middle, w, b)), edge_index[1], dim_size=n_nodes, reduce="sum")

    def ours(h: Tensor, *rest: Tensor) -> Tensor:
        return edge_mlp_scatter(h, edge_index, EdgeMLPWeights(*rest[:-1]), rest[-1], graph)

    return inputs, {"torch_geometric": peer, "geoeq": ours}


FAMILIES = {"gather_mul_scatter": products, "edge_mlp_scatter": messages}


def measure(family: str, n_nodes: int, args: argparse.Namespace, device: torch.device, clock: Clock) -> list[str]:
    edge_index = random_graph(n_nodes, args.degree, device)
    graph = neighbours(edge_index, n_nodes)
    inputs, forwards = FAMILIES[family](graph, n_nodes, args.width)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    reference = forwards["torch_geometric"](*leaves).detach()
    torch.testing.assert_close(forwards["geoeq"](*leaves).detach(), reference, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(reference)

    def forward_of(forward: Forward) -> Action:
        return torch.no_grad()(lambda: forward(*inputs))

    def both_of(forward: Forward) -> Action:
        return lambda: torch.autograd.grad(forward(*leaves), leaves, grad)

    lines = []
    for what, make in (("forward", forward_of), ("forward + backward", both_of)):
        steps = {name: make(forward) for name, forward in forwards.items()}
        times = percentiles(steps, args.rounds, clock)
        memory = {name: peak_memory(step, device) for name, step in steps.items()}
        cells = [f"{times[name]:.3g} | {memory[name]:.4g}" for name in steps]
        faster, less = (values["torch_geometric"] / values["geoeq"] for values in (times, memory))
        share = "-"
        if device.type == "cuda" and family == "gather_mul_scatter" and what == "forward":
            moved = 4 * args.width * (edge_index.shape[1] + 2 * n_nodes) + 16 * edge_index.shape[1]
            share = f"{100 * moved / (1e-3 * times['geoeq']) / copy_rate(device, clock):.0f} %"
        lines.append(f"| {family} | {n_nodes} | {what} | {' | '.join(cells)} | {faster:.2f} | {less:.1f} | {share} |")
    return lines


def copy_rate(device: torch.device, clock: Clock) -> float:
    """Bytes read and written in a second by a copy of 1 GB."""
    source = torch.empty(2**28, device=device)
    target = torch.empty_like(source)
    milliseconds = percentiles({"copy": lambda: target.copy_(source)}, 20, clock)["copy"]
    return 2 * source.nbytes / (1e-3 * milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[5000, 20_000])
    parser.add_argument("--degree", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--families", choices=list(FAMILIES), nargs="+", default=list(FAMILIES))
    add_options(parser, rounds=20)
    args = parser.parse_args()
    device, clock = start(args)
    print(f"float32, degree {args.degree}, width {args.width}; {machine(device, 'torch_geometric', 'torch_scatter')}\n")
    head = ["operation", "nodes", "", "torch_geometric, ms", "MiB", "geoeq, ms", "MiB"]
    print(table([*head, "times faster", "less memory", "of copy"]))
    for family in args.families:
        for n_nodes in args.nodes:
            print("\n".join(measure(family, n_nodes, args, device, clock)), flush=True)


if __name__ == "__main__":
    main()
