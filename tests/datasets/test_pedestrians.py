"""Pedestrians as graphs: windows of small crowds, splits, what is stored, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from geoeq.datasets import Pedestrians
from geoeq.datasets.batching import complete_graph
from geoeq.datasets.pedestrians import dataset as module
from geoeq.datasets.pedestrians import read_tracks, recordings


def walks(name, n_frames=60, n_people=4, first=0):
    """Text of a recording in which pedestrian k walks along x from frame 2 k on, all at speeds of their own."""
    lines = []
    for k in range(n_people):
        for t in range(2 * k, n_frames):
            lines.append(f"{10 * t + first}\t{k}.0\t{0.1 * (k + 1) * t}\t{10.0 * k + len(name)}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with eight small recordings in place of the published ones."""
    (tmp_path / "raw").mkdir()
    for name in module.RECORDINGS:
        (tmp_path / "raw" / f"{name}.txt").write_text(walks(name))
    contents = {name: (tmp_path / "raw" / f"{name}.txt").read_bytes() for name in module.RECORDINGS}
    known = {name: (len(text), hashlib.sha256(text).hexdigest()) for name, text in contents.items()}
    monkeypatch.setattr(module, "RECORDINGS", known)
    monkeypatch.setattr(module, "MIRRORS", ("http://127.0.0.1:9",))
    return tmp_path


def test_a_graph_is_a_window_of_the_recording(root):
    data = Pedestrians(root, "eth", "test", dtype="float64", log=False)
    assert len(data) == 60 - 20 + 1
    graph = data[3]  # of frames 3 to 22, at which pedestrians 0 and 1 are there
    assert set(graph.keys()) == {"pos", "vel", "history", "y", "edge_index", "ids", "start", "recording"}
    assert (graph.start.tolist(), graph.recording.tolist(), graph.ids.tolist()) == ([30], [0], [0, 1])
    (motion,) = recordings(root, ["biwi_eth"])
    path = motion.pos[3:23, :2].transpose(0, 1)
    for name, expected in (("pos", path[:, 7]), ("history", path[:, :8]), ("y", path[:, 8:])):
        torch.testing.assert_close(graph[name].float(), expected)
    torch.testing.assert_close(graph.vel, torch.tensor([[0.25, 0.0], [0.5, 0.0]]).double())  # 0.1 m in 0.4 s
    assert torch.equal(graph.edge_index, complete_graph(2))
    graph.validate(raise_on_error=True)


def test_one_pedestrian_alone_is_a_graph_without_edges(root):
    data = Pedestrians(root, "eth", "test", log=False)
    alone = data[0]
    assert alone.pos.shape == (1, 2)
    assert alone.edge_index.shape == (2, 0)
    assert len(Pedestrians(root, "eth", "test", min_pedestrians=2, log=False)) == len(data) - 2


def test_past_future_stride_and_radius(root):
    data = Pedestrians(root, "hotel", "test", past=3, future=[2, 5], stride=4, radius=12.0, log=False)
    assert data[0].start.tolist() == [0]
    assert data[1].start.tolist() == [40]
    graph, (motion,) = data[5], recordings(root, ["biwi_hotel"])
    assert graph.history.shape == (4, 3, 2)
    assert torch.equal(graph.y, motion.pos[[24, 27]].transpose(0, 1))
    near = torch.cdist(graph.pos, graph.pos) <= 12
    assert torch.equal(graph.edge_index, (near & ~torch.eye(4, dtype=torch.bool)).nonzero().T.flip(0))
    assert Pedestrians(root, "hotel", "test", future=1, log=False)[0].y.shape == (1, 2)


def test_the_ground_stands_in_space(root):
    flat, tall = Pedestrians(root, "hotel", "test", log=False), Pedestrians(root, "hotel", "test", space=3, log=False)
    index = torch.tensor([4, 30])
    for name in ("pos", "vel", "history", "y"):
        ours, expected = tall.fetch(index)[name], flat.fetch(index)[name]
        assert torch.equal(ours[..., :2], expected)
        assert torch.equal(ours[..., 2], torch.zeros_like(expected[..., 0]))
    assert torch.equal(tall[4].edge_index, flat[4].edge_index)
    assert len(list((root / "processed").iterdir())) == 1  # stored once for both


def test_splits_leave_the_scene_out_and_cut_frames_at_four_fifths(root):
    starts = {"train": (0, 470 - 40), "valid": (480, 590 - 40), "test": (0, 590 - 40)}
    for scene, tested in module.SCENES.items():
        for split in ("train", "valid", "test"):
            data = Pedestrians(root, scene, split, past=2, future=3, log=False)
            assert set(data.names) == (set(tested) if split == "test" else set(module.RECORDINGS) - set(tested))
            assert data.recording.unique().tolist() == list(range(len(data.names)))
            assert (data.start.min().item(), data.start.max().item()) == starts[split]
            name = data.names[data[-1].recording]
            assert data[-1].pos[0, 1] == len(name)  # walks() writes the length of the name as y


