"""Rods that keep their lengths: exact, near to what was there, equivariant, and trained through."""

import pytest
import torch
from torch_geometric.data import Data

from geoeq.groups import E as Euclidean
from geoeq.layers import KeepRods, TypedMPNN, keep_lengths

TREE = torch.tensor([[0, 1, 2, 2, 4, 0], [1, 2, 3, 4, 5, 6]])
BOTH = torch.cat([TREE, TREE.flip(0)], 1)


def poses(n=7, seed=0, off=0.1):
    """A pose and what a network could make of it."""
    generator = torch.Generator().manual_seed(seed)
    reference = 2 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return reference, reference + off * torch.randn(n, 3, generator=generator, dtype=torch.float64)


def lengths(pos, edges):
    return (pos[edges[0]] - pos[edges[1]]).norm(dim=-1)


@pytest.mark.parametrize("edges", [TREE, BOTH], ids=["one direction", "both"])
def test_lengths_are_kept(edges):
    reference, pos = poses()
    wrong = (lengths(pos, edges) - lengths(reference, edges)).abs().max()
    moved = keep_lengths(pos, reference, edges)
    assert (lengths(moved, edges) - lengths(reference, edges)).abs().max() < 0.1 * wrong
    assert torch.allclose(
        lengths(keep_lengths(pos, reference, edges, iterations=500), edges), lengths(reference, edges)
    )


def test_both_directions_are_one_rod():
    reference, pos = poses()
    assert torch.allclose(keep_lengths(pos, reference, BOTH), keep_lengths(pos, reference, TREE), atol=1e-12)


def test_one_rod_goes_to_the_nearest_positions():
    """Both ends by half of what is missing, along the rod; others do not move."""
    reference, pos = poses(3)
    moved = keep_lengths(pos, reference, torch.tensor([[0], [1]]), iterations=50)
    along = torch.nn.functional.normalize(pos[0] - pos[1], dim=0)
    half = 0.5 * (lengths(reference, TREE[:, :1]) - lengths(pos, TREE[:, :1])) * along
    assert torch.allclose(moved, pos + torch.stack([half, -half, torch.zeros(3)]), atol=1e-12)


def test_what_is_right_stays():
    reference, _ = poses()
    assert torch.allclose(keep_lengths(reference, reference, TREE), reference, atol=1e-12)
    assert torch.equal(keep_lengths(reference, reference, TREE[:, :0]), reference)
    assert keep_lengths(torch.zeros(0, 3), torch.zeros(0, 3), TREE[:, :0]).shape == (0, 3)


def test_it_comes_near_to_the_nearest_pose():
    """Newton's iteration for the nearest pose with these lengths, with all rods at once, as the known answer."""
    reference, pos = poses(off=0.05)
    rods, nearest = torch.arange(TREE.shape[1]), pos.clone()
    for _ in range(20):
        along = nearest[TREE[0]] - nearest[TREE[1]]
        unit = along / along.norm(dim=1, keepdim=True)
        jacobian = torch.zeros(len(rods), 7, 3, dtype=torch.float64)
        jacobian[rods, TREE[0]], jacobian[rods, TREE[1]] = unit, -unit
        jacobian = jacobian.flatten(1)
        off = lengths(nearest, TREE) - lengths(reference, TREE) + jacobian @ (pos - nearest).flatten()
        nearest = pos - (jacobian.T @ torch.linalg.solve(jacobian @ jacobian.T, off)).view(7, 3)
    assert torch.allclose(lengths(nearest, TREE), lengths(reference, TREE))
    moved = keep_lengths(pos, reference, TREE, iterations=200)
    assert (moved - pos).norm() < 1.1 * (nearest - pos).norm()


def test_it_commutes_with_motions_and_permutations():
    reference, pos = poses()
    expected = keep_lengths(pos, reference, TREE)
    for element in Euclidean(3).sample(3, generator=torch.Generator().manual_seed(0)):
        first, second, third = (Euclidean(3).act(element, x, position=True) for x in (pos, reference, expected))
        assert torch.allclose(keep_lengths(first, second, TREE), third, atol=1e-10)
    order = torch.randperm(7)
    assert torch.allclose(
        keep_lengths(pos[order], reference[order], order.argsort()[TREE]), expected[order], atol=1e-12
    )


def test_frames_are_independent():
    reference, first = poses()
    second = first.flip(1)
    both = keep_lengths(torch.stack([first, second], 1), reference, TREE)
    assert torch.allclose(both[:, 0], keep_lengths(first, reference, TREE))
    assert torch.allclose(both[:, 1], keep_lengths(second, reference, TREE))


def test_gradients():
    reference, pos = poses(4)
    inputs = (pos.requires_grad_(), reference.requires_grad_())
    edges = TREE[:, :3]
    assert torch.autograd.gradcheck(lambda p, r: keep_lengths(p, r, edges, iterations=3), inputs)


def test_ends_in_one_point_have_no_direction():
    pos = torch.zeros(2, 3, requires_grad=True)
    moved = keep_lengths(pos, torch.eye(3)[:2], TREE[:, :1])
    moved.sum().backward()
    assert torch.equal(moved, torch.zeros(2, 3))
    assert pos.grad.isfinite().all()


def graph():
    reference, _ = poses()
    n = len(reference)
    data = Data(pos=reference.float(), vel=torch.randn(n, 3), charge=torch.ones(n, 1), edge_index=BOTH)
    data.edge_attr, data.rod = torch.ones(12, 1), torch.arange(12) % 6 != 5
    return data


def test_a_network_is_trained_through_it():
    torch.manual_seed(0)
    data, network = graph(), TypedMPNN("4x0e + 2x1o", n_layers=1)
    model = KeepRods(network, iterations=100)
    predicted = model(data)
    rods, free = BOTH[:, data.rod], BOTH[:, ~data.rod]
    assert torch.allclose(lengths(predicted, rods), lengths(data.pos, rods), atol=1e-4)
    assert not torch.allclose(lengths(predicted, free), lengths(data.pos, free), atol=1e-2)
    predicted.square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert network.readout.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keep_lengths(torch.zeros(2, 2), torch.zeros(2, 3), TREE), r"pos must be \[N, 3\] or \[N, F, 3\]"),
        (lambda: keep_lengths(torch.zeros(2, 3), torch.zeros(3, 3), TREE), r"reference \[N, 3\], got \[2, 3\] and \[3"),
        (
            lambda: keep_lengths(torch.zeros(2, 3), torch.zeros(2, 3), TREE[0]),
            r"edge_index must be \[2, R\], got \[6\]",
        ),
        (
            lambda: keep_lengths(torch.zeros(2, 3), torch.zeros(2, 3), TREE, iterations=-1),
            "iterations must be at least",
        ),
        (lambda: KeepRods(torch.nn.Identity(), -1), "iterations must be at least 0, got -1"),
        (
            lambda: KeepRods(lambda d: d.pos)(Data(pos=torch.zeros(2, 3), edge_index=TREE)),
            r"data.rod must be bool \[E\]",
        ),
        (
            lambda: KeepRods(lambda d: d.pos)(Data(pos=torch.zeros(2, 3), edge_index=TREE, rod=torch.ones(6))),
            r"data.rod must be bool \[E\] = \[6\], got torch.float32 \[6\]",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
