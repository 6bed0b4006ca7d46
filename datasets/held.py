"""What all data sets of graphs have in common: their tensors are held in two parts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torch_geometric.data import InMemoryDataset

Parts = tuple[dict[str, Tensor], dict[str, Tensor]]


class HeldGraphs(InMemoryDataset, ABC):
    """Base of data sets that hold the tensors of all their graphs, in two parts whose meaning a subclass tells."""

    @abstractmethod
    def _take(self, first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        """Hold the two parts."""

    @abstractmethod
    def _transformed(self, first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
        """What ``pre_transform`` makes of each graph of these two parts, in one dictionary that can be stored."""

    @abstractmethod
    def _restored(self, stored: dict[str, Tensor]) -> Parts:
        """The two parts of what :meth:`_transformed` gave."""
