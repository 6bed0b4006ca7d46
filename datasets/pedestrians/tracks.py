"""Tracks of pedestrians: the text files, and the windows in which people are seen without a gap."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from geoeq.datasets.trajectory import Trajectory

TIME_STEP = 0.4  # seconds between two rows of a pedestrian
MAX_SIZE = 1e6  # metres
MAX_CELLS = 50_000_000  # of frames times pedestrians in one recording
# A number, of frames and pedestrians too; everything else that Python would read as one is refused.
LETTERS = np.zeros(256, dtype=bool)
LETTERS[list(b"0123456789+-.eE \t\r\n")] = True
BLANKS = np.zeros(256, dtype=bool)
BLANKS[list(b" \t\r\n")] = True


class Tracks(NamedTuple):
    """Rows of a recording, sorted by pedestrian and then by frame; frames of one track differ by multiples of step."""

    frame: np.ndarray  # [R] int64, as numbered in the file
    ids: np.ndarray  # [R] int64
    pos: np.ndarray  # [R, 2] float64, metres
    step: int  # frames between two rows of a pedestrian who stays in sight

    def between(self, first: int | None = None, stop: int | None = None) -> Tracks:
        """The rows of frames from ``first`` on and before ``stop``."""
        keep = np.ones(len(self.frame), dtype=bool)
        if first is not None:
            keep &= self.frame >= first
        if stop is not None:
            keep &= self.frame < stop
        return Tracks(self.frame[keep], self.ids[keep], self.pos[keep], self.step)


class WindowRows(NamedTuple):
    """Windows of several pedestrians each: rows of the tracks, sorted by window and then by pedestrian."""

    rows: np.ndarray  # [M, L], the L rows of a pedestrian in a window
    size: np.ndarray  # [S], pedestrians in each window; they add up to M
    start: np.ndarray  # [S], first frame of each window


def read_tracks(path: str | Path) -> Tracks:
    """Read rows ``frame id x y``, separated by tabs or blanks, in any order; blank lines are passed over.

    The step between frames is the most common difference between a pedestrian's rows (10 in the published files, 6 in
    others); every frame must lie a multiple of it after the first. A pedestrian may be missing at some frames.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names file and line: not four finite numbers, a frame or id that is no whole number, a
            position beyond 1000 km, a pedestrian twice at one frame, a frame between two steps. Or a file without rows.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "street.txt")
        >>> _ = path.write_text("0 1 0.0 2.0\\n6 1 0.5 2.0\\n12 1 1.0 2.0\\n6 2 3.0 3.0\\n")
        >>> tracks = read_tracks(path)
        >>> tracks.ids.tolist(), tracks.frame.tolist(), tracks.step
        ([1, 1, 1, 2], [0, 6, 12, 6], 6)
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    table, line = _table(path, content)
    order = np.lexsort((table[:, 0], table[:, 1]))
    table, line = table[order], line[order]
    frame, ids = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    same = ids[1:] == ids[:-1]
    gap = np.diff(frame)
    twice = np.flatnonzero(same & (gap == 0))
    if twice.size:
        row = twice[0] + 1
        raise _fault(path, line[row], f"pedestrian {ids[row]} is at frame {frame[row]} twice")
    values, counts = np.unique(gap[same], return_counts=True)
    step = int(values[counts.argmax()]) if values.size else 1
    between = np.flatnonzero((frame - frame.min()) % step)
    if between.size:
        row = between[np.argmin(line[between])]
        expected = f"frames must lie multiples of {step} after frame {frame.min()}"
        raise _fault(path, line[row], f"{expected}, got {frame[row]}")
    return Tracks(frame, ids, table[:, 2:], step)


