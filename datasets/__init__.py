"""Data sets and simulators; imported as ``geoeq.datasets``.

From the root of a checkout this folder is also found as plain ``datasets``, the name of a well-known package.
Then it steps aside: the installed package of that name is loaded instead, else an ``ImportError`` is raised.
"""

if __name__ == "geoeq.datasets":
    from geoeq.datasets.chaotic import ChaoticSystems
    from geoeq.datasets.forecast_windows import ForecastWindows
    from geoeq.datasets.mocap import MotionCapture
    from geoeq.datasets.molecular import MolecularDynamics
    from geoeq.datasets.nbody import LargeNBody, NBody
    from geoeq.datasets.pedestrians import Pedestrians
    from geoeq.datasets.trajectory import Trajectory
    from geoeq.datasets.vectors import CosSim, ModifiedInertia, PairDistances
    from geoeq.datasets.waymo import WaymoMotion

    __all__ = [
        "ChaoticSystems",
        "CosSim",
        "ForecastWindows",
        "LargeNBody",
        "ModifiedInertia",
        "MolecularDynamics",
        "MotionCapture",
        "NBody",
        "PairDistances",
        "Pedestrians",
        "Trajectory",
        "WaymoMotion",
    ]
else:
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    _here = Path(__file__).resolve().parent.parent
    _spec = PathFinder.find_spec(__name__, [entry for entry in sys.path if Path(entry).resolve() != _here])
    if _spec is None or _spec.loader is None or not _spec.has_location:
        raise ImportError(f"this folder is the package geoeq.datasets: import geoeq.datasets instead of {__name__}")
    sys.modules[__name__] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
