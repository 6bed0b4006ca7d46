"""Data modules: what networks are given, what is said of missing files, time and truth of the pictures."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from geoeq.cli import main
from geoeq.datasets import MolecularDynamics, MotionCapture, Pedestrians, Trajectory
from geoeq.datasets.mocap.protocols import CMU
from geoeq.datasets.molecular import MolecularProtocol
from geoeq.datasets.nbody import Protocol
from geoeq.datasets.pedestrians import dataset as published
from geoeq.forecast.command import ForecastCLI, quieten
from geoeq.forecast.datamodule import GraphData, NBodyData, share_of_frames
from geoeq.forecast.large_nbody_data import LargeNBodyData
from geoeq.forecast.mocap_data import MotionCaptureData
from geoeq.forecast.module import ForecastModule
from geoeq.forecast.molecular_data import MolecularData
from geoeq.forecast.pedestrian_data import PedestrianData
from geoeq.layers import EGNN, Ponita, SteerableMPNN, TypedMPNN
from geoeq.soft import Evidence

SHORT = MolecularProtocol(past=3, future=(1, 4), hydrogen=True, split="time", sizes=(20, 10, 10))


@pytest.fixture
def runs(tmp_path):
    """A folder with a made-up running set."""
    (tmp_path / "mocap" / "raw").mkdir(parents=True)
    pick = np.random.default_rng(0)
    frames = (141, 138, 165, 143, 137, 126, 148, 128, 130, 152, 128)
    trials = {f"trial_{k:02d}": pick.normal(size=(n, 31, 3)).cumsum(0) for k, n in enumerate(frames)}
    np.savez(tmp_path / "mocap" / "raw" / "subject09_run.npz", edges=np.array(CMU.edges), **trials)
    return str(tmp_path / "mocap")


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """A folder with small recordings in place of the published ones, which are not asked for their checksums."""
    raw = tmp_path / "pedestrians" / "raw"
    raw.mkdir(parents=True)
    for name in published.RECORDINGS:
        rows = [f"{10 * t} {k} {0.1 * (k + 1) * t} {5.0 * k}" for k in range(4) for t in range(2 * k, 120)]
        (raw / f"{name}.txt").write_text("\n".join(rows))
    monkeypatch.setattr(published, "_published", lambda root, name: raw / f"{name}.txt")
    return str(raw.parent)


@pytest.fixture
def molecule(tmp_path):
    """A file with a simulation of ethanol's heavy atoms and three hydrogens."""
    place = [[0, -0.6, 0], [-1.3, 0.2, 0], [1.1, 0.3, 0], [0, -1.2, 0.9], [0, -1.2, -0.9], [1.9, -0.2, 0]]
    walk = 1e-3 * np.random.default_rng(0).normal(size=(120, 6, 3)).cumsum(0)
    np.savez(tmp_path / "ethanol.npz", R=np.array(place) + walk, z=np.array([6, 6, 8, 1, 1, 1]))
    return str(tmp_path / "ethanol.npz")


@pytest.fixture
def module(tmp_path, runs, streets, molecule):
    """Data modules by name, all of one target frame."""
    small = {"frames": [0, 2], "sizes": [12, 6, 6], "log": False}
    return {
        "charged": lambda: NBodyData(str(tmp_path), **small),
        "springs": lambda: NBodyData(str(tmp_path), system="springs", **small),
        "constrained": lambda: NBodyData(str(tmp_path), objects=[1, 1, 1], **small),
        "large": lambda: LargeNBodyData(str(tmp_path), protocol=Protocol("gravity", 20, every=10), **small),
        "mocap": lambda: MotionCaptureData(runs, log=False),
        "pedestrians": lambda: PedestrianData(streets, scene="eth", future=[12], log=False),
        "molecular": lambda: MolecularData(
            molecule, protocol=MolecularProtocol(3, (4,), 1, True, 2, "time", (9, 5, 5))
        ),
        "radius": lambda: MolecularData(molecule, protocol=SHORT, radius=2.0),
    }


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


