"""Functions on tensors: no weights, no state. Layers are built from them."""

from geoeq.ops.backends import use_backend
from geoeq.ops.edge_mlp_scatter import EdgeMLPWeights, edge_mlp_scatter
from geoeq.ops.eigh3 import eigh3
from geoeq.ops.gather_mul_scatter import gather_mul_scatter
from geoeq.ops.gaunt_product import gaunt_product, gaunt_product_many
from geoeq.ops.kabsch import kabsch, kabsch_graphs, superposed_rmsd
from geoeq.ops.neighbour_graph import edge_vectors, knn_graph, radius_graph
from geoeq.ops.neighbours import Neighbours, neighbours
from geoeq.ops.polar3 import polar3
from geoeq.ops.product_route import product_route
from geoeq.ops.scatter import (
    scatter,
    scatter_max,
    scatter_mean,
    scatter_min,
    scatter_softmax,
    scatter_std,
    scatter_sum,
)
from geoeq.ops.segment import segment, segment_softmax
from geoeq.ops.tensor_product import TensorProduct, tensor_product_scatter

__all__ = [
    "eigh3",
    "polar3",
    "kabsch",
    "kabsch_graphs",
    "superposed_rmsd",
    "gaunt_product",
    "gaunt_product_many",
    "product_route",
    "TensorProduct",
    "tensor_product_scatter",
    "scatter",
    "scatter_sum",
    "scatter_mean",
    "scatter_max",
    "scatter_min",
    "scatter_std",
    "scatter_softmax",
    "segment",
    "segment_softmax",
    "Neighbours",
    "neighbours",
    "edge_vectors",
    "knn_graph",
    "radius_graph",
    "gather_mul_scatter",
    "EdgeMLPWeights",
    "edge_mlp_scatter",
    "use_backend",
]
