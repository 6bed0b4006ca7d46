"""Each knob leaves exactly the group that its documentation names, tested on the simulator itself."""

import math
from dataclasses import replace

import pytest
import torch

from geoeq.datasets.nbody import SYSTEMS, Protocol, initial_conditions, integrate, simulate
from geoeq.datasets.nbody.parts import part_ids, rods


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
    "half turn about x": orthogonal(-mirror("x")),
    "inversion": orthogonal(-torch.eye(3, dtype=torch.float64)),
    "translation": {"shift": SHIFT},
    "boost": {"boost": SHIFT},
    "swap 0 1": swap(0, 1),  # the ends of the stick, of different hidden class
    "swap 2 4": swap(2, 4),  # the ends of the hinge, of one hidden class
    "swap 0 2": swap(0, 2),  # stick with hinge, of one hidden class
    "swap 1 3": swap(1, 3),  # stick end with hinge pivot, of one hidden class
}
KNOBS = {
    "none": ({}, set()),
    "field": ({"field": 0.5}, {"rotation", "mirror of z", "half turn about x", "inversion"}),
    "anisotropy": ({"anisotropy": 0.5}, {"rotation"}),
    "chiral field": (
        {"chiral": 0.5, "chiral_form": "field"},
        {"rotation", "mirror of x", "half turn about x", "boost"},
    ),
    "chiral triple": ({"chiral": 2.0}, {"mirror of x", "mirror of z", "inversion"}),
    "field and anisotropy": (
        {"field": 0.3, "anisotropy": 0.5, "hidden_charges": 0.3},
        {"rotation", "mirror of z", "half turn about x", "inversion", "swap 0 1"},
    ),
    "anisotropy, chiral and trap": (
        {"anisotropy": 0.5, "chiral": 2.0, "trap": 0.2},
        {"rotation", "mirror of x", "mirror of z", "inversion", "translation", "boost"},
    ),
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


def keeps(left, *, linear=None, shift=None, order=None, boost=None):
    """Whether the residual group says that it has the element."""
    if linear is not None:
        return left.keeps(linear)
    if order is not None:
        return left.keeps_order(order)
    return left.translations if boost is None else left.boosts


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("knob", KNOBS)
def test_residual_group(system, knob):
    options, broken = KNOBS[knob]
    left = Protocol(system, **options).symmetry
    for name, error in zip(ELEMENTS, deviations(system, options, ELEMENTS.values()), strict=True):
        assert keeps(left, **ELEMENTS[name]) == (name not in broken), name
        if name in broken:
            assert error > 1e-4, f"{knob} should break {name} of {system}"
        else:
            assert error < 1e-9, f"{knob} should keep {name} of {system}, error {error:.1e}"


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_elements_of_the_residual_group(knob, axis):
    options = KNOBS[knob][0] | {"axis": axis}
    left = Protocol(**options).symmetry
    drawn = left.point.sample(4, generator=torch.Generator().manual_seed(1))
    matrices = [*drawn, *left.point.discrete, *torch.linalg.matrix_exp(left.point.generators)]
    assert all(left.keeps(matrix) for matrix in matrices)
    orders = [left.nodes.sample(1)[0].argmax(1).tolist() for _ in range(3)]
    assert all(left.keeps_order(order) for order in orders)
    elements = [*map(orthogonal, matrices), *({"order": order} for order in orders)]
    assert max(deviations("charged", options, elements)) < 1e-9
    assert (left.space.n == 4) == left.translations


@pytest.mark.parametrize(
    ("options", "point", "space"),
    [
        ({}, "O(3)", "E(3)"),
        ({"drag": 1, "rigid_parts": 2}, "O(3)", "E(3)"),
        ({"trap": 1}, "O(3)", "O(3)"),
        ({"chiral": 1}, "SO(3)", "SE(3)"),
        ({"field": 1, "axis": "x"}, "O2(x)", "Union(T(3), O2(x))"),
        ({"field": 1, "trap": 1}, "O2(z)", "O2(z)"),
        ({"field": 1, "chiral": 1}, "SO2(z)", "Union(T(3), SO2(z))"),
        ({"field": 1, "chiral": 1, "chiral_form": "field"}, "SO2(z)", "Union(T(3), SO2(z))"),
        ({"anisotropy": 1}, "Union(O2(z), AxisMirror(z))", "Union(T(3), O2(z), AxisMirror(z))"),
        ({"chiral": 1, "chiral_form": "field"}, "Union(SO2(z), AxisMirror(z))", "Union(T(3), SO2(z), AxisMirror(z))"),
        ({"anisotropy": 1, "chiral": 1}, "Union(SO2(z), C(2, x))", "Union(T(3), SO2(z), C(2, x))"),
        ({"anisotropy": 1, "chiral": 1, "axis": "y"}, "Union(SO2(y), C(2, z))", "Union(T(3), SO2(y), C(2, z))"),
    ],
)
def test_residual_group_as_an_object(options, point, space):
    left = Protocol(**options).symmetry
    assert (repr(left.point), repr(left.space)) == (point, space)


def test_permutations_that_are_left():
    assert repr(Protocol().symmetry.nodes) == "S(5)"
    assert repr(Protocol(hidden_charges=0.1).symmetry.nodes) == "S(5, [0, 1, 0, 1, 0])"
    assert Protocol(n_bodies=1, hidden_charges=0.1, rigid_parts=1).symmetry.keeps_order([0])
    stick = Protocol(n_bodies=2, rigid_parts=1)
    assert stick.symmetry.keeps_order([1, 0])
    assert not replace(stick, hidden_charges=0.1).symmetry.keeps_order([1, 0])
    assert repr(replace(stick, hidden_charges=0.1).symmetry.nodes) == "S(2, [0, 1])"
    # three isolated bodies, two sticks, a hinge: 3! ways, 2! ways to order and 2 to turn each, 2 to turn
    left = Protocol(objects=(3, 2, 1)).symmetry
    orders = {tuple(g.argmax(1).tolist()) for g in left.nodes.sample(4000)}
    assert all(left.keeps_order(order) for order in orders)
    assert len(orders) == 6 * 8 * 2


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


TIME_REVERSAL = [
    ({}, True),
    ({"trap": 0.5}, True),
    ({"field": 0.5}, True),
    ({"anisotropy": 0.5}, True),
    ({"drag": 0.5}, False),
    ({"chiral": 5.0}, False),
    ({"chiral": 0.5, "chiral_form": "field"}, False),
]


@pytest.mark.parametrize(("knob", "reversible"), TIME_REVERSAL)
def test_time_reversal(knob, reversible):
    protocol = Protocol("gravity", n_steps=800, every=400, **knob)
    assert protocol.symmetry.time_reversal == reversible
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
    assert torch.equal(gain(anisotropy=2.0), 0 * vel[0])  # one body feels no interaction
    assert torch.equal(gain(chiral=2.0), 0 * vel[0])
    for number, axis in enumerate("xyz"):
        along = torch.eye(3, dtype=torch.float64)[number]
        turned = 2 * scale * torch.linalg.cross(vel[0], along.expand(1, 3))
        assert torch.allclose(gain(chiral=2.0, chiral_form="field", axis=axis), turned, rtol=1e-3)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_chiral_and_anisotropic_forces_are_those_documented(axis):
    generator = torch.Generator().manual_seed(5)
    pos, vel = torch.randn(2, 1, 4, 3, generator=generator, dtype=torch.float64) * 2
    mass, dt = torch.ones(1, 4, 1, dtype=torch.float64), 1e-6

    def force(**knob):
        protocol = Protocol("charged", 4, n_steps=2, every=1, dt=dt, axis=axis, clip="norm", **knob)
        return (integrate(pos, vel, mass, protocol).vel[0, 0] - vel[0]) / dt

    plain, scale = force(), SYSTEMS["charged"].force_scale
    factors = torch.tensor([1.5 if a == axis else 1.0 for a in "xyz"], dtype=torch.float64)
    assert torch.allclose(force(anisotropy=0.5), plain * factors, atol=1e-6)
    d, u = pos[0] - pos[0].mean(0), vel[0] - vel[0].mean(0)
    s = (d * torch.linalg.cross(u, plain)).sum(1, keepdim=True)
    triple = 3 * scale * s / (1 + s.abs()) * d / (1 + (d * d).sum(1, keepdim=True)).sqrt()
    assert s.abs().min() > 1e-3
    assert torch.allclose(force(chiral=3.0) - plain, triple, atol=1e-6)


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
