"""Many bodies: forces ring by ring against those of all pairs at once, bounded memory, graphs of neighbours."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch

from geoeq.datasets.nbody import SYSTEMS, LargeNBody, Protocol, initial_conditions, integrate, integrator, simulate
from geoeq.datasets.nbody import interaction as interaction_module
from geoeq.datasets.nbody.forces import PairForce, pair_indices
from geoeq.datasets.nbody.rings import RingForce


@given(
    system=st.sampled_from(sorted(SYSTEMS)),
    n_bodies=st.integers(1, 40),
    width=st.integers(1, 3),
    clip=st.sampled_from(["component", "norm"]),
    seed=st.integers(0, 99),
)
def test_rings_give_the_forces_of_all_pairs(system, n_bodies, width, clip, seed):
    pick = np.random.default_rng(seed)
    x, q = pick.standard_normal((3, n_bodies, width)), pick.choice([-1.0, 1.0], (n_bodies, width))
    first, second = pair_indices(n_bodies)
    law = SYSTEMS[system]
    known = PairForce(law, x, -1.5 * q[first] * q[second], 3.0, clip)()
    by_charge = RingForce(law, x, q, -1.5, 3.0, clip, in_pairs=False)
    by_pair = RingForce(law, x, q[first] * q[second], -1.5, 3.0, clip, in_pairs=True)
    for force in (by_charge, by_charge, by_pair):  # twice: the buffers start anew
        assert np.abs(force() - known).max(initial=0) < 1e-9 * max(1, np.abs(known).max(initial=0))


@pytest.fixture
def rings_for_all(monkeypatch):
    """The path of many bodies taken by few."""
    for module in (integrator, interaction_module):
        monkeypatch.setattr(module, "MOST_IN_PAIRS", 0)


OPTIONS = {"n_bodies": 7, "n_steps": 300, "every": 50, "seed": 3, "clip": "norm"}
KNOBS = {"drag": 0.1, "chiral": 0.5, "hidden_charges": 0.2, "rigid_parts": math.inf, "anisotropy": 0.1}


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("knobs", [{}, KNOBS])
def test_both_paths_integrate_the_same_motion(system, knobs, request):
    known = simulate(4, system, **OPTIONS, **knobs)
    request.getfixturevalue("rings_for_all")
    rings = simulate(4, system, **OPTIONS, **knobs)
    assert not torch.equal(rings.pos, known.pos) or system == "springs"  # it is another order of sums
    assert (rings.pos - known.pos).abs().max() < 1e-8
    assert torch.equal(rings.coupling, known.coupling)


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_same_bytes_on_any_chunk_and_thread_count(system, rings_for_all):
    one = integrator.bytes_per_trajectory(6, in_pairs=system == "springs")
    options = {"n_bodies": 6, "n_steps": 20, "every": 5, "chiral": 0.5}
    whole = simulate(9, system, n_threads=1, **options)
    for width, n_threads in ((1, 1), (2, 2), (3, 1), (1, 3)):
        part = simulate(7, system, n_threads=n_threads, max_bytes=width * n_threads * one, **options)
        assert part.pos.numpy().tobytes() == whole.pos[:7].numpy().tobytes()


def test_memory_grows_with_the_number_of_bodies_only():
    """All pairs of 2500 bodies would take 150 MB; even one number for each of them would take 25."""
    protocol = Protocol("gravity", 2500, n_steps=4, every=2)
    pos, vel, mass, _ = initial_conditions(1, protocol)
    tracemalloc.start()
    result = integrate(pos, vel, mass, protocol)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < integrator.bytes_per_trajectory(2500, in_pairs=False) + 2 * result.pos.numel() * 8 + 2**19
    assert peak < 4e6
    assert (result.vel.sum(2) - vel.sum(1)).abs().max() < 1e-10


def test_memory_bound_lowers_the_number_of_threads():
    one = integrator.bytes_per_trajectory(50)
    assert simulate(3, n_bodies=50, n_steps=4, every=2, n_threads=8, max_bytes=one).pos.shape == (3, 1, 50, 3)
    with pytest.raises(ValueError, match=f"max_bytes must be at least {one}, the working memory of one trajectory"):
        simulate(3, n_bodies=50, n_steps=4, every=2, max_bytes=one - 1)


SMALL = {"protocol": Protocol("charged", 30, n_steps=60, every=10), "frames": (0, 2), "sizes": (4, 2, 2), "log": False}


@pytest.mark.parametrize("edges", [{}, {"neighbours": 3}, {"neighbours": None, "radius": 1.2}])
def test_each_body_is_joined_to_those_near_it(tmp_path, edges):
    data = LargeNBody(tmp_path, dtype="float64", **SMALL, **edges)
    result = simulate(4, n_bodies=30, n_steps=60, every=10, seed=(43, 0))
    for row, graph in enumerate(data):
        assert torch.equal(graph.pos, result.pos[row, 0])
        assert torch.equal(graph.vel, result.vel[row, 0])
        assert torch.equal(graph.y, result.pos[row, 2])
        assert torch.equal(graph.charge, result.charge[row])
        distance = torch.cdist(graph.pos, graph.pos).fill_diagonal_(torch.inf)
        k = edges.get("neighbours", 6)
        limit = edges["radius"] if k is None else distance.sort(1).values[:, k - 1 : k]
        receiver, sender = torch.nonzero(distance <= limit).T
        joined = set(zip(sender.tolist(), receiver.tolist(), strict=True))
        assert set(map(tuple, graph.edge_index.T.tolist())) == joined
        assert graph.edge_index[1].tolist() == receiver.tolist()
        sender, receiver = graph.edge_index
        assert torch.equal(graph.edge_attr, graph.charge[sender] * graph.charge[receiver])
    index = torch.tensor([2, 0, 2])
    ours, theirs = data.fetch(index), Batch.from_data_list([data[int(i)] for i in index])
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys())  # noqa: SIM118


def test_stored_files_and_several_targets(tmp_path):
    data = LargeNBody(tmp_path, "test", **(SMALL | {"frames": (0, 1, 3)}))
    assert data[0].y.shape == (30, 2, 3)
    again = LargeNBody(tmp_path, "test", **(SMALL | {"frames": (0, 1, 3)}))
    assert torch.equal(again.y, data.y)
    LargeNBody(tmp_path, "test", neighbours=2, **(SMALL | {"frames": (0, 1, 3)}))
    paths = sorted((tmp_path / "processed").iterdir())
    assert len(paths) == 2
    paths[0].write_bytes(paths[0].read_bytes()[:-30])
    paths[1].write_bytes(b"")
    with pytest.raises(ValueError, match="truncated or altered: delete it"):
        LargeNBody(tmp_path, "test", **(SMALL | {"frames": (0, 1, 3)}))


def test_one_body_alone_has_no_edges(tmp_path):
    alone = SMALL | {"protocol": Protocol("gravity", 1, n_steps=60, every=10)}
    assert LargeNBody(tmp_path, **alone)[0].edge_index.shape == (2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split must be one of"),
        ({"protocol": Protocol("springs")}, "protocol must be of charged particles or gravity, got 'springs'"),
        ({"neighbours": None}, "neighbours must be a number, or None and a radius given"),
        ({"radius": 1.0}, "neighbours must be a number, or None and a radius given"),
        ({"neighbours": 0}, "neighbours must be an integer >= 1"),
        ({"neighbours": None, "radius": -1.0}, "radius must be positive or None"),
        ({"frames": (0, 5)}, "frames must be two or more rising frames below 5"),
        ({"sizes": (1, 0, 1)}, "sizes must be an integer >= 1"),
        ({"dtype": "int64"}, "dtype must be 'float32' or 'float64'"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        LargeNBody(tmp_path, **(SMALL | options))
