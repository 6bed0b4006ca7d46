"""Frames of one molecule in an npz file, as MD17 and rMD17 are published; nothing in it is ever executed."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geoeq.datasets.checks import require

MAX_SIZE = 1e6  # Angstrom
MAX_VALUES = 1 << 31  # in one array
HEAVIEST = 118  # atomic number
# what an array holds: its names in MD17 and in rMD17
NAMES = {
    "pos": ("R", "coords"),
    "z": ("z", "nuclear_charges"),
    "energy": ("E", "energies"),
    "force": ("F", "forces"),
    "order": ("old_indices",),
}


class MolecularFrames(NamedTuple):
    """Frames of one molecule; what was not asked for is None.

    Attributes:
        pos: [T, n, 3] float64, Angstrom.
        z: [n] int64, atomic numbers.
        energy: [T] float64, kcal/mol in MD17 and rMD17.
        force: [T, n, 3] float64, kcal/mol/Angstrom there.
        order: [T] int64, number of each frame in the simulation; None if they follow each other.
    """

    pos: np.ndarray
    z: np.ndarray
    energy: np.ndarray | None = None
    force: np.ndarray | None = None
    order: np.ndarray | None = None


def read_npz(path: str | Path, *, labels: bool = False) -> MolecularFrames:
    """Read positions and atomic numbers, with ``labels`` also energies and forces.

    The file has ``R`` [T, n, 3] and ``z`` [n], and for labels ``E`` [T] or [T, 1] and ``F`` [T, n, 3] (MD17, Chmiela et
    al. 2017), or ``coords``, ``nuclear_charges``, ``energies`` and ``forces`` (rMD17, arXiv 2007.09593). rMD17 also has
    ``old_indices``: its frames were drawn from a simulation, so most of them do not follow each other. Units are those
    of the file; both have Angstrom, kcal/mol and kcal/mol/Angstrom, and MD17's frames are 0.5 fs apart. Arrays of
    Python objects are refused, because to read them is to run what they say.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line for a file that is damaged or no npz file, an array that is missing or of a wrong shape or
            type, values that are not finite, positions beyond 0.1 mm, or an unknown element.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "water.npz")
        >>> np.savez(path, R=np.zeros((4, 3, 3)), z=np.array([8, 1, 1]))
        >>> frames = read_npz(path)
        >>> frames.pos.shape, frames.z.tolist(), frames.energy
        ((4, 3, 3), [8, 1, 1], None)
    """
    path = Path(path)
    wanted = ["pos", "z", *(["energy", "force"] if labels else []), "order"]
    arrays = _arrays(path, wanted)
    for name in wanted[:-1]:
        if name not in arrays:
            raise ValueError(f"{path} must hold an array {' or '.join(NAMES[name])}, got none")
    pos = _floats(path, "pos", arrays["pos"])
    if pos.ndim != 3 or 0 in pos.shape or pos.shape[2] != 3:
        raise ValueError(f"{path}: {_title('pos')} must be [T, n, 3], got {list(pos.shape)}")
    far = np.abs(pos).max()
    if far > MAX_SIZE:
        raise ValueError(f"{path}: {_title('pos')} must be within {MAX_SIZE:g} Angstrom, got {far:g}")
    n_frames, n_atoms, _ = pos.shape
    z = _integers(path, "z", arrays["z"], n_atoms)
    unknown = z[(z < 1) | (z > HEAVIEST)]
    if unknown.size:
        raise ValueError(f"{path}: {_title('z')} must be atomic numbers from 1 to {HEAVIEST}, got {unknown[0]}")
    frames = MolecularFrames(pos, z)
    if "order" in arrays:
        order = _integers(path, "order", arrays["order"], n_frames)
        frames = frames._replace(order=None if (np.diff(order) == 1).all() else order)
    if not labels:
        return frames
    energy, force = (_floats(path, name, arrays[name]) for name in ("energy", "force"))
    if energy.shape not in ((n_frames,), (n_frames, 1)):
        raise ValueError(f"{path}: {_title('energy')} must be [{n_frames}], got {list(energy.shape)}")
    if force.shape != pos.shape:
        raise ValueError(f"{path}: {_title('force')} must be {list(pos.shape)}, got {list(force.shape)}")
    return frames._replace(energy=energy.reshape(-1), force=force)


def _title(name: str) -> str:
    return " or ".join(NAMES[name])


def _floats(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        raise ValueError(f"{path}: {_title(name)} must be floating, got {values.dtype}")
    values = values.astype(np.float64)
    lost = np.argwhere(~np.isfinite(values))
    if lost.size:
        raise ValueError(f"{path}: {_title(name)} must be finite, got {values[tuple(lost[0])]} at {lost[0].tolist()}")
    return values


def _integers(path: Path, name: str, values: np.ndarray, length: int) -> np.ndarray:
    if values.dtype.kind not in "iu" or values.shape != (length,):
        raise ValueError(f"{path}: {_title(name)} must be integers [{length}], got {values.dtype} {list(values.shape)}")
    return values.astype(np.int64)


def _arrays(path: Path, wanted: list[str]) -> dict[str, np.ndarray]:
    """The wanted arrays that are there, under either of their names."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as file:
            there = set(file.namelist())
            found = {name: alias for name in wanted for alias in NAMES[name] if f"{alias}.npy" in there}
            return {name: _array(file, f"{alias}.npy") for name, alias in found.items()}
    except Exception as error:  # numpy and zipfile have no common class for the ways in which a file can be damaged
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} is truncated, altered or not an npz file of numbers ({reason})") from None


def _array(file: zipfile.ZipFile, name: str) -> np.ndarray:
    """One member, read only if its header says what the member holds."""
    size = file.getinfo(name).file_size
    with file.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        require(version in ((1, 0), (2, 0)), name, "of format 1.0 or 2.0", version)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        require(dtype.kind in "iuf", name, "of numbers", str(dtype))
        require(math.prod(shape) <= MAX_VALUES, name, f"at most {MAX_VALUES} values", list(shape))
        require(stream.tell() + math.prod(shape) * dtype.itemsize == size, name, f"{size} bytes in all", list(shape))
    with file.open(name) as stream:
        values = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # only at its end does the member's checksum count
    return values
