"""Samples of graphs answer as the graphs do; a gap of a data set is that of its samples."""

import pytest
import torch
from torch_geometric.data import Data

from geoeq.audit import symmetry_gap, transform
from geoeq.audit.fields import centre_of
from geoeq.audit.samples import samples_of
from geoeq.datasets.vectors import ModifiedInertia
from geoeq.groups import SO2, E, Lorentz, Mirror, O, Piecewise, Product, S, Scaling, T
from geoeq.reps import Irreps, Nodes, Positions, Sum
from geoeq.soft.action import move

N = 4
SMALL = {"landmarks": 96, "n_elements": 4}
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
GROUPS = [O(3), SO2("z"), T(3), E(3), S(N), S(N, classes=[0, 0, 1, 1]), Mirror([1, 0, 3, 2], "x"), Product(S(N), O(3))]
EMPTY = torch.zeros(2, 0, dtype=torch.long)


def drawn(count=10, n=N, future=2, past=3):
    """Graphs with all fields, far from the origin."""
    many = torch.randn(count, n, 3 + future + past, 3, dtype=torch.float64) + 7
    charge = torch.randn(count, n, 2, dtype=torch.float64)
    return [
        Data(pos=m[:, 0], vel=m[:, 1], y=m[:, 3 : 3 + future], history=m[:, 3 + future :], charge=c, edge_index=EMPTY)
        for m, c in zip(many, charge, strict=True)
    ]


def flights(push, count=150, n=N):
    """Graphs that fly on, pull at each other, and get ``push(pos, vel)``."""
    graphs = []
    for pos, vel in torch.randn(count, 2, n, 3, dtype=torch.float64):
        pull = 0.3 * (pos.mean(0) - pos)
        graphs.append(Data(pos=pos, vel=vel, y=pos + vel + pull + push(pos, vel)))
    return graphs


@pytest.mark.parametrize("group", GROUPS, ids=repr)
def test_samples_of_moved_graphs_are_moved_samples(group):
    graphs = drawn()
    x, y, rep_in, rep_out = samples_of(graphs, group, 10)
    for element in group.sample(3):
        moved = samples_of([transform(group, element, graph) for graph in graphs], group, 10)
        # a shift of everything shifts the centre, too
        shift = move(group, rep_in, torch.zeros_like(x[0]), element)
        torch.testing.assert_close(moved.x, move(group, rep_in, x, element) - shift)
        torch.testing.assert_close(moved.y, move(group, rep_out, y, element))


@pytest.mark.parametrize("group", [T(3), E(3)], ids=repr)
def test_graphs_moved_each_by_its_own_element_keep_one_centre(group):
    graphs, elements = drawn(), group.sample(10)
    centre = torch.stack([graph.pos for graph in graphs]).mean((0, 1))
    for graph in graphs:
        graph.pos, graph.y, graph.history = graph.pos - centre, graph.y - centre, graph.history - centre
    x, y, rep_in, rep_out = samples_of(graphs, group, 10)
    moved = samples_of([transform(group, g, graph) for g, graph in zip(elements, graphs, strict=True)], group, 10)
    expected = torch.stack([move(group, rep_in, own, g) for own, g in zip(x, elements, strict=True)])
    places = 3 * N * (1 + 3)  # positions stand last
    difference = moved.x - expected
    torch.testing.assert_close(difference[:, :-places], torch.zeros(10, x.shape[1] - places, dtype=torch.float64))
    vectors = difference[:, -places:].reshape(-1, 3)
    torch.testing.assert_close(vectors, vectors[:1].expand_as(vectors))
    torch.testing.assert_close(
        moved.y, torch.stack([move(group, rep_out, own, g) for own, g in zip(y, elements, strict=True)])
    )


def test_components_stand_where_their_representation_says():
    graphs = drawn(5)
    centre = torch.stack([graph.pos for graph in graphs]).mean((0, 1))
    graph = graphs[3]
    fields = [graph.charge, graph.vel, graph.pos - centre, graph.history - centre, graph.y - graph.pos.unsqueeze(1)]
    *inputs, targets = (field.reshape(N, -1) for field in fields)

    by_node = samples_of(graphs, S(N), 5)
    assert (by_node.rep_in, by_node.rep_out) == (Nodes(N, "2x0e + 1x1o + 4x1o"), Nodes(N, "2x1o"))
    torch.testing.assert_close(by_node.x[3], torch.cat(inputs, 1).T.flatten())
    torch.testing.assert_close(by_node.y[3], targets.T.flatten())

    flat = samples_of(graphs, O(3), 5)
    assert (flat.rep_in, flat.rep_out) == (Sum("8x0e + 4x1o", Positions(16)), Irreps("8x1o"))
    torch.testing.assert_close(flat.x[3], torch.cat([inputs[0].flatten(), inputs[1].flatten(), *map_frames(inputs)]))
    torch.testing.assert_close(flat.y[3], targets.flatten())


def map_frames(inputs):
    """Positions node by node, the frames of a node one after the other."""
    return [torch.cat(inputs[2:], 1).flatten()]


def test_graphs_may_have_little():
    graphs = [Data(pos=torch.randn(N, 3), y=torch.randn(N, 3), edge_index=EMPTY) for _ in range(3)]
    assert samples_of(graphs, O(3), 9).x.shape == (3, 12)
    assert samples_of(graphs, S(N), 9).rep_in.dim == 12
    for graph in graphs:
        graph.x, graph.charge = torch.arange(N), torch.zeros(N, 1)
    torch.testing.assert_close(samples_of(graphs, O(3), 9).x[0, :N], torch.arange(N).double())  # not the charge


