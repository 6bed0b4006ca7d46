"""Tensor products summed at receivers against e3nn, cuEquivariance and OpenEquivariance: time and peak memory.

    python benchmarks/convolution.py
    python benchmarks/convolution.py --nodes 20000 --channels 128 --device cuda

The convolution of NequIP and MACE: features of all degrees up to ``--lmax`` are gathered at the senders, multiplied
with the spherical harmonics of their edges, one weight for each edge, path and channel, every path apart, and summed at
the receivers. All sides get the same tensors, in e3nn's layout, and return the gradients of all three; outputs are
compared first. e3nn gathers and sums with index_select and index_add; cuEquivariance (package cuequivariance_torch)
and OpenEquivariance (package openequivariance, on a GPU only; written after its documentation) do both themselves,
and are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from e3nn import o3
from timing import Action, Clock, add_options, machine, peak_memory, percentiles, start, table
from torch import Tensor

from geoeq.ops import TensorProduct, neighbours, tensor_product_scatter

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
Instruction = tuple[int, int, int, str, bool]


def all_paths(channels: int, lmax: int) -> tuple[o3.Irreps, o3.Irreps, o3.Irreps, list[Instruction]]:
    """Irreps of the features, of the harmonics and of the result of every path, in cuEquivariance's order."""
    irreps = o3.Irreps([(channels, (n, (-1) ** n)) for n in range(lmax + 1)])
    harmonics = o3.Irreps.spherical_harmonics(lmax)
    found = [(out, i, k) for i, (_, ir) in enumerate(irreps) for k, (_, y) in enumerate(harmonics) for out in ir * y]
    found = sorted((p for p in found if p[0].l <= lmax), key=lambda p: (p[0].l, -p[0].p * (-1) ** p[0].l))
    instructions = [(i, k, place, "uvu", True) for place, (_, i, k) in enumerate(found)]
    return irreps, harmonics, o3.Irreps([(channels, out) for out, _, _ in found]), instructions


def e3nn_side(paths: tuple, edges: Tensor, n_nodes: int) -> Forward:
    product = o3.TensorProduct(*paths, shared_weights=False, internal_weights=False).to(edges.device)

    def forward(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        messages = product(x.index_select(0, edges[0]), y, w)
        return x.new_zeros(n_nodes, messages.shape[1]).index_add_(0, edges[1], messages)

    return forward


def cuequivariance_side(paths: tuple, edges: Tensor, n_nodes: int) -> Forward:
    import cuequivariance as cue
    import cuequivariance_torch as cuet

    irreps, harmonics, out, _ = paths
    wanted = [cue.O3.from_string(str(ir)) for ir in dict.fromkeys(ir for _, ir in out)]
    product = cuet.ChannelWiseTensorProduct(
        cue.Irreps("O3", str(irreps)),
        cue.Irreps("O3", str(harmonics)),
        wanted,
        layout=cue.mul_ir,
        shared_weights=False,
        internal_weights=False,
        device=edges.device,
        method=None if edges.is_cuda else "naive",
    )
    return lambda x, y, w: product(x, y, w, indices_1=edges[0], indices_out=edges[1], size_out=n_nodes)


def openequivariance_side(paths: tuple, edges: Tensor, n_nodes: int) -> Forward:
    import openequivariance as oeq

    problem = oeq.TPProblem(*map(str, paths[:3]), paths[3], shared_weights=False, internal_weights=False)
    product = oeq.TensorProductConv(problem, deterministic=False)
    return lambda x, y, w: product.forward(x, y, w, edges[1], edges[0])


def candidates(paths: tuple, edges: Tensor, n_nodes: int, compiled: bool) -> dict[str, Forward]:
    graph, product = neighbours(edges, n_nodes), TensorProduct(*paths[:3], instructions=paths[3])

    def ours(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return tensor_product_scatter(product, x, y, w, edges, n_nodes, graph)

    found = {"e3nn": e3nn_side(paths, edges, n_nodes)}
    if find_spec("cuequivariance_torch"):
        found["cuEquivariance"] = cuequivariance_side(paths, edges, n_nodes)
    if find_spec("openequivariance") and edges.is_cuda:
        found["OpenEquivariance"] = openequivariance_side(paths, edges, n_nodes)
    found["geoeq"] = ours
    if compiled:
        found["geoeq, compiled"] = torch.compile(ours, fullgraph=True, dynamic=False)
    return found


def measure(args: argparse.Namespace, device: torch.device, clock: Clock) -> list[str]:
    paths = all_paths(args.channels, args.lmax)
    sender = torch.randint(0, args.nodes, (args.nodes * args.degree,), device=device)
    edges = torch.stack([sender, torch.arange(args.nodes, device=device).repeat_interleave(args.degree)])
    forwards = candidates(paths, edges, args.nodes, args.compile)
    n_weights = len(paths[3]) * args.channels
    shapes = [(args.nodes, paths[0].dim), (len(sender), paths[1].dim), (len(sender), n_weights)]
    leaves = [torch.randn(shape, device=device).requires_grad_() for shape in shapes]
    with torch.no_grad():
        reference = forwards["e3nn"](*leaves)
        for name, forward in forwards.items():
            torch.testing.assert_close(forward(*leaves), reference, rtol=1e-4, atol=1e-4, msg=f"{name} disagrees")
    gradient = torch.randn_like(reference)

    def forward_of(forward: Forward) -> Action:
        return torch.no_grad()(lambda: forward(*leaves))

    def both_of(forward: Forward) -> Action:
        return lambda: torch.autograd.grad(forward(*leaves), leaves, gradient)

    lines = []
    for what, make in (("forward", forward_of), ("forward + backward", both_of)):
        actions = {name: make(forward) for name, forward in forwards.items()}
        times = percentiles(actions, args.rounds, clock)
        for name, ms in times.items():
            memory = peak_memory(actions[name], device)
            lines.append(f"| {what} | {name} | {ms:.2f} | {times['e3nn'] / ms:.2f} | {memory:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--degree", type=int, default=16)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--lmax", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="our side through torch.compile, too")
    add_options(parser, rounds=10)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    device, clock = start(args)
    size = f"{args.nodes} nodes x {args.degree}, {args.channels} channels, l <= {args.lmax}"
    print(f"{size}, float32; {machine(device, 'e3nn', 'cuequivariance_torch', 'openequivariance')}\n")
    print(table(["", "", "ms", "times faster than e3nn", "memory, MiB"]))
    print("\n".join(measure(args, device, clock)))


if __name__ == "__main__":
    main()
