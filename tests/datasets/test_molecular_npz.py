"""Reading MD17 and rMD17 files: both spellings, every way in which a file can be wrong, and random damage.

``GEOEQ_FUZZ=100000`` in the environment sets the number of damaged files.
"""

from __future__ import annotations

import io
import os
import random
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from geoeq.datasets.molecular import read_npz

COUNT = int(os.environ.get("GEOEQ_FUZZ", "300"))
SEED = int(os.environ.get("GEOEQ_FUZZ_SEED", "0"))


def content(**change):
    """Arrays of a small molecule as MD17 has them."""
    pick = np.random.default_rng(3)
    arrays = {
        "R": pick.standard_normal((5, 3, 3)),
        "z": np.array([8, 1, 1]),
        "E": pick.standard_normal((5, 1)) - 4e5,
        "F": pick.standard_normal((5, 3, 3)),
    }
    return {name: value for name, value in (arrays | change).items() if value is not None}


@pytest.fixture
def written(tmp_path):
    def written(**arrays):
        path = tmp_path / "molecule.npz"
        np.savez(path, **arrays)
        return path

    return written


def test_both_spellings_give_the_same(written):
    arrays = content()
    old = read_npz(written(**arrays), labels=True)
    names = {"R": "coords", "z": "nuclear_charges", "E": "energies", "F": "forces"}
    new = read_npz(written(**{names[name]: value for name, value in arrays.items()}), labels=True)
    for frames in (old, new):
        assert np.array_equal(frames.pos, arrays["R"])
        assert frames.z.tolist() == [8, 1, 1]
        assert np.array_equal(frames.energy, arrays["E"][:, 0])
        assert np.array_equal(frames.force, arrays["F"])
        assert frames.order is None


def test_small_types_and_compression_are_read(tmp_path):
    path = tmp_path / "small.npz"
    arrays = content(R=np.asfortranarray(content()["R"].astype(np.float32)), z=np.array([8, 1, 1], dtype=np.uint8))
    np.savez_compressed(path, **arrays)
    frames = read_npz(path)
    assert frames.pos.dtype == np.float64
    assert np.array_equal(frames.pos, arrays["R"].astype(np.float64))
    assert frames.z.dtype == np.int64


def test_labels_are_read_only_if_asked(written):
    path = written(**content(E=None, F=np.full((5, 3, 3), np.nan)))
    assert read_npz(path).energy is None
    with pytest.raises(ValueError, match="must hold an array E or energies, got none"):
        read_npz(path, labels=True)


def test_old_indices_tell_whether_frames_follow_each_other(written):
    assert read_npz(written(**content(old_indices=np.arange(7, 12)))).order is None
    assert read_npz(written(**content(old_indices=np.array([9, 3, 4, 8, 1])))).order.tolist() == [9, 3, 4, 8, 1]


NAN = content()["R"].copy()
NAN[3, 1, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": None}, "must hold an array R or coords, got none"),
        ({"z": None}, "must hold an array z or nuclear_charges, got none"),
        ({"R": np.zeros((5, 3))}, "R or coords must be [T, n, 3], got [5, 3]"),
        ({"R": np.zeros((5, 3, 2))}, "R or coords must be [T, n, 3], got [5, 3, 2]"),
        ({"R": np.zeros((0, 3, 3))}, "R or coords must be [T, n, 3], got [0, 3, 3]"),
        ({"R": np.zeros((5, 3, 3), dtype=int)}, "R or coords must be floating, got int64"),
        ({"R": NAN}, "R or coords must be finite, got nan at [3, 1, 2]"),
        ({"R": np.full((5, 3, 3), 1e7)}, "R or coords must be within 1e+06 Angstrom, got 1e+07"),
        ({"z": np.array([8, 1])}, "z or nuclear_charges must be integers [3], got int64 [2]"),
        ({"z": np.array([8.0, 1, 1])}, "z or nuclear_charges must be integers [3], got float64 [3]"),
        ({"z": np.array([8, 0, 1])}, "z or nuclear_charges must be atomic numbers from 1 to 118, got 0"),
        ({"E": np.zeros((5, 2))}, "E or energies must be [5], got [5, 2]"),
        ({"E": np.full(5, -np.inf)}, "E or energies must be finite, got -inf at [0]"),
        ({"F": np.zeros((5, 3))}, "F or forces must be [5, 3, 3], got [5, 3]"),
        ({"old_indices": np.zeros(4, dtype=int)}, "old_indices must be integers [5], got int64 [4]"),
        ({"R": np.array(["a", "b"])}, "is truncated, altered or not an npz file of numbers (R.npy must be of numbers"),
        ({"R": np.zeros((5, 3, 3), complex)}, "is truncated, altered or not an npz file of numbers"),
    ],
)
def test_what_is_wrong_is_named(written, change, message):
    path = written(**content(**change))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_npz(path, labels=True)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


