"""How features move, and the orbit penalty: zero on what is equivariant, the known share on what is not."""

import pytest
import torch
from torch import nn

from geoeq.groups import SE, SO, SO2, E, Mirror, O, Piecewise, Product, S, Scaling, T, Union
from geoeq.reps import Crossing, LogSizes, Nodes, Positions, Sum, TensorRep
from geoeq.soft import FunctionalEquivariance, OrbitPenalty, product_penalty, recorded_calls
from geoeq.soft.action import flow, move, velocity

SPACE = Sum("2x0e + 1x0o + 2x1o + 1x2e", Positions(2), LogSizes(2))
VECTOR = TensorRep({1: 1}, d=3)
GROUPS = [SO(3), O(3), SO2("z"), T(3), SE(3), E(3), Scaling(), Product(SO(3), Scaling()), Union(SO(3), T(3))]


def rows(n, rep=SPACE):
    return torch.randn(n, rep.dim, dtype=torch.float64)


# Action


@pytest.mark.parametrize("group", GROUPS, ids=repr)
def test_two_moves_are_the_move_of_the_product(group):
    x, (a, b) = rows(5), group.sample(2)
    assert torch.allclose(move(group, SPACE, move(group, SPACE, x, b), a), move(group, SPACE, x, a @ b), atol=1e-10)


@pytest.mark.parametrize("group", GROUPS, ids=repr)
def test_the_flow_is_the_exponential_and_the_velocity_its_start(group):
    x, c = rows(5), torch.randn(len(group.generators), dtype=torch.float64)
    whole = move(group, SPACE, x, group.exp(c.unsqueeze(0))[0])
    assert torch.allclose(flow(group, SPACE, x, c), whole, atol=1e-10)
    h = 1e-6
    slope = (flow(group, SPACE, x, h * c) - flow(group, SPACE, x, -h * c)) / (2 * h)
    assert torch.allclose(velocity(group, SPACE, x, c), slope, atol=1e-8)


@pytest.mark.parametrize("group", [SO(3), E(3), Scaling()], ids=repr)
def test_positions_move_like_points(group):
    x, g = rows(4, Positions(1)), group.sample(1)[0]
    assert torch.allclose(move(group, Positions(1), x, g), group.act(g, x, position=True))


def test_hard_parts_move_each_by_its_own_element():
    group, x, part = Piecewise(E(3)), rows(6), torch.tensor([0, 2, 0, 5, 2, 5])
    g = group.sample(1)[0]
    moved = move(group, SPACE, x, g, part=part)
    for p in (0, 2, 5):
        assert torch.allclose(moved[part == p], move(E(3), SPACE, x[part == p], g[p]))


def test_one_hot_memberships_are_hard_parts_and_a_common_twist_is_global():
    group, x, part = SE(3), rows(6), torch.tensor([0, 1, 2, 0, 1, 2])
    c = torch.randn(3, 6, dtype=torch.float64)
    one_hot = nn.functional.one_hot(part).double()
    soft = torch.rand(6, 3, dtype=torch.float64).softmax(1)
    for act in (velocity, flow):
        assert torch.allclose(act(group, SPACE, x, c, part=one_hot), act(group, SPACE, x, c, part=part))
        common = c[:1].expand(3, 6)
        assert torch.allclose(act(group, SPACE, x, common, part=soft), act(group, SPACE, x, c[0]), atol=1e-12)


def test_numbered_nodes_in_one_row_or_one_row_each():
    rep, g = Nodes(4, "1x0e + 1x1o"), S(4).sample(1)[0]
    x = torch.randn(3, 4, 4, dtype=torch.float64)  # graph, channel, node
    flat = move(S(4), rep, x.flatten(1), g)
    assert torch.allclose(flat.reshape(3, 4, 4), x @ g.T)
    by_node = move(S(4), rep, x.transpose(1, 2).reshape(12, 4), g)
    assert torch.allclose(by_node.reshape(3, 4, 4).transpose(1, 2), x @ g.T)


