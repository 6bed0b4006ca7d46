"""Graphs, networks and comparisons for the tests of PONITA."""

import torch

from geoeq.groups import SO
from geoeq.layers import PonitaNet

SMALL = {"hidden": 8, "basis": 12}
GRIDS = ["octahedron", "cube", "icosahedron", "dodecahedron", 16]


def complete(n: int) -> torch.Tensor:
    return torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j], dtype=torch.int64).reshape(-1, 2).T


def random_graph(n: int = 5, edges: torch.Tensor | None = None, dim: int = 3, dtype=torch.float64) -> dict:
    return {
        "pos": torch.randn(n, dim, dtype=dtype),
        "edge_index": complete(n) if edges is None else edges,
        "scalars": torch.randn(n, 2, dtype=dtype),
        "vectors": torch.randn(n, 3, dim, dtype=dtype),
    }


def network(kernel: torch.nn.Module, sizes=(2, 3, 2, 2), **options) -> PonitaNet:
    """Random weights without a layer scale, which would hide every fault."""
    net = PonitaNet(*sizes, kernel, hidden=8, n_layers=2, **options).double()
    with torch.no_grad():
        for block in net.trunk.blocks:
            block.conv.bias.normal_()
    return net


def rotation(dim: int = 3) -> torch.Tensor:
    return SO(dim).sample(1)[0]


def moved(graph: dict, r: torch.Tensor, shift: float = 0.0) -> dict:
    return {**graph, "pos": graph["pos"] @ r.T + shift, "vectors": graph["vectors"] @ r.T}


def assert_same(ours, theirs, tolerance=1e-10):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
