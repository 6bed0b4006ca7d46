"""Mixed-symmetry regularizers that attach per layer and find their own level."""

from geoeq.soft.attachment import Attachment
from geoeq.soft.attention import product_penalty
from geoeq.soft.convert import soften
from geoeq.soft.equivariance import SoftEquivariance
from geoeq.soft.functional import recorded_calls
from geoeq.soft.functional_equivariance import DualAscent, FunctionalEquivariance
from geoeq.soft.levels import LevelRow, Levels, levels_of
from geoeq.soft.lie import LiePenalty
from geoeq.soft.orbit import OrbitPenalty
from geoeq.soft.parts import membership_entropy, part_concentration
from geoeq.soft.tuners import Evidence, Fixed, OneShot, Resilient, Schedule, Tuner, ValidationGradient

__all__ = [
    "Attachment",
    "DualAscent",
    "Evidence",
    "Fixed",
    "FunctionalEquivariance",
    "LevelRow",
    "Levels",
    "LiePenalty",
    "OneShot",
    "OrbitPenalty",
    "Resilient",
    "Schedule",
    "SoftEquivariance",
    "Tuner",
    "ValidationGradient",
    "levels_of",
    "membership_entropy",
    "part_concentration",
    "product_penalty",
    "recorded_calls",
    "soften",
]