def test_half_of_the_training_windows_are_shaken_on_the_ground(streets):
    options = {"scene": "zara1", "past": 4, "future": 3, "shuffle_seed": 0}
    plain, shaken = PedestrianData(streets, **options), PedestrianData(streets, jitter=0.1, **options)
    index = torch.arange(len(plain.split("train")))
    before, after = plain.fetch("train", index), shaken.fetch("train", index)
    moved = (after.history - before.history)[..., :2]
    windows = torch.stack([moved[before.batch == g].abs().amax() > 0 for g in range(before.num_graphs)])
    assert 0 < windows.float().mean() < 1
    assert 0.05 < float(moved[windows[before.batch]].std()) < 0.2
    assert torch.equal(after.pos, after.history[:, -1])
    torch.testing.assert_close(after.vel, (after.history[:, -1] - after.history[:, -2]) / 0.4)
    assert torch.equal(after.history[..., 2], before.history[..., 2])
    assert torch.equal(after.y, before.y)
    assert torch.equal(shaken.fetch("test", torch.arange(1)).pos, plain.fetch("test", torch.arange(1)).pos)
    with pytest.raises(ValueError, match="jitter must be at least 0, got -1"):
        PedestrianData(streets, jitter=-1, **options)


def test_shaken_batches_are_a_function_of_seed_epoch_and_batch(streets):
    options = {"scene": "zara1", "past": 4, "future": 3, "jitter": 0.1}

    def history(epoch, seed=0):
        loader = PedestrianData(streets, shuffle_seed=seed, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [batch.history for batch in loader]

    first, second = history(3), history(3)
    assert len(first) > 1
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    data, index = PedestrianData(streets, **options), torch.arange(20)
    same = data.fetch("train", index).history
    assert torch.equal(data.fetch("train", index).history, same)
    data.epoch = 1
    assert not torch.equal(data.fetch("train", index).history, same)
    assert not torch.equal(PedestrianData(streets, shuffle_seed=1, **options).fetch("train", index).history, same)


@pytest.mark.parametrize("height", [False, True])
def test_half_of_the_runners_are_shaken_as_a_whole(runs, height):
    options = {"protocol": "run", "height": height, "time_unit": 30, "shuffle_seed": 0}
    plain, shaken = MotionCaptureData(runs, **options), MotionCaptureData(runs, jitter=0.1, **options)
    index = torch.arange(200)
    before, after = plain.fetch("train", index), shaken.fetch("train", index)
    moved = (after.pos - before.pos).view(200, 31, 3)
    faster = (after.vel - before.vel).view(200, 31, 3) / 30
    for noise in (moved, moved + faster):  # of the frame, and of the one after it
        torch.testing.assert_close(noise, noise[:, :1].expand_as(noise), rtol=0, atol=1e-4)
        windows = noise[:, 0].abs().amax(1) > 1e-3
        assert 60 < windows.sum() < 140
        assert 0.08 < float(noise[windows].std()) < 0.12
    torch.testing.assert_close(after.x[:, 0], after.vel.norm(dim=1) / 30)
    if height:
        torch.testing.assert_close(after.x[:, 1], after.pos[:, 1] / 10)
    assert torch.equal(after.y, before.y)
    assert torch.equal(shaken.fetch("train", index).pos, after.pos)
    shaken.epoch = 1
    assert not torch.equal(shaken.fetch("train", index).pos, after.pos)
    assert torch.equal(shaken.fetch("test", index).vel, plain.fetch("test", index).vel)
    with pytest.raises(ValueError, match="jitter must be at least 0, got -1"):
        MotionCaptureData(runs, jitter=-1, **options)


def test_a_shaken_training_resumes_to_the_same_weights(streets, tmp_path, monkeypatch, interrupted_at):
    monkeypatch.chdir(tmp_path)
    quieten()
    (tmp_path / "street.yaml").write_text(
        """
name: street
model:
  model:
    class_path: geoeq.layers.TypedMPNN
    init_args: {hidden: 4x0e + 2x1o, n_layers: 1, mode: soft, edge_dim: 0}
data:
  class_path: geoeq.forecast.pedestrian_data.PedestrianData
  init_args: {scene: eth, future: [12], batch_size: 30, jitter: 0.1, log: false}
trainer: {accelerator: cpu, max_epochs: 3, limit_train_batches: 3, limit_val_batches: 1}
"""
    )
    args = ["fit", "--config", "street.yaml", f"--data.root={streets}"]
    straight = ForecastCLI([*args, "--runs=straight"]).model
    with interrupted_at(2, 1):
        assert main([*args, "--runs=broken"]) == 130
    torch.manual_seed(5)  # as a new process would find another state
    resumed = ForecastCLI([*args, "--runs=broken", "--ckpt_path=last"]).model
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


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


def test_losses():
    ahead, there = torch.zeros(2, 5, 3), torch.tensor([3.0, 4.0, 0.0]).expand(2, 5, 3)
    assert float(ForecastModule(EGNN(), loss="mse").loss(ahead, there)) == pytest.approx(25 / 3)
    assert float(ForecastModule(EGNN(), loss="distance").loss(ahead, there)) == pytest.approx(5.0)
    with pytest.raises(ValueError, match=r"loss must be one of \['mse', 'distance'\], got 'mae'"):
        ForecastModule(EGNN(), loss="mae")


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


def test_true_paths_of_motion_are_all_frames_of_it(runs, tmp_path):
    data = MotionCaptureData(runs, log=False)
    paths, batch = data.true_paths(3), data.fetch("test", torch.arange(3))
    trials = MotionCapture.recordings(runs)
    for k, path in enumerate(paths):
        start, trial = int(batch.start[k]), int(batch.trial[k])
        torch.testing.assert_close(path, trials[trial].pos[start : start + 31].float())
    assert torch.equal(torch.cat([path[-1] for path in paths]), batch.y)
    shutil.rmtree(f"{runs}/raw")
    again = MotionCaptureData(runs, log=False)  # what is stored is all there is
    assert torch.equal(again.true_paths(1)[0], paths[0])
    for stored in (tmp_path / "mocap" / "processed").glob("run-test-*"):
        if torch.load(stored, weights_only=True)["tensors"]["y"].dim() == 4:
            stored.unlink()
    assert [path.shape[0] for path in again.true_paths(2)] == [2, 2]  # straight lines, where frames cannot be had


def test_true_paths_need_no_folder_that_can_be_written(runs, monkeypatch):
    data = MotionCaptureData(runs, log=False)
    data.prepare_data()

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("geoeq.datasets.stored.save_tensors", refuse)
    assert [path.shape[0] for path in data.true_paths(2)] == [2, 2]


@pytest.mark.parametrize("frames", [[0, 2], [1, 2, 4]])
@pytest.mark.parametrize("objects", [None, [1, 1, 1]])
def test_true_paths_of_bodies_end_at_the_targets(tmp_path, objects, frames):
    data = NBodyData(str(tmp_path), frames=frames, sizes=[4, 4, 4], objects=objects, log=False)
    paths, batch = data.true_paths(3), data.fetch("test", torch.arange(3))
    last = batch.y if batch.y.dim() == 2 else batch.y[:, -1]
    assert torch.allclose(torch.cat([path[0] for path in paths]).float(), batch.pos, atol=1e-6)
    assert torch.allclose(torch.cat([path[-1] for path in paths]).float(), last, atol=1e-6)
    assert data.horizon() == pytest.approx(0.1 * (frames[-1] - frames[0]))


def test_large_systems_have_the_drift_of_momentum_alone(module):
    data = module["large"]()
    batch = data.fetch("test", torch.arange(6))
    drifts = data.drifts(batch, batch.y.unsqueeze(1))
    assert list(drifts) == ["momentum_drift"]
    assert drifts["momentum_drift"].max() < 1e-4
    assert data.horizon() == pytest.approx(0.02)


def test_windows_count_by_the_frames_that_they_cover():
    recording, start = torch.tensor([0, 0, 0, 4]), torch.tensor([7, 8, 100, 8])
    assert share_of_frames(recording, start, 5) == pytest.approx((6 + 5 + 5) / 20)


def test_shares_of_independent_graphs(module, runs, streets):
    assert module["charged"]().independent() == module["molecular"]().independent() == 1.0
    graphs = MotionCapture(runs, split="train", log=False)
    frames = {(g.trial.item(), g.start.item() + k) for g in graphs for k in range(31)}
    assert module["mocap"]().independent() == pytest.approx(len(frames) / (31 * len(graphs)))


@pytest.mark.parametrize("stride", [1, 4])
def test_share_of_independent_windows_of_pedestrians(streets, stride):
    data = PedestrianData(streets, scene="eth", stride=stride, log=False)
    graphs = Pedestrians(streets, scene="eth", split="train", stride=stride, log=False)
    frames = {(g.recording.item(), g.start.item() // 10 + k) for g in graphs for k in range(20)}
    assert data.independent() == pytest.approx(len(frames) / (20 * len(graphs)))


def test_evidence_is_told_how_many_graphs_are_independent(module):
    data = module["mocap"]()
    trainer = SimpleNamespace(datamodule=data)
    for given, expected in ((None, data.independent()), (0.5, 0.5)):
        tuner = Evidence(independent=given)
        network = ForecastModule(TypedMPNN("4x0e + 2x1o", 1, mode="soft", node_dim=2), {"shift": "T(3)"}, tuner)
        network.trainer, network.audit_batch = trainer, None
        network.on_train_start()
        assert tuner.independent == expected
