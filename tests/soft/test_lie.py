"""The Lie penalty: unbiased over generators, differentiable, zero where it must be, with hard and with soft parts."""

import pytest
import torch
from torch import nn

from geoeq.audit import lie_error
from geoeq.groups import SE, SO, SO2, E, O, Piecewise, S, T
from geoeq.reps import Nodes, Positions, Sum
from geoeq.soft import LiePenalty, membership_entropy, part_concentration
from geoeq.soft.action import flow, velocity
from geoeq.soft.lie import directional_derivative

REP = Sum("1x0e + 1x1o", Positions(1))


def rows(n, rep=REP):
    return torch.randn(n, rep.dim, dtype=torch.float64)


def equivariant(x):
    return torch.cat([x[:, :1], x[:, 1:4] * x[:, :1].sin(), x[:, 4:] + x[:, 1:4]], 1)


def within(part):
    """Positions pulled to the mean of their own part."""
    members = nn.functional.one_hot(part).double()
    return lambda x: x + 0.5 * (members @ ((members.T @ x) / members.sum(0).unsqueeze(1)) - x)


@pytest.mark.parametrize("group", [SO(3), O(3), SO2("x"), T(3), SE(3), E(3)], ids=repr)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_an_equivariant_map_has_no_penalty(group, mode):
    penalty = LiePenalty(group, REP, REP, n_samples=2, mode=mode)
    assert penalty(equivariant, rows(6)) < 1e-20
    assert penalty(torch.sin, rows(6)) > 1e-3


def test_the_mean_over_draws_is_the_sum_over_generators():
    weight, x = torch.randn(3, 3, dtype=torch.float64), rows(4, Positions(1))
    linear = lambda x: x @ weight.T  # noqa: E731
    mean = LiePenalty(SO(3), "1o", "1o", n_samples=1500)(linear, x).item()
    assert mean == pytest.approx(lie_error(linear, x, SO(3), rep_in="1o", rep_out="1o") ** 2, rel=0.1)


def test_reflections_are_not_seen():
    chiral = lambda x: torch.linalg.cross(x[:, :3], x[:, 3:])  # noqa: E731
    assert LiePenalty(O(3), "2x1o", "1x1o")(chiral, rows(5, Positions(2))) < 1e-20


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_directional_derivative_is_the_central_difference(mode):
    net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2)).double()
    x, c, h = rows(4, Positions(1)), torch.randn(3, dtype=torch.float64), 1e-5
    tangent = velocity(SO(3), "1o", x, c)
    _, (slope,) = directional_derivative(lambda x: (net(x),), (x,), (tangent,), mode=mode)
    there, back = (net(flow(SO(3), "1o", x, s * h * c)) for s in (1, -1))
    assert torch.allclose(slope, (there - back) / (2 * h), atol=1e-6 * slope.abs().max().item())


def test_both_modes_give_the_same_value_and_gradient():
    net = nn.Sequential(nn.Linear(REP.dim, 16), nn.Tanh(), nn.Linear(16, REP.dim)).double()
    x, found = rows(5), []
    for mode in ("forward", "reverse"):
        net.zero_grad()
        value = LiePenalty(SE(3), REP, REP, mode=mode)(net, x)
        value.backward()
        found.append((value.detach(), net[0].weight.grad.clone()))
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-12)
    assert found[0][1].abs().sum() > 0


def test_a_network_without_forward_mode_falls_back():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 3 * x**2 * grad

    x = rows(4, Positions(1))
    values = [LiePenalty(SO(3), "1o", "1o")(f, x) for f in (Cube.apply, lambda x: x**3)]
    assert torch.allclose(*values)
    with pytest.raises(RuntimeError):
        LiePenalty(SO(3), "1o", "1o", mode="forward")(Cube.apply, x)


@pytest.mark.parametrize("constant", [lambda x: torch.ones(2, 3, dtype=x.dtype), lambda x: x.detach() * 2])
def test_outputs_that_do_not_depend_on_the_input(constant):
    x = rows(2, Positions(1))
    values = [LiePenalty(SO(3), "1o", "1o", mode=m)(constant, x) for m in ("forward", "reverse")]
    assert torch.allclose(*values)
    assert values[0] > 0.1


