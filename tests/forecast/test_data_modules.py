"""Data modules: what networks are given, what is said of missing files, time and truth of the pictures."""

import shutil

import numpy as np
import pytest
import torch
from helpers.molecular import SHORT
from torch_geometric.data import Batch

from geoeq.datasets import MolecularDynamics, Pedestrians, Trajectory
from geoeq.datasets.molecular import MolecularProtocol
from geoeq.datasets.nbody import Protocol
from geoeq.forecast.datamodule import GraphData, NBodyData
from geoeq.forecast.large_nbody_data import LargeNBodyData
from geoeq.forecast.mocap_data import MotionCaptureData
from geoeq.forecast.molecular_data import MolecularData
from geoeq.forecast.pedestrian_data import PedestrianData
from geoeq.layers import EGNN, Ponita, SteerableMPNN, TypedMPNN

NAMES = ["charged", "springs", "constrained", "large", "mocap", "pedestrians", "molecular"]
COLUMNS = {"constrained": 2, "pedestrians": 0}  # of edge_attr, where it is not 1


@pytest.mark.parametrize("name", [*NAMES, "radius"])
def test_a_batch_has_what_networks_are_given_and_comes_apart_again(module, name):
    data = module[name]()
    for split in ("train", "valid", "test"):
        index = torch.tensor([2, 0, 2])
        batch = data.fetch(split, index)
        n, kind = len(batch.pos), batch.pos.dtype
        assert batch.num_graphs == 3
        assert batch.pos.shape == batch.vel.shape == (n, 3)
        assert batch.y.shape == ((n, 2, 3) if name == "radius" else (n, 3))
        assert batch.charge.shape == (n, 1)
        assert {batch.vel.dtype, batch.charge.dtype, batch.y.dtype} == {kind}
        again = Batch.from_data_list(batch.to_data_list())
        for key in ("pos", "vel", "charge", "y", "edge_index"):
            assert torch.equal(again[key], batch[key]), key
        if "x" in batch:
            assert torch.equal(again.x, batch.x)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_forecasts_from_every_data_module(module, name):
    data = module[name]()
    batch = data.fetch("train", torch.arange(3))
    edge_dim = COLUMNS.get(name, 1)
    networks = [
        EGNN(edge_dim=edge_dim, hidden=8, n_layers=2),
        TypedMPNN("4x0e + 2x1o", 1, edge_dim=edge_dim, mode="soft"),
        SteerableMPNN("4x0e + 2x1o", 1, edge_dim=edge_dim, cutoff=50.0),
        Ponita("octahedron", hidden=8, basis=8, n_layers=1, edge_dim=edge_dim),
    ]
    for network in networks:
        assert network(batch).shape == batch.y.shape
        assert network(batch).isfinite().all()


def test_loaders_give_what_fetch_gives(module):
    data = module["mocap"]()
    (batch,) = list(data.val_dataloader())
    expected = data.fetch("valid", torch.arange(240))
    assert torch.equal(batch.vel, expected.vel)
    assert torch.equal(batch.charge, torch.ones(240 * 31, 1))
    assert [b.num_graphs for b in data.train_dataloader()] == [12] * 16


def test_velocities_are_told_in_units_of_time(runs, molecule):
    plain, longer = (MotionCaptureData(runs, time_unit=unit, log=False) for unit in (1, 30))
    index = torch.tensor([5, 77])
    assert torch.equal(longer.fetch("test", index).vel, 30 * plain.fetch("test", index).vel)
    assert torch.equal(longer.fetch("test", index).x, plain.fetch("test", index).x)
    assert torch.equal(longer.fetch("test", index).vel, longer.fetch("test", index).vel)  # not once more each time
    assert (plain.horizon(), longer.horizon()) == (30.0, 1.0)
    data = MolecularData(molecule, time_unit=4.0, protocol=SHORT)
    raw = MolecularDynamics(molecule, "test", protocol=SHORT)
    assert torch.equal(data.fetch("test", torch.tensor([3])).vel, 4.0 * raw[3].vel)
    assert data.horizon() == 1.0
    for build in (MotionCaptureData, MolecularData):
        with pytest.raises(ValueError, match="time_unit must be positive, got 0"):
            build(time_unit=0.0)


def test_pedestrians_stand_in_space_and_count_two_coordinates(streets):
    data = PedestrianData(streets, scene="hotel", log=False)
    batch = data.fetch("test", torch.tensor([30]))
    flat = Pedestrians(streets, "hotel", "test", log=False)[30]
    assert (data.coordinates, data.unit, data.horizon()) == (2, "m", pytest.approx(4.8))
    assert torch.equal(batch.history[..., :2], flat.history)
    assert not batch.y[..., 2].any()


