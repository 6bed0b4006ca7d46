"""The vehicle task on files that the test writes: filters, splits, centring without the future, damaged files."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from geoeq.datasets import WaymoMotion
from geoeq.datasets.waymo import framed, parse_scenario, read_scenarios
from geoeq.datasets.waymo.dataset import chosen_objects

FRAMES = 30


def number(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def block(key, content):
    return number(key << 3 | 2) + number(len(content)) + content


def scenario(objects):
    """Objects are (kind, positions [T, 3], valid [T])."""
    data = b"".join(number(1 << 3 | 1) + struct.pack("<d", 0.1 * t) for t in range(len(objects[0][1])))
    for ident, (kind, pos, valid) in enumerate(objects):
        track = number(1 << 3) + number(ident + 5) + number(2 << 3) + number(kind)
        for point, seen in zip(pos, valid, strict=True):
            state = b"".join(number(key << 3 | 1) + struct.pack("<d", x) for key, x in zip((2, 3, 4), point))
            track += block(3, (state if seen else b"") + number(11 << 3) + number(int(seen)))
        data += block(2, track)
    return data + block(5, b"made up")


def drive(x=1.0, y=0.0, z=0.1, n_frames=FRAMES, seed=0):
    """Moves by (x, y, z) in the first 10 frames, at that speed and with some noise off the frames of the filter."""
    t = np.arange(n_frames)[:, None] / 10
    noise = 0.01 * np.random.default_rng(seed).standard_normal((n_frames, 3))
    noise[[0, 10]] = 0
    return np.array([1000.0, -2000.0, 5.0]) + t * np.array([x, y, z]) + noise


SEEN = np.ones(FRAMES, dtype=bool)
GAP = SEEN.copy()
GAP[23] = False
LATE_GAP = SEEN.copy()
LATE_GAP[24] = False


@pytest.fixture
def waymo(tmp_path):
    """A folder with that many files of one scenario each, which has as many objects as the file's number plus one."""

    def waymo(n_files):
        raw = tmp_path / "raw"
        raw.mkdir(exist_ok=True)
        for n in range(n_files):
            objects = [(1 + i % 3, drive(seed=10 * n + i), SEEN) for i in range(n + 1)]
            path = raw / f"training.tfrecord-{n:05d}-of-{n_files:05d}"
            path.write_bytes(framed(scenario(objects)))
        return tmp_path

    return waymo


def test_filters():
    objects = [
        (1, drive(), SEEN),
        (1, drive(), GAP),
        (1, drive(), LATE_GAP),
        (1, drive(z=0.049), SEEN),
        (2, drive(z=-0.051), SEEN),
        (1, drive(x=5.1), SEEN),
        (1, drive(x=-4.9, y=4.9), SEEN),
        (1, drive(y=-5.1), SEEN),
    ]
    made = parse_scenario(scenario(objects))
    assert chosen_objects(made).tolist() == [0, 2, 4, 6]
    assert chosen_objects(made, min_rise=0.0, max_move=10.0).tolist() == [0, 2, 3, 4, 5, 6, 7]
    short = parse_scenario(scenario([(1, drive(n_frames=23), SEEN[:23])]))
    assert chosen_objects(short).tolist() == []


def test_files_are_split_four_to_one_to_one(waymo):
    root = waymo(13)
    splits = {split: WaymoMotion(root, split, portion=1.0, log=False) for split in ("train", "valid", "test")}
    names = {split: [path.name[18:23] for path in data.files()] for split, data in splits.items()}
    assert names == {
        "train": [f"{n:05d}" for n in range(9)],
        "valid": ["00009", "00010"],
        "test": ["00011", "00012"],
    }
    assert [len(data) for data in splits.values()] == [sum(range(1, 10)), 10 + 11, 12 + 13]
    assert splits["valid"][:].file.flatten().tolist() == [0] * 10 + [1] * 11


def test_a_tenth_of_the_files_is_used(waymo):
    root = waymo(6)
    with pytest.raises(FileNotFoundError, match=r"raw must hold at least 60 tfrecord files, got 6"):
        WaymoMotion(root, log=False)
    for n in range(6, 69):
        (root / "raw" / f"training.tfrecord-{n:05d}-of-00069").write_bytes(b"not looked at")
    assert [len(WaymoMotion(root, split, log=False)) for split in ("train", "valid", "test")] == [10, 5, 6]


