"""Chaotic systems: the equations and their symmetries, orbits on the attractor, independent splits."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch_geometric.data import Batch

from geoeq.datasets import ForecastWindows
from geoeq.datasets import chaotic as chaotic_module
from geoeq.datasets.chaotic import SYMMETRIES, ChaoticSystems, _model, chaotic_trajectories


@pytest.fixture
def dysts():
    if importlib.util.find_spec("dysts") is None:
        pytest.skip("dysts is not installed: geoeq[data]")


SMALL = {"n_frames": 40, "sizes": (3, 2, 1)}


def lorenz(_, place):
    """Its equations, with 8/3 as dysts rounds it."""
    x, y, z = place
    return [10 * (y - x), x * (28 - z) - y, x * y - 2.667 * z]


def test_orbits_solve_the_equations(dysts):
    (orbit,) = chaotic_trajectories("Lorenz", 1, 30, 100, seed=3)
    assert orbit.pos.shape == (30, 1, 3)
    place = orbit.pos[0, 0].numpy()
    times = orbit.time_step * np.arange(30)
    known = solve_ivp(lorenz, (0, times[-1]), place, method="DOP853", t_eval=times, rtol=1e-11, atol=1e-11).y.T
    assert np.abs(orbit.pos[:, 0].numpy() - known).max() < 1e-5


def test_orbits_stay_on_the_attractor_and_differ(dysts):
    orbits = torch.cat([orbit.pos[:, 0] for orbit in chaotic_trajectories("Lorenz", 4, 200, 20, seed=1)])
    assert orbits[:, 0].abs().max() < 25
    assert orbits[:, 2].min() > 0
    assert orbits[:, 2].max() < 55
    starts = orbits[::200]
    assert torch.pdist(starts).min() > 0.1


def test_the_first_orbits_do_not_depend_on_how_many_are_asked_for(dysts):
    few, many = (chaotic_trajectories("Rossler", n, 20, seed=2) for n in (1, 3))
    assert torch.equal(few[0].pos, many[0].pos)


def test_splits_are_windows_of_independent_orbits(dysts):
    splits = [ChaoticSystems("Lorenz", split, past=5, future=10, **SMALL) for split in ("train", "valid", "test")]
    assert [len(data) for data in splits] == [(40 - 15 + 1) * n for n in (3, 2, 1)]
    starts = torch.cat([data[:].history[::26, 0] for data in splits])
    assert len({tuple(place) for place in starts.tolist()}) == len(starts)
    again = ChaoticSystems("Lorenz", "train", past=5, future=10, **SMALL)
    assert torch.equal(again.y, splits[0].y)
    other = ChaoticSystems("Lorenz", "train", past=5, future=10, seed=1, **SMALL)
    assert not torch.equal(other.y, splits[0].y)
    plain = ForecastWindows(splits[0].trajectories, 5, 10)
    assert torch.equal(plain.y, splits[0].y)


def test_orbits_are_stored_once_and_then_loaded(dysts, tmp_path, monkeypatch):
    plain = ChaoticSystems("Lorenz", "test", past=5, **SMALL)
    first = ChaoticSystems("Lorenz", "test", past=5, root=tmp_path, **SMALL)
    for options in ({"seed": 1}, {"sizes": (1, 1, 2)}, {"n_frames": 41}, {"points_per_period": 20}, {"split": "valid"}):
        ChaoticSystems(**({"split": "test", "root": tmp_path} | SMALL | options))
    ChaoticSystems("Rossler", "test", root=tmp_path, **SMALL)
    assert len(list((tmp_path / "processed").iterdir())) == 7
    monkeypatch.setattr(chaotic_module, "chaotic_trajectories", None)
    again = ChaoticSystems("Lorenz", "test", past=5, root=tmp_path, **SMALL)
    assert torch.equal(plain.y, first.y)
    assert torch.equal(plain.y, again.y)
    assert plain.trajectories[0].time_step == again.trajectories[0].time_step
    assert ChaoticSystems("Lorenz", "test", past=8, root=tmp_path, **SMALL)[0].history.shape == (1, 8, 3)
    with pytest.raises(TypeError):  # it would integrate again, which cannot be done now
        ChaoticSystems("Lorenz", "test", root=tmp_path, force_reload=True, **SMALL)


def test_damaged_orbits_and_folders_that_cannot_be_written_are_one_line(dysts, tmp_path):
    ChaoticSystems("Lorenz", "test", root=tmp_path, **SMALL)
    (path,) = (tmp_path / "processed").iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="is truncated or altered: delete it and it will be generated again"):
        ChaoticSystems("Lorenz", "test", root=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"root .* cannot be written \(") as error:
        ChaoticSystems("Lorenz", "test", root=path, **SMALL)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="system must be the name of ordinary differential equations"):
        ChaoticSystems(None, "test", root=tmp_path, **SMALL)


def test_a_graph_is_one_node_in_phase_space(dysts):
    data = ChaoticSystems("HyperRossler", "test", past=3, future=[2, 5], **(SMALL | {"dtype": "float64"}))
    graph = data[0]
    assert graph.pos.shape == graph.vel.shape == (1, 4)
    assert graph.history.shape == (1, 3, 4)
    assert graph.y.shape == (1, 2, 4)
    assert graph.edge_index.shape == (2, 0)
    assert graph.pos.dtype == torch.float64
    assert data.symmetry is None
    index = torch.tensor([2, 0])
    ours, theirs = data.fetch(index), Batch.from_data_list([data[2], data[0]])
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys())  # noqa: SIM118


@pytest.mark.parametrize("system", SYMMETRIES)
def test_symmetries_of_the_equations(dysts, system):
    model = _model(system)
    places = np.random.default_rng(0).standard_normal((8, 3))
    rates = np.array([model.rhs(place, 0.0) for place in places])
    for element in SYMMETRIES[system].sample(4).numpy():
        turned = np.array([model.rhs(place, 0.0) for place in places @ element.T])
        assert np.abs(turned - rates @ element.T).max() < 1e-12 * np.abs(rates).max()
    mirrored = np.array([model.rhs(place, 0.0) for place in places * [-1, 1, 1]])
    assert np.abs(mirrored - rates * [-1, 1, 1]).max() > 0.1
    assert ChaoticSystems(system, "test", **SMALL).symmetry == SYMMETRIES[system]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"system": "Lorentz"},
            "system must be the name of ordinary differential equations in dysts, such as 'Lorenz'",
        ),
        ({"system": "MackeyGlass"}, "system must be the name of ordinary differential equations"),
        ({"system": "DynSys"}, "system must be the name of ordinary differential equations"),
        ({"system": "np"}, "system must be the name of ordinary differential equations"),
        ({"system": None}, "system must be the name of ordinary differential equations"),
        ({"split": "val"}, "split must be one of"),
        ({"sizes": (1, 2)}, "sizes must be a sequence of 3 integers"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"n_frames": 0}, "n_frames must be an integer >= 1"),
        ({"points_per_period": 0}, "points_per_period must be an integer >= 1"),
        ({"past": 30, "future": 30}, "trajectories must be at least 60 frames long"),
    ],
)
def test_wrong_arguments_are_named(dysts, options, message):
    with pytest.raises(ValueError, match=message):
        ChaoticSystems(**({"split": "test"} | SMALL | options))


def test_a_failed_integration_is_one_line(dysts, monkeypatch):
    model = type(_model("Lorenz"))
    for rate in (lambda *_: [np.nan] * 3, lambda x, y, z, *_: [x * x, y * y, z * z]):
        monkeypatch.setattr(model, "_rhs", staticmethod(rate))
        with pytest.raises(ValueError, match=r"system Lorenz cannot be integrated from \[.*\] \(.*\)$") as error:
            chaotic_trajectories("Lorenz", 1, 20)
        assert "\n" not in str(error.value)


def test_without_the_optional_package_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "dysts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dysts", None)
    with pytest.raises(ImportError, match=r"dysts is not installed; pip install 'geoeq\[data\]'"):
        ChaoticSystems("Lorenz")
