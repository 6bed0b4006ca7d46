"""Acclaim skeleton files (ASF)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geoeq.datasets.mocap.kinematics import Rig
from geoeq.datasets.mocap.skeleton import Skeleton
from geoeq.datasets.mocap.text import MOST_JOINTS, malformed, numbered_lines, read_number, read_numbers, read_text

Lines = list[tuple[int, list[str]]]
ROOT = "root"


def read_asf(path: str | Path) -> Rig:
    """Read an Acclaim skeleton.

    A bone of direction d, length l and axes C turns with M = M_parent C R C^-1, R = R_z R_y R_x of its degrees of
    freedom, and its far end, the joint of the same name, is at x_parent + l M d. The root's channels are absolute: its
    ``position`` and ``orientation`` in the file, zero in the CMU database, are not added. Lengths stay as in the file;
    the unit of ``length s`` is inch/s, so that one unit of the CMU database (s = 0.45) is 0.0564 m.

    Args:
        path: of the file.

    Returns:
        Rig whose joints are in the order of a walk through the hierarchy that finishes a limb before the next.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line with file and line for anything malformed: a section or a value missing, a bone twice or
            unknown, a bone outside the hierarchy or with two parents, degrees of freedom that are not rotations.
    """
    sections = _sections(path, numbered_lines(read_text(path)))
    scale, degrees = _units(path, sections.get(":units", []))
    root_channels, root_order = _root(path, sections[":root"])
    bones = _bones(path, sections[":bonedata"], degrees)
    names, parents = _hierarchy(path, sections[":hierarchy"], bones)
    axes = np.stack([np.eye(3), *(bones[name][0] for name in names[1:])])
    offset = np.stack([np.zeros(3), *(bones[name][1] for name in names[1:])])
    inverse = axes.transpose(0, 2, 1)
    return Rig(
        Skeleton(names, parents),
        (root_channels, *(bones[name][2] for name in names[1:])),
        (root_order, *["zyx"] * (len(names) - 1)),
        rest=np.concatenate([axes[:1], inverse[list(parents[1:])] @ axes[1:]]),
        offset=np.einsum("jab,jb->ja", inverse, offset),
        bones_turn=True,
        degrees=degrees,
        unit=f"inch/{scale:g}",
    )


def _sections(path: str | Path, lines: Lines) -> dict[str, Lines]:
    sections: dict[str, Lines] = {}
    current: Lines = []
    for number, words in lines:
        if not words[0].startswith(":"):
            current.append((number, words))
        elif words[0] in sections:
            raise malformed(path, number, f"section {words[0][:40]!r} occurs twice")
        else:
            current = sections[words[0]] = []
    for name in (":root", ":bonedata", ":hierarchy"):
        if name not in sections:
            raise malformed(path, 0, f"no section {name} (truncated, or not an ASF file)")
    return sections


def _units(path: str | Path, lines: Lines) -> tuple[float, bool]:
    scale, degrees = 1.0, True
    for number, words in lines:
        if words[0] == "length":
            (scale,) = read_numbers(path, number, words[1:], 1, "length")
            if scale <= 0:
                raise malformed(path, number, f"length must be positive, got {scale:g}")
        elif words[0] == "angle":
            if words[1:] not in (["deg"], ["rad"]):
                raise malformed(path, number, f"angle must be deg or rad, got {' '.join(words[1:])[:40]!r}")
            degrees = words[1] == "deg"
    return scale, degrees


def _root(path: str | Path, lines: Lines) -> tuple[tuple[str, ...], str]:
    channels, order = None, "zyx"
    for number, words in lines:
        if words[0] == "order":
            channels = _channels(path, number, words[1:], "order", ("tx", "ty", "tz", "rx", "ry", "rz"))
        elif words[0] == "axis":
            letters = "".join(words[1:]).lower()
            if sorted(letters) != ["x", "y", "z"]:
                raise malformed(path, number, f"axis must be an order of XYZ, got {' '.join(words[1:])[:40]!r}")
            order = letters[::-1]
    if channels is None:
        raise malformed(path, 0, "section :root has no order")
    return channels, order


def _channels(path: str | Path, number: int, words: list[str], name: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in words)
    if not channels or len(set(channels)) != len(channels) or not set(channels) <= set(choices):
        raise malformed(path, number, f"{name} must be some of {' '.join(choices)}, got {' '.join(words)[:40]!r}")
    return channels


def _bones(path: str | Path, lines: Lines, degrees: bool) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[str, ...]]]:
    """Axes [3, 3], vector from the parent joint [3] and degrees of freedom of each bone."""
    bones: dict[str, tuple[np.ndarray, np.ndarray, tuple[str, ...]]] = {}
    fields: dict[str, tuple[int, list[str]]] | None = None
    begin = 0
    for number, words in lines:
        if words == ["begin"]:
            if fields is not None:
                raise malformed(path, number, f"begin before the end of the bone of line {begin}")
            fields, begin = {}, number
        elif fields is None:
            raise malformed(path, number, f"expected begin, got {words[0][:40]!r}")
        elif words == ["end"]:
            name, bone = _bone(path, begin, fields, degrees)
            if name in bones or name == ROOT:
                raise malformed(path, fields["name"][0], f"bone {name[:40]!r} occurs twice")
            if len(bones) == MOST_JOINTS:
                raise malformed(path, number, f"more than {MOST_JOINTS} bones")
            bones[name] = bone
            fields = None
        elif not words[0].startswith("("):  # further lines of limits
            if words[0] in fields:
                raise malformed(path, number, f"{words[0][:40]!r} occurs twice in one bone")
            fields[words[0]] = number, words[1:]
    if fields is not None:
        raise malformed(path, begin, "bone without end (truncated)")
    return bones


def _bone(
    path: str | Path, begin: int, fields: dict[str, tuple[int, list[str]]], degrees: bool
) -> tuple[str, tuple[np.ndarray, np.ndarray, tuple[str, ...]]]:
    for field in ("name", "direction", "length", "axis"):
        if field not in fields:
            raise malformed(path, begin, f"bone without {field}")
    number, words = fields["name"]
    if len(words) != 1:
        raise malformed(path, number, f"name must be one word, got {' '.join(words)[:40]!r}")
    direction = np.array(read_numbers(path, *fields["direction"], 3, "direction"))
    (length,) = read_numbers(path, *fields["length"], 1, "length")
    line, axis = fields["axis"]
    if axis[3:] != ["XYZ"]:
        raise malformed(path, line, f"axis must be three angles and XYZ, got {' '.join(axis)[:40]!r}")
    angles = np.array([read_number(path, line, word) for word in axis[:3]])
    dof = _channels(path, *fields["dof"], "dof", ("rx", "ry", "rz")) if "dof" in fields else ()
    return words[0], (_axes(np.deg2rad(angles) if degrees else angles), length * direction, dof)


def _axes(angles: np.ndarray) -> np.ndarray:
    """R_z R_y R_x."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(angles), np.cos(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _hierarchy(path: str | Path, lines: Lines, bones: dict) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and parents, each joint followed by all below it."""
    if not lines or lines[0][1] != ["begin"] or lines[-1][1] != ["end"]:
        raise malformed(path, lines[-1][0] if lines else 0, "hierarchy must stand between begin and end (truncated)")
    children: dict[str, list[str]] = {ROOT: []} | {name: [] for name in bones}
    placed: set[str] = set()
    for number, (parent, *below) in lines[1:-1]:
        for name in (parent, *below):
            if name not in children:
                raise malformed(path, number, f"unknown bone {name[:40]!r}")
        for name in below:
            if name in placed or name == ROOT:
                raise malformed(path, number, f"bone {name[:40]!r} has two parents")
            placed.add(name)
        children[parent] += below
    names: list[str] = []
    parents: list[int] = []
    waiting = [(ROOT, -1)]
    while waiting:
        name, above = waiting.pop()
        waiting += [(child, len(names)) for child in reversed(children[name])]
        names.append(name)
        parents.append(above)
    for name in children:
        if name not in names:
            why = "is below a cycle or a lost bone" if name in placed else "is not in the hierarchy"
            raise malformed(path, lines[0][0], f"bone {name[:40]!r} {why}")
    return tuple(names), tuple(parents)
