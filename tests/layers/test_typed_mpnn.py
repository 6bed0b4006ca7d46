"""TypedMPNN: what it is given is checked, and nodes are numbered only where graphs have their number of nodes."""

import pytest
import torch
from torch_geometric.data import Batch, Data

from geoeq.layers import TypedMPNN


def bodies(n=3):
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j]).T
    fields = {"pos": (n, 3), "vel": (n, 3), "charge": (n, 1), "x": (n, 2), "history": (n, 3, 3)}
    drawn = {name: torch.randn(shape) for name, shape in fields.items()}
    return Data(**drawn, edge_index=edges, edge_attr=torch.randn(edges.shape[1], 1))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("vel", r"vel must be \[N, 3\], got None"),
        ("x", r"x must be \[N, 2\] with N = 3, got None"),
        ("history", r"history must be \[N, 3, 3\] with N = 3, got None"),
    ],
)
def test_what_is_missing_is_named(missing, message):
    data = bodies()
    del data[missing]
    with pytest.raises(ValueError, match=message):
        TypedMPNN("4x0e + 2x1o", n_layers=1, node_dim=2, history=3)(data)


@pytest.mark.parametrize("sizes", [{"node_dim": -1}, {"edge_dim": -1}])
def test_negative_sizes(sizes):
    with pytest.raises(ValueError, match="node_dim and edge_dim must be >= 0"):
        TypedMPNN("4x0e + 2x1o", **sizes)


def test_numbered_nodes_are_those_of_graphs_of_one_size():
    model = TypedMPNN("4x0e + 2x1o", n_layers=1, n_nodes=5, mode="free")
    with pytest.raises(ValueError, match=r"graphs of n_nodes=5 nodes, got \[4, 6\]"):
        model(Batch.from_data_list([bodies(4), bodies(6)]))
    with pytest.raises(ValueError, match=r"graphs of n_nodes=5 nodes, got \[10\]"):
        model(Batch.from_data_list([bodies(10)]))
    graphs = [bodies(5), bodies(5)]
    apart = torch.cat([model(graph) for graph in graphs])
    assert torch.allclose(model(Batch.from_data_list(graphs)), apart, atol=1e-6)


def test_numbered_nodes_compile():
    torch.compiler.reset()
    model, batch = TypedMPNN("4x0e + 2x1o", n_layers=1, n_nodes=5), Batch.from_data_list([bodies(5), bodies(5)])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(batch), model(batch), atol=1e-6)
