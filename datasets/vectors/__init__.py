"""Small regression tasks on a few vectors, whose symmetries are known: the synthetic tasks of arXiv 2306.00356."""

from geoeq.datasets.vectors.cossim import CosSim, lift, lifted_rep
from geoeq.datasets.vectors.inertia import ModifiedInertia
from geoeq.datasets.vectors.rigid_motion import PairDistances
from geoeq.datasets.vectors.task import Split, VectorTask

__all__ = ["CosSim", "ModifiedInertia", "PairDistances", "Split", "VectorTask", "lift", "lifted_rep"]
