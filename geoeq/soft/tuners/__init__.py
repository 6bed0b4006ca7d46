"""What sets the strengths: one tuner, one class, one file.

A tuner sees the attached weights through their :class:`~geoeq.soft.bank.WeightBank` and returns a strength for each
weight and each symmetry. Its own running numbers are buffers, so they are saved with the model.
"""

from geoeq.soft.tuners.base import Tuner
from geoeq.soft.tuners.evidence import Evidence
from geoeq.soft.tuners.fixed import Fixed
from geoeq.soft.tuners.one_shot import OneShot
from geoeq.soft.tuners.resilient import Resilient
from geoeq.soft.tuners.schedule import Schedule
from geoeq.soft.tuners.validation_gradient import ValidationGradient

__all__ = ["Evidence", "Fixed", "OneShot", "Resilient", "Schedule", "Tuner", "ValidationGradient"]
