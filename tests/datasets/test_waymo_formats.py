"""TFRecord and protobuf readers: known answers, messages written here by other code, and random damage.

``GEOEQ_FUZZ=100000`` in the environment sets the number of damaged inputs per reader.
"""

from __future__ import annotations

import os
import random
import re
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoeq.datasets.waymo import crc32c, framed, parse_scenario, read_records, read_scenarios
from geoeq.datasets.waymo.crc32c import BLOCK, masked
from geoeq.datasets.waymo.wire import WireError, fields, signed, varint

COUNT = int(os.environ.get("GEOEQ_FUZZ", "400"))
SEED = int(os.environ.get("GEOEQ_FUZZ_SEED", "0"))


def crc32c_by_bits(data):
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x00000000),
        (b"a", 0xC1D04330),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next three: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_checksums(data, expected):
    assert crc32c(data) == expected


@given(st.binary(max_size=5 * BLOCK))
def test_checksum_equals_that_of_the_definition(data):
    assert crc32c(data) == crc32c_by_bits(data)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 1 << 15, (1 << 17) - 3, (1 << 17) + 1])
def test_checksum_of_many_blocks(size):
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == crc32c(memoryview(data)) == crc32c_by_bits(data)


def test_known_record():
    """The empty record as TensorFlow writes it."""
    assert framed(b"").hex() == "000000000000000029039807d8ea82a2"
    assert masked(0) == 0xA282EAD8


PAYLOADS = [b"", b"one", b"\0" * 300, bytes(range(256)) * 40]


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "some.tfrecord-00000-of-00001"
    path.write_bytes(b"".join(map(framed, PAYLOADS)))
    return path


def test_records_come_back_with_their_places(records):
    found = list(read_records(records))
    assert [record.payload for record in found] == PAYLOADS
    whole = records.read_bytes()
    assert all(whole[offset : offset + len(payload)] == payload for payload, offset in found)
    records.write_bytes(b"")
    assert list(read_records(records)) == []


def test_every_cut_is_told_unless_it_falls_between_records(records):
    whole = records.read_bytes()[:400]
    ends = [0, 16, 35, 351]
    for size in range(len(whole)):
        records.write_bytes(whole[:size])
        if size in ends:
            assert len(list(read_records(records))) == ends.index(size)
            continue
        begin = max(end for end in ends if end < size)
        message = re.escape(f"{records}, byte {begin}: the file ends inside ")
        with pytest.raises(ValueError, match=f"^{message}"):
            list(read_records(records))


def test_every_altered_byte_is_told_before_anything_is_given_out(records):
    whole = records.read_bytes()
    for place in [*range(16, 35), *range(35, 60)]:
        for bit in (1, 128):
            altered = bytearray(whole)
            altered[place] ^= bit
            records.write_bytes(altered)
            given_out: list[bytes] = []
            with pytest.raises(ValueError, match=rf"{re.escape(str(records))}, byte \d+: the checksum of a record"):
                given_out.extend(record.payload for record in read_records(records))
            assert given_out == PAYLOADS[: 1 if place < 35 else 2]


def test_missing_files_and_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tfrecord does not exist"):
        next(read_records(tmp_path / "nowhere.tfrecord"))
    (tmp_path / "text.tfrecord").write_text("these are not records at all")
    with pytest.raises(ValueError, match="byte 0: the checksum of a record's length is wrong: altered, or no TFRecord"):
        next(read_records(tmp_path / "text.tfrecord"))