def test_batches_equal_collation(root):
    data = Pedestrians(root, "univ", "test", log=False)
    index = torch.tensor([30, 0, 55, 30])
    ours, theirs = data.fetch(index), Batch.from_data_list([data[int(i)] for i in index])
    assert set(ours.keys()) == set(theirs.keys())
    for name in ours.keys():  # noqa: SIM118
        assert torch.equal(ours[name], theirs[name]), name
    (batch,) = DataLoader(data[:10], batch_size=10)
    assert torch.equal(batch.y, data.fetch(torch.arange(10)).y)


def test_stored_once_and_then_loaded_without_the_recordings(root, capsys):
    first = Pedestrians(root, "zara1", "test")
    assert "made zara1-test (test) in" in capsys.readouterr().err
    shutil.rmtree(root / "raw")
    again = Pedestrians(root, "zara1", "test")
    assert capsys.readouterr().err == ""
    assert torch.equal(first.history, again.history)
    with pytest.raises(ValueError, match="could not be downloaded"):
        Pedestrians(root, "zara1", "test", min_pedestrians=2)
    with pytest.raises(ValueError, match="could not be downloaded"):
        Pedestrians(root, "zara1", "test", force_reload=True)


def test_what_the_numbers_depend_on_has_files_of_its_own(root):
    changes = [{}, {"past": 4}, {"future": 6}, {"stride": 2}, {"min_pedestrians": 2}, {"radius": 3.0}]
    changes += [{"dtype": "float64"}, {"split": "test"}, {"scene": "hotel"}]
    for change in changes:
        Pedestrians(root, log=False, **({"scene": "eth", "split": "train"} | change))
    assert len(list((root / "processed").iterdir())) == len(changes)


def test_a_recording_that_is_not_the_published_one_is_refused(root):
    path = root / "raw" / "biwi_eth.txt"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=r"biwi_eth\.txt must be the file with SHA-256 .* \(delete it"):
        Pedestrians(root, "eth", "test")
    with pytest.raises(ValueError, match=r"biwi_eth\.txt must be the file"):
        recordings(root)


def test_a_recording_is_read_once_for_all_scenes_and_anew_if_it_changes(root, monkeypatch):
    read = []
    monkeypatch.setattr(module, "read_tracks", lambda path: read.append(Path(path).stem) or read_tracks(path))
    sizes = [len(Pedestrians(root, scene, "train", log=False)) for scene in module.SCENES]
    Pedestrians(root, "eth", "train", force_reload=True, log=False)
    assert sorted(read) == sorted(module.RECORDINGS)
    assert len(set(sizes)) < len(sizes)
    content = walks("biwi_eth", n_frames=30).encode()
    (root / "raw" / "biwi_eth.txt").write_bytes(content)
    monkeypatch.setitem(module.RECORDINGS, "biwi_eth", (len(content), hashlib.sha256(content).hexdigest()))
    assert len(Pedestrians(root, "eth", "test", log=False)) == 30 - 20 + 1
    assert read[len(module.RECORDINGS) :] == ["biwi_eth"]


def test_roots(root, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOEQ_DATA", str(tmp_path / "all"))
    shutil.copytree(root / "raw", tmp_path / "all" / "pedestrians" / "raw")
    assert len(Pedestrians(scene="eth", split="test", log=False)) == 41
    assert (tmp_path / "all" / "pedestrians" / "processed").is_dir()
    with pytest.raises(ValueError, match="cannot be written") as error:
        Pedestrians(root / "raw" / "biwi_eth.txt", "eth", "test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene": "oxford"}, r"scene must be one of \['eth', 'hotel', 'univ', 'zara1', 'zara2'\], got 'oxford'"),
        ({"split": "val"}, "split must be one of"),
        ({"past": 1}, "past must be an integer >= 2, got 1"),
        ({"future": 0}, "future must be a number from 1, or rising steps from 1, got 0"),
        ({"future": [3, 2]}, "future must be a number from 1"),
        ({"future": [1.5]}, "future must be a number from 1"),
        ({"future": 1.5}, "future must be a number from 1, or rising steps from 1, got 1.5"),
        ({"future": "12"}, "future must be a number from 1"),
        ({"future": True}, "future must be a number from 1"),
        ({"future": []}, "future must be a number from 1"),
        ({"stride": 0}, "stride must be an integer >= 1"),
        ({"min_pedestrians": 0}, "min_pedestrians must be an integer >= 1"),
        (
            {"min_pedestrians": 9},
            r"past, future and min_pedestrians must be small enough to leave a window, got \(8, .*, 9\)",
        ),
        ({"radius": 0.0}, "radius must be positive or None, got 0.0"),
        ({"radius": float("nan")}, "radius must be positive or None, got nan"),
        ({"space": 1}, "space must be 2 or 3, got 1"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
    ],
)
def test_wrong_arguments_are_named(root, change, message):
    with pytest.raises(ValueError, match=message):
        Pedestrians(root, **change)
    with pytest.raises(ValueError, match="names must be one of"):
        recordings(root, ["oxford"])
