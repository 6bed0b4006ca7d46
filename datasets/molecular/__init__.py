"""Molecular dynamics: npz files such as MD17 and rMD17, and any trajectory that MDAnalysis opens."""

from geoeq.datasets.molecular.dataset import MolecularDynamics
from geoeq.datasets.molecular.npz import MolecularFrames, read_npz
from geoeq.datasets.molecular.protocols import PROTOCOLS, MolecularProtocol
from geoeq.datasets.molecular.universe import read_trajectory

__all__ = ["PROTOCOLS", "MolecularDynamics", "MolecularFrames", "MolecularProtocol", "read_npz", "read_trajectory"]
