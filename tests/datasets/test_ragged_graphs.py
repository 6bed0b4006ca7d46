"""Graphs of several sizes: edges of many complete graphs at once, and batches equal to PyG's."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from geoeq.datasets.batching import complete_graph
from geoeq.datasets.ragged_graphs import RaggedGraphs, pointer, ragged_complete_graphs

SIZES = [3, 1, 5, 2, 1, 4]


class Crowds(RaggedGraphs):
    """Complete graphs with fields of the nodes, of the edges and of the graph."""

    def __init__(self, sizes, transform=None):
        super().__init__(None, transform)
        nodes = pointer(torch.tensor(sizes))
        edges = ragged_complete_graphs(nodes)
        graphs = torch.arange(len(sizes) + 1)
        total = int(nodes[-1])
        values = {
            "pos": torch.randn(total, 2),
            "history": torch.randn(total, 3, 2),
            "edge_index": edges.edge_index,
            "edge_attr": torch.randn(edges.edge_index.shape[1], 1),
            "start": graphs[:-1] * 10,
            "leader_index": torch.zeros(len(sizes), dtype=torch.int64),
        }
        of_graphs = {"start": graphs, "leader_index": graphs}
        slices = {"edge_index": edges.ptr, "edge_attr": edges.ptr} | of_graphs
        self._take(values, {name: slices.get(name, nodes) for name in values})


@pytest.fixture
def crowds():
    return Crowds(SIZES)


@given(st.lists(st.integers(0, 6), max_size=8))
def test_complete_graphs_are_those_of_each_size(sizes):
    edges = ragged_complete_graphs(pointer(torch.tensor(sizes, dtype=torch.int64)))
    assert edges.ptr.tolist() == [0, *torch.tensor([n * (n - 1) for n in sizes]).cumsum(0).tolist()]
    for graph, n in enumerate(sizes):
        own = edges.edge_index[:, edges.ptr[graph] : edges.ptr[graph + 1]]
        assert torch.equal(own, complete_graph(n))


def test_radius_keeps_the_near_pairs():
    pos = torch.tensor([0.0, 1.0, 3.0, 100.0, 0.0, 2.0])[:, None]
    edges = ragged_complete_graphs(torch.tensor([0, 3, 4, 6]), pos, radius=2.0)
    assert edges.edge_index.tolist() == [[1, 0, 2, 1, 1, 0], [0, 1, 1, 2, 0, 1]]
    assert edges.ptr.tolist() == [0, 4, 4, 6]
    with pytest.raises(ValueError, match="pos must be given with radius"):
        ragged_complete_graphs(torch.tensor([0, 3]), radius=1.0)


@pytest.mark.parametrize("index", [[0], [1], [4, 1, 2, 1], list(range(6)), [1, 4], []])
def test_fetch_equals_collation(crowds, index):
    fast = crowds.fetch(torch.tensor(index, dtype=torch.int64))
    assert fast.num_graphs == len(index)
    if not index:
        assert fast.pos.shape == (0, 2)
        assert fast.edge_index.shape == (2, 0)
        return
    slow = Batch.from_data_list([crowds[i] for i in index])
    assert set(fast.keys()) == set(slow.keys())
    for name in slow.keys():  # noqa: SIM118, a batch iterates over its pairs
        assert torch.equal(fast[name], slow[name]), name
        assert fast[name].dtype == slow[name].dtype, name
        assert fast[name].is_contiguous(), name
        if name in slow._slice_dict:
            assert torch.equal(fast._slice_dict[name], slow._slice_dict[name]), name
            assert torch.equal(fast._inc_dict[name], slow._inc_dict[name]), name
    for mine, theirs in zip(fast.to_data_list(), slow.to_data_list(), strict=True):
        assert set(mine.keys()) == set(theirs.keys())
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs.keys())  # noqa: SIM118
    assert torch.equal(fast[len(index) - 1].pos, crowds[index[-1]].pos)


def test_edges_stay_inside_their_graph_and_sorted(crowds):
    batch = crowds.fetch(torch.tensor([2, 0, 2]))
    sender, receiver = batch.edge_index
    assert torch.equal(batch.batch[sender], batch.batch[receiver])
    assert (receiver.diff() >= 0).all()


def test_batches_do_not_share_memory_with_the_set(crowds):
    before = crowds[0].pos.clone(), crowds[0].edge_index.clone()
    batch = crowds.fetch(torch.tensor([0, 1]))
    batch.pos += 1
    batch.edge_index += 1
    assert torch.equal(crowds[0].pos, before[0])
    assert torch.equal(crowds[0].edge_index, before[1])


def test_fetch_refuses_a_wrong_index(crowds):
    for index in (torch.tensor(3), torch.tensor([0.0]), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="index must be a 1-D int64 tensor"):
            crowds.fetch(index)
    for index in (torch.tensor([6]), torch.tensor([-1])):
        with pytest.raises(IndexError):
            crowds.fetch(index)
        with pytest.raises(IndexError):
            crowds[1:4].fetch(index)


def test_subsets_as_in_pyg(crowds):
    for subset, rows in (
        (crowds[3:6], [3, 4, 5]),
        (crowds[torch.tensor([5, 2])], [5, 2]),
        (crowds[torch.arange(6) % 2 == 0], [0, 2, 4]),
        (crowds[[1, -1]], [1, 5]),
        (crowds[2:][1:3], [3, 4]),
        (crowds.copy([3, 0]), [3, 0]),
        (crowds[2:].copy(), [2, 3, 4, 5]),
        (crowds.copy([1]), [1]),
    ):
        assert len(subset) == len(rows)
        every = subset.fetch(torch.arange(len(rows)))
        expected = Batch.from_data_list([crowds[i] for i in rows])
        for name in expected.keys():  # noqa: SIM118
            assert torch.equal(every[name], expected[name]), name
        assert torch.equal(subset.pos, expected.pos)
        assert torch.equal(subset[0].edge_index, crowds[rows[0]].edge_index)
    assert len(crowds.shuffle()) == 6
    assert crowds[-1].pos.equal(crowds[5].pos)
    with pytest.raises(IndexError):
        crowds[6]


def test_a_copy_has_tensors_of_its_own(crowds):
    copy = crowds.copy()
    copy[0].pos.zero_()
    assert crowds[0].pos.abs().sum() > 0


def test_loader_pickle_device_and_transform(crowds):
    batches = list(DataLoader(crowds, batch_size=4))
    assert torch.equal(batches[1].edge_index, crowds.fetch(torch.tensor([4, 5])).edge_index)
    again = pickle.loads(pickle.dumps(crowds[2:4]))
    assert torch.equal(again.fetch(torch.tensor([1])).pos, crowds[3].pos)
    moved = crowds.copy().to("meta")
    assert moved._data.pos.device.type == moved.slices["pos"].device.type == "meta"
    named = Crowds(SIZES, transform=lambda graph: graph.pos.shape[0])
    assert [named[i] for i in range(6)] == SIZES