def test_a_graph_holds_twelve_points_centred_at_the_first_six(waymo):
    root = waymo(6)
    data = WaymoMotion(root, "train", portion=1.0, dtype="float64", log=False)
    graph = data[1]  # first object of the second file
    points = torch.from_numpy(drive(seed=10))[:24:2]
    assert torch.allclose(graph.origin[0], points[:6].mean(0), atol=1e-12)
    assert torch.allclose(graph.history[0] + graph.origin, points[:6], atol=1e-9)
    assert torch.allclose(graph.y[0] + graph.origin, points[6:], atol=1e-9)
    assert torch.equal(graph.pos, graph.history[:, -1])
    assert torch.allclose(graph.vel[0], (points[5] - points[4]) / 0.2, atol=1e-9)
    assert (int(graph.kind), int(graph.ids), int(graph.file)) == (1, 5, 1)
    assert graph.edge_index.shape == (2, 0)
    assert data.time_step == 0.2
    assert {value.dtype for name, value in WaymoMotion(root, portion=1.0, log=False)[0] if name in "pos vel y"} == {
        torch.float32
    }


def test_inputs_do_not_depend_on_the_future(waymo):
    """The published centring fails this: its inputs move with the points that are asked for."""
    root = waymo(6)
    plain = WaymoMotion(root, "train", portion=1.0, dtype="float64", log=False)
    path = root / "raw" / "training.tfrecord-00000-of-00006"
    moved = drive(seed=0)
    moved[11:] += 100.0
    path.write_bytes(framed(scenario([(1, moved, SEEN)])))
    other = WaymoMotion(root, "train", portion=1.0, dtype="float64", log=False, force_reload=True)
    for name in ("pos", "vel", "history", "origin"):
        assert torch.equal(plain[0][name], other[0][name]), name
    assert torch.allclose(other[0].y - plain[0].y, torch.full((1, 6, 3), 100.0, dtype=torch.float64))
    assert float(plain[0].history.sum().abs()) < 1e-9
    assert float((plain[0].history.sum() + plain[0].y.sum()).abs()) > 1


def test_fetch_equals_collation(waymo):
    data = WaymoMotion(waymo(6), "train", portion=1.0, log=False)
    index = torch.tensor([4, 0, 4])
    ours, theirs = data.fetch(index), Batch.from_data_list([data[int(i)] for i in index])
    assert sorted(ours.keys()) == sorted(theirs.keys())
    for name in ours.keys():  # noqa: SIM118 (a Batch iterates over values)
        assert torch.equal(ours[name], theirs[name]), name


def test_stored_files_outlive_the_raw_ones(waymo, capfd):
    root = waymo(6)
    first = WaymoMotion(root, "test", portion=1.0)
    assert "WaymoMotion: made motion-test (test)" in capfd.readouterr().err
    for path in (root / "raw").iterdir():
        path.unlink()
    assert torch.equal(WaymoMotion(root, "test", portion=1.0).y, first.y)
    with pytest.raises(FileNotFoundError, match="must hold at least 6 tfrecord files, got 0"):
        WaymoMotion(root, "test", portion=1.0, min_rise=0.06)


def test_damaged_files_leave_nothing(waymo):
    root = waymo(6)
    path = root / "raw" / "training.tfrecord-00002-of-00006"
    whole = path.read_bytes()
    altered = bytearray(whole)
    altered[-20] ^= 1
    lost = drive()
    lost[7, 1] = np.nan
    for content, message in [
        (whole[:-9], r"00002-of-00006, byte 0: the file ends inside a record"),
        (bytes(altered), r"00002-of-00006, byte 12: the checksum of a record is wrong"),
        (b"a page of text, not a record", r"00002-of-00006, byte 0: the checksum of a record's length is wrong"),
        (framed(b"words"), r"00002-of-00006, byte \d+: not a scenario \(.*\)"),
        (framed(scenario([(1, lost, SEEN)])), r"byte \d+: not a scenario \(a valid state is at \[1000.*, nan, .*\]\)"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            WaymoMotion(root, portion=1.0, log=False)
        assert "\n" not in str(error.value)
        assert list((root / "processed").iterdir()) == []
    path.write_bytes(whole)
    data = WaymoMotion(root, portion=1.0, log=False)
    (stored,) = (root / "processed").iterdir()
    stored.write_bytes(stored.read_bytes()[:-40])
    with pytest.raises(ValueError, match="truncated or altered: delete it"):
        WaymoMotion(root, portion=1.0, log=False)
    assert len(data) == 1 + 2 + 3 + 4


def test_no_object_left_is_told(waymo):
    with pytest.raises(ValueError, match="min_rise and max_move must be such that an object passes, got"):
        WaymoMotion(waymo(6), portion=1.0, min_rise=50.0, log=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("split", "val"), ("portion", 0.0), ("portion", 1.5), ("min_rise", -1.0), ("max_move", 0.0), ("dtype", "float16")],
)
def test_wrong_argument_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        WaymoMotion(tmp_path, **{name: value})


def test_scenarios_of_a_file(waymo):
    path = waymo(3) / "raw" / "training.tfrecord-00002-of-00003"
    path.write_bytes(path.read_bytes() * 2)
    assert [found.pos.shape for found in read_scenarios(path)] == [(3, FRAMES, 3)] * 2
