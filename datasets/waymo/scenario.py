"""Scenarios of the Waymo Open Motion Dataset: the tracks of all objects, from serialized ``Scenario`` messages.

Numbers of the fields are those of the data set's ``scenario.proto``. Maps, traffic lights, sizes of the objects and
what else a scenario holds are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from geoeq.datasets.trajectory import Trajectory
from geoeq.datasets.waymo.tfrecord import read_records
from geoeq.datasets.waymo.wire import BYTES, FIXED32, FIXED64, VARINT, WireError, fields, signed

TIME_STEP = 0.1  # seconds
KINDS = ("unset", "vehicle", "pedestrian", "cyclist", "other")
MAX_SIZE = 1e7  # metres
SCENARIO = {"time": 1, "tracks": 2, "name": 5}
TRACK = {"id": 1, "kind": 2, "states": 3}
# of a state: number, type and column of what is read
DOUBLES = {2: 0, 3: 1, 4: 2}  # center_x, center_y, center_z
FLOATS = {8: 3, 9: 4, 10: 5}  # heading, velocity_x, velocity_y
VALID = 11

# A state with all its fields in the order of their numbers, as the data set's writer puts them: 59 bytes.
_LAYOUT = [*(("<f8", number) for number in (2, 3, 4)), *(("<f4", number) for number in (5, 6, 7, 8, 9, 10)), ("u1", 11)]
FULL = np.dtype([part for kind, number in _LAYOUT for part in ((f"tag{number}", "u1"), (f"field{number}", kind))])
TAGS = {f"tag{n}": n << 3 | {"<f8": FIXED64, "<f4": FIXED32, "u1": VARINT}[kind] for kind, n in _LAYOUT}
ABSENT = bytes([VALID << 3 | VARINT, 0])  # a state that says only that it is not valid
STATE_KEY = TRACK["states"] << 3 | BYTES


class Scenario(NamedTuple):
    """N objects at T moments, 0.1 s apart.

    Attributes:
        name: of the scenario.
        time: [T] float64, seconds.
        ids: [N] int64, of the objects.
        kind: [N] int64, places in :data:`KINDS`.
        pos: [N, T, 3] float64, centre of the object in metres, z upwards; NaN where it is not valid.
        vel: [N, T, 2] float64, m/s; NaN where it is not known.
        heading: [N, T] float64, angle from the x axis in radians; NaN where it is not known.
        valid: [N, T] bool, whether the object was seen.
    """

    name: str
    time: np.ndarray
    ids: np.ndarray
    kind: np.ndarray
    pos: np.ndarray
    vel: np.ndarray
    heading: np.ndarray
    valid: np.ndarray

    def trajectory(self, dtype: torch.dtype = torch.float32) -> Trajectory:
        """All objects as nodes, absent where they are not valid; ``x`` [N, 1] is the kind."""
        return Trajectory(
            torch.from_numpy(self.pos).transpose(0, 1).to(dtype),
            TIME_STEP,
            "m",
            x=torch.from_numpy(self.kind)[:, None].to(dtype),
            ids=torch.from_numpy(self.ids),
            present=torch.from_numpy(self.valid).T,
            name=self.name,
        )


def read_scenarios(path: str | Path) -> Iterator[Scenario]:
    """The scenarios of one TFRecord file of the motion data set, format ``scenario``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names file and byte for a file that is cut short or altered, or a record that is no
            scenario.
    """
    for payload, offset in read_records(path):
        try:
            yield parse_scenario(payload)
        except WireError as error:
            raise ValueError(f"{path}, byte {offset + error.offset}: not a scenario ({error})") from None


def parse_scenario(data: bytes) -> Scenario:
    """Read one serialized ``Scenario``.

    As in the wire format's own readers, a field given twice counts as given last, and fields that are not known, or
    not of their type, are passed over.

    Raises:
        WireError: for bytes that are no such message, tracks of different lengths, or a valid state whose position is
            missing, not finite or further than 10,000 km away.

    Example:
        >>> empty = parse_scenario(b"")
        >>> empty.pos.shape, empty.name
        ((0, 0, 3), '')
    """
    name, times = "", []
    ids, kinds, counts = [], [], []
    spans: list[tuple[int, int]] = []
    for number, wire, _, start, stop in fields(data):
        if number == SCENARIO["tracks"] and wire == BYTES:
            before = len(spans)
            track, kind = _track(data, start, stop, spans)
            ids.append(track)
            kinds.append(kind if 0 <= kind < len(KINDS) else 0)
            counts.append(len(spans) - before)
            if counts[-1] != counts[0]:
                raise WireError(start, f"a track has {counts[-1]} states, the first has {counts[0]}")
        elif number == SCENARIO["time"] and wire in (FIXED64, BYTES):  # one by one, or packed together
            if (stop - start) % 8:
                raise WireError(start, f"the times must be 8 bytes each, got {stop - start} bytes")
            times.append(np.frombuffer(data, "<f8", (stop - start) // 8, start))
        elif number == SCENARIO["name"] and wire == BYTES:
            name = data[start:stop].decode("utf-8", "replace")
    n_frames = counts[0] if counts else 0
    time = np.concatenate([np.empty(0), *times])
    if counts and len(time) != n_frames:
        raise WireError(0, f"there are {len(time)} times, the tracks have {n_frames} states")
    values, valid = _states(data, np.array(spans, dtype=np.int64).reshape(-1, 2))
    values = values.reshape(len(ids), n_frames, 6)
    return Scenario(
        name,
        time,
        np.array(ids, dtype=np.int64),
        np.array(kinds, dtype=np.int64),
        values[..., :3],
        values[..., 4:],
        values[..., 3],
        valid.reshape(len(ids), n_frames),
    )


def _track(data: bytes, start: int, stop: int, spans: list[tuple[int, int]]) -> tuple[int, int]:
    """Id and kind of a track; where its states lie is appended to ``spans``."""
    track = kind = 0
    at = start
    while at < stop:
        # States are nearly all that there is, and short: no generator and no general number for them.
        if data[at] == STATE_KEY and at + 1 < stop and data[at + 1] < 0x80:
            begin = at + 2
            end = begin + data[at + 1]
            if end > stop:
                raise WireError(at, f"a state of {end - begin} bytes is longer than the {stop - begin} that are left")
            spans.append((begin, end))
            at = end
            continue
        number, wire, value, begin, end = next(fields(data, at, stop))
        if number == TRACK["states"] and wire == BYTES:
            spans.append((begin, end))
        elif number == TRACK["id"] and wire == VARINT:
            track = signed(value)
        elif number == TRACK["kind"] and wire == VARINT:
            kind = signed(value)
        at = end
    return track, kind


def _states(data: bytes, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns x, y, z, heading, velocity x and y of the states, [R, 6], and whether they are valid, [R]."""
    values = np.full((len(spans), 6), np.nan)
    valid = np.zeros(len(spans), dtype=bool)
    letters = np.frombuffer(data, dtype=np.uint8)
    start, size = spans[:, 0], spans[:, 1] - spans[:, 0]
    rows = np.flatnonzero(size == FULL.itemsize)
    full = letters[start[rows, None] + np.arange(FULL.itemsize)].view(FULL)[:, 0]
    usual = np.ones(len(rows), dtype=bool)
    for tag, byte in TAGS.items():
        usual &= full[tag] == byte
    usual &= full[f"field{VALID}"] < 0x80
    rows, full = rows[usual], full[usual]
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
        for number, column in (DOUBLES | FLOATS).items():
            values[rows, column] = full[f"field{number}"]
    valid[rows] = full[f"field{VALID}"] != 0
    rest = np.ones(len(spans), dtype=bool)
    rest[rows] = False
    short = np.flatnonzero(size == len(ABSENT))
    rest[short[(letters[start[short, None] + np.arange(len(ABSENT))] == tuple(ABSENT)).all(1)]] = False
    for row in np.flatnonzero(rest).tolist():
        values[row], valid[row] = _state(data, *spans[row].tolist())
    wrong = np.flatnonzero(valid & ~(np.abs(values[:, :3]) <= MAX_SIZE).all(1))
    if wrong.size:
        raise WireError(int(start[wrong[0]]), f"a valid state is at {values[wrong[0], :3].tolist()}")
    values[~valid[:, None] | ~np.isfinite(values)] = np.nan
    return values, valid


def _state(data: bytes, start: int, stop: int) -> tuple[list[float], bool]:
    """One state, whatever its fields and their order."""
    values, valid = [float("nan")] * 6, False
    for number, wire, value, begin, _ in fields(data, start, stop):
        if wire == FIXED64 and number in DOUBLES:
            values[DOUBLES[number]] = struct.unpack_from("<d", data, begin)[0]
        elif wire == FIXED32 and number in FLOATS:
            values[FLOATS[number]] = struct.unpack_from("<f", data, begin)[0]
        elif wire == VARINT and number == VALID:
            valid = value != 0
    return values, valid
