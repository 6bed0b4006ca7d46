"""Neighbour graphs against all distances written out."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoeq.ops import dense_neighbours, edge_vectors, knn_graph, radius_graph


@pytest.fixture(params=["all distances", "cell lists"])
def way(request, monkeypatch):
    if request.param == "cell lists":
        monkeypatch.setattr(dense_neighbours, "NODES", 0)
    return request.param


def points_of(seed, n, d, n_graphs):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(n, d, generator=generator, dtype=torch.float64)
    pos[n // 2 :: 5] = pos[: len(pos[n // 2 :: 5])].clone()  # points at one place
    return pos, torch.randint(n_graphs, (n,), generator=generator).sort().values


def true_distances(pos, batch, loop):
    distance = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
    other = batch.unsqueeze(1) != batch
    if not loop:
        other |= torch.eye(len(pos), dtype=torch.bool)
    return distance.masked_fill(other, torch.inf)  # [receiver, sender]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.booleans())
def test_radius_graph_holds_every_pair(seed, n, d, n_graphs, loop, dense):
    pos, batch = points_of(seed, n, d, n_graphs)
    with pytest.MonkeyPatch.context() as patch:
        if not dense:
            patch.setattr(dense_neighbours, "NODES", 0)
        found = radius_graph(pos, 0.3, batch, loop=loop)
    receiver, sender = (true_distances(pos, batch, loop) <= 0.3).nonzero().T
    assert torch.equal(found, torch.stack([sender, receiver]))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 3), st.integers(1, 9), st.booleans(), st.booleans())
def test_knn_graph_holds_the_nearest(seed, n, d, k, loop, dense):
    pos, batch = points_of(seed, n, d, 3)
    with pytest.MonkeyPatch.context() as patch:
        if not dense:
            patch.setattr(dense_neighbours, "NODES", 0)
        sender, receiver = knn_graph(pos, k, batch, loop=loop)
    expected = true_distances(pos, batch, loop)
    nearest = expected.sort(1).values[:, :k]
    assert torch.equal(receiver.bincount(minlength=n), nearest.isfinite().sum(1))
    for node in range(n):  # equal distances leave the choice open, so distances are compared
        own = expected[node, sender[receiver == node]].sort().values
        assert torch.equal(own, nearest[node][nearest[node].isfinite()])


@pytest.mark.parametrize("radius", [0.2, 0.7, 1.6])
@pytest.mark.parametrize("skewed", [False, True])
def test_images_in_a_periodic_box_all_count(radius, skewed):
    generator = torch.Generator().manual_seed(0)
    box = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.9, 0.0], [-0.2, 0.3, 1.1]] if skewed else [1.0, 0.9, 1.1]).double()
    lattice = box if skewed else box.diag()
    pos = 3 * torch.rand(12, 3, generator=generator, dtype=torch.float64) - 1  # some outside of the box
    edge_index, shift = radius_graph(pos, radius, box=box)
    steps = torch.tensor(list(product(range(-6, 7), repeat=3)))
    moved = pos.unsqueeze(1) + steps.double() @ lattice  # [sender, step, 3]
    near = (moved.unsqueeze(0) - pos[:, None, None]).norm(dim=-1) <= radius
    near[torch.arange(12), torch.arange(12), len(steps) // 2] = False
    receiver, sender, step = near.nonzero().T
    expected = {(*edge, *s) for edge, s in zip(zip(sender.tolist(), receiver.tolist()), steps[step].tolist())}
    assert {(*edge, *s) for edge, s in zip(edge_index.T.tolist(), shift.tolist())} == expected
    vectors = edge_vectors(pos, edge_index, shift, box)
    assert float(vectors.norm(dim=1).max()) <= radius
    assert torch.equal(edge_index[1], edge_index[1].sort().values)


def test_every_node_of_a_box_has_k_neighbours_however_few_nodes_there_are():
    pos, box = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]]), torch.ones(3)
    edge_index, shift = knn_graph(pos, 20, box=box)
    assert edge_index[1].bincount().tolist() == [20, 20]
    lengths = edge_vectors(pos, edge_index, shift, box).norm(dim=1)
    assert float(lengths.max()) < 1.5
    assert float(lengths.min()) > 0.8


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_nodes_on_one_point_of_a_box_reach_its_images(n, loop):
    edge_index, shift = knn_graph(torch.zeros(n, 3), 9, box=torch.tensor([3.0, 3.0, 3.0]), loop=loop)
    assert edge_index[1].bincount().tolist() == [9] * n
    inside = (shift == 0).all(1)
    assert int(inside.sum()) == n * (n - (not loop))
    assert set(shift.square().sum(1).tolist()) <= {0, 1, 2}


def test_no_cap_on_the_number_of_neighbours(way):
    assert radius_graph(torch.zeros(70, 3), 0.0).shape == (2, 70 * 69)


def test_a_box_of_each_graph():
    pos, batch = torch.tensor([[0.1], [0.9], [0.1], [0.9]]), torch.tensor([0, 0, 1, 1])
    box = torch.tensor([[[1.0]], [[5.0]]])
    edge_index, shift = radius_graph(pos, 0.3, batch, box=box)
    assert edge_index.tolist() == [[1, 0], [0, 1]]
    assert torch.allclose(edge_vectors(pos, edge_index, shift, box, batch), torch.tensor([[-0.2], [0.2]]))


def test_rigid_motions_and_permutations_leave_the_graph(way):
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(50, generator=generator)
    for graph in (lambda x: radius_graph(x, 1.0), lambda x: knn_graph(x, 5)):
        assert torch.equal(graph(pos @ turn.T + 7.0), graph(pos))
        permuted = order[graph(pos[order])]
        assert set(map(tuple, permuted.T.tolist())) == set(map(tuple, graph(pos).T.tolist()))


def test_vectors_have_gradients_of_positions_and_box():
    pos = torch.tensor([[0.5, 0.1], [9.5, 0.3]], dtype=torch.float64, requires_grad=True)
    box = torch.tensor([10.0, 10.0], dtype=torch.float64, requires_grad=True)
    edge_index, shift = radius_graph(pos, 1.5, box=box)
    assert torch.autograd.gradcheck(lambda p, b: edge_vectors(p, edge_index, shift, b), (pos, box))


@pytest.mark.parametrize("size", [0, 1])
def test_graphs_without_edges(size, way):
    pos = torch.zeros(size, 3)
    assert radius_graph(pos, 1.0).shape == knn_graph(pos, 3).shape == (2, 0)
    edge_index, shift = radius_graph(pos, 0.5, box=torch.ones(3))
    assert edge_index.shape == (2, 0)
    assert shift.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda x: radius_graph(x[0], 1.0), "pos must be floating"),
        (lambda x: radius_graph(x / 0, 1.0), "pos must be finite"),
        (lambda x: radius_graph(x, -1.0), "radius must be a finite number"),
        (lambda x: radius_graph(x, float("nan")), "radius must be a finite number"),
        (lambda x: radius_graph(x, 1.0, torch.tensor([1, 0])), "batch must be numbers from 0"),
        (lambda x: radius_graph(x, 1.0, torch.zeros(2)), "batch must be int64"),
        (lambda x: radius_graph(x, 1.0, box=torch.zeros(3)), "box must have positive lengths"),
        (lambda x: radius_graph(x, 1.0, box=torch.ones(2)), "box must be"),
        (lambda x: knn_graph(x, 0), "k must be an integer"),
        (lambda x: knn_graph(x, 1.5), "k must be an integer"),
        (lambda x: edge_vectors(x, torch.zeros(2, 0, dtype=torch.long), box=torch.ones(3)), "shift and box must come"),
    ],
)
def test_what_is_wrong_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call(torch.ones(2, 3))
