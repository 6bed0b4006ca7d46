"""Channelwise tensor products of all paths against e3nn, side by side in one run.

    python benchmarks/tensor_product.py
    python benchmarks/tensor_product.py --lmax 1 2 --rounds 400 --peer-compiled

Mode uuu, degrees up to lmax in and out, one weight for each path and channel, float32, one thread. The peer runs in
its own layout and in its best setting: TorchScript, plain FX, and with ``--peer-compiled`` also ``torch.compile``,
which takes a minute at degree 4. A time is the 20th percentile over interleaved rounds; a ratio compares with the
fastest peer. ``first call`` is the compile time of forward, or of forward and backward; memory is what a call holds at
most beyond its inputs. For products with a sum over edges see convolution.py.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import e3nn
import torch
from e3nn import o3
from timing import Action, Clock, add_options, machine, peak_memory, percentiles, start, table
from torch import Tensor, nn

from geoeq.ops.clebsch_gordan import all_instructions
from geoeq.ops.tensor_product import TensorProduct

ROWS = {1: 16384, 2: 16384, 3: 8192, 4: 8192, 5: 4096, 6: 4096}  # rows times channels


def peer(irreps: o3.Irreps, *, script: bool) -> nn.Module:
    """e3nn's product of all paths, its code compiled by TorchScript or left as it is."""
    e3nn.set_optimization_defaults(jit_script_fx=script)
    return o3.TensorProduct(
        irreps,
        irreps,
        irreps,
        all_instructions(irreps, irreps, irreps, "uuu"),
        irrep_normalization="component",
        path_normalization="element",
        shared_weights=True,
        internal_weights=False,
    )


def candidates(
    irreps: o3.Irreps, peer_compiled: bool, device: torch.device
) -> dict[str, tuple[Callable[..., Tensor], str]]:
    """Every variant with the layout it takes."""
    last = TensorProduct(irreps, irreps, irreps, layout="channels_last")
    e3nn_layout = TensorProduct(irreps, irreps, irreps)
    found: dict[str, tuple[Callable[..., Tensor], str]] = {
        "e3nn, TorchScript": (peer(irreps, script=True).to(device), "mul_ir"),
        "e3nn, FX": (peer(irreps, script=False).to(device), "mul_ir"),
    }
    if peer_compiled:
        found["e3nn, compiled"] = (torch.compile(peer(irreps, script=False).to(device), fullgraph=True), "mul_ir")
    found |= {
        "geoeq, eager": (last, "channels_last"),
        "geoeq, eager, mul_ir": (e3nn_layout, "mul_ir"),
        "geoeq, compiled": (torch.compile(last, fullgraph=True, dynamic=False), "channels_last"),
        "geoeq, compiled, mul_ir": (torch.compile(e3nn_layout, fullgraph=True, dynamic=False), "mul_ir"),
    }
    return found


def forward_action(function: Callable[..., Tensor], x: Tensor, y: Tensor, weight: Tensor) -> Action:
    def action() -> None:
        with torch.no_grad():
            function(x, y, weight)

    return action


def training_action(function: Callable[..., Tensor], x: Tensor, y: Tensor, weight: Tensor) -> Action:
    inputs = [tensor.clone().requires_grad_() for tensor in (x, y, weight)]
    gradient = torch.randn_like(x)

    def action() -> None:
        torch.autograd.grad(function(*inputs), inputs, gradient)

    return action


def first_calls(actions: dict[str, Action]) -> dict[str, float]:
    """Seconds of the first call of each."""
    seconds = {}
    for name, action in actions.items():
        begin = time.perf_counter()
        action()
        seconds[name] = time.perf_counter() - begin
    return seconds


def rows_of(lmax: int, args: argparse.Namespace, device: torch.device, clock: Clock) -> list[str]:
    """Lines of the table for one degree."""
    irreps = o3.Irreps([(args.channels, (l, 1)) for l in range(lmax + 1)])  # noqa: E741 - parities aside: all paths
    n_rows = ROWS[lmax] // args.channels
    x, y = torch.randn(2, n_rows, irreps.dim, device=device)
    weight = torch.randn(TensorProduct(irreps, irreps, irreps).weight_numel, device=device)
    kinds = [("forward", forward_action), *([] if args.forward_only else [("forward + backward", training_action)])]
    lines = []
    for kind, make in kinds:
        torch.compiler.reset()
        functions = candidates(irreps, args.peer_compiled, device)
        actions = {name: make(function, x, y, weight) for name, (function, _) in functions.items()}
        first = first_calls(actions)
        milliseconds = percentiles(actions, args.rounds, clock)
        best = min(value for name, value in milliseconds.items() if name.startswith("e3nn"))
        lines += [
            f"| {lmax} | {kind} | {name} | {ms:.4f} | {best / ms:.1f} | {first[name]:.1f} "
            f"| {peak_memory(actions[name], device):.1f} |"
            for name, ms in milliseconds.items()
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, nargs="+", choices=list(ROWS), default=[1, 2, 3, 4])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--peer-compiled", action="store_true")
    parser.add_argument("--forward-only", action="store_true")
    add_options(parser, rounds=100)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    device, clock = start(args)
    print(f"{machine(device, 'e3nn')}\n")
    print(table(["lmax", "", "", "ms", "times faster", "first call, s", "memory, MiB"]))
    for lmax in args.lmax:
        print("\n".join(rows_of(lmax, args, device, clock)), flush=True)


if __name__ == "__main__":
    main()
