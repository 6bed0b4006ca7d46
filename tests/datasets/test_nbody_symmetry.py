"""Each knob leaves exactly the group that its documentation names, tested on the simulator itself."""

import math

import pytest
import torch

from geoeq.datasets.nbody import SYSTEMS, Protocol, initial_conditions, integrate, simulate
from geoeq.datasets.nbody.rods import part_ids, rods


def rotation(axis: str | None = None) -> torch.Tensor:
    """About an axis if named, else a general one."""
    generator = torch.Generator().manual_seed(11)
    matrix = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    if axis is None:
        return matrix * torch.linalg.det(matrix)
    matrix = torch.eye(3, dtype=torch.float64)
    others = ["xyz".index(a) for a in "xyz" if a != axis]
    cosine, sine = math.cos(0.7), math.sin(0.7)
    matrix[others[0], others[0]] = matrix[others[1], others[1]] = cosine
    matrix[others[0], others[1]], matrix[others[1], others[0]] = -sine, sine
    return matrix


def mirror(axis: str) -> torch.Tensor:
    return torch.diag(torch.tensor([-1.0 if a == axis else 1.0 for a in "xyz"], dtype=torch.float64))


def orthogonal(matrix):
    return {"linear": matrix}


def swap(i, j):
    order = list(range(5))
    order[i], order[j] = j, i
    return {"order": order}


SHIFT = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)
ELEMENTS = {
    "rotation": orthogonal(rotation()),
    "rotation about z": orthogonal(rotation("z")),
    "mirror of z": orthogonal(mirror("z")),
    "mirror of x": orthogonal(mirror("x")),
    "translation": {"shift": SHIFT},
    "boost": {"boost": SHIFT},
    "swap 0 1": swap(0, 1),  # the ends of the stick, of different hidden class
    "swap 2 4": swap(2, 4),  # the ends of the hinge, of one hidden class
    "swap 0 2": swap(0, 2),  # stick with hinge, of one hidden class
    "swap 1 3": swap(1, 3),  # stick end with hinge pivot, of one hidden class
}
KNOBS = {
    "none": ({}, set()),
    "field": ({"field": 0.5}, {"rotation", "mirror of z"}),
    "trap": ({"trap": 0.5}, {"translation", "boost"}),
    "drag": ({"drag": 0.5}, {"boost"}),
    "hidden_charges": ({"hidden_charges": 0.3}, {"swap 0 1"}),
    "rods": ({"rigid_parts": 3.0}, {"swap 0 2", "swap 1 3"}),
    "rigid rods": ({"rigid_parts": math.inf}, {"swap 0 2", "swap 1 3"}),
}


def transform(points, *, linear=None, shift=None, order=None, times=None, boost=None, is_velocity=False):
    """Apply a group element to positions or velocities [..., n, 3]; times [T] are those of a trajectory."""
    if linear is not None:
        points = points @ linear.T
    if shift is not None and not is_velocity:
        points = points + shift
    if boost is not None:
        points = points + boost * (1.0 if is_velocity else 0.0 if times is None else times[:, None, None])
    return points if order is None else points[..., order, :]


def deviations(system, knob, elements) -> list[float]:
    """Largest difference between simulate(g x) and g simulate(x), for each element g."""
    protocol = Protocol(system, n_steps=600, clip="norm", **knob)
    pos, vel, charge, coupling = initial_conditions(6, Protocol(system), seed=2)
    pos = 2 * pos  # far apart: nearby bodies would amplify rounding errors
    coupling = charge * charge.transpose(1, 2) if coupling is None else coupling
    elements = [{}, *elements]
    orders = [element.get("order", list(range(5))) for element in elements]
    result = integrate(
        torch.cat([transform(pos, **element) for element in elements]),
        torch.cat([transform(vel, **element, is_velocity=True) for element in elements]),
        torch.cat([charge[:, order] for order in orders]),
        protocol,
        coupling=torch.cat([coupling[:, order][:, :, order] for order in orders]),
    )
    (plain_pos, *moved_pos), (plain_vel, *moved_vel) = result.pos.split(6), result.vel.split(6)
    errors = []
    for element, new_pos, new_vel in zip(elements[1:], moved_pos, moved_vel, strict=True):
        pos_error = new_pos - transform(plain_pos, **element, times=result.times)
        vel_error = new_vel - transform(plain_vel, **element, is_velocity=True)
        errors.append(max(pos_error.abs().max().item(), vel_error.abs().max().item()))
    return errors


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("knob", KNOBS)
def test_residual_group(system, knob):
    options, broken = KNOBS[knob]
    for name, error in zip(ELEMENTS, deviations(system, options, ELEMENTS.values()), strict=True):
        if name in broken:
            assert error > 1e-4, f"{knob} should break {name} of {system}"
        else:
            assert error < 1e-9, f"{knob} should keep {name} of {system}, error {error:.1e}"


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_field_keeps_rotations_about_its_own_axis_only(axis):
    turns = [orthogonal(rotation(other)) for other in "xyz"]
    errors = deviations("charged", {"field": 0.5, "axis": axis}, turns)
    assert [error < 1e-9 for error in errors] == [other == axis for other in "xyz"]


