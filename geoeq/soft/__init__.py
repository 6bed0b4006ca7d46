"""Mixed-symmetry regularizers that attach per layer and find their own level."""

from geoeq.soft.convert import soften
from geoeq.soft.equivariance import Attachment, SoftEquivariance
from geoeq.soft.levels import LevelRow, Levels, levels_of
from geoeq.soft.tuners import Evidence, Fixed, OneShot, Resilient, Schedule, Tuner, ValidationGradient

__all__ = [
    "Attachment",
    "Evidence",
    "Fixed",
    "LevelRow",
    "Levels",
    "OneShot",
    "Resilient",
    "Schedule",
    "SoftEquivariance",
    "Tuner",
    "ValidationGradient",
    "levels_of",
    "soften",
]
