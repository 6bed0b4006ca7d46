"""One EGNN message step here against the authors' layer: seconds of forward and backward, and peak memory.

    git clone https://github.com/vgsatorras/egnn
    python benchmarks/egnn_step.py --peer egnn

Both get the same weights, nodes, positions and edges, and both return the gradients of all of them; before the
clock starts their outputs are compared. Variants take turns, so that a busy machine hurts all alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Action, add_options, machine, peak_memory, percentiles, start, table
from torch import Tensor, nn

from geoeq.layers import EGNNConv

Forward = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def ring_graph(n_nodes: int, degree: int, seed: int = 0) -> Tensor:
    """Every node receives from ``degree`` random nodes; sorted by receiver."""
    sender = torch.randint(0, n_nodes, (n_nodes * degree,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([sender, torch.arange(n_nodes).repeat_interleave(degree)])


def authors_layer(conv: EGNNConv, peer: Path) -> nn.Module:
    """The authors' ``E_GCL`` with the weights of ``conv``."""
    sys.path.insert(0, str(peer))
    from models.gcl import E_GCL

    layer = E_GCL(conv.hidden, conv.hidden, conv.hidden, act_fn=nn.SiLU(), recurrent=True)
    w_receiver, w_sender, w_node = conv.node_in.weight.split(conv.hidden)
    pieces = {
        "edge_mlp.0.weight": torch.cat([w_receiver, w_sender, conv.edge_in.weight], 1),
        "edge_mlp.0.bias": conv.edge_in.bias,
        "edge_mlp.2.weight": conv.edge_out.weight,
        "edge_mlp.2.bias": conv.edge_out.bias,
        "coord_mlp.0.weight": conv.coord_in.weight,
        "coord_mlp.0.bias": conv.coord_in.bias,
        "coord_mlp.2.weight": conv.coord_out.weight,
        "node_mlp.0.weight": torch.cat([w_node, conv.message_in.weight], 1),
        "node_mlp.0.bias": conv.message_in.bias,
        "node_mlp.2.weight": conv.node_out.weight,
        "node_mlp.2.bias": conv.node_out.bias,
    }
    layer.load_state_dict({name: piece.detach().clone() for name, piece in pieces.items()})
    return layer


def variants(conv: EGNNConv, peer: Path, edge_index: Tensor, compiled: bool) -> dict[str, Forward]:
    """Functions of (h, pos) that return new h and pos, by name; the authors' eager layer comes first."""
    layer = authors_layer(conv, peer).to(edge_index.device)
    receiver_first = [edge_index[1], edge_index[0]]

    # Their layer adds to the positions in place, so that it needs a copy.
    def authors(h: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
        return layer(h, receiver_first, pos.clone())[:2]

    def ours(h: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
        return conv(h, pos, edge_index)

    found: dict[str, Forward] = {"authors, eager": authors, "geoeq, eager": ours}
    if compiled:
        found |= {"authors, compiled": torch.compile(authors), "geoeq, compiled": torch.compile(ours, fullgraph=True)}
    return found


def training_step(forward: Forward, h: Tensor, pos: Tensor) -> Action:
    def step() -> None:
        h_out, pos_out = forward(h.detach().requires_grad_(), pos.detach().requires_grad_())
        (h_out.sum() + pos_out.sum()).backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="clone of vgsatorras/egnn")
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--degree", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--no-compile", action="store_true")
    add_options(parser, rounds=30)
    args = parser.parse_args()
    device, clock = start(args)
    conv = EGNNConv(args.hidden, velocity=False).to(device)
    edge_index = ring_graph(args.nodes, args.degree).to(device)
    h, pos = torch.randn(args.nodes, args.hidden, device=device), torch.randn(args.nodes, 3, device=device)

    forwards = variants(conv, args.peer, edge_index, not args.no_compile)
    reference = forwards["authors, eager"](h, pos)
    for name, forward in forwards.items():
        for ours, theirs in zip(forward(h, pos), reference, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=f"{name} disagrees")
    steps = {name: training_step(forward, h, pos) for name, forward in forwards.items()}
    print(f"{args.nodes} nodes x {args.degree}, hidden {args.hidden}, forward + backward; {machine(device)}\n")
    print(table(["", "ms", "times faster than the authors, eager", "memory, MiB"]))
    times = percentiles(steps, args.rounds, clock)
    for name, step in steps.items():
        ratio = times["authors, eager"] / times[name]
        print(f"| {name} | {times[name]:.1f} | {ratio:.2f} | {peak_memory(step, device):.0f} |")


if __name__ == "__main__":
    main()
