"""What the report is told of a run: its summary, its CSV files and a few test graphs."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
Column = tuple[str, str]  # of the table: (group or "", name)
TEST_MSE: Column = ("", "test_mse")
LEVEL_COLUMNS = ("epoch", "layer", "symmetry", "level")
GROUPS = {"equivariance_error": "equivariance error", "level": "level"}


def words(names: Sequence[str]) -> str:
    """Joins names as in a sentence.

    >>> words(["exact", "soft", "free"])
    'exact, soft and free'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def column_title(name: str) -> str:
    """Name of a column as it is printed.

    >>> [column_title(name) for name in ("test_mse", "f_mse", "joint_min_ade_20", "energy_drift")]
    ['test MSE', 'F-MSE', 'joint minADE 20', 'energy drift']
    """
    text = " ".join(word.upper() if word in ("mse", "ade", "fde") else word for word in name.split("_"))
    for plain, usual in (("min ADE", "minADE"), ("min FDE", "minFDE"), ("a MSE", "A-MSE"), ("f MSE", "F-MSE")):
        text = text.replace(plain, usual)
    return text


def _array(name: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    value = value.detach().cpu() if hasattr(value, "detach") else value
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != len(shape) or any(s is not None and s != a for s, a in zip(shape, array.shape, strict=True)):
        expected = ", ".join("*" if s is None else str(s) for s in shape)
        raise ValueError(f"{name} must be [{expected}], got {list(array.shape)}")
    return array


@dataclass
class TrajectorySample:
    """One test graph: where its bodies were, went and were predicted to go.

    Args:
        position: positions given to the network, [n, 3] (length), an array or tensor.
        velocity: velocities given to the network, [n, 3] (length per time).
        target: true positions to be predicted, [n, 3] (length).
        predicted: predicted positions, [n, 3] (length); NaN allowed.
        true_path: true positions from input to target, [T, n, 3] (length); None for a straight line.
        horizon: time from input to target; the arrow of velocity is drawn for this long.
        name: heading of the picture.
        up: "x", "y" or "z", the axis that points up.

    Samples of several runs with the same `position` and `target` are drawn in one picture.

    Raises:
        ValueError: a shape is wrong, or the truth is not finite.
    """

    position: Any
    velocity: Any
    target: Any
    predicted: Any
    true_path: Any = None
    horizon: float = 1.0
    name: str = ""
    up: str = "z"

    def __post_init__(self) -> None:
        if self.up not in ("x", "y", "z"):
            raise ValueError(f"up must be x, y or z, got {self.up!r}")
        self.position = _array("position", self.position, (None, 3))
        shape = self.position.shape
        for name in ("velocity", "target", "predicted"):
            setattr(self, name, _array(name, getattr(self, name), shape))
        if self.true_path is not None:
            self.true_path = _array("true_path", self.true_path, (None, *shape))
        if not self.position.size:
            raise ValueError("position must hold at least one body, got [0, 3]")
        truth = {"position": self.position, "velocity": self.velocity, "true_path and target": self.path()}
        for name, array in truth.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")

    def path(self) -> np.ndarray:
        """True path [T, n, 3], ending at the target."""
        before = self.position[None] if self.true_path is None else self.true_path
        return np.concatenate([before, self.target[None]])


@dataclass
class RunRecord:
    """What the report shows of one run.

    Args:
        name: name of the run, such as "exact", "soft" or "free".
        summary: row of the table. Known keys: `test_mse` (length squared), `equivariance_error` and `level`
            (each a dict from symmetry type to number), `seconds`, `parameters`; any other number becomes a
            further column. Without `level`, it is taken from the last epoch of `levels` by `last_levels`.
        metrics: path of the `metrics.csv` of Lightning's CSVLogger, or its rows; losses are found as
            `train_loss`, `val_loss` or the same with `_epoch`.
        levels: path of `levels.csv` (epoch, layer, symmetry, level, strength), or its rows.
        trajectories: a few test graphs.
    """

    name: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None
    levels: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None
    trajectories: Sequence[TrajectorySample] = ()

    def metric_rows(self) -> Rows:
        """Rows of the metrics, none if there are none; raises as `read_metrics`."""
        return _rows(self.metrics, read_metrics)

    def level_rows(self) -> Rows:
        """Rows of the levels, none if there are none; raises as `read_levels`."""
        return _checked_levels(_rows(self.levels, read_levels), f"levels of run {self.name!r}")

    def cells(self) -> dict[Column, float]:
        """The summary as cells of the table; raises ValueError if one is not a number."""
        summary = dict(self.summary)
        if "level" not in summary and (rows := self.level_rows()):
            summary["level"] = last_levels(rows)
        cells = {}
        for key, value in summary.items():
            entries = {(key, str(k)): v for k, v in value.items()} if key in GROUPS else {("", key): value}
            for (group, column), number in entries.items():
                number = number.item() if hasattr(number, "item") else number
                if not isinstance(number, Real):
                    raise ValueError(f"summary of run {self.name!r}: {column} must be a number, got {number!r}")
                cells[group, column] = float(number)
        return cells


def _rows(source: Any, reader: Callable[[str | os.PathLike[str]], Rows]) -> Rows:
    if source is None:
        return []
    return reader(source) if isinstance(source, str | os.PathLike) else [dict(row) for row in source]


def _read_csv(path: str | os.PathLike[str], text_columns: Sequence[str]) -> Rows:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    rows: Rows = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row:
                raise ValueError(f"{path}, line {reader.line_num}: more cells than columns")
            filled = {key: cell for key, cell in row.items() if cell not in (None, "")}
            try:
                rows.append({k: cell if k in text_columns else float(cell) for k, cell in filled.items()})
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    return rows


def read_metrics(path: str | os.PathLike[str]) -> Rows:
    """Rows of a `metrics.csv` as Lightning's CSVLogger writes it, as floats; empty cells are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a cell is not a number, or a row has too many cells.
    """
    return _read_csv(path, text_columns=())


def read_levels(path: str | os.PathLike[str]) -> Rows:
    """Rows of a `levels.csv`: epoch, layer, symmetry, level (0 exact, 1 as a random weight) and strength.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a number is not a number, or a cell of a column other than strength is missing.
    """
    return _checked_levels(_read_csv(path, text_columns=("layer", "symmetry")), str(path))


def _checked_levels(rows: Rows, where: str) -> Rows:
    for row in rows:
        if missing := [column for column in LEVEL_COLUMNS if column not in row]:
            raise ValueError(f"{where}: each row needs {words(LEVEL_COLUMNS)}; one lacks {words(missing)}")
    return rows


def last_levels(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Highest level of each symmetry type over all rows of the last epoch: that of the layer that breaks it most.

    >>> last_levels([{"epoch": 3, "layer": "a", "symmetry": "rotation", "level": 0.25, "strength": 1.0}])
    {'rotation': 0.25}
    """
    last = max(int(row["epoch"]) for row in rows)
    final = [row for row in rows if int(row["epoch"]) == last]
    types = dict.fromkeys(str(row["symmetry"]) for row in final)
    return {t: float(np.max([float(row["level"]) for row in final if row["symmetry"] == t])) for t in types}
