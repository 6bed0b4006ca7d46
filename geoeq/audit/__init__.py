"""Measures of how equivariant a trained model is, and how symmetric data are before there is a model."""

from geoeq.audit.gap import SymmetryGap, symmetry_gap
from geoeq.audit.lie import lie_error
from geoeq.audit.orbit import orbit_error, transform

__all__ = ["SymmetryGap", "lie_error", "orbit_error", "symmetry_gap", "transform"]