def test_parts_of_numbered_nodes_are_those_of_the_group():
    group, rep = Piecewise(O(3), parts=[0, 1, 1]), Nodes(3, "1x1o")
    x, g = torch.randn(2, 3, 3, dtype=torch.float64), group.sample(1)[0]
    moved = move(group, rep, x.flatten(1), g).reshape(2, 3, 3)
    for node, p in enumerate([0, 1, 1]):
        assert torch.allclose(moved[:, :, node], x[:, :, node] @ g[p].T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moves_keep_the_dtype(dtype):
    x = rows(3).to(dtype)
    assert move(E(3), SPACE, x, E(3).sample(1)[0]).dtype == dtype
    assert velocity(SE(3), SPACE, x, torch.randn(6)).dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: move(SO(3), "2x1o", torch.randn(4, 5), torch.eye(3)), r"x must be \[..., 6\] for 2x1o, got \[4, 5\]"),
        (lambda: move(Piecewise(E(3)), "1o", torch.randn(4, 3), E(3).sample(2)), "part must give the part of each row"),
        (
            lambda: move(Piecewise(E(3)), "1o", torch.randn(4, 3), E(3).sample(2), part=torch.tensor([0, 1, 2, 0])),
            r"part must lie in \[0, 1\], got 0 to 2",
        ),
        (
            lambda: move(Piecewise(E(3)), "1o", torch.randn(4, 3), E(3).sample(2), part=torch.tensor([0, 1])),
            r"part must be \[4\]",
        ),
        (
            lambda: move(Piecewise(E(3)), Crossing("1o"), torch.randn(1, 3), E(3).sample(1), part=torch.tensor([0])),
            "rep must not join two parts",
        ),
        (lambda: velocity(SO(3), "1o", torch.randn(4, 3), torch.randn(2)), r"coefficients must be \[..., 3\]"),
        (lambda: velocity(S(3), Nodes(3, "0e"), torch.randn(4, 3), torch.randn(0)), "group must have generators"),
        (lambda: move(S(3), Nodes(3, "1o"), torch.randn(4, 3), torch.eye(3)), "x must have graphs of 3 nodes"),
    ],
)
def test_wrong_shapes_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


# Penalty


@pytest.mark.parametrize("group", [SO(3), O(3), SE(3), E(3), SO2("y")], ids=repr)
@pytest.mark.parametrize("stacked", [False, True])
def test_an_equivariant_map_has_no_penalty(group, stacked):
    rep = Sum("2x0e + 1x1o", Positions(1))
    equivariant = lambda x: torch.cat([x[:, :2], x[:, 2:5] * x[:, :1], x[:, 5:] + x[:, 2:5]], 1)  # noqa: E731
    penalty = OrbitPenalty(group, rep, rep, n_samples=3, stacked=stacked)
    assert penalty(equivariant, rows(7, rep)) < 1e-12
    assert penalty(lambda x: x.sin(), rows(7, rep)) > 1e-3


def test_on_a_linear_map_it_is_the_share_outside_the_intertwiners():
    weight, x = torch.randn(6, 9, dtype=torch.float64), torch.eye(9, dtype=torch.float64)
    penalty = OrbitPenalty(SO(3), TensorRep({1: 3}, d=3), TensorRep({1: 2}, d=3), n_samples=2000)
    residual = SO(3).projector("3x1o", "2x1o").residual(weight)
    share = residual.square().sum() / weight.square().sum()
    assert penalty(lambda x: x @ weight.T, x).item() == pytest.approx(share.item(), rel=0.05)


def test_a_constant_vector_has_no_symmetric_part():
    push = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    penalty = OrbitPenalty(O(3), VECTOR, VECTOR, n_samples=1000)
    assert penalty(lambda x: push.expand(x.shape), rows(4, VECTOR)).item() == pytest.approx(1, abs=0.1)


def test_size_of_the_output_counts_only_without_relative():
    x, network = rows(5, VECTOR), torch.sin
    for relative, ratio in ((True, 1.0), (False, 100.0)):
        small, large = (
            OrbitPenalty(SO(3), "1o", "1o", relative=relative)(lambda x, s=s: s * network(x), x) for s in (1, 10)
        )
        assert (large / small).item() == pytest.approx(ratio)


def test_several_arguments_and_outputs_each_answer_in_their_way():
    def network(h, pos, edge_index):
        gap = pos[edge_index[0]] - pos[edge_index[1]]
        pull = torch.zeros_like(pos).index_add(0, edge_index[1], gap * gap.square().sum(1, keepdim=True))
        return h * 2, pos + pull

    edge_index = torch.randint(5, (2, 12))
    args = (torch.randn(5, 2, dtype=torch.float64), rows(5, Positions(1)), edge_index)
    for stacked in (False, True):
        penalty = OrbitPenalty(E(3), [None, Positions(1)], ["2x0e", Positions(1)], n_samples=3, stacked=stacked)
        assert penalty(network, *args) < 1e-12
        assert penalty(lambda h, pos, edges: (h, pos.abs()), *args) > 1e-3


