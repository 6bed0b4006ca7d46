"""Damaged motion-capture files: one clear line or a right result, never a crash, a hang or a wrong shape.

``GEOEQ_FUZZ=100000`` in the environment sets the number of files per parser.
"""

import os
import random
import time
from pathlib import Path

import pytest

from geoeq.datasets.mocap import read_amc, read_asf, read_bvh

COUNT = int(os.environ.get("GEOEQ_FUZZ", "400"))
SEED = int(os.environ.get("GEOEQ_FUZZ_SEED", "0"))

ASF = """:version 1.10
:units
  length 0.45
  angle deg
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
    name back_1
    direction 0 1 0
    length 3e0
    axis 0 0 0 XYZ
  end
  begin
    id 3
    name head
    direction 0 0.6 0.8
    length 1
    axis -90 0 20 XYZ
    dof ry
  end
:hierarchy
  begin
    root lleg back_1
    back_1 head
  end
"""
AMC = """#!OML:ASF
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 4 5 6
lleg 1.5 -2
head 3e1
2
root 1.1 2 3 4 5 6
lleg 1.5 -2.5
head -1.5e-014
3
root 1.2 2 3 4 5 6
lleg 1.5 -2.25
head 3
"""
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
  JOINT Head
  {
    OFFSET 0 1 0
    CHANNELS 1 Yrotation
  }
}
MOTION
Frames: 2
Frame Time: 0.01
0 5 0 0 0 0 1 2 3 4
1 5 0 90 0 0 0 0 0 -1e-3
"""
WORDS = [
    *(
        "nan",
        "inf",
        "-inf",
        "1e999",
        "1e308",
        "-1e13",
        "1_0",
        "0x10",
        "--1",
        ".",
        "-",
        "1,5",
        "\u0661",
        "\x00",
        "\ufeff",
    ),
    *(
        "9" * 30,
        "9" * 5000,
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "(",
        "#",
        ":",
        ":hierarchy",
        ":bonedata",
        ":DEGREES",
        ":RADIANS",
    ),
    *(
        "begin",
        "end",
        "root",
        "lleg",
        "head",
        "back_1",
        "dof",
        "rx",
        "XYZ",
        "ZXY",
        "tx",
        "l",
        "deg",
        "rad",
        "id",
        "name",
    ),
    *(
        "{",
        "}",
        "JOINT",
        "ROOT",
        "End",
        "Site",
        "OFFSET",
        "CHANNELS",
        "MOTION",
        "Frames:",
        "Frame",
        "Time:",
        "Xrotation",
    ),
    *("Hips", "Head", "LeftLeg", "LeftLeg_end", "\u00e9", "\u2028", "\x85", "\x0c", "\t", "\r", ""),
]


def words(text, pick):
    """One word replaced, dropped, doubled or moved."""
    parts = text.split(" ") if pick.random() < 0.5 else text.replace("\n", " \n ").split(" ")
    i, j = pick.randrange(len(parts)), pick.randrange(len(parts))
    action = pick.randrange(4)
    if action == 0:
        parts[i] = pick.choice(WORDS)
    elif action == 1:
        del parts[i]
    elif action == 2:
        parts.insert(i, parts[i])
    else:
        parts[i], parts[j] = parts[j], parts[i]
    return " ".join(parts)


def lines(text, pick):
    """A few lines dropped, doubled or moved."""
    parts = text.split("\n")
    i, j = sorted(pick.randrange(len(parts) + 1) for _ in range(2))
    j = min(j, i + pick.choice([1, 1, 2, 5, 12]))
    k = pick.randrange(len(parts) + 1)
    return "\n".join(pick.choice([parts[:i] + parts[j:], parts[:k] + parts[i:j] + parts[k:], parts[:i]]))


def characters(text, pick):
    """A character changed, dropped or inserted, or the end cut off."""
    i = pick.randrange(len(text) or 1)
    new = pick.choice("0123456789.-+eE_:#(){} \n\t\rxyzXYZabc\x00\x1c\u00b2")
    return pick.choice([text[:i] + new + text[i + 1 :], text[:i] + text[i + 1 :], text[:i] + new + text[i:], text[:i]])


def damaged(text, pick):
    for _ in range(pick.choice([1, 1, 1, 2, 3, 6])):
        text = pick.choice([words, words, lines, characters])(text, pick)
    content = text.encode()
    if pick.random() < 0.1 and content:
        i = pick.randrange(len(content))
        content = content[:i] + bytes([pick.randrange(256)]) + content[i + 1 :]
    return content


def check_motion(rig, motion):
    n_frames, n_joints, d = motion.pos.shape
    assert n_frames >= 1
    assert n_joints == len(rig.skeleton) == len(motion.part)
    assert d == 3
    assert motion.pos.isfinite().all()
    assert motion.edge_index.shape[1] >= 2 * (n_joints - 1)


def check_rig(rig):
    n_joints = len(rig.skeleton)
    assert len(rig.channels) == len(rig.order) == n_joints
    assert rig.rest.shape == (n_joints, 3, 3)
    assert rig.offset.shape == (n_joints, 3)


@pytest.mark.parametrize("kind", ["asf", "amc", "bvh"])
def test_damaged_files(tmp_path, kind):
    folder = Path("/dev/shm") if COUNT > 10_000 and os.access("/dev/shm", os.W_OK) else tmp_path
    path = folder / f"{os.getpid()}.{kind}"
    (tmp_path / "body.asf").write_text(ASF)
    body = read_asf(tmp_path / "body.asf")
    text = {"asf": ASF, "amc": AMC, "bvh": BVH}[kind]
    accepted, slowest = 0, 0.0
    for number in range(COUNT):
        content = damaged(text, random.Random(f"{kind} {SEED} {number}"))
        path.write_bytes(content)
        told = f"{path}:"
        start = time.perf_counter()
        try:
            if kind == "asf":
                check_rig(read_asf(path))
            else:
                check_motion(*((body, read_amc(path, body)) if kind == "amc" else read_bvh(path)))
            accepted += 1
        except ValueError as error:
            told = str(error)
        except Exception as error:
            raise AssertionError(f"{kind} {SEED} {number}: {content!r}") from error
        assert told.startswith(f"{path}:"), (number, told)
        assert "\n" not in told, (number, told)
        assert len(told) < 300, (number, told)
        slowest = max(slowest, time.perf_counter() - start)
    path.unlink()
    print(f"{kind}: {COUNT} files, {accepted} accepted, slowest {1e3 * slowest:.1f} ms")
    assert slowest < 5.0
    assert 0 < accepted < COUNT  # both kinds of ending are met
