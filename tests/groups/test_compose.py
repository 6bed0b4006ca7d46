"""Groups made of groups."""

import math

import pytest
import torch
from torch_geometric.data import Data

from geoeq.audit import transform
from geoeq.groups import O2, SE, SO, E, Mirror, O, Piecewise, Product, S, Scaling, T, Union
from geoeq.intertwiners import solve_pair
from geoeq.reps import IrrepCopy, NodeCopy, Nodes, PositionCopy, Positions, TensorCopy, TensorRep


def test_rotations_about_three_axes_generate_all():
    axes = Union(O2("x"), O2("y"), O2("z"))
    for n in range(5):
        invariants = [g.projector(TensorRep({0: 1}), TensorRep({n: 1})).rank for g in (axes, O(3))]
        assert invariants[0] == invariants[1]
    assert O(3).contains(axes.sample(30), 1e-10).all()


def test_rotations_and_translations_are_rigid_motions():
    union = Union(SO(3), T(3))
    assert SE(3).contains(union.sample(30)).all()
    for rep in (TensorRep({(1, 1): 1}, d=4), TensorRep({(0, 4): 1}, d=4)):
        assert SE(3).projector(TensorRep({0: 1}), rep).rank == solve(union, rep)
    for pair in ((Positions(3), Positions(2)), (Positions(3), "2x1o + 1x0e")):
        weight = torch.randn(*union.projector(*pair).shape, dtype=torch.float64)
        assert torch.allclose(union.projector(*pair).double()(weight), SE(3).projector(*pair).double()(weight))


def solve(group, rep):
    """Invariants by the generators of the union itself."""
    (p, q, _), copy = rep.types[0], IrrepCopy(0, 1)
    tensor = TensorCopy(p, 4, q)
    return solve_pair(
        [(group.algebra(tensor, a), group.algebra(copy, a)) for a in group.generators], tensor.dim, 1
    ).rank


def test_order_of_factors_is_random():
    g = Union(O2("x"), O2("z")).sample(200, generator=torch.Generator().manual_seed(0))
    x_first = (g[:, 0, 2].abs() < 1e-12).double().mean()  # z-turn after x-turn leaves this entry 0 or not
    z_first = (g[:, 2, 0].abs() < 1e-12).double().mean()
    assert x_first + z_first == pytest.approx(1.0)
    assert 0.3 < x_first < 0.7


def test_products_hold_an_element_of_each_factor():
    group = Product(S(5), O(3))
    g = group.sample(7)
    assert g.shape == (7, 8, 8)
    permutation, rotation = group.split(g)
    assert S(5).contains(permutation).all()
    assert O(3).contains(rotation).all()
    x = torch.randn(10, 3, dtype=torch.float64)
    expected = S(5).act(permutation[0], x, position=True) @ rotation[0].T
    assert torch.allclose(group.act(g[0], x, position=True), expected)
    assert not group.contains(torch.ones(8, 8))


@pytest.mark.parametrize(
    ("group", "copy"),
    [
        (Product(S(4), O(3)), NodeCopy(IrrepCopy(1, -1), 4)),
        (Product(SO(3), Scaling()), TensorCopy(2, 3)),
        (Product(SO(3), Scaling()), PositionCopy(2)),
        (Mirror([1, 0, 2], "x"), NodeCopy(IrrepCopy(2, 1), 3)),
        (Union(SO(3), Scaling()), IrrepCopy(2, -1)),
    ],
    ids=repr,
)
def test_matrices_multiply_like_elements(group, copy):
    a, b = group.sample(2, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(group.matrix(copy, a) @ group.matrix(copy, b), group.matrix(copy, a @ b), atol=1e-10)


def test_permutations_and_rotations_of_nodes():
    nodes = Nodes(5, "1x0e + 1x1o")
    assert Product(S(5), O(3)).projector(nodes, nodes).rank == 4  # 2 for scalars, 2 for vectors
    numbered = solve_pair([(m, m) for m in generated(Product(S(3), SO(3)), NodeCopy(IrrepCopy(1, -1), 3))], 9, 9)
    assert numbered.rank == 2


def generated(group, copy):
    return [*(group.algebra(copy, a) for a in group.generators), *(group.matrix(copy, h) for h in group.discrete)]


def test_data_are_renumbered_and_turned():
    group = Product(S(3), O(3))
    data = Data(pos=torch.randn(6, 3), charge=torch.arange(6.0).unsqueeze(1), edge_index=torch.tensor([[0, 3], [1, 5]]))
    g = group.sample(1, generator=torch.Generator().manual_seed(5))[0]
    moved = transform(group, g, data)
    lengths = [(d.pos[d.edge_index[0]] - d.pos[d.edge_index[1]]).norm(dim=1) for d in (data, moved)]
    assert torch.allclose(*lengths, atol=1e-5)
    for d in (data, moved):
        assert d.charge[d.edge_index].squeeze(-1).tolist() == [[0.0, 3.0], [1.0, 5.0]]


def test_mirrors_exchange_and_reflect():
    group = Mirror([1, 0, 2], axis="x")
    x = torch.arange(9.0).reshape(3, 3)
    reflected = torch.tensor([-1.0, 1.0, 1.0])
    assert torch.equal(group.act(group.elements[1].float(), x, position=True), x[[1, 0, 2]] * reflected)
    assert group.projector("1x1o", "1x0e").rank == 2
    pair = Nodes(3, "1x1o")
    assert group.projector(pair, pair).rank == 41  # of 81; the trace of the exchange on vectors is 1: (81 + 1) / 2


def test_pieces_can_be_scaled():
    group = Piecewise(Product(SO(3), Scaling()))
    assert group.projector("1x1o", "1x1o").rank == 1
    assert group.contains(group.sample(2)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Product(), "Product must have at least one group"),
        (lambda: Union(SO(3), 3), "Union must be made of groups, got int"),
        (lambda: Product(Piecewise(E(3)), Scaling()), "groups of single matrices"),
        (lambda: Union(S(5), O(3)), "members must act on one space"),
        (lambda: Union(S(3), SO(3)), "members must act on one space"),
        (lambda: Union(S(3), Mirror([1, 0, 2], "x")), "members must act on one space"),
        (lambda: Union(O(2), O(3)), "members must act on one space"),
        (lambda: T(3, scale=math.nan), "scale must be positive and finite, got nan"),
        (
            lambda: T(2).projector(Positions(1), Positions(1)),
            r"representation must be of 2 dimensions for T\(2\), got 3",
        ),
        (lambda: Scaling(3).projector(TensorRep({1: 1}, 4), TensorRep({1: 1}, 4)), "of 3 dimensions"),
        (lambda: Union(O2("x"), O2("y")).contains(torch.eye(3)), "ask its members"),
        (lambda: Mirror([1, 2, 0]), "permutation must exchange nodes"),
        (lambda: Mirror([]), "permutation must exchange nodes"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
