"""Trajectories in the formats of simulation programs, through MDAnalysis, which is optional."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_count
from geoeq.datasets.trajectory import Trajectory

MASS_TOLERANCE = 0.1  # atomic mass units


def read_trajectory(
    topology: str | Path,
    coordinates: str | Path | None = None,
    select: str = "all",
    *,
    every: int = 1,
    time_step: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Trajectory:
    """Positions of chosen atoms from any files that MDAnalysis opens (PSF + DCD, GRO + XTC, PDB, ...).

    Args:
        topology: file of the atoms; it may hold the frames too (multi-model PDB, XYZ).
        coordinates: file of the frames; None if they are in ``topology``.
        select: which atoms, in MDAnalysis' language, such as ``"backbone"`` or ``"protein and not name H*"``.
        every: only every so many frames are read.
        time_step: femtoseconds between two frames of the file; None for what the file says (1 ps if it says nothing).
        dtype: of the positions.

    Returns:
        Trajectory with ``pos`` [T, n, 3] in Angstrom, not unwrapped or aligned, ``time_step`` in femtoseconds, ``x``
        [n, 1] atomic numbers (from the elements, else from the masses; 0 where neither tells), ``part`` [n] residues
        numbered from 0, ``ids`` [n] atoms of the topology counted from 0, and the bonds between chosen atoms as edges
        where the topology has bonds.

    Raises:
        ImportError: without MDAnalysis; it names the extra that brings it.
        FileNotFoundError: if a file is not there.
        ValueError: one line if MDAnalysis cannot read the files, ``select`` chooses no atom, or a position is not
            finite. Of some files that are cut short, such as DCD, MDAnalysis gives the frames that are whole.

    Example:
        >>> read_trajectory("adk.psf", "adk_dims.dcd", "backbone")  # doctest: +SKIP
        Trajectory(T=98, N=855, d=3, time_step=999.99..., unit='Angstrom', name='adk_dims')
    """
    require_count("every", every, 1)
    files = [Path(file) for file in (topology, coordinates) if file is not None]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist")
    analysis = _mdanalysis()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the topology lacks is answered for below
        try:
            universe = analysis.Universe(*map(str, files))
            atoms = universe.select_atoms(select)
            # One by one: of a file that is cut short, `timeseries` returns the last frame as memory left it.
            pos = np.array([atoms.positions for _ in universe.trajectory[::every]]) if len(atoms) else np.empty(0)
            promised = -(-len(universe.trajectory) // every)
            step = universe.trajectory.dt * 1000 if time_step is None else time_step
        except Exception as error:  # each of its readers has its own ways to fail
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise ValueError(f"{' and '.join(map(str, files))} cannot be read by MDAnalysis ({reason})") from None
        require(len(atoms) > 0, "select", "a choice of at least one atom", select)
        if len(pos) < promised:
            raise ValueError(f"{files[-1]} must hold {promised} whole frames, got {len(pos)}: it is cut short")
        known = {"x": _atomic_numbers(atoms, dtype), "edge_index": _bonds(atoms)}
    lost = np.argwhere(~np.isfinite(pos))
    if lost.size:
        frame, atom, _ = lost[0].tolist()
        raise ValueError(f"{files[-1]}: positions must be finite, got {pos[frame, atom].tolist()} at frame {frame}")
    residue = np.unique(atoms.resindices, return_inverse=True)[1]
    return Trajectory(
        torch.from_numpy(np.ascontiguousarray(pos)).to(dtype),
        step * every,
        "Angstrom",
        part=torch.from_numpy(residue.astype(np.int64)),
        ids=torch.from_numpy(atoms.ix.astype(np.int64)),
        name=files[-1].stem,
        **known,
    )


def _mdanalysis() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import MDAnalysis
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed; pip install 'geoeq[data]'") from error
    return MDAnalysis


def _atomic_numbers(atoms: Any, dtype: torch.dtype) -> Tensor:
    """Atomic number of each atom as a feature, [n, 1]; 0 where it is not known."""
    from MDAnalysis.guesser.tables import SYMB2Z, masses

    numbers = np.zeros(len(atoms), dtype=np.int64)
    if hasattr(atoms, "elements"):
        numbers = np.array([SYMB2Z.get(str(symbol).capitalize(), 0) for symbol in atoms.elements], dtype=np.int64)
    if hasattr(atoms, "masses"):
        listed = [(mass, SYMB2Z[symbol]) for symbol, mass in masses.items() if symbol in SYMB2Z]
        weight, number = (np.array(values) for values in zip(*sorted(listed), strict=True))
        nearest = np.abs(atoms.masses[:, None] - weight).argmin(1)
        sure = np.abs(atoms.masses - weight[nearest]) < MASS_TOLERANCE
        numbers = np.where((numbers == 0) & sure, number[nearest], numbers)
    return torch.from_numpy(numbers)[:, None].to(dtype)


def _bonds(atoms: Any) -> Tensor | None:
    """Bonds of the topology between the chosen atoms, both ways, sorted by receiver; None if it has no bonds."""
    if not hasattr(atoms.universe, "bonds"):
        return None
    place = np.full(len(atoms.universe.atoms), -1)
    place[atoms.ix] = np.arange(len(atoms))
    ends = place[atoms.universe.bonds.indices.reshape(-1, 2)]
    ends = ends[(ends >= 0).all(1)]
    both = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0)  # rows (receiver, sender), sorted
    return torch.from_numpy(np.ascontiguousarray(both[:, ::-1].T.astype(np.int64)))
