"""Isolated bodies, sticks and hinges: the constrained systems of arXiv 2203.06442."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geoeq.datasets.nbody import NBody, Protocol, initial_conditions, integrate, simulate
from geoeq.datasets.nbody.parts import part_ids, part_sizes, rods

SMALL = {"objects": (1, 2, 1), "frames": (0, 1, 3), "sizes": (6, 3, 2), "every": 10, "n_steps": 60, "log": False}


def test_layout_of_the_objects():
    assert part_sizes(0, (3, 2, 1)) == [1, 1, 1, 2, 2, 3]
    assert part_ids(10, (3, 2, 1)).tolist() == [0, 1, 2, 3, 3, 4, 4, 5, 5, 5]
    assert [ends.tolist() for ends in rods(10, (3, 2, 1))] == [[3, 5, 7, 8], [4, 6, 8, 9]]
    protocol = Protocol(objects=[3, 2, 1])
    assert (protocol.n_bodies, protocol.rigid_parts, protocol.objects) == (10, math.inf, (3, 2, 1))
    assert protocol == Protocol(objects=(3, 2, 1), n_bodies=10, rigid_parts=math.inf)
    assert Protocol(objects=(3, 2, 1), rigid_parts=4.0).rigid_parts == 4.0


def test_frames_are_the_published_ones():
    """A state is stored after the first step and then every 100: 50 in 5000 steps."""
    result = simulate(2, objects=(2, 0, 0), n_steps=500, seed=3)
    assert result.times.tolist() == pytest.approx([0.001, 0.101, 0.201, 0.301, 0.401])
    dense = simulate(2, objects=(2, 0, 0), n_steps=500, every=1, seed=3)
    assert torch.equal(result.pos, dense.pos[:, ::100])
    assert Protocol(objects=(2, 0, 0)).n_frames == 50
    # isolated bodies move by the scheme without objects, whose first frame is after one step here
    plain = integrate(
        *initial_conditions(2, Protocol(objects=(2, 0, 0)), 3)[:3], Protocol(n_bodies=2, n_steps=500, every=1)
    )
    assert torch.equal(plain.pos, dense.pos[:, :499])


def test_initial_conditions_are_the_published_ones():
    protocol = Protocol(objects=(3, 2, 1))
    pos, vel, charge, _ = initial_conditions(4000, protocol, seed=1)
    assert pos.std() == pytest.approx(2 ** (1 / 3) + 0.1, rel=0.01)
    assert set(charge.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(vel[:, :3].norm(dim=2), torch.tensor(0.5, dtype=torch.float64))
    first, second = rods(10, protocol.objects)
    rod, slip = pos[:, first] - pos[:, second], vel[:, first] - vel[:, second]
    assert (rod * slip).sum(2).abs().max() < 1e-12
    free = Protocol(n_bodies=10)
    generator = np.random.default_rng(1)
    assert torch.equal(initial_conditions(4000, free, generator)[1][:, 8], vel[:, 8])  # pivots keep their velocities
    drawn = initial_conditions(4000, free, np.random.default_rng(1))[1]
    assert torch.allclose(drawn[:, 3:5].sum(1), vel[:, 3:5].sum(1))  # and sticks their momentum


def test_rods_keep_their_lengths():
    protocol = Protocol(objects=(2, 2, 2), n_steps=2000, clip="norm")
    pos, vel, charge, _ = initial_conditions(10, protocol, seed=4)
    result = integrate(pos, vel, charge, protocol)
    first, second = rods(12, protocol.objects)
    before = (pos[:, first] - pos[:, second]).norm(dim=2)
    after = (result.pos[:, :, first] - result.pos[:, :, second]).norm(dim=3)
    assert (after - before[:, None]).abs().max() < 1e-9
    assert result.part.tolist() == part_ids(12, protocol.objects).tolist()
    isolated = (result.pos[:, :, 0] - result.pos[:, :, 1]).norm(dim=2)
    assert (isolated - isolated[:, :1]).abs().max() > 0.1


def turn(w, dt):
    """Rotation matrix of the angular velocity w over dt."""
    angle = np.linalg.norm(w) * dt
    x, y, z = w / np.linalg.norm(w)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def published_dynamics(x, v, charge, n_steps, dt):
    """A stick (bodies 0, 1) and a hinge (2, 3, 4 with pivot 3) as the published text moves them."""
    x, v = x.copy(), v.copy()
    middle, drift = x[:2].mean(0), v[:2].mean(0)
    arm = x[0] - middle
    spin = np.cross(arm, v[0] - drift) / (arm @ arm)
    ends = (2, 4)
    arms = [x[end] - x[3] for end in ends]
    spins = [np.cross(r, v[end] - v[3]) / (r @ r) for end, r in zip(ends, arms, strict=True)]
    for _ in range(n_steps):
        offset = x[:, None] - x[None]
        distance = np.linalg.norm(offset, axis=2) + np.eye(5)
        f = (charge[:, None] * charge[None] / distance**3 * (1 - np.eye(5)))[..., None] * offset
        f = f.sum(1)
        # stick: motion of the middle, and rotation by the torque about it
        arm = x[0] - middle
        drift = drift + dt * (f[0] + f[1]) / 2
        middle = middle + dt * drift
        spin = spin + dt * np.cross(arm, f[0] - f[1]) / (2 * arm @ arm)
        arm = turn(spin, dt) @ arm
        x[0], x[1] = middle + arm, middle - arm
        # hinge: acceleration of the pivot, then of both rods relative to it
        arms = [x[end] - x[3] for end in ends]
        units = [r / np.linalg.norm(r) for r in arms]
        matrix = np.eye(3) + sum(np.outer(e, e) for e in units)
        total = f[2] + f[3] + f[4]
        for end, e, r, w in zip(ends, units, arms, spins, strict=True):
            total = total - np.cross(w, np.cross(w, r)) - (np.eye(3) - np.outer(e, e)) @ f[end]
        pivot = np.linalg.solve(matrix, total)
        v[3] = v[3] + dt * pivot
        x[3] = x[3] + dt * v[3]
        for number, (end, r) in enumerate(zip(ends, arms, strict=True)):
            spins[number] = spins[number] + dt * np.cross(r, f[end] - pivot) / (r @ r)
            x[end] = x[3] + turn(spins[number], dt) @ r
    return x


def test_rigid_dynamics_are_the_published_ones():
    """Both are first-order schemes of one motion: their difference halves with the time step."""
    protocol = Protocol(objects=(0, 1, 1))
    pos, vel, charge, _ = initial_conditions(4, protocol, seed=2)
    pos = 2 * pos  # no close encounters, and the rods' lengths are kept by the same velocities
    errors = []
    for steps in (400, 800):
        dt = 0.4 / steps
        fine = Protocol(objects=(0, 1, 1), n_steps=steps, every=steps // 2, dt=dt, clip="norm")
        ours = integrate(pos, vel, charge, fine).pos[:, 1]  # after steps / 2 + 1
        theirs = [
            published_dynamics(x, v, q, steps // 2 + 1, dt)
            for x, v, q in zip(pos.numpy(), vel.numpy(), charge[..., 0].numpy(), strict=True)
        ]
        errors.append(np.abs(ours.numpy() - np.stack(theirs)).max())
        moved = (ours - pos).abs().max()
    assert errors[1] < 2e-4 < 0.05 < moved
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.2)


def test_data_set_of_objects(tmp_path):
    data = NBody(tmp_path, **SMALL)
    graph = data[2]
    assert graph.num_nodes == 8
    assert graph.y.shape == (8, 2, 3)
    assert graph.part.tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    kinds = {tuple(edge): int(kind) for edge, kind in zip(graph.edge_index.T.tolist(), graph.edge_attr[:, 1])}
    of = {kind: {edge for edge, own in kinds.items() if own == kind} for kind in (1, 2, 3)}
    assert of[2] == {(1, 2), (2, 1), (3, 4), (4, 3)}
    assert of[3] == {(5, 6), (6, 5), (6, 7), (7, 6)}
    assert len(of[1]) == 56 - 8
    sender, receiver = graph.edge_index
    assert torch.equal(graph.edge_attr[:, :1], graph.charge[sender] * graph.charge[receiver])
    result = simulate(6, objects=(1, 2, 1), every=10, n_steps=60, seed=(43, 0))
    assert torch.equal(graph.pos, result.pos[2, 0].float())
    assert torch.equal(graph.y, result.pos[2, [1, 3]].transpose(0, 1).float())
    assert data.fetch(torch.tensor([0, 1])).edge_attr.shape == (112, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": (3, 2)}, "objects must be a sequence of 3 integers, got"),
        ({"objects": 5}, "objects must be a sequence of 3 integers, got 5"),
        ({"objects": (3, -1, 0)}, "objects must be an integer >= 0, got -1"),
        ({"objects": (0, 0, 0)}, "objects must be at least one, got"),
        ({"objects": (3, 2, 1), "n_bodies": 9}, "n_bodies must be 10, as objects say, got 9"),
        ({"chiral_form": "left"}, "chiral_form must be one of"),
        ({"chiral": -1.0}, "chiral must be a finite number >= 0, got -1.0"),
        ({"anisotropy": math.nan}, "anisotropy must be a finite number >= 0, got nan"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    for build in (Protocol, lambda **o: simulate(1, **o)):
        with pytest.raises(ValueError, match=message) as error:
            build(**options)
        assert "\n" not in str(error.value)


def test_files_stored_before_the_new_options_are_found(tmp_path):
    """Their names carry a hash of the options; those that came later do not count at their defaults."""
    known = {"frames": (0, 2), "sizes": (2, 1, 1), "n_steps": 60, "every": 10, "log": False}
    NBody(tmp_path, **known)
    (path,) = (tmp_path / "processed").iterdir()
    assert path.name == "charged-5-train-721be9fa5099fb0b.pt"
    NBody(tmp_path, chiral=0.1, **known)
    NBody(tmp_path, anisotropy=0.1, **known)
    assert len(list((tmp_path / "processed").iterdir())) == 3
