"""Tracks of pedestrians: the parser against a plain one, windows against loops, the published numbers, small crowds."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from geoeq.datasets import Pedestrians
from geoeq.datasets.batching import complete_graph
from geoeq.datasets.pedestrians import Tracks, cut_windows, read_tracks, recording, recordings
from geoeq.datasets.pedestrians import dataset as module

FUZZ = int(os.environ.get("GEOEQ_FUZZ", "500"))  # inputs of the fuzz test
STREET = "0 1 0.0 0.0\n6 1 0.5 0.0\n12 1 1.0 0.0\n6 2 3.0 1.0\n12 2 3.0 1.5\n24 2 3.0 2.5\n"


@pytest.fixture
def street(tmp_path):
    """Writes a file and reads it."""

    def street(text, read=read_tracks):
        path = tmp_path / "street.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(path)

    return street


def rows(tracks):
    return [(f, i, *p) for f, i, p in zip(tracks.frame.tolist(), tracks.ids.tolist(), tracks.pos.tolist())]


def test_rows_are_read_in_any_order_and_spelling(street):
    expected = street(STREET)
    assert rows(expected)[1] == (6, 1, 0.5, 0.0)
    assert expected.step == 6
    lines = STREET.splitlines()
    for text in (
        "\n".join(lines[::-1]),
        STREET.replace(" ", "\t"),
        STREET.replace("\n", "\r\n"),
        "\n\n  " + STREET.replace("\n", " \n\n"),
        re.sub(r"^(\d+) (\d)", r"\1.0 \2e0", STREET, flags=re.MULTILINE),
    ):
        assert rows(street(text)) == rows(expected)
    assert street("-5 -2 +1.5e1 .5\n").pos.tolist() == [[15.0, 0.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 0 0\n6 1 0\n", "line 2: expected four numbers, frame id x y, got '6 1 0'"),
        ("0 1 0 0 0\n", "line 1: expected four numbers, frame id x y, got '0 1 0 0 0'"),
        ("0 1 0 0\n\n6 1 nan 0\n", "line 3: expected four numbers, frame id x y, got '6 1 nan 0'"),
        ("frame id x y\n0 1 0 0\n", "line 1: expected four numbers"),
        ("0,1,0,0\n", "line 1: expected four numbers"),
        ("0 1 1.2.3 0\n", "line 1: expected four numbers"),
        ("0 1 1_0 0\n", "line 1: expected four numbers"),
        ("0 1 1e999 0\n", "line 1: expected positions within 1e+06 m"),
        ("0 1 0 -2e6\n", "line 1: expected positions within 1e+06 m"),
        ("0.5 1 0 0\n", "line 1: expected whole numbers of frame and id"),
        ("0 1e30 0 0\n", "line 1: expected whole numbers of frame and id"),
        ("0 1 0 0\n6 1 0 0\n0 1 1 1\n", "line 3: pedestrian 1 is at frame 0 twice"),
        ("0 1 0 0\n9 2 0 0\n6 1 0 0\n12 1 0 0\n", "line 2: frames must lie multiples of 6 after frame 0, got 9"),
        (b"\xef\xbb\xbf0 1 0 0\n", "line 1: expected four numbers"),
        (b"0 1 0 0\n6 1 0 0\x00\n", "line 2: expected four numbers"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(street, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        street(text)
    assert re.fullmatch(r".*street\.txt, line .*", str(error.value))


def test_files_that_cannot_be_read(street, tmp_path):
    for text in ("", "\n \n"):
        with pytest.raises(ValueError, match=r"street.txt must hold rows of four numbers, frame id x y, got none"):
            street(text)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_tracks(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_tracks(tmp_path)


def plain_parser(content):
    """Rows of a file, or None if it is malformed: word by word."""
    number = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
    found = {}
    for text in content.split(b"\n"):
        words = [word for word in re.split(rb"[ \t\r]+", text) if word]
        if not words:
            continue
        if len(words) != 4 or not all(number.fullmatch(word) for word in words):
            return None
        frame, name, x, y = map(float, words)
        fits = all(abs(v) < 2**53 and v == round(v) for v in (frame, name)) and all(abs(v) <= 1e6 for v in (x, y))
        if not fits or (name, frame) in found:
            return None
        found[name, frame] = (x, y)
    order = sorted(found)
    gaps = [b[1] - a[1] for a, b in pairwise(order) if a[0] == b[0]]
    step = min(set(gaps), key=lambda gap: (-gaps.count(gap), gap)) if gaps else 1
    start = min((frame for _, frame in order), default=0)
    if not order or any((int(frame) - int(start)) % int(step) for _, frame in order):
        return None
    return [(int(frame), int(name), *found[name, frame]) for name, frame in order]


WORDS = [b"", b"0", b"-1", b"6", b"1e3", b"1e400", b"nan", b"inf", b"0x1", b"1_0", b".", b"-", b"e", b"1e", b"9" * 20]
WORDS += [b"1.5", b"\xff", b"1,5", b"\n", b"\r", b"\t\t", b"\x0b", b"\x00", b"# 1", b"1 2 3 4", b"4e15", b"-0"]


def mutated(content, generator):
    """A few bytes, words or lines of the file replaced, removed, repeated or put elsewhere."""
    for _ in range(generator.integers(1, 4)):
        kind = generator.integers(7)
        if kind < 3:
            cut = [b"\n", b" ", b""][kind]
            pieces = content.split(cut) if cut else [content[i : i + 1] for i in range(len(content))]
            place = generator.integers(max(len(pieces), 1))
            new = WORDS[generator.integers(len(WORDS))] if kind else pieces[generator.integers(len(pieces) or 1)]
            pieces[place : place + generator.integers(2)] = [new]
            content = cut.join(pieces)
        elif kind == 3:
            place = generator.integers(len(content) + 1)
            content = content[:place] + generator.bytes(1) + content[place + 1 :]
        elif kind == 4:
            content = content[: generator.integers(len(content) + 1)]
        elif kind == 5:
            lines = content.split(b"\n")
            content = b"\n".join(lines[i] for i in generator.permutation(len(lines)))
        else:
            content = content.replace(b"%d" % generator.integers(10), b"%d" % generator.integers(-9, 30), 1)
    return content


def test_fuzzed_files_are_read_as_by_a_plain_parser_or_refused(street):
    generator, accepted = np.random.default_rng(0), 0
    for _ in range(FUZZ):
        content = mutated(STREET.encode(), generator)
        expected = plain_parser(content)
        try:
            tracks = street(content)
        except ValueError as error:
            assert expected is None, content
            assert re.fullmatch(r"[^\n]*street\.txt[^\n]*", str(error))  # noqa: PT017
            continue
        assert rows(tracks) == expected, content
        accepted += 1
        windows = cut_windows(tracks, 2)
        assert windows.rows.shape == (windows.size.sum(), 2)
        try:
            motion = street(content, recording)
        except ValueError as error:
            assert "frames x pedestrians" in str(error)  # noqa: PT017
            continue
        assert motion.pos.shape == (*motion.present.shape, 2)
        assert motion.present.sum() == len(expected)
    assert 0.1 * FUZZ < accepted < 0.9 * FUZZ


def test_a_recording_is_a_table_of_frames_and_pedestrians(street):
    motion = street(STREET, lambda path: recording(path, dtype=torch.float64))
    assert motion.pos.shape == (5, 2, 2)  # frame 18, at which nobody is seen, is there too
    assert (motion.time_step, motion.unit, motion.name) == (0.4, "m", "street")
    assert motion.ids.tolist() == [1, 2]
    assert motion.present.T.tolist() == [[True, True, True, False, False], [False, True, True, False, True]]
    assert torch.equal(motion.pos.isnan().any(2), ~motion.present)
    assert motion.pos[2].tolist() == [[1.0, 0.0], [3.0, 1.5]]
    with pytest.raises(ValueError, match="must span at most"):
        street("0 1 0 0\n1 1 0 0\n2 1 0 0\n1000000000000 1 0 0\n", recording)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("least", [1, 2])
def test_windows_equal_loops_over_frames_and_people(stride, least):
    generator = np.random.default_rng(stride + least)
    cells = np.argwhere(generator.random((5, 40)) < 0.8)  # [R, (pedestrian, frame)], in order
    ids, frame = cells.T + np.array([[3], [7]])
    tracks = Tracks(frame * 10, ids, generator.random((len(ids), 2)), 10)
    windows = cut_windows(tracks, 4, stride, least)
    there = {(i, f): row for row, (i, f) in enumerate(zip(ids.tolist(), frame.tolist()))}
    expected = []
    for start in range(frame.min(), frame.max() + 1, stride):
        people = [i for i in range(3, 8) if all((i, start + k) in there for k in range(4))]
        if len(people) >= least:
            expected.append((start * 10, [[there[i, start + k] for k in range(4)] for i in people]))
    assert windows.start.tolist() == [start for start, _ in expected]
    assert windows.size.tolist() == [len(people) for _, people in expected]
    assert windows.rows.tolist() == [row for _, people in expected for row in people]


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


# Rows, pedestrians, and distinct frames of the published files.
ROWS = {
    "biwi_eth": (5492, 360, 876),
    "biwi_hotel": (6543, 389, 1168),
    "students001": (21813, 415, 444),
    "students003": (17953, 434, 541),
    "uni_examples": (2747, 118, 734),
    "crowds_zara01": (5153, 148, 872),
    "crowds_zara02": (9722, 204, 1052),
    "crowds_zara03": (5005, 137, 754),
}
# Windows and pedestrians in them, of train, valid, test; with at least one pedestrian a window, and with at least two.
# The loader published with Social-GAN gives the same on the files of its split, with min_ped 0 and 1.
COUNTS = {
    ("eth", 1): [(3283, 30307), (733, 5422), (253, 364)],
    ("hotel", 1): [(3118, 29676), (688, 5203), (445, 1197)],
    ("univ", 1): [(2719, 9874), (622, 2800), (947, 24334)],
    ("zara1", 1): [(2889, 28577), (671, 5184), (705, 2356)],
    ("zara2", 1): [(2681, 26076), (590, 4262), (998, 5910)],
    ("eth", 2): [(2785, 29809), (660, 5349), (70, 181)],
    ("hotel", 2): [(2594, 29152), (621, 5136), (301, 1053)],
    ("univ", 2): [(2076, 9231), (530, 2708), (947, 24334)],
    ("zara1", 2): [(2322, 28010), (605, 5118), (602, 2253)],
    ("zara2", 2): [(2112, 25507), (501, 4173), (921, 5833)],
}
# Metres: average and final displacement error on the test windows if everyone keeps the last velocity.
CONSTANT_VELOCITY = {
    "eth": (1.075, 2.282),
    "hotel": (0.319, 0.614),
    "univ": (0.524, 1.165),
    "zara1": (0.427, 0.952),
    "zara2": (0.324, 0.724),
}


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    folder = shared_data / "eth-ucy"
    if not folder.is_dir():
        pytest.skip("the published recordings are not beside this checkout")
    root = tmp_path_factory.mktemp("pedestrians")
    shutil.copytree(folder, root / "raw")
    return root


def test_rows_of_the_published_files(published):
    for name, expected in ROWS.items():
        tracks = read_tracks(published / "raw" / f"{name}.txt")
        assert (len(tracks.ids), len(np.unique(tracks.ids)), len(np.unique(tracks.frame))) == expected, name
        assert tracks.step == 10
    for motion in recordings(published):
        assert motion.present.sum() == ROWS[motion.name][0]


@pytest.mark.parametrize(("scene", "least"), COUNTS)
def test_windows_of_the_published_protocol(published, scene, least):
    counts = []
    for split in ("train", "valid", "test"):
        data = Pedestrians(published, scene, split, min_pedestrians=least, log=False)
        counts.append((len(data), len(data.pos)))
        sizes = data.slices["pos"].diff()
        assert sizes.min() >= least
        assert data._data.edge_index.shape[1] == (sizes * (sizes - 1)).sum()
    assert counts == COUNTS[scene, least]


@pytest.mark.parametrize("scene", CONSTANT_VELOCITY)
def test_constant_velocity(published, scene):
    data = Pedestrians(published, scene, "test", log=False)
    times = 0.4 * torch.arange(1, 13)[:, None]
    distance = (data.pos[:, None] + times * data.vel[:, None] - data.y).norm(dim=2)
    assert (distance.mean().item(), distance[:, -1].mean().item()) == pytest.approx(CONSTANT_VELOCITY[scene], abs=5e-4)
