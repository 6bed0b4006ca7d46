"""Human motion as graphs: the published protocols against loops, from arrays and Acclaim files; parts and mirror."""

import shutil

import numpy as np
import pytest
import torch
from helpers.mocap import FRAMES, arrays, load, write_runs
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from geoeq.datasets import MotionCapture
from geoeq.datasets.mocap import read_amc, read_asf
from geoeq.datasets.mocap.protocols import CMU, PROTOCOLS, SPLITS
from geoeq.groups import E, Mirror, Piecewise

# First of the published input frames of some trials, as in the authors' files.
RUN_STARTS = {
    "valid": {0: (78, 70, 73), 4: (17, 20, 76), 9: (70, 55, 32)},
    "test": {3: (21, 71, 3), 7: (2, 18, 79), 8: (80, 59, 88)},
}


WALK_STARTS = {
    "train": {20: (222, 139, 216), 1: (228, 103, 72), 16: (250, 278, 262)},
    "valid": {3: (239, 14, 122), 18: (243, 94, 288)},
    "test": {6: (108, 35, 182), 0: (115, 165, 75), 10: (287, 243, 44)},
}


CHILDREN = {parent: [j for j, p in enumerate(CMU.parents) if p == parent] for parent in range(len(CMU))}


def asf_text(lost=()):
    """A skeleton of CMU's joints, each bone of its own length along an axis, with one degree of freedom."""
    bones, tree = "", ""
    for joint, name in enumerate(CMU.names[1:], 1):
        if name not in lost:
            way = "1 0 0" if name[0] == "l" and name[:5] != "lower" else "-1 0 0" if name[0] == "r" else "0 1 0"
            bones += f"begin\nid {joint}\nname {name}\ndirection {way}\nlength {1 + 0.1 * joint}\n"
            bones += "axis 0 0 10 XYZ\ndof rx\nend\n"
    for joint, below in CHILDREN.items():
        names = [CMU.names[child] for child in below if CMU.names[child] not in lost]
        if names and CMU.names[joint] not in lost:
            tree += f"{CMU.names[joint]} {' '.join(names)}\n"
    head = ":version 1.10\n:units\nlength 0.45\nangle deg\n:root\norder TX TY TZ RX RY RZ\naxis XYZ\n"
    return f"{head}position 0 0 0\norientation 0 0 0\n:bonedata\n{bones}:hierarchy\nbegin\n{tree}end\n"


def amc_text(n_frames, place=(0.0, 17.0, -30.0), seed=0):
    """A motion whose root starts at a place and goes along z, with slowly turning bones."""
    angle = np.random.default_rng(seed).normal(size=(n_frames, 36)).cumsum(0).round(3)
    text = ":FULLY-SPECIFIED\n:DEGREES\n"
    for t, frame in enumerate(angle.tolist()):
        root = " ".join(map(repr, (*place[:2], place[2] + 0.3 * t, *frame[:3])))
        rest = "".join(f"{name} {value!r}\n" for name, value in zip(CMU.names[1:], frame[6:]))
        text += f"{t + 1}\nroot {root}\n{rest}"
    return text