def test_folders_follow_the_variable_unless_they_are_given(tmp_path, monkeypatch, molecule):
    small = {"frames": [0, 1], "sizes": [2, 2, 2], "log": False}
    large = small | {"protocol": Protocol("gravity", 20, every=10)}
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "all"):
        if folder == "all":
            monkeypatch.setenv("GEOEQ_DATA", str(tmp_path / "all"))
        else:
            monkeypatch.delenv("GEOEQ_DATA", raising=False)
        for count, data in enumerate((NBodyData(**small), LargeNBodyData(**large)), 1):
            data.split("valid")
            assert len(list((tmp_path / folder / "nbody" / "processed").glob("*valid*.pt"))) == count
        (tmp_path / folder / "md17").mkdir()
        shutil.copy(molecule, tmp_path / folder / "md17" / "md17_aspirin.npz")
        assert len(MolecularData(protocol=SHORT).split("train")) == 20
    NBodyData(str(tmp_path / "own"), **small).split("valid")
    assert list((tmp_path / "own").glob("processed/*.pt"))
    assert MolecularData(molecule).recording == molecule


def test_atoms_carry_their_number(molecule):
    batch = MolecularData(molecule, protocol=SHORT).fetch("train", torch.tensor([1]))
    assert batch.x.flatten().tolist() == pytest.approx([0.6, 0.6, 0.8, 0.1, 0.1, 0.1])
    assert torch.equal(batch.x, batch.charge)
    assert batch.history.shape == (6, 3, 3)


def test_simulations_that_mdanalysis_reads(tmp_path):
    pytest.importorskip("MDAnalysis")
    place = np.array([[0.0, 0, 0], [1.4, 0, 0], [2.0, 1.2, 0]])
    lines = []
    for frame in range(30):
        rows = [f"{kind} {x:.4f} {y:.4f} {z:.4f}" for kind, (x, y, z) in zip("CCO", place + 0.01 * frame)]
        lines += ["3", f"frame {frame}", *rows]
    (tmp_path / "walk.xyz").write_text("\n".join(lines) + "\n")
    own = MolecularProtocol(past=2, future=(1, 2), split="time", sizes=(None, None, None))
    path = str(tmp_path / "walk.xyz")
    data = MolecularData(path, topology=path, select="all", protocol=own, radius=3.0)
    batch = data.fetch("train", torch.tensor([0]))
    assert batch.charge.flatten().tolist() == pytest.approx([0.6, 0.6, 0.8])
    torch.testing.assert_close(batch.vel, torch.full((3, 3), 0.01), rtol=1e-3, atol=1e-5)
    assert isinstance(data.recording, Trajectory)
    assert data.recording is data.recording  # read once for all splits
    alone = MolecularData(topology=path, protocol=own, radius=3.0)
    assert torch.equal(alone.fetch("train", torch.tensor([0])).pos, batch.pos)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda folder: MotionCaptureData(folder),
            r"raw must hold subject09_run\.npz, or 09\.asf .* mocap\.cs\.cmu\.edu; --data\.root takes the folder",
        ),
        (
            lambda folder: MotionCaptureData(folder, protocol="walk"),
            r"raw must hold subject35_walk\.npz, or 35\.asf and its AMC files .*; --data\.root takes",
        ),
        (
            lambda folder: MolecularData(f"{folder}/none.npz"),
            r"none\.npz does not exist; MD17 is at quantum-machine\.org.*, --data\.path takes the file",
        ),
    ],
)
def test_missing_files_are_told_with_where_to_get_them_and_the_option(tmp_path, build, message):
    with pytest.raises(FileNotFoundError, match=message) as error:
        build(str(tmp_path)).split("train")
    assert "\n" not in str(error.value)


def test_a_data_module_of_ones_own_needs_one_method(tmp_path):
    class Own(GraphData):
        def open(self, name):
            raise FileNotFoundError(f"{name} is not there")

    with pytest.raises(FileNotFoundError, match=r"train is not there$"):
        Own().split("train")
    assert Own().drifts(Batch(), torch.zeros(0, 1, 3)) == {}
    with pytest.raises(TypeError, match="abstract method"):
        GraphData()


def test_large_systems_have_the_drift_of_momentum_alone(module):
    data = module["large"]()
    batch = data.fetch("test", torch.arange(6))
    drifts = data.drifts(batch, batch.y.unsqueeze(1))
    assert list(drifts) == ["momentum_drift"]
    assert drifts["momentum_drift"].max() < 1e-4
    assert data.horizon() == pytest.approx(0.02)
