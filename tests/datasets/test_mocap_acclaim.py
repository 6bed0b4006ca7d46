"""Acclaim skeletons and motions: against a slow reading of the same files, and what is refused."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from geoeq.datasets.mocap import Skeleton, amc, read_amc, read_asf

ASF = """# a small body
:version 1.10
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
  five bones
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    id 1
    name lleg
    direction 0.6 -0.8 0
    length 2
    axis 10 20 30 XYZ
    dof rx rz
    limits (-45 90)
           (-70 20)
  end
  begin
    id 2
    name rleg
    direction -0.6 -0.8 0
    length 2
    axis 10 -20 -30 XYZ
    dof rx rz
  end
  begin
    id 3
    name back_1
    direction 0 1 0
    length 3
    axis 0 0 0 XYZ
  end
  begin
    id 4
    name head
    direction 0 0.6 0.8
    length 1
    axis -90 0 20 XYZ
    dof rx ry rz
  end
  begin
    id 5
    name rfoot
    direction 0 0 1
    length 0.5
    axis 0 0 0 XYZ
    dof ry
  end
:hierarchy
  begin
    root lleg rleg back_1
    back_1 head
    rleg rfoot
  end
"""
BONES = {"root": 6, "lleg": 2, "rleg": 2, "head": 3, "rfoot": 1}


def motion(n_frames=4, header=":FULLY-SPECIFIED\n:DEGREES\n", scale=40.0):
    values = np.random.default_rng(0).normal(scale=scale, size=(n_frames, sum(BONES.values())))
    text = header
    for number, frame in enumerate(values, 1):
        text += f"{number}\n"
        start = 0
        for name, count in BONES.items():
            text += " ".join([name, *(f"{value:.6g}" for value in frame[start : start + count])]) + "\n"
            start += count
    return text


@pytest.fixture
def files(tmp_path):
    (tmp_path / "body.asf").write_text(ASF)
    (tmp_path / "walk.amc").write_text(motion())
    return tmp_path


def slow_positions(asf, amc_text):
    """Frame by frame and bone by bone, in global axes, from a reading of its own."""
    blocks = asf.split(":bonedata")[1].split(":hierarchy")[0].split("begin")[1:]
    bones = {}
    for block in blocks:
        fields = {words[0]: words[1:] for words in map(str.split, block.strip().split("\n"))}
        axes = Rotation.from_euler("xyz", [float(word) for word in fields["axis"][:3]], degrees=True).as_matrix()
        arrow = float(fields["length"][0]) * np.array([float(word) for word in fields["direction"]])
        bones[fields["name"][0]] = axes, arrow, fields.get("dof", [])
    tree = [line.split() for line in asf.split(":hierarchy")[1].strip().split("\n")[1:-1]]
    children = {words[0]: words[1:] for words in tree}

    def place(name, turn, position, frame, found):
        for child in children.get(name, []):
            axes, arrow, dof = bones[child]
            angles = dict(zip(dof, frame.get(child, []), strict=True))
            local = Rotation.from_euler("xyz", [angles.get(a, 0.0) for a in ("rx", "ry", "rz")], degrees=True)
            turned = turn @ axes @ local.as_matrix() @ np.linalg.inv(axes)
            found[child] = position + turned @ arrow
            place(child, turned, found[child], frame, found)

    frames = []
    for line in amc_text.split(":DEGREES")[1].strip().split("\n"):
        words = line.split()
        if len(words) == 1:
            frames.append({})
        else:
            frames[-1][words[0]] = [float(word) for word in words[1:]]
    positions = []
    for frame in frames:
        found = {"root": np.array(frame["root"][:3])}
        place(
            "root", Rotation.from_euler("xyz", frame["root"][3:], degrees=True).as_matrix(), found["root"], frame, found
        )
        positions.append(found)
    return positions


def largest_gap(rig, trajectory, slow):
    ours = trajectory.pos.numpy()
    expected = np.array([[frame[name] for name in rig.skeleton.names] for frame in slow])
    assert ours.shape == expected.shape
    return np.abs(ours - expected).max()


def test_positions_equal_those_of_a_slow_reading(files):
    rig = read_asf(files / "body.asf")
    walk = read_amc(files / "walk.amc", rig)
    assert largest_gap(rig, walk, slow_positions(ASF, motion())) < 1e-12
    assert (walk.time_step, walk.unit, walk.name) == (1 / 120, "inch/0.45", "walk")


def test_skeleton_of_a_small_body(files):
    skeleton = read_asf(files / "body.asf").skeleton
    assert skeleton.names == ("root", "lleg", "rleg", "rfoot", "back_1", "head")
    assert skeleton.parents == (-1, 0, 0, 2, 0, 4)
    assert skeleton.edges == [(1, 0), (2, 0), (3, 2), (4, 0), (5, 4)]
    assert skeleton.levels == [[0], [1, 2, 4], [3, 5]]
    assert skeleton.part.tolist() == [0, 1, 2, 2, 0, 0]
    with pytest.raises(ValueError, match="skeleton must be alike on both sides, got 'rfoot' opposite 'rfoot'"):
        _ = skeleton.mirror
    edge_index, bones = skeleton.graph()
    pairs = dict(zip(map(tuple, edge_index.T.tolist()), bones.flatten().tolist(), strict=True))
    one = {(1, 0), (2, 0), (3, 2), (4, 0), (5, 4)}
    two = {(1, 2), (1, 4), (2, 4), (3, 0), (5, 0)}
    assert pairs == {pair: n for n, found in ((1, one), (2, two)) for i, j in found for pair in ((i, j), (j, i))}
    assert edge_index[1].tolist() == sorted(edge_index[1].tolist())


def test_names_of_sides_in_other_styles():
    names = ("Hips", "LeftUpLeg", "RightUpLeg", "arm_L", "arm_R", "LThumb", "RThumb", "LowerBack", "rLeft", "x")
    assert Skeleton(names, (-1,) + (0,) * 9).mirror.tolist() == [0, 2, 1, 4, 3, 6, 5, 7, 8, 9]


def test_angles_in_radians(files):
    rig = read_asf(files / "body.asf")
    degrees = motion(scale=0.5)
    (files / "small.amc").write_text(degrees.replace(":DEGREES", ":RADIANS"))
    (files / "body_rad.asf").write_text(ASF.replace("angle deg", "angle rad"))
    frames = [line.split() for line in degrees.split("\n")[2:-1]]
    for words in frames:
        first = 4 if words[0] == "root" else 1
        words[first:] = [repr(float(np.rad2deg(float(word)))) for word in words[first:]]
    (files / "large.amc").write_text("\n".join([":DEGREES", *map(" ".join, frames)]))
    in_radians, in_degrees = (read_amc(files / name, rig).pos for name in ("small.amc", "large.amc"))
    assert torch.allclose(in_radians, in_degrees, atol=1e-12)
    (files / "plain.amc").write_text(degrees.replace(":DEGREES\n", ""))
    straight = ASF.replace("10 20 30", "0 0 0").replace("10 -20 -30", "0 0 0").replace("-90 0 20", "0 0 0")
    (files / "straight.asf").write_text(straight)
    (files / "straight_rad.asf").write_text(straight.replace("angle deg", "angle rad"))
    as_file = read_amc(files / "plain.amc", read_asf(files / "straight_rad.asf")).pos
    as_said = read_amc(files / "small.amc", read_asf(files / "straight.asf")).pos
    assert torch.allclose(as_file, as_said, atol=1e-12)


def test_root_turns_in_its_own_order(files):
    (files / "zxy.asf").write_text(ASF.replace("axis XYZ", "axis ZXY"))
    (files / "one.amc").write_text(motion(1))
    rig = read_asf(files / "zxy.asf")
    pos = read_amc(files / "one.amc", rig).pos[0]
    root = np.array(slow_frame(motion(1))["root"])
    turn = Rotation.from_euler("zxy", root[[5, 3, 4]], degrees=True).as_matrix()
    assert np.allclose(pos[rig.skeleton.names.index("back_1")] - pos[0], turn @ [0, 3, 0], atol=1e-12)


def slow_frame(text):
    return {w[0]: [float(x) for x in w[1:]] for w in map(str.split, text.split("\n")) if len(w) > 1}


def test_frames_in_any_order_of_bones(files):
    rig = read_asf(files / "body.asf")
    lines = motion().rstrip("\n").split("\n")
    lines[3], lines[7] = lines[7], lines[3]  # only the first frame differs: the careful path
    (files / "other.amc").write_text("\n".join(["# a remark", *lines]) + "\n")
    walk, other = (read_amc(files / name, rig).pos for name in ("walk.amc", "other.amc"))
    assert torch.equal(walk, other)
    text = motion().split(":DEGREES\n")[1]
    fast = amc._uniform(text, rig)
    assert fast is not None
    assert np.array_equal(fast, amc._line_by_line("walk.amc", text, 3, rig))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":hierarchy", ":tree", "body.asf: no section :hierarchy"),
        (":root", ":units", "body.asf:9: section ':units' occurs twice"),
        ("length 0.45", "length -1", "body.asf:5: length must be positive, got -1"),
        ("angle deg", "angle turns", "body.asf:6: angle must be deg or rad, got 'turns'"),
        ("order TX TY TZ", "order TX TY TX", "body.asf:10: order must be some of tx ty tz rx ry rz"),
        ("  order TX TY TZ RX RY RZ\n", "", "body.asf: section :root has no order"),
        ("axis XYZ\n", "axis XYY\n", "body.asf:11: axis must be an order of XYZ, got 'XYY'"),
        ("direction 0.6 -0.8 0\n", "direction 0.6 -0.8\n", "body.asf:18: direction must have 3 numbers, got 2"),
        ("direction 0.6 -0.8 0\n", "direction 0.6 nan 0\n", "body.asf:18: expected a number, got 'nan'"),
        ("    length 2\n", "", "body.asf:15: bone without length"),
        ("10 20 30 XYZ", "10 20 30 YXZ", "body.asf:20: axis must be three angles and XYZ, got '10 20 30 YXZ'"),
        ("dof rx ry rz", "dof rx tx", "body.asf:46: dof must be some of rx ry rz, got 'rx tx'"),
        ("dof rx ry rz", "dof rx rx", "body.asf:46: dof must be some of rx ry rz, got 'rx rx'"),
        ("name rleg", "name lleg", "body.asf:27: bone 'lleg' occurs twice"),
        ("name rleg", "name root", "body.asf:27: bone 'root' occurs twice"),
        ("name rleg", "id 3", "body.asf:27: 'id' occurs twice in one bone"),
        ("name rleg", "name r leg", "body.asf:27: name must be one word, got 'r leg'"),
        ("  end\n  begin\n    id 2", "  begin\n    id 2", "body.asf:24: begin before the end of the bone of line 15"),
        ("  begin\n    id 1", "    id 1", "body.asf:15: expected begin, got 'id'"),
        ("root lleg rleg", "root lleg rlag", "body.asf:58: unknown bone 'rlag'"),
        ("back_1 head", "back_1 head lleg", "body.asf:59: bone 'lleg' has two parents"),
        ("back_1 head", "back_1 root", "body.asf:59: bone 'root' has two parents"),
        ("    rleg rfoot\n", "", "body.asf:57: bone 'rfoot' is not in the hierarchy"),
        ("root lleg rleg back_1\n", "root lleg rleg\n    head back_1\n", "body.asf:57: bone 'back_1' is below a cycle"),
        ("rfoot\n  end\n", "rfoot\n", "body.asf:60: hierarchy must stand between begin and end"),
    ],
)
def test_malformed_skeletons_are_named(tmp_path, old, new, message):
    assert old in ASF
    (tmp_path / "body.asf").write_text(ASF.replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        read_asf(tmp_path / "body.asf")
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nlleg ", "\nlarm ", "walk.amc:5: bone 'larm' is not in the skeleton"),
        ("\nlleg ", "\nback_1 ", "walk.amc:5: bone 'back_1' has no channels"),
        ("\nlleg ", "\nrleg ", "walk.amc:6: bone 'rleg' occurs twice in one frame"),
        ("\nlleg ", "\nlleg 1 ", "walk.amc:5: lleg must have 2 numbers, got 3"),
        ("\nlleg ", "\nlleg 1 nan\n# ", "walk.amc:5: expected a number, got 'nan'"),
        ("\nlleg ", "\nlleg 1 1_0\n# ", "walk.amc:5: expected a number, got '1_0'"),
        ("\nlleg ", "\nlleg 1 2e300\n# ", "walk.amc:5: expected a number, got '2e300'"),
        ("\nlleg ", "\n# ", "walk.amc:3: frame without bone 'lleg'"),
        ("\n2\n", "\n3\n", "walk.amc:9: expected frame 2, got 3"),
        (":DEGREES", "DEGREES", "walk.amc:2: expected a frame number, got 'DEGREES'"),
    ],
)
def test_malformed_motions_are_named(files, old, new, message):
    text = motion()
    assert old in text
    (files / "walk.amc").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        read_amc(files / "walk.amc", read_asf(files / "body.asf"))
    assert str(error.value).startswith(f"{files}/{message}")
    assert "\n" not in str(error.value)


def test_truncated_and_missing_files_are_named(files):
    rig = read_asf(files / "body.asf")
    whole = motion()
    for kept, message in [(0, "no frames"), (20, "no frames"), (len(whole) - 20, "")]:
        (files / "walk.amc").write_text(whole[:kept])
        with pytest.raises(ValueError, match=rf"walk.amc:.*{message}"):
            read_amc(files / "walk.amc", rig)
    for read in (read_asf, lambda path: read_amc(path, rig)):
        with pytest.raises(FileNotFoundError, match=r"lost.file does not exist"):
            read(files / "lost.file")
        with pytest.raises(ValueError, match="cannot be read"):
            read(files)
    (files / "walk.amc").write_text(whole)
    with pytest.raises(ValueError, match="time_step must be positive, got 0"):
        read_amc(files / "walk.amc", rig, 0.0)


@pytest.fixture(scope="module")
def cmu(shared_data):
    folder = shared_data / "cmu-mocap"
    rig = read_asf(folder / "02.asf")
    return folder, rig, {name: read_amc(folder / f"{name}.amc", rig) for name in ("02_01", "02_02", "02_03")}


def test_cmu_positions_equal_those_of_a_slow_reading(cmu):
    folder, rig, trials = cmu
    assert {name: len(trial.pos) for name, trial in trials.items()} == {"02_01": 343, "02_02": 298, "02_03": 173}
    asf = (folder / "02.asf").read_text()
    for name, trial in trials.items():
        slow = slow_positions(asf, (folder / f"{name}.amc").read_text())
        assert largest_gap(rig, trial, slow) < 1e-9


def test_cmu_bones_keep_their_lengths(cmu):
    _, rig, trials = cmu
    names = rig.skeleton.names
    joint, parent = torch.tensor(rig.skeleton.edges).T
    for trial in trials.values():
        length = (trial.pos[:, joint] - trial.pos[:, parent]).norm(dim=2)
        assert (length - length[0]).abs().max() < 1e-9
        of = dict(zip([names[i] for i in joint], length[0].tolist(), strict=True))
        for name in of:
            if name.startswith("l") and not name.startswith("lower"):
                assert of[name] == pytest.approx(of["r" + name[1:]], rel=0.12)  # fitted one by one to a real body
        assert of["lfemur"] == pytest.approx(7.59371, rel=1e-5)


def test_cmu_root_follows_its_channels_and_the_body_stands(cmu):
    folder, rig, trials = cmu
    for name, trial in trials.items():
        lines = (folder / f"{name}.amc").read_text().split("\n")
        root = [[float(word) for word in line.split()[1:4]] for line in lines if line.startswith("root")]
        assert torch.equal(trial.pos[:, 0], torch.tensor(root, dtype=torch.float64))
        metres = trial.pos * 0.0254 / 0.45
        tall = metres[:, :, 1].amax(1) - metres[:, :, 1].amin(1)
        assert tall.min() > 1.4
        assert tall.max() < 2.0
        head, root_y = (metres[:, rig.skeleton.names.index(joint), 1] for joint in ("head", "root"))
        assert (head - root_y > 0.4).all()