# A writer of messages that shares nothing with the reader.
def number(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def integer(key, value):
    return number(key << 3) + number(value)


def double(key, value):
    return number(key << 3 | 1) + struct.pack("<d", value)


def single(key, value):
    return number(key << 3 | 5) + struct.pack("<f", value)


def block(key, content):
    return number(key << 3 | 2) + number(len(content)) + content


def state(x, y, z, heading=0.5, vx=1.0, vy=-2.0, valid=1):
    """All fields in the order of their numbers."""
    place = double(2, x) + double(3, y) + double(4, z)
    size = single(5, 4.5) + single(6, 2.0) + single(7, 1.5)
    return place + size + single(8, heading) + single(9, vx) + single(10, vy) + integer(11, valid)


def track(ident, kind, states):
    return integer(1, ident) + integer(2, kind) + b"".join(block(3, one) for one in states)


def scenario(tracks, n_frames, name="a1b2"):
    times = b"".join(double(1, 0.1 * t) for t in range(n_frames))
    rest = block(8, integer(1, 7) + block(3, b"a lane")) + integer(10, 10) + block(7, b"") + integer(6, 0)
    return times + b"".join(block(2, one) for one in tracks) + block(5, name.encode()) + rest + integer(4, 3)


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_come_back(value):
    data = number(value)
    found, stop = varint(data, 0, len(data))
    assert signed(found) == value
    assert stop == len(data)


def test_a_scenario_is_read():
    states = [[state(t + 10 * n, -t, 0.1 * t, valid=int(t != 1)) for t in range(3)] for n in range(2)]
    found = parse_scenario(scenario([track(41, 1, states[0]), track(42, 3, states[1])], 3))
    assert found.name == "a1b2"
    assert found.time.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert found.ids.tolist() == [41, 42]
    assert found.kind.tolist() == [1, 3]
    assert found.valid.tolist() == [[True, False, True]] * 2
    assert found.pos[1, 2].tolist() == pytest.approx([12.0, -2.0, 0.2])
    assert np.isnan(found.pos[:, 1]).all()
    assert found.vel[0, 0].tolist() == [1.0, -2.0]
    assert found.heading[0, 0] == 0.5
    motion = found.trajectory()
    assert motion.pos.shape == (3, 2, 3)
    assert motion.present.tolist() == [[True, True], [False, False], [True, True]]
    assert (motion.time_step, motion.unit, motion.name) == (0.1, "m", "a1b2")
    assert motion.x.flatten().tolist() == [1, 3]


def spellings(x, y, z):
    """One state, each in another way that the wire format allows."""
    usual = state(x, y, z)
    yield usual
    yield b"".join(
        [integer(11, 1), single(10, -2.0), double(4, z), double(3, y), double(2, x), single(9, 1.0), single(8, 0.5)]
    )
    yield usual + block(1000, b"a field of the future")
    yield integer(1, 5) + usual + integer(2, 3)  # the same number with another type is another field
    yield double(2, 99.0) + usual  # the last one counts
    yield usual[:-1] + b"\x81\x00"  # valid = 1, spelled with a byte too many
    yield usual[:-1] + b"\x07"  # not 0


def test_spellings_of_a_state_are_the_same():
    plain = parse_scenario(scenario([track(1, 1, [state(3.0, 4.0, 5.0)])], 1))
    for spelling in spellings(3.0, 4.0, 5.0):
        found = parse_scenario(scenario([track(1, 1, [spelling])], 1))
        for name in ("pos", "vel", "heading", "valid", "time", "ids", "kind"):
            assert np.array_equal(getattr(found, name), getattr(plain, name)), name


@pytest.mark.parametrize("absent", [integer(11, 0), b"", state(-1, -1, -1, valid=0), double(2, 7.0)])
def test_spellings_of_an_absent_state(absent):
    found = parse_scenario(scenario([track(1, 1, [state(1, 2, 3), absent])], 2))
    assert found.valid.tolist() == [[True, False]]
    assert np.isnan(found.pos[0, 1]).all()
    assert np.isnan(found.vel[0, 1]).all()
    assert np.isnan(found.heading[0, 1])


def test_defaults_packed_times_and_foreign_kinds():
    found = parse_scenario(block(1, struct.pack("<2d", 0.0, 0.1)) + block(2, block(3, b"") * 2))
    assert found.time.tolist() == [0.0, 0.1]
    assert (found.ids.tolist(), found.kind.tolist(), found.name) == ([0], [0], "")
    assert found.valid.tolist() == [[False, False]]
    found = parse_scenario(double(1, 0.0) + block(2, integer(2, 9) + integer(1, -3) + block(3, b"")))
    assert (found.ids.tolist(), found.kind.tolist()) == ([-3], [0])
    assert parse_scenario(b"").pos.shape == (0, 0, 3)
    long = state(1.0, 2.0, 3.0) + block(50, bytes(200))  # longer than one byte of length
    assert parse_scenario(scenario([track(1, 1, [long])], 1)).pos[0, 0].tolist() == [1.0, 2.0, 3.0]


def test_velocities_that_are_no_numbers_are_not_known():
    signalling = state(1.0, 2.0, 3.0).replace(struct.pack("<f", -2.0), b"\x00\x00\x85\xff")
    found = parse_scenario(scenario([track(1, 1, [signalling, state(1, 2, 3, vx=float("inf"))])], 2))
    assert found.pos[0].tolist() == [[1.0, 2.0, 3.0]] * 2
    assert np.array_equal(found.vel[0], [[1.0, np.nan], [np.nan, -2.0]], equal_nan=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (block(2, b"")[:-1], "a number does not end"),
        (b"\x80" * 12, "a number does not end"),
        (block(2, b"abc")[:-1], "a field of 3 bytes is longer than the 2 that are left"),
        (double(1, 0.0)[:-1], "a field of 8 bytes is longer than the 7 that are left"),
        (b"\x03", "a field has the wire type 3"),
        (b"\x07", "a field has the wire type 7"),
        (b"\x00\x01", "a field has the number 0"),
        (block(2, b"\x1a\x05\x00"), "a state of 5 bytes is longer than the 1 that are left"),
        (block(1, b"1234567"), "the times must be 8 bytes each, got 7 bytes"),
        (scenario([track(1, 1, [b""] * 2), track(2, 1, [b""])], 2), "a track has 1 states, the first has 2"),
        (scenario([track(1, 1, [b""] * 2)], 3), "there are 3 times, the tracks have 2 states"),
        (scenario([track(1, 1, [state(float("nan"), 0, 0)])], 1), "a valid state is at [nan, 0.0, 0.0]"),
        (scenario([track(1, 1, [state(0, 1e30, 0)])], 1), "a valid state is at [0.0, 1e+30, 0.0]"),
        (scenario([track(1, 1, [integer(11, 1)])], 1), "a valid state is at [nan, nan, nan]"),
        (b"these are words, and no message", "a field has the wire type 4"),
    ],
)
def test_what_is_wrong_with_a_message_is_told_with_its_place(tmp_path, content, message):
    with pytest.raises(WireError, match=re.escape(message)):
        parse_scenario(content)
    path = tmp_path / "one.tfrecord"
    path.write_bytes(framed(scenario([], 0)) + framed(content))
    first = len(framed(scenario([], 0)))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        list(read_scenarios(path))
    place = re.fullmatch(rf"{re.escape(str(path))}, byte (\d+): not a scenario \(.*\)", str(error.value))
    assert first + 12 <= int(place[1]) <= first + 12 + len(content)


