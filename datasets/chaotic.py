"""Chaotic systems from the package dysts, which is optional: a point in phase space and where it goes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from geoeq.datasets.cache import load_tensors, save_tensors
from geoeq.datasets.checks import require, require_choice, require_count, require_counts
from geoeq.datasets.forecast_windows import ForecastWindows
from geoeq.datasets.stored import stored_name
from geoeq.datasets.trajectory import Trajectory
from geoeq.groups import C, Group

SPLITS = ("train", "valid", "test")
PERTURBATION = 0.01  # of the initial condition, relative
SETTLING = 20.0  # periods: neighbouring orbits then have nothing in common, and all are on the attractor
TOLERANCE = 1e-9
FAR = 1e9  # no attractor of dysts reaches so far

#: Symmetries of the equations: a turned orbit is an orbit.
SYMMETRIES: dict[str, Group] = {
    "Chen": C(2, "z"),
    "Halvorsen": C(3, (1.0, 1.0, 1.0)),
    "Lorenz": C(2, "z"),
    "Rucklidge": C(2, "z"),
    "Thomas": C(3, (1.0, 1.0, 1.0)),
}


class _LostError(ArithmeticError):
    """An orbit that leaves for infinity, or has no rate of change."""


class ChaoticSystems(ForecastWindows):
    r"""Forecasting of a chaotic system (equations collected in arXiv 2110.05266).

    A graph is one node in the d dimensions of phase space, without edges: ``pos`` [1, d], ``vel`` [1, d], ``history``
    [1, P, d], ``y`` [1, d] or [1, F, d], ``start`` [1], as :class:`~geoeq.datasets.ForecastWindows`. Trajectories begin
    near the initial condition that dysts gives, each at another point, and are recorded once they have settled on the
    attractor. The three splits are independent streams of one seed. Coordinates are those of the equations: neither
    scaled nor, where they are angles, folded back.

    The default sizes take several seconds to integrate. With a ``root`` the orbits are stored in one file under
    ``root/processed``, whose name carries a hash of everything that they depend on but the version of dysts; windows
    are cut from them at every use.

    Args:
        system: name of a system of ordinary differential equations in dysts, such as ``"Lorenz"`` or ``"Rossler"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        past, future, stride: of the windows, see :class:`~geoeq.datasets.ForecastWindows`.
        n_frames: length of a trajectory.
        points_per_period: frames in one dominant period of the system.
        sizes: numbers of train, valid and test trajectories.
        seed: seed of all three splits.
        dtype: ``"float32"`` or ``"float64"``; the integration is float64 always.
        transform: applied to each graph on access (not by :meth:`fetch`).
        pre_transform: applied to each graph once, here.
        root: folder in which orbits are stored; None stores nothing.
        force_reload: integrate again even if the file is there.

    Attributes:
        symmetry: group of the equations where it is known (:data:`SYMMETRIES`), else None.

    Raises:
        ImportError: without dysts; it names the extra that brings it.
        ValueError: one line for a wrong argument, if the integration fails, for a damaged file or a folder that cannot
            be written.

    Example:
        >>> data = ChaoticSystems("Lorenz", "train", past=10, future=20)  # doctest: +SKIP
        >>> data[0].history.shape, data[0].y.shape, data.symmetry  # doctest: +SKIP
        (torch.Size([1, 10, 3]), torch.Size([1, 20, 3]), C(2, z))
    """

    def __init__(
        self,
        system: str = "Lorenz",
        split: str = "train",
        *,
        past: int = 2,
        future: int | Sequence[int] = 1,
        stride: int = 1,
        n_frames: int = 500,
        points_per_period: int = 50,
        sizes: Sequence[int] = (20, 5, 5),
        seed: int = 0,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        root: str | Path | None = None,
        force_reload: bool = False,
    ) -> None:
        require_choice("split", split, SPLITS)
        require_counts("sizes", sizes, 3, minimum=1)
        require_count("seed", seed, 0)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        number = SPLITS.index(split)
        asked: dict[str, Any] = {
            "n_trajectories": sizes[number],
            "n_frames": n_frames,
            "points_per_period": points_per_period,
            "seed": (seed, number),
        }
        if root is None:
            recordings = chaotic_trajectories(system, **asked)
        else:
            recordings = _stored(Path(root).expanduser(), system, asked, force_reload)
        single = getattr(torch, dtype_name)
        recordings = [_as(recording, single) for recording in recordings]
        super().__init__(recordings, past, future, stride, transform=transform, pre_transform=pre_transform)
        self.system, self.split, self.symmetry = system, split, SYMMETRIES.get(system)


def chaotic_trajectories(
    system: str, n_trajectories: int, n_frames: int, points_per_period: int = 50, seed: int | Sequence[int] = 0
) -> list[Trajectory]:
    """Orbits of a system on its attractor, see :class:`ChaoticSystems`.

    Returns:
        Trajectories with ``pos`` [T, 1, d], float64; their time step is a period over ``points_per_period``, in the
        system's own unit of time. The first do not depend on how many are asked for.

    Raises:
        ImportError, ValueError: as :class:`ChaoticSystems`.
    """
    require_count("n_trajectories", n_trajectories, 1)
    require_count("n_frames", n_frames, 1)
    require_count("points_per_period", points_per_period, 1)
    model = _model(system)
    time_step = float(model.period) / points_per_period
    times = model.period * SETTLING + time_step * np.arange(n_frames)
    recordings = []
    for noise in np.random.default_rng(seed).standard_normal((n_trajectories, model.dimension)):
        pos = _orbit(model, np.ravel(model.ic) * (1 + PERTURBATION * noise), times)
        recordings.append(Trajectory(pos[:, None], time_step, name=system))
    return recordings


def _stored(root: Path, system: str, asked: dict[str, Any], force_reload: bool) -> list[Trajectory]:
    """The trajectories from their file, which is made if it is not there."""
    settled = {"perturbation": PERTURBATION, "settling": SETTLING, "tolerance": TOLERANCE}
    path = root / "processed" / stored_name("chaotic", asked | settled | {"system": str(system)})
    if force_reload or not path.exists():
        made = chaotic_trajectories(system, **asked)
        pos = torch.stack([recording.pos for recording in made])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, {"pos": pos, "time_step": torch.tensor(made[0].time_step, dtype=torch.float64)})
        except OSError as error:
            raise ValueError(f"root {root} cannot be written ({error.strerror or error})") from error
    stored = load_tensors(path)
    return [Trajectory(pos, stored["time_step"].item(), name=system) for pos in stored["pos"]]


def _model(system: str) -> Any:
    """The system's equations as dysts has them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that numba would be faster
            from dysts import flows
            from dysts.base import DynSys
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed; pip install 'geoeq[data]'") from error
    found = getattr(flows, system, None) if isinstance(system, str) else None
    known = isinstance(found, type) and issubclass(found, DynSys) and found is not DynSys
    require(known, "system", "the name of ordinary differential equations in dysts, such as 'Lorenz'", system)
    assert found is not None
    return found()


def _orbit(model: Any, start: np.ndarray, times: np.ndarray) -> Tensor:
    """Positions [T, d] at the times, of the orbit that is at ``start`` at time 0."""

    def rhs(time: float, place: np.ndarray) -> np.ndarray:
        rate = np.asarray(model.rhs(place, time), dtype=np.float64)
        if (
            not np.abs(place).max() < FAR or not np.isfinite(rate).all()
        ):  # the solver would go on with ever smaller steps
            raise _LostError(f"at {place.tolist()} at time {time:g}")
        return rate

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what the solver warns of ends in a message below
        end = (0.0, float(times[-1]))
        try:
            solution = solve_ivp(rhs, end, start, method="LSODA", t_eval=times, rtol=TOLERANCE, atol=TOLERANCE)
            failure = "" if solution.success else solution.message
        except _LostError as error:
            failure = str(error)
    if failure:
        raise ValueError(f"system {model.name} cannot be integrated from {start.tolist()} ({failure})")
    return torch.from_numpy(np.ascontiguousarray(solution.y.T))


def _as(recording: Trajectory, dtype: torch.dtype) -> Trajectory:
    return Trajectory(recording.pos.to(dtype), recording.time_step, name=recording.name)