def test_stacked_graphs_count_edges_and_graphs_on():
    def network(x, edge_index, batch):
        mixed = x + torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]].sin())
        return torch.zeros(int(batch.max()) + 1, 3, dtype=x.dtype).index_add(0, batch, mixed)

    args = (rows(5, Positions(1)), torch.tensor([[0, 1, 3], [1, 2, 4]]), torch.tensor([0, 0, 0, 1, 1]))
    values = [OrbitPenalty(SO(3), "1o", "1o", n_samples=4, stacked=s)(network, *args) for s in (False, True)]
    assert torch.allclose(*values, rtol=1e-12)


def test_the_label_form_is_augmentation():
    x = rows(20, VECTOR)
    penalty = OrbitPenalty(SO(3), "1o", "1o", n_samples=4)
    assert penalty.of_labels(lambda x: 3 * x, 3 * x, x) < 1e-20
    push = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    # a true push is punished, and so is every push of any other direction: the bias of the label form
    assert penalty.of_labels(lambda x: x + push, x + push, x) > 0.1


def test_soft_parts_are_moved_by_blended_twists():
    group, x = Piecewise(SE(3)), rows(6, Positions(1))
    hard = torch.tensor([0, 0, 0, 1, 1, 1])
    one_hot = nn.functional.one_hot(hard).double()
    inside = lambda x: torch.cat([p + (p - p.mean(0)) for p in x.split(3)])  # noqa: E731
    across = lambda x: x + (x - x.mean(0))  # noqa: E731
    penalty = OrbitPenalty(group, Positions(1), Positions(1))
    for part in (hard, one_hot):
        assert penalty(inside, x, part=part) < 1e-12
        assert penalty(across, x, part=part) > 1e-3


def test_gradients_lead_to_an_equivariant_map():
    network = nn.Linear(3, 3, bias=False).double()
    weight = network.weight.detach().clone()
    penalty, x = OrbitPenalty(SO(3), VECTOR, VECTOR, n_samples=4), torch.eye(3, dtype=torch.float64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    before = penalty(network, x).item()
    for _ in range(100):
        optimizer.zero_grad()
        penalty(network, x).backward()
        optimizer.step()
    assert penalty(network, x) < 1e-3 * before
    assert network.weight.norm() > 0.3 * weight.norm()  # not by shrinking


def test_each_layer_alone_through_its_recorded_calls():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    penalty = OrbitPenalty(SO(3), "1o", "1o")
    with recorded_calls({"last": model[2]}) as calls:
        model(rows(4, Positions(1)))
    ((layer, args),) = calls["last"]
    penalty(layer, *args).backward()
    assert model[0].weight.grad is None
    assert model[2].weight.grad.abs().sum() > 0
    with recorded_calls({"last": model[2]}, detach=False) as calls:
        model(rows(4, Positions(1)))
    ((layer, args),) = calls["last"]
    penalty(layer, *args).backward()
    assert model[0].weight.grad.abs().sum() > 0
    model(rows(4, Positions(1)))
    assert len(calls["last"]) == 1  # nothing is recorded outside


def test_seeds_are_deterministic_and_saved():
    x, network = rows(5, Positions(1)), torch.sin
    a, b = (OrbitPenalty(SO(3), "1o", "1o", seed=4) for _ in range(2))
    assert torch.equal(a(network, x), b(network, x))
    state = a.state_dict()
    following = a(network, x)
    assert not torch.equal(following, OrbitPenalty(SO(3), "1o", "1o", seed=4)(network, x))
    b.load_state_dict(state)
    assert torch.equal(b(network, x), following)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrbitPenalty(SO(3), "3x0e", "1x0e"), "group must move rep_in or rep_out"),
        (lambda: OrbitPenalty(S(4), "1o", "1o"), "group must move rep_in or rep_out"),
        (lambda: OrbitPenalty(SO(3), "1o", "1o", n_samples=0), "n_samples must be at least 1"),
        (lambda: OrbitPenalty(SO(3), ["1o", "1o"], "1o")(torch.sin, torch.randn(2, 3)), "args must have at least 2"),
        (lambda: OrbitPenalty(SO(3), "1o", ["1o", "0e"])(torch.sin, torch.randn(2, 3)), "network must return 2"),
        (lambda: FunctionalEquivariance({}, "1o", "1o"), "symmetries must name at least one group"),
        (lambda: FunctionalEquivariance({"a": "SO(3)"}, "1o", "1o", kind="other"), "kind must be one of"),
        (lambda: FunctionalEquivariance({"a": "SO(3)"}, "1o", "1o", strength=-1.0), "strength must be finite"),
        (lambda: FunctionalEquivariance({"a": "SO(3)"}, "1o", "1o", strength={"b": 1.0}), "strength must have every"),
        (lambda: FunctionalEquivariance({"a": "SO(3)"}, "1o", "1o").penalty(torch.randn(2, 3)), "is not attached"),
    ],
)
def test_bad_arguments_are_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


