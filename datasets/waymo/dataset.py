"""The vehicle forecasting data set of the soft-equivariance paper: six points in, six points out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_choice
from geoeq.datasets.download import data_root
from geoeq.datasets.equal_graphs import EqualGraphs
from geoeq.datasets.stored import Stored
from geoeq.datasets.waymo.scenario import KINDS, TIME_STEP, Scenario, read_scenarios

SPLITS = ("train", "valid", "test")
FRAMES, EVERY, PAST = 24, 2, 6  # of a track, of these, and of those


class WaymoMotion(Stored, EqualGraphs):
    r"""Forecasting of vehicles, cyclists and pedestrians on slopes (Waymo Open Motion Dataset v1.1), 1.2 s ahead.

    Every object that is seen at all of the first 24 frames of a scenario, climbs or descends by more than ``min_rise``
    and moves by less than ``max_move`` along x and along y between the first and the last point given, is a graph of
    one node without edges: of every second frame, 12 points at 5 Hz, six are given and six are to be forecast. The
    error is the mean distance over the six points in metres (ADE).

    A graph has ``pos`` [1, 3] (last point given), ``vel`` [1, 3] (m/s, difference to the point before), ``history``
    [1, 6, 3], ``y`` [1, 6, 3], ``origin`` [1, 3] (what was taken off all points), ``kind`` [1] (place in
    :attr:`kinds`), ``ids`` [1] (of the object in its scenario) and ``file`` [1] (place in the sorted list of files).

    Points are centred at the mean of the *six points given*. The published code takes off the mean of all twelve: then
    the sum of the points given is minus the sum of the points asked for, so the inputs tell where the future lies on
    average. Its errors cannot be compared with errors here. It also reads the data set's other format, in which a
    scenario has at most 128 objects and coordinates are float32.

    Symmetry: rotations about z, reflections and shifts act on ``pos``, ``history`` and ``y``, their linear part on
    ``vel``. Rotations about other axes are broken: roads are nearly level.

    The data set may not be passed on: get it from waymo.com/open and put the files of the training set in the format
    ``scenario`` into ``root/raw``. Of their sorted names the first ``portion`` is used, and of these the first four
    sixths train, a sixth validates, a sixth tests. The first use of a split reads them and stores one file under
    ``root/processed``; later uses load it, even if the raw files are changed or gone: then use ``force_reload``.

    Args:
        root: folder with ``raw``; None for ``waymo`` in the folder of the variable GEOEQ_DATA, or ``data/waymo``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        portion: of the files, in (0, 1]; published with a tenth.
        min_rise, max_move: in metres, as published.
        dtype: ``"float32"`` or ``"float64"``, of the stored values.
        transform: applied to each graph on access (not by :meth:`fetch`).
        pre_transform: applied to each graph once, before it is stored. Its repr tells stored files apart: after a
            change that this does not show use ``force_reload``.
        force_reload: read the raw files even if the stored file is there.
        log: say on stderr what was made and how long it took.

    Attributes:
        gravity: ``"z"``, the axis along which gravity acts.
        kinds: names of the kinds of objects.
        unit, time_step: of positions, and seconds between two points.

    Raises:
        FileNotFoundError: if there are too few files.
        ValueError: one line for a wrong argument, a file that is cut short, altered or of another kind, or if no object
            passes the filters.

    Example:
        >>> data = WaymoMotion("data/waymo", "train")  # doctest: +SKIP
        >>> data[0]  # doctest: +SKIP
        Data(edge_index=[2, 0], y=[1, 6, 3], pos=[1, 3], vel=[1, 3], history=[1, 6, 3], origin=[1, 3], kind=[1], ...)
    """

    gravity = "z"
    kinds = KINDS
    time_step = TIME_STEP * EVERY
    unit = "m"

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        *,
        portion: float = 0.1,
        min_rise: float = 0.05,
        max_move: float = 5.0,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        log: bool = True,
    ) -> None:
        require_choice("split", split, SPLITS)
        require(0 < portion <= 1, "portion", "in (0, 1]", portion)
        require(min_rise >= 0 and math.isfinite(min_rise), "min_rise", "a finite number >= 0", min_rise)
        require(max_move > 0, "max_move", "positive", max_move)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        self.split, self.portion = split, float(portion)
        self.min_rise, self.max_move = float(min_rise), float(max_move)
        self.dtype = getattr(torch, dtype_name)
        super().__init__(str(data_root(root, "waymo")), transform, pre_transform, log=log, force_reload=force_reload)
        self._load()

    def _split(self, made: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"edge_index": torch.empty(2, 0, dtype=torch.int64)}, made

    def files(self) -> list[Path]:
        """The raw files of the split.

        Raises:
            FileNotFoundError: if there are so few that a split would have none.
        """
        names = sorted(path for path in Path(self.raw_dir).glob("*.tfrecord*") if path.is_file())
        used = names[: math.floor(len(names) * self.portion + 1e-9)]
        sixth = len(used) // 6
        if not sixth:
            expected = math.ceil(6 / self.portion - 1e-9)
            raise FileNotFoundError(f"{self.raw_dir} must hold at least {expected} tfrecord files, got {len(names)}")
        test = len(used) - sixth
        parts = {"train": used[: test - sixth], "valid": used[test - sixth : test], "test": used[test:]}
        return parts[self.split]

    def _settings(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "portion": self.portion,
            "min_rise": self.min_rise,
            "max_move": self.max_move,
            "dtype": str(self.dtype),
        }

    def _label(self) -> str:
        return f"motion-{self.split}"

    def _make(self) -> dict[str, Tensor]:
        points, kinds, ids, files = [], [], [], []
        for number, path in enumerate(self.files()):
            for scenario in read_scenarios(path):
                rows = chosen_objects(scenario, self.min_rise, self.max_move)
                points.append(scenario.pos[rows, :FRAMES:EVERY])
                kinds.append(scenario.kind[rows])
                ids.append(scenario.ids[rows])
                files.append(np.full(len(rows), number))
        found = sum(len(rows) for rows in ids)
        require(found > 0, "min_rise and max_move", "such that an object passes", (self.min_rise, self.max_move))
        pos = torch.from_numpy(np.concatenate([p for p in points if len(p)]))[:, None]  # [S, 1, 12, 3]
        origin = pos[:, :, :PAST].mean(2)
        history, target = (pos - origin[:, :, None]).split([PAST, pos.shape[2] - PAST], 2)
        motion = {
            "pos": history[:, :, -1],
            "vel": (history[:, :, -1] - history[:, :, -2]) / self.time_step,
            "history": history,
            "y": target,
            "origin": origin,
        }
        known = {"kind": kinds, "ids": ids, "file": files}
        return {name: value.to(self.dtype).contiguous() for name, value in motion.items()} | {
            name: torch.from_numpy(np.concatenate(value))[:, None] for name, value in known.items()
        }


def chosen_objects(scenario: Scenario, min_rise: float = 0.05, max_move: float = 5.0) -> np.ndarray:
    """Rows of the objects of a scenario that the task is about, see :class:`WaymoMotion`."""
    if scenario.valid.shape[1] < FRAMES:
        return np.empty(0, dtype=np.int64)
    last = EVERY * (PAST - 1)
    x, y, z = np.abs(scenario.pos[:, last] - scenario.pos[:, 0]).T
    return np.flatnonzero(scenario.valid[:, :FRAMES].all(1) & (z > min_rise) & (x < max_move) & (y < max_move))
