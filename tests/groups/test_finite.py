"""Point groups: their elements, and that they exhaust the average."""

import pytest
import torch

from geoeq.groups import O2, SO2, C, D, T, Union
from geoeq.groups.axis import read_axis, unit_vector
from geoeq.reps import IrrepCopy


@pytest.mark.parametrize("axis", ["x", "z", (1.0, 2.0, 2.0)])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_elements_are_a_group_of_the_right_order(n, axis):
    for group, order in ((C(n, axis), n), (D(n, axis), 2 * n)):
        g = group.elements
        assert len(g) == order
        assert group.contains((g.unsqueeze(0) @ g.unsqueeze(1)).flatten(0, 1), 1e-12).all()
        distances = (g.unsqueeze(0) - g.unsqueeze(1)).abs().amax((2, 3)) + torch.eye(order)
        assert distances.min() > 0.1
        assert torch.allclose(torch.det(g), torch.ones(order, dtype=torch.float64))


def test_cyclic_groups_are_inside_the_circle():
    assert SO2("y").contains(C(7, "y").elements).all()
    assert not O2("y").contains(D(7, "y").elements).all()


@pytest.mark.parametrize("l", range(5))
def test_invariants_follow_from_characters(l):  # noqa: E741
    assert C(4).projector("1x0e", f"1x{l}e").rank == 1 + 2 * (l // 4)
    expected = sum(float(D(4).matrix(IrrepCopy(l, 1), g).trace()) for g in D(4).elements) / 8
    assert D(4).projector("1x0e", f"1x{l}e").rank == round(expected)


def test_many_turns_are_all_turns():
    """Above the degree of the features C(n) and SO(2) allow the same maps."""
    assert C(9).projector("1x1o + 1x2e", "1x1o + 1x2e").rank == SO2("z").projector("1x1o + 1x2e", "1x1o + 1x2e").rank


def test_axes_have_one_name():
    assert read_axis([0, 0, -3]) == "z"
    assert read_axis((-0.0, -2.0, 0.0)) == "y"
    assert SO2([1, 2, 2]) == SO2((-0.5, -1.0, -1.0))
    assert torch.allclose(unit_vector(read_axis([1, 2, 2])), torch.tensor([1, 2, 2], dtype=torch.float64) / 3)


@pytest.mark.parametrize("axis", ["w", [0, 0, 0], [1, 2], [1.0, float("nan"), 0.0]])
def test_bad_axes(axis):
    with pytest.raises(ValueError, match="axis must be one of"):
        C(3, axis)


def test_scalars_are_free_whatever_the_order():
    """The average of n numbers 1/n is 1 up to rounding, which must not count as a constraint."""
    for n in range(1, 41):
        for group in (C(n), D(n, "x")):
            assert group.projector("2x0e", "1x0e").rank == 2
            assert Union(group, T(3)).projector("1x0e", "1x0e").rank == 1
