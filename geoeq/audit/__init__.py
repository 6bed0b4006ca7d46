"""Measures of how equivariant a trained model is."""

from geoeq.audit.orbit import orbit_error, transform

__all__ = ["orbit_error", "transform"]
