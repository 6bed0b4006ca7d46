"""The human-motion forecasting data set: a pose and its velocity in, a later pose out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_choice, require_count
from geoeq.datasets.download import data_root
from geoeq.datasets.equal_graphs import EqualGraphs
from geoeq.datasets.mocap.protocols import CMU, PROTOCOLS, SPLITS
from geoeq.datasets.mocap.recordings import TIME_STEP, UNIT, read_recordings
from geoeq.datasets.stored import Stored
from geoeq.datasets.trajectory import Trajectory


class MotionCapture(Stored, EqualGraphs):
    r"""Forecasting of human motion (CMU motion capture; protocol of arXiv 2203.06442): frame t to frame t + 30.

    ======== ======= ===== ===== ===== ============================================================
    protocol subject train valid test  input frames of a trial: drawn from, for training, else
    ======== ======= ===== ===== ===== ============================================================
    run      9       200   240   240   the first 90,  40, 80
    walk     35      198   600   600   the first 300, 18, 100
    ======== ======= ===== ===== ===== ============================================================

    A graph has 31 joints. ``pos`` [31, 3] is frame t, ``vel`` [31, 3] the difference of frames t + 1 and t (per frame,
    not per second), ``y`` [31, 3] frame t + 30, or [31, F, 3] for F > 1 target frames. The last frame of a trial, which
    has no velocity, is not used. ``x`` [31, 2] is \|v\| and the height, y / 10 (y points up); the height shows gravity
    to a network that could not know it otherwise. The published training divides it once more, by its maximum over a
    batch; here it does not depend on the batch. Edges join joints at most two bones apart, in both directions;
    ``edge_attr`` [E, 1] is the number of bones, and ``rod`` [E] whether it is one: bones keep their lengths. ``part``
    [31] is 0 for the trunk, then left leg, right leg, left arm, right arm. ``trial`` [1] and ``start`` [1] say where a
    graph is from: graphs of one trial resemble each other.

    Positions are those of the published arrays: neither centred nor scaled, in the unit of CMU's files, inch/0.45 =
    0.0564 m. Errors are published as mean squared error over all coordinates, times 100.

    The first use of a split reads ``root/raw`` (see :func:`~geoeq.datasets.mocap.read_recordings`) and stores one file
    under ``root/processed``; later uses load it, even if the raw files are changed or gone: then use ``force_reload``.

    Args:
        root: folder with ``raw``; None for ``mocap`` in the folder of the variable GEOEQ_DATA, or ``data/mocap``.
        protocol: ``"run"`` or ``"walk"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        height: whether ``x`` has the height. The published methods have it.
        future: how many frames after the input the targets are, rising. Published with several: ``range(26, 31)``.
        max_samples: size of the split, shared equally by its trials and rounded down; None for the published.
        dtype: ``"float32"`` or ``"float64"``, of the stored values.
        transform: applied to each graph on access (not by :meth:`fetch`).
        pre_transform: applied to each graph once, before it is stored. Its repr tells stored files apart: after a
            change that this does not show use ``force_reload``.
        force_reload: read the raw files even if the stored file is there.
        log: say on stderr what was made and how long it took.

    Attributes:
        skeleton: names and parents of the joints.
        mirror: [31] int64, the joint on the other side of the body: an automorphism of the graph. Together with the
            reflection of an axis across the body it is an approximate symmetry of motion.
        gravity: ``"y"``, the axis along which gravity acts.
        unit, time_step: of positions, and seconds between two frames.

    Raises:
        FileNotFoundError: if the raw files are not there.
        ValueError: one line for a wrong argument or a malformed file.

    Example:
        >>> MotionCapture("data/mocap", "run", "train")[0]  # doctest: +SKIP
        Data(edge_index=[2, 130], edge_attr=[130, 1], y=[31, 3], pos=[31, 3], part=[31], ...)
    """

    gravity = "y"
    time_step = TIME_STEP
    unit = UNIT

    def __init__(
        self,
        root: str | Path | None = None,
        protocol: str = "run",
        split: str = "train",
        *,
        height: bool = True,
        future: Sequence[int] = (30,),
        max_samples: int | None = None,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        log: bool = True,
    ) -> None:
        require_choice("protocol", protocol, PROTOCOLS)
        require_choice("split", split, SPLITS)
        require(isinstance(future, Sequence), "future", "rising numbers of frames from 1", future)
        for step in future:
            require_count("future", step, 1)
        rising = len(future) > 0 and all(first < second for first, second in pairwise(future))
        require(rising, "future", "rising numbers of frames from 1", future)
        n_trials = len(PROTOCOLS[protocol].trials[SPLITS.index(split)])
        if max_samples is not None:
            require_count("max_samples", max_samples, n_trials)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        self.protocol, self.split, self.height = protocol, split, bool(height)
        self.future, self.max_samples = tuple(int(step) for step in future), max_samples
        self.dtype = getattr(torch, dtype_name)
        self.skeleton, self.mirror = CMU, CMU.mirror
        super().__init__(str(data_root(root, "mocap")), transform, pre_transform, log=log, force_reload=force_reload)
        self._load()

    def _split(self, made: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        edge_index, edge_attr = CMU.graph()
        shared = {"edge_index": edge_index, "edge_attr": edge_attr.to(self.dtype), "part": CMU.part}
        return shared | {"rod": edge_attr[:, 0] == 1}, made

    @staticmethod
    def recordings(root: str | Path | None = None, protocol: str = "run") -> list[Trajectory]:
        """Whole recordings in ``root/raw``, in the published order of trials and in float64, to cut windows from.

        Raises:
            FileNotFoundError: if the raw files are not there.
            ValueError: one line for an unknown protocol or a malformed file.
        """
        require_choice("protocol", protocol, PROTOCOLS)
        return read_recordings(data_root(root, "mocap") / "raw", protocol)

    def _settings(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "split": self.split,
            "height": self.height,
            "future": self.future,
            "max_samples": self.max_samples,
            "dtype": str(self.dtype),
        }

    def _label(self) -> str:
        return f"{self.protocol}-{self.split}"

    def _make(self) -> dict[str, Tensor]:
        recordings = read_recordings(self.raw_dir, self.protocol)
        inputs = PROTOCOLS[self.protocol].inputs(self.split, self.max_samples)
        blocks = [self._samples(recordings[trial], trial, torch.from_numpy(frames)) for trial, frames in inputs.items()]
        return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}

    def _samples(self, recording: Trajectory, trial: int, start: Tensor) -> dict[str, Tensor]:
        n_usable = len(recording.pos) - 1
        latest = int(start.max())
        longest = n_usable - 1 - latest
        if longest < 1:
            least = f"at least {latest + 3} frames for {self.protocol}"
            raise ValueError(f"{recording.name} must have {least}, got {len(recording.pos)}")
        if self.future[-1] > longest:
            raise ValueError(f"future must end at {longest} or before for {recording.name}, got {self.future[-1]}")
        pos, vel = recording.pos[start], recording.pos[start + 1] - recording.pos[start]
        target = recording.pos[start[:, None] + torch.tensor(self.future)].transpose(1, 2)  # [S, n, F, 3]
        block = {
            "pos": pos,
            "vel": vel,
            "x": node_features(pos, vel, height=self.height),
            "y": target[:, :, 0] if len(self.future) == 1 else target,
        }
        block = {name: value.to(self.dtype).contiguous() for name, value in block.items()}
        return block | {"trial": torch.full((len(start), 1), trial), "start": start[:, None]}


def node_features(pos: Tensor, vel: Tensor, *, height: bool) -> Tensor:
    """What networks are told of joints at ``pos [..., 3]``: speed, and height if asked for, [..., 1 or 2]."""
    speed = vel.norm(dim=-1, keepdim=True)
    return torch.cat([speed, pos[..., 1:2] / 10], -1) if height else speed
