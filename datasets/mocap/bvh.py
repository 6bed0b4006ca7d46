"""Biovision hierarchy files (BVH): skeleton and motion in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geoeq.datasets.mocap.kinematics import AXES, Rig
from geoeq.datasets.mocap.skeleton import Skeleton
from geoeq.datasets.mocap.text import LARGEST, MOST_JOINTS, malformed, numbered_lines, read_number, read_text
from geoeq.datasets.trajectory import Trajectory

KINDS = {"position": "t", "rotation": "r"}
CHANNELS = {f"{axis}{kind}": f"{letter}{axis}" for axis in "xyz" for kind, letter in KINDS.items()}
MOTION = re.compile(r"^[ \t]*MOTION[ \t]*$", re.MULTILINE)


def read_bvh(path: str | Path, unit: str = "") -> tuple[Rig, Trajectory]:
    """Read a Biovision file.

    A joint lies at x_parent + M_parent p and turns by M = M_parent R, R the product of its rotations in the order of
    its channels. Here p is the joint's OFFSET, in which a position channel replaces the coordinate of its axis, as in
    Blender: files with position channels at every joint repeat the offsets there. This holds for the root too, where
    x_parent = 0. End sites are joints without channels, named after their parent with ``_end``, further ones of the
    same joint with ``_end2``, ``_end3``, ...

    Args:
        path: of the file.
        unit: of lengths, which the file does not say.

    Returns:
        The rig, and the Trajectory of T frames and J joints in float64, with edges of one and two bones and the limbs
        as parts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line with file and line for anything malformed: a brace missing, a joint twice, unknown or
            repeated channels, a number of frames or of values in a frame other than announced, a value not finite.
    """
    text = read_text(path)
    motion = MOTION.search(text)
    if motion is None:
        raise malformed(path, 0, "no line MOTION (truncated, or not a BVH file)")
    rig = _Hierarchy(path, numbered_lines(text[: motion.start()])).rig(unit)
    lines = numbered_lines(text[motion.end() :], text.count("\n", 0, motion.start()) + 1)
    n_frames, time_step = _announced(path, lines)
    values = _values(path, lines[2:], n_frames, rig.n_channels)
    return rig, rig.trajectory(values, time_step, Path(path).stem)


class _Hierarchy:
    """Reads the joints between HIERARCHY and MOTION."""

    def __init__(self, path: str | Path, lines: list[tuple[int, list[str]]]) -> None:
        self.path = path
        self.words = iter([(number, word) for number, words in lines for word in words])
        self.line = 1
        self.names: list[str] = []
        self.parents: list[int] = []
        self.offset: list[list[float] | None] = []
        self.channels: list[tuple[str, ...] | None] = []
        self.tips: set[int] = set()
        self._expect("HIERARCHY")
        self._expect("ROOT")
        self._read()

    def rig(self, unit: str) -> Rig:
        channels = tuple(channels or () for channels in self.channels)
        offset = np.array(self.offset, dtype=np.float64)
        for joint, names in enumerate(channels):
            offset[joint, [AXES.index(name[1]) for name in names if name[0] == "t"]] = 0.0
        return Rig(
            Skeleton(tuple(self.names), tuple(self.parents)),
            channels,
            tuple(_order(names) for names in channels),
            rest=np.broadcast_to(np.eye(3), (len(self.names), 3, 3)),
            offset=offset,
            unit=unit,
        )

    def _read(self) -> None:
        open_joints = [self._begin(-1, self._name())]
        while open_joints:
            joint, word = open_joints[-1], self._next()
            if word == "}":
                if self.offset[joint] is None:
                    raise malformed(self.path, self.line, f"joint {self.names[joint][:40]!r} has no OFFSET")
                open_joints.pop()
            elif word == "OFFSET" and self.offset[joint] is None:
                self.offset[joint] = [self._number() for _ in range(3)]
            elif word == "CHANNELS" and self.channels[joint] is None and self._may_have_channels(joint):
                self.channels[joint] = self._read_channels()
            elif word == "JOINT" and joint not in self.tips:
                open_joints.append(self._begin(joint, self._name()))
            elif word == "End" and joint not in self.tips:
                self._expect("Site")
                self._expect("{")
                tip = self._begin(joint, self._tip_name(joint))
                self.tips.add(tip)
                open_joints.append(tip)
            else:
                raise malformed(self.path, self.line, f"unexpected {word[:40]!r} in joint {self.names[joint][:40]!r}")
        for number, word in self.words:
            raise malformed(self.path, number, f"expected MOTION, got {word[:40]!r}")

    def _may_have_channels(self, joint: int) -> bool:
        # Frames list joints in the order of the hierarchy: channels after a child's would be out of it.
        return joint == len(self.names) - 1 and joint not in self.tips

    def _next(self) -> str:
        self.line, word = next(self.words, (self.line, ""))
        if not word:
            raise malformed(self.path, self.line, "hierarchy ends before its last brace (truncated)")
        return word

    def _expect(self, wanted: str) -> None:
        word = self._next()
        if word != wanted:
            raise malformed(self.path, self.line, f"expected {wanted}, got {word[:40]!r}")

    def _number(self) -> float:
        word = self._next()
        return read_number(self.path, self.line, word)

    def _name(self) -> str:
        words: list[str] = []
        line = self.line
        for word in iter(self._next, "{"):
            words.append(word)
            line = self.line
            if word in ("OFFSET", "CHANNELS", "JOINT", "}"):
                raise malformed(self.path, self.line, f"expected a name and {{, got {word!r}")
        if not words:
            raise malformed(self.path, self.line, "joint without a name")
        self.line = line  # what is wrong with a name is wrong there, not at the brace
        return " ".join(words)

    def _tip_name(self, joint: int) -> str:
        number = 1 + sum(self.parents[tip] == joint for tip in self.tips)
        name = f"{self.names[joint]}_end"
        while (unique := name if number == 1 else f"{name}{number}") in self.names:  # a joint may be called so too
            number += 1
        return unique

    def _begin(self, parent: int, name: str) -> int:
        if name in self.names:
            raise malformed(self.path, self.line, f"joint {name[:40]!r} occurs twice")
        if len(self.names) == MOST_JOINTS:
            raise malformed(self.path, self.line, f"more than {MOST_JOINTS} joints")
        self.names.append(name)
        self.parents.append(parent)
        self.offset.append(None)
        self.channels.append(None)
        return len(self.names) - 1

    def _read_channels(self) -> tuple[str, ...]:
        count = self._next()
        if count not in tuple("0123456"):
            raise malformed(self.path, self.line, f"CHANNELS must be a number up to 6, got {count[:40]!r}")
        words = [self._next() for _ in range(int(count))]
        channels = tuple(CHANNELS.get(word.lower(), "") for word in words)
        if "" in channels or len(set(channels)) != len(channels):
            got = " ".join(words)[:80]
            raise malformed(self.path, self.line, f"CHANNELS must be {count} positions or rotations, got {got!r}")
        return channels


def _order(channels: tuple[str, ...]) -> str:
    """Axes in the order in which they are turned about; those that are not come last."""
    turned = [name[1] for name in channels if name[0] == "r"]
    return "".join(turned + [axis for axis in "xyz" if axis not in turned])


def _announced(path: str | Path, lines: list[tuple[int, list[str]]]) -> tuple[int, float]:
    """Number of frames and time between two."""
    head: Iterator[tuple[int, list[str]]] = iter(lines[:2])
    number, words = next(head, (0, []))
    if len(words) != 2 or words[0] != "Frames:" or not (words[1].isascii() and words[1].isdigit()):
        raise malformed(path, number, f"expected Frames: and a number, got {' '.join(words)[:40]!r}")
    n_frames = int(words[1][:18])
    number, words = next(head, (number, []))
    if len(words) != 3 or words[:2] != ["Frame", "Time:"]:
        raise malformed(path, number, f"expected Frame Time: and a number, got {' '.join(words)[:40]!r}")
    time_step = read_number(path, number, words[2])
    if time_step <= 0:
        raise malformed(path, number, f"Frame Time must be positive, got {time_step:g}")
    return n_frames, time_step


def _values(path: str | Path, lines: list[tuple[int, list[str]]], n_frames: int, n_channels: int) -> np.ndarray:
    """Channels [C, T]: a frame is a line."""
    for number, words in lines:
        if len(words) != n_channels:
            raise malformed(path, number, f"a frame must have {n_channels} values, got {len(words)}")
    if n_channels and len(lines) != n_frames:
        raise malformed(path, lines[-1][0] if lines else 0, f"{n_frames} frames announced, got {len(lines)}")
    if not (n_channels and n_frames):
        raise malformed(path, 0, "no motion: it has no channels or no frames")
    words = [word for _, words in lines for word in words]
    try:
        values = np.array(list(map(float, words)))
    except ValueError:
        values = np.array([np.nan])
    if not np.abs(values).max() < LARGEST or any("_" in word for word in words):
        values = np.array([read_number(path, number, word) for number, words in lines for word in words])
    return np.ascontiguousarray(values.reshape(n_frames, n_channels).T)