# Products of weights


@pytest.mark.parametrize("heads", [1, 2])
def test_products_do_not_see_how_they_are_factored(heads):
    q, k = torch.randn(8, 9, dtype=torch.float64), torch.randn(8, 9, dtype=torch.float64)
    d = 8 // heads
    a = torch.block_diag(*[torch.randn(d, d, dtype=torch.float64) + 2 * torch.eye(d) for _ in range(heads)])
    one = product_penalty(q.T, k, "3x1o", "SO(3)", heads=heads)
    other = product_penalty((a @ q).T, torch.linalg.inv(a).T @ k, "3x1o", "SO(3)", heads=heads)
    assert one > 0.1
    assert torch.allclose(one, other, rtol=1e-8)


def test_products_vanish_on_intertwiners_and_only_head_by_head():
    group, rep = SO(3), "2x0e + 2x1o"
    exact = group.projector(rep, rep).double()(torch.randn(8, 8, dtype=torch.float64))
    broken = torch.randn(8, 8, dtype=torch.float64)
    eye = torch.eye(8, dtype=torch.float64)
    left, right = torch.cat([exact, exact], 1), torch.cat([eye, eye])
    assert product_penalty(left, right, rep, group, heads=2) < 1e-20
    # two heads whose breaks cancel in the sum break all the same
    assert product_penalty(torch.cat([broken, -broken], 1), right, rep, group, heads=1) < 1e-20
    assert product_penalty(torch.cat([broken, -broken], 1), right, rep, group, heads=2) > 0.1


def test_values_reach_outputs_of_another_rep_and_shapes_are_checked():
    w_o, w_v = torch.randn(3, 4, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    product_penalty(w_o, w_v, "2x1o", "SO(3)", rep_out="1x1o", heads=2).backward()
    assert w_o.grad.abs().sum() > 0
    assert w_v.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"left and right must be \[6, m\] and \[m, 6\]"):
        product_penalty(w_o, w_v, "2x1o", "SO(3)")
    with pytest.raises(ValueError, match="heads must divide the 4 inner dimensions, got 3"):
        product_penalty(w_o, w_v, "2x1o", "SO(3)", rep_out="1x1o", heads=3)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("graphs", [1, 3])
def test_edges_follow_nodes_that_are_permuted(graphs, stacked):
    def spread(x, edge_index):
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]].tanh())

    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    edges = torch.cat([edges + 5 * k for k in range(graphs)], 1)
    x = torch.randn(5 * graphs, 3, dtype=torch.float64)
    for group in (S(5), Mirror([1, 0, 2, 4, 3], "x")):
        penalty = OrbitPenalty(group, Nodes(5, "3x0e"), Nodes(5, "3x0e"), n_samples=4, stacked=stacked)
        assert penalty(spread, x, edges) < 1e-20
        number = torch.arange(5 * graphs, dtype=torch.float64).unsqueeze(1) % 5

        def named(x, edge_index, number=number):
            return spread(x, edge_index) + number.repeat(len(x) // len(number), 1)

        assert penalty(named, x, edges) > 0.01


def test_positions_of_one_row_answer_to_a_mirror():
    """Its elements number more nodes than a row of features has points."""
    mirror = Mirror([1, 0, 2, 4, 3], "x")
    element = mirror.discrete[0]
    x = torch.tensor([[1.0, 2.0, 3.0, -4.0, 5.0, 6.0]], dtype=torch.float64)
    moved = move(mirror, Positions(2), x, element)
    assert moved.tolist() == [[-1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