def test_samples_are_evenly_spaced():
    asked = []

    class Recording(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    assert len(samples_of(Recording(drawn(10)), O(3), 4).x) == 4
    assert asked == [0, 2, 5, 7]
    assert len(samples_of(drawn(3), O(3), 4).x) == 3
    task = ModifiedInertia(n=30)
    torch.testing.assert_close(samples_of(task, O(3), 4).x, task.train.x[[0, 2, 5, 7]])


@pytest.mark.parametrize(
    ("push", "broken", "kept"),
    [
        (lambda pos, vel: 0.0, [], ["E(3)", "S(4)", "O(3)"]),
        (lambda pos, vel: 0.5 * UP, ["O(3)", "E(3)"], ["SO2(z)", "T(3)", "S(4)"]),
        (lambda pos, vel: -0.5 * pos, ["T(3)", "E(3)"], ["O(3)", "S(4)"]),
        (lambda pos, vel: 0.3 * vel * torch.arange(4.0).double().unsqueeze(1), ["S(4)"], ["E(3)"]),
    ],
    ids=["none", "field", "trap", "order"],
)
def test_what_is_broken_and_what_is_not(push, broken, kept):
    graphs = flights(push)
    assert {group: symmetry_gap(graphs, group, **SMALL).broken for group in broken + kept} == {
        **dict.fromkeys(broken, True),
        **dict.fromkeys(kept, False),
    }


@pytest.mark.parametrize("group", ["O(3)", "E(3)", "T(3)"])
def test_a_far_origin_changes_little(group):
    graphs = flights(lambda pos, vel: 0.5 * UP - 0.5 * pos, count=60)
    far = [Data(pos=graph.pos + 1000, vel=graph.vel, y=graph.y + 1000) for graph in graphs]
    near, there = (symmetry_gap(data, group, **SMALL) for data in (graphs, far))
    assert near.broken
    assert there.gap == pytest.approx(near.gap, rel=0.1)  # the centre of the far ones is known up to its error only


def test_a_mean_that_may_be_the_origin_is_no_centre():
    pos = torch.randn(100, N, 3, dtype=torch.float64)
    assert not centre_of(pos).any()
    torch.testing.assert_close(centre_of(pos + 2), (pos + 2).mean((0, 1)))


def test_a_task_is_its_training_split():
    task = ModifiedInertia(n=240)
    whole = symmetry_gap(task, "O(3)", **SMALL)
    assert whole == symmetry_gap(*task.train, "O(3)", task.rep_in, task.rep_out, **SMALL)
    assert symmetry_gap(dataset=task, group=O(3), max_samples=1000, **SMALL) == whole
    assert symmetry_gap(task, group=O(3), max_samples=40, **SMALL) != whole


def ragged():
    return [Data(pos=torch.zeros(n, 3), y=torch.zeros(n, 3)) for n in (3, 7, 5)]


def changed(**fields):
    graphs = drawn(20)
    for name, value in fields.items():
        graphs[7][name] = value
    return graphs


@pytest.mark.parametrize(
    ("dataset", "group", "message"),
    [
        ([], "O(3)", "dataset must have at least one graph, got none"),
        (ragged(), "O(3)", "dataset must have graphs of equal numbers of nodes, got 3 to 7: give tensors x, y"),
        ([Data(pos=torch.zeros(3, 3))] * 20, "O(3)", r"dataset must have graphs with pos and y, got \['pos'\]"),
        (
            changed(y=torch.zeros(1)),
            "O(3)",
            r"dataset must have y \[4, 3\] or \[4, \*, 3\] in every graph, got \[1\], ",
        ),
        (changed(vel=None), "O(3)", r"dataset must have vel \[4, 3\] in every graph, got \[4, 3\] in 19 of 20"),
        (changed(pos=torch.full((N, 3), torch.nan)), "O(3)", "dataset must have finite pos"),
        (drawn(15), "O(3)", r"dataset must have at least 4 \* folds = 16 samples, got 15"),
        (drawn(1)[0], "O(3)", "dataset must be a sequence of graphs of torch_geometric, or a task .*, got Data"),
        (7, "O(3)", "dataset must be a sequence of graphs of torch_geometric, or a task .*, got int"),
        ([1, 2], "O(3)", "dataset must be a sequence of graphs of torch_geometric, or a task .*, got list of int"),
        (drawn(20), "O(2)", r"group must act on space of three dimensions, got O\(2\)"),
        (drawn(20), "S(5)", r"group must permute the 4 nodes of a graph, got S\(5\)"),
        (drawn(20), Piecewise(E(3)), r"group must rotate, reflect, shift or permute whole graphs, got Piecewise"),
        (drawn(20), Scaling(), r"group must rotate, reflect, shift or permute whole graphs, got Scaling\(\)"),
        (drawn(20), Lorentz(), r"group must rotate, reflect, shift or permute whole graphs, got Lorentz"),
        (drawn(20), Product(S(N), E(3)), "group must not shift what it permutes"),
    ],
)
def test_wrong_data_are_one_clear_line(dataset, group, message):
    with pytest.raises(ValueError, match=message) as found:
        symmetry_gap(dataset, group)
    assert "\n" not in str(found.value)


def test_max_samples_must_be_some():
    with pytest.raises(ValueError, match="max_samples must be at least 1, got 0"):
        symmetry_gap(drawn(20), "O(3)", max_samples=0)
