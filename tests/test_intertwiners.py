"""Projectors: known dimensions, projection laws, equivariance of what they allow."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.groups import O2, SE, SO, SO2, E, O, Piecewise, S, T
from geoeq.intertwiners import Projector, joint_space, null_space, pair_space
from geoeq.reps import Crossing, Irreps, Nodes, Positions, Sum, TensorRep, irrep_matrix, segments

LINEAR = [SO(3), O(3), SO2("x"), SO2("z"), O2("y"), O2("z")]
IRREPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["0e", "0o", "1o", "1e", "2e", "3o"])),
    min_size=1,
    max_size=4,
).map(Irreps)


def representation(irreps: Irreps, rotation: torch.Tensor) -> torch.Tensor:
    blocks = [irrep_matrix(s.copy, rotation) for s in segments(irreps) for _ in range(s.mul)]
    return torch.block_diag(*blocks) if blocks else torch.zeros(0, 0, dtype=torch.float64)


def random_weight(projector: Projector) -> torch.Tensor:
    return torch.randn(*projector.shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("group", "dimensions"),
    [
        (SO(3), [1, 0, 1, 1, 3, 6, 15]),
        (O(3), [1, 0, 1, 0, 3, 0, 15]),
        (SO2("z"), [1, 1, 3, 7, 19, 51, 141]),
        (O2("z"), [1, 1, 2, 4, 10, 26, 71]),
        (S(5), [1, 1, 2, 5, 15]),
        (S(3), [1, 1, 2, 5, 14]),
    ],
    ids=repr,
)
def test_invariants_of_tensors(group, dimensions):
    found = [group.projector(TensorRep({0: 1}), TensorRep({n: 1})).rank for n in range(len(dimensions))]
    assert found == dimensions


@pytest.mark.parametrize(
    ("group", "rank_in", "rank_out", "dimension"),
    [
        (SO(3), 1, 1, 1),
        (SO2("z"), 1, 1, 3),
        (O2("z"), 1, 1, 2),
        (SO(3), 2, 2, 3),
        (SO(3), 2, 1, 1),
        (O(3), 2, 1, 0),
        (S(5), 1, 1, 2),
        (S(5), 2, 1, 5),
        (S(5), 2, 2, 15),
        (S(4), 1, 1, 2),
        (SE(3), 1, 1, 1),
        (T(3), 1, 1, 4),
        (T(3), 1, 0, 1),
    ],
    ids=repr,
)
def test_maps_between_tensors(group, rank_in, rank_out, dimension):
    assert group.projector(TensorRep({rank_in: 1}), TensorRep({rank_out: 1})).rank == dimension


def test_joint_symmetry_of_three_axes_is_the_full_group():
    tensors = {n: (TensorRep({0: 1}), TensorRep({n: 1})) for n in (2, 3, 4)}
    axes = [O2("x"), O2("y"), O2("z")]
    assert [Projector(axes, *tensors[n]).rank for n in (2, 3, 4)] == [1, 0, 3]
    weight = torch.randn(81, 1, dtype=torch.float64)
    joint, full = Projector(axes, *tensors[4]).double(), O(3).projector(*tensors[4]).double()
    assert torch.allclose(joint(weight), full(weight), atol=1e-12)


@given(rep_in=IRREPS, rep_out=IRREPS, group=st.sampled_from([*LINEAR, E(3), T(3), S(4)]))
def test_projection_laws(rep_in, rep_out, group):
    projector = group.projector(rep_in, rep_out).double()
    a, b = random_weight(projector), random_weight(projector)
    assert torch.allclose(projector(projector(a)), projector(a), atol=1e-10)
    assert torch.allclose((projector(a) * b).sum(), (a * projector(b)).sum(), atol=1e-9)


@given(rep_in=IRREPS, rep_out=IRREPS, group=st.sampled_from(LINEAR), seed=st.integers(0, 99))
def test_allowed_maps_commute_with_random_elements(rep_in, rep_out, group, seed):
    projector = group.projector(rep_in, rep_out).double()
    weight = projector(random_weight(projector))
    for g in group.sample(2, generator=torch.Generator().manual_seed(seed)):
        moved = representation(rep_out, g) @ weight - weight @ representation(rep_in, g)
        assert moved.numel() == 0 or moved.abs().max() < 1e-10


def test_rank_is_the_trace_of_the_projector():
    projector = SO2("z").projector("1x0e + 2x1o", "1x1o + 1x2e").double()
    units = torch.eye(projector.dim, dtype=torch.float64).reshape(-1, *projector.shape)
    trace = sum(float((projector(unit) * unit).sum()) for unit in units)
    assert trace == pytest.approx(projector.rank, abs=1e-9)


def test_schur_equals_null_space():
    projector = O(3).projector("3x0e + 2x1o + 1x2e", "2x0e + 1x1o + 2x2e")
    for row in projector.blocks:
        for block in row:
            numeric = null_space(_gram(O(3), block.out.copy, block.into.copy))
            assert numeric.shape[1] == block.space.rank
            assert torch.allclose(
                numeric @ numeric.T,
                torch.eye(block.space.dim).double() - block.space.complement(),
                atol=1e-10,
            )


def _gram(group, copy_out, copy_in):
    from geoeq.intertwiners import solve_pair

    constraints = [(group.algebra(copy_out, a), group.algebra(copy_in, a)) for a in group.generators]
    constraints += [(group.matrix(copy_out, h), group.matrix(copy_in, h)) for h in group.discrete]
    space = solve_pair(constraints, copy_out.dim, copy_in.dim)
    return space.complement()


def test_range_is_that_of_e3nn():
    from e3nn.o3 import Linear

    rep_in, rep_out = "3x0e + 2x1o + 1x2e", "2x0e + 3x1o + 2x2e"
    linear = Linear(rep_in, rep_out)
    dense = linear(torch.eye(Irreps(rep_in).dim)).T
    projector = O(3).projector(rep_in, rep_out)
    assert projector.rank == linear.weight_numel
    assert projector.residual(dense).abs().max() < 1e-6


def test_translations_fix_the_sum_over_positions():
    projector = T(3).projector(Sum("2x0e", Positions(3)), Sum("1x1o", Positions(2))).double()
    weight = projector(random_weight(projector))
    sums = weight[:, 2:].reshape(3, 3, 3, 3).sum(2)  # [outputs, xyz, xyz]
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(sums[0], torch.zeros_like(identity), atol=1e-12)
    assert torch.allclose(sums[1], identity, atol=1e-12)
    assert torch.allclose(sums[2], identity, atol=1e-12)


def test_permutations_average_the_diagonal_and_the_rest():
    projector = S(4).projector(Nodes(4, "0e"), Nodes(4, "0e")).double()
    weight = random_weight(projector)
    eye = torch.eye(4, dtype=torch.float64)
    inside, outside = weight.trace() / 4, (weight * (1 - eye)).sum() / 12
    assert torch.allclose(projector(weight), inside * eye + outside * (1 - eye), atol=1e-12)


def test_deep_sets_layer_has_no_residual():
    weight = 0.7 * torch.eye(6, dtype=torch.float64) + 0.2
    assert S(6).projector(Nodes(6, "0e"), Nodes(6, "0e")).double().residual(weight).abs().max() < 1e-12


def test_piecewise_forbids_what_joins_two_parts():
    pair = Nodes(2, "1o")
    assert Piecewise(O(3), parts=[0, 1]).projector(pair, pair).rank == 2
    assert Piecewise(O(3), parts=[0, 0]).projector(pair, pair).rank == 4
    rep = Sum("1x0e + 1x1o", Crossing("1x1o + 1x0e"))
    assert Piecewise(E(3)).projector(rep, "1x0e + 1x1o").rank == 2
    assert E(3).projector(rep, "1x0e + 1x1o").rank == 4


def test_random_weight_has_the_expected_share_outside():
    projector = SO2("z").projector("4x0e + 4x1o", "4x0e + 4x1o").double()
    weights = torch.randn(2000, *projector.shape, dtype=torch.float64)
    shares = torch.stack([projector.residual(w).square().sum() / w.square().sum() for w in weights])
    expected = 1 - projector.rank / projector.dim
    assert abs(shares.mean() - expected) < 3 * shares.std() / 2000**0.5


def test_commutator_sandwich():
    """|T - PT| <= sup_g |g T g^-1 - T| <= 2 |T - PT| for orthogonal representations of a compact group."""
    projector = SO(3).projector("1x1o", "1x1o").double()
    weight = random_weight(projector)
    distance = projector.residual(weight).norm()
    worst = max((g @ weight @ g.T - weight).norm() for g in SO(3).sample(400))
    assert distance <= worst <= 2 * distance


def test_gradient_of_half_the_squared_residual_is_the_residual():
    projector = O2("z").projector("2x0e + 2x1o", "1x0e + 2x1o").double()
    weight = random_weight(projector).requires_grad_()
    (0.5 * projector.residual(weight).square().sum()).backward()
    assert torch.allclose(weight.grad, projector.residual(weight.detach()), atol=1e-12)


def test_precision_survives_a_round_trip_through_float32():
    projector = SO2("z").projector("2x1o + 1x2e", "2x1o + 1x2e").float().double()
    weight = random_weight(projector)
    assert (projector(projector(weight)) - projector(weight)).abs().max() < 1e-13


def test_autocast_does_not_touch_the_projection():
    projector = O(3).projector("4x0e + 4x1o", "4x0e + 4x1o")
    weight = torch.randn(*projector.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = projector(weight)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, projector(weight))


def test_empty_representations():
    projector = O(3).projector("0x0e", "2x1o")
    assert projector.dim == 0
    assert projector(torch.zeros(6, 0)).shape == (6, 0)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"weight must be \[3, 3\], got \[3, 4\]"):
        O(3).projector("1o", "1o")(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="without a clear gap"):
        null_space(torch.diag(torch.tensor([0.0, 1e-11, 1e-9, 1.0], dtype=torch.float64)))
    with pytest.raises(ValueError, match="5 nodes"):
        S(5).projector(Nodes(4, "0e"), "0e")


def test_pair_spaces_are_shared():
    copy = segments(Irreps("1o"))[0].copy
    assert pair_space(SO2("z"), copy, copy) is pair_space(SO2("z"), copy, copy)
    assert joint_space([pair_space(SO2("z"), copy, copy)]).rank == 3
