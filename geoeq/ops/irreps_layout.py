"""Where the entries of irreps stand in a tensor, and how they are taken out channels last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LAYOUTS", "Layout"]

LAYOUTS = ("mul_ir", "channels_last")


class Layout(NamedTuple):
    """Order of the numbers of one feature ``[N, dim]``."""

    muls: tuple[int, ...]
    dims: tuple[int, ...]  # 2l + 1 of each entry
    channels_last: bool  # blocks [2l + 1, mul] rather than [mul, 2l + 1]

    @property
    def starts(self) -> list[int]:
        """First column of each entry, then the number of columns."""
        return list(accumulate((mul * dim for mul, dim in zip(self.muls, self.dims)), initial=0))

    def gather(self, feature: Tensor, entries: Sequence[int]) -> Tensor:
        """Entries of one multiplicity C, one after the other: ``[N, K, C]``; a view wherever the layout allows it."""
        n_rows, mul, starts = feature.shape[0], self.muls[entries[0]], self.starts
        if (self.channels_last or mul == 1) and list(entries) == list(range(entries[0], entries[-1] + 1)):
            n_components = sum(self.dims[i] for i in entries)
            return feature[:, starts[entries[0]] : starts[entries[-1] + 1]].view(n_rows, n_components, mul)
        blocks = []
        for i in entries:
            block = feature[:, starts[i] : starts[i + 1]]
            if self.channels_last:
                blocks.append(block.view(n_rows, self.dims[i], mul))
            else:
                blocks.append(block.view(n_rows, mul, self.dims[i]).transpose(1, 2))
        return torch.cat(blocks, 1)

    def join(self, blocks: Sequence[Tensor], n_rows: int, like: Tensor) -> Tensor:
        """One feature ``[n_rows, dim]`` from the blocks ``[n_rows, 2l + 1, mul]`` of all entries."""
        if not blocks:
            return like.new_zeros(n_rows, 0)
        return torch.cat([(b if self.channels_last else b.transpose(1, 2)).flatten(1) for b in blocks], 1)
