"""Message-passing layers and the models made of them; imported as ``geoeq.layers``."""

# One file must never become two modules: isinstance would be false between the copies.
if __name__ != "geoeq.layers":
    raise ImportError(f"this folder is the package geoeq.layers: import geoeq.layers instead of {__name__}")

from geoeq.layers.egnn import EGNN, EGNNConv
from geoeq.layers.typed_linear import TypedLinear
from geoeq.layers.typed_mpnn import TypedConv, TypedMPNN
from geoeq.layers.vector_mlp import ResidualPathway, TypedMLP, VectorMLP

__all__ = [
    "EGNN",
    "EGNNConv",
    "ResidualPathway",
    "TypedConv",
    "TypedLinear",
    "TypedMLP",
    "TypedMPNN",
    "VectorMLP",
]