# Parts


def test_hard_parts_and_one_hot_memberships_agree():
    part, x = torch.tensor([0, 1, 0, 2, 2, 1, 0]), rows(7, Positions(1))
    one_hot = nn.functional.one_hot(part).double()
    for f, zero in ((within(part), True), (lambda x: x + 0.5 * (x.mean(0) - x), False)):
        hard, soft = (
            LiePenalty(Piecewise(SE(3)), Positions(1), Positions(1), n_samples=2)(f, x, part=p) for p in (part, one_hot)
        )
        assert torch.allclose(hard, soft, atol=1e-20)
        assert (hard < 1e-20) == zero


def test_a_global_motion_is_respected_for_any_memberships():
    x, soft = rows(6, Positions(1)), torch.randn(6, 3, dtype=torch.float64).softmax(1)
    f = lambda x: x + 0.5 * (x.mean(0) - x)  # noqa: E731
    common = torch.randn(6, dtype=torch.float64).expand(3, 6)
    tangent = velocity(SE(3), Positions(1), x, common, part=soft)
    (out,), (slope,) = directional_derivative(lambda x: (f(x),), (x,), (tangent,))
    assert torch.allclose(slope, velocity(SE(3), Positions(1), out, common, part=soft), atol=1e-12)


def test_blended_twists_turn_about_the_centres_of_their_parts():
    from geoeq.soft.lie import about_centres

    x, soft = rows(6, Positions(1)), torch.randn(6, 2, dtype=torch.float64).softmax(1)
    c = torch.randn(2, 6, dtype=torch.float64)
    moved = about_centres(Piecewise(SE(3)), (Positions(1),), (x,), c, soft)
    found = velocity(SE(3), Positions(1), x, moved, part=soft)
    centres = (soft.T @ x) / soft.sum(0).unsqueeze(1)
    turned = torch.linalg.cross(c[None, :, :3].expand(6, 2, 3), x[:, None] - centres) + c[:, 3:]
    assert torch.allclose(found, torch.einsum("im,imc->ic", soft, turned), atol=1e-12)


def test_gradients_reach_the_memberships():
    x, logits = rows(6, Positions(1)), torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    penalty = LiePenalty(Piecewise(SE(3)), Positions(1), Positions(1))
    f = within(torch.tensor([0, 0, 0, 1, 1, 1]))
    penalty(f, x, part=logits.softmax(1)).backward()
    assert logits.grad.abs().sum() > 0


def test_parts_are_ignored_by_groups_that_move_everything_together():
    x, part = rows(6, Positions(1)), torch.zeros(6, dtype=torch.long)
    values = [LiePenalty(SE(3), Positions(1), Positions(1))(torch.sin, x, part=p) for p in (part, None)]
    assert torch.equal(*values)


def test_the_cheap_answers_are_told_apart():
    hard = nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 2])).double()
    even, single = torch.full((6, 3), 1 / 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[[0] * 6]
    assert membership_entropy(hard) == 0
    assert membership_entropy(even).item() == pytest.approx(torch.tensor(3.0).log().item())
    assert part_concentration(single) == 1
    assert part_concentration(hard).item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"memberships must be \[N, parts\] of a float type, got \[6\]"):
        membership_entropy(torch.zeros(6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LiePenalty(S(3), Nodes(3, "1o"), Nodes(3, "1o")), "group must have generators, got S"),
        (lambda: LiePenalty(SO(3), "1o", "1o", mode="both"), "mode must be one of"),
        (lambda: LiePenalty(SO(3), "1o", "1o")(torch.sin, torch.randn(2, 4)), r"x must be \[..., 3\] for 1x1o"),
        (lambda: LiePenalty(Piecewise(SE(3)), "1o", "1o")(torch.sin, torch.randn(2, 3)), "part must give the part"),
    ],
)
def test_bad_arguments_are_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)
