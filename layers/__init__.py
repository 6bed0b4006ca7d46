"""Message-passing layers and the models made of them; imported as ``geoeq.layers``."""

if __name__ == "layers":
    raise ImportError("this folder is the package geoeq.layers: import geoeq.layers, not layers")

from geoeq.layers.egnn import EGNN, EGNNConv
from geoeq.layers.typed_linear import TypedLinear
from geoeq.layers.typed_mpnn import TypedConv, TypedMPNN

__all__ = ["EGNN", "EGNNConv", "TypedConv", "TypedLinear", "TypedMPNN"]
