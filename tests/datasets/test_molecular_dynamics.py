"""Forecasts, energies and forces of molecules: protocols against plain loops, graphs, and real trajectories."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from geoeq.datasets import ForecastWindows, MolecularDynamics, Trajectory
from geoeq.datasets.molecular import PROTOCOLS, MolecularProtocol, read_trajectory
from geoeq.datasets.molecular.graphs import bonds, paths

ETHANOL = np.array(
    [
        [0.01, -0.57, 0.0],
        [-1.29, 0.25, 0.0],
        [1.13, 0.31, 0.0],
        [0.04, -1.21, 0.89],
        [0.04, -1.21, -0.89],
        [-1.32, 0.88, 0.89],
        [-1.32, 0.88, -0.89],
        [-2.15, -0.42, 0.0],
        [1.93, -0.22, 0.0],
    ]
)
Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
SHORT = MolecularProtocol(past=3, future=(1, 4), every=2, hydrogen=True, split="time", sizes=(None, None, None))


def frames(n_frames):
    walk = np.random.default_rng(1).standard_normal((n_frames, len(Z), 3)).cumsum(0)
    return ETHANOL + 1e-3 * walk


@pytest.fixture
def ethanol(tmp_path):
    """A file of as many frames as asked."""

    def ethanol(n_frames=200, **more):
        path = tmp_path / f"ethanol_{n_frames}_{len(more)}.npz"
        np.savez(path, **({"R": frames(n_frames), "z": Z} | more))
        return path

    return ethanol


def labels(n_frames):
    pick = np.random.default_rng(2)
    return {"E": -97000.0 + pick.standard_normal((n_frames, 1)), "F": pick.standard_normal((n_frames, len(Z), 3))}


@pytest.mark.parametrize(
    ("n_frames", "digests"),
    [(211762, ("78845 12943", "147336 139140", "91374 75502")), (555092, ("72691 59763", "224397 335891", "295712"))],
)
def test_random_inputs_are_the_published_ones(n_frames, digests):
    """First numbers of the published splits of aspirin and ethanol."""
    for split, digest, size in zip(("train", "valid", "test"), digests, (500, 2000, 2000), strict=True):
        start = PROTOCOLS["gmn"].starts(n_frames, split)
        assert len(start) == len(set(start.tolist())) == size
        assert " ".join(map(str, start.tolist())).startswith(digest)


def test_all_random_inputs_of_aspirin_are_the_published_ones():
    protocol = replace(PROTOCOLS["gmn"], sizes=(None, None, None))
    starts = [protocol.starts(211762, split) for split in ("train", "valid", "test")]
    assert [len(start) for start in starts] == [19176, 9588, 9588]
    together = np.concatenate(starts)
    assert len(set(together.tolist())) == len(together)
    assert hashlib.sha256(together.astype("<i8").tobytes()).hexdigest()[:16] == "149bc869e97dc3a1"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_time_split_never_crosses_a_border(split):
    """As the published code of the second protocol cuts, by a loop."""
    protocol = PROTOCOLS["geotdm"]
    start = protocol.starts(100001, split)
    usable = len(range(0, 100000, 10))
    first, last = {"train": (0, 0.6), "valid": (0.6, 0.8), "test": (0.8, 1.0)}[split]
    first, last = int(first * usable), int(last * usable)
    assert start[0] == first
    assert start[-1] + 30 <= last
    assert len(start) == (5000 if split == "train" else 1000)
    assert len(np.unique(np.diff(start))) == 1


def test_forecast_of_one_frame_follows_the_protocol(ethanol):
    path = ethanol(22000)
    data = MolecularDynamics(path, "valid", sizes=(20, 30, 10), dtype="float64")
    pos = frames(22000)[:, Z > 1]
    start = replace(PROTOCOLS["gmn"], sizes=(20, 30, 10)).starts(22000, "valid")
    assert len(data) == 30
    for row in (0, 17):
        graph, t = data[row], start[row]
        assert int(graph.start) == t
        assert np.array_equal(graph.pos.numpy(), pos[t])
        assert np.array_equal(graph.vel.numpy(), pos[t + 1] - pos[t])
        assert np.array_equal(graph.y.numpy(), pos[t + 3000])
        assert graph.z.tolist() == [6, 6, 8]
    # C-C and C-O are bonds, C C O a path of two
    assert data[0].edge_index.tolist() == [[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]]
    assert data[0].edge_attr.flatten().tolist() == [1, 1, 1, 2, 1, 2]


def test_velocities_are_per_frame_that_is_used(ethanol):
    every_fifth = MolecularProtocol(past=1, future=(3,), every=5, split="time", sizes=(None,) * 3)
    graph = MolecularDynamics(ethanol(301), "train", protocol=every_fifth, dtype="float64")[2]
    pos, t = frames(301)[:, Z > 1], int(graph.start)
    assert np.allclose(graph.vel.numpy(), 5 * (pos[t + 1] - pos[t]))
    assert np.array_equal(graph.y.numpy(), pos[t + 15])


def test_forecast_of_several_frames_equals_windows_of_the_trajectory(ethanol):
    data = MolecularDynamics(ethanol(301), "train", protocol=SHORT, dtype="float64")
    windows = ForecastWindows([replace(data.trajectory, pos=data.trajectory.pos[:90])], past=3, future=[1, 4])
    assert len(data) == len(windows) == 90 - 7 + 1
    assert data.trajectory.time_step == 1.0
    for name in ("pos", "history", "y"):
        assert torch.equal(data[5][name], windows[5][name]), name
    assert torch.equal(data[5].vel, data[5].pos - data[5].history[:, -2])
    assert int(data[5].start) == 10
    assert data[5].y.shape == (9, 2, 3)


def test_energies_and_forces(ethanol):
    known = labels(60)
    path = ethanol(60, **known)
    splits = [
        MolecularDynamics(path, split, target="energy", sizes=(20, 10, 30)) for split in ("train", "valid", "test")
    ]
    starts = torch.cat([data[:].start for data in splits])
    assert sorted(starts.tolist()) == list(range(60))
    train = splits[0]
    assert train.energy_mean == splits[2].energy_mean == pytest.approx(known["E"][train.start].mean(), abs=1e-9)
    assert abs(float(train.y.mean())) < 1e-6
    row = int(train[3].start)
    # in float32 the energy itself would be off by up to 0.004
    assert float(train[3].y) + train.energy_mean == pytest.approx(known["E"][row, 0], abs=1e-6)
    assert torch.equal(train[3].force, torch.from_numpy(known["F"][row]).float())
    assert torch.equal(train[3].pos, torch.from_numpy(frames(60)[row]).float())
    assert set(train[3].keys()) == {"pos", "force", "y", "z", "start", "edge_index", "edge_attr"}
    other = MolecularDynamics(path, target="energy", sizes=(20, 10, 30), seed=1)
    assert not torch.equal(other.start, train.start)


def test_radius_joins_who_is_near_at_each_frame(ethanol):
    data = MolecularDynamics(ethanol(60, **labels(60)), target="energy", sizes=(20, 1, 1), radius=2.16, dtype="float64")
    counts = set()
    for graph in data:
        distance = torch.cdist(graph.pos, graph.pos) + 9 * torch.eye(9)
        receiver, sender = torch.nonzero(distance <= 2.16).T
        assert graph.edge_index.tolist() == [sender.tolist(), receiver.tolist()]
        assert "edge_attr" not in graph
        counts.add(len(sender))
    assert len(counts) > 1


@pytest.mark.parametrize("radius", [None, 2.2])
def test_fetch_equals_collation(ethanol, radius):
    path = ethanol(301, **labels(301))
    for options in ({"protocol": SHORT}, {"target": "energy", "sizes": (20, 5, 5)}):
        data = MolecularDynamics(path, radius=radius, **options)
        index = torch.tensor([4, 0, 4])
        ours, theirs = data.fetch(index), Batch.from_data_list([data[int(i)] for i in index])
        assert sorted(ours.keys()) == sorted(theirs.keys())
        for name in ours.keys():  # noqa: SIM118 (a Batch iterates over values)
            assert torch.equal(ours[name], theirs[name]), name
        assert ours.y.shape[0] == (3 if "target" in options else 27)
        assert next(iter(DataLoader(data, 3))).num_graphs == 3


def test_rotated_recordings_give_rotated_graphs(ethanol):
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    path = ethanol(301)
    plain = MolecularDynamics(path, protocol=SHORT, radius=2.0, dtype="float64")
    moved = replace(plain.trajectory, pos=torch.from_numpy(frames(301)) @ turn.T + 3, time_step=0.5)
    moved = MolecularDynamics(moved, protocol=SHORT, radius=2.0, dtype="float64")
    assert torch.equal(moved.edge_index, plain.edge_index)
    assert torch.allclose(moved.vel, plain.vel @ turn.T, atol=1e-10)
    for name in ("pos", "history", "y"):
        assert torch.allclose(moved[7][name], plain[7][name] @ turn.T + 3, atol=1e-10)


def test_one_atom_is_a_graph_without_edges(tmp_path):
    path = tmp_path / "argon.npz"
    np.savez(path, R=np.random.default_rng(0).standard_normal((60, 1, 3)), z=np.array([18]))
    for radius in (None, 5.0):
        data = MolecularDynamics(path, protocol=SHORT, radius=radius)
        assert data[0].num_nodes == 1
        assert data[0].edge_index.shape == (2, 0)
        assert data.fetch(torch.tensor([0, 1])).edge_index.shape == (2, 0)


def test_drawn_frames_cannot_be_forecast(ethanol):
    path = ethanol(60, old_indices=np.arange(60)[::-1], **labels(60))
    with pytest.raises(ValueError, match="must hold frames that follow each other to be forecast, got old_indices"):
        MolecularDynamics(path, protocol=SHORT)
    assert len(MolecularDynamics(path, target="energy", sizes=(20, 5, 5))) == 20


def test_wrong_arguments_are_named(ethanol, tmp_path):
    path = ethanol(60, **labels(60))
    hydrogen = tmp_path / "hydrogen.npz"
    np.savez(hydrogen, R=np.zeros((60, 2, 3)), z=np.array([1, 1]))
    flat = Trajectory(torch.zeros(60, 2, 2), 1.0)
    plain = Trajectory(torch.zeros(60, 2, 3), 1.0)
    features = Trajectory(torch.zeros(60, 2, 3), 1.0, x=torch.zeros(2, 2))
    for arguments, options, message in [
        ((path, "val"), {}, "split must be one of"),
        ((path,), {"target": "dipole"}, "target must be one of"),
        ((path,), {"protocol": "egnn"}, "protocol must be one of"),
        ((path,), {"sizes": (1, 2)}, "sizes must be a sequence of 3 integers"),
        ((path,), {"sizes": (0, 2, 2)}, "sizes must be an integer >= 1"),
        ((path,), {"seed": -1}, "seed must be an integer >= 0"),
        ((path,), {"radius": 0.0}, "radius must be positive or None"),
        ((path,), {"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
        ((path,), {}, "frames must be at least 20021 for this protocol, got 60"),
        ((path, "test"), {"protocol": "geotdm"}, "frames of the test split must be at least 30, got 2"),
        ((path,), {"target": "energy"}, "sizes must be at most 60 together, the frames of .*, got"),
        ((ethanol(20100),), {"sizes": (10, 2000, 2000)}, "sizes must be at most 9 for train of 99 frames, got 10"),
        ((hydrogen,), {"protocol": replace(SHORT, hydrogen=False)}, "protocol must be one with hydrogen=True"),
        ((plain,), {"target": "energy"}, "recording must be the path of an npz file for energies, got Trajectory"),
        ((plain,), {"protocol": replace(SHORT, hydrogen=False)}, r"recording must have atomic numbers x \[n, 1\]"),
        ((flat,), {"protocol": SHORT}, r"recording must be of positions \[T, n, 3\]"),
        ((features,), {"protocol": SHORT}, r"recording must be of atomic numbers x \[n, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            MolecularDynamics(*arguments, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"aspirin\.npz does not exist"):
        MolecularDynamics("aspirin.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"past": 0}, "past must be an integer >= 1"),
        ({"future": ()}, "future must be rising"),
        ({"future": 30}, "future must be rising"),
        ({"sizes": 500}, "sizes must be three numbers"),
        ({"future": (3, 2)}, "future must be rising"),
        ({"future": (1, 5)}, "future must be 2 or more with past=1, whose velocity looks one frame ahead"),
        ({"split": "even"}, "split must be one of"),
        ({"sizes": (1, 2)}, "sizes must be three numbers"),
        ({"margin": 100}, "margin must be at least the last future frame, 3000, got 100"),
    ],
)
def test_wrong_protocols_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MolecularProtocol(**options)


@pytest.mark.parametrize("hops", [1, 2, 3, 5])
def test_paths_are_the_shortest(hops):
    edge_index = bonds(torch.from_numpy(ETHANOL))
    near = torch.full((9, 9), torch.inf)
    near[edge_index[1], edge_index[0]] = 1
    near.fill_diagonal_(0)
    for k in range(9):  # Floyd and Warshall
        near = torch.minimum(near, near[:, k : k + 1] + near[k : k + 1])
    receiver, sender = torch.nonzero((near > 0) & (near <= hops)).T
    found, length = paths(edge_index, 9, hops)
    assert found.tolist() == [sender.tolist(), receiver.tolist()]
    assert length.tolist() == near[receiver, sender].tolist()


def test_without_the_optional_package_the_error_names_the_extra(monkeypatch, tmp_path):
    path = tmp_path / "water.pdb"
    path.write_text("END\n")
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    with pytest.raises(ImportError, match=r"MDAnalysis is not installed; pip install 'geoeq\[data\]'"):
        read_trajectory(path)


def test_optional_packages_are_imported_only_when_they_are_used():
    program = "import sys, geoeq.datasets; print(sorted({'MDAnalysis', 'dysts'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def mdanalysis():
    return pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed: geoeq[data]")


@pytest.fixture
def water(mdanalysis, tmp_path):
    """An XYZ file of three frames of a water molecule."""
    lines = []
    for t in range(3):
        lines += ["3", f"frame {t}", f"O 0 0 {t}", f"H 0.96 0 {t}", f"H -0.24 0.93 {t}"]
    path = tmp_path / "water.xyz"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_files_of_other_programs(water):
    motion = read_trajectory(water, time_step=2.0)
    assert motion.pos.shape == (3, 3, 3)
    assert motion.pos[:, :, 2].tolist() == [[t] * 3 for t in range(3)]
    assert motion.x.flatten().tolist() == [8, 1, 1]
    assert (motion.time_step, motion.unit, motion.name) == (2.0, "Angstrom", "water")
    chosen = read_trajectory(water, select="name H", every=2, dtype=torch.float64)
    assert chosen.pos.shape == (2, 2, 3)
    assert chosen.ids.tolist() == [1, 2]
    assert chosen.time_step == 2000.0
    assert chosen.pos.dtype == torch.float64


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its readers that never opened, deleted
def test_what_mdanalysis_cannot_read_is_one_line(water, tmp_path):
    whole = water.read_bytes()
    cases = [
        (b"", "bad.xyz"),
        (whole[:20], "bad.xyz"),
        (b"text", "bad.gro"),
        (b"\0" * 90, "bad.dcd"),
        (b"x", "bad.foo"),
    ]
    for content, name in cases:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read by MDAnalysis \(") as error:
            read_trajectory(tmp_path / name)
        assert "\n" not in str(error.value)
        del error
        gc.collect()  # here, where the warning is expected
    (tmp_path / "short.xyz").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"(cannot be read by MDAnalysis|must hold 3 whole frames, got 2)"):
        read_trajectory(tmp_path / "short.xyz")
    with pytest.raises(ValueError, match="cannot be read by MDAnalysis"):
        read_trajectory(water, tmp_path / "bad.dcd")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.dcd does not exist"):
        read_trajectory(water, tmp_path / "nowhere.dcd")
    with pytest.raises(ValueError, match="select must be a choice of at least one atom, got 'name CA'"):
        read_trajectory(water, select="name CA")
    with pytest.raises(ValueError, match="cannot be read by MDAnalysis"):
        read_trajectory(water, select="atoms of my choice")
    water.write_bytes(whole.replace(b"-0.24", b"nan"))
    with pytest.raises(ValueError, match=r"water.xyz: positions must be finite, got \[nan, .*\] at frame 0"):
        read_trajectory(water)


@pytest.fixture
def adk(mdanalysis):
    """A real trajectory of adenylate kinase."""
    files = pytest.importorskip("MDAnalysisTests.datafiles", reason="MDAnalysisTests is not installed")
    return files.PSF, files.DCD


def test_adenylate_kinase(adk):
    """98 frames of 3341 atoms in 214 residues, four atoms of each in the backbone but for the last oxygen."""
    motion = read_trajectory(*adk, "backbone")
    assert motion.pos.shape == (98, 855, 3)
    assert motion.part.unique().tolist() == list(range(214))
    assert motion.x[:4].flatten().tolist() == [7, 6, 6, 8]
    assert motion.time_step == pytest.approx(1000.0)
    sender, receiver = motion.edge_index
    length = (motion.pos[0, sender] - motion.pos[0, receiver]).norm(dim=1)
    assert length.min() > 1.1
    assert length.max() < 1.7
    assert motion.edge_index.shape[1] == 2 * 854  # one chain of bonds, oxygens on it: a tree
    data = MolecularDynamics(motion, "train", protocol="protein", radius=10.0)
    assert len(data) == int(0.6 * 97) - 16 + 1
    assert torch.equal(data[3].y, motion.pos[18])
    assert torch.equal(data[3].vel, motion.pos[4] - motion.pos[3])
    whole = read_trajectory(*adk)
    assert whole.x.unique().tolist() == [1, 6, 7, 8, 16]
    heavy = MolecularDynamics(whole, "train", protocol=replace(PROTOCOLS["protein"], hydrogen=False))
    assert 1 not in heavy[0].z
    assert len(heavy[0].z) == int((whole.x != 1).sum())
