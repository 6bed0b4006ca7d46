"""What a tensor product does, worked out once: groups of paths, where their operands stand, and sums over edges."""

from __future__ import annotations

from ast import literal_eval
from functools import cache, reduce
from operator import add
from typing import NamedTuple

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from geoeq.ops.clebsch_gordan import Path
from geoeq.ops.irreps_layout import Layout
from geoeq.ops.neighbours import Neighbours
from geoeq.ops.path_groups import PathGroup, path_groups
from geoeq.ops.product_scatter import product_scatter
from geoeq.ops.scatter import scatter_sum

__all__ = ["PreparedProduct", "prepare"]


class PreparedProduct(NamedTuple):
    """Paths of a product in groups that are computed together, and the layout of the result."""

    groups: list[PathGroup]
    out: Layout

    @property
    def channelwise(self) -> bool:
        """Whether nothing follows the channelwise products."""
        return all(group.channelwise for group in self.groups)

    def __call__(self, x: Tensor, y: Tensor, weight: Tensor | None, *, unroll: bool) -> Tensor:
        """The product of each row [N, dim]."""
        return self._join([group(x, y, weight, unroll=unroll) for group in self.groups], x, x.shape[0])

    def on_kernels(self, x: Tensor, y: Tensor, weight: Tensor | None, graph: Neighbours) -> Tensor:
        """Sum at receivers of the products of x at the senders, by Triton; for a product that is ``channelwise``."""
        sums = [product_scatter(g.product.plan, g.first(x), *g.second(y, weight), graph) for g in self.groups]
        return self._join(sums, x, graph.num_nodes)

    def in_pieces(
        self,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        edges: tuple[Tensor, Tensor],
        num_nodes: int,
        *,
        step: int,
        unroll: bool,
    ) -> Tensor:
        """The same sum over ``step`` edges at a time, which the backward pass goes through again.

        Features change their layout at nodes, before and after, not at edges.
        """
        n_edges = edges[0].shape[0]
        sums = []
        for group in self.groups:
            first = group.first(x)
            if n_edges <= step:
                sums.append(_piece(group, first, y, weight, edges, num_nodes, unroll))
                continue
            pieces = []
            for start in range(0, n_edges, step):
                piece = slice(start, start + step)
                rows = weight if weight is None or weight.dim() == 1 else weight[piece]
                ends = (edges[0][piece], edges[1][piece])
                arguments = (group, first, y[piece], rows, ends, num_nodes, unroll)
                pieces.append(checkpoint(_piece, *arguments, use_reentrant=False))
            sums.append(reduce(add, pieces))
        return self._join(sums, x, num_nodes)

    def _join(self, results: list[Tensor], like: Tensor, n_rows: int) -> Tensor:
        """One feature [n_rows, dim] from the results [n_rows, K, C] of the groups."""
        n_entries = len(self.out.muls)
        if len(self.groups) == 1 and self.out.channels_last and len(self.groups[0].out_entries) == n_entries:
            return results[0].flatten(1)
        blocks: list[Tensor | None] = [None] * n_entries
        for group, result in zip(self.groups, results):
            sizes = [self.out.dims[i] for i in group.out_entries]
            for i, block in zip(group.out_entries, result.split(sizes, 1)):
                so_far = blocks[i]
                blocks[i] = block if so_far is None else so_far + block
        shapes = [(n_rows, dim, mul) for dim, mul in zip(self.out.dims, self.out.muls)]
        filled = [like.new_zeros(shape) if b is None else b for b, shape in zip(blocks, shapes)]
        return self.out.join(filled, n_rows, like)


def _piece(
    group: PathGroup,
    first: Tensor,
    y: Tensor,
    weight: Tensor | None,
    edges: tuple[Tensor, Tensor],
    num_nodes: int,
    unroll: bool,
) -> Tensor:
    """Sum at receivers [num_nodes, K, C] of the messages of some edges."""
    messages = group.messages(first.index_select(0, edges[0]), y, weight, unroll=unroll)
    return scatter_sum(messages, edges[1], num_nodes)


@cache
def prepare(recipe: str) -> PreparedProduct:
    """From text, so that it can be found again by whoever unpickles a module or a compiled graph."""
    entries, paths, layout = literal_eval(recipe)
    layouts = [
        Layout(
            tuple(mul for mul, _ in irreps), tuple(2 * degree + 1 for _, degree in irreps), layout == "channels_last"
        )
        for irreps in entries
    ]
    groups = path_groups([Path(*path) for path in paths], (layouts[0], layouts[1], layouts[2]))
    return PreparedProduct(groups, layouts[2])
