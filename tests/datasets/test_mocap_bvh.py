"""Biovision files: positions worked out by hand, a slow reading, a round trip, and what is refused."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from geoeq.datasets.mocap import read_asf, read_bvh

BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT LeftLeg
  {
    OFFSET 1 0 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 -2 0
    }
  }
  JOINT RightLeg
  {
    OFFSET -1 0 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 -2 0
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.01
0 5 0 0 0 0 0 0 0 0 0 0
1 5 0 90 0 0 0 0 0 0 0 0
0 5 0 0 0 0 90 90 0 0 0 90
"""
NAMES = ("Hips", "LeftLeg", "LeftLeg_end", "RightLeg", "RightLeg_end")


def read(folder, text, **more):
    (folder / "walk.bvh").write_text(text)
    return read_bvh(folder / "walk.bvh", **more)


def test_positions_worked_out_by_hand(tmp_path):
    rig, walk = read(tmp_path, BVH, unit="m")
    assert rig.skeleton.names == NAMES
    assert rig.skeleton.parents == (-1, 0, 1, 0, 3)
    assert rig.skeleton.mirror.tolist() == [0, 3, 4, 1, 2]
    assert walk.part.tolist() == [0, 1, 1, 2, 2]
    assert (walk.time_step, walk.unit, walk.name) == (0.01, "m", "walk")
    expected = [
        [[0, 5, 0], [1, 5, 0], [1, 3, 0], [-1, 5, 0], [-1, 3, 0]],
        # a quarter turn of all about z: x becomes y, y becomes -x
        [[1, 5, 0], [1, 6, 0], [3, 6, 0], [1, 4, 0], [3, 4, 0]],
        # left: Rz(90) Rx(90) takes -2y to -2z first and leaves it; right: turned about y alone, -2y stays
        [[0, 5, 0], [1, 5, 0], [1, 5, -2], [-1, 5, 0], [-1, 3, 0]],
    ]
    assert torch.allclose(walk.pos, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("order", ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX", "X", "Z", "ZY"])
def test_orders_of_rotation_equal_those_of_scipy(tmp_path, order):
    channels = f"{len(order)} " + " ".join(f"{axis}rotation" for axis in order)
    angles = np.random.default_rng(0).uniform(-180, 180, (4, 6 + 2 * len(order)))
    text = BVH.split("Frames")[0].replace("3 Zrotation Xrotation Yrotation", channels) + "Frames: 4\nFrame Time: 1\n"
    text += "\n".join(" ".join(f"{angle:.9f}" for angle in frame) for frame in angles)
    _, walk = read(tmp_path, text)
    for pos, frame in zip(walk.pos.numpy(), np.round(angles, 9), strict=True):
        hips = Rotation.from_euler("ZXY", frame[3:6], degrees=True)
        leg = hips * Rotation.from_euler(order, frame[6 : 6 + len(order)], degrees=True)
        left = frame[:3] + hips.apply([1, 0, 0])
        assert np.allclose(pos[:3], [frame[:3], left, left + leg.apply([0, -2, 0])], atol=1e-9)


def test_joints_that_move_in_their_parent(tmp_path):
    text = BVH.replace("3 Zrotation Xrotation Yrotation", "4 Yposition Zrotation Xrotation Yrotation", 1)
    text = text.replace("90 0 0 0 0 0 0 0 0", "90 0 0 7 0 0 0 0 0 0", 1).replace("0 5 0 0", "0 5 0 0 0")
    _, walk = read(tmp_path, text)
    assert torch.allclose(walk.pos[1, 1], torch.tensor([-6.0, 6, 0]).double())
    assert torch.allclose(walk.pos[1, 2], torch.tensor([-4.0, 6, 0]).double())


@pytest.mark.parametrize("root", ["0 0 0", "3 4 5"])
def test_position_channels_replace_the_offset(tmp_path, root):
    """As Blender's exporter writes it: position channels at every joint, which repeat the offset."""
    text = BVH.split("Frames")[0].replace("OFFSET 0 0 0", f"OFFSET {root}")
    text = text.replace("3 Zrot", "6 Xposition Yposition Zposition Zrot")
    frames = [line.split() for line in BVH.split("0.01\n")[1].splitlines()]
    frames = [" ".join([*f[:6], "1 0 0", *f[6:9], "-1 0 0", *f[9:]]) for f in frames]
    _, walk = read(tmp_path, text + "\n".join(["Frames: 3", "Frame Time: 0.01", *frames]))
    _, plain = read(tmp_path, BVH)
    assert torch.allclose(walk.pos, plain.pos)


def test_axes_without_a_position_channel_keep_the_offset(tmp_path):
    text = BVH.replace("OFFSET 1 0 0", "OFFSET 1 2 3").replace("3 Zrot", "4 Yposition Zrot", 1)
    text = text.split("Frames")[0] + "Frames: 1\nFrame Time: 1\n0 5 0 0 0 0 9 0 0 0 0 0 0\n"
    _, walk = read(tmp_path, text)
    assert torch.allclose(walk.pos[0, 1], torch.tensor([1.0, 14, 3]).double())


def test_several_end_sites_of_one_joint(tmp_path):
    text = BVH.replace("End Site", "End Site { OFFSET 0 0 1 }\n End Site { OFFSET 0 0 2 }\n End Site")
    rig, walk = read(tmp_path, text)
    assert rig.skeleton.names[2:5] == ("LeftLeg_end", "LeftLeg_end2", "LeftLeg_end3")
    assert rig.skeleton.mirror.tolist() == [0, 5, 6, 7, 8, 1, 2, 3, 4]
    assert torch.allclose(walk.pos[0, 2:5], torch.tensor([[1.0, 5, 1], [1, 5, 2], [1, 3, 0]]).double())
    taken = BVH.replace("End Site", "JOINT LeftLeg_end { OFFSET 0 0 1 }\n End Site", 1)
    assert read(tmp_path, taken)[0].skeleton.names[2:4] == ("LeftLeg_end", "LeftLeg_end2")


def test_written_again_it_reads_the_same(tmp_path):
    rig, walk = read(tmp_path, BVH)
    lines = []
    for line in BVH.split("Frames")[0].split("\n"):
        lines += ["\t" + line.replace("  ", "\t").replace(" {", "\n{"), ""]
    frames = "\r\n".join(BVH.split("0.01\n")[1].split("\n"))
    other, again = read(tmp_path, "\r\n".join(lines) + "Frames:\t3\r\nFrame Time:\t.01\r\n" + frames)
    assert other.skeleton == rig.skeleton
    assert torch.equal(again.pos, walk.pos)


def test_an_acclaim_skeleton_in_its_rest_pose_as_bvh(tmp_path, shared_data):
    """Offsets of a BVH file made from the ASF file give the same rest pose."""
    rig = read_asf(shared_data / "cmu-mocap" / "02.asf")
    rest = rig.positions(np.zeros((rig.n_channels, 1)))[0]
    skeleton = rig.skeleton
    lines, depth = ["HIERARCHY"], []
    for joint, (name, parent) in enumerate(zip(skeleton.names, skeleton.parents, strict=True)):
        while depth and depth[-1] != parent:
            depth.pop()
            lines.append("}")
        offset = rest[joint] - (rest[parent] if joint else 0)
        lines += [f"{'JOINT' if joint else 'ROOT'} {name} {{ OFFSET " + " ".join(f"{x:.17g}" for x in offset)]
        lines += ["CHANNELS 1 Xrotation"]
        depth.append(joint)
    lines += ["}"] * len(depth) + ["MOTION", "Frames: 1", "Frame Time: 1", "0 " * 31]
    other, still = read(tmp_path, "\n".join(lines))
    assert other.skeleton == skeleton
    assert np.allclose(still.pos[0].numpy(), rest, atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "HIERARCHIE", "1: expected HIERARCHY, got 'HIERARCHIE'"),
        ("ROOT", "JOINT", "2: expected ROOT, got 'JOINT'"),
        ("ROOT Hips\n{", "ROOT {", "2: joint without a name"),
        ("ROOT Hips\n{", "ROOT Hips", "3: expected a name and {, got 'OFFSET'"),
        ("  OFFSET 0 0 0\n", "", "23: joint 'Hips' has no OFFSET"),
        ("OFFSET 1 0 0", "OFFSET 1 0", "9: expected a number, got 'CHANNELS'"),
        ("OFFSET 1 0 0", "OFFSET 1 0 inf", "8: expected a number, got 'inf'"),
        ("OFFSET 1 0 0", "OFFSET 1 0 0 0", "8: unexpected '0' in joint 'LeftLeg'"),
        ("RightLeg", "LeftLeg", "15: joint 'LeftLeg' occurs twice"),
        ("CHANNELS 6", "CHANNELS 7", "5: CHANNELS must be a number up to 6, got '7'"),
        ("CHANNELS 6", "CHANNELS 5", "5: unexpected 'Yrotation' in joint 'Hips'"),
        ("Xposition", "Yposition", "5: CHANNELS must be 6 positions or rotations, got 'Yposition Yposition"),
        ("Xposition", "Wposition", "5: CHANNELS must be 6 positions or rotations, got 'Wposition"),
        ("End Site", "End Point", "10: expected Site, got 'Point'"),
        ("  }\n}\nMOTION", "  }\nMOTION", "23: hierarchy ends before its last brace"),
        ("  }\n}\nMOTION", "  }\n}\n}\nMOTION", "25: expected MOTION, got '}'"),
        ("MOTION", "MOVES", ": no line MOTION"),
        ("Frames: 3", "Frames: three", "26: expected Frames: and a number, got 'Frames: three'"),
        ("Frames: 3", "Frames: 4", "30: 4 frames announced, got 3"),
        ("Frames: 3", "Frames: 2", "30: 2 frames announced, got 3"),
        ("Frame Time: 0.01", "Frame Time: 0", "27: Frame Time must be positive, got 0"),
        ("Frame Time: 0.01", "Frame Time:", "27: expected Frame Time: and a number, got 'Frame Time:'"),
        ("1 5 0 90", "5 0 90", "29: a frame must have 12 values, got 11"),
        ("1 5 0 90", "1 5 nan 90", "29: expected a number, got 'nan'"),
        ("1 5 0 90", "1 5 x 90", "29: expected a number, got 'x'"),
        ("1 5 0 90", "1 5 0_1 90", "29: expected a number, got '0_1'"),
        ("0 0 90\n", "0 0", "30: a frame must have 12 values, got 11"),
    ],
)
def test_malformed_files_are_named(tmp_path, old, new, message):
    assert old in BVH
    with pytest.raises(ValueError) as error:
        read(tmp_path, BVH.replace(old, new, 1))
    place = f"{tmp_path}/walk.bvh" + (message if message.startswith(":") else f":{message}")
    assert str(error.value).startswith(place)
    assert "\n" not in str(error.value)


def test_channels_after_a_child_and_motionless_files(tmp_path):
    late = BVH.replace(
        "    CHANNELS 3 Zrotation Xrotation Yrotation\n    End Site\n    {\n      OFFSET 0 -2 0\n    }\n", "", 1
    )
    late = late.replace("OFFSET 1 0 0\n", "OFFSET 1 0 0\n End Site { OFFSET 0 0 1 }\n CHANNELS 1 Xrotation\n", 1)
    with pytest.raises(ValueError, match=r"walk.bvh:10: unexpected 'CHANNELS' in joint 'LeftLeg'"):
        read(tmp_path, late)
    with pytest.raises(ValueError, match="no motion"):
        read(tmp_path, BVH.split("Frames")[0] + "Frames: 0\nFrame Time: 1\n")
    deep = "".join(f"JOINT j{i} {{ OFFSET 0 0 0\n" for i in range(1200))
    with pytest.raises(ValueError, match=r"walk.bvh:1002: more than 1000 joints"):
        read(tmp_path, f"HIERARCHY\nROOT a {{ OFFSET 0 0 0\n{deep}{'}' * 1201}\nMOTION\nFrames: 1\nFrame Time: 1\n")