def _table(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows, [R, 4], and the line of each row, [R], counted from 1."""
    letters = np.frombuffer(content, dtype=np.uint8)
    blank = BLANKS[letters]
    line_of_letter = np.cumsum(letters == ord("\n")) + 1
    first = ~blank & np.concatenate([[True], blank[:-1]]) if letters.size else blank
    words = np.bincount(line_of_letter[first])
    expected = "expected four numbers, frame id x y"
    wrong = np.flatnonzero((words != 0) & (words != 4))
    foreign = line_of_letter[~LETTERS[letters]]
    bad = np.concatenate([wrong, foreign])
    if bad.size:
        raise _fault(path, bad.min(), expected, content)
    line = np.flatnonzero(words)
    if not line.size:
        raise ValueError(f"{path} must hold rows of four numbers, frame id x y, got none")
    try:
        with np.errstate(over="ignore"):
            table = np.array(content.split(), dtype=np.float64).reshape(-1, 4)
    except ValueError:
        raise _fault(path, _first_unreadable(content), expected, content) from None
    whole = (table[:, :2] == np.round(table[:, :2])).all(1) & (np.abs(table[:, :2]) < 2**53).all(1)
    near = (np.abs(table[:, 2:]) <= MAX_SIZE).all(1)
    bad = np.flatnonzero(~whole | ~near)
    if bad.size:
        what = "whole numbers of frame and id" if not whole[bad[0]] else f"positions within {MAX_SIZE:g} m"
        raise _fault(path, line[bad[0]], f"expected {what}", content)
    return table, line


def _first_unreadable(content: bytes) -> int:
    """Line of the first word that is no number."""
    number = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
    lines = enumerate(content.split(b"\n"), start=1)
    return next((i for i, text in lines if not all(number.fullmatch(word) for word in text.split())), 1)


def _fault(path: Path, line: int, what: str, content: bytes | None = None) -> ValueError:
    if content is not None:
        text = content.split(b"\n")[line - 1].decode("ascii", "replace").strip()
        what = f"{what}, got {text[:60]!r}"
    return ValueError(f"{path}, line {line}: {what}")


def cut_windows(tracks: Tracks, length: int, stride: int = 1, min_pedestrians: int = 1) -> WindowRows:
    """Windows of ``length`` consecutive frames and the pedestrians who are there at all of them.

    Windows start at multiples of ``stride`` steps after the first frame of the tracks. A window with fewer than
    ``min_pedestrians`` such people is left out.

    Example:
        >>> frame, ids = np.array([0, 10, 20, 10, 20, 30]), np.array([7, 7, 7, 8, 8, 8])
        >>> windows = cut_windows(Tracks(frame, ids, np.zeros((6, 2)), 10), length=2)
        >>> windows.start.tolist(), windows.size.tolist(), windows.rows.tolist()
        ([0, 10, 20], [1, 2, 1], [[0, 1], [1, 2], [3, 4], [4, 5]])
    """
    frame, ids, _, step = tracks
    n = max(len(frame) - length + 1, 0)
    # Rows are sorted and no two are alike: a pedestrian whose row length - 1 further on is as many steps later was
    # there all the time.
    seen = (ids[len(ids) - n :] == ids[:n]) & (frame[len(frame) - n :] - frame[:n] == (length - 1) * step)
    if n:
        seen &= (frame[:n] - frame.min()) % (stride * step) == 0
    first = np.flatnonzero(seen)
    first = first[np.lexsort((ids[first], frame[first]))]
    start, window, size = np.unique(frame[first], return_inverse=True, return_counts=True)
    enough = size >= min_pedestrians
    first = first[enough[window]]
    return WindowRows(first[:, None] + np.arange(length), size[enough], start[enough])


def recording(path: str | Path, time_step: float = TIME_STEP, dtype: torch.dtype = torch.float32) -> Trajectory:
    """One text file as a trajectory of all its pedestrians, NaN at frames at which one is absent.

    Frames are one step of the file apart; those at which nobody was seen are there too.

    Args:
        path: the file, see :func:`read_tracks`.
        time_step: seconds between two frames.
        dtype: of the positions.

    Returns:
        Trajectory with ``pos`` [T, N, 2] in metres, ``present`` [T, N] and ``ids`` [N].

    Raises:
        FileNotFoundError, ValueError: as :func:`read_tracks`, or for a table of frames and people that is too large.
    """
    frame, ids, pos, step = read_tracks(path)
    row = (frame - frame.min()) // step
    names, column = np.unique(ids, return_inverse=True)
    n_frames = int(row.max()) + 1
    if n_frames * len(names) > MAX_CELLS:
        raise ValueError(f"{path} must span at most {MAX_CELLS} frames x pedestrians, got {n_frames} x {len(names)}")
    table = np.full((n_frames, len(names), 2), np.nan)
    table[row, column] = pos
    present = np.zeros((n_frames, len(names)), dtype=bool)
    present[row, column] = True
    return Trajectory(
        torch.from_numpy(table).to(dtype),
        time_step,
        "m",
        ids=torch.from_numpy(names),
        present=torch.from_numpy(present),
        name=Path(path).stem,
    )