def test_component_clip_breaks_rotations_where_it_acts():
    pos = torch.tensor([[[0.0, 0, 0], [0.05, 0.02, 0.01]]], dtype=torch.float64)
    vel, charge, turn = torch.zeros(1, 2, 3), torch.ones(1, 2, 1), rotation()
    errors = {}
    for clip in ("component", "norm"):
        protocol = Protocol(n_bodies=2, n_steps=20, every=10, clip=clip)
        plain = integrate(pos, vel, charge, protocol)
        turned = integrate(pos @ turn.T, vel, charge, protocol)
        errors[clip] = (turned.pos - plain.pos @ turn.T).abs().max().item()
    assert errors["norm"] < 1e-12
    assert errors["component"] > 1e-4


@pytest.mark.parametrize(("knob", "reversible"), [({}, True), ({"trap": 0.5}, True), ({"drag": 0.5}, False)])
def test_time_reversal(knob, reversible):
    protocol = Protocol("gravity", n_steps=800, every=400, **knob)
    pos, vel, mass, _ = initial_conditions(5, protocol, seed=4)
    there = integrate(pos, vel, mass, protocol)
    back = integrate(there.pos[:, 0], -there.vel[:, 0], mass, protocol)
    assert ((back.pos[:, 0] - pos).abs().max() < 1e-9) == reversible


def test_knobs_have_the_documented_size():
    pos = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    vel = torch.tensor([[[0.5, -0.5, 0.25]]], dtype=torch.float64)
    scale = SYSTEMS["charged"].force_scale

    def gain(**knob):
        protocol = Protocol(n_bodies=1, n_steps=2, every=1, dt=1e-4, **knob)
        return (integrate(pos, vel, torch.ones(1, 1, 1), protocol).vel[0, 0] - vel[0]) / 1e-4

    assert torch.allclose(gain(field=2.0, axis="y"), torch.tensor([[0.0, 2 * scale, 0.0]], dtype=torch.float64))
    assert torch.allclose(gain(trap=2.0), -2 * scale * pos[0])
    assert torch.allclose(gain(drag=2.0), -2 * scale * vel[0])


def test_initial_conditions_are_left_alone():
    for n_bodies in (1, 5):
        values = [v for v in initial_conditions(1, Protocol(n_bodies=n_bodies)) if v is not None]
        copies = [value.clone() for value in values]
        integrate(*values, Protocol(n_bodies=n_bodies, n_steps=20, every=10, rigid_parts=math.inf))
        assert all(torch.equal(*pair) for pair in zip(values, copies, strict=True))


def test_hidden_charges_are_not_in_the_output():
    plain, hidden = simulate(3, n_steps=300), simulate(3, n_steps=300, hidden_charges=0.5)
    assert torch.equal(plain.charge, hidden.charge)
    assert torch.equal(plain.coupling, hidden.coupling)
    assert not torch.equal(plain.pos, hidden.pos)


def test_hidden_charges_shift_the_charge():
    pos, vel, charge, _ = initial_conditions(3, Protocol(), seed=1)
    shift = 0.4 * torch.tensor([1.0, -1, 1, -1, 1])[None, :, None]
    shown = integrate(pos, vel, charge + shift, Protocol(n_steps=300))
    hidden = integrate(pos, vel, charge, Protocol(n_steps=300, hidden_charges=0.4))
    assert torch.allclose(shown.pos, hidden.pos, atol=1e-9)


def rod_lengths(points):
    first, second = rods(points.shape[-2])
    return (points[..., first, :] - points[..., second, :]).norm(dim=-1)


@pytest.mark.parametrize(
    ("system", "n_bodies"), [("charged", 2), ("charged", 3), ("charged", 8), ("gravity", 5), ("springs", 5)]
)
def test_rigid_rods_keep_their_length_and_momentum(system, n_bodies):
    protocol = Protocol(system, n_bodies, n_steps=2000, clip="norm", rigid_parts=math.inf)
    pos, vel, charge, coupling = initial_conditions(20, protocol, seed=3)
    result = integrate(pos, vel, charge, protocol, coupling=coupling)
    assert (rod_lengths(result.pos) - rod_lengths(pos)[:, None]).abs().max() < 1e-9
    assert result.part.tolist() == part_ids(n_bodies).tolist()
    if system == "gravity":  # no clip, so pair forces cancel
        assert (result.vel.sum(2) - vel.sum(1)[:, None]).abs().max() < 1e-12


def test_stiff_rods_approach_rigid_ones():
    pos, vel, charge, _ = initial_conditions(10, Protocol(), seed=6)
    ends = {}
    for stiffness in (1e3, 1e5, math.inf):
        protocol = Protocol(n_steps=600, clip="norm", rigid_parts=stiffness)
        ends[stiffness] = integrate(2 * pos, vel, charge, protocol).pos
    loose, stiff = ((ends[k] - ends[math.inf]).abs().max() for k in (1e3, 1e5))
    assert stiff < 1e-2
    assert stiff < loose / 5
    part = integrate(pos, vel, charge, Protocol(n_steps=200)).part
    assert (part == 0).all()
