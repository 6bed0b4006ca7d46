"""Matrix groups that are not orthogonal, and groups that act in a coordinate plane."""

import pytest
import torch

from geoeq.groups import GL, SL, SO2, Lorentz
from geoeq.reps import TensorRep


def invariants(group, p, q=0):
    return group.projector(TensorRep({0: 1}), TensorRep({(p, q): 1})).rank


@pytest.mark.parametrize(
    ("group", "types"),
    [
        (GL(3), {(1, 1): 1, (2, 2): 2, (3, 3): 6, (2, 0): 0, (3, 0): 0}),
        (SL(3), {(1, 1): 1, (2, 2): 2, (3, 3): 6, (2, 0): 0, (3, 0): 1, (0, 3): 1}),
        (SL(2), {(2, 0): 1, (4, 0): 2, (1, 1): 1, (2, 2): 2}),
        (Lorentz(), {(1, 1): 1, (2, 0): 1, (0, 2): 1, (3, 0): 0, (4, 0): 4}),
    ],
    ids=repr,
)
def test_invariants_are_traces_metrics_and_volumes(group, types):
    assert {pair: invariants(group, *pair) for pair in types} == types


def test_the_metric_is_what_lorentz_keeps():
    found = Lorentz().projector(TensorRep({0: 1}), TensorRep({2: 1})).blocks[0][0].space.basis.reshape(4, 4)
    assert torch.allclose(found / found[0, 0], torch.diag(torch.tensor([1.0, -1, -1, -1])).double(), atol=1e-10)


@pytest.mark.parametrize(("plane", "fixed"), [("yz", 0), ("xz", 1), ("xy", 2)])
@pytest.mark.parametrize("kind", [SL, GL])
def test_groups_of_a_plane_leave_the_third_axis_alone(plane, fixed, kind):
    g = kind(2, plane=plane).sample(5, generator=torch.Generator().manual_seed(0))
    unit = torch.eye(3, dtype=torch.float64)[fixed]
    assert torch.allclose(g @ unit, unit.expand(5, 3))
    assert torch.allclose(g.mT @ unit, unit.expand(5, 3))
    assert invariants(kind(2, plane=plane), 1) == 1


def test_rotations_of_the_plane_are_inside():
    turns = SO2("x").sample(9)
    assert SL(2, plane="yz").contains(turns).all()
    assert not SL(2, plane="xz").contains(turns).any()


def test_determinants():
    assert torch.allclose(torch.det(SL(3).sample(20)), torch.ones(20, dtype=torch.float64))
    assert torch.det(GL(3).sample(20)).min() > 0
    assert not GL(2).contains(torch.diag(torch.tensor([1.0, -1.0])))
    assert not Lorentz().contains(torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))  # reverses time


def test_sampled_coefficients_have_the_stated_scale():
    spread = [SL(3, scale=s).sample(4000, generator=torch.Generator().manual_seed(0)) for s in (0.01, 0.02)]
    deviations = [(g - torch.eye(3)).square().mean().sqrt() for g in spread]
    # 6 entries of variance 1, and a diagonal (c1, c2 - c1, -c2) of variances 1, 2, 1
    assert deviations[0] == pytest.approx(0.01 * (10 / 9) ** 0.5, rel=0.03)
    assert deviations[1] / deviations[0] == pytest.approx(2.0, rel=0.02)


def test_irreps_have_no_answer_but_scalars_do():
    with pytest.raises(ValueError, match="use a TensorRep"):
        SL(3).projector("1x1o", "1x1o")
    assert SL(3).projector("2x0e", TensorRep({0: 3})).rank == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SL(3, plane="yz"), "plane must be one of"),
        (lambda: GL(2, plane="zy"), "plane must be one of"),
        (lambda: GL(0), "n must be at least 1, got 0"),
        (lambda: Lorentz(scale=-1.0), r"scale must be positive, got -1\.0"),
        (lambda: SL(3).contains(torch.eye(4)), r"matrix must be \[\.\.\., 3, 3\], got \[4, 4\]"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
