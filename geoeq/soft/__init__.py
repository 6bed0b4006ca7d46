"""Mixed-symmetry regularizers that attach per layer and find their own level."""

from geoeq.soft.equivariance import Attachment, SoftEquivariance
from geoeq.soft.levels import LevelRow, Levels
from geoeq.soft.tuners import Evidence, Fixed, OneShot, Tuner

__all__ = ["Attachment", "Evidence", "Fixed", "LevelRow", "Levels", "OneShot", "SoftEquivariance", "Tuner"]