class Trap:
    """An object whose unpickling leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_objects_are_never_unpickled(tmp_path, written):
    trace = tmp_path / "trace"
    path = written(**content(R=np.array([Trap(trace)], dtype=object)))
    with pytest.raises(ValueError, match=r"R\.npy must be of numbers, got 'object'"):
        read_npz(path)
    assert not trace.exists()


def test_missing_and_damaged_files(tmp_path, written):
    with pytest.raises(FileNotFoundError, match=r"nowhere.npz does not exist"):
        read_npz(tmp_path / "nowhere.npz")
    path = written(**content())
    whole = path.read_bytes()
    number = whole.index(content()["R"].tobytes()) + 40
    altered = whole[:number] + bytes([whole[number] ^ 1]) + whole[number + 1 :]
    for damage in (b"", b"text", whole[:100], whole[: len(whole) // 2], whole[:-30], altered, b"\x80\x05N."):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"is truncated, altered or not an npz file of numbers \(") as error:
            read_npz(path)
        assert "\n" not in str(error.value)


def test_a_header_that_promises_too_much_is_refused_before_anything_is_allocated(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 9, 3)}
    )
    path = tmp_path / "huge.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("R.npy", header.getvalue() + bytes(72))
        file.writestr("z.npy", b"")
    with pytest.raises(ValueError, match=r"R.npy must be .* bytes in all"):
        read_npz(path)


def damaged(whole, pick):
    """A few bytes changed, dropped, doubled or moved, or the end cut off; checksums of the members may be mended."""
    data = bytearray(whole)
    for _ in range(pick.choice([1, 1, 2, 4])):
        i, j = sorted(pick.randrange(len(data) + 1) for _ in range(2))
        j = min(j, i + pick.choice([1, 1, 2, 8, 200]))
        action = pick.randrange(5)
        if action == 0 and i < len(data):
            data[i] = pick.choice([0, 1, 0x7F, 0x80, 0xFF, pick.randrange(256)])
        elif action == 1:
            del data[i:j]
        elif action == 2:
            data[i:i] = data[i:j]
        elif action == 3:
            data[i:j] = pick.randbytes(j - i)
        else:
            del data[pick.randrange(len(data) + 1) :]
    return bytes(data)


def damaged_members(pick):
    """A sound zip file whose members are damaged."""
    stored = io.BytesIO()
    np.savez(stored, **content(old_indices=np.arange(5)))
    result = io.BytesIO()
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, damaged(data, pick) if pick.random() < 0.3 else data)
    return result.getvalue()


def test_random_damage(tmp_path):
    folder = Path("/dev/shm") if COUNT > 10_000 and os.access("/dev/shm", os.W_OK) else tmp_path
    path = folder / f"{os.getpid()}.npz"
    stored = io.BytesIO()
    np.savez(stored, **content())
    accepted, slowest = 0, 0.0
    for number in range(COUNT):
        pick = random.Random(f"npz {SEED} {number}")
        path.write_bytes(damaged(stored.getvalue(), pick) if pick.random() < 0.5 else damaged_members(pick))
        told = f"{path} "
        start = time.perf_counter()
        try:
            frames = read_npz(path, labels=True)
            assert frames.pos.shape == frames.force.shape == (len(frames.energy), len(frames.z), 3)
            assert all(np.isfinite(values).all() for values in (frames.pos, frames.energy, frames.force))
            accepted += 1
        except ValueError as error:
            told = str(error)
        except Exception as error:
            raise AssertionError(f"npz {SEED} {number}") from error
        assert told.startswith(str(path)), (number, told)
        assert "\n" not in told, (number, told)
        assert len(told) < 400, (number, told)
        slowest = max(slowest, time.perf_counter() - start)
    path.unlink()
    print(f"npz: {COUNT} files, {accepted} accepted, slowest {1e3 * slowest:.1f} ms")
    assert slowest < 5.0
    assert 0 < accepted < COUNT
