"""Which nodes move as one, against a loop over the nodes, and rotations against the matrix exponential."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.layers import rigid_parts
from geoeq.layers.rigid import rotate


def by_loops(part, edges, rod, batch):
    """Leader, arm and weight of each node as the docstring says, one node after another."""
    n = len(part)
    groups = {}
    for i in range(n):
        groups.setdefault((batch[i], part[i]), []).append(i)
    leader, arm, weight = [0] * n, [0] * n, [0.0] * n
    rods = {(j, i) for (j, i), is_rod in zip(edges, rod) if is_rod}
    for nodes in groups.values():
        pivots = [i for i in nodes if len(nodes) > 2 and all((j, i) in rods for j in nodes if j != i)]
        hinge = len(pivots) == 1
        for i in nodes:
            leader[i] = nodes[0]
            arm[i] = i if hinge else nodes[0]
            weight[i] = float(i == pivots[0]) if hinge else 1 / len(nodes)
    return leader, arm, weight


@given(st.data(), st.integers(0, 9))
def test_same_as_loops(data, n):
    labels = st.lists(st.integers(-1, 3), min_size=n, max_size=n)
    part, batch = data.draw(labels), data.draw(labels)
    pairs = [(j, i) for i in range(n) for j in range(n)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    rod = data.draw(st.lists(st.booleans(), min_size=len(edges), max_size=len(edges)))
    found = rigid_parts(
        torch.tensor(part, dtype=torch.int64),
        torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T,
        torch.tensor(rod, dtype=torch.bool),
        torch.tensor(batch, dtype=torch.int64),
        dtype=torch.float64,
    )
    leader, arm, weight = by_loops(part, edges, rod, batch)
    assert found.leader.tolist() == leader
    assert found.arm.tolist() == arm
    assert found.weight.flatten().tolist() == weight
    assert torch.equal(found.hinged.flatten(), found.arm != found.leader) or any(found.hinged.flatten())


def test_the_middle_of_two_rods_is_a_pivot_a_triangle_has_none():
    edges = torch.tensor([[1, 0, 1, 2, 0, 2], [0, 1, 2, 1, 2, 0]])
    part = torch.zeros(3, dtype=torch.int64)
    hinge = rigid_parts(part, edges, torch.tensor([True, True, True, True, False, False]))
    assert hinge.arm.tolist() == [0, 1, 2]
    assert hinge.weight.flatten().tolist() == [0, 1, 0]
    assert hinge.hinged.all()
    triangle = rigid_parts(part, edges, torch.ones(6, dtype=torch.bool))
    assert triangle.arm.tolist() == [0, 0, 0]
    assert not triangle.hinged.any()
    assert torch.allclose(triangle.weight, torch.tensor(1 / 3))


def test_parts_of_two_graphs_with_the_same_label_are_two():
    edges = torch.zeros(2, 0, dtype=torch.int64)
    parts = rigid_parts(torch.tensor([0, 0, 0, 0]), edges, batch=torch.tensor([0, 0, 1, 1]))
    assert parts.leader.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rod": torch.ones(3, dtype=torch.bool)}, r"rod must be \[2\], got \[3\]"),
        ({"batch": torch.zeros(4, dtype=torch.int64)}, r"batch must be \[3\], got \[4\]"),
        ({"part": torch.zeros(3, 1, dtype=torch.int64)}, r"part must be \[3\], got \[3, 1\]"),
    ],
)
def test_wrong_shapes(change, message):
    given = {"part": torch.zeros(3, dtype=torch.int64), "edge_index": torch.tensor([[0, 1], [1, 0]])} | change
    with pytest.raises(ValueError, match=message):
        rigid_parts(**given)


def matrix(angles):
    """exp of the generator of the rotation."""
    x, y, z = angles.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.linalg.matrix_exp(torch.stack(rows, -1).unflatten(-1, (3, 3)))


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 0.05, 0.0999, 0.1001, 1.0, 3.2, 20.0])
def test_rotation_is_the_exponential(size):
    angles = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1) * size
    r = torch.randn(50, 3, dtype=torch.float64)
    turned = rotate(r, angles)
    assert torch.allclose(turned, (matrix(angles) @ r.unsqueeze(2)).squeeze(2), atol=1e-13)
    assert torch.allclose(turned.norm(dim=1), r.norm(dim=1), rtol=1e-14)


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.0999, 0.1001, 2.0])
def test_derivatives_of_the_rotation(size):
    angles = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=1) * size
    leaves = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True), angles.requires_grad_())
    assert torch.autograd.gradcheck(rotate, leaves)
    assert torch.autograd.gradgradcheck(rotate, leaves)


def test_huge_angles_have_finite_gradients():
    angles = torch.full((2, 3), 1e18, requires_grad=True)
    rotate(torch.ones(2, 3), angles).sum().backward()
    assert torch.isfinite(angles.grad).all()
