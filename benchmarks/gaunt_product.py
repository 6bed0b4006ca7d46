"""Gaunt products here against e3nn's TensorProduct with the same paths: milliseconds forward, and with the backward.

    python benchmarks/gaunt_product.py --compile
    python benchmarks/gaunt_product.py --degrees 2 6 --rounds 100

Both sides take the product of l <= L with l <= L, channel by channel, and keep l <= L: e3nn with mode ``uuu`` and all
paths of even l1 + l2 + l3, in its own layout, with one weight per path and channel or without weights, whichever is
faster. Gradients are those of both inputs. Memory is what forward and backward hold at most beyond their inputs.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from e3nn import o3
from timing import Action, Clock, add_options, machine, peak_memory, percentiles, start, table
from torch import Tensor

from geoeq.ops.gaunt_product import gaunt_product

CHANNELS = 64
ROWS_TIMES_CHANNELS = {1: 16384, 2: 16384, 3: 8192, 4: 8192, 5: 4096, 6: 4096, 7: 2048, 8: 2048}
Call = Callable[[Tensor, Tensor], Tensor]


def peer(degree: int, *, complete: bool, weights: bool) -> o3.TensorProduct:
    """e3nn's channelwise product with the paths of even sum, or with all."""
    degrees = range(degree + 1)
    irreps = o3.Irreps([(CHANNELS, (n, 1 if complete else (-1) ** n)) for n in degrees])
    paths = [
        (a, b, c, "uuu", weights)
        for a in degrees
        for b in degrees
        for c in range(abs(a - b), min(a + b, degree) + 1)
        if complete or (a + b + c) % 2 == 0
    ]
    return o3.TensorProduct(irreps, irreps, irreps, paths, shared_weights=weights, internal_weights=weights)


def with_backward(call: Call, x: Tensor, y: Tensor) -> Action:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    gradient = torch.randn_like(call(x, y))
    return lambda: torch.autograd.grad(call(x, y), (x, y), gradient)


def without_gradient(call: Call, x: Tensor, y: Tensor) -> Action:
    def run() -> Tensor:
        with torch.no_grad():
            return call(x, y)

    return run


def measure(degree: int, args: argparse.Namespace, device: torch.device, clock: Clock) -> str:
    torch.compiler.reset()
    rows, width = ROWS_TIMES_CHANNELS[degree] // CHANNELS, (degree + 1) ** 2
    ours: Call = lambda x, y: gaunt_product(x, y, degree, degree, degree, complete=args.complete)  # noqa: E731
    calls: dict[str, Call] = {"geoeq": ours}
    if args.compile:
        calls["geoeq compiled"] = torch.compile(ours, fullgraph=True, dynamic=False)
    inputs = {name: torch.randn(2, rows, width, CHANNELS, device=device) for name in calls}
    for weights in (True, False):
        name = f"e3nn {'with' if weights else 'without'} weights"
        calls[name] = peer(degree, complete=args.complete, weights=weights).to(device)
        inputs[name] = torch.randn(2, rows, width * CHANNELS, device=device)
    cells = []
    for wrap, n_rounds in ((without_gradient, args.rounds), (with_backward, max(args.rounds // 2, 5))):
        actions = {name: wrap(call, *inputs[name]) for name, call in calls.items()}
        times = percentiles(actions, n_rounds, clock)
        e3nn = min(value for name, value in times.items() if name.startswith("e3nn"))
        mine = [value for name, value in times.items() if name.startswith("geoeq")]
        cells += [f"{e3nn:.2f}", *(f"{value:.2f} | {e3nn / value:.1f}" for value in mine)]
    memory = [peak_memory(actions[name], device) for name in ("e3nn without weights", "geoeq")]
    return f"| {degree} | {rows} | {' | '.join(cells)} | {memory[0]:.1f} / {memory[1]:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degrees", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8], choices=list(ROWS_TIMES_CHANNELS))
    parser.add_argument("--complete", action="store_true", help="with the bracket, against all paths")
    parser.add_argument("--compile", action="store_true", help="our side through torch.compile, too")
    add_options(parser, rounds=40)
    args = parser.parse_args()
    device, clock = start(args)
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    variants = ["geoeq", *(["compiled"] if args.compile else [])]
    passes = [
        f"{pass_}: {name}"
        for pass_ in ("forward", "forward + backward")
        for name in ("e3nn", *(part for v in variants for part in (v, "times faster")))
    ]
    print(f"C = {CHANNELS}, float32; ms; {machine(device, 'e3nn')}\n")
    print(table(["L", "rows", *passes, "memory, MiB: e3nn / geoeq"]))
    for degree in args.degrees:
        print(measure(degree, args, device, clock), flush=True)


if __name__ == "__main__":
    main()