@pytest.fixture
def root(tmp_path):
    """A folder with made-up arrays of the run set."""
    write_runs(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    """A folder with Acclaim files of the walking set, as a user would download them."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "raw").mkdir()
    (folder / "raw" / "35.asf").write_text(asf_text())
    for number in PROTOCOLS["walk"].files:
        (folder / "raw" / f"35_{number:02d}.amc").write_text(amc_text(335, (0.1 * number, 17.0, -30.0), number))
    return folder


def test_a_graph_is_a_pose_its_velocity_and_a_later_pose(root):
    trials = arrays()
    data = load(root, split="test", dtype="float64", future=(10, 30))
    for row in (0, 79, 80, 239):
        graph = data[row]
        pos, t = trials[f"trial_{int(graph.trial):02d}"], int(graph.start)
        assert np.array_equal(graph.pos, pos[t])
        assert np.array_equal(graph.vel, pos[t + 1] - pos[t])
        assert np.array_equal(graph.y, pos[[t + 10, t + 30]].transpose(1, 0, 2))
        graph.validate(raise_on_error=True)
    assert load(root, dtype="float64")[3].y.shape == (31, 3)


def test_the_height_is_a_feature_or_not(root):
    with_height, without = load(root), load(root, height=False)
    for k in (0, 150):
        pos, vel = with_height[k].pos, with_height[k].vel
        assert torch.equal(pos, without[k].pos)
        torch.testing.assert_close(with_height[k].x, torch.stack([vel.norm(dim=1), pos[:, 1] / 10], 1))
        torch.testing.assert_close(without[k].x, vel.norm(dim=1, keepdim=True))


def test_edges_are_paths_of_one_and_two_bones(root):
    graph = load(root)[0]
    bone = np.zeros((31, 31), dtype=int)
    for joint, parent in CMU.edges:
        bone[joint, parent] = bone[parent, joint] = 1
    two = bone @ bone
    expected = {
        (i, j): 1 if bone[i, j] else 2 for i in range(31) for j in range(31) if i != j and bone[i, j] + two[i, j]
    }
    assert len(CMU.edges) == 30
    assert dict(zip(map(tuple, graph.edge_index.T.tolist()), graph.edge_attr[:, 0].int().tolist())) == expected
    assert [list(expected.values()).count(hops) for hops in (1, 2)] == [60, 70]


@pytest.mark.parametrize("split", SPLITS)
def test_input_frames_are_the_published_ones(root, walkers, split):
    for protocol, folder, pinned in (("run", root, RUN_STARTS), ("walk", walkers, WALK_STARTS)):
        data = load(folder, protocol, split)
        drawn = {trial: data.start[data.trial == trial].tolist() for trial in data.trial.unique().tolist()}
        assert sorted(drawn) == sorted(PROTOCOLS[protocol].trials[SPLITS.index(split)])
        sizes = {"run": (200, 240, 240), "walk": (198, 600, 600)}[protocol]
        assert len(data) == sizes[SPLITS.index(split)]
        for trial, first in pinned.get(split, {}).items():
            assert drawn[trial][: len(first)] == list(first)
        for frames in drawn.values():
            assert len(set(frames)) == len(frames) == len(data) // len(drawn)
            assert max(frames) < PROTOCOLS[protocol].first_frames


def test_splits_share_no_trial():
    for protocol in PROTOCOLS.values():
        trials = [trial for split in protocol.trials for trial in split]
        assert sorted(trials) == list(range(protocol.n_trials))


def test_walks_from_acclaim_files_of_a_user(walkers):
    data = load(walkers, "walk", "valid", dtype="float64", height=False)
    rig = read_asf(walkers / "raw" / "35.asf")
    for row in (0, 333, 599):
        graph = data[row]
        # trials are numbered in the order of the files
        motion = read_amc(walkers / "raw" / f"35_{PROTOCOLS['walk'].files[int(graph.trial)]:02d}.amc", rig)
        t = int(graph.start)
        for name, expected in (("pos", motion.pos[t]), ("vel", motion.pos[t + 1] - motion.pos[t])):
            assert torch.equal(graph[name], expected)
        assert torch.equal(graph.y, motion.pos[t + 30])
    walks = MotionCapture.recordings(walkers, "walk")
    assert len(walks) == 23
    assert all(walk.time_step == 1 / 120 for walk in walks)


@pytest.mark.parametrize("split", SPLITS)
def test_walks_from_arrays_equal_those_from_acclaim_files(walkers, tmp_path, split):
    """Whoever has the published arrays puts them in the place of the files; here the arrays are made from these."""
    trials = {f"trial_{k:02d}": walk.pos.numpy() for k, walk in enumerate(MotionCapture.recordings(walkers, "walk"))}
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "subject35_walk.npz", edges=np.array(CMU.edges), **trials)
    ours, theirs = (load(folder, "walk", split, future=range(26, 31)) for folder in (tmp_path, walkers))
    assert len(ours) == len(theirs) == {"train": 198, "valid": 600, "test": 600}[split]
    index = torch.arange(len(ours))
    a, b = ours.fetch(index), theirs.fetch(index)
    assert set(a.keys()) == set(b.keys())
    for name in a.keys():  # noqa: SIM118 (a Batch iterates over values)
        assert torch.equal(a[name], b[name]), name


def test_runs_from_acclaim_files_come_in_the_published_order(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "09.asf").write_text(asf_text())
    starts, order = PROTOCOLS["run"].starts, np.random.default_rng(3).permutation(11)
    for number, trial in zip(PROTOCOLS["run"].files, order.tolist()):
        *place, n_frames = starts[trial]
        skipped = 6 * (number == 10)  # the published arrays lack the first frames of one recording
        place[2] -= 0.3 * skipped
        (tmp_path / "raw" / f"09_{number:02d}.amc").write_text(amc_text(n_frames + skipped, place, trial))
    runs = MotionCapture.recordings(tmp_path, "run")
    assert tuple(len(run.pos) for run in runs) == FRAMES
    for run, start in zip(runs, starts):
        assert run.pos[0, 0].tolist() == pytest.approx(start[:3], abs=1e-9)
    assert len(load(tmp_path, split="test")) == 240


def test_batches_equal_collation(root):
    data = load(root)
    index = torch.tensor([30, 0, 55, 30])
    ours, theirs = data.fetch(index), Batch.from_data_list([data[int(i)] for i in index])
    assert set(ours.keys()) == set(theirs.keys())
    for name in ours.keys():  # noqa: SIM118 (a Batch iterates over values)
        assert torch.equal(ours[name], theirs[name]), name
    (batch,) = DataLoader(data[:10], batch_size=10)
    assert torch.equal(batch.y, data.fetch(torch.arange(10)).y)


def test_stored_once_and_then_loaded_without_the_recordings(root, capsys):
    first = MotionCapture(root)
    assert "made run-train (train) in" in capsys.readouterr().err
    shutil.rmtree(root / "raw")
    again = MotionCapture(root)
    assert capsys.readouterr().err == ""
    assert torch.equal(first[7].pos, again[7].pos)
    changes = [{"height": False}, {"future": (20,)}, {"max_samples": 50}, {"dtype": "float64"}, {"split": "test"}]
    for change in [{"force_reload": True}, *changes]:
        with pytest.raises(FileNotFoundError, match=r"raw must hold subject09_run\.npz, or 09\.asf and its AMC files"):
            load(root, **change)


def test_fewer_samples_are_the_first_of_each_trial(root):
    all_of_them, few = load(root), load(root, max_samples=12)
    assert len(few) == 10
    for trial in few.trial.unique():
        assert torch.equal(few.start[few.trial == trial], all_of_them.start[all_of_them.trial == trial][:2])
    shutil.rmtree(root / "raw")
    assert len(load(root, max_samples=np.int64(12))) == 10  # the same file


def test_root_is_found_through_the_environment(root, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOEQ_DATA", str(tmp_path / "all"))
    shutil.copytree(root / "raw", tmp_path / "all" / "mocap" / "raw")
    assert len(MotionCapture(split="valid", log=False)) == 240
    assert (tmp_path / "all" / "mocap" / "processed").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "jump"}, r"protocol must be one of \['run', 'walk'\], got 'jump'"),
        ({"split": "val"}, "split must be one of"),
        ({"future": ()}, "future must be rising numbers of frames from 1"),
        ({"future": (0,)}, "future must be an integer >= 1"),
        ({"future": (30, 20)}, "future must be rising numbers of frames from 1"),
        ({"future": 30}, "future must be rising numbers of frames from 1"),
        ({"future": (60,)}, r"future must end at \d+ or before for trial_0\d, got 60"),
        ({"max_samples": 4}, "max_samples must be an integer >= 5, got 4"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
    ],
)
def test_wrong_arguments_are_named(root, change, message):
    with pytest.raises(ValueError, match=message):
        load(root, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": np.array(CMU.edges[:-1])}, r"must have the 30 edges of CMU's skeleton, got edges \[29, 2\]"),
        ({"trial_03": np.full((143, 31, 3), np.nan)}, r"trial_03 must be finite \[T, 31, 3\]"),
        ({"trial_03": np.zeros((143, 30, 3))}, r"trial_03 must be finite \[T, 31, 3\], got float64 \[143, 30, 3\]"),
        ({"trial_03": np.zeros((143, 31, 3), dtype=int)}, "trial_03 must be finite"),
        ({"trial_03": np.zeros(())}, r"trial_03 must be finite \[T, 31, 3\], got float64 \[\]"),
        ({"trial_05": np.zeros((60, 31, 3))}, r"trial_05 must have at least \d+ frames for run, got 60"),
        ({"trial_05": np.zeros((0, 31, 3))}, r"trial_05 must have at least \d+ frames for run, got 0"),
        ({"trial_03": np.array([None])}, "is truncated, altered or not an npz file of arrays"),
    ],
)
def test_arrays_of_something_else_are_refused(root, change, message):
    np.savez(root / "raw" / "subject09_run.npz", **arrays(**change))
    with pytest.raises(ValueError, match=message):
        load(root)


def test_damaged_and_missing_files_are_named(root, walkers, tmp_path):
    path = root / "raw" / "subject09_run.npz"
    whole = path.read_bytes()
    for kept in (0, 1000, len(whole) - 20):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"subject09_run\.npz is truncated, altered"):
            load(root)
    some = {name: value for name, value in arrays().items() if name != "trial_10"}
    np.savez(path, **some)
    with pytest.raises(ValueError, match=r"subject09_run\.npz has no array trial_10"):
        load(root)
    other = tmp_path / "other"
    shutil.copytree(walkers / "raw", other / "raw")
    (other / "raw" / "35_31.amc").unlink()
    with pytest.raises(FileNotFoundError, match=r"35_31\.amc does not exist"):
        load(other, "walk")
    (other / "raw" / "35.asf").write_text(asf_text(lost=("rthumb",)))
    with pytest.raises(ValueError, match=r"35\.asf must have the 31 joints of CMU's skeleton, got 30 others"):
        load(other, "walk")


def test_parts_are_limbs_that_a_piecewise_group_moves_alone(root):
    graph = load(root, dtype="float64")[0]
    assert graph.part.bincount().tolist() == [7, 5, 5, 7, 7]
    for part, names in {1: "lhipjoint lfemur ltibia lfoot ltoes", 4: "rclavicle rhumerus"}.items():
        assert {CMU.names[j] for j in torch.nonzero(graph.part == part).flatten()} >= set(names.split())
    crossing = [(joint, parent) for joint, parent in CMU.edges if graph.part[joint] != graph.part[parent]]
    assert len(crossing) == 4  # every limb hangs from the trunk at one joint, so it is connected itself
    assert all(graph.part[parent] == 0 for _, parent in crossing)
    group = Piecewise(E(3))
    moved = group.act(group.sample(1)[0], graph.pos, position=True, part=graph.part)
    before, after = (torch.linalg.vector_norm(x[:, None] - x, dim=2) for x in (graph.pos, moved))
    same = graph.part[:, None] == graph.part
    assert torch.allclose(before[same], after[same], atol=1e-9)
    assert (before - after)[~same].abs().max() > 0.1


def test_the_mirror_exchanges_the_sides_and_keeps_the_graph(root):
    data = load(root, dtype="float64")
    mirror, graph = data.mirror, data[0]
    assert torch.equal(mirror[mirror], torch.arange(31))
    names = [CMU.names[j] for j in mirror]
    assert names[1:11] == [*CMU.names[6:11], *CMU.names[1:6]]  # the legs
    assert names[11:17] == list(CMU.names[11:17])  # the spine
    assert names[17:] == [*CMU.names[24:], *CMU.names[17:24]]  # the arms
    edges = dict(zip(map(tuple, graph.edge_index.T.tolist()), graph.edge_attr[:, 0].tolist()))
    swapped = {(int(mirror[j]), int(mirror[i])): hops for (j, i), hops in edges.items()}
    assert swapped == edges
    assert graph.part[mirror].tolist() == [[0, 2, 1, 4, 3][part] for part in graph.part.tolist()]
    # As a group: an element moves left to right and reverses the axis across the body.
    group = Mirror(mirror.tolist(), "x")
    (moved,) = (group.act(g, graph.pos, position=True) for g in group.discrete)
    assert torch.equal(moved, graph.pos[mirror] * torch.tensor([-1.0, 1.0, 1.0]))
