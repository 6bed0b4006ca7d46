"""Acclaim motion files (AMC)."""

from __future__ import annotations

import re
from itertools import compress
from pathlib import Path

import numpy as np

from geoeq.datasets.checks import require
from geoeq.datasets.mocap.kinematics import Rig
from geoeq.datasets.mocap.text import LARGEST, malformed, numbered_lines, read_numbers, read_text
from geoeq.datasets.trajectory import Trajectory

FRAME = re.compile(r"^[ \t]*\d+[ \t]*$", re.MULTILINE | re.ASCII)


def read_amc(path: str | Path, rig: Rig, time_step: float = 1 / 120) -> Trajectory:
    """Read a motion of an Acclaim skeleton.

    Args:
        path: of the file.
        rig: what :func:`~geoeq.datasets.mocap.read_asf` read from the skeleton's file.
        time_step: in seconds; the file does not say it. The CMU database has 120 frames a second.

    Returns:
        Trajectory of T frames and J joints in float64, in the unit of the skeleton, with edges of one and two bones
        and the limbs as parts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line with file and line for anything malformed: a bone unknown, missing or twice in a frame,
            a wrong number of channels, a value that is not finite, frames that are not numbered one after the other.
            A file that is cut between two frames is a shorter motion: the format does not say how long it should be.
    """
    require(rig.bones_turn, "rig", "one of an ASF file", rig.skeleton.names[:3])
    text = read_text(path)
    first = FRAME.search(text)
    if first is None:
        raise malformed(path, 0, "no frames (truncated, or not an AMC file)")
    degrees = _angle_unit(path, text[: first.start()], rig.degrees)
    values = _uniform(text[first.start() :], rig)
    if values is None:
        line = text.count("\n", 0, first.start()) + 1
        values = _line_by_line(path, text[first.start() :], line, rig)
    if degrees != rig.degrees:
        values[rig.turns] = (np.rad2deg if rig.degrees else np.deg2rad)(values[rig.turns])
    return rig.trajectory(values, time_step, Path(path).stem)


def _angle_unit(path: str | Path, header: str, degrees: bool) -> bool:
    """Whether angles are in degrees: as the header says, or else as the skeleton's file does."""
    for number, words in numbered_lines(header):
        if not words[0].startswith(":"):
            raise malformed(path, number, f"expected a frame number, got {words[0][:40]!r}")
        if words[0] in (":DEGREES", ":RADIANS"):
            degrees = words[0] == ":DEGREES"
    return degrees


def _uniform(text: str, rig: Rig) -> np.ndarray | None:
    """Channels [C, T] if all frames list the same bones in the same order, as programs write them; else None."""
    words = text.split()
    rows = {name: row for name, row in zip(rig.skeleton.names, rig.rows, strict=True) if row}
    places: dict[str, int] = {}
    size = 1
    while size < len(words) and words[size] in rows and words[size] not in places:
        places[words[size]] = size
        size += 1 + len(rows[words[size]])
    n_frames = len(words) // size
    if places.keys() != rows.keys() or len(words) != n_frames * size:
        return None
    if any(words[place::size] != [name] * n_frames for name, place in places.items()):
        return None
    if text.count("_") != n_frames * sum(name.count("_") for name in places):  # Python reads 1_0 as ten
        return None
    order = [row for name in places for row in rows[name]]
    is_value = [False] + [flag for name in places for flag in (False, *[True] * len(rows[name]))]
    try:
        number = int(words[0])
        if list(map(int, words[::size])) != list(range(number, number + n_frames)):
            return None
        numbers = map(float, compress(words, is_value * n_frames))
        values = np.fromiter(numbers, np.float64, n_frames * len(order)).reshape(n_frames, -1)
    except ValueError:
        return None
    if not np.abs(values).max() < LARGEST:
        return None
    return np.ascontiguousarray(values[:, np.argsort(order)].T)


def _line_by_line(path: str | Path, text: str, first_line: int, rig: Rig) -> np.ndarray:
    """The same for frames in any order of bones; finds the line at which a file is malformed."""
    rows = {name: row for name, row in zip(rig.skeleton.names, rig.rows, strict=True) if row}
    fixed = set(rig.skeleton.names) - set(rows)
    frames: list[dict[str, list[float]]] = []
    begin = previous = 0
    for number, words in numbered_lines(text, first_line):
        name = words[0]
        if name.isascii() and name.isdigit() and len(words) == 1:
            _check_complete(path, begin, frames, rows)
            if frames and int(name[-18:]) != previous + 1:
                raise malformed(path, number, f"expected frame {previous + 1}, got {name[:40]}")
            begin, previous = number, int(name[-18:])
            frames.append({})
        elif name not in rows:
            known = "has no channels" if name in fixed else "is not in the skeleton"
            raise malformed(path, number, f"bone {name[:40]!r} {known}")
        elif name in frames[-1]:
            raise malformed(path, number, f"bone {name[:40]!r} occurs twice in one frame")
        else:
            frames[-1][name] = read_numbers(path, number, words[1:], len(rows[name]), name)
    _check_complete(path, begin, frames, rows)
    values = np.empty((rig.n_channels, len(frames)))
    for name, row in rows.items():
        values[row] = np.array([frame[name] for frame in frames]).T
    return values


def _check_complete(path: str | Path, line: int, frames: list[dict[str, list[float]]], rows: dict) -> None:
    lost = [name for name in rows if name not in frames[-1]] if frames else []
    if lost:
        raise malformed(path, line, f"frame without bone {lost[0][:40]!r} (truncated, or of another skeleton)")
