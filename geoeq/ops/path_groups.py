"""Paths of a tensor product that are computed together: as one channelwise product, and what mixes its channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor

from geoeq.ops.channelwise_product import ChannelwiseProduct
from geoeq.ops.clebsch_gordan import Path
from geoeq.ops.irreps_layout import Layout
from geoeq.ops.tensor_product_code import Coupling, Plan

__all__ = ["PathGroup", "path_groups"]

Numbered = tuple[int, Path]  # first weight of the path, path


class PathGroup:
    """Paths with the same multiplicities; the base class takes care of those that mix no channels.

    These are all paths of mode uuu, and those of mode uvu where y has one channel.
    """

    channelwise = True  # nothing follows the channelwise product

    def __init__(self, paths: Sequence[Numbered], layouts: tuple[Layout, Layout, Layout]) -> None:
        self.paths, self.layouts = list(paths), layouts
        self.x_entries = sorted({path.i1 for _, path in paths})
        self.y_entries = sorted({path.i2 for _, path in paths})
        self.out_entries = sorted({path.i_out for _, path in paths})
        self.product = ChannelwiseProduct(self.plan())

    def plan(self) -> Plan:
        """The channelwise product inside."""
        weighted = [path.has_weight for _, path in self.paths]
        rows = accumulate(weighted, initial=0)
        return self._plan(
            [self.y_entries.index(path.i2) for _, path in self.paths],
            [self.out_entries.index(path.i_out) for _, path in self.paths],
            [row if has else -1 for row, has in zip(rows, weighted)],
        )

    def _plan(self, y: Sequence[int], out: Sequence[int], weights: Sequence[int]) -> Plan:
        """Couplings of all paths to the given blocks of y and of the output."""
        x_layout, y_layout, out_layout = self.layouts
        x = [self.x_entries.index(path.i1) for _, path in self.paths]
        y_degrees = {block: y_layout.dims[path.i2] // 2 for block, (_, path) in zip(y, self.paths)}
        out_degrees = {block: out_layout.dims[path.i_out] // 2 for block, (_, path) in zip(out, self.paths)}
        return Plan(
            tuple(x_layout.dims[i] // 2 for i in self.x_entries),
            tuple(y_degrees[i] for i in range(len(y_degrees))),
            tuple(out_degrees[i] for i in range(len(out_degrees))),
            tuple(Coupling(*row) for row in zip(x, y, out, weights, [path.factor for _, path in self.paths])),
        )

    def first(self, x: Tensor) -> Tensor:
        """Channels last, the entries of x that these paths take: [N, K1, C]."""
        return self.layouts[0].gather(x, self.x_entries)

    def second(self, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What else the channelwise product takes: y and its weights."""
        return self.layouts[1].gather(y, self.y_entries), self.weights(weight)

    def messages(self, first: Tensor, y: Tensor, weight: Tensor | None, *, unroll: bool) -> Tensor:
        """The sum of the paths into each of ``out_entries``, one after the other: [N, K, C]."""
        return self.product(first, *self.second(y, weight), unroll=unroll)

    def __call__(self, x: Tensor, y: Tensor, weight: Tensor | None, *, unroll: bool) -> Tensor:
        return self.messages(self.first(x), y, weight, unroll=unroll)

    def weights(self, weight: Tensor | None) -> Tensor | None:
        """The weights of these paths: [P, C] or [N, P, C]."""
        first = [start for start, path in self.paths if path.has_weight]
        if weight is None or not first:
            return None
        mul = self.layouts[0].muls[self.x_entries[0]]
        if first == list(range(first[0], first[0] + len(first) * mul, mul)):
            return weight[..., first[0] : first[-1] + mul].unflatten(-1, (len(first), mul))
        return torch.stack([weight[..., start : start + mul] for start in first], -2)


class MixedSecond(PathGroup):
    """Mode uvu with several channels v: each path mixes those of y to the channels u, then nothing is mixed."""

    def plan(self) -> Plan:
        n = len(self.paths)
        return self._plan(range(n), [self.out_entries.index(path.i_out) for _, path in self.paths], [-1] * n)

    def second(self, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        n_mixed = self.layouts[0].muls[self.x_entries[0]]
        mixed = []
        for start, path in self.paths:
            y_j = self.layouts[1].gather(y, [path.i2])  # [N, 2l + 1, v]
            if path.has_weight and weight is not None:
                matrix = weight[..., start : start + path.numel].unflatten(-1, path.shape)  # [..., u, v]
                mixed.append(y_j @ matrix.transpose(-1, -2))
            else:
                mixed.append(y_j.sum(-1, keepdim=True).expand(-1, -1, n_mixed))
        return torch.cat(mixed, 1), None


class FullyConnected(PathGroup):
    """Mode uvw: all pairs of channels of each path, then one matrix product for each entry of the output."""

    channelwise = False

    def plan(self) -> Plan:
        self.paths.sort(key=lambda numbered: numbered[1].i_out)
        n = len(self.paths)
        return self._plan([self.y_entries.index(path.i2) for _, path in self.paths], range(n), [-1] * n)

    def messages(self, first: Tensor, y: Tensor, weight: Tensor | None, *, unroll: bool) -> Tensor:
        assert weight is not None  # the module has checked it
        x, y = first, self.layouts[1].gather(y, self.y_entries)
        if (v := y.shape[-1]) > 1:
            u = x.shape[-1]
            x = x.unsqueeze(-1).expand(-1, -1, -1, v).flatten(2)
            y = y.unsqueeze(-2).expand(-1, -1, u, -1).flatten(2)
        pairs = self.product(x, y, None, unroll=unroll)  # [N, sum over paths of 2l + 1, u v]
        blocks, begin = [], 0
        for _, group in groupby(self.paths, key=lambda numbered: numbered[1].i_out):
            paths = list(group)
            dim = self.layouts[2].dims[paths[0][1].i_out]
            parts = pairs[:, begin : begin + dim * len(paths)].split(dim, 1)
            matrices = [weight[..., s : s + p.numel].unflatten(-1, (-1, p.shape[-1])) for s, p in paths]
            blocks.append(torch.cat(parts, 2) @ torch.cat(matrices, -2))
            begin += dim * len(paths)
        return torch.cat(blocks, 1)


def path_groups(paths: Sequence[Path], layouts: tuple[Layout, Layout, Layout]) -> list[PathGroup]:
    """All paths, in as few groups as modes and multiplicities allow."""
    starts = accumulate((path.numel for path in paths), initial=0)
    groups: dict[tuple, list[Numbered]] = {}
    for start, path in zip(starts, paths):
        mul_y, mul_out = layouts[1].muls[path.i2], layouts[2].muls[path.i_out]
        if 0 in (path.shape[0], mul_y, mul_out):
            continue
        kind: type[PathGroup] = PathGroup
        if path.mode == "uvw":
            kind = FullyConnected
        elif path.mode == "uvu" and mul_y > 1:
            kind = MixedSecond
        # Mode uvw lays its blocks side by side, so those of one output must have one width.
        key = (kind, path.shape[0], mul_y if kind is not MixedSecond else 0, mul_out)
        groups.setdefault(key, []).append((start, path))
    return [key[0](numbered, layouts) for key, numbered in groups.items()]
