"""The recordings of a protocol, from files that the user has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from geoeq.datasets.mocap.amc import read_amc
from geoeq.datasets.mocap.asf import read_asf
from geoeq.datasets.mocap.protocols import CMU, PROTOCOLS, MotionProtocol
from geoeq.datasets.trajectory import Trajectory

TIME_STEP = 1 / 120
UNIT = "inch/0.45"
LATEST_START = 12  # the published arrays lack the first six frames of one recording


def read_recordings(raw: str | Path, protocol: str) -> list[Trajectory]:
    """All trials of a protocol, in the published order.

    Looks in the folder ``raw`` for ``subject09_run.npz`` (or ``subject35_walk.npz``) with ``trial_00``, ``trial_01``,
    ... [T, 31, 3] and ``edges`` [30, 2] (joint, parent); else for ``09.asf`` and ``09_01.amc``, ``09_02.amc``, ... (or
    ``35``). The published order of the trials is not that of the files. For "run" each trial is found by where its root
    starts; for "walk" the order is not known, and trials are numbered in the order of the files 35_01 to 35_16 and
    35_28 to 35_34: these are the recordings and input frames of the published set, but not in the same pairs.

    Raises:
        FileNotFoundError: if there are neither arrays nor a skeleton, or if a motion file is missing.
        ValueError: one line for a file that is malformed or holds another skeleton or motion.
    """
    chosen = PROTOCOLS[protocol]
    arrays = Path(raw, f"subject{chosen.subject:02d}_{protocol}.npz")
    if arrays.exists():
        return _from_arrays(arrays, chosen)
    skeleton = Path(raw, f"{chosen.subject:02d}.asf")
    if not skeleton.exists():
        raise FileNotFoundError(
            f"{raw} must hold {arrays.name}, or {skeleton.name} and its AMC files from mocap.cs.cmu.edu"
        )
    return _from_acclaim(skeleton, chosen)


def _from_arrays(path: Path, protocol: MotionProtocol) -> list[Trajectory]:
    try:
        # numpy leaves the file open if it cannot make sense of it
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            edges = stored["edges"]
            trials = [stored[f"trial_{trial:02d}"] for trial in range(protocol.n_trials)]
    except KeyError as error:
        raise ValueError(f"{path} has no array {error.args[0].split(' ')[0]}") from None
    except Exception:  # numpy has no common class for the ways in which an archive can be damaged
        raise ValueError(f"{path} is truncated, altered or not an npz file of arrays") from None
    if edges.tolist() != [list(edge) for edge in CMU.edges]:
        raise ValueError(f"{path} must have the 30 edges of CMU's skeleton, got edges {list(edges.shape)}")
    edge_index, edge_attr = CMU.graph()
    recordings = []
    for number, trial in enumerate(trials):
        name = f"trial_{number:02d}"
        if trial.dtype.kind != "f" or trial.shape[1:] != (len(CMU), 3) or not np.isfinite(trial).all():
            raise ValueError(f"{path}: {name} must be finite [T, {len(CMU)}, 3], got {trial.dtype} {list(trial.shape)}")
        pos = torch.from_numpy(trial.astype(np.float64))
        shared = {"edge_index": edge_index, "edge_attr": edge_attr, "part": CMU.part}
        recordings.append(Trajectory(pos, TIME_STEP, UNIT, name=name, **shared))
    return recordings


def _from_acclaim(skeleton: Path, protocol: MotionProtocol) -> list[Trajectory]:
    rig = read_asf(skeleton)
    if rig.skeleton != CMU:
        raise ValueError(f"{skeleton} must have the 31 joints of CMU's skeleton, got {len(rig.skeleton)} others")
    paths = [skeleton.with_name(f"{skeleton.stem}_{number:02d}.amc") for number in protocol.files]
    recordings = [read_amc(path, rig, TIME_STEP) for path in paths]
    return [_starting_at(start, recordings, skeleton) for start in protocol.starts] or recordings


def _starting_at(start: tuple[float, float, float, int], recordings: list[Trajectory], skeleton: Path) -> Trajectory:
    """The recording whose root is at that position at its first frame or soon after, from there on."""
    *place, n_frames = start
    for recording in recordings:
        skipped = len(recording.pos) - n_frames
        if 0 <= skipped <= LATEST_START:
            gap = (recording.pos[skipped, 0] - torch.tensor(place, dtype=torch.float64)).abs().max()
            if gap < 1e-3:
                return replace(recording, pos=recording.pos[skipped:])
    raise ValueError(f"{skeleton.parent} must hold a motion of {n_frames} frames from {place}, got none: other files")
