"""Closed forms for batches of 3x3 matrices beside torch.linalg, on one thread.

Eigen-decomposition against ``torch.linalg.eigh``, polar decomposition and superposition of point sets against their
usual forms with ``torch.linalg.svd``: values alone, and values with the gradient of all outputs (of the peers', those
that are free of the signs of the vectors). Both sides get the same inputs and are timed in turns.

    python benchmarks/matrices3.py --sets 100000 --points 8
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from timing import Action, Clock, add_options, machine, peak_memory, percentiles, start, table
from torch import Tensor

from geoeq.ops import eigh3, kabsch, polar3

Function = Callable[..., tuple[Tensor, Tensor]]


def svd_rotation(matrix: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.ones_like(matrix[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vh).detach().sign()
    return (u * sign.unsqueeze(-2)) @ vh


def svd_polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rotation = svd_rotation(matrix)
    return rotation, rotation.mT @ matrix


def svd_kabsch(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x_mean, y_mean = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
    rotation = svd_rotation((y - y_mean).mT @ (x - x_mean))
    return rotation, (y_mean - x_mean @ rotation.mT).squeeze(-2)


def with_gradient(function: Function, inputs: list[Tensor], weights: list[Tensor], *, squared: bool) -> Tensor:
    """Gradient of a weighted sum of the outputs, or of squares of the last, which do not see a sign."""
    leaf = inputs[0].detach().requires_grad_()
    first, last = function(leaf, *inputs[1:])
    last = last.square() if squared else last
    return torch.autograd.grad((first, last), leaf, weights)[0]


def backward_error(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Largest relative residuals of 10^5 random matrices."""
    matrix = torch.randn(100_000, 3, 3, dtype=dtype, device=device)
    symmetric = matrix + matrix.mT

    def residual(back: Tensor, matrix: Tensor) -> float:
        return float((torch.linalg.matrix_norm(back - matrix) / torch.linalg.matrix_norm(matrix)).max())

    rows = []
    for name, function in (("eigh3", eigh3), ("torch.linalg.eigh", torch.linalg.eigh)):
        values, vectors = (out.double() for out in function(symmetric))
        rows.append((name, residual(vectors * values.unsqueeze(-2) @ vectors.mT, symmetric.double()), vectors))
    for name, function in (("polar3", polar3), ("polar by torch.linalg.svd", svd_polar)):
        rotation, stretch = (out.double() for out in function(matrix))
        stretch = 0.5 * (stretch + stretch.mT)
        rows.append((name, residual(rotation @ stretch, matrix.double()), rotation))
    unit = torch.eye(3, dtype=torch.float64, device=device)
    kind = str(dtype).removeprefix("torch.")
    return [
        f"| {kind} | {name} | {error:.1e} | {float(torch.linalg.matrix_norm(q.mT @ q - unit).max()):.1e} |"
        for name, error, q in rows
    ]


def time_tables(args: argparse.Namespace, dtype: torch.dtype, device: torch.device, clock: Clock) -> Iterator[str]:
    matrix = torch.randn(args.sets, 3, 3, dtype=dtype, device=device)
    x, y = torch.randn(2, args.sets, args.points, 3, dtype=dtype, device=device).unbind()
    cases: dict[str, tuple[Function, Function, list[Tensor], bool]] = {
        "eigh3": (eigh3, torch.linalg.eigh, [matrix + matrix.mT], True),
        "polar3": (polar3, svd_polar, [matrix], False),
        f"kabsch, {args.points} points": (kabsch, svd_kabsch, [x, y], False),
    }
    for name, (ours, peer, inputs, squared) in cases.items():
        variants = {"torch.linalg": peer, "eager": ours}
        if args.compile:
            variants["compiled"] = torch.compile(ours, fullgraph=True, dynamic=False)
        weights = [torch.randn_like(out) for out in ours(*inputs)]
        for step in ("forward", "forward and backward"):
            actions: dict[str, Action] = {}
            for variant, f in variants.items():
                if step == "forward":
                    actions[variant] = lambda f=f, inputs=inputs: f(*inputs)  # type: ignore[misc]
                else:
                    actions[variant] = lambda f=f, i=inputs, w=weights, s=squared: with_gradient(f, i, w, squared=s)  # type: ignore[misc]
            found = percentiles(actions, args.rounds, clock)
            peer_time = found["torch.linalg"]
            cells = [
                f"{found[variant]:.1f} | {peer_time / found[variant]:.1f}"
                for variant in variants
                if variant != "torch.linalg"
            ]
            kind = str(dtype).removeprefix("torch.")
            memory = " / ".join(f"{peak_memory(actions[variant], device):.0f}" for variant in ("torch.linalg", "eager"))
            yield f"| {kind} | {name} | {step} | {peer_time:.1f} | {' | '.join(cells)} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100_000, help="matrices, or pairs of point sets")
    parser.add_argument("--points", type=int, default=8, help="points of a set")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    add_options(parser, rounds=15)
    args = parser.parse_args()
    device, clock = start(args)
    head = ["dtype", "operation", "step", "torch.linalg, ms", "eager, ms", "times faster"]
    head += ["compiled, ms", "times faster"] if args.compile else []
    print(f"{args.sets} matrices; {machine(device)}\n")
    print(table([*head, "memory, MiB: torch.linalg / eager"]))
    dtypes = [getattr(torch, name) for name in args.dtypes]
    for dtype in dtypes:
        for line in time_tables(args, dtype, device, clock):
            print(line, flush=True)
    print("\n" + table(["dtype", "operation", "largest backward error", "largest departure from orthogonality"]))
    for dtype in dtypes:
        print("\n".join(backward_error(dtype, device)))


if __name__ == "__main__":
    main()
