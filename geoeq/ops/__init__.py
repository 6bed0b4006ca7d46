"""Functions on tensors: no weights, no state. Layers are built from them."""

from geoeq.ops.scatter import scatter_max, scatter_mean, scatter_softmax, scatter_sum

__all__ = ["scatter_sum", "scatter_mean", "scatter_max", "scatter_softmax"]
