"""Reading Acclaim motion files: joint positions of whole trials here against the published frame-by-frame parser.

    git clone https://github.com/CalciferZh/AMCParser     # or the motion/ folder of MinkaiXu/EGNO, which uses it
    pip install transforms3d matplotlib                   # what it imports
    python benchmarks/mocap_parser.py --peer AMCParser --data folder/with/the/files

The folder has one skeleton (.asf) and any number of motions of it (.amc). Both sides start from the same files and end
at positions [frames, joints, 3] in float64; their largest difference is printed. The first row times the forward
kinematics alone, from the same joint angles in memory; the second the whole way from the text, where turning words into
numbers is most of the work here. Sides take turns, so that a busy machine hurts both alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from geoeq.datasets.mocap import Rig, read_amc, read_asf

Frames = list[dict[str, list[float]]]


def published_parser(folder: Path) -> ModuleType:
    """The authors' module."""
    path = folder / "amc_parser.py"
    if not path.is_file():
        sys.exit(f"{path} not found: clone https://github.com/CalciferZh/AMCParser, then --peer AMCParser")
    spec = importlib.util.spec_from_file_location("amc_parser", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frame_by_frame(joints: dict[str, Any], frames: Frames) -> np.ndarray:
    """Positions [T, J, 3] as the authors' preprocessing takes them: joints in the order of their dictionary."""
    positions = []
    for frame in frames:
        joints["root"].set_motion(frame)
        positions.append([joint.coordinate[:, 0] for joint in joints.values()])
    return np.array(positions)


def channels(rig: Rig, frames: Frames) -> np.ndarray:
    """The same joint angles as rows of channels, [C, T]."""
    moved = [name for name, own in zip(rig.skeleton.names, rig.channels, strict=True) if own]
    return np.ascontiguousarray(np.array([[value for name in moved for value in frame[name]] for frame in frames]).T)


def compare(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each side; one call of each before the clock starts."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Compare the positions, time both sides, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="folder with the published amc_parser.py")
    parser.add_argument("--data", type=Path, required=True, help="folder with one .asf file and .amc files of it")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    peer = published_parser(options.peer)
    (skeleton, *_), motions = sorted(options.data.glob("*.asf")), sorted(options.data.glob("*.amc"))
    joints, rig = peer.parse_asf(str(skeleton)), read_asf(skeleton)
    told = [peer.parse_amc(str(path)) for path in motions]
    values = [channels(rig, frames) for frames in told]
    order = [list(joints).index(name) for name in rig.skeleton.names]
    gap = max(
        np.abs(frame_by_frame(joints, frames)[:, order] - read_amc(path, rig).pos.numpy()).max()
        for frames, path in zip(told, motions, strict=True)
    )
    n_frames = sum(map(len, told))
    kinematics = compare(
        {
            "theirs": lambda: [frame_by_frame(joints, frames) for frames in told],
            "ours": lambda: [rig.positions(own) for own in values],
        },
        options.repeats,
    )
    whole = compare(
        {
            "theirs": lambda: [frame_by_frame(joints, peer.parse_amc(str(path))) for path in motions],
            "ours": lambda: [read_amc(path, rig) for path in motions],
        },
        options.repeats,
    )
    print(
        f"{len(motions)} motions, {n_frames} frames, {len(order)} joints, {torch.get_num_threads()} thread(s),", end=" "
    )
    print(f"load average {os.getloadavg()[0]:.1f}; largest difference of a coordinate {gap:.1e}\n")
    print("| from | frame by frame, ms a frame | geoeq, ms a frame | ratio |\n|---|---|---|---|")
    for name, row in (("angles in memory: forward kinematics", kinematics), ("text files", whole)):
        theirs, ours = (1e3 * row[side] / n_frames for side in ("theirs", "ours"))
        print(f"| {name} | {theirs:.3f} | {ours:.5f} | {theirs / ours:.0f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
