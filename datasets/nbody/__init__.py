"""N-body systems: a fast batched simulator with symmetry knobs, and the data set built on it."""

from geoeq.datasets.nbody.dataset import NBody
from geoeq.datasets.nbody.integrator import Trajectories, integrate
from geoeq.datasets.nbody.neighbours import LargeNBody
from geoeq.datasets.nbody.protocol import SYSTEMS, Protocol
from geoeq.datasets.nbody.simulator import initial_conditions, simulate
from geoeq.datasets.nbody.symmetry import Residual

__all__ = [
    "SYSTEMS",
    "LargeNBody",
    "NBody",
    "Protocol",
    "Residual",
    "Trajectories",
    "initial_conditions",
    "integrate",
    "simulate",
]
