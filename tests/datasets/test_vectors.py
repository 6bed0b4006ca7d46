"""The synthetic vector tasks: the draw, the formulas, and which candidate symmetry truly holds."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from geoeq.datasets import CosSim, ModifiedInertia, PairDistances
from geoeq.datasets.vectors import VectorTask, lift, lifted_rep
from geoeq.datasets.vectors.cossim import VARIANTS
from geoeq.groups import O2, SO, Group, Product, Scaling
from geoeq.groups.rotations import AXES
from geoeq.intertwiners import pair_space, solve_pair
from geoeq.layers.vector_mlp import TypedMLP
from geoeq.reps import Positions, Rep, Sum, TensorCopy, segments

TASKS: dict[str, Callable[..., VectorTask]] = {
    "inertia, whole": partial(ModifiedInertia, epsilon=0.0),
    "inertia, default of the prior work": partial(ModifiedInertia, epsilon=0.3),
    "inertia about x": partial(ModifiedInertia, axis="x"),
    "inertia about y": partial(ModifiedInertia, axis="y"),
    "inertia about z": partial(ModifiedInertia, axis="z"),
    "inertia without axis": partial(ModifiedInertia, axis=None),
    "inertia whole, linear groups": partial(ModifiedInertia, epsilon=0.0, candidates="linear"),
    "inertia about z, linear groups": partial(ModifiedInertia, candidates="linear"),
    "inertia about x, linear groups": partial(ModifiedInertia, axis="x", candidates="linear"),
    "inertia whole, permutations": partial(ModifiedInertia, epsilon=0.0, candidates="permutations"),
    "inertia about z, permutations": partial(ModifiedInertia, candidates="permutations"),
    "cosines, both": partial(CosSim, "both"),
    "cosines, so3": partial(CosSim, "so3"),
    "cosines, scale": partial(CosSim, "scale"),
    "cosines, none": partial(CosSim, "none"),
    "cosines without errors": partial(CosSim, "none", epsilon=0.0),
    "cosines, both, lifted": partial(CosSim, "both", lifted=True),
    "cosines, so3, lifted": partial(CosSim, "so3", lifted=True),
    "cosines, scale, lifted": partial(CosSim, "scale", lifted=True),
    "cosines, none, lifted": partial(CosSim, "none", lifted=True),
    **{f"cosines, {kept}, permutations": partial(CosSim, kept, candidates="permutations") for kept in VARIANTS},
    "distances": partial(PairDistances, epsilon=0.0),
    "distances, norm": partial(PairDistances, "norm"),
    "distances, difference": partial(PairDistances, "difference"),
    "distances, squares": partial(PairDistances, "squares"),
    "distances, l1": partial(PairDistances, "l1"),
}
every_task = pytest.mark.parametrize("name", TASKS)


def moved(group: Group, element: Tensor, rep: Rep, x: Tensor) -> Tensor:
    """``x [n, rep.dim]`` after ``element``."""
    if isinstance(rep, Positions):
        return group.act(element, x.reshape(-1, 3), position=True).reshape(x.shape)
    if isinstance(rep, Sum):
        lengths, directions = x.split([3, 9], dim=1)
        vectors = lengths.exp().unsqueeze(-1) * directions.unflatten(1, (3, 3))
        return lift(group.act(element, vectors.reshape(-1, 3), position=False).reshape(-1, 9))
    blocks = []
    for segment in segments(rep, group.n):
        block = x[:, segment.start : segment.stop].unflatten(-1, (segment.mul, segment.copy.dim))
        blocks.append((block @ group.matrix(segment.copy, element).T).flatten(1))
    return torch.cat(blocks, dim=1)


@every_task
def test_exactly_the_residual_symmetries_hold(name):
    task = TASKS[name]()
    x = task.test.x[:200].double()
    y = task.target(x)
    kept = set()
    for candidate, group in task.symmetries.items():
        errors = []
        for element in group.sample(8, generator=torch.Generator().manual_seed(1)):
            out = task.target(moved(group, element, task.rep_in, x))
            errors.append(float((out - moved(group, element, task.rep_out, y)).norm() / y.norm()))
        assert max(errors) < 1e-12 or max(errors) > 1e-2
        if max(errors) < 1e-12:
            kept.add(candidate)
    assert kept == set(task.residual)


def test_cosines_of_three_vectors():
    x = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    s, radius, share = 2**0.5 / 3, (3 + 8**0.5) / 3, 1.0 / (2.0 + 4.0)
    values = {"both": s, "so3": s - radius / 2, "scale": s - share / 2, "none": s - radius / 2 + share / 2}
    for variant, value in values.items():
        assert CosSim(variant, epsilon=0.5).target(x).item() == pytest.approx(value)
        assert CosSim(variant, epsilon=0.5, lifted=True).target(lift(x)).item() == pytest.approx(value)


def test_cosines_are_the_draw_of_the_paper():
    torch.manual_seed(3012)
    drawn = torch.randn(3000, 9)
    assert torch.equal(CosSim().train.x, drawn[:1000])
    lifted = CosSim(lifted=True)
    assert torch.allclose(lifted.train.x, lift(drawn[:1000]), atol=1e-6)
    assert torch.allclose(lifted.train.y, CosSim().train.y, atol=1e-6)


def test_permuted_are_the_same_samples_with_coordinates_as_channels():
    for plain, by_coordinate, points in (
        (CosSim("none"), CosSim("none", candidates="permutations"), 3),
        (ModifiedInertia(), ModifiedInertia(candidates="permutations"), 5),
    ):
        assert torch.equal(plain.train.y, by_coordinate.train.y)
        assert torch.equal(plain.train.x[:, : -3 * points], by_coordinate.train.x[:, : -3 * points])
        r, channels = (task.train.x[:, -3 * points :] for task in (plain, by_coordinate))
        assert torch.equal(r.unflatten(1, (points, 3)).mT.flatten(1), channels)
    with pytest.raises(ValueError, match="lifted must be False with candidates='permutations', got True"):
        CosSim(lifted=True, candidates="permutations")
    with pytest.raises(ValueError, match=r"candidates must be one of \['motions', 'permutations'\], got 'axes'"):
        CosSim(candidates="axes")


def test_lift_separates_length_and_direction():
    x = torch.randn(6, 9, dtype=torch.float64)
    lengths, directions = lift(x).split([3, 9], dim=-1)
    assert torch.allclose(directions.reshape(6, 3, 3).norm(dim=-1), torch.ones(6, 3).double())
    assert torch.allclose(lengths.exp().unsqueeze(-1) * directions.reshape(6, 3, 3), x.reshape(6, 3, 3))
    assert torch.isfinite(lift(torch.zeros(3))).all()
    with pytest.raises(ValueError, match=r"x must be \[..., 3 k\], got \[4\]"):
        lift(torch.zeros(4))


@pytest.mark.parametrize("group", [Scaling(), SO(3), Product(SO(3), Scaling())], ids=str)
def test_a_network_on_the_lift_is_exact_for_scale_without_being_constant(group):
    x = torch.randn(50, 9, dtype=torch.float64)
    model = TypedMLP(lifted_rep(3), "1x0e", "8x0e + 4x1o", group=group).double()
    y = model(lift(x))
    assert y.std() > 1e-3
    for element in group.sample(4):
        turned = group.act(element, x.reshape(-1, 3), position=False).reshape(50, 9)
        assert torch.allclose(model(lift(turned)), y, atol=1e-12)
    bigger = (model(lift(2.0 * x)) - y).abs().max()
    assert (bigger < 1e-12) == (group != SO(3))


@every_task
def test_splits(name):
    task = TASKS[name]()
    for split in (task.train, task.val, task.test, task.extra):
        assert split.x.shape == (1000, task.rep_in.dim)
        assert split.y.shape == (1000, task.rep_out.dim)
        assert torch.allclose(task.target(split.x.double()).float(), split.y, atol=1e-4)
    together = torch.cat([task.train.x, task.val.x, task.test.x, task.extra.x])
    assert len(torch.unique(together, dim=0)) == 4000


@every_task
def test_the_same_seed_gives_the_same_data_and_another_one_does_not(name):
    state = torch.get_rng_state()
    a, b = TASKS[name](), TASKS[name]()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.train.x, b.train.x)
    assert torch.equal(a.extra.y, b.extra.y)
    other = TASKS[name](seed=a.seed + 1)
    assert not torch.isclose(other.train.x, a.train.x).any(dim=1).all()


def test_inertia_is_the_draw_of_the_paper():
    torch.manual_seed(3025)
    drawn = torch.randn(3000, 20)
    drawn[:, :5] = torch.nn.functional.softplus(drawn[:, :5])
    task = ModifiedInertia()
    assert task.seed == 3025
    assert torch.allclose(torch.cat([task.train.x, task.val.x, task.test.x]), drawn, atol=1e-6)
    torch.manual_seed(1025)
    assert torch.equal(task.extra.x[:, 5:], torch.randn(1000, 20)[:, 5:])


@pytest.mark.parametrize(("epsilon", "error"), [(0.0, 10.3), (0.3, 12.8), (-1.0, 6.75)])
def test_error_of_predicting_the_mean(epsilon, error):
    task = ModifiedInertia(epsilon)
    y = torch.cat([task.train.y, task.val.y, task.test.y])
    assert float((y - y.mean(0)).square().mean()) == pytest.approx(error, rel=0.005)


def test_inertia_of_one_mass():
    x = torch.zeros(20, dtype=torch.float64)
    x[0], x[5:8] = 2.0, torch.tensor([3.0, 4.0, 0.0])
    whole = torch.tensor([[32.0, -24.0, 0.0], [-24.0, 18.0, 0.0], [0.0, 0.0, 50.0]]).double()
    assert torch.allclose(ModifiedInertia(0.0).target(x).reshape(3, 3), whole)
    for axis, column in AXES.items():
        erased = whole.clone()
        erased[:, column] = 0.0
        assert torch.allclose(ModifiedInertia(-1.0, axis).target(x).reshape(3, 3), erased)
    mixed = ModifiedInertia(0.5, None).target(x).reshape(3, 3)
    assert torch.allclose(mixed, whole * torch.tensor([0.5, 1.5, 1.0]).double())


@pytest.mark.parametrize(("axis", "side"), [("z", 0), ("x", 1), ("y", 0)], ids=["xy", "yz", "xz"])
def test_mirrors_are_those_of_the_first_axis_in_the_plane(axis, side):
    """The paper's O(2) of a plane, a turn in it and the mirror of its first axis, is O2 about the normal."""
    group, mirror = O2(axis), torch.eye(3, dtype=torch.float64)
    mirror[side, side] = -1.0
    for ranks in [(1, 1), (1, 2), (2, 2)]:
        a, b = (TensorCopy(rank, 3) for rank in ranks)
        constraints = [(group.algebra(a, g), group.algebra(b, g)) for g in group.generators]
        paper = solve_pair([*constraints, (group.matrix(a, mirror), group.matrix(b, mirror))], a.dim, b.dim)
        assert torch.allclose(paper.complement(), pair_space(group, a, b).complement(), atol=1e-10)