def test_reading_is_fast():
    """A scenario of the data set's size, 128 tracks of 91 states, takes milliseconds, not seconds."""
    tracks = [track(n, 1, [state(n, t, 0.0) if t % 5 else integer(11, 0) for t in range(91)]) for n in range(128)]
    content = scenario(tracks, 91) + block(8, bytes(300_000))
    start = time.perf_counter()
    found = parse_scenario(content)
    assert time.perf_counter() - start < 1.0
    assert found.valid.sum() == 128 * 72
    assert crc32c(content) == crc32c(bytes(content))


def damaged(whole, pick):
    """A few bytes changed, dropped, doubled or moved, or the end cut off."""
    data = bytearray(whole)
    for _ in range(pick.choice([1, 1, 2, 4])):
        i, j = sorted(pick.randrange(len(data) + 1) for _ in range(2))
        j = min(j, i + pick.choice([1, 1, 2, 8, 61, 200]))
        action = pick.randrange(5)
        if action == 0 and i < len(data):
            data[i] = pick.choice([0, 1, 0x1A, 0x3B, 0x7F, 0x80, 0xFF, pick.randrange(256)])
        elif action == 1:
            del data[i:j]
        elif action == 2:
            data[i:i] = data[i:j]
        elif action == 3:
            data[i:j] = pick.randbytes(j - i)
        else:
            del data[pick.randrange(len(data) + 1) :]
    return bytes(data)


def test_random_damage_to_messages():
    states = [state(1, 2, 3), integer(11, 0), double(4, 1.0) + double(2, 0.0) + double(3, 0.0) + integer(11, 1)]
    whole = scenario([track(n, n, states) for n in range(3)], 3)
    accepted, slowest = 0, 0.0
    for count in range(COUNT):
        content = damaged(whole, random.Random(f"message {SEED} {count}"))
        told, offset = "", 0
        start = time.perf_counter()
        try:
            found = parse_scenario(content)
            n, t = found.valid.shape
            assert found.pos.shape == (n, t, 3)
            assert found.vel.shape == (n, t, 2)
            assert found.heading.shape == (n, t)
            assert n == len(found.ids) == len(found.kind)
            assert np.isfinite(found.pos[found.valid]).all()
            assert np.isnan(found.pos[~found.valid]).all()
            accepted += 1
        except WireError as error:
            told, offset = str(error), error.offset
        except Exception as error:
            raise AssertionError(f"message {SEED} {count}: {content!r}") from error
        assert 0 <= offset <= len(content)
        assert "\n" not in told
        slowest = max(slowest, time.perf_counter() - start)
    print(f"protobuf: {COUNT} messages, {accepted} accepted, slowest {1e3 * slowest:.1f} ms")
    assert slowest < 5.0
    assert 0 < accepted < COUNT


def test_random_damage_to_record_files(tmp_path):
    folder = Path("/dev/shm") if COUNT > 10_000 and os.access("/dev/shm", os.W_OK) else tmp_path
    path = folder / f"{os.getpid()}.tfrecord"
    payloads = [b"", b"one", bytes(range(200))]
    whole = b"".join(map(framed, payloads))
    accepted, slowest = 0, 0.0
    for count in range(COUNT):
        path.write_bytes(damaged(whole, random.Random(f"records {SEED} {count}")))
        told = f"{path}, byte 0: "
        start = time.perf_counter()
        found = []
        try:
            found.extend(record.payload for record in read_records(path))
            accepted += 1
        except ValueError as error:
            told = str(error)
        except Exception as error:
            raise AssertionError(f"records {SEED} {count}") from error
        assert set(found) <= set(payloads)  # nothing that was not written
        assert re.match(rf"{re.escape(str(path))}, byte \d+: ", told), (count, told)
        assert "\n" not in told
        slowest = max(slowest, time.perf_counter() - start)
    path.unlink()
    print(f"tfrecord: {COUNT} files, {accepted} accepted, slowest {1e3 * slowest:.1f} ms")
    assert slowest < 5.0
    assert 0 < accepted < COUNT


def test_fields_are_lazy():
    """What is not needed is not read: an error further on does not show before it is met."""
    first = next(fields(integer(1, 5) + b"\x07"))
    assert (first.number, first.value) == (1, 5)
