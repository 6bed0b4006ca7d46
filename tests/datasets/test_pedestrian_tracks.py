"""Tracks of pedestrians: the parser against a plain one, windows against loops."""

from __future__ import annotations

import os
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from geoeq.datasets.pedestrians import Tracks, cut_windows, read_tracks, recording

FUZZ = int(os.environ.get("GEOEQ_FUZZ", "500"))  # inputs of the fuzz test


STREET = "0 1 0.0 0.0\n6 1 0.5 0.0\n12 1 1.0 0.0\n6 2 3.0 1.0\n12 2 3.0 1.5\n24 2 3.0 2.5\n"


@pytest.fixture
def street(tmp_path):
    """Writes a file and reads it."""

    def street(text, read=read_tracks):
        path = tmp_path / "street.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(path)

    return street


def rows(tracks):
    return [(f, i, *p) for f, i, p in zip(tracks.frame.tolist(), tracks.ids.tolist(), tracks.pos.tolist())]


def test_rows_are_read_in_any_order_and_spelling(street):
    expected = street(STREET)
    assert rows(expected)[1] == (6, 1, 0.5, 0.0)
    assert expected.step == 6
    lines = STREET.splitlines()
    for text in (
        "\n".join(lines[::-1]),
        STREET.replace(" ", "\t"),
        STREET.replace("\n", "\r\n"),
        "\n\n  " + STREET.replace("\n", " \n\n"),
        re.sub(r"^(\d+) (\d)", r"\1.0 \2e0", STREET, flags=re.MULTILINE),
    ):
        assert rows(street(text)) == rows(expected)
    assert street("-5 -2 +1.5e1 .5\n").pos.tolist() == [[15.0, 0.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 0 0\n6 1 0\n", "line 2: expected four numbers, frame id x y, got '6 1 0'"),
        ("0 1 0 0 0\n", "line 1: expected four numbers, frame id x y, got '0 1 0 0 0'"),
        ("0 1 0 0\n\n6 1 nan 0\n", "line 3: expected four numbers, frame id x y, got '6 1 nan 0'"),
        ("frame id x y\n0 1 0 0\n", "line 1: expected four numbers"),
        ("0,1,0,0\n", "line 1: expected four numbers"),
        ("0 1 1.2.3 0\n", "line 1: expected four numbers"),
        ("0 1 1_0 0\n", "line 1: expected four numbers"),
        ("0 1 1e999 0\n", "line 1: expected positions within 1e+06 m"),
        ("0 1 0 -2e6\n", "line 1: expected positions within 1e+06 m"),
        ("0.5 1 0 0\n", "line 1: expected whole numbers of frame and id"),
        ("0 1e30 0 0\n", "line 1: expected whole numbers of frame and id"),
        ("0 1 0 0\n6 1 0 0\n0 1 1 1\n", "line 3: pedestrian 1 is at frame 0 twice"),
        ("0 1 0 0\n9 2 0 0\n6 1 0 0\n12 1 0 0\n", "line 2: frames must lie multiples of 6 after frame 0, got 9"),
        (b"\xef\xbb\xbf0 1 0 0\n", "line 1: expected four numbers"),
        (b"0 1 0 0\n6 1 0 0\x00\n", "line 2: expected four numbers"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(street, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        street(text)
    assert re.fullmatch(r".*street\.txt, line .*", str(error.value))


def test_files_that_cannot_be_read(street, tmp_path):
    for text in ("", "\n \n"):
        with pytest.raises(ValueError, match=r"street.txt must hold rows of four numbers, frame id x y, got none"):
            street(text)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_tracks(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_tracks(tmp_path)


def plain_parser(content):
    """Rows of a file, or None if it is malformed: word by word."""
    number = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
    found = {}
    for text in content.split(b"\n"):
        words = [word for word in re.split(rb"[ \t\r]+", text) if word]
        if not words:
            continue
        if len(words) != 4 or not all(number.fullmatch(word) for word in words):
            return None
        frame, name, x, y = map(float, words)
        fits = all(abs(v) < 2**53 and v == round(v) for v in (frame, name)) and all(abs(v) <= 1e6 for v in (x, y))
        if not fits or (name, frame) in found:
            return None
        found[name, frame] = (x, y)
    order = sorted(found)
    gaps = [b[1] - a[1] for a, b in pairwise(order) if a[0] == b[0]]
    step = min(set(gaps), key=lambda gap: (-gaps.count(gap), gap)) if gaps else 1
    start = min((frame for _, frame in order), default=0)
    if not order or any((int(frame) - int(start)) % int(step) for _, frame in order):
        return None
    return [(int(frame), int(name), *found[name, frame]) for name, frame in order]


WORDS = [b"", b"0", b"-1", b"6", b"1e3", b"1e400", b"nan", b"inf", b"0x1", b"1_0", b".", b"-", b"e", b"1e", b"9" * 20]
WORDS += [b"1.5", b"\xff", b"1,5", b"\n", b"\r", b"\t\t", b"\x0b", b"\x00", b"# 1", b"1 2 3 4", b"4e15", b"-0"]


def mutated(content, generator):
    """A few bytes, words or lines of the file replaced, removed, repeated or put elsewhere."""
    for _ in range(generator.integers(1, 4)):
        kind = generator.integers(7)
        if kind < 3:
            cut = [b"\n", b" ", b""][kind]
            pieces = content.split(cut) if cut else [content[i : i + 1] for i in range(len(content))]
            place = generator.integers(max(len(pieces), 1))
            new = WORDS[generator.integers(len(WORDS))] if kind else pieces[generator.integers(len(pieces) or 1)]
            pieces[place : place + generator.integers(2)] = [new]
            content = cut.join(pieces)
        elif kind == 3:
            place = generator.integers(len(content) + 1)
            content = content[:place] + generator.bytes(1) + content[place + 1 :]
        elif kind == 4:
            content = content[: generator.integers(len(content) + 1)]
        elif kind == 5:
            lines = content.split(b"\n")
            content = b"\n".join(lines[i] for i in generator.permutation(len(lines)))
        else:
            content = content.replace(b"%d" % generator.integers(10), b"%d" % generator.integers(-9, 30), 1)
    return content


def test_fuzzed_files_are_read_as_by_a_plain_parser_or_refused(street):
    generator, accepted = np.random.default_rng(0), 0
    for _ in range(FUZZ):
        content = mutated(STREET.encode(), generator)
        expected = plain_parser(content)
        try:
            tracks = street(content)
        except ValueError as error:
            assert expected is None, content
            assert re.fullmatch(r"[^\n]*street\.txt[^\n]*", str(error))  # noqa: PT017
            continue
        assert rows(tracks) == expected, content
        accepted += 1
        windows = cut_windows(tracks, 2)
        assert windows.rows.shape == (windows.size.sum(), 2)
        try:
            motion = street(content, recording)
        except ValueError as error:
            assert "frames x pedestrians" in str(error)  # noqa: PT017
            continue
        assert motion.pos.shape == (*motion.present.shape, 2)
        assert motion.present.sum() == len(expected)
    assert 0.1 * FUZZ < accepted < 0.9 * FUZZ


def test_a_recording_is_a_table_of_frames_and_pedestrians(street):
    motion = street(STREET, lambda path: recording(path, dtype=torch.float64))
    assert motion.pos.shape == (5, 2, 2)  # frame 18, at which nobody is seen, is there too
    assert (motion.time_step, motion.unit, motion.name) == (0.4, "m", "street")
    assert motion.ids.tolist() == [1, 2]
    assert motion.present.T.tolist() == [[True, True, True, False, False], [False, True, True, False, True]]
    assert torch.equal(motion.pos.isnan().any(2), ~motion.present)
    assert motion.pos[2].tolist() == [[1.0, 0.0], [3.0, 1.5]]
    with pytest.raises(ValueError, match="must span at most"):
        street("0 1 0 0\n1 1 0 0\n2 1 0 0\n1000000000000 1 0 0\n", recording)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("least", [1, 2])
def test_windows_equal_loops_over_frames_and_people(stride, least):
    generator = np.random.default_rng(stride + least)
    cells = np.argwhere(generator.random((5, 40)) < 0.8)  # [R, (pedestrian, frame)], in order
    ids, frame = cells.T + np.array([[3], [7]])
    tracks = Tracks(frame * 10, ids, generator.random((len(ids), 2)), 10)
    windows = cut_windows(tracks, 4, stride, least)
    there = {(i, f): row for row, (i, f) in enumerate(zip(ids.tolist(), frame.tolist()))}
    expected = []
    for start in range(frame.min(), frame.max() + 1, stride):
        people = [i for i in range(3, 8) if all((i, start + k) in there for k in range(4))]
        if len(people) >= least:
            expected.append((start * 10, [[there[i, start + k] for k in range(4)] for i in people]))
    assert windows.start.tolist() == [start for start, _ in expected]
    assert windows.size.tolist() == [len(people) for _, people in expected]
    assert windows.rows.tolist() == [row for _, people in expected for row in people]