def test_distances_of_a_triangle():
    x = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 4.0, 0.0], dtype=torch.float64)  # sides 3, 5, 4
    errors = {"norm": 0.0, "difference": 3.0, "squares": 25.0, "l1": 3 + 7 + 3 * 4}
    for error, value in errors.items():
        assert PairDistances(error, epsilon=0.5).target(x).item() == pytest.approx(4.0 - 0.5 * value)


def test_distances_are_the_draw_of_homogeneous_coordinates():
    torch.manual_seed(3015)
    drawn = torch.randn(3000, 12)
    assert torch.equal(PairDistances().train.x[:, :4], drawn[:1000, [0, 1, 2, 4]])


def test_stored_type():
    task = ModifiedInertia(dtype=torch.float64)
    assert task.train.x.dtype == task.extra.y.dtype == torch.float64
    assert torch.allclose(task.train.x.float(), ModifiedInertia().train.x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ModifiedInertia(n=1000), "n must be a positive multiple of 3, got 1000"),
        (lambda: ModifiedInertia(axis="w"), r"axis must be one of \['x', 'y', 'z'\] or None, got 'w'"),
        (
            lambda: ModifiedInertia(candidates="all"),
            r"candidates must be one of \['axes', 'linear', 'permutations'\], got 'all'",
        ),
        (lambda: ModifiedInertia(dtype=torch.int64), "dtype must be a floating type"),
        (lambda: CosSim("all"), "variant must be one of"),
        (lambda: PairDistances("cube"), "error must be one of"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()
