"""The simulator against the published protocol, conservation laws, and its promise of equal bytes."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoeq.datasets.nbody import SYSTEMS, Protocol, initial_conditions, integrate, simulate
from geoeq.datasets.nbody.integrator import bytes_per_trajectory


def published_scheme(pos, vel, coupling, n_steps, every, force_law, dt=1e-3):
    """One trajectory by the text of the protocol: kick, then drift, store, force, kick."""
    x, v, stored = pos.copy(), vel.copy(), []

    def force():
        total = np.zeros_like(x)
        for i in range(len(x)):
            for j in range(len(x)):
                if i != j:
                    total[i] += coupling[i, j] * force_law(x[i] - x[j])
        return np.clip(total, -100, 100)

    v = v + dt * force()
    for step in range(1, n_steps):
        x = x + dt * v
        if step % every == 0:
            stored.append((x.copy(), v.copy()))
        v = v + dt * force()
    return [np.stack(values) for values in zip(*stored, strict=True)]


@pytest.mark.parametrize(
    ("system", "law"),
    [("charged", lambda r: r / np.linalg.norm(r) ** 3), ("springs", lambda r: -0.1 * r)],
)
def test_agrees_with_the_published_scheme(system, law):
    protocol = Protocol(system, n_steps=200, every=50)
    pos, vel, charge, springs = initial_conditions(3, protocol, seed=5)
    result = integrate(pos, vel, charge, protocol, coupling=springs)
    for k in range(3):
        x, v = published_scheme(pos[k].numpy(), vel[k].numpy(), result.coupling[k].numpy(), 200, 50, law)
        assert np.abs(result.pos[k].numpy() - x).max() < 1e-10
        assert np.abs(result.vel[k].numpy() - v).max() < 1e-10


def test_component_clip_acts_as_published():
    pos = torch.tensor([[[0.0, 0, 0], [0.05, 0.02, 0]]])  # 345 between the two: far beyond the clip
    protocol = Protocol(n_bodies=2, n_steps=20, every=10)
    result = integrate(pos, torch.zeros(1, 2, 3), torch.ones(1, 2, 1), protocol)
    coupling = np.ones((2, 2))
    x, _ = published_scheme(
        pos[0].numpy().astype(float), np.zeros((2, 3)), coupling, 20, 10, lambda r: r / np.linalg.norm(r) ** 3
    )
    assert np.abs(result.pos[0].numpy() - x).max() < 1e-12
    by_norm = integrate(
        pos,
        torch.zeros(1, 2, 3),
        torch.ones(1, 2, 1),
        Protocol(n_bodies=2, n_steps=20, every=10, clip="norm"),
    )
    offset = by_norm.pos[0, 0, 1] - by_norm.pos[0, 0, 0]
    assert offset[1] / offset[0] == pytest.approx(0.4)  # the direction is kept


def test_initial_conditions_follow_the_protocol():
    pos, vel, charge, _ = initial_conditions(4000, Protocol(n_bodies=10))
    assert pos.std() == pytest.approx(2 ** (1 / 3), rel=0.02)
    assert torch.allclose(vel.norm(dim=-1), torch.tensor(0.5, dtype=torch.float64))
    assert set(charge.unique().tolist()) == {-1.0, 1.0}
    assert charge.mean().abs() < 0.02
    _, _, mass, springs = initial_conditions(4000, Protocol("springs"))
    assert (mass == 1).all()
    assert torch.equal(springs, springs.transpose(1, 2))
    assert springs.diagonal(dim1=1, dim2=2).abs().max() == 0
    assert springs.mean() == pytest.approx(0.5 * 20 / 25, rel=0.02)
    pos, vel, _, _ = initial_conditions(10, Protocol("gravity"))
    assert max(pos.mean(1).abs().max(), vel.mean(1).abs().max()) < 1e-15


def energy(result, system, dt=1e-3):
    """Kinetic and potential energy [S, T] with velocities brought to the time of the positions."""
    offset = result.pos[:, :, :, None] - result.pos[:, :, None]
    square = offset.square().sum(-1)
    n = result.pos.shape[2]
    coupling = result.coupling[:, None] * (1 - torch.eye(n, dtype=torch.float64))
    vel = result.vel
    if system == "springs":
        return 0.5 * vel.square().sum((2, 3)), 0.025 * (coupling * square).sum((2, 3))
    square = square + (0.01 if system == "gravity" else torch.eye(n, dtype=torch.float64))
    if system == "charged":
        vel = vel + dt / 2 * ((coupling / square**1.5)[..., None] * offset).sum(3)
    sign = -1.0 if system == "gravity" else 1.0
    return 0.5 * vel.square().sum((2, 3)), sign * 0.5 * (coupling / square.sqrt()).sum((2, 3))


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_energy_and_momentum_are_conserved_without_a_clip(system):
    result = simulate(150, system, seed=1)
    # The two clips act in the same steps and differently, so where they agree to the byte none has acted.
    free = (result.pos == simulate(150, system, seed=1, clip="norm").pos).flatten(1).all(1)
    assert free.sum() > 50
    kinetic, potential = energy(result, system)
    size = (kinetic + potential.abs()).amax(1)
    drift = (kinetic + potential - (kinetic + potential)[:, :1]).abs().amax(1) / size
    assert drift[free].max() < 0.01
    momentum = result.vel.sum(2)
    assert (momentum - momentum[:, :1])[free].abs().max() < 1e-12


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_reference_force_is_the_median_force(system):
    result = simulate(400, system, seed=7)
    law = SYSTEMS[system]
    offset = result.pos[:, :, :, None] - result.pos[:, :, None]
    size = law.strength * result.coupling[:, None]
    if law.inverse_square:
        square = offset.square().sum(-1) + law.softening**2 + torch.eye(5, dtype=torch.float64)
        size = size * (1 - torch.eye(5, dtype=torch.float64)) / square**1.5
    force = (size[..., None] * offset).sum(3).norm(dim=-1)
    assert force.median().item() == pytest.approx(law.force_scale, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(
    system=st.sampled_from(sorted(SYSTEMS)),
    n_bodies=st.integers(1, 12),
    n_trajectories=st.integers(1, 7),
    width=st.integers(1, 4),
    n_threads=st.integers(1, 3),
    rigid_parts=st.sampled_from([0.0, 2.0, float("inf")]),
    clip=st.sampled_from(["component", "norm"]),
)
def test_same_bytes_on_any_chunk_and_thread_count(
    system, n_bodies, n_trajectories, width, n_threads, rigid_parts, clip
):
    options = {"n_bodies": n_bodies, "n_steps": 6, "every": 2, "seed": 3}
    options |= {"rigid_parts": rigid_parts, "clip": clip, "drag": 0.1}
    whole = simulate(9, system, n_threads=1, **options)
    memory = width * n_threads * bytes_per_trajectory(n_bodies)
    part = simulate(n_trajectories, system, n_threads=n_threads, max_bytes=memory, **options)
    for name in ("pos", "vel", "charge", "coupling"):
        assert getattr(part, name).numpy().tobytes() == getattr(whole, name)[:n_trajectories].numpy().tobytes()


def test_same_bytes_in_wide_chunks():
    whole = simulate(1500, n_steps=20, every=10, n_threads=1)
    split = simulate(1500, n_steps=20, every=10, n_threads=2, max_bytes=2 * 301 * bytes_per_trajectory(5))
    assert whole.pos.numpy().tobytes() == split.pos.numpy().tobytes()


def test_numbers_of_seed_0_stay():
    result = simulate(3, n_steps=300, seed=0)
    values = torch.cat([result.pos.flatten(), result.vel.flatten(), result.charge.flatten()])
    rounded = (values * 1e6).round().to(torch.int64).numpy().astype("<i8")
    assert hashlib.sha256(rounded.tobytes()).hexdigest()[:16] == "c565b71251e270d9"


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_one_body_moves_uniformly(system):
    pos, vel, charge, _ = initial_conditions(4, Protocol(system, n_bodies=1))
    result = integrate(pos, vel, charge, Protocol(system, n_bodies=1, n_steps=300))
    expected = pos[:, None] + vel[:, None] * result.times[:, None, None]
    assert torch.allclose(result.pos, expected, atol=1e-12)


def test_shapes_and_repr():
    result = simulate(2, "gravity", n_bodies=7, n_steps=50, every=10)
    assert len(result) == 2
    assert repr(result).startswith("Trajectories(pos=[2, 4, 7, 3], vel=[2, 4, 7, 3], charge=[2, 7, 1], ")
    assert result.coupling.shape == (2, 7, 7)
    assert result.times.tolist() == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert result.pos.dtype == result.vel.dtype == result.charge.dtype == torch.float64


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("n_trajectories", v) for v in (0, -1, 1.5, True, "3")],
        *[("n_bodies", v) for v in (0, 2.0, None)],
        *[("dt", v) for v in (0, -1e-3, NAN, INF, "small")],
        *[("system", v) for v in ("planets", None, ["charged"])],
        *[("axis", v) for v in ("w", 2)],
        ("clip", "off"),
        ("every", 0),
        *[("n_steps", v) for v in (1, 99, 100, 250)],
        *[(knob, v) for knob in ("field", "trap", "drag", "hidden_charges") for v in (-0.1, NAN, INF, "1")],
        *[("rigid_parts", v) for v in (-1, NAN, 1e9)],
        *[("seed", v) for v in (-1, 1.5, "a")],
        *[("n_threads", v) for v in (0, 1.5)],
        *[("max_bytes", v) for v in (0, 10)],
    ],
)
def test_wrong_argument_is_named_in_one_line(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be ") as error:
        simulate(**({"n_trajectories": 1} | {name: value}))
    assert "\n" not in str(error.value)


def test_wrong_initial_conditions_are_refused():
    pos, vel, charge, _ = initial_conditions(2, Protocol())
    cases = [
        ((pos[0], vel, charge), {}, "pos must be"),
        ((pos[..., :2], vel, charge), {}, r"pos must be of shape \[2, 5, 3\], got \[2, 5, 2\]"),
        ((pos, vel[:1], charge), {}, "vel must be of shape"),
        ((pos, vel, charge[..., 0]), {}, "charge must be of shape"),
        ((pos * NAN, vel, charge), {}, "pos must be finite"),
        ((pos, vel, charge), {"coupling": torch.ones(2, 4, 4)}, "coupling must be of shape"),
        ((pos, vel, charge), {"coupling": torch.rand(2, 5, 5)}, "coupling must be symmetric"),
        ((pos * 0, vel * 0, charge), {}, "trajectory 0 became non-finite"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            integrate(*arguments, **options)
