"""Projectors: known dimensions, projection laws, equivariance of what they allow."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from geoeq.groups import GL, O2, SE, SL, SO, SO2, C, D, E, Mirror, O, Piecewise, Product, S, Scaling, T
from geoeq.intertwiners import Projector, joint_space, null_space, pair_space, solve_pair
from geoeq.reps import (
    Crossing,
    IrrepCopy,
    Irreps,
    LogSizeCopy,
    NodeCopy,
    Nodes,
    PositionCopy,
    Positions,
    Sum,
    TensorCopy,
    TensorRep,
    irrep_matrix,
    segments,
)

AXES = ["x", "y", "z", (2.0, -1.0, 2.0)]
LINEAR = [SO(3), O(3), SO2("x"), SO2((1.0, 2.0, 2.0)), O2("y"), O2("z"), C(3, "x"), D(2)]
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


@pytest.mark.parametrize(("p", "q", "dimension"), [(1, 1, 1), (0, 1, 1), (1, 2, 2), (0, 4, 4)])
def test_invariants_of_rigid_motions(p, q, dimension):
    assert SE(3).projector(TensorRep({0: 1}), TensorRep({(p, q): 1})).rank == dimension


TENSORS = st.dictionaries(st.sampled_from([0, 1, 2, (0, 1), (1, 1)]), st.integers(1, 2), min_size=1, max_size=3).map(
    TensorRep
)


@given(
    rep_in=TENSORS,
    rep_out=TENSORS,
    group=st.sampled_from([SO(3), SE(3), SL(3), GL(2, plane="xz"), Scaling(), S(3), Product(SO(3))]),
)
def test_allowed_maps_of_tensors_commute_with_random_elements(rep_in, rep_out, group):
    projector = group.projector(rep_in, rep_out).double()
    weight = projector(random_weight(projector))
    assert torch.allclose(projector(weight), weight, atol=1e-10)
    for g in group.sample(2, generator=torch.Generator().manual_seed(0)):
        matrices = [
            torch.block_diag(*[group.matrix(s.copy, g) for s in segments(rep, group.n) for _ in range(s.mul)])
            for rep in (rep_in, rep_out)
        ]
        size = max(1.0, *(float(m.abs().max()) for m in matrices))
        assert (matrices[1] @ weight - weight @ matrices[0]).abs().max() < 1e-8 * size


def test_cyclic_projections_reach_the_joint_symmetry():
    """Products of the three projectors on T(2), to the power of the number of sweeps."""
    pair = TensorRep({0: 1}), TensorRep({2: 1})
    units = torch.eye(9, dtype=torch.float64).unsqueeze(-1)
    x, y, z, joint = (
        torch.cat([g.projector(*pair).double()(unit) for unit in units], dim=1)
        for g in (O2("x"), O2("y"), O2("z"), O(3))
    )
    errors = [
        float(torch.linalg.matrix_norm(torch.linalg.matrix_power(x @ y @ z, sweeps) - joint, 2))
        for sweeps in (1, 2, 5, 10)
    ]
    assert errors == pytest.approx([2.5e-1, 3.1e-2, 6e-5, 2e-9], rel=0.1)


def test_pairwise_products_vanish_on_third_rank_tensors():
    pair = TensorRep({0: 1}), TensorRep({3: 1})
    first, second = O2("x").projector(*pair).double(), O2("y").projector(*pair).double()
    assert first(second(random_weight(first))).abs().max() < 1e-12


@pytest.mark.parametrize(
    "group",
    [
        SO2("x"),
        SO2("y"),
        SO2("z"),
        SO2((2.0, -1.0, 2.0)),
        O2("x"),
        O2("y"),
        O2("z"),
        O2((1.0, 1.0, 0.0)),
        C(3),
        D(4, "x"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("a", "b"), [((0, 1), (0, -1)), ((1, -1), (1, -1)), ((1, 1), (3, -1)), ((4, 1), (2, 1))])
def test_closed_forms_about_an_axis_equal_the_null_space(group, a, b):
    copies = IrrepCopy(*a), IrrepCopy(*b)
    assert_same_space(pair_space(group, *copies), numeric_space(group, *copies))


@pytest.mark.parametrize("group", [SO(3), O2("z"), D(3), Scaling(), Mirror([1, 0, 2], "x")], ids=repr)
@pytest.mark.parametrize(
    ("out", "into"),
    [
        (PositionCopy(2), PositionCopy(3)),
        (PositionCopy(2), LogSizeCopy(2)),
        (NodeCopy(IrrepCopy(1, -1), 3), NodeCopy(IrrepCopy(1, 1), 3)),
        (NodeCopy(IrrepCopy(0, 1), 3), PositionCopy(2)),
        (PositionCopy(2), NodeCopy(IrrepCopy(1, -1), 3)),
        (TensorCopy(2, 3), TensorCopy(1, 3, 1)),
    ],
    ids=repr,
)
def test_stacks_equal_the_null_space(group, out, into):
    assert_same_space(pair_space(group, out, into), numeric_space(group, out, into))


def numeric_space(group, out, into):
    algebra = [(group.algebra(out, a), group.algebra(into, a)) for a in group.generators]
    discrete = [(group.matrix(out, h), group.matrix(into, h)) for h in group.discrete]
    return solve_pair([*algebra, *discrete], out.dim, into.dim)


def assert_same_space(found, expected):
    assert found.rank == expected.rank
    assert torch.allclose(found.complement(), expected.complement(), atol=1e-10)
    if found.basis is not None:
        assert torch.allclose(found.basis.T @ found.basis, torch.eye(found.rank, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("group", [SO(3), O2("z"), C(4, "x"), S(3)], ids=repr)
def test_what_is_forbidden_has_the_same_size_after_a_motion(group):
    """R(rho_out(g) W rho_in(g)^-1) = R(W) for orthogonal representations."""
    projector = group.projector(TensorRep({2: 1}), TensorRep({1: 1})).double()
    weight = random_weight(projector)
    for g in group.sample(3):
        out, into = (group.matrix(TensorCopy(rank, 3), g) for rank in (1, 2))
        moved = projector.residual(out @ weight @ into.T)
        assert float(moved.norm()) == pytest.approx(float(projector.residual(weight).norm()), rel=1e-10)


@pytest.mark.parametrize("group", [SO(3), SO2("z"), SL(3)], ids=repr)
def test_nothing_larger_than_the_gram_matrix_is_built(group):
    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            found = [t.numel() for t in (out if isinstance(out, (tuple, list)) else (out,)) if torch.is_tensor(t)]
            self.entries = max([self.entries, *found])
            return out

    pair_space.cache_clear()
    with Largest() as largest:
        assert pair_space(group, TensorCopy(2, 3), TensorCopy(2, 3)).dim == 81
    assert largest.entries <= 81**2


@pytest.mark.parametrize("group", [SO(3), O(3), SO2("z"), O2("x")], ids=repr)
@pytest.mark.parametrize(
    "rep", [TensorRep({0: 2, 1: 2, 2: 1, 3: 1}), "2x0e + 2x1o + 2x2e + 2x3o + 2x4e"], ids=["ranks", "irreps"]
)
def test_set_up_is_quick(group, rep):
    """The aim is one second; four leave room for a busy machine."""
    pair_space.cache_clear()
    start = time.process_time()
    group.projector(rep, rep)
    assert time.process_time() - start < 4.0


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
            numeric = null_space(_gram(O(3), block.out.copy, block.into.copy), 1.0)
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
        null_space(torch.diag(torch.tensor([0.0, 1e-11, 1e-9, 1.0], dtype=torch.float64)), 1.0)
    with pytest.raises(ValueError, match="5 nodes"):
        S(5).projector(Nodes(4, "0e"), "0e")


def test_pair_spaces_are_shared():
    copy = segments(Irreps("1o"))[0].copy
    assert pair_space(SO2("z"), copy, copy) is pair_space(SO2("z"), copy, copy)
    assert joint_space([pair_space(SO2("z"), copy, copy)]).rank == 3
